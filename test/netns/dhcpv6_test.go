package netns_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Addresses that a DHCPv6 server gives.
const (
	leasedIP6 = "2001:db8:1::7:77"
	otherIP6  = "2001:db8:1::7:88"
)

// contains is a condition: a file has this text.
func (w *world) contains(path, text string) func() error {
	return func() error {
		data, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(data), text) {
			err = fmt.Errorf("%s has %q", path, data)
		}
		return err
	}
}

// leasing6 is a project on a LAN whose addresses are managed, with the DHCPv6
// server and the router that a test commands.
type leasing6 struct {
	*running
	srv    *dhcpd6
	router *advertiser
	web    *backend // once there is traffic
}

// managed is what a router says whose LAN has a DHCPv6 server and no SLAAC.
func managed() advert { return advert{lifetime: 1800, managed: true} }

func ordinary6(*dhcpd6) {}

// newLeasing6 is a LAN with a server of a certain kind, before anchord comes.
func newLeasing6(t testing.TB, kind func(*dhcpd6)) *leasing6 {
	t.Helper()
	w := newWorld(t, setup{ipv6: true})
	l := &leasing6{running: &running{world: w, ext: leasedIP6}, srv: w.startDHCPD6(leasedIP6)}
	l.srv.change(kind)
	l.router = w.advertise(w.router, managed())
	return l
}

func startLeasing6(t testing.TB, kind func(*dhcpd6), env ...string) *leasing6 {
	t.Helper()
	l := newLeasing6(t, kind)
	l.a = l.anchord(env...).ready()
	eventually(t, hang, l.hasOnly6(leasedIP6))
	eventually(t, deadline, l.a.logs("dhcp.bound", leasedIP6))
	return l
}

// traffic is for the IPv6 address.
func (l *leasing6) traffic() *traffic {
	l.t.Helper()
	l.web = l.webServer()
	return l.carry(l.web, leasedIP6, outsideIP6, clientIP6)
}

// renewed is a condition: anchord tells of at least so many renewals.
func (a *anchord) renewed(times int) func() error {
	return func() error {
		if n := len(a.entries("dhcp.renewed")); n < times {
			return fmt.Errorf("renewed %d times, want %d", n, times)
		}
		return nil
	}
}

// keeps watches whether an address is taken away.
func (w *world) keeps(addr string) func() error {
	monitor := w.box.monitor("ip", "-o", "monitor", "address")
	return func() error {
		for _, line := range monitor.out.list() {
			if strings.Contains(line, "Deleted") && strings.Contains(line, addr+"/") {
				return fmt.Errorf("%s was gone for a while:\n%s", addr, monitor.out)
			}
		}
		return nil
	}
}

func TestAManagedLANHasADHCPv6Lease(t *testing.T) {
	t.Parallel()
	l := startLeasing6(t, ordinary6)
	eventually(t, deadline, l.tells(leasedIP6+"/128", "", "2001:db8:1::53"))
	if out := l.box.run("ip", "-6", "-o", "addr", "show", "dev", "lan0", "to", leasedIP6); !strings.Contains(out, leasedIP6+"/128") {
		t.Errorf("lan0 has %s", out)
	}
	if left, err := l.lifetime(leasedIP6); err != nil || left > lifetime6*time.Second {
		t.Errorf("the kernel keeps the address for %v (%v)", left, err)
	}
	if got := l.a.count(`anchord_dhcp_lease_remaining_seconds{family="v6"}`); got <= 20 || got > lifetime6 {
		t.Errorf("the lease has %v s left", got)
	}
	if err := l.traffic().unharmed(); err != nil {
		t.Error(err)
	}
	for _, m := range l.srv.messages(solicit6, request6) {
		if name := string(m.options[optFQDN6]); !strings.Contains(name, "\x04"+project) {
			t.Errorf("the client calls itself %q", name)
		}
	}
}

func TestADHCPv6RenewalOfTheSameLeaseDisturbsNothing(t *testing.T) {
	t.Parallel()
	l := startLeasing6(t, ordinary6)
	traffic := l.traffic()
	q := l.quiet()
	eventually(t, hang, l.a.renewed(len(l.a.entries("dhcp.renewed"))+1))
	q.check(t, leasedIP6)
	if err := traffic.unharmed(); err != nil {
		t.Error(err)
	}
}

func TestADHCPv6LeaseIsRenewedWithWhoeverAnswers(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]func(*leasing6){
		"the server does not hear renewals": func(l *leasing6) {
			l.srv.change(func(d *dhcpd6) { d.deaf[renew6] = true })
		},
		"another server": func(l *leasing6) {
			l.srv.hush(true)
			l.plain.ip("addr add fe80::30/64 dev eth0 nodad\n")
			l.startDHCPD6On(l.plain, leasedIP6)
		},
		"the server has lost its memory": func(l *leasing6) {
			l.srv.change(func(d *dhcpd6) { d.status[renew6], d.status[rebind6] = noBinding, noBinding })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasing6(t, ordinary6)
			traffic := l.traffic()
			kept := l.keeps(leasedIP6)
			trouble(l)
			before := len(l.a.entries("dhcp.renewed")) + len(l.a.entries("dhcp.bound"))
			eventually(t, hang, func() error {
				if len(l.a.entries("dhcp.renewed"))+len(l.a.entries("dhcp.bound")) == before {
					return errors.New("no renewal is told")
				}
				return nil
			})
			if err := errors.Join(kept(), traffic.unharmed()); err != nil {
				t.Error(err)
			}
			if left, err := l.lifetime(leasedIP6); err != nil || left < 15*time.Second {
				t.Errorf("the kernel keeps the address for %v (%v)", left, err)
			}
		})
	}
}

func TestAnotherDHCPv6AddressIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*dhcpd6){
		"offered at the renewal":     func(d *dhcpd6) { d.addr = netip.MustParseAddr(otherIP6) },
		"the old one has no binding": func(d *dhcpd6) { d.addr, d.strict = netip.MustParseAddr(otherIP6), true },
		"the old one is not of here": func(d *dhcpd6) { d.addr, d.status[renew6] = netip.MustParseAddr(otherIP6), notOnLink },
		"the old one is taken back":  func(d *dhcpd6) { d.addr, d.deaf[renew6] = netip.MustParseAddr(otherIP6), true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasing6(t, ordinary6)
			traffic := l.traffic()
			l.srv.change(change)
			eventually(t, 2*lifetime6*time.Second, l.hasOnly6(otherIP6))
			l.carry(l.web, otherIP6, outsideIP6, clientIP6)
			eventually(t, deadline, l.a.logs("address.added", otherIP6))
			eventually(t, deadline, l.a.logs("address.removed", leasedIP6))
			eventually(t, deadline, l.forgets6(leasedIP6))
			if traffic.inward.echo() == nil {
				t.Error("a connection to the old address lives on")
			}
		})
	}
}

// forgets6 is forgets for IPv6.
func (w *world) forgets6(addr string) func() error {
	return func() error {
		if out := w.box.run("conntrack", "-L", "-f", "ipv6", "--orig-dst", addr); out != "" {
			return fmt.Errorf("flows of the old address are tracked:\n%s", out)
		}
		return nil
	}
}

func TestADHCPv6LeaseThatEndsTakesItsAddressAlong(t *testing.T) {
	t.Parallel()
	l := startLeasing6(t, func(d *dhcpd6) { d.valid, d.preferred = 12, 10 }, "ANCHORD_DHCP_BACKOFF_MAX=2s")
	traffic := l.traffic()
	l.srv.hush(true)
	eventually(t, hang, l.hasOnly6())
	eventually(t, deadline, l.a.logs("dhcp.lost", leasedIP6))
	eventually(t, deadline, l.a.logs("address.removed", leasedIP6))
	eventually(t, deadline, l.forgets6(leasedIP6))
	if traffic.inward.echo() == nil {
		t.Error("a connection to the old address lives on")
	}
	eventually(t, deadline, l.a.metricGone(`anchord_dhcp_lease_remaining_seconds{family="v6"}`))
	if r := l.reported(); len(r.Leases) > 0 {
		t.Errorf("the status has %+v", r.Leases)
	}
	l.srv.hush(false)
	eventually(t, 30*time.Second, l.hasOnly6(leasedIP6))
	eventually(t, deadline, l.client.answers("tcp", on6(leasedIP6, 80), "web "+clientIP6))
}

func TestADHCPv6LeaseThatNeverEnds(t *testing.T) {
	t.Parallel()
	l := startLeasing6(t, func(d *dhcpd6) { d.valid, d.preferred, d.t1, d.t2 = forever6, forever6, forever6, forever6 })
	if out := l.box.run("ip", "-6", "-o", "addr", "show", "dev", "lan0", "to", leasedIP6); !strings.Contains(out, "valid_lft forever") {
		t.Errorf("the kernel would end it: %s", out)
	}
	eventually(t, deadline, l.tells(leasedIP6+"/128", "", "2001:db8:1::53"))
	if r := l.reported(); r.Leases[0].Remaining != nil {
		t.Errorf("the status has %+v", r.Leases)
	}
	l.a.terminate()
	eventually(t, deadline, l.srv.hears(release6, 1))
}

func TestAVeryShortDHCPv6LeaseDoesNotFlap(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]func(*dhcpd6){
		"its times left to the client": func(d *dhcpd6) { d.valid, d.preferred, d.t1, d.t2 = 6, 6, 0, 0 },
		"its times told":               func(d *dhcpd6) { d.valid, d.preferred, d.t1, d.t2 = 6, 4, 1, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasing6(t, kind)
			traffic := l.traffic()
			kept := l.keeps(leasedIP6)
			eventually(t, 30*time.Second, l.a.renewed(len(l.a.entries("dhcp.renewed"))+3))
			if err := errors.Join(kept(), traffic.unharmed()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestASilentDHCPv6ServerIsAskedAgainAndDelaysNothing(t *testing.T) {
	t.Parallel()
	l := newLeasing6(t, func(d *dhcpd6) { d.deaf[0] = true })
	l.startDHCPD(firstIP, time.Hour)
	l.a = l.anchord("ANCHORD_DHCP_BACKOFF_MAX=2s").ready()
	eventually(t, deadline, l.hasOnly(firstIP))
	l.webServer()
	eventually(t, deadline, l.client.answers("tcp", firstIP+":80", "web "+clientIP))
	eventually(t, time.Minute, func() error {
		if n := len(l.a.entries("dhcp.failed")); n < 2 {
			return fmt.Errorf("%d tries failed, want 2", n)
		}
		return nil
	})
	tries := map[string]int{}
	for _, m := range l.srv.messages(solicit6) {
		tries[m.xid]++
	}
	if len(tries) < 2 {
		t.Errorf("%d tries were heard: %v", len(tries), tries)
	}
	for _, e := range l.a.entries("dhcp.failed") {
		if pause, _ := e["again_in_s"].(float64); e.str("family") != "v6" || pause <= 0 || pause > 2 {
			t.Errorf("%v", e)
		}
	}
	l.srv.hush(false)
	eventually(t, hang, l.hasOnly6(leasedIP6))
}

func TestADHCPv6ServerWithNothingToGiveIsNotFlooded(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]func(*dhcpd6){
		"no address":                      func(d *dhcpd6) { d.addr = netip.Addr{} },
		"no address after all":            func(d *dhcpd6) { d.status[request6] = noAddrsAvail },
		"an address that is not of here":  func(d *dhcpd6) { d.status[request6] = notOnLink },
		"an address for no time":          func(d *dhcpd6) { d.valid, d.preferred = 0, 0 },
		"an address that is none":         func(d *dhcpd6) { d.addr = netip.MustParseAddr("ff02::1") },
		"an address of the link":          func(d *dhcpd6) { d.addr = netip.MustParseAddr("fe80::77") },
		"preferred for longer than valid": func(d *dhcpd6) { d.valid, d.preferred = 30, 60 },
		"times that cross":                func(d *dhcpd6) { d.t1, d.t2 = 25, 5 },
		"times beyond the end":            func(d *dhcpd6) { d.t1, d.t2 = 1000, 2000 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLeasing6(t, kind)
			l.a = l.anchord("ANCHORD_DHCP_BACKOFF_MAX=2s").ready()
			eventually(t, hang, l.srv.hears(solicit6, 1))
			time.Sleep(5 * time.Second) // for how much is sent and told in it
			if n := len(l.srv.messages(solicit6, request6, renew6, rebind6)); n > 200 {
				t.Errorf("%d messages in 5 s", n)
			}
			if n := len(l.a.log()); n > 50 {
				t.Errorf("%d lines are logged in 5 s", n)
			}
			l.srv.change(func(d *dhcpd6) {
				d.addr, d.status = netip.MustParseAddr(otherIP6), nil
				d.valid, d.preferred, d.t1, d.t2 = lifetime6, lifetime6, renewal6, rebind6At
			})
			eventually(t, 50*time.Second, l.hasOnly6(otherIP6))
			eventually(t, deadline, l.a.logs("dhcp.bound", otherIP6))
		})
	}
}

func TestADHCPv6AddressThatSomebodyElseHasIsNotUsed(t *testing.T) {
	t.Parallel()
	l := newLeasing6(t, ordinary6)
	l.plain.ip("addr add " + leasedIP6 + "/64 dev eth0 nodad\n")
	l.plain.serveTCP("plain", ":80")
	l.webServer()
	l.a = l.anchord("ANCHORD_DHCP_BACKOFF_MAX=2s").ready()
	eventually(t, hang, l.a.logs("dhcp.address_in_use", leasedIP6))
	eventually(t, deadline, l.client.answers("tcp", on6(leasedIP6, 80), "plain "+clientIP6))
	l.srv.change(func(d *dhcpd6) { d.addr = netip.MustParseAddr(otherIP6) })
	eventually(t, 30*time.Second, l.hasOnly6(otherIP6))
	eventually(t, deadline, l.client.answers("tcp", on6(otherIP6, 80), "web "+clientIP6))
	if err := l.client.answers("tcp", on6(leasedIP6, 80), "plain "+clientIP6)(); err != nil {
		t.Error(err)
	}
}

func TestAStopReleasesTheDHCPv6Lease(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*leasing6){
		"in peace": func(*leasing6) {},
		// dhcpcd then tells the server nothing.
		"in the middle of a renewal": func(l *leasing6) {
			l.srv.hush(true)
			eventually(l.t, hang, l.srv.hearsMore(renew6))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLeasing6(t, ordinary6)
			first := l.srv.messages(solicit6)[0]
			prepare(l)
			if took := l.a.terminate(); took > 5*time.Second {
				t.Errorf("the stop took %v", took)
			}
			if name == "in peace" {
				eventually(t, deadline, l.srv.hears(release6, 1))
			}
			for _, m := range l.srv.messages(release6) {
				if fmt.Sprint(m.addrs) != "["+leasedIP6+"]" || m.iaid != first.iaid || string(m.options[optServerID6]) != l.srv.duid {
					t.Errorf("the release is for %v, %d, by %q", m.addrs, m.iaid, m.options[optServerID6])
				}
			}
			if err := l.hasOnly6()(); err != nil {
				t.Error(err)
			}
			if n := l.box.processes(""); n != 0 {
				t.Errorf("%d processes are left", n)
			}
		})
	}
}

func TestARecreatedProjectIsTheSameToADHCPv6Server(t *testing.T) {
	t.Parallel()
	l := startLeasing6(t, ordinary6)
	first := l.srv.messages(solicit6)[0]
	if id := hex.EncodeToString(first.options[optClientID6]); !strings.HasPrefix(id, "0004") || len(id) != 36 {
		t.Errorf("the DUID is %s, want a DUID-UUID", id)
	}
	for _, c := range []struct {
		name   string
		end    func()
		hinted bool
		env    []string
	}{
		{"after a stop", func() { l.a.terminate() }, true, nil},
		{"after a kill", func() { l.a.crash(); l.box.ip("addr flush dev lan0 scope global\n") }, true, nil},
		{"with an empty run folder", func() { l.a.terminate(); os.RemoveAll(l.runDir()) }, false, nil},
		{"with another MAC", func() {
			l.a.terminate()
			os.RemoveAll(l.runDir())
			l.box.ip("link set lan0 down\nlink set lan0 address " + boxMAC + " up\n") // as Docker made it
		}, false, []string{"ANCHORD_EXT_MAC=02:42:00:00:be:ef"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.end()
			before := len(l.srv.messages(solicit6))
			l.a = l.anchord(c.env...).ready()
			eventually(t, hang, l.hasOnly6(leasedIP6))
			eventually(t, deadline, l.srv.hears(solicit6, before+1))
			m := l.srv.messages(solicit6)[before]
			if string(m.options[optClientID6]) != string(first.options[optClientID6]) || m.iaid != first.iaid {
				t.Errorf("DUID %x, IAID %d; at first %x, %d", m.options[optClientID6], m.iaid, first.options[optClientID6], first.iaid)
			}
			if c.hinted && fmt.Sprint(m.addrs) != "["+leasedIP6+"]" {
				t.Errorf("asked for %v, want %s", m.addrs, leasedIP6)
			}
		})
	}
}

func TestADHCPv6ClientThatDiesIsStartedAgainAndKeepsTheAddress(t *testing.T) {
	t.Parallel()
	l := startLeasing6(t, func(d *dhcpd6) { d.t1, d.t2 = 10, 20 })
	traffic := l.traffic()
	kept := l.keeps(leasedIP6)
	before := len(l.srv.messages(solicit6, confirm6, rebind6, renew6))
	l.box.signal("dhcpcd", syscall.SIGKILL)
	eventually(t, hang, func() error {
		if len(l.srv.messages(solicit6, confirm6, rebind6, renew6)) == before {
			return errors.New("the client does not come back")
		}
		return nil
	})
	eventually(t, hang, func() error {
		if left, err := l.lifetime(leasedIP6); err != nil || left < 25*time.Second {
			return fmt.Errorf("the kernel keeps the address for %v (%v)", left, err)
		}
		return nil
	})
	if err := errors.Join(kept(), traffic.unharmed()); err != nil {
		t.Error(err)
	}
}

func TestAJumpOfTheWallClockEndsNoDHCPv6Lease(t *testing.T) {
	t.Parallel()
	l := newLeasing6(t, func(d *dhcpd6) { d.t1, d.t2 = 6, 12 })
	clock := l.fakeClock()
	l.a = clock.anchord().ready()
	eventually(t, hang, l.hasOnly6(leasedIP6))
	solicited := len(l.srv.messages(solicit6))
	kept := l.keeps(leasedIP6)
	for _, jump := range []string{"+10y", "-1y"} {
		eventually(t, hang, l.srv.hearsMore(renew6))
		clock.set(jump)
		before := time.Now()
		eventually(t, hang, l.srv.hearsMore(renew6))
		if took := time.Since(before); took < 4*time.Second {
			t.Errorf("%s: the client renewed after %v", jump, took)
		}
		if n := len(l.srv.messages(solicit6)); n != solicited {
			t.Errorf("%s: the client began anew", jump)
		}
	}
	if err := kept(); err != nil {
		t.Error(err)
	}
}

// dhcpcd could do all of this by itself, and does unless it is told not to.
func TestTheDHCPv6ClientLeavesTheKernelsOwnAddressesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true})
	settings := func() string {
		return w.box.run("sh", "-c", "cd /proc/sys/net/ipv6/conf && grep -r . all default lan0 transit0 | grep -v stable_secret | sort")
	}
	srv := w.startDHCPD6(leasedIP6)
	srv.hush(true)
	says := ordinary(firstPrefix)
	says.managed = true
	router := w.advertise(w.router, says)
	a := w.anchord().ready()
	eventually(t, hang, srv.hears(solicit6, 1))
	before := settings()
	srv.hush(false)
	eventually(t, hang, w.hasOnly6(leasedIP6, firstIP6))
	eventually(t, deadline, w.box.hasRoutes6(router.byRA()))
	eventually(t, hang, a.renewed(2))
	if after := settings(); after != before {
		t.Errorf("settings changed:\n%s\ninstead of\n%s", minus(after, before), minus(before, after))
	}
	// The kernel still hears routers.
	router.say(func(a *advert) { a.prefixes = append(a.prefixes, onLink{secondPrefix, 86400, 14400}) })
	eventually(t, deadline, w.hasOnly6(leasedIP6, firstIP6, secondIP6))
	router.say(func(a *advert) { a.lifetime = 0 })
	eventually(t, deadline, w.box.hasRoutes6())
	router.say(func(a *advert) { a.lifetime = 1800 })
	eventually(t, deadline, w.box.hasRoutes6(router.byRA()))
	a.terminate()
	eventually(t, deadline, w.hasOnly6(firstIP6, secondIP6))
	if after := settings(); after != before {
		t.Errorf("settings changed by the stop:\n%s\ninstead of\n%s", minus(after, before), minus(before, after))
	}
}

func TestHostileDHCPv6Options(t *testing.T) {
	t.Parallel()
	codes := []uint16{16, 17, 21, 22, optDomains6, 27, 29, 30, 31, optFQDN6, 41, 42, 56, 57, 59, 60, 65, 74, 82, 83, 103, 108, 65000}
	for kind, text := range hostile {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			l := newLeasing6(t, func(d *dhcpd6) {
				d.t1, d.t2 = 1, 2
				d.message = text
				d.extra = option6(optStatus6, "\x00\x00"+text)
				d.inIA = option6(optStatus6, "\x00\x00"+text)
				labels := string(byte(min(len(text), 63))) + text[:min(len(text), 63)] + "\x00"
				for _, code := range codes {
					switch code {
					case optDomains6, 21, 29, 65:
						d.extra = append(d.extra, option6(code, labels)...)
					case optFQDN6:
						d.extra = append(d.extra, option6(code, "\x01"+labels)...)
					default:
						d.extra = append(d.extra, option6(code, text[:min(len(text), 80)])...)
					}
				}
			})
			var c *cage
			l.a, c = l.caged("ANCHORD_LOG_LEVEL=debug", "ANCHORD_DHCP_BACKOFF_MAX=1s")
			l.a.ready()
			eventually(t, hang, l.hasOnly6(leasedIP6))
			eventually(t, hang, l.a.renewed(2))
			eventually(t, deadline, l.tells(leasedIP6+"/128", "", "2001:db8:1::53"))
			// And as the reason of a refusal.
			l.srv.change(func(d *dhcpd6) {
				d.status[renew6], d.status[rebind6], d.status[request6] = noBinding, noBinding, noBinding
			})
			eventually(t, hang, l.srv.hearsMore(request6))
			l.srv.change(func(d *dhcpd6) { d.status = map[byte]byte{}; d.extra = nil })
			eventually(t, hang, l.hasOnly6(leasedIP6))
			for _, event := range []string{"dhcp.hook_failed", "dhcp.address_in_use"} {
				if told := l.a.entries(event); len(told) > 0 {
					t.Errorf("what the server says is taken for what happened: %v", told)
				}
			}
			l.a.terminate()
			l.a.log() // fails on a line that is no JSON
			c.check(t)
		})
	}
}
