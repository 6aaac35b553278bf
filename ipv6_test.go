package anchord_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// working6 is a project on a LAN whose router speaks IPv6, after all was done.
func working6(t *testing.T) *rig {
	t.Helper()
	g := leased()
	g.w.v6("2001:db8::77/64")
	g.w.advert(anchord.Advert{Router: addr("fe80::1"), Until: g.w.Now + 30*time.Minute})
	g.w.Observation.Routes[anchord.V6] = []anchord.Route{router6()}
	g.look(t, anchord.SourceAll)
	g.w.Observation.Routes[anchord.V6] = []anchord.Route{router6()} // the MAC's change took it along
	g.link("lan0").Local = addr("fe80::77")
	g.look(t, anchord.SourceAll)
	g.wantEffects(t, anchord.SourceAll)
	g.told("")
	return g
}

func router6() anchord.Route {
	return anchord.Route{Family: anchord.V6, Gateway: addr("fe80::1"), Iface: "lan0", Metric: 1024, Protocol: anchord.ProtoRA}
}

func TestWhenADHCPv6ServerIsAsked(t *testing.T) {
	managed := anchord.Advert{Managed: true}
	for _, tt := range []struct {
		name string
		set  func(*world, *anchord.Config)
		want bool
	}{
		{"the router says so", func(w *world, _ *anchord.Config) { w.v6(); w.advert(managed) }, true},
		{"the router does not", func(w *world, _ *anchord.Config) { w.v6(); w.advert(anchord.Advert{}) }, false},
		{"no router", func(w *world, _ *anchord.Config) { w.v6() }, false},
		{"another interface's router", func(w *world, _ *anchord.Config) {
			w.v6()
			w.Adverts = map[string]anchord.Advert{"transit0": managed}
		}, false},
		{"IPv6 is off, or its first address still checked", func(w *world, _ *anchord.Config) { w.advert(managed) }, false},
		{"a lease lasts though the router says so no more", func(w *world, _ *anchord.Config) { w.v6(); w.lease6("2001:db8::9") }, true},
		{"bootstrap", func(w *world, c *anchord.Config) { w.v6(); w.advert(managed); c.Mode = anchord.ModeBootstrap }, false},
		{"slaac-ra-only", func(w *world, c *anchord.Config) { w.v6(); w.advert(managed); c.Mode = anchord.ModeSLAACRAOnly }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c := usual(), auto()
			tt.set(w, &c)
			s, _ := w.decide(t, c, anchord.Memory{})
			if got := s.Clients[anchord.V6] != nil; got != tt.want {
				t.Errorf("client %v", got)
			}
		})
	}
}

func TestALostLeaseIsAskedForFromTheStart(t *testing.T) {
	w := usual()
	w.v6()
	w.advert(anchord.Advert{Managed: true})
	first, m := w.decide(t, auto(), anchord.Memory{})
	w.lease6("2001:db8::9")
	held, m := w.decide(t, auto(), m)
	w.Now += 2 * time.Hour
	lost, m := w.decide(t, auto(), m)
	again, _ := w.decide(t, auto(), m)
	a, b, c, d := *first.Clients[anchord.V6], *held.Clients[anchord.V6], *lost.Clients[anchord.V6], *again.Clients[anchord.V6]
	if a != b || b == c || c != d {
		t.Errorf("clients %+v, %+v, %+v, %+v: only the loss of the lease makes another", a, b, c, d)
	}
	if held.External[anchord.V6].Prefix.String() != "2001:db8::9/128" || lost.External[anchord.V6].Prefix.IsValid() {
		t.Errorf("addresses %v, %v", held.External[anchord.V6], lost.External[anchord.V6])
	}
}

func TestTheAddressOfADHCPv6Lease(t *testing.T) {
	g := working6(t)
	g.w.advert(anchord.Advert{Managed: true, Router: addr("fe80::1"), Until: g.w.Now + 30*time.Minute})
	g.wantEffects(t, anchord.SourceKernel, "client6 lan0 shop ")
	g.w.lease6("2001:db8::9")
	g.wantEffects(t, anchord.SourceLease, "lease lan0 2001:db8::9/128 for 1h0m0s, 30m0s")
	g.wantEffects(t, anchord.SourceAll)
	g.w.Now += 20 * time.Minute
	g.w.lease6("2001:db8::9")
	g.wantEffects(t, anchord.SourceLease, "lease lan0 2001:db8::9/128 for 1h0m0s, 30m0s")
	g.w.lease6("2001:db8::a")
	g.wantEffects(t, anchord.SourceLease, "lease lan0 2001:db8::a/128 for 1h0m0s, 30m0s", "remove lan0 2001:db8::9/128")
	g.w.Now += 2 * time.Hour
	g.w.advert(anchord.Advert{Managed: true, Router: addr("fe80::1"), Until: g.w.Now + 30*time.Minute})
	if did := g.look(t, anchord.SourceAll); !slices.Contains(did, "remove lan0 2001:db8::a/128") {
		t.Errorf("the lease ended: %q", did)
	}
}

func TestALeasedAddressThatAnotherHostHas(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail func(l *anchord.Link)
	}{
		{"the kernel takes it away", func(l *anchord.Link) { l.Addrs = l.Addrs[:len(l.Addrs)-1] }},
		{"the kernel marks it", func(l *anchord.Link) { l.Addrs[len(l.Addrs)-1].Duplicate = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := working6(t)
			g.w.advert(anchord.Advert{Managed: true, Router: addr("fe80::1"), Until: g.w.Now + 30*time.Minute})
			g.w.lease6("2001:db8::9")
			g.look(t, anchord.SourceAll)
			l := g.link("lan0")
			l.Addrs[len(l.Addrs)-1].Tentative = true
			g.wantEffects(t, anchord.SourceKernel)
			tt.fail(l)
			g.look(t, anchord.SourceKernel)
			if did := g.look(t, anchord.SourceKernel); !slices.Contains(did, "client6 lan0 shop 2001:db8::9") {
				t.Errorf("did %q, want the client begin anew", did)
			}
			g.wantEffects(t, anchord.SourceKernel)
			if told := g.told(anchord.EventDHCPDeclined); len(told) != 1 {
				t.Errorf("told %q", told)
			}
			// The same address, given again, or another one.
			for _, again := range []string{"2001:db8::9", "2001:db8::a"} {
				g.w.Now += time.Second
				g.w.lease6(again)
				g.w.Leases[anchord.V6].First = true
				if did := g.look(t, anchord.SourceLease); !slices.Contains(did, "lease lan0 "+again+"/128 for 1h0m0s, 30m0s") {
					t.Errorf("%s again: did %q", again, did)
				}
			}
		})
	}
}

func TestIPv6AddressesAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := working6(t)
		synctest.Wait()
		g.announced = nil
		l := g.link("lan0")
		added := anchord.LinkAddr{Prefix: netip.MustParsePrefix("2001:db8:1::77/64"), Tentative: true}
		l.Addrs = append(l.Addrs, added)
		g.wantEffects(t, anchord.SourceKernel)
		synctest.Wait()
		if g.announced != nil || g.told(anchord.EventAddressAdded) != nil {
			t.Errorf("told of an address that is still checked: %q", g.announced)
		}
		last := len(l.Addrs) - 1
		l.Addrs[last].Tentative = false
		g.wantEffects(t, anchord.SourceKernel)
		synctest.Wait()
		if told := g.told(anchord.EventAddressAdded); len(told) != 1 || !slices.Equal(g.announced, []string{"lan0 2001:db8:1::77"}) {
			t.Errorf("told %q, announced %q", told, g.announced)
		}
		l.Addrs[last].Deprecated = true
		g.wantEffects(t, anchord.SourceKernel, "end  dst= src= reply-dst=2001:db8:1::77 port=0")
		g.wantEffects(t, anchord.SourceKernel)
		if told := g.told(anchord.EventAddressDeprecated); len(told) != 1 {
			t.Errorf("told %q", told)
		}
		l.Addrs = l.Addrs[:last]
		g.wantEffects(t, anchord.SourceKernel, "end  dst=2001:db8:1::77 src= reply-dst= port=0", "end  dst= src= reply-dst=2001:db8:1::77 port=0")
		if told := g.told(anchord.EventAddressRemoved); len(told) != 1 {
			t.Errorf("told %q", told)
		}
	})
}

func TestAnotherHostHasTheAddress(t *testing.T) {
	g := working6(t)
	l := g.link("lan0")
	l.Addrs = append(l.Addrs, anchord.LinkAddr{Prefix: netip.MustParsePrefix("2001:db8::99/64"), Tentative: true, Duplicate: true})
	g.wantEffects(t, anchord.SourceKernel)
	g.wantEffects(t, anchord.SourceKernel)
	if told := g.told(anchord.EventAddressDuplicate); len(told) != 1 || !strings.HasPrefix(told[0], "error ") {
		t.Errorf("told %q", told)
	}
}

func TestTheRouteOfARouterIsKept(t *testing.T) {
	other := anchord.Route{Family: anchord.V6, Gateway: addr("fe80::bad"), Iface: "lan0"}
	ours := anchord.Route{Family: anchord.V6, Gateway: addr("fe80::1"), Iface: "lan0"}
	for _, tt := range []struct {
		name      string
		has       []anchord.Route
		want      []string
		reasserts int
		asked     bool
	}{
		{"deleted", nil, []string{"route fe80::1 lan0"}, 1, true},
		{"replaced", []anchord.Route{other}, []string{"route fe80::1 lan0"}, 1, true},
		{"another before it", []anchord.Route{other, router6()}, []string{"unroute fe80::bad lan0"}, 1, false},
		{"back beside ours", []anchord.Route{ours, router6()}, []string{"unroute fe80::1 lan0"}, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := working6(t)
				synctest.Wait()
				g.solicited = nil
				g.w.Observation.Routes[anchord.V6] = tt.has
				if tt.asked { // not before it is heard whether the router has resigned
					g.wantEffects(t, anchord.SourceKernel)
					g.w.Now += 100 * time.Millisecond
				}
				g.wantEffects(t, anchord.SourceKernel, tt.want...)
				synctest.Wait()
				if n := g.last().Reasserted[anchord.V6]; n != tt.reasserts || (g.solicited != nil) != tt.asked {
					t.Errorf("%d reasserts, asked %q", n, g.solicited)
				}
				g.wantEffects(t, anchord.SourceKernel)
			})
		})
	}
}

func TestARouterThatResignsIsLetGo(t *testing.T) {
	g := working6(t)
	g.w.Observation.Routes[anchord.V6] = nil
	g.w.advert(anchord.Advert{Router: addr("fe80::1"), Until: g.w.Now})
	g.wantEffects(t, anchord.SourceKernel)

	// Where the kernel tells of it first, ours does not stay either.
	g = working6(t)
	g.w.Observation.Routes[anchord.V6] = nil
	g.look(t, anchord.SourceKernel)
	g.w.Now += 100 * time.Millisecond
	g.wantEffects(t, anchord.SourceKernel, "route fe80::1 lan0")
	g.w.advert(anchord.Advert{Router: addr("fe80::1"), Until: g.w.Now})
	g.wantEffects(t, anchord.SourceKernel, "unroute fe80::1 lan0")
	g.wantEffects(t, anchord.SourceKernel)
}

func TestADefaultRouteToOurselvesIsRemoved(t *testing.T) {
	w := usual()
	w.Routes[anchord.V4] = []anchord.Route{{Gateway: addr("10.213.0.1"), Iface: "transit0"}}
	g := newRig(w, auto())
	g.wantEffects(t, anchord.SourceAll, "rules lan0", "mac lan0 "+derivedMAC, "address transit0 10.213.0.1/24", "unroute 10.213.0.1 transit0", "client lan0 shop ")
	g.wantEffects(t, anchord.SourceAll)

	// With another to put in its place, it is replaced, with no moment between.
	w = withAddress(usual())
	w.Routes[anchord.V4] = []anchord.Route{{Gateway: addr("10.213.0.1"), Iface: "transit0"}}
	newRig(w, auto()).wantEffects(t, anchord.SourceAll, "rules lan0", "address transit0 10.213.0.1/24", "route 192.0.2.254 lan0")
}

func TestALeasesRoutesComeAndGo(t *testing.T) {
	g := working(t)
	far := anchord.StaticRoute{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: addr("192.0.2.5")}
	g.w.Leases[anchord.V4].Static = []anchord.StaticRoute{far}
	g.wantEffects(t, anchord.SourceLease, "route 192.0.2.5 lan0")
	g.wantEffects(t, anchord.SourceAll)
	g.told("")
	lan := g.w.Observation.Routes[anchord.V4]
	g.w.Observation.Routes[anchord.V4] = lan[:1]
	g.wantEffects(t, anchord.SourceKernel, "route 192.0.2.5 lan0")
	if told := g.told(anchord.EventRouteReasserted); len(told) != 1 {
		t.Errorf("told %q", told)
	}
	g.w.Leases[anchord.V4].Static = nil
	g.wantEffects(t, anchord.SourceAll, "unroute 192.0.2.5 lan0")
	g.wantEffects(t, anchord.SourceAll)
}

func TestTheLANHasAddressesOfANetworkInside(t *testing.T) {
	w := usual()
	w.lease("10.213.0.77/16", "10.213.0.254")
	s, _ := w.decide(t, auto(), anchord.Memory{})
	wantNotices(t, s,
		[]string{anchord.EventSubnetClash, "shop_transit", "10.213.0.0/24", "10.213.0.77/16"},
		[]string{anchord.EventDHCPIgnored, "10.213.0.254", "shop_transit"})
}

func TestOwnInterfaceOnAParent(t *testing.T) {
	inside := func() *world {
		w := bare()
		w.attach(anchord.Network{Name: "shop_transit", Driver: "bridge", InhibitIPv4: true, Pools: []anchord.Pool{pool("10.213.0.0/24", "10.213.0.1")}}, "eth0", transitMAC, "10.213.0.2/24")
		w.Links = append(w.Links, anchord.Link{Name: "eth0.42", MAC: "02:42:aa:00:00:42"})
		return w
	}
	c := auto()
	c.VLANParent = "eth0.42"
	g := newRig(inside(), c)
	g.wantEffects(t, anchord.SourceAll, "rules anchord-ext", "child anchord-ext on eth0.42 "+derivedMAC, "address eth0 10.213.0.1/24")
	g.wantEffects(t, anchord.SourceKernel, "client anchord-ext shop ")
	g.wantEffects(t, anchord.SourceAll)
	g.w.Links = g.w.Links[:2] // somebody deleted it
	g.wantEffects(t, anchord.SourceKernel, "child anchord-ext on eth0.42 "+derivedMAC, "client   ")
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if did := g.effects(); !slices.Contains(did, "unchild anchord-ext") {
		t.Errorf("at the end: %q", did)
	}
	for _, tt := range []struct {
		name          string
		parent, iface string
		want          string
	}{
		{"no such parent", "eth9", "", "eth9"},
		{"named like an interface of Docker's", "eth0.42", "eth0", "shop_transit"},
	} {
		c.VLANParent, c.ExtIface = tt.parent, tt.iface
		s, _ := inside().decide(t, c, anchord.Memory{})
		wantNotices(t, s, []string{anchord.EventExtMissing, tt.want})
		if s.Ext != "" {
			t.Errorf("%s: LAN interface %q", tt.name, s.Ext)
		}
	}
}
