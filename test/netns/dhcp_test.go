package netns_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/tools"
)

// leasing is a project with the DHCP server that a test commands.
type leasing struct {
	*running
	srv *dhcpd
	web *backend // once there is traffic
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
	return startLeasingFrom(t, s, func(*dhcpd) {}, env...)
}

// startLeasingFrom is startLeasing with a server of a certain kind.
func startLeasingFrom(t *testing.T, s setup, kind func(*dhcpd), env ...string) *leasing {
	t.Helper()
	w := newWorld(t, s)
	l := &leasing{srv: w.startDHCPD(firstIP, shortLease), running: &running{world: w, ext: firstIP}}
	l.srv.change(kind)
	l.a = w.anchord(env...).ready()
	eventually(t, hang, w.hasOnly(firstIP))
	return l
}

// hasOnly is a condition: the LAN interface has this IPv4 address and no other;
// "" is none.
func (w *world) hasOnly(want string) func() error {
	return func() error {
		got, err := w.box.addresses(w.lan)
		if err == nil && strings.Join(got, " ") != want {
			err = fmt.Errorf("%s has %q, want %q", w.lan, got, want)
		}
		return err
	}
}

// forgets is a condition: no flow to this address is tracked.
func (w *world) forgets(addr string) func() error {
	return func() error {
		if out := w.box.run("conntrack", "-L", "--orig-dst", addr); out != "" {
			return fmt.Errorf("flows of the old address are tracked:\n%s", out)
		}
		return nil
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
	traffic := l.traffic()
	eventually(t, deadline, l.a.logs("dhcp.bound"))
	conns := l.box.monitor("conntrack", "-E", "-e", "DESTROY", "-p", "tcp")
	q := l.quiet()
	eventually(t, renewal, l.srv.hears(request, 2))
	eventually(t, deadline, func() error {
		if got := l.a.count(`anchord_dhcp_lease_remaining_seconds{family="v4"}`); got < 25 || got > 30 {
			return fmt.Errorf("the lease has %v s left, want just under 30", got)
		}
		return nil
	})
	q.check(t, firstIP)
	if out := conns.out.String(); strings.Contains(out, "10.213.0.10") {
		t.Errorf("the renewal ended flows:\n%s", out)
	}
	if err := traffic.unharmed(); err != nil {
		t.Error(err)
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
			eventually(t, deadline, l.forgets(firstIP))
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
	for name, end := range map[string]func(*dhcpd){
		"when the server takes the lease back": func(d *dhcpd) { d.addr, d.strict = netip.Addr{}, true },
		"when the lease runs out":              func(d *dhcpd) { d.silent = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasing(t, setup{bootstrap: given}, "ANCHORD_ADDRESS_MODE=dhcp-refresh")
			eventually(t, deadline, l.box.hasRoute("default via "+routerIP+" dev lan0"))
			traffic := l.traffic()
			l.srv.change(end)
			eventually(t, shortLease+5*time.Second, l.hasOnly(given))
			eventually(t, deadline, l.client.answers("tcp", given+":80", "web "+clientIP))
			eventually(t, deadline, l.web.answers("tcp", outsideIP+":80", "outside "+given))
			eventually(t, deadline, l.a.logs("dhcp.lost"))
			eventually(t, deadline, l.forgets(firstIP))
			for what, s := range map[string]*session{"inwards": traffic.inward, "outwards": traffic.outward} {
				if s.echo() == nil {
					t.Errorf("a connection %s of the old address lives on", what)
				}
			}
			eventually(t, deadline, l.a.logs("address.removed", firstIP))
			l.srv.change(func(d *dhcpd) { d.addr, d.strict, d.silent = netip.MustParseAddr(secondIP), false, false })
			eventually(t, shortLease, l.hasOnly(secondIP))
		})
	}
}

func TestALeaseThatEndsTakesItsAddressAlong(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	traffic := l.traffic()
	l.srv.change(func(d *dhcpd) { d.silent = true })
	eventually(t, shortLease+5*time.Second, l.hasOnly(""))
	eventually(t, deadline, l.a.metricGone(`anchord_dhcp_lease_remaining_seconds{family="v4"}`))
	if status, _, err := l.a.get("/readyz"); err != nil || status != 200 {
		t.Errorf("/readyz says %d, %v: no lease is needed", status, err)
	}
	eventually(t, deadline, l.a.logs("dhcp.lost", firstIP))
	eventually(t, deadline, func() error { // told as soon as it is decided, shown when it is done
		if r := l.reported(); len(r.Leases) > 0 {
			return fmt.Errorf("the status has %+v", r.Leases)
		}
		return nil
	})
	if traffic.inward.echo() == nil {
		t.Error("a connection to the old address lives on")
	}
	eventually(t, deadline, l.forgets(firstIP))
	eventually(t, deadline, l.a.logs("address.removed", firstIP))
	l.srv.change(func(d *dhcpd) { d.silent = false })
	eventually(t, renewal, l.hasOnly(firstIP))
	eventually(t, deadline, l.client.answers("tcp", l.addr(80), "web "+clientIP))
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

// optStatic is the option of classless static routes (RFC 3442).
const optStatic = 121

// routes is its value: pairs of a prefix and a gateway.
func routes(pairs ...string) []byte {
	value := []byte{}
	for _, pair := range pairs {
		dst, gateway, _ := strings.Cut(pair, " ")
		p := netip.MustParsePrefix(dst)
		value = append(value, byte(p.Bits()))
		value = append(value, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
		value = append(value, ips(gateway)...)
	}
	return value
}

// static makes the server name these routes, and no others, from now on.
func (l *leasing) static(pairs ...string) {
	l.srv.change(func(d *dhcpd) {
		if d.extra = nil; len(pairs) > 0 {
			d.extra = option(optStatic, string(routes(pairs...)))
		}
	})
}

// leasedRoutes is a condition: these are the routes that a lease gave.
func (l *leasing) leasedRoutes(want ...string) func() error {
	return func() error {
		out, err := l.box.try("ip", "-4", "route", "show", "proto", "dhcp")
		if err != nil {
			return err
		}
		got := strings.Split(strings.TrimSpace(out), "\n")
		for i := range got {
			got[i] = strings.ReplaceAll(strings.TrimSpace(got[i]), " dev lan0", "")
		}
		if strings.Join(got, ", ") != strings.Join(want, ", ") {
			return fmt.Errorf("the lease's routes are %q, want %q", got, want)
		}
		return nil
	}
}

func TestClasslessStaticRoutes(t *testing.T) {
	t.Parallel()
	const far, near = "203.0.113.128/25", "203.0.113.64/26"
	l := startLeasingFrom(t, setup{}, func(d *dhcpd) {
		d.gateway = netip.MustParseAddr(plainIP) // with option 121 it does not count
		d.extra = option(optStatic, string(routes(far+" "+clientIP, near+" 0.0.0.0", "0.0.0.0/0 "+routerIP)))
	})
	want := []string{near + " scope link", far + " via " + clientIP}
	eventually(t, deadline, l.leasedRoutes(want...))
	eventually(t, deadline, l.hasRoute("default via "+routerIP+" dev lan0"))
	t.Run("lead the services there", func(t *testing.T) {
		app := l.backend("app", 10, "")
		l.plain.ip("addr add 203.0.113.65/32 dev eth0\n")
		l.client.ip("addr add 203.0.113.129/32 dev eth0\n")
		l.plain.serveTCP("on-link", ":80")
		l.client.serveTCP("routed", ":80")
		eventually(t, deadline, app.answers("tcp", "203.0.113.65:80", "on-link "+firstIP))
		eventually(t, deadline, app.answers("tcp", "203.0.113.129:80", "routed "+firstIP))
	})
	t.Run("stay the same in a renewal", func(t *testing.T) {
		q := l.quiet()
		l.renew()
		q.check(t, firstIP)
	})
	t.Run("come back when somebody deletes or changes them", func(t *testing.T) {
		for _, line := range []string{"del " + far, "replace " + far + " via " + plainIP + " proto dhcp", "del " + near, "flush proto dhcp"} {
			promise(t, func() { l.box.run("sh", "-c", "ip route "+line) }, l.leasedRoutes(want...))
		}
		eventually(t, deadline, l.a.logs("route.reasserted", far))
		eventually(t, deadline, l.a.logs("route.reasserted", near))
	})
	t.Run("are replaced", func(t *testing.T) {
		l.static(far+" "+plainIP, "192.0.2.9/32 "+routerIP, "0.0.0.0/0 "+routerIP)
		l.renew()
		eventually(t, deadline, l.leasedRoutes("192.0.2.9 via "+routerIP, far+" via "+plainIP))
	})
	t.Run("are withdrawn", func(t *testing.T) {
		l.static()
		l.renew()
		eventually(t, deadline, l.leasedRoutes(""))
		eventually(t, deadline, l.hasRoute("default via "+plainIP+" dev lan0"))
	})
	t.Run("move to another address", func(t *testing.T) {
		l.static(far+" "+clientIP, near+" 0.0.0.0", "0.0.0.0/0 "+routerIP)
		l.srv.change(func(d *dhcpd) { d.addr = netip.MustParseAddr(secondIP) })
		l.renew()
		eventually(t, deadline, l.hasOnly(secondIP))
		eventually(t, deadline, l.leasedRoutes(want...))
		eventually(t, deadline, l.hasRoute("default via "+routerIP+" dev lan0"))
	})
	t.Run("go with a stop", func(t *testing.T) {
		l.a.terminate()
		if err := l.leasedRoutes("")(); err != nil {
			t.Error(err)
		}
		l.leftNothing(t)
	})
}

func TestClasslessStaticRoutesGoWithTheirLease(t *testing.T) {
	t.Parallel()
	const given = "198.51.100.60"
	l := startLeasingFrom(t, setup{bootstrap: given}, func(d *dhcpd) {
		d.extra = option(optStatic, string(routes("203.0.113.128/25 "+clientIP, "0.0.0.0/0 "+routerIP)))
	}, "ANCHORD_ADDRESS_MODE=dhcp-refresh")
	eventually(t, deadline, l.leasedRoutes("203.0.113.128/25 via "+clientIP))
	l.srv.change(func(d *dhcpd) { d.addr, d.strict = netip.Addr{}, true })
	l.askNow()
	eventually(t, deadline, l.hasOnly(given))
	eventually(t, deadline, l.leasedRoutes(""))
	eventually(t, deadline, l.hasRoute("default via "+routerIP+" dev lan0"))
}

func TestWithoutADefaultAmongTheStaticRoutesThereIsNone(t *testing.T) {
	t.Parallel()
	l := startLeasingFrom(t, setup{}, func(d *dhcpd) {
		d.extra = option(optStatic, string(routes("203.0.113.0/24 "+routerIP)))
	})
	eventually(t, deadline, l.leasedRoutes("203.0.113.0/24 via "+routerIP))
	throughout(t, 300*time.Millisecond, l.hasRoute(""))
	l.traffic()
}

func TestStaticRoutesFromDnsmasq(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	l := &leasing{running: &running{world: w, d: w.startDnsmasq("--dhcp-range=198.51.100.100,198.51.100.150,255.255.255.0,1h",
		"--dhcp-option=option:classless-static-route,203.0.113.128/25,"+clientIP+",0.0.0.0/0,"+routerIP)}}
	l.a = w.anchord().ready()
	l.ext = l.a.leased()
	eventually(t, deadline, l.leasedRoutes("203.0.113.128/25 via "+clientIP))
	eventually(t, deadline, l.hasRoute("default via "+routerIP+" dev lan0"))
}

// A route that would harm the project is left out, told once, and costs none
// of the others.
func TestAStaticRouteThatWouldDoHarmIsLeftOut(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	traffic := l.traffic()
	const good, shown = "203.0.113.128/25 " + clientIP, "203.0.113.128/25 via " + clientIP
	for _, c := range []struct {
		name  string
		route string // what is tried
		taken string // what of it is in the kernel
	}{
		{"the transit network", transitPrefix + " " + clientIP, ""},
		{"the transit network, on the LAN", transitPrefix + " 0.0.0.0", ""},
		{"half of the transit network", "10.213.0.0/25 " + clientIP, ""},
		{"a service", "10.213.0.10/32 " + clientIP, ""},
		{"the LAN itself", lanPrefix + " " + clientIP, ""},
		{"ourselves as gateway", "192.0.2.0/24 " + firstIP, ""},
		{"multicast as gateway", "192.0.2.0/24 224.0.0.1", ""},
		{"the broadcast address as gateway", "192.0.2.0/24 198.51.100.255", ""},
		{"multicast", "224.0.0.0/4 " + clientIP, ""},
		{"loopback", "127.0.0.0/8 " + clientIP, ""},
		{"the router by somebody else", routerIP + "/32 " + clientIP, routerIP + " via " + clientIP},
		{"one destination twice", "203.0.113.128/25 " + plainIP, ""},
		{"everything beyond the transit network", "10.0.0.0/8 " + clientIP, "10.0.0.0/8 via " + clientIP},
		{"bits beyond the prefix", "10.99.7.7/8 " + clientIP, "10.0.0.0/8 via " + clientIP},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.static()
			l.renew()
			eventually(t, deadline, l.leasedRoutes(""))
			ignored := len(l.a.entries("dhcp.option_ignored"))
			l.static(good, c.route, "0.0.0.0/0 "+routerIP)
			l.renew()
			want := []string{shown}
			if c.taken != "" {
				want = []string{c.taken, shown}
			}
			eventually(t, deadline, l.leasedRoutes(want...))
			eventually(t, deadline, l.hasRoute("default via "+routerIP+" dev lan0"))
			if c.taken == "" {
				eventually(t, deadline, func() error {
					if len(l.a.entries("dhcp.option_ignored")) == ignored {
						return errors.New("it is not told that a route is left out")
					}
					return nil
				})
			}
			// And it is over with that: nothing is set again and again.
			monitor := l.box.monitor("ip", "monitor", "route")
			time.Sleep(300 * time.Millisecond) // for "nothing more", there is nothing to wait for
			if lines := monitor.out.list(); len(lines) > 0 {
				t.Errorf("routes are still changed, %d times, as in %q", len(lines), lines[0])
			}
			if err := traffic.unharmed(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("the default route comes back", func(t *testing.T) {
		promise(t, func() { l.box.ip("route del default\n") }, l.hasRoute("default via "+routerIP+" dev lan0"))
	})
	if failed := l.a.entries("reconcile.failed"); len(failed) > 0 {
		t.Errorf("%v", failed)
	}
}

// cage is a root file system that shows what was written to it.
type cage struct {
	w     *world
	upper string // what was written to the root
	run   string // its /run
}

// caged starts anchord in a cage: there it may write to its run directory, and
// what it writes elsewhere is seen, with no other test's doings.
func (w *world) caged(env ...string) (*anchord, *cage) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "cage")
	c := &cage{w, filepath.Join(dir, "upper"), filepath.Join(dir, "run")}
	inside := filepath.Join(dir, "root")
	for _, d := range []string{c.upper, c.run + "/bin", c.run + strings.TrimPrefix(w.runDir(), "/run"), dir + "/work", dir + "/below/var/lib/dhcpcd", inside, w.runDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, d := range tools.Dirs() {
		if err := os.MkdirAll(dir+"/below"+d, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	w.write("cage/run"+strings.TrimPrefix(w.dir, "/run")+"/d.sock", "")
	cmd := w.command(w.boxID, env)
	script := `set -e
		mount -t overlay overlay -o "lowerdir=$DIR/below:/,upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
		for d in /proc /sys /dev /usr/share /etc/passwd $TOOLS; do mount --rbind $d "$DIR/root$d"; done
		mount -t tmpfs leases "$DIR/root/var/lib/dhcpcd"
		mount --bind "$DIR/run" "$DIR/root/run"
		for f in /run/bin "$W/run" "$W/d.sock"; do mount --bind "$f" "$DIR/root$f"; done
		exec chroot "$DIR/root" "$@"`
	cmd.Args = append([]string{"unshare", "-m", "sh", "-c", script, "cage"}, program(w.t))
	cmd.Env = append(cmd.Env, "DIR="+dir, "W="+w.dir, "TOOLS="+strings.Join(tools.Dirs(), " "))
	return w.launch(w.box, w.runDir(), cmd), c
}

// check fails the test if anything but the run directory was written to.
func (c *cage) check(t *testing.T) {
	t.Helper()
	own := map[string]bool{}
	for _, name := range []string{"lock", "anchord.sock", "leases", "leases/udhcpc.lease", "leases/udhcpc.nak", "leases/udhcpc.released", "dhcpcd.conf", "leases/dhcpcd.lease", "leases/dhcpcd.nak", "leases/dhcpcd.released"} {
		own[filepath.Join(c.w.runDir(), name)] = true
	}
	for _, root := range []string{c.upper, c.run, c.w.runDir()} {
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			// Those are mount points, dhcpcd's own files, and what is left of a
			// hook that a stop ended.
			expected := root == c.run && (d.IsDir() || d.Name() == "d.sock" || strings.HasPrefix(path, c.run+"/dhcpcd/")) ||
				strings.HasPrefix(path, c.w.runDir()+"/leases/.")
			if path != root && !expected && !own[path] {
				t.Errorf("%s was written", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestACageShowsWhatIsWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	a, c := w.caged("PATH=" + os.Getenv("PATH"))
	a.ready()
	inside := func(name string) string { return fmt.Sprintf("/proc/%d/root/%s", a.cmd.Process.Pid, name) }
	for _, name := range []string{"canary", "run/canary", "tmp/canary"} {
		if err := os.WriteFile(inside(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{c.upper + "/canary", c.run + "/canary", c.upper + "/tmp/canary"} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// hostile are texts for options, and what they shall not do.
var hostile = map[string]string{
	"the log's": "x\nlan0: dhcp.script: no space left\nudhcpc: offered address is in use\nlan0: soliciting a DHCPv6 lease\n",
	"shell":     "x\nip=198.51.100.66\nevent=nak\n'\"`>/canary1`$(>/canary2);>/canary3 &\n",
	"NUL":       "x\x00event=nak\x00ip=198.51.100.66\x00lease=1\x00ANCHORD_BOOT=x\x00",
	"long":      strings.Repeat("$(>/c) ", 37)[:255],
	"no UTF-8":  "\xff\xfe\x1b[31m\x1b]0;x\a\r\b\xc0\xaf",
	"a command": "-x --help ${IFS}%n%s\\0\\x60 */*|&;<>(){}[]~!#",
}

func TestHostileDHCPOptions(t *testing.T) {
	t.Parallel()
	// All that a hook is told as text, but for those that make the lease.
	codes := []byte{12, 14, 15, 17, 18, 40, 43, 56, 60, 61, 64, 66, 67, 77, 81, 100, 101, 114, 119, 120, 125, 160, 208, 209, 210, 212, 249, 252, 254}
	for kind, text := range hostile {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			l := &leasing{srv: w.startDHCPD(firstIP, time.Hour), running: &running{world: w, ext: firstIP}}
			l.srv.change(func(d *dhcpd) { d.sname, d.bootFile = text[:min(len(text), 63)], text[:min(len(text), 127)] })
			var c *cage
			l.a, c = w.caged("ANCHORD_LOG_LEVEL=debug")
			l.a.ready()
			eventually(t, hang, l.hasOnly(firstIP))
			// A client has room for some 300 bytes of options.
			for some := range slices.Chunk(codes, max(1, 250/(len(text)+2))) {
				l.srv.change(func(d *dhcpd) {
					d.extra = nil
					for _, code := range some {
						d.extra = append(d.extra, option(code, text)...)
					}
				})
				l.renew()
			}
			eventually(t, deadline, l.tells(firstIP+"/24", routerIP, "198.51.100.53"))
			for _, cond := range []func() error{l.hasOnly(firstIP), l.hasRoute("default via " + routerIP + " dev lan0")} {
				if err := cond(); err != nil {
					t.Error(err)
				}
			}
			l.a.terminate()
			l.a.log() // fails on a line that is no JSON
			c.check(t)
		})
	}
}

func TestNonsenseInALeaseIsLeftOut(t *testing.T) {
	t.Parallel()
	l := startLeasingFrom(t, setup{}, func(d *dhcpd) { d.lease = time.Hour })
	traffic := l.traffic()
	for _, c := range []struct {
		name  string
		code  byte
		value []byte
		quiet bool // nothing is told
	}{
		{"router 0.0.0.0", optRouter, ips("0.0.0.0"), false},
		{"router multicast", optRouter, ips("224.0.0.1"), false},
		{"router broadcast", optRouter, ips("255.255.255.255"), false},
		{"router loopback", optRouter, ips("127.0.0.1"), false},
		{"router link-local", optRouter, ips("169.254.1.1"), false},
		{"router ourselves", optRouter, ips(firstIP), false},
		{"router our gateway inside", optRouter, ips(transitGW), false},
		{"router the LAN's broadcast address", optRouter, ips("198.51.100.255"), false},
		{"router cut short", optRouter, []byte{198, 51, 100}, true},
		{"router after nonsense", optRouter, ips("0.0.0.0", firstIP, routerIP), false},
		{"DNS nonsense", optDNS, ips("0.0.0.0", "255.255.255.255", "224.0.0.251", "198.51.100.53"), false},
		{"DNS cut short", optDNS, append(ips("198.51.100.53"), 1, 2, 3), true},
		{"server nonsense", optServerID, ips("224.0.0.9"), false},
		{"mask with holes", optMask, ips("255.255.0.255"), false},
		{"mask as a list", optMask, ips("255.255.255.0", "255.0.0.0"), true},
		{"time of a hundred years", optLease, []byte{0xff, 0xff, 0xff, 0xfe}, true},
		{"time beyond what is signed", optLease, []byte{0x80, 0, 0, 0}, true},
		{"routes cut short", optStatic, []byte{24, 203, 0}, true},
		{"routes with too long a prefix", optStatic, append([]byte{33}, ips("203.0.113.0", routerIP)...), true},
		{"routes that are noise", optStatic, []byte(strings.Repeat("\x1d\xff\x07\x80", 50)), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ignored := len(l.a.entries("dhcp.option_ignored")) + len(l.a.entries("dhcp.lease_refused"))
			l.srv.change(func(d *dhcpd) { d.replaced, d.extra = map[byte][]byte{c.code: c.value}, nil })
			if c.code == optStatic {
				l.srv.change(func(d *dhcpd) { d.extra = option(c.code, string(c.value)) })
			}
			requests := len(l.srv.messages(request))
			l.askNow()
			eventually(t, deadline, l.srv.hears(request, requests+1))
			if !c.quiet {
				eventually(t, deadline, func() error {
					if len(l.a.entries("dhcp.option_ignored"))+len(l.a.entries("dhcp.lease_refused")) == ignored {
						return errors.New("what is left out is not told")
					}
					return nil
				})
			}
			throughout(t, 600*time.Millisecond, func() error {
				return errors.Join(l.hasOnly(firstIP)(), l.hasRoute("default via "+routerIP+" dev lan0")())
			})
			if err := traffic.unharmed(); err != nil {
				t.Error(err)
			}
			l.srv.change(func(d *dhcpd) { d.replaced, d.extra = nil, nil })
			l.renew()
		})
	}
	if failed := l.a.entries("reconcile.failed"); len(failed) > 0 {
		t.Errorf("%v", failed)
	}
}

func TestTheBareMinimumOfALease(t *testing.T) {
	t.Parallel()
	for name, missing := range map[string][]byte{
		"no router, no DNS": {optRouter, optDNS},
		"no server":         {optServerID},
		"no lease time":     {optLease},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasingFrom(t, setup{}, func(d *dhcpd) {
				for _, code := range missing {
					d.replaced[code] = nil
				}
			})
			web := l.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			eventually(t, deadline, l.client.answers("tcp", l.addr(80), "web "+clientIP))
			l.a.terminate()
			l.leftNothing(t)
		})
	}
}
