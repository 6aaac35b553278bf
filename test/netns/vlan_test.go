package netns_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// vlanParent is the interface of the LAN's VLAN that the box was given.
const vlanParent = "eth0.42"

// startVLAN makes a box that Docker attaches to the transit network alone, and
// an anchord that makes itself an interface on the VLAN and has a lease by it.
func startVLAN(t *testing.T, s setup, env ...string) *running {
	t.Helper()
	s.parent = vlanParent
	w := newWorld(t, s)
	r := &running{world: w, d: w.startDnsmasq(s.dnsmasqArgs()...)}
	r.a = w.anchord(append(env, "ANCHORD_VLAN_PARENT="+vlanParent)...).ready()
	r.ext = r.a.leased()
	return r
}

// child is a condition: the box has its own interface on the VLAN.
func (w *world) child(name string) func() error {
	return func() error {
		out, err := w.box.try("ip", "-d", "link", "show", "dev", name)
		if err == nil && (!strings.Contains(out, name+"@"+vlanParent) || !strings.Contains(out, "macvlan mode bridge") || !strings.Contains(out, ",UP")) {
			err = fmt.Errorf("%s is %s", name, out)
		}
		return err
	}
}

func TestAnInterfaceOfOurOwnOnAVLAN(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		env   []string
		iface string
		mac   string // "" for any
	}{
		{"named by default", nil, "anchord-ext", derivedMAC},
		{"named by the user", []string{"ANCHORD_EXT_IFACE=lan.42"}, "lan.42", derivedMAC},
		{"with the user's MAC", []string{"ANCHORD_EXT_MAC=02:42:c0:ff:ee:00"}, "anchord-ext", "02:42:c0:ff:ee:00"},
		{"with the kernel's MAC", []string{"ANCHORD_EXT_MAC=keep"}, "anchord-ext", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{ipv6: true, parent: vlanParent})
			w.lan = c.iface
			r := &running{world: w, d: w.startDnsmasq(setup{ipv6: true}.dnsmasqArgs()...)}
			web := r.backend("web", 10, "tcp/80,udp/53")
			web.serveTCP("web", ":80")
			web.serveUDP("web", ":53")
			r.outside.serveTCP("outside", ":80")
			r.a = w.anchord(append(c.env, "ANCHORD_VLAN_PARENT="+vlanParent)...).ready()
			r.ext = r.a.leased()
			if err := w.child(c.iface)(); err != nil {
				t.Error(err)
			}
			mac := r.box.mac(c.iface)
			if c.mac != "" && mac != c.mac {
				t.Errorf("the MAC is %s, want %s", mac, c.mac)
			}
			if table := r.d.table(); len(table) != 1 || table[0] != (lease{mac, r.ext, project, "00:" + hexOf(project)}) {
				t.Errorf("the lease table has %v", table)
			}
			eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
			eventually(t, deadline, r.outside.answers("udp", r.addr(53), "web "+outsideIP))
			eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+r.ext))
			eventually(t, deadline, web.answers("tcp", r.addr(80), "web "+r.ext))
			eventually(t, deadline, r.client.refused("tcp", r.addr(81)))
			ext6 := slaac(firstPrefix, mac)
			eventually(t, hang, r.hasOnly6(ext6))
			eventually(t, deadline, r.client.answers("tcp", on6(ext6, 80), "web "+clientIP6))
			eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+ext6))
			eventually(t, deadline, r.a.logs("address.interface_made", c.iface, vlanParent))
			eventually(t, deadline, r.a.states(c.iface, mac, r.ext, ext6, routerIP))
			if failed := append(r.a.entries("reconcile.failed"), r.a.entries("network.ext_missing")...); len(failed) > 0 {
				t.Errorf("%v", failed)
			}
		})
	}
}

func TestTheParentOfOurInterfaceIsNoHostOnTheLAN(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true, parent: vlanParent})
	parent := w.box.mac(vlanParent)
	// But for the kernel's word, without an address, on the groups that it is in:
	// only /proc/sys, which a container cannot write, would keep it from that.
	seen := w.client.capture("eth0", "ether host "+parent+" and not ether dst 33:33:00:00:00:16")
	r := &running{world: w, d: w.startDnsmasq(setup{ipv6: true}.dnsmasqArgs()...)}
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	r.a = w.anchord("ANCHORD_VLAN_PARENT=" + vlanParent).ready()
	r.ext = r.a.leased()
	ext6 := slaac(firstPrefix, derivedMAC)
	eventually(t, hang, r.hasOnly6(ext6))
	for range 5 {
		r.client.run("ip", "neigh", "flush", "all")
		eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
		eventually(t, deadline, r.client.answers("tcp", on6(ext6, 80), "web "+clientIP6))
		for _, addr := range []string{r.ext, ext6} {
			eventually(t, deadline, r.client.knows(addr, derivedMAC))
		}
	}
	if addrs := w.box.run("ip", "-o", "addr", "show", "dev", vlanParent, "scope", "global"); addrs != "" {
		t.Errorf("the parent has addresses:\n%s", addrs)
	}
	if packets := seen.text(); packets != "" {
		t.Errorf("the parent is seen on the LAN:\n%s", packets)
	}
}

func TestOurOwnInterfaceGoesWithUs(t *testing.T) {
	t.Parallel()
	r := startVLAN(t, setup{ipv6: true})
	eventually(t, hang, r.hasOnly6(slaac(firstPrefix, derivedMAC)))
	if took := r.a.terminate(); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	out := r.box.run("ip", "-o", "link", "show")
	if strings.Contains(out, "anchord-ext") || !strings.Contains(out, vlanParent) || !strings.Contains(out, "transit0") {
		t.Errorf("the interfaces left are\n%s", out)
	}
	eventually(t, deadline, func() error {
		if !r.d.errOut.contains("DHCPRELEASE(eth0) " + r.ext) {
			return fmt.Errorf("dnsmasq got no release:\n%s", r.d.errOut)
		}
		return nil
	})
	if out := r.box.run("nft", "list", "tables"); strings.Contains(out, "anchord") {
		t.Errorf("tables are left: %q", out)
	}
	if n := r.box.processes(""); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	r.a = r.anchord("ANCHORD_VLAN_PARENT=" + vlanParent).ready()
	if got := r.a.leased(); got != r.ext {
		t.Errorf("the address is now %s, was %s", got, r.ext)
	}
}

func TestOurOwnInterfaceAfterAKill(t *testing.T) {
	t.Parallel()
	r := startVLAN(t, setup{})
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	s := r.client.session(r.addr(80))
	r.a.crash()
	if err := r.child("anchord-ext")(); err != nil {
		t.Errorf("after the kill: %v", err)
	}
	r.a = r.anchord("ANCHORD_VLAN_PARENT=" + vlanParent).ready()
	if got := r.a.leased(); got != r.ext {
		t.Errorf("the address is now %s, was %s", got, r.ext)
	}
	if err := s.echo(); err != nil {
		t.Errorf("a connection did not survive: %v", err)
	}
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	r.oneClient(t)
	r.a.terminate()
	if out := r.box.run("ip", "-o", "link", "show"); strings.Contains(out, "anchord-ext") {
		t.Errorf("the interfaces left are\n%s", out)
	}
}

func TestOurOwnInterfaceWithAnotherMACAfterAKill(t *testing.T) {
	t.Parallel()
	r := startVLAN(t, setup{ipv6: true})
	r.a.crash()
	const mac = "02:42:c0:ff:ee:00"
	r.a = r.anchord("ANCHORD_VLAN_PARENT="+vlanParent, "ANCHORD_EXT_MAC="+mac).ready()
	eventually(t, hang, r.hasOnly6(slaac(firstPrefix, mac)))
	if got := r.box.mac(r.lan); got != mac {
		t.Errorf("the MAC is %s, want %s", got, mac)
	}
}

func TestOurOwnInterfaceIsMadeAgain(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]struct{ away, back func(*running) }{
		"deleted by hand":       {func(*running) {}, func(r *running) { r.box.ip("link delete anchord-ext\n") }},
		"its parent comes back": {func(r *running) { r.box.ip("link delete " + vlanParent + "\n") }, func(r *running) { r.giveParent(vlanParent) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startVLAN(t, setup{ipv6: true})
			web := r.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			r.outside.serveTCP("outside", ":80")
			ext6 := slaac(firstPrefix, derivedMAC)
			eventually(t, hang, r.hasOnly6(ext6))
			eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
			harm.away(r)
			if name != "deleted by hand" {
				eventually(t, deadline, r.a.logs("network.ext_missing", vlanParent))
			}
			harm.back(r)
			eventually(t, deadline, r.child("anchord-ext"))
			eventually(t, hang, func() error {
				got, err := r.extAddress()
				if err == nil && got != r.ext {
					err = fmt.Errorf("the address is now %s, was %s", got, r.ext)
				}
				return err
			})
			eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
			eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+r.ext))
			eventually(t, hang, r.hasOnly6(ext6))
			eventually(t, deadline, r.client.answers("tcp", on6(ext6, 80), "web "+clientIP6))
			eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+ext6))
			r.oneClient(t)
			if n := len(r.a.entries("address.interface_made")); n != 2 {
				t.Errorf("told %d times that it was made: %v", n, r.a.entries("address.interface_made"))
			}
		})
	}
}

func TestAParentThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, iface string
		parent      string
		words       []string
	}{
		{"missing", "", "eth7.7", []string{"ANCHORD_VLAN_PARENT", "eth7.7"}},
		{"its child would be named like an attached interface", "transit0", vlanParent, []string{"transit0", transitNet, "ANCHORD_EXT_IFACE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{parent: vlanParent})
			eventually(t, hang, func() error { // the kernel says so some time later
				if link := w.box.run("ip", "-o", "link", "show", "dev", "transit0"); !strings.Contains(link, " state UP ") {
					return errors.New(link)
				}
				return nil
			})
			before := w.box.run("ip", "-o", "link", "show")
			a := w.anchord("ANCHORD_VLAN_PARENT="+c.parent, "ANCHORD_EXT_IFACE="+c.iface)
			eventually(t, hang, a.logs("network.ext_missing", c.words...))
			eventually(t, deadline, func() error {
				status, body, err := a.get("/readyz")
				if err == nil && (status != 503 || !containsAll(body, c.words)) {
					err = fmt.Errorf("/readyz says %d %s", status, body)
				}
				return err
			})
			throughout(t, 500*time.Millisecond, func() error {
				if after := w.box.run("ip", "-o", "link", "show"); after != before {
					return errors.New("interfaces were changed:\n" + after)
				}
				return nil
			})
			if n := len(a.entries("network.ext_missing")); n != 1 {
				t.Errorf("told %d times", n)
			}
			a.terminate()
		})
	}
	t.Run("missing until later", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setup{parent: "elsewhere"})
		r := &running{world: w, d: w.startDnsmasq()}
		r.a = w.anchord("ANCHORD_VLAN_PARENT=" + vlanParent)
		eventually(t, hang, r.a.logs("network.ext_missing", vlanParent))
		w.box.ip("link delete elsewhere\n")
		w.giveParent(vlanParent)
		r.a.ready().leased()
	})
}

func TestTheParentItselfAsTheInterfacesNameIsAnErrorOfTheConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{parent: vlanParent})
	a := w.anchord("ANCHORD_VLAN_PARENT="+vlanParent, "ANCHORD_EXT_IFACE="+vlanParent)
	select {
	case <-a.exited:
	case <-time.After(hang):
		t.Fatal("it runs")
	}
	if code := a.cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if err := a.logs("config.invalid", "ANCHORD_EXT_IFACE", vlanParent)(); err != nil {
		t.Error(err)
	}
}

func TestAnInterfaceThatIsNotOursIsNotTakenForOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{parent: vlanParent})
	w.box.ip("link add anchord-ext type bridge\nlink set anchord-ext up\n")
	a := w.anchord("ANCHORD_VLAN_PARENT=" + vlanParent)
	eventually(t, hang, a.logs("network.ext_missing", "anchord-ext", "ANCHORD_EXT_IFACE"))
	a.terminate()
	if links := w.box.run("ip", "-o", "link", "show"); !strings.Contains(links, "anchord-ext") {
		t.Error("somebody else's interface was removed")
	}
}

func TestAnInterfaceThatDockerMadeAsTheParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true})
	w.lan = "anchord-ext"
	r := &running{world: w, d: w.startDnsmasq(setup{ipv6: true}.dnsmasqArgs()...)}
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	r.outside.serveTCP("outside", ":80")
	r.a = w.anchord("ANCHORD_VLAN_PARENT=lan0").ready()
	r.ext = r.a.leased()
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+r.ext))
	ext6 := slaac(firstPrefix, derivedMAC)
	eventually(t, hang, r.hasOnly6(ext6))
	eventually(t, deadline, r.client.answers("tcp", on6(ext6, 80), "web "+clientIP6))
	if got := r.box.mac("lan0"); got != boxMAC {
		t.Errorf("the parent's MAC is now %s", got)
	}
	r.a.crash()
	r.a = w.anchord("ANCHORD_VLAN_PARENT=lan0").ready()
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	r.a.terminate()
	if out := r.box.run("ip", "-o", "link", "show"); strings.Contains(out, "anchord-ext") || !strings.Contains(out, "lan0") {
		t.Errorf("the interfaces left are\n%s", out)
	}
}
