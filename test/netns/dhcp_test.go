package netns_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// leasing is a project with the DHCP server that a test commands.
type leasing struct {
	*running
	srv *dhcpd
}

const (
	firstIP  = "198.51.100.77"
	secondIP = "198.51.100.88"
	// shortLease is renewed after half of it.
	shortLease = 30 * time.Second
	// renewal is the limit for one renewal to come.
	renewal = 25 * time.Second
)

func startLeasing(t *testing.T, s setup, env ...string) *leasing {
	t.Helper()
	w := newWorld(t, s)
	l := &leasing{srv: w.startDHCPD(firstIP, shortLease), running: &running{world: w, ext: firstIP}}
	l.a = w.anchord(env...).ready()
	eventually(t, hang, w.hasOnly(firstIP))
	return l
}

// hasOnly is a condition: lan0 has this IPv4 address and no other; "" is none.
func (w *world) hasOnly(want string) func() error {
	return func() error {
		got, err := w.box.addresses("lan0")
		if err == nil && strings.Join(got, " ") != want {
			err = fmt.Errorf("lan0 has %q, want %q", got, want)
		}
		return err
	}
}

func TestTheClientTellsItsNameAndItsIdentifier(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	for _, m := range append(l.srv.messages(discover), l.srv.messages(request)...) {
		if got := string(m.options[optHostname]); got != project {
			t.Errorf("option 12 is %q, want %q", got, project)
		}
		if got := string(m.options[optClientID]); got != "\x00"+project {
			t.Errorf("option 61 is %q, want type 0 and %q", got, project)
		}
	}
}

func TestARenewalOfTheSameLeaseDisturbsNothing(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	web := l.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, l.client.answers("tcp", l.addr(80), "web "+clientIP))
	long := l.client.session(l.addr(80))
	eventually(t, deadline, l.a.logs("dhcp.bound"))
	ip, nft := l.box.monitor("ip", "-o", "monitor", "address", "route", "link"), l.box.monitor("nft", "monitor")
	conns := l.box.monitor("conntrack", "-E", "-e", "DESTROY", "-p", "tcp")
	ip.settle(time.Second)
	known := len(ip.out.list())
	eventually(t, renewal, l.srv.hears(request, 2))
	eventually(t, deadline, func() error {
		if got := l.a.count(`anchord_dhcp_lease_remaining_seconds{family="v4"}`); got < 25 || got > 30 {
			return fmt.Errorf("the lease has %v s left, want just under 30", got)
		}
		return nil
	})
	ip.settle(time.Second)
	for _, line := range ip.out.list()[known:] {
		if !strings.Contains(line, firstIP) || strings.Contains(line, "Deleted") || !strings.Contains(line, "valid_lft") {
			t.Errorf("the renewal wrote more than the lifetime: %s", line)
		}
	}
	if len(ip.out.list()) == known {
		t.Error("the renewal did not write the lifetime")
	}
	if out := nft.out.String(); out != "" {
		t.Errorf("the renewal touched the ruleset:\n%s", out)
	}
	if out := conns.out.String(); strings.Contains(out, web.ip) {
		t.Errorf("the renewal ended flows:\n%s", out)
	}
	if err := long.echo(); err != nil {
		t.Errorf("the renewal cost a connection: %v", err)
	}
}

func TestAnotherAddressIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*dhcpd){
		"offered at the renewal": func(d *dhcpd) { d.addr = netip.MustParseAddr(secondIP) },
		"after a NAK":            func(d *dhcpd) { d.addr, d.strict = netip.MustParseAddr(secondIP), true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasing(t, setup{})
			web := l.backend("web", 10, "tcp/80,udp/53")
			web.serveTCP("web", ":80")
			web.serveUDP("web", ":53")
			l.outside.serveTCP("outside", ":80")
			eventually(t, deadline, l.client.answers("tcp", l.addr(80), "web "+clientIP))
			eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+firstIP))
			long := l.client.session(l.addr(80))
			arp := l.client.capture("eth0", "arp")
			l.srv.change(change)
			eventually(t, renewal, l.hasOnly(secondIP))
			l.ext = secondIP
			eventually(t, deadline, l.client.answers("tcp", l.addr(80), "web "+clientIP))
			eventually(t, deadline, l.outside.answers("udp", l.addr(53), "web "+outsideIP))
			eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+secondIP))
			eventually(t, deadline, web.answers("tcp", l.addr(80), "web "+secondIP))
			eventually(t, deadline, l.box.hasRoute("default via "+routerIP+" dev lan0"))
			eventually(t, deadline, func() error {
				if out := l.box.run("conntrack", "-L", "--orig-dst", firstIP); out != "" {
					return fmt.Errorf("flows of the old address are tracked:\n%s", out)
				}
				return nil
			})
			if long.echo() == nil {
				t.Error("a connection to the old address lives on")
			}
			eventually(t, deadline, arp.sees(`who-has `+secondIP+` (\(\S+\) )?tell `+secondIP))
			eventually(t, deadline, func() error {
				if n := len(arp.all(`(who-has ` + secondIP + ` (?:\(\S+\) )?tell ` + secondIP + `)`)); n != 3 {
					return fmt.Errorf("%d gratuitous ARPs, want 3 (spaced)", n)
				}
				return nil
			})
			eventually(t, deadline, l.a.logs("address.added", secondIP))
			eventually(t, deadline, l.a.logs("address.removed", firstIP))
		})
	}
}

func TestASilentDHCPServerDelaysNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	srv := w.startDHCPD(firstIP, shortLease)
	srv.change(func(d *dhcpd) { d.silent = true })
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	a := w.anchord("ANCHORD_DHCP_BACKOFF_MAX=2s").ready()
	eventually(t, deadline, srv.hears(discover, 1))
	if _, err := a.metric(`anchord_dhcp_lease_remaining_seconds{family="v4"}`); err == nil {
		t.Error("a lease is shown where there is none")
	}
	eventually(t, deadline, func() error {
		if out := w.box.run("nft", "list", "ruleset"); !strings.Contains(out, web.ip) {
			return fmt.Errorf("the port is not mapped:\n%s", out)
		}
		return nil
	})
	srv.change(func(d *dhcpd) { d.silent = false })
	eventually(t, hang, w.hasOnly(firstIP))
	eventually(t, deadline, w.client.answers("tcp", firstIP+":80", "web "+clientIP))
}

func TestTheAddressThatDockerGaveIsKept(t *testing.T) {
	t.Parallel()
	const given = "198.51.100.60"
	for _, mode := range []string{"auto", "bootstrap"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{bootstrap: given})
			srv := w.startDHCPD(firstIP, shortLease)
			web := w.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			w.outside.serveTCP("outside", ":80")
			a := w.anchord("ANCHORD_ADDRESS_MODE=" + mode).ready()
			eventually(t, deadline, w.client.answers("tcp", given+":80", "web "+clientIP))
			eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+given))
			if got := w.box.mac("lan0"); got != boxMAC {
				t.Errorf("the MAC that Docker gave was changed to %s", got)
			}
			if w.box.processes("udhcpc") != 0 || len(srv.messages(discover)) != 0 {
				t.Error("a DHCP client runs")
			}
			a.terminate()
			if err := w.hasOnly(given)(); err != nil {
				t.Errorf("after the stop: %v", err)
			}
		})
	}
}

func TestTheAddressThatDockerGaveIsReplacedByALeaseAndComesBack(t *testing.T) {
	t.Parallel()
	const given = "198.51.100.60"
	l := startLeasing(t, setup{bootstrap: given}, "ANCHORD_ADDRESS_MODE=dhcp-refresh")
	web := l.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, l.client.answers("tcp", l.addr(80), "web "+clientIP))
	eventually(t, deadline, l.box.hasRoute("default via "+routerIP+" dev lan0"))
	// The server takes the lease back and has none to give any more.
	l.srv.change(func(d *dhcpd) { d.addr, d.strict = netip.Addr{}, true })
	eventually(t, renewal, l.hasOnly(given))
	eventually(t, deadline, l.client.answers("tcp", given+":80", "web "+clientIP))
	l.outside.serveTCP("outside", ":80")
	eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+given))
	eventually(t, deadline, l.a.logs("dhcp.lost"))
	// And has one again.
	l.srv.change(func(d *dhcpd) { d.addr, d.strict = netip.MustParseAddr(secondIP), false })
	eventually(t, renewal, l.hasOnly(secondIP))
}

func TestALeaseThatEndsTakesItsAddressAlong(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	l.srv.change(func(d *dhcpd) { d.silent = true })
	eventually(t, shortLease+5*time.Second, l.hasOnly(""))
	if _, err := l.a.metric(`anchord_dhcp_lease_remaining_seconds{family="v4"}`); err == nil {
		t.Error("the lease that ended is still shown")
	}
	if status, _, err := l.a.get("/readyz"); err != nil || status != 200 {
		t.Errorf("/readyz says %d, %v: no lease is needed", status, err)
	}
	l.srv.change(func(d *dhcpd) { d.silent = false })
	eventually(t, renewal, l.hasOnly(firstIP))
}

func TestAnAddressThatSomebodyElseHasIsDeclined(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	srv := w.startDHCPD(plainIP, shortLease)
	a := w.anchord("ANCHORD_DHCP_BACKOFF_MAX=2s").ready()
	eventually(t, hang, srv.hears(decline, 1))
	eventually(t, deadline, a.logs("dhcp.address_in_use", plainIP))
	if err := w.hasOnly("")(); err != nil {
		t.Error(err)
	}
	srv.change(func(d *dhcpd) { d.addr = netip.MustParseAddr(firstIP) })
	eventually(t, 30*time.Second, w.hasOnly(firstIP))
}

func TestTheLastAddressIsAskedForAgain(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	l.a.crash()
	before := len(l.srv.messages(discover))
	l.box.ip("addr flush dev lan0\n")
	l.a = l.anchord().ready()
	eventually(t, hang, l.srv.hears(discover, before+1))
	last := l.srv.messages(discover)[before]
	if got, _ := netip.AddrFromSlice(last.options[optRequested]); got.String() != firstIP {
		t.Errorf("asked for %v, want %s", got, firstIP)
	}
}

func TestTheGateway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		lease string // "" for a lease without a router
		setup setup
		env   []string
		want  string
	}{
		{"the lease's", routerIP, setup{}, nil, routerIP},
		{"the lease's beats the pinned one", routerIP, setup{}, []string{"ANCHORD_EXT_GATEWAY_IP=" + clientIP}, routerIP},
		{"the pinned one where the lease has none", "", setup{}, []string{"ANCHORD_EXT_GATEWAY_IP=" + routerIP}, routerIP},
		{"the pinned one where the lease has nonsense", "224.0.0.1", setup{}, []string{"ANCHORD_EXT_GATEWAY_IP=" + routerIP}, routerIP},
		{"the network's own in Docker", "", setup{bootstrap: "198.51.100.60"}, []string{"ANCHORD_ADDRESS_MODE=dhcp-refresh"}, routerIP},
		{"pinned beats the network's own", "", setup{bootstrap: "198.51.100.60"}, []string{"ANCHORD_ADDRESS_MODE=dhcp-refresh", "ANCHORD_EXT_GATEWAY_IP=" + clientIP}, clientIP},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.setup)
			srv := w.startDHCPD(firstIP, shortLease)
			srv.change(func(d *dhcpd) { d.gateway, _ = netip.ParseAddr(c.lease) })
			w.anchord(c.env...).ready()
			eventually(t, hang, w.hasOnly(firstIP))
			eventually(t, deadline, w.box.hasRoute("default via "+c.want+" dev lan0"))
		})
	}
}

// option is one DHCP option on the wire.
func option(code byte, value string) []byte {
	return append([]byte{code, byte(len(value))}, value...)
}

func TestHostileDHCPOptions(t *testing.T) {
	t.Parallel()
	owned := "/run/tmp/owned"
	evil := "x\nip=198.51.100.66\nevent=nak\n'\"`>" + owned + "`$(>" + owned + ")\n"
	// A client has room for some 300 bytes of options.
	for _, codes := range [][]byte{{15, 17, 56}, {60, 64, 66}, {67, 114, 119}, {208, 209, 210}, {12, 40, 252}} {
		t.Run(fmt.Sprint(codes), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			srv := w.startDHCPD(firstIP, shortLease)
			srv.change(func(d *dhcpd) {
				for _, code := range codes {
					d.extra = append(d.extra, option(code, evil)...)
				}
			})
			a := w.anchord().ready()
			eventually(t, hang, w.hasOnly(firstIP))
			eventually(t, deadline, w.box.hasRoute("default via "+routerIP+" dev lan0"))
			if _, err := os.Stat(owned); err == nil {
				t.Error("an option was evaluated")
			}
			a.log() // fails on a broken line
		})
	}
}
