package netns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unsolicited captures neighbour advertisements that nobody asked for: they go
// to all nodes.
func (n *ns) unsolicited(iface string) *capture {
	n.t.Helper()
	return n.capture(iface, "icmp6 and ip6[40] == 136 and dst host ff02::1")
}

var printedTime = regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d+`)

// announces is a condition: three neighbour advertisements, and no more, name
// this address and MAC, spaced, and all as RFC 4861, 7.2.6 wants them.
func (c *capture) announces(addr, mac string) func() error {
	return func() error {
		var times []time.Time
		for _, packet := range strings.Split(c.text(), "\n") {
			if !strings.Contains(packet, "tgt is "+addr+",") {
				continue
			}
			for _, want := range []string{mac + " > 33:33:00:00:00:01", "hlim 255", addr + " > ff02::1: [icmp6 sum ok]", "Flags [override]", "destination link-address option (2), length 8 (1): " + mac} {
				if !strings.Contains(packet, want) {
					return fmt.Errorf("no %q in %s", want, packet)
				}
			}
			at, err := time.Parse("15:04:05.000000", printedTime.FindString(packet))
			if err != nil {
				return err
			}
			times = append(times, at)
		}
		if len(times) != 3 {
			return fmt.Errorf("%s is announced %d times:\n%s", addr, len(times), c.text())
		}
		for i := range times[1:] {
			if pause := times[i+1].Sub(times[i]); pause < 500*time.Millisecond {
				return fmt.Errorf("%s is announced again after %v", addr, pause)
			}
		}
		return nil
	}
}

func TestIPv6AddressesAreAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true})
	app := w.backend("app", 10, "")
	lan, inside := w.client.unsolicited("eth0"), app.unsolicited("transit0")
	router := w.advertise(w.router, ordinary(firstPrefix))
	a := w.anchord().ready()
	eventually(t, hang, lan.announces(firstIP6, derivedMAC))
	eventually(t, deadline, inside.announces(transitGW6, w.box.mac("transit0")))
	t.Run("another one", func(t *testing.T) {
		router.say(func(a *advert) { a.prefixes = ordinary(firstPrefix, secondPrefix).prefixes })
		eventually(t, hang, lan.announces(secondIP6, derivedMAC))
	})
	t.Run("once each", func(t *testing.T) {
		if err := lan.announces(firstIP6, derivedMAC)(); err != nil {
			t.Error(err)
		}
		if err := a.logs("address.announce_failed")(); err == nil {
			t.Errorf("%v", a.entries("address.announce_failed"))
		}
	})
	t.Run("after Docker's MAC came back", func(t *testing.T) {
		again := w.client.unsolicited("eth0")
		w.box.ip("link set lan0 address " + boxMAC + "\n")
		eventually(t, hang, again.announces(firstIP6, derivedMAC))
		if got := w.box.mac("lan0"); got != derivedMAC {
			t.Errorf("the MAC is %s", got)
		}
	})
}

func TestAHostWithAnOldNeighbourEntryReachesTheProjectAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true})
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	w.outside.serveTCP("outside", ":80")
	// Sure of it for half a minute, as after the project was moved to another
	// card a moment ago.
	w.client.run("ip", "neigh", "replace", firstIP6, "lladdr", "02:42:00:00:00:99", "dev", "eth0", "nud", "reachable")
	web.run("ip", "neigh", "replace", transitGW6, "lladdr", "02:42:00:00:00:99", "dev", "transit0", "nud", "reachable")
	w.advertise(w.router, ordinary(firstPrefix))
	a := w.anchord().ready()
	eventually(t, deadline, web.knows(transitGW6, w.box.mac("transit0")))
	eventually(t, hang, a.logs("address.added", firstIP6))
	eventually(t, deadline, w.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
	eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
}

// knows is a condition: a neighbour's address leads to this MAC.
func (n *ns) knows(addr, mac string) func() error {
	return func() error {
		out, err := n.try("ip", "neigh", "show", addr)
		if err == nil && !strings.Contains(out, mac) {
			err = fmt.Errorf("%s takes %s for %q, want %s", n.name, addr, out, mac)
		}
		return err
	}
}

func TestTheFamiliesDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		v4, v6   bool
		off      string // where IPv6 is off
		harmless bool   // nothing above info may be logged
	}{
		{"both", true, true, "", true},
		{"IPv4 only, and no router speaks", true, false, "", true},
		{"IPv4 only, IPv6 off on the LAN", true, false, "lan0", true},
		{"IPv4 only, IPv6 off everywhere", true, false, "all", true},
		{"IPv6 only", false, true, "", false},
		{"none", false, false, "", false},
		{"none, and IPv6 off everywhere", false, false, "all", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{ipv6: c.off != "all"})
			if c.off != "" {
				w.box.sysctl("net.ipv6.conf."+c.off+".disable_ipv6", "1")
			}
			web := w.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			w.outside.serveTCP("outside", ":80")
			if c.v4 {
				w.startDnsmasq()
			}
			if c.v6 {
				w.advertise(w.router, ordinary(firstPrefix))
			}
			r := &running{world: w}
			r.a = w.anchord().ready()
			eventually(t, deadline, r.a.logs("anchord.ready"))
			if took := r.a.entries("anchord.ready")[0].at().Sub(r.a.started); took > 3*time.Second {
				t.Errorf("ready only after %v", took)
			}
			if c.v6 {
				eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
				eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
			}
			if c.v4 {
				r.ext = r.a.leased()
				eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
				eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+r.ext))
			} else if addrs, err := r.box.addresses("lan0"); err != nil || len(addrs) != 0 {
				t.Errorf("lan0 has %v (%v)", addrs, err)
			}
			for _, e := range r.a.log() {
				if level := e.str("level"); c.harmless && level != "info" || level == "error" {
					t.Errorf("logged: %v", e)
				}
			}
			r.a.terminate()
			if out := r.box.run("nft", "list", "tables"); strings.Contains(out, "anchord") {
				t.Errorf("tables are left: %q", out)
			}
			if got, err := r.box.routes6(); err != nil || slices.ContainsFunc(got, func(s string) bool { return !strings.HasSuffix(s, " ra") }) {
				t.Errorf("default routes are left: %q (%v)", got, err)
			}
			if out, _ := r.box.try("ip", "-6", "addr", "show", "dev", "transit0"); strings.Contains(out, transitGW6) {
				t.Errorf("addresses are left:\n%s", out)
			}
		})
	}
}

func TestTheMetricsPortIsClosedToTheLANInIPv6(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{":9090", "[::]:9090"} {
		t.Run(listen, func(t *testing.T) {
			t.Parallel()
			r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix), "ANCHORD_METRICS_ADDR="+listen)
			if out, err := r.box.try("busybox", "wget", "-q", "-O", "-", "http://[::1]:9090/healthz"); err != nil || !strings.Contains(out, "ok") {
				t.Fatalf("the listener does not answer inside: %q, %v", out, err)
			}
			local := r.box.usable6("lan0")
			eventually(t, deadline, r.client.refused("tcp", on6(firstIP6, 9090)))
			if err := r.client.silent("tcp", on6(local+"%"+r.client.zone("eth0"), 9090))(); err != nil {
				t.Error(err)
			}
			r.client.ip("route add fd5a:1::/64 via " + firstIP6 + "\n")
			for _, addr := range []string{transitGW6, boxIP6} {
				if err := r.client.silent("tcp", on6(addr, 9090))(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestASpoofedTransitSourceIsDroppedInIPv6(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	web := r.backend("web", 10, "udp/53")
	received := web.serveUDP("web", ":53")
	eventually(t, deadline, r.client.answers("udp", on6(firstIP6, 53), "web "+clientIP6))
	before := received.count()
	atBackend := web.capture("transit0", "udp port 53")
	for _, source := range []string{"fd5a:1::77", "fd5a:1::b", transitGW6, boxIP6} {
		r.client.ip("addr add " + source + "/128 dev eth0 nodad\n")
		r.client.sendFrom(source, on6(firstIP6, 53))
		r.client.ip("addr del " + source + "/128 dev eth0\n")
	}
	atBackend.settle(300 * time.Millisecond)
	if received.count() != before || atBackend.text() != "" {
		t.Errorf("the backend got %d spoofed datagrams:\n%s", received.count()-before, atBackend.text())
	}
}

func TestTheProjectDoesNotRouteForTheLANInIPv6(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	r.outside.serveUDP("outside", ":53")
	seen := r.outside.capture("eth0", "udp port 53")
	back := r.client.capture("eth0", "icmp6 and src host "+firstIP6+" and ip6[40] < 5")
	eventually(t, deadline, r.client.answers("udp", on6(outsideIP6, 53), "outside "+clientIP6))
	eventually(t, hang, seen.sees(clientIP6+`\.\d+ > `+outsideIP6+`\.53`))
	eventually(t, hang, seen.sees(outsideIP6+`\.53 > `+clientIP6))
	seen.settle(200 * time.Millisecond)
	before := seen.text()
	r.client.ip("route add " + outsideIP6 + " via " + firstIP6 + "\n")
	if err := r.client.silent("udp", on6(outsideIP6, 53))(); err != nil {
		t.Error(err)
	}
	if seen.settle(200 * time.Millisecond); seen.text() != before {
		t.Errorf("the packet was routed:\n%s", seen.text())
	}
	if back.text() != "" {
		t.Errorf("the client was told:\n%s", back.text())
	}
}

// usable6 waits for an interface's link-local address.
func (n *ns) usable6(iface string) string {
	n.t.Helper()
	var local netip.Addr
	eventually(n.t, hang, func() (err error) {
		local, err = n.local6(iface)
		return err
	})
	return local.String()
}

func TestPingInIPv6(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	app := r.backend("app", 10, "")
	local := r.box.usable6("lan0")
	r.client.run("busybox", "ping6", "-c", "1", "-W", "2", firstIP6)
	r.client.run("busybox", "ping6", "-c", "1", "-W", "2", local+"%eth0")
	r.outside.run("busybox", "ping6", "-c", "1", "-W", "2", firstIP6)
	app.run("busybox", "ping6", "-c", "1", "-W", "2", firstIP6)
	app.run("busybox", "ping6", "-c", "1", "-W", "2", plainIP6)
}

func TestMSSIsClampedToTheRouteInIPv6(t *testing.T) {
	t.Parallel()
	narrow := ordinary(firstPrefix)
	narrow.mtu = 1400
	for name, c := range map[string]struct {
		s    setup
		says advert
	}{
		"the interface's":             {setup{lanMTU: 1400}, ordinary(firstPrefix)},
		"as the router advertises it": {setup{}, narrow},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := startSLAAC(t, c.s, c.says)
			web := r.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			r.plain.serveTCP("plain", ":80")
			syns := r.client.capture("eth0", "ip6[6] == 6 and ip6[53] & 2 != 0 and src host "+firstIP6)
			out := r.plain.capture("eth0", "ip6[6] == 6 and ip6[53] & 2 != 0 and src host "+firstIP6)
			eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
			eventually(t, deadline, web.answers("tcp", on6(plainIP6, 80), "plain "+firstIP6))
			eventually(t, deadline, syns.sees(`mss 1340`))
			eventually(t, deadline, out.sees(`mss 1340`))
		})
	}
}

func TestBigDatagramsInIPv6(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	web := r.backend("web", 10, "udp/53")
	web.echoUDP(":53")
	r.outside.echoUDP(":53")
	t.Run("in fragments", func(t *testing.T) {
		eventually(t, deadline, r.client.echoes(on6(firstIP6, 53), 4000))
		eventually(t, deadline, r.outside.echoes(on6(firstIP6, 53), 4000))
		eventually(t, deadline, web.echoes(on6(outsideIP6, 53), 4000))
	})
	t.Run("too big for a link on the way", func(t *testing.T) {
		for _, n := range []*ns{r.outside, r.router} {
			iface := map[*ns]string{r.outside: "eth0", r.router: "wan0"}[n]
			n.ip("link set " + iface + " mtu 1300\n")
		}
		// The router's word of it has to find the way to the container.
		eventually(t, deadline, web.echoes(on6(outsideIP6, 53), 1400))
		eventually(t, deadline, r.outside.echoes(on6(firstIP6, 53), 1250))
		eventually(t, deadline, r.outside.echoes(on6(firstIP6, 53), 1400))
	})
}

// echoUDP sends every datagram back.
func (n *ns) echoUDP(addr string) {
	n.t.Helper()
	var c net.PacketConn
	err := in(n, func() (err error) {
		c, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	n.t.Cleanup(func() { c.Close() })
	go func() {
		for buf := make([]byte, 65536); ; {
			k, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				c.WriteTo(buf[:k], from) //nolint:errcheck // whoever asks asks again
			}
		}
	}()
}

// echoes is a condition: a datagram of this size comes back whole.
func (n *ns) echoes(addr string, size int) func() error {
	return func() error {
		c, err := n.open("udp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // as in ask
		if _, err := c.Write(make([]byte, size)); err != nil {
			return err
		}
		k, err := c.Read(make([]byte, 65536))
		if err == nil && k != size {
			err = fmt.Errorf("%d bytes of %d came back", k, size)
		}
		return err
	}
}

// sendHops sends one datagram with a chosen hop limit.
func (n *ns) sendHops(t *testing.T, hops int, addr string) {
	t.Helper()
	err := in(n, func() error {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			ctlErr := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
			})
			return errors.Join(err, ctlErr)
		}}
		c, err := d.Dial("udp6", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("?\n"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPacketsKeepTheirHopLimit(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	web := r.backend("web", 10, "udp/53")
	web.serveUDP("web", ":53")
	eventually(t, deadline, r.client.answers("udp", on6(firstIP6, 53), "web "+clientIP6))
	r.plain.serveUDP("plain", ":53")
	eventually(t, deadline, web.answers("udp", on6(plainIP6, 53), "plain "+firstIP6))
	out := r.plain.capture("eth0", "udp and dst portrange 20000-20999")
	in := web.capture("transit0", "udp dst port 53")
	for _, hops := range []int{1, 2, 3, 5, 30, 64, 128, 255} {
		port := 20000 + hops
		web.sendHops(t, hops, on6(plainIP6, port))
		eventually(t, deadline, out.sees(fmt.Sprintf(`hlim %d, .* > \S+\.%d: `, hops, port)))
		before := len(in.all(`hlim (\d+)`))
		r.client.sendHops(t, hops, on6(firstIP6, 53))
		eventually(t, deadline, func() error {
			if len(in.all(`hlim (\d+)`)) == before {
				return fmt.Errorf("a packet with hop limit %d did not arrive", hops)
			}
			return nil
		})
	}
	answers := r.client.capture("eth0", "udp src port 53")
	eventually(t, deadline, r.client.answers("udp", on6(firstIP6, 53), "web "+clientIP6))
	eventually(t, deadline, answers.sees(`hlim 64, `))
}

func TestARefusalQuotesThePacketAsItArrivedInIPv6(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{ipv6: true})
	for _, n := range []*ns{r.plain, r.box} {
		n.sysctl("net.ipv6.icmp.ratelimit", "0")
	}
	ext6 := r.ext6()
	eventually(t, deadline, r.client.answers("tcp", on6(ext6, 80), "twin "+clientIP6))
	for _, hops := range []int{1, 2, 30, 64, 255} {
		t.Run(fmt.Sprint(hops), func(t *testing.T) {
			for _, target := range []string{plainIP6, ext6} {
				errs := r.client.capture("eth0", "icmp6 and ip6[40] == 1 and src host "+target)
				for i, port := range []int{81, 82} {
					r.client.sendHops(t, hops, on6(target, port))
					eventually(t, deadline, func() error {
						if n := len(errs.all(`(unreachable port)`)); n != i+1 {
							return fmt.Errorf("%d refusals of port %d:\n%s", n, port, errs.text())
						}
						return nil
					})
				}
				for _, quoted := range errs.all(`unreachable port.*?\(hlim (\d+)`) {
					if quoted != fmt.Sprint(hops) {
						t.Errorf("%s was sent %d and quotes %s:\n%s", target, hops, quoted, errs.text())
					}
				}
			}
		})
	}
}

func TestAnApplicationsOwnTraceroute6SeesTheRouterFirst(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{ipv6: true})
	r.ext6()
	r.outside.serveTCP("outside", ":80")
	app := r.backend("app", 11, "")
	eventually(t, deadline, app.answers("tcp", on6(outsideIP6, 80), "outside "+r.ext6()))
	want := []string{"1 " + routerIP6, "2 TARGET"}
	for name, args := range map[string][]string{"UDP": {"-6"}, "ICMP": {"-6", "-I"}, "TCP": {"-6", "-T", "-p", "80"}} {
		t.Run(name, func(t *testing.T) {
			if got := hops(t, app.ns, outsideIP6, args...); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

func TestNobodyTakesTheProjectForARouter(t *testing.T) {
	t.Parallel()
	r := start(t, setup{ipv6: true})
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	r.outside.serveTCP("outside", ":80")
	ext6, local := r.ext6(), r.box.usable6("lan0")
	eventually(t, deadline, r.client.answers("tcp", on6(ext6, 80), "web "+clientIP6))
	eventually(t, deadline, r.outside.answers("tcp", on6(ext6, 80), "web "+outsideIP6))
	eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+ext6))
	eventually(t, deadline, web.answers("tcp", on6(ext6, 80), "web "+ext6))
	router, err := r.router.local6("eth0")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("all routers", func(t *testing.T) {
		eventually(t, deadline, func() error {
			if out, _ := r.client.try("ping", "-6", "-n", "-c", "1", "-w", "1", "ff02::2%eth0"); !strings.Contains(out, router.String()) {
				return fmt.Errorf("the router does not answer: %s", out)
			}
			return nil
		})
		// Every answer, so no -c: it would end with the first.
		if out, _ := r.client.try("ping", "-6", "-n", "-i", "0.2", "-w", "1", "ff02::2%eth0"); strings.Contains(out, local) {
			t.Errorf("the project answers what is asked of all routers:\n%s", out)
		}
	})
	t.Run("neighbours", func(t *testing.T) {
		r.client.run("busybox", "ping6", "-c", "1", "-W", "2", local+"%eth0")
		out := r.client.run("ip", "-6", "neigh", "show")
		for _, line := range strings.Split(out, "\n") {
			if (strings.HasPrefix(line, ext6+" ") || strings.HasPrefix(line, local+" ")) && strings.Contains(line, " router ") {
				t.Errorf("the project says that it is a router: %s", line)
			}
		}
		if !strings.Contains(out, ext6+" ") || !strings.Contains(out, local+" ") {
			t.Errorf("the client does not know the project:\n%s", out)
		}
	})
	t.Run("the address of all a network's routers", func(t *testing.T) {
		found := r.client.capture("eth0", "icmp6 and ip6[40] == 136 and ether src "+r.box.mac("lan0"))
		r.client.try("busybox", "ping6", "-c", "1", "-W", "1", firstPrefix) //nolint:errcheck // a router may answer
		if found.sees("tgt is "+firstPrefix+",")() == nil {
			t.Errorf("the project answers for it:\n%s", found.text())
		}
	})
}

func TestTheLANHearsNothingOfAddressesInside(t *testing.T) {
	t.Parallel()
	r := start(t, setup{ipv6: true})
	r.ext6()
	r.client.ip("route add fd5a:1::/64 dev eth0\n")
	for _, addr := range []string{transitGW6, boxIP6} {
		r.client.try("busybox", "ping6", "-c", "1", "-W", "1", addr) //nolint:errcheck // it must fail
		if out := r.client.run("ip", "-6", "neigh", "show", addr); strings.Contains(out, "lladdr") {
			t.Errorf("the project answers for its inside address: %s", out)
		}
	}
	for _, addr := range []string{transitGW, boxIP} {
		if out, err := r.client.try("busybox", "arping", "-c", "1", "-w", "1", "-I", "eth0", addr); err == nil {
			t.Errorf("the project answers for its inside address %s:\n%s", addr, out)
		}
	}
	if out, err := r.client.try("busybox", "arping", "-c", "1", "-w", "1", "-I", "eth0", r.ext); err != nil {
		t.Errorf("the project does not answer for its own address: %s", out)
	}
}

func TestIPv6WhereTheLANInterfaceIsARouters(t *testing.T) {
	t.Parallel()
	r, router := startSLAAC(t, setup{routerOnLAN: true}, ordinary(firstPrefix))
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	r.outside.serveTCP("outside", ":80")
	eventually(t, deadline, r.outside.answers("tcp", on6(firstIP6, 80), "web "+outsideIP6))
	eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
	eventually(t, deadline, web.answers("tcp", on6(firstIP6, 80), "web "+firstIP6))
	promise(t, func() { r.box.ip6("route delete default\n") }, web.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
	eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
}

func TestLinkLocalAddressesAreRefusedAsAServerDoes(t *testing.T) {
	t.Parallel()
	r := twins(t, setup{ipv6: true})
	r.box.sysctl("net.ipv6.icmp.ratelimit", "0")
	ext6, local, client := r.ext6(), r.box.usable6("lan0"), r.client.usable6("eth0")
	for name, c := range map[string]struct{ to, zone string }{
		"the project's":                       {local, "%" + r.client.zone("eth0")},
		"a client's, to the project's global": {ext6, ""},
	} {
		t.Run(name, func(t *testing.T) {
			back := r.client.capture("eth0", "dst host "+client+" and ether src "+derivedMAC+" and (tcp or udp or (icmp6 and ip6[40] < 128))")
			for _, port := range []int{80, 81, 82, 53} { // the exposed ones too: they lead to containers that are not on this link
				for _, network := range []string{"tcp", "udp"} {
					refused := back.sees(fmt.Sprintf(`%[1]s\.%[2]d > .*Flags \[R\.\]|unreachable port, %[1]s %[3]s port %[2]d`, c.to, port, network))
					eventually(t, deadline, func() error {
						r.client.askFrom(client, network, on6(c.to+c.zone, port))
						return refused()
					})
				}
			}
			for _, packet := range strings.Split(strings.TrimSpace(back.text()), "\n") {
				if !strings.Contains(packet, "unreachable port") && !strings.Contains(packet, "Flags [R.]") {
					t.Errorf("an ordinary server does not say %s", packet)
				}
			}
		})
	}
}

// zone is an interface's number: package net remembers for a minute which one a name
// had, in whatever namespace it was asked last.
func (n *ns) zone(iface string) string {
	n.t.Helper()
	var link *net.Interface
	if err := in(n, func() (err error) { link, err = net.InterfaceByName(iface); return err }); err != nil {
		n.t.Fatal(err)
	}
	return strconv.Itoa(link.Index)
}

// askFrom sends one request from a chosen address. What comes back is for a
// capture to see: where a refusal comes before the client's own call has
// returned, as on this LAN, the client does not tell.
func (n *ns) askFrom(source, network, addr string) {
	n.t.Helper()
	zone := n.zone("eth0")
	err := in(n, func() error {
		from := net.TCPAddr{IP: net.ParseIP(source), Zone: zone}
		d := net.Dialer{Timeout: 50 * time.Millisecond, LocalAddr: &from}
		if network == "udp" {
			d.LocalAddr = &net.UDPAddr{IP: from.IP, Zone: from.Zone}
		}
		c, err := d.Dial(network, addr)
		if err != nil {
			return nil //nolint:nilerr // refused, or not told
		}
		defer c.Close()
		_, err = c.Write([]byte("?\n"))
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestAnIPv6FlowThatNeverPausesFollowsARecreatedBackend(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	old := r.backend("old", 10, "udp/53,udp/5000-5009")
	old.serveUDP("old", ":53")
	old.serveUDP("old", ":5005")
	app := r.backend("app", 20, "")
	streams := map[*stream]string{
		r.client.stream(on6(firstIP6, 53)):   clientIP6,
		r.client.stream(on6(firstIP6, 5005)): clientIP6,
		app.stream(on6(firstIP6, 53)):        firstIP6,
	}
	for s, source := range streams {
		eventually(t, deadline, s.answeredBy("old "+source))
	}
	var followed []func() error
	for s, source := range streams {
		followed = append(followed, s.answeredBy("new "+source))
	}
	promise(t, func() {
		r.recreate(old, "new", 11, func(b *backend) {
			b.serveUDP("new", ":53")
			b.serveUDP("new", ":5005")
		})
	}, followed...)
}

func TestAnIPv6SenderThatBeganBeforeTheMappingIsPickedUp(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	app := r.backend("app", 20, "")
	web := r.bare("web", 10)
	web.serveUDP("web", ":53")
	streams := map[*stream]string{
		r.client.stream(on6(firstIP6, 53)):  clientIP6,
		r.outside.stream(on6(firstIP6, 53)): outsideIP6,
		app.stream(on6(firstIP6, 53)):       firstIP6,
	}
	eventually(t, deadline, func() error {
		if out, err := r.box.try("conntrack", "-L", "-f", "ipv6", "-p", "udp", "--orig-port-dst", "53"); err != nil || !strings.Contains(out, "dport=53") {
			return fmt.Errorf("no flow is tracked yet: %q %v", out, err)
		}
		return nil
	})
	var pickedUp []func() error
	for s, source := range streams {
		pickedUp = append(pickedUp, s.answeredBy("web "+source))
	}
	promise(t, func() { web.id = r.docker.AddContainer(web.container("udp/53")) }, pickedUp...)
}

func TestOldIPv6FlowsToAVanishedBackendAreEnded(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	db := r.backend("db", 11, "tcp/5432")
	db.serveTCP("db", ":5432")
	web := r.backend("web", 10, "tcp/80,udp/53,tcp/9000-9001:7000")
	web.serveTCP("web", ":80")
	web.serveTCP("web", ":7001")
	web.serveUDP("web", ":53")
	eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
	others := r.client.session(on6(firstIP6, 5432))
	sessions := []*session{r.client.session(on6(firstIP6, 80)), r.client.session(on6(firstIP6, 9001))}
	eventually(t, deadline, r.client.answers("udp", on6(firstIP6, 53), "web "+clientIP6))
	flows := func() string {
		out, _ := r.box.try("conntrack", "-L", "-f", "ipv6", "--reply-src", web.ip6)
		return out
	}
	if !strings.Contains(flows(), "dport=80") {
		t.Fatal("no flow is tracked")
	}
	promise(t, func() { r.docker.Remove(web.id) }, func() error {
		if out := flows(); out != "" {
			return fmt.Errorf("still tracked:\n%s", out)
		}
		return nil
	})
	for _, s := range sessions {
		if s.echo() == nil {
			t.Error("the old connection lives on")
		}
	}
	if err := others.echo(); err != nil {
		t.Errorf("a connection to another backend suffered: %v", err)
	}
	eventually(t, deadline, r.client.refused("tcp", on6(firstIP6, 80)))
	eventually(t, deadline, func() error {
		n, err := r.a.metric(`anchord_conntrack_flushes_total{family="v6"}`)
		if err == nil && n == 0 {
			err = errors.New("anchord_conntrack_flushes_total is 0")
		}
		return err
	})
}

func TestWhoIsExposedInIPv6(t *testing.T) {
	t.Parallel()
	r := start(t, setup{ipv6: true})
	ext6 := r.ext6()
	containers := map[string]*backend{}
	for i, c := range []struct {
		name, label string
		without     bool // Docker gave it no IPv6 address
	}{{"auto", "auto", false}, {"upper", "AUTO", false}, {"off", "off", false}, {"silent", "", false}, {"without", "", true}, {"autowithout", "auto", true}, {"nonsense", "yes", false}} {
		b := r.bare(c.name, 30+i)
		b.serveTCP(c.name, ":80")
		spec := b.container(fmt.Sprintf("tcp/%d:80", 8000+i))
		if c.label != "" {
			spec.Labels["anchord.expose.v6"] = c.label
		}
		if c.without {
			ep := spec.Networks[transitNet]
			ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway = "", 0, ""
			spec.Networks[transitNet] = ep
		}
		b.id = r.docker.AddContainer(spec)
		containers[c.name] = b
	}
	for i, c := range []struct {
		name   string
		v4, v6 bool
	}{{"auto", true, true}, {"upper", true, true}, {"off", true, false}, {"silent", true, true}, {"without", true, false}, {"autowithout", true, false}, {"nonsense", false, false}} {
		port := 8000 + i
		for addr, want := range map[string]struct {
			is     bool
			client string
		}{r.addr(port): {c.v4, clientIP}, on6(ext6, port): {c.v6, clientIP6}} {
			if want.is {
				eventually(t, deadline, r.client.answers("tcp", addr, c.name+" "+want.client))
			} else {
				eventually(t, deadline, r.client.refused("tcp", addr))
			}
		}
	}
	eventually(t, deadline, r.a.logs("label.rejected", containers["nonsense"].name, "anchord.expose.v6", "auto", "off"))
	eventually(t, deadline, r.a.metricIs(`anchord_dnat_entries{family="v6",proto="tcp"}`, 3))
	eventually(t, deadline, r.a.metricIs(`anchord_dnat_entries{family="v4",proto="tcp"}`, 6))
}

func TestTheIPv6TablesTouchedByHandAreBackWithinASecond(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
	for name, args := range map[string][]string{
		"whole table":     {"delete", "table", "ip6", "anchord_v6"},
		"one element":     {"delete", "element", "ip6", "anchord_v6", "dnat_tcp", "{ 80 }"},
		"a rule too many": {"add", "rule", "ip6", "anchord_v6", "forward", "accept"},
	} {
		t.Run(name, func(t *testing.T) {
			want := r.box.run("nft", "-s", "list", "table", "ip6", "anchord_v6")
			promise(t, func() { r.box.run(append([]string{"nft"}, args...)...) }, func() error {
				got, err := r.box.try("nft", "-s", "list", "table", "ip6", "anchord_v6")
				if err == nil && serial.ReplaceAllString(got, "") != serial.ReplaceAllString(want, "") {
					err = errors.New("the table is now\n" + got)
				}
				return err
			}, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
		})
	}
}

// serial is what differs after each change.
var serial = regexp.MustCompile(`elements = \{ 0x[0-9a-f]+ \}`)

func TestTheIPv6GatewayAddressTakenAwayByHandComesBack(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{}, ordinary(firstPrefix))
	app := r.backend("app", 10, "")
	r.outside.serveTCP("outside", ":80")
	eventually(t, deadline, app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
	promise(t, func() { r.box.ip("addr del " + transitGW6 + "/64 dev transit0\n") }, app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
}

// via6 is a service-anchor's own default route, with the protocol that marks it.
func via6(gateway string) string { return "via " + gateway + " dev transit0 97" }

func TestServiceAnchorKeepsTheIPv6RouteToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true, ipv6: true})
	app := w.internalApp("app", 10)
	app.ns.ip("route add 2001:db8:77::/48 via fd5a:1::9\n")
	h := w.serviceAnchor(app, "ANCHORD_GATEWAY_IP="+boxIP6+","+boxIP).ready()
	eventually(t, hang, app.hasRoute(via(boxIP)))
	eventually(t, hang, app.hasRoutes6(via6(boxIP6)))
	eventually(t, deadline, h.metricIs(`anchord_default_route_present{family="v6"}`, 1))
	for name, lines := range map[string]string{
		"replaced":                 "route replace default via fd5a:1::9 dev transit0",
		"deleted":                  "route delete default",
		"another, which is better": "route add default via fd5a:1::9 dev transit0 metric 1",
		"link flap":                "link set transit0 down\nlink set transit0 up\naddr add fd5a:1::a/64 dev transit0 nodad",
	} {
		t.Run(name, func(t *testing.T) {
			replaces := h.count(`anchord_gateway_route_replaces_total{family="v6"}`)
			promise(t, func() { app.ns.ip6(lines + "\n") }, app.goes6(boxIP6, "transit0"), app.hasRoute(via(boxIP)))
			eventually(t, deadline, app.hasRoutes6(via6(boxIP6)))
			if name == "another, which is better" {
				return // it was deleted; ours stood all the time
			}
			eventually(t, deadline, func() error {
				if got := h.count(`anchord_gateway_route_replaces_total{family="v6"}`); got <= replaces {
					return fmt.Errorf("anchord_gateway_route_replaces_total is %v, was %v", got, replaces)
				}
				return nil
			})
		})
	}
	eventually(t, deadline, h.logs("route.reasserted", `"family":"v6"`))
	if took := h.terminate(); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if err := app.hasRoutes6()(); err != nil {
		t.Error(err)
	}
}

func TestServiceAnchorLeavesOtherIPv6RoutesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true, ipv6: true})
	app := w.internalApp("app", 10)
	app.ns.ip("route add 2001:db8:77::/48 via fd5a:1::9\nroute add 2001:db8:78::/48 dev transit0 proto static metric 7\n")
	before := app.run("ip", "-6", "route", "show", "root", "2001:db8:70::/44")
	h := w.serviceAnchor(app, "ANCHORD_GATEWAY_IP="+boxIP6).ready()
	eventually(t, hang, app.hasRoutes6(via6(boxIP6)))
	if err := app.hasRoute("")(); err != nil {
		t.Errorf("nobody asked for an IPv4 route: %v", err)
	}
	h.terminate()
	if after := app.run("ip", "-6", "route", "show", "root", "2001:db8:70::/44"); after != before || strings.Count(after, "\n") != 2 {
		t.Errorf("the other routes are\n%s, were\n%s", after, before)
	}
}

func TestServiceAnchorFollowsTheNamesOfBothFamilies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true, ipv6: true})
	dns := w.startNames("anchord", boxIP6)
	app := w.internalApp("app", 10)
	h := w.serviceAnchor(app, "ANCHORD_GATEWAY_RESOLVE_INTERVAL=500ms")
	h.ready() // one family is enough
	eventually(t, deadline, app.hasRoutes6(via6(boxIP6)))
	eventually(t, deadline, h.metricIs(`anchord_default_route_present{family="v4"}`, 0))
	dns.set("fd5a:1::3 anchord\n" + boxIP + " anchord\n")
	eventually(t, 3*time.Second, app.hasRoutes6(via6("fd5a:1::3")))
	eventually(t, 3*time.Second, app.hasRoute(via(boxIP)))
	eventually(t, deadline, h.metricIs(`anchord_default_route_present{family="v4"}`, 1))
	// One family's name is gone: its last good one stays, and the other follows.
	dns.set("10.213.0.3 anchord\n")
	eventually(t, 3*time.Second, app.hasRoute(via("10.213.0.3")))
	throughout(t, 1500*time.Millisecond, app.hasRoutes6(via6("fd5a:1::3")))
	eventually(t, deadline, h.logs("gateway.resolved", "fd5a:1::3"))
	h.terminate()
	if err := errors.Join(app.hasRoutes6()(), app.hasRoute("")()); err != nil {
		t.Error(err)
	}
}

func TestServiceAnchorAndARouterThatAdvertisesItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true, ipv6: true})
	app := w.internalApp("app", 10)
	// A container that is on another network too, which has a router.
	w.plug(app.ns, "eth1", "br-lan")
	router := w.advertise(w.router, ordinary(firstPrefix))
	byRA := "via " + router.local.String() + " dev eth1 ra"
	eventually(t, hang, app.hasRoutes6(byRA))
	h := w.serviceAnchor(app, "ANCHORD_GATEWAY_IP="+boxIP6).ready()
	eventually(t, deadline, app.goes6(boxIP6, "transit0"))
	// Whatever the router goes on to say, nothing leaves past the project.
	for range 3 {
		router.say(func(*advert) {})
		throughout(t, 300*time.Millisecond, app.goes6(boxIP6, "transit0"))
	}
	if n := len(h.entries("route.reasserted")); n > 1 {
		t.Errorf("told %d times", n)
	}
	t.Run("while the network-anchor is away", func(t *testing.T) {
		w.outside.serveTCP("outside", ":80")
		past := app.capture("eth1", "tcp and dst host "+outsideIP6)
		w.box.run("ip", "link", "set", "transit0", "down")
		throughout(t, 4*time.Second, func() error {
			if err := app.silent("tcp", on6(outsideIP6, 80))(); err != nil || past.text() != "" {
				return fmt.Errorf("packets leave past the project: %w\n%s", err, past.text())
			}
			return nil
		})
	})
	h.terminate()
	router.say(func(*advert) {})
	eventually(t, deadline, app.hasRoutes6(byRA))
}

// The whole of the second pattern, in IPv6.
func TestServiceAnchorPatternInIPv6(t *testing.T) {
	t.Parallel()
	r, _ := startSLAAC(t, setup{internal: true}, ordinary(firstPrefix))
	app := r.internalApp("app", 10)
	app.serveTCP("app", ":25")
	r.outside.serveTCP("outside", ":80")
	r.serviceAnchor(app, "ANCHORD_GATEWAY_IP="+boxIP6).ready()
	app.id = r.docker.AddContainer(app.container("tcp/25"))
	eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 25), "app "+clientIP6))
	eventually(t, deadline, r.outside.answers("tcp", on6(firstIP6, 25), "app "+outsideIP6))
	eventually(t, deadline, app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
}
