package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// A container that dials the project's own address from inside reaches the
// service, which sees the project's address, as on one server; also when it is
// the service itself that dials.
func hairpin(s *site) {
	p := s.project("hairpin", twoServices)
	p.up()
	addr := p.reachable(80)
	for _, service := range []string{"app", "web"} {
		from := p.enter(service)
		for _, network := range []string{"tcp", "udp"} {
			s.within(patience, time.Now(), network+" from "+service, leavesAs(addr, from, network, addr, 80))
		}
	}
}

// Everything that a container sends is seen by the LAN as coming from the
// project's address, and nothing as coming from another.
func egress(s *site) {
	p := s.project("egress", twoServices)
	p.up()
	addr := p.reachable(80)
	server := s.host("server")
	s.serve(server, "tcp:7000", "udp:7000")
	for _, service := range []string{"app", "web"} {
		inside := p.transitAddr(service)
		seen := s.capture(server, "eth0", "ip and not arp")
		from := p.enter(service)
		for _, network := range []string{"tcp", "udp"} {
			s.within(patience, time.Now(), network+" of "+service, leavesAs(addr, from, network, server.Addr, 7000))
		}
		s.must(from, "ping", "-n", "-c", "2", "-i", "0.2", server.Addr.String())
		text := seen(`ICMP echo reply, id \d+, seq 2,`)
		if strings.Contains(text, inside.String()) || !strings.Contains(text, addr.String()+" > "+server.Addr.String()+": ICMP echo request") {
			s.Errorf("%s (%s) shows itself, or not as %s, on the LAN:\n%s", service, inside, addr, text)
		}
	}
	s.must(p.enter("app"), "ping", "-n", "-c", "1", s.lan.Remote.Addr.String())
}

// capture runs tcpdump until it has shown the packet that is sent last, by a
// pattern: all before that is shown then, too.
func (s *site) capture(h *lab.Host, iface, filter string) (until func(last string) string) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	cmd := h.Command(ctx, "tcpdump", "-n", "-l", "--immediate-mode", "-i", iface, filter)
	var out, progress lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.within(patience, time.Now(), "tcpdump listens", func(context.Context) error {
		if !strings.Contains(progress.String(), "listening on") {
			return fmt.Errorf("it says %q", progress.String())
		}
		return nil
	})
	return func(last string) string {
		s.Helper()
		s.within(patience, time.Now(), "tcpdump has shown all", func(context.Context) error {
			if text := out.String(); !regexp.MustCompile(last).MatchString(text) {
				return fmt.Errorf("it shows no %s:\n%s", last, text)
			}
			return nil
		})
		cancel()
		cmd.Wait()
		return out.String()
	}
}

// A LAN host that knows the transit network and sends packets for it to the
// project's address reaches nothing. Closed ports answer like those of a server,
// and the metrics are for the inside only.
func notFromTheLAN(s *site) {
	p := s.project("closed", twoServices+`
  anchord:
    environment: {ANCHORD_METRICS_ADDR: ":9090"}
`)
	p.up()
	addr := p.reachable(80)
	inside := p.transitAddr("web")
	anchord := p.enter("anchord")
	s.within(patience, time.Now(), "the metrics answer inside", func(ctx context.Context) error {
		_, err := fetch(ctx, anchord, "http://127.0.0.1:9090/metrics")
		return err
	})
	for _, host := range []*lab.Host{s.lan.Client, s.lan.Remote} {
		for _, closed := range []uint16{9090, 22, 81} {
			refused(s, host, "tcp", addr, closed)
		}
		refused(s, host, "udp", addr, 81)
	}

	s.must(s.lan.Client, "ip", "route", "add", inside.String()+"/32", "via", addr.String())
	web := p.enter("web")
	seen := s.capture(web, "eth0", "host "+s.lan.Client.Addr.String())
	s.silent(s.lan.Client, "tcp", inside, 80)
	s.silent(s.lan.Client, "udp", inside, 80)
	if out, err := s.command(s.lan.Client, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", inside.String()); err == nil || !strings.Contains(out, " 0 received") {
		s.Errorf("a ping to %s by way of the project: %v, %s", inside, err, out)
	}
	marker := inside.String() + " > " + s.lan.Client.Addr.String() + ": ICMP echo request"
	s.must(web, "ping", "-n", "-c", "1", s.lan.Client.Addr.String())
	if text, _, _ := strings.Cut(seen(regexp.QuoteMeta(marker)), marker); strings.Contains(text, " > "+inside.String()) {
		s.Errorf("packets for %s arrived:\n%s", inside, text)
	}
	// It is not that nothing answers there.
	for _, network := range []string{"tcp", "udp"} {
		s.within(patience, time.Now(), network+" from anchord", answers(anchord, network, inside, 80))
	}
	s.must(anchord, "ping", "-n", "-c", "1", inside.String())
}

// nmap and traceroute see no difference between the project and one ordinary
// host with the same ports open.
func looksLikeOneHost(s *site) {
	p := s.project("disguised", `
services:
  web:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
  dns:
    image: peer:lab
    command: [serve, "udp:5353"]
    networks: [transit]
    labels: {anchord.expose: "udp/53:5353"}
`)
	// The router tells each host only once a second that a TTL ran out.
	if err := s.lan.Router.Sysctl("net.ipv4.icmp_ratelimit", "0"); err != nil {
		s.Fatal(err)
	}
	plain := s.host("plain")
	s.serve(plain, "tcp:80", "udp:53")
	p.up()
	addr := p.reachable(80)
	s.within(patience, time.Now(), "UDP answers", answers(s.lan.Client, "udp", addr, 53))
	for _, c := range []struct {
		args []string
		want string // what the ordinary host shows, so that the scan is not blind
	}{
		{[]string{"-sS", "-p", "22,80,81,9090"}, "tcp 80 open syn-ack 64"},
		{[]string{"-sA", "-p", "22,80,81"}, "tcp 80 unfiltered reset 64"},
		{[]string{"-sN", "-p", "22,80,81"}, "tcp 81 closed reset 64"},
		{[]string{"-sU", "-p", "53,68,81,5353"}, "udp 81 closed port-unreach 64"},
		// Any ICMP message is an answer for protocol 1, so it is asked alone.
		{[]string{"-sO", "-p", "1"}, "ip 1 open echo-reply 64"},
		{[]string{"-sO", "-p", "2,6,17,47,132"}, "ip 132 closed proto-unreach 64"},
	} {
		want := s.scan(s.lan.Client, plain.Addr, c.args...)
		if !strings.Contains(strings.Join(want, "\n"), c.want) {
			s.Fatalf("nmap %v: the ordinary host shows %q, without %q", c.args, want, c.want)
		}
		if got := s.scan(s.lan.Client, addr, c.args...); !slices.Equal(got, want) {
			s.Errorf("nmap %v:\nthe project       %q\nan ordinary host  %q", c.args, got, want)
		}
	}
	for _, args := range [][]string{{"-T", "-p", "80"}, {"-T", "-p", "81"}, {"-U", "-p", "53"}, {"-U", "-p", "40000"}, {"-I"}} {
		for _, c := range []struct {
			from *lab.Host
			want []string
		}{
			{s.lan.Client, []string{"1 TARGET"}},
			{s.lan.Remote, []string{"1 ROUTER", "2 TARGET"}},
		} {
			if got := s.hops(c.from, plain.Addr, args...); !slices.Equal(got, c.want) {
				s.Fatalf("traceroute %v from %s to an ordinary host: %q, want %q", args, c.from.Name, got, c.want)
			}
			if got := s.hops(c.from, addr, args...); !slices.Equal(got, c.want) {
				s.Errorf("traceroute %v from %s to the project: %q, want %q", args, c.from.Name, got, c.want)
			}
		}
	}
}

var nmapPort = regexp.MustCompile(`<port protocol="(\w+)" portid="(\d+)"><state state="([^"]*)" reason="([^"]*)" reason_ttl="(\d+)"`)

// scan is every port's state, the reason for it and that packet's TTL.
func (s *site) scan(from *lab.Host, target netip.Addr, args ...string) []string {
	s.Helper()
	out := s.must(from, append(append([]string{"nmap", "-n", "-Pn", "-oX", "-", "--reason"}, args...), target.String())...)
	var ports []string
	for _, m := range nmapPort.FindAllStringSubmatch(out, -1) {
		ports = append(ports, strings.Join(m[1:], " "))
	}
	slices.Sort(ports)
	return ports
}

var (
	traceTime = regexp.MustCompile(`\s+[\d.]+ ms`)
	hopLine   = regexp.MustCompile(`(?m)^\s*\d+ .*$`)
)

// hops is what traceroute shows, without the times.
func (s *site) hops(from *lab.Host, target netip.Addr, args ...string) []string {
	s.Helper()
	out := s.must(from, append(append([]string{"traceroute", "-n", "-q", "2", "-w", "5", "-m", "6"}, args...), target.String())...)
	lines := hopLine.FindAllString(traceTime.ReplaceAllString(out, ""), -1)
	// One address can begin like the other.
	names := map[string]string{target.String(): "TARGET", nextHop(s, from): "ROUTER"}
	for i := range lines {
		words := strings.Fields(lines[i])
		for j, word := range words {
			words[j] = cmp.Or(names[word], word)
		}
		lines[i] = strings.Join(words, " ")
	}
	return lines
}

func nextHop(s *site, h *lab.Host) string {
	s.Helper()
	fields := strings.Fields(s.must(h, "ip", "route", "show", "default"))
	if len(fields) < 3 {
		s.Fatalf("%s has no default route", h.Name)
	}
	return fields[2]
}
