package netns_test

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// twins is a project and an ordinary host with the same ports open.
func twins(t *testing.T, s setup) *running {
	t.Helper()
	r := start(t, s)
	web := r.backend("web", 10, "tcp/80,udp/53,tcp/82,udp/82") // nobody listens at 82
	for _, n := range []*ns{web.ns, r.plain} {
		n.serveTCP("twin", ":80")
		n.serveUDP("twin", ":53")
	}
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "twin "+clientIP))
	// What counts is what the hosts do, not how often a router may speak.
	r.router.sysctl("net.ipv4.icmp_ratelimit", "0")
	r.router.sysctl("net.ipv6.icmp.ratelimit", "0")
	return r
}

var nmapPort = regexp.MustCompile(`<port protocol="(\w+)" portid="(\d+)"><state state="([^"]*)" reason="([^"]*)" reason_ttl="(\d+)"`)

// scan is every port's state, the reason for it and that packet's TTL.
func scan(t *testing.T, from *ns, target string, args ...string) []string {
	t.Helper()
	out, err := from.try(append(append([]string{"nmap", "-n", "-Pn", "-oX", "-", "--reason"}, args...), target)...)
	if err != nil {
		t.Fatal(err)
	}
	var ports []string
	for _, m := range nmapPort.FindAllStringSubmatch(out, -1) {
		if m[1] == "ip" && m[2] == "1" {
			m[4] = "any" // whichever of a host's ICMP messages comes first
		}
		ports = append(ports, strings.Join(m[1:], " "))
	}
	slices.Sort(ports)
	if len(ports) == 0 {
		t.Fatalf("nmap found no port:\n%s", out)
	}
	return ports
}

func TestNmapCannotTellTheProjectFromAServer(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{})
	for _, c := range []struct {
		name string
		args []string
		want string // one line of the ordinary host: proves that the scan sees something
	}{
		{"SYN", []string{"-sS", "-p", "22,80,81,82,9090"}, "tcp 81 closed reset 64"},
		{"ACK", []string{"-sA", "-p", "22,80,81"}, "tcp 80 unfiltered reset 64"},
		{"FIN", []string{"-sF", "-p", "22,80,81"}, "tcp 81 closed reset 64"},
		{"NULL", []string{"-sN", "-p", "22,80,81"}, "tcp 81 closed reset 64"},
		{"Xmas", []string{"-sX", "-p", "22,80,81"}, "tcp 81 closed reset 64"},
		{"Window", []string{"-sW", "-p", "22,80,81"}, "tcp 81 closed reset 64"},
		{"UDP", []string{"-sU", "-p", "53,68,81,82,546,5353"}, "udp 81 closed port-unreach 64"},
		{"IP protocols", []string{"-sO", "-p", "1,2,6,17,41,47,50,132,200"}, "ip 200 closed proto-unreach 64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, from := range []*ns{r.client, r.outside} {
				want := scan(t, from, plainIP, c.args...)
				if from == r.client && !slices.Contains(want, c.want) {
					t.Fatalf("the ordinary host shows %q, without %q", want, c.want)
				}
				if got := scan(t, from, r.ext, c.args...); !slices.Equal(got, want) {
					t.Errorf("from %s:\nthe project       %q\nan ordinary host  %q", from.name, got, want)
				}
			}
		})
	}
}

var (
	traceTime = regexp.MustCompile(`\s+[\d.]+ ms`)
	hopLine   = regexp.MustCompile(`(?m)^\s*\d+ .*$`)
)

// hops is what traceroute shows without the times, the target called TARGET.
func hops(t *testing.T, from *ns, target string, args ...string) []string {
	t.Helper()
	out, err := from.try(append(append([]string{"traceroute", "-n", "-q", "2", "-w", "1", "-m", "8"}, args...), target)...)
	if err != nil {
		t.Fatal(err)
	}
	lines := hopLine.FindAllString(traceTime.ReplaceAllString(out, ""), -1)
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(strings.ReplaceAll(lines[i], target, "TARGET")), " ")
	}
	return lines
}

func TestTracerouteCountsTheProjectAsOneHost(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{})
	r.plain.sysctl("net.ipv4.icmp_ratelimit", "0")
	r.box.sysctl("net.ipv4.icmp_ratelimit", "0")
	for _, c := range []struct {
		name string
		args []string
	}{
		{"TCP to an open port", []string{"-T", "-p", "80"}},
		{"TCP to a closed port", []string{"-T", "-p", "81"}},
		{"UDP", []string{"-U", "-p", "40000"}},
		{"UDP to an open port", []string{"-U", "-p", "53"}},
		{"UDP, ascending ports", nil},
		{"ICMP", []string{"-I"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for from, want := range map[*ns][]string{
				r.client:  {"1 TARGET"},
				r.outside: {"1 203.0.113.1", "2 TARGET"},
			} {
				if got := hops(t, from, plainIP, c.args...); !slices.Equal(got, want) {
					t.Fatalf("%s to an ordinary host: %q, want %q", from.name, got, want)
				}
				if got := hops(t, from, r.ext, c.args...); !slices.Equal(got, want) {
					t.Errorf("%s to the project: %q, want %q", from.name, got, want)
				}
			}
		})
	}
}

func TestAnApplicationsOwnTracerouteSeesTheRouterFirst(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{})
	app := r.backend("app", 11, "")
	want := []string{"1 " + routerIP, "2 TARGET"}
	for name, args := range map[string][]string{"UDP": nil, "ICMP": {"-I"}, "TCP": {"-T", "-p", "80"}} {
		t.Run(name, func(t *testing.T) {
			if got := hops(t, app.ns, outsideIP, args...); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

func TestPacketsLeaveWithTheTTLThatTheApplicationChose(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	app := r.backend("app", 10, "")
	for _, ttl := range []int{1, 2, 3, 5, 30, 64, 128, 255} {
		t.Run(fmt.Sprint(ttl), func(t *testing.T) {
			port := 20000 + ttl
			seen := r.plain.capture("eth0", fmt.Sprintf("udp dst port %d", port))
			app.sendTTL(t, ttl, fmt.Sprintf("%s:%d", plainIP, port))
			eventually(t, deadline, seen.sees(`> `+plainIP))
			if got := seen.all(`ttl (\d+)`); !slices.Equal(got, []string{fmt.Sprint(ttl)}) {
				t.Errorf("left with %v", got)
			}
		})
	}
}

func TestPacketsWithTheirLastHopArriveAtTheApplication(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "udp/53")
	web.serveUDP("web", ":53")
	eventually(t, deadline, r.client.answers("udp", r.addr(53), "web "+clientIP))
	seen := web.capture("transit0", "udp dst port 53")
	for _, ttl := range []int{1, 2, 64} {
		before := len(seen.all(`ttl (\d+)`))
		r.client.sendTTL(t, ttl, r.addr(53))
		eventually(t, deadline, func() error {
			if len(seen.all(`ttl (\d+)`)) == before {
				return fmt.Errorf("a packet with TTL %d did not arrive", ttl)
			}
			return nil
		})
	}
}

func TestARefusalQuotesThePacketAsItArrived(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{})
	for _, n := range []*ns{r.plain, r.box} {
		n.sysctl("net.ipv4.icmp_ratelimit", "0")
	}
	for _, ttl := range []int{1, 2, 30, 64, 128, 255} {
		t.Run(fmt.Sprint(ttl), func(t *testing.T) {
			for _, target := range []string{plainIP, r.ext} {
				errs := r.client.capture("eth0", "icmp[icmptype] == icmp-unreach and src host "+target)
				var want []string
				for _, port := range []string{"81", "82"} {
					r.client.sendTTL(t, ttl, target+":"+port)
					eventually(t, deadline, errs.sees(`udp port `+port+` unreachable`))
					want = append(want, fmt.Sprint(ttl))
				}
				if got := errs.all(`unreachable, length \d+ .*ttl (\d+)`); !slices.Equal(got, want) {
					t.Errorf("%s was sent TTL %d and quotes %v:\n%s", target, ttl, got, errs.text())
				}
			}
		})
	}
}

// sendTTL sends one datagram with a chosen TTL.
func (n *ns) sendTTL(t *testing.T, ttl int, addr string) {
	t.Helper()
	var c net.Conn
	err := in(n, func() (err error) {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			ctlErr := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl)
			})
			if err == nil {
				err = ctlErr
			}
			return err
		}}
		c, err = d.Dial("udp4", addr)
		return err
	})
	if err == nil {
		defer c.Close()
		_, err = c.Write([]byte("?\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fingerprint is what nmap's operating system detection saw of each probe,
// without what changes from one boot to the next.
func fingerprint(t *testing.T, from *ns, target string) []string {
	t.Helper()
	out, err := from.try("nmap", "-n", "-Pn", "-O", "-d", "--max-os-tries", "1", "-p", "80,81", target)
	if err != nil {
		t.Fatal(err)
	}
	out = strings.ReplaceAll(strings.ReplaceAll(out, "\nOS:", ""), ")", ")\n")
	var lines []string
	for _, l := range regexp.MustCompile(`(?m)^(OPS|WIN|ECN|T\d|U1|IE)\(.*\)$`).FindAllString(out, -1) {
		lines = append(lines, regexp.MustCompile(`%?(RUCK|RIPCK)=[^%)]*`).ReplaceAllString(l, ""))
	}
	if len(lines) == 0 {
		t.Fatalf("no fingerprint in:\n%s", out)
	}
	return lines
}

func TestNmapSeesTheSameOperatingSystem(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{})
	want := fingerprint(t, r.client, plainIP)
	if got := fingerprint(t, r.client, r.ext); !slices.Equal(got, want) {
		t.Errorf("the project\n%s\nan ordinary host\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestIPv6CannotBeToldFromAServerEither(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{ipv6: true})
	ext6 := r.ext6()
	for _, n := range []*ns{r.plain, r.box} {
		n.sysctl("net.ipv6.icmp.ratelimit", "0")
	}
	eventually(t, deadline, r.client.answers("tcp", "["+ext6+"]:80", "twin "+clientIP6))
	for name, args := range map[string][]string{
		"SYN": {"-sS", "-p", "22,80,81,82"}, "ACK": {"-sA", "-p", "22,80,81"}, "FIN": {"-sF", "-p", "22,80,81"},
		"UDP": {"-sU", "-p", "53,68,81,82,546"}, "IP protocols": {"-sO", "-p", "2,6,17,47,50,200"},
	} {
		t.Run("nmap "+name, func(t *testing.T) {
			args = append([]string{"-6"}, args...)
			want := scan(t, r.client, plainIP6, args...)
			if got := scan(t, r.client, ext6, args...); !slices.Equal(got, want) {
				t.Errorf("\nthe project       %q\nan ordinary host  %q", got, want)
			}
		})
	}
	for name, args := range map[string][]string{"TCP": {"-6", "-T", "-p", "80"}, "UDP": {"-6", "-U", "-p", "40000"}, "ICMP": {"-6", "-I"}} {
		t.Run("traceroute "+name, func(t *testing.T) {
			want := []string{"1 2001:db8:2::1", "2 TARGET"}
			if got := hops(t, r.outside, plainIP6, args...); !slices.Equal(got, want) {
				t.Fatalf("to an ordinary host: %q, want %q", got, want)
			}
			if got := hops(t, r.outside, ext6, args...); !slices.Equal(got, want) {
				t.Errorf("to the project: %q, want %q", got, want)
			}
		})
	}
}
