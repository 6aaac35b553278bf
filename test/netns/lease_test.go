package netns_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/tools"
)

// signal is sent to every process inside whose name is this.
func (n *ns) signal(name string, s syscall.Signal) {
	n.t.Helper()
	if n.tell(name, s) == 0 {
		n.t.Fatalf("%s: no %s runs", n.name, name)
	}
}

// tell is signal where nobody may be there; it returns how many were.
func (n *ns) tell(name string, s syscall.Signal) (sent int) {
	for _, pid := range n.pids() {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(comm)) == name {
			syscall.Kill(pid, s) //nolint:errcheck // it may have ended
			sent++
		}
	}
	return sent
}

// askNow makes the client renew now instead of after half of the lease.
func (l *leasing) askNow() { l.box.signal("udhcpc", syscall.SIGUSR1) }

// renew waits until a renewal has reached anchord.
func (l *leasing) renew() {
	l.t.Helper()
	before := len(l.a.entries("dhcp.renewed")) + len(l.a.entries("dhcp.bound"))
	l.askNow()
	eventually(l.t, deadline, func() error {
		if len(l.a.entries("dhcp.renewed"))+len(l.a.entries("dhcp.bound")) == before {
			return errors.New("the renewal is not told")
		}
		return nil
	})
}

// reported is what anchord status tells of leases and gateways.
type reported struct {
	Leases []struct {
		Family, Address, Server string
		Remaining               *int64 `json:"remaining_seconds"`
		DNS                     []string
	}
	Gateways []struct{ Family, Address, Source string }
	Problems []struct{ Event, Message string }
}

func (w *world) reported() reported {
	w.t.Helper()
	p := w.box.startCmd(w.command(w.boxID, nil, "status", "--json"))
	<-p.exited
	var r reported
	if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil || p.err != nil {
		w.t.Fatalf("anchord status --json: %v, %v\n%s\n%s", err, p.err, p.out, p.errOut)
	}
	return r
}

// tells is a condition: the status has one lease, of this kind.
func (w *world) tells(address, server string, dns ...string) func() error {
	return func() error {
		r := w.reported()
		if len(r.Leases) != 1 || r.Leases[0].Address != address || r.Leases[0].Server != server || strings.Join(r.Leases[0].DNS, " ") != strings.Join(dns, " ") {
			return fmt.Errorf("the status has %+v, want %s from %s, DNS %v", r.Leases, address, server, dns)
		}
		return nil
	}
}

// lifetime is how long the kernel keeps lan0's one address.
func (w *world) lifetime(want string) (time.Duration, error) {
	out, err := w.box.try("ip", "-j", "addr", "show", "dev", "lan0", "to", want)
	if err != nil {
		return 0, err
	}
	var links []struct {
		Addrs []struct {
			Valid uint32 `json:"valid_life_time"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return 0, err
	}
	for _, l := range links {
		for _, a := range l.Addrs {
			return time.Duration(a.Valid) * time.Second, nil
		}
	}
	return 0, fmt.Errorf("lan0 has no %s", want)
}

// pulse sends a datagram after each answer; one that is not answered is lost.
type pulse struct {
	mu       sync.Mutex
	answered int
	lost     error
	stop     func()
}

func (n *ns) pulse(addr string, pause time.Duration) *pulse {
	n.t.Helper()
	c, err := n.open("udp", addr)
	if err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	p := &pulse{stop: func() { c.Close(); <-done }}
	n.t.Cleanup(p.stop)
	go func() {
		defer close(done)
		for p.beat(c) {
			time.Sleep(pause)
		}
	}()
	return p
}

func (p *pulse) beat(c net.Conn) bool {
	_, err := c.Write([]byte("?\n"))
	if err == nil {
		c.SetReadDeadline(time.Now().Add(deadline)) //nolint:errcheck // as in ask
		_, err = c.Read(make([]byte, 512))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.answered++
		return true
	}
	if !errors.Is(err, net.ErrClosed) {
		p.lost = fmt.Errorf("after %d answers: %w", p.answered, err)
	}
	return false
}

// beats is a condition: all are answered.
func (p *pulse) beats() error { return p.beaten(1) }

// count is how many were answered so far.
func (p *pulse) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered
}

// beaten is a condition: so many at least are answered, and none is lost.
func (p *pulse) beaten(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost == nil && p.answered < n {
		return fmt.Errorf("%d datagrams are answered, want %d", p.answered, n)
	}
	return p.lost
}

// traffic is a connection in each direction and a flow of datagrams.
type traffic struct {
	inward, outward *session
	datagrams       *pulse
}

// traffic is for the IPv4 address.
func (l *leasing) traffic() *traffic {
	l.t.Helper()
	l.web = l.webServer()
	return l.carry(l.web, l.ext, outsideIP, clientIP)
}

// webServer is a service for traffic, and a server beyond the router.
func (w *world) webServer() *backend {
	w.t.Helper()
	web := w.backend("web", 10, "tcp/80,udp/53")
	web.serveTCP("web", ":80")
	web.serveUDP("web", ":53")
	w.outside.serveTCP("outside", ":80")
	return web
}

// carry opens flows from and to the project's address ext.
func (w *world) carry(web *backend, ext, outside, client string) *traffic {
	w.t.Helper()
	http, dns, out := net.JoinHostPort(ext, "80"), net.JoinHostPort(ext, "53"), net.JoinHostPort(outside, "80")
	eventually(w.t, deadline, w.client.answers("tcp", http, "web "+client))
	eventually(w.t, deadline, web.answers("tcp", out, "outside "+ext))
	eventually(w.t, deadline, w.client.answers("udp", dns, "web "+client))
	t := &traffic{w.client.session(http), web.session(out), w.client.pulse(dns, 10*time.Millisecond)}
	eventually(w.t, deadline, t.datagrams.beats)
	return t
}

// unharmed is a condition: nothing was lost.
func (t *traffic) unharmed() error {
	var errs []error
	for what, err := range map[string]error{
		"connection inwards": t.inward.echo(), "connection outwards": t.outward.echo(), "datagrams": t.datagrams.beats(),
	} {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	return errors.Join(errs...)
}

// quiet watches the kernel during a renewal, in which nothing may be written
// but the lifetime of an address.
type quiet struct {
	ip, nft *proc
	known   int
}

func (w *world) quiet() *quiet {
	w.t.Helper()
	q := &quiet{ip: w.box.monitor("ip", "-o", "monitor", "address", "route", "link"), nft: w.box.monitor("nft", "monitor")}
	q.ip.settle(time.Second)
	q.known = len(q.ip.out.list())
	return q
}

func (q *quiet) check(t *testing.T, addr string) {
	t.Helper()
	eventually(t, hang, func() error {
		if len(q.ip.out.list()) == q.known {
			return errors.New("the renewal did not write the lifetime")
		}
		return nil
	})
	q.ip.settle(500 * time.Millisecond)
	lines := q.ip.out.list()[q.known:]
	for _, line := range lines {
		if !strings.Contains(line, addr) || strings.Contains(line, "Deleted") || !strings.Contains(line, "valid_lft") {
			t.Errorf("the renewal wrote more than the lifetime: %s", line)
		}
	}
	if out := q.nft.out.String(); out != "" {
		t.Errorf("the renewal touched the ruleset:\n%s", out)
	}
	q.ip.kill()
	q.nft.kill()
}

func TestALeaseIsRenewedWithWhoeverAnswers(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]func(*leasing) string{
		"the server hears broadcasts only": func(l *leasing) string {
			l.router.run("nft", "add table ip f; add chain ip f in { type filter hook input priority 0; }; add rule ip f in ip daddr "+routerIP+" udp dport 67 drop")
			return routerIP
		},
		"another server": func(l *leasing) string {
			l.srv.change(func(d *dhcpd) { d.silent = true })
			l.startDHCPDOn(l.plain, plainIP, firstIP, shortLease)
			return plainIP
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasing(t, setup{})
			traffic := l.traffic()
			server := trouble(l)
			q := l.quiet()
			l.askNow()
			eventually(t, hang, l.a.logs("dhcp.renewed", `"server":"`+server+`"`))
			q.check(t, firstIP)
			if err := traffic.unharmed(); err != nil {
				t.Error(err)
			}
			if left, err := l.lifetime(firstIP); err != nil || left < 20*time.Second || left > shortLease {
				t.Errorf("the kernel keeps the address for %v (%v)", left, err)
			}
		})
	}
}

func TestWhatARenewalChangesIsTakenOver(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	eventually(t, deadline, l.tells(firstIP+"/24", routerIP, "198.51.100.53"))
	traffic := l.traffic()
	t.Run("the DNS servers", func(t *testing.T) {
		l.srv.change(func(d *dhcpd) { d.replaced[optDNS] = ips("198.51.100.54", outsideIP) })
		l.renew()
		eventually(t, deadline, l.tells(firstIP+"/24", routerIP, "198.51.100.54", outsideIP))
	})
	t.Run("the lease time", func(t *testing.T) {
		l.srv.change(func(d *dhcpd) { d.lease = time.Hour })
		l.renew()
		eventually(t, deadline, func() error {
			if left, err := l.lifetime(firstIP); err != nil || left < time.Hour-time.Minute {
				return fmt.Errorf("the kernel keeps the address for %v (%v)", left, err)
			}
			return nil
		})
	})
	t.Run("the router", func(t *testing.T) {
		l.plain.sysctl("net.ipv4.ip_forward", "1")
		l.srv.change(func(d *dhcpd) { d.gateway = netip.MustParseAddr(plainIP) })
		l.renew()
		eventually(t, deadline, l.hasRoute("default via "+plainIP+" dev lan0"))
		eventually(t, deadline, l.a.logs("route.set", plainIP))
		if err := traffic.unharmed(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the router is not named any more: it stays", func(t *testing.T) {
		l.srv.change(func(d *dhcpd) { d.gateway = netip.Addr{} })
		l.renew()
		throughout(t, 300*time.Millisecond, l.hasRoute("default via "+plainIP+" dev lan0"))
	})
	t.Run("the subnet mask", func(t *testing.T) {
		l.srv.change(func(d *dhcpd) { d.replaced[optMask] = ips("255.255.255.128") })
		l.renew()
		eventually(t, deadline, l.hasOnly(firstIP))
		eventually(t, deadline, l.tells(firstIP+"/25", routerIP, "198.51.100.54", outsideIP))
		if out := l.box.run("ip", "-4", "-o", "addr", "show", "dev", "lan0"); !strings.Contains(out, firstIP+"/25") {
			t.Errorf("lan0 has %s", out)
		}
		eventually(t, deadline, l.hasRoute("default via "+plainIP+" dev lan0"))
		if err := traffic.unharmed(); err != nil {
			t.Error(err)
		}
	})
	if failed := l.a.entries("reconcile.failed"); len(failed) > 0 {
		t.Errorf("%v", failed)
	}
}

func TestALeaseForOneHostOnlyHasItsRouterAllTheSame(t *testing.T) {
	t.Parallel()
	l := startLeasingFrom(t, setup{}, func(d *dhcpd) { d.replaced[optMask] = ips("255.255.255.255") })
	eventually(t, deadline, l.hasRoute("default via "+routerIP+" dev lan0"))
	traffic := l.traffic()
	l.renew()
	if err := traffic.unharmed(); err != nil {
		t.Error(err)
	}
}

func TestALeaseThatNeverEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	d := w.startDnsmasq("--dhcp-range=198.51.100.100,198.51.100.150,255.255.255.0,infinite")
	l := &leasing{running: &running{world: w, d: d, a: w.anchord().ready()}}
	l.ext = l.a.leased()
	if out := w.box.run("ip", "-4", "-o", "addr", "show", "dev", "lan0"); !strings.Contains(out, "valid_lft forever") {
		t.Errorf("the kernel would end it: %s", out)
	}
	eventually(t, deadline, l.tells(l.ext+"/24", routerIP, routerIP))
	if r := w.reported(); r.Leases[0].Remaining != nil {
		t.Errorf("the status has %+v", r.Leases)
	}
	q := l.quiet()
	l.renew()
	q.ip.settle(500 * time.Millisecond)
	if changed := q.ip.out.list()[q.known:]; len(changed) > 0 {
		t.Errorf("there is nothing to write for a renewal, and yet: %q", changed)
	}
	t.Run("after all it ends", func(t *testing.T) {
		l.d.kill()
		srv := l.startDHCPD(l.ext, time.Hour)
		l.renew()
		eventually(t, deadline, func() error {
			if left, err := l.lifetime(l.ext); err != nil || left > time.Hour {
				return fmt.Errorf("the kernel keeps the address for %v (%v)", left, err)
			}
			return nil
		})
		l.a.terminate()
		eventually(t, deadline, srv.hears(release, 1))
	})
}

// A client cannot renew such a lease in time: udhcpc takes each for one of 30 s
// at least.
func TestAVeryShortLeaseDoesNotFlap(t *testing.T) {
	t.Parallel()
	l := startLeasingFrom(t, setup{}, func(d *dhcpd) { d.lease = 8 * time.Second })
	traffic := l.traffic()
	monitor := l.box.monitor("ip", "-o", "monitor", "address")
	eventually(t, shortLease, l.srv.hears(request, 2))
	eventually(t, deadline, l.a.logs("dhcp.renewed"))
	eventually(t, shortLease, l.srv.hears(request, 3))
	if monitor.out.contains("Deleted") {
		t.Errorf("the address flaps:\n%s", monitor.out)
	}
	if err := traffic.unharmed(); err != nil {
		t.Error(err)
	}
	// Nobody renews it now: it is not kept for long.
	l.srv.change(func(d *dhcpd) { d.silent = true })
	eventually(t, shortLease+5*time.Second, l.hasOnly(""))
	l.srv.change(func(d *dhcpd) { d.silent = false })
	eventually(t, shortLease+5*time.Second, l.hasOnly(firstIP))
}

func TestTwoServersOnOneLAN(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	l := &leasing{srv: w.startDHCPD(firstIP, shortLease), running: &running{world: w, ext: firstIP}}
	// It has another address to give, and refuses whoever chooses the first.
	other := w.startDHCPDOn(w.plain, plainIP, secondIP, shortLease)
	other.change(func(d *dhcpd) { d.jealous, d.strict = true, true })
	l.a = w.anchord().ready()
	l.ext = l.a.leased()
	chosen, refused := l.srv, other
	if l.ext == secondIP {
		chosen, refused = other, l.srv
	}
	eventually(t, deadline, chosen.hears(request, 1))
	monitor := l.box.monitor("ip", "-o", "monitor", "address")
	for range 3 {
		l.renew()
	}
	if monitor.out.contains("Deleted") {
		t.Errorf("the address changed:\n%s", monitor.out)
	}
	for _, m := range refused.messages(request) {
		if !m.ciaddr.IsUnspecified() {
			t.Error("the other server was asked to renew the lease")
		}
	}
}

func TestASilentServerIsAskedAgainAfterPausesThatAreCapped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	srv := w.startDHCPD(firstIP, shortLease)
	srv.change(func(d *dhcpd) { d.silent = true })
	a := w.anchord("ANCHORD_DHCP_BACKOFF_MAX=2s").ready()
	const tries = 3
	eventually(t, 2*time.Minute, func() error {
		if n := len(a.entries("dhcp.failed")); n < tries {
			return fmt.Errorf("%d tries failed, want %d", n, tries)
		}
		return nil
	})
	// Within a try, a DISCOVER every two seconds; a new try has a new xid.
	var bursts [][]dhcpMessage
	for _, m := range srv.messages(discover) {
		if n := len(bursts); n == 0 || string(bursts[n-1][0].raw[4:8]) != string(m.raw[4:8]) {
			bursts = append(bursts, nil)
		}
		bursts[len(bursts)-1] = append(bursts[len(bursts)-1], m)
	}
	if len(bursts) < tries {
		t.Fatalf("%d tries were heard", len(bursts))
	}
	pauses := map[float64]bool{}
	for i, e := range a.entries("dhcp.failed")[:tries] {
		pause, _ := e["again_in_s"].(float64)
		pauses[pause] = true
		if pause <= 0 || pause > 2 {
			t.Errorf("try %d is followed by a pause of %v s, want at most 2", i+1, pause)
		}
		if n := len(bursts[i]); n < 2 || n > 6 {
			t.Errorf("try %d was %d DISCOVERs", i+1, n)
		}
	}
	if len(pauses) < 2 {
		t.Errorf("the pauses have no jitter: %v", pauses)
	}
}

// After a lease that was lost, the pauses are the same as at the start.
func TestAServerThatFellSilentIsAskedAgainSoon(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{}, "ANCHORD_DHCP_BACKOFF_MAX=1s")
	l.srv.change(func(d *dhcpd) { d.silent = true })
	before := len(l.srv.messages(discover))
	l.askNow()
	eventually(t, renewal, l.srv.hears(discover, before+4))
	eventually(t, 2*time.Minute, l.srv.hears(discover, before+5))
	if pause, _ := l.a.entries("dhcp.failed")[0]["again_in_s"].(float64); pause <= 0 || pause > 1 {
		t.Errorf("the next try came after a pause of %v s, want at most 1", pause)
	}
	last := l.srv.messages(discover)[before+4]
	if got, _ := netip.AddrFromSlice(last.options[optRequested]); got.String() != firstIP {
		t.Errorf("it asked for %v, want %s", got, firstIP)
	}
}

func TestAnAddressThatSomebodyElseTakesIsGivenUp(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	traffic := l.traffic()
	l.client.ip("addr add " + firstIP + "/32 dev eth0\n")
	l.askNow()
	eventually(t, deadline, l.srv.hears(decline, 1))
	eventually(t, deadline, l.a.logs("dhcp.address_in_use", firstIP))
	eventually(t, deadline, l.hasOnly(""))
	if traffic.inward.echo() == nil {
		t.Error("a connection to it lives on")
	}
	l.srv.change(func(d *dhcpd) { d.addr = netip.MustParseAddr(secondIP) })
	eventually(t, 30*time.Second, l.hasOnly(secondIP))
}

func TestAStopReleasesTheLease(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*leasing){
		"in peace": func(*leasing) {},
		"in the middle of a renewal": func(l *leasing) {
			l.srv.change(func(d *dhcpd) { d.silent = true })
			l.askNow()
			eventually(l.t, deadline, l.srv.hears(request, 2))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasing(t, setup{})
			prepare(l)
			if took := l.a.terminate(); took > 5*time.Second {
				t.Errorf("the stop took %v", took)
			}
			eventually(t, deadline, l.srv.hears(release, 1))
			m := l.srv.messages(release)[0]
			if id := string(m.options[optClientID]); m.ciaddr.String() != firstIP || id != "\x00"+project {
				t.Errorf("%s was released by %q", m.ciaddr, id)
			}
			l.leftNothing(t)
			// The next start asks for it again.
			l.srv.change(func(d *dhcpd) { d.silent = false })
			before := len(l.srv.messages(discover))
			l.a = l.anchord().ready()
			eventually(t, hang, l.hasOnly(firstIP))
			if got, _ := netip.AddrFromSlice(l.srv.messages(discover)[before].options[optRequested]); got.String() != firstIP {
				t.Errorf("the next start asks for %v, want %s", got, firstIP)
			}
		})
	}
}

func TestAClientThatDiesIsStartedAgainAndKeepsTheAddress(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{})
	// Not the address that it had asked for at first.
	l.srv.change(func(d *dhcpd) { d.addr = netip.MustParseAddr(secondIP) })
	l.renew()
	eventually(t, deadline, l.hasOnly(secondIP))
	l.ext = secondIP
	traffic := l.traffic()
	monitor := l.box.monitor("ip", "-o", "monitor", "address")
	before := len(l.srv.messages(discover))
	l.box.signal("udhcpc", syscall.SIGKILL)
	eventually(t, hang, l.srv.hears(discover, before+1))
	if got, _ := netip.AddrFromSlice(l.srv.messages(discover)[before].options[optRequested]); got.String() != secondIP {
		t.Errorf("the new client asks for %v, want %s", got, secondIP)
	}
	eventually(t, deadline, l.a.logs("dhcp.renewed"))
	if monitor.out.contains("Deleted") {
		t.Errorf("the address was gone for a while:\n%s", monitor.out)
	}
	if err := traffic.unharmed(); err != nil {
		t.Error(err)
	}
}

func TestALeaseThatCannotBeUsedIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*dhcpd){
		"no subnet mask": func(d *dhcpd) { d.replaced[optMask] = ips("0.0.0.0") },
		"no address":     func(d *dhcpd) { d.addr = netip.MustParseAddr("224.0.0.9") },
		"a time of zero": func(d *dhcpd) { d.lease = 0 },
		"no mask, for ever": func(d *dhcpd) {
			d.replaced[optMask], d.replaced[optLease] = ips("0.0.0.0"), []byte{255, 255, 255, 255}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			srv := w.startDHCPD(firstIP, time.Hour)
			srv.change(spoil)
			a := w.anchord("ANCHORD_DHCP_BACKOFF_MAX=2s").ready()
			eventually(t, hang, a.logs("dhcp.lease_refused"))
			if err := w.hasOnly("")(); err != nil {
				t.Error(err)
			}
			srv.change(func(d *dhcpd) { d.addr, d.lease, d.replaced = netip.MustParseAddr(secondIP), time.Hour, nil })
			eventually(t, hang, w.hasOnly(secondIP))
		})
	}
}

func TestARenewalThatCannotBeUsedLeavesTheLeaseAsItWas(t *testing.T) {
	t.Parallel()
	l := startLeasing(t, setup{}, "ANCHORD_DHCP_BACKOFF_MAX=2s")
	l.srv.change(func(d *dhcpd) { d.lease, d.replaced[optMask] = time.Hour, ips("0.0.0.0") })
	l.askNow()
	eventually(t, hang, l.a.logs("dhcp.lease_refused"))
	if err := l.hasOnly(firstIP)(); err != nil {
		t.Error(err)
	}
	// The client believes that it has a lease for an hour.
	eventually(t, shortLease+5*time.Second, l.hasOnly(""))
	l.srv.change(func(d *dhcpd) { d.replaced = nil })
	eventually(t, hang, l.hasOnly(firstIP))
}

// A jump of the wall clock is none of the client's business.
func TestAJumpOfTheWallClockEndsNoLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	clock := w.fakeClock()
	l := &leasing{srv: w.startDHCPD(firstIP, shortLease), running: &running{world: w, ext: firstIP}}
	l.a = clock.anchord().ready()
	eventually(t, hang, l.hasOnly(firstIP))
	monitor := l.box.monitor("ip", "-o", "monitor", "address")
	for i, jump := range []string{"+10y", "-1y"} {
		clock.set(jump)
		before := time.Now()
		eventually(t, renewal, l.srv.hears(request, 2+i))
		if took := time.Since(before); took < shortLease/2-5*time.Second {
			t.Errorf("%s: the client renewed after %v", jump, took)
		}
		eventually(t, deadline, func() error {
			if n := len(l.a.entries("dhcp.renewed")); n != 1+i {
				return fmt.Errorf("renewed %d times", n)
			}
			return nil
		})
		eventually(t, deadline, func() error {
			if left := l.a.count(`anchord_dhcp_lease_remaining_seconds{family="v4"}`); left < 20 || left > 30 {
				return fmt.Errorf("%s: the lease has %v s left", jump, left)
			}
			return nil
		})
	}
	if monitor.out.contains("Deleted") {
		t.Errorf("the address was gone for a while:\n%s", monitor.out)
	}
}

// fakeClock is the wall clock of the DHCP clients: they are found in path
// first, in wrappers that preload libfaketime.
type fakeClock struct {
	w    *world
	path string
}

func (w *world) fakeClock() *fakeClock {
	w.t.Helper()
	c := &fakeClock{w: w, path: w.dir + "/bin:" + os.Getenv("PATH")}
	if err := os.Mkdir(w.dir+"/bin", 0o755); err != nil {
		w.t.Fatal(err)
	}
	c.set("+0")
	wrapper := fmt.Sprintf("#!/bin/sh\nPATH=%s LD_PRELOAD=%s FAKETIME_TIMESTAMP_FILE=%s/clock FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1 exec \"${0##*/}\" \"$@\"\n",
		os.Getenv("PATH"), tools.File("libfaketime.so.1"), w.dir)
	for _, name := range []string{"udhcpc", "dhcpcd", "date"} {
		if err := os.WriteFile(filepath.Join(w.dir, "bin", name), []byte(wrapper), 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	c.set("+10y")
	year := w.box.run(filepath.Join(w.dir, "bin", "date"), "+%Y")
	if want := time.Now().UTC().AddDate(9, 6, 0).Year(); strings.TrimSpace(year) < fmt.Sprint(want) {
		w.t.Fatalf("the clock cannot be faked: it is the year %s", year)
	}
	c.set("+0")
	return c
}

// anchord is started so that its clients find this clock. Their library leaves
// files in /dev/shm when they are killed.
func (c *fakeClock) anchord(env ...string) *anchord {
	cmd := c.w.command(c.w.boxID, append(env, "PATH="+c.path))
	cmd.Args = append([]string{"unshare", "-m", "sh", "-c", `mount -t tmpfs shm /dev/shm && exec "$@"`, "clock"}, cmd.Args...)
	return c.w.launch(c.w.box, c.w.runDir(), cmd)
}

// set moves the clock against the real one.
func (c *fakeClock) set(offset string) {
	c.w.t.Helper()
	c.w.write("clock.new", offset+"\n")
	if err := os.Rename(filepath.Join(c.w.dir, "clock.new"), filepath.Join(c.w.dir, "clock")); err != nil {
		c.w.t.Fatal(err)
	}
}
