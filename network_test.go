package anchord_test

import (
	"slices"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

func TestWhichInterfaceIsTheLAN(t *testing.T) {
	macvlan := func(name, key string) anchord.Network {
		return anchord.Network{Name: name, Key: key, Driver: "macvlan"}
	}
	ipvlan := anchord.Network{Name: "shop_ip", Driver: "ipvlan"}
	transit := bridge("shop_transit", "10.213.0.0/24")
	type net struct {
		network anchord.Network
		iface   string
	}
	for _, tt := range []struct {
		name   string
		on     []net
		config anchord.Config
		want   string // interface, or else
		fault  string // what the notice says
	}{
		{"the macvlan network, first interface", []net{{macvlan("shop_lan", "lan"), "eth0"}, {transit, "eth1"}}, anchord.Config{}, "eth0", ""},
		{"the macvlan network, second interface", []net{{transit, "eth0"}, {macvlan("shop_lan", "lan"), "eth1"}}, anchord.Config{}, "eth1", ""},
		{"an ipvlan network", []net{{transit, "eth0"}, {ipvlan, "eth1"}}, anchord.Config{}, "eth1", ""},
		{"two macvlans: neither is guessed", []net{{macvlan("a", ""), "eth0"}, {macvlan("b", ""), "eth1"}}, anchord.Config{}, "", "several networks that could be the LAN (a, b): name one with ANCHORD_EXT_NETWORK"},
		{"macvlan and ipvlan: neither is guessed", []net{{macvlan("a", ""), "eth0"}, {ipvlan, "eth1"}}, anchord.Config{}, "", "several networks"},
		{"two macvlans, one named", []net{{macvlan("a", ""), "eth0"}, {macvlan("b", ""), "eth1"}}, anchord.Config{ExtNetwork: "b"}, "eth1", ""},
		{"named by its full name", []net{{macvlan("shop_lan", "lan"), "eth0"}, {transit, "eth1"}}, anchord.Config{ExtNetwork: "shop_lan"}, "eth0", ""},
		{"named by its Compose name", []net{{transit, "eth0"}, {macvlan("shop_lan", "lan"), "eth1"}}, anchord.Config{ExtNetwork: "lan"}, "eth1", ""},
		{"a bridge named", []net{{bridge("front", "10.0.0.0/24"), "eth1"}, {macvlan("shop_lan", "lan"), "eth0"}}, anchord.Config{ExtNetwork: "front"}, "eth1", ""},
		{"named, but not attached", []net{{macvlan("shop_lan", "lan"), "eth0"}, {transit, "eth1"}}, anchord.Config{ExtNetwork: "wan"}, "", `not attached to ANCHORD_EXT_NETWORK "wan", only to: shop_lan, shop_transit`},
		{"named network wins over a named interface", []net{{macvlan("a", ""), "eth0"}, {transit, "eth1"}}, anchord.Config{ExtNetwork: "a", ExtIface: "eth1"}, "eth0", ""},
		{"macvlan wins over a named interface", []net{{macvlan("a", ""), "eth0"}, {transit, "eth1"}}, anchord.Config{ExtIface: "eth1"}, "eth0", ""},
		{"no LAN network: eth0", []net{{bridge("a", "10.0.0.0/24"), "eth1"}, {bridge("b", "10.0.1.0/24"), "eth0"}}, anchord.Config{}, "eth0", ""},
		{"no LAN network: the named interface", []net{{bridge("a", "10.0.0.0/24"), "eth1"}, {bridge("b", "10.0.1.0/24"), "eth0"}}, anchord.Config{ExtIface: "eth1"}, "eth1", ""},
		{"no LAN network and no such interface", []net{{transit, "eth1"}}, anchord.Config{}, "", `no macvlan or ipvlan network attached and no interface "eth0"`},
		{"interface not there yet", []net{{macvlan("shop_lan", "lan"), ""}, {transit, "eth1"}}, anchord.Config{}, "", "network shop_lan has no interface with MAC"},
		{"on no network", nil, anchord.Config{ExtNetwork: "lan"}, "", "only to: no network"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := bare()
			macs := []string{lanMAC, transitMAC}
			for i, n := range tt.on {
				w.attach(n.network, n.iface, macs[i])
			}
			tt.config.Mode = anchord.ModeAuto
			s, _ := w.decide(t, tt.config, anchord.Memory{})
			// Docker and the kernel list in any order.
			slices.Reverse(w.Links)
			slices.Reverse(w.Self.Networks)
			slices.Reverse(w.Self.Endpoints)
			again, _ := w.decide(t, tt.config, anchord.Memory{})
			if s.Ext != tt.want || again.Ext != tt.want {
				t.Errorf("interface %q, in another order %q; want %q", s.Ext, again.Ext, tt.want)
			}
			if tt.fault != "" {
				wantNotices(t, s, []string{anchord.EventExtMissing, tt.fault})
				if s.Clients[anchord.V4] != nil || s.OwnsExt || len(s.Entries)+len(s.Transits)+len(s.Routes) > 0 {
					t.Errorf("without a LAN interface nothing may be opened or changed: %+v", s)
				}
			}
		})
	}
}

func TestLANInterfaceIsFoundAgainByItsDerivedMAC(t *testing.T) {
	w := usual()
	w.Links[0].MAC = anchord.DerivedMAC("shop")
	if s, _ := w.decide(t, auto(), anchord.Memory{}); s.Ext != "lan0" {
		t.Errorf("after the MAC was changed, which Docker does not know: interface %q, notices %+v", s.Ext, s.Notices)
	}
	w.Links[0].MAC = "02:00:00:00:00:07"
	c := auto()
	c.MAC.Address = "02:00:00:00:00:07"
	if s, _ := w.decide(t, c, anchord.Memory{}); s.Ext != "lan0" {
		t.Errorf("with a MAC by wish: interface %q, notices %+v", s.Ext, s.Notices)
	}
}

// threeNetworks is a world with three networks of the project.
func threeNetworks() *world {
	w := bare()
	w.attach(anchord.Network{Name: "shop_lan", Driver: "macvlan"}, "lan0", lanMAC)
	w.attach(bridge("beta", "10.2.0.0/24"), "eth2", "02:42:aa:00:00:12", "10.2.0.2/24")
	w.attach(bridge("alpha", "10.1.0.0/24"), "eth1", "02:42:aa:00:00:11", "10.1.0.2/24")
	w.attach(bridge("my_Transit", "10.3.0.0/24"), "eth3", "02:42:aa:00:00:13", "10.3.0.2/24")
	return w
}

func TestWhichNetworkBackendsAreReadOn(t *testing.T) {
	for _, tt := range []struct {
		name string
		on   [][]string // networks of each backend
		pin  string
		want string
	}{
		{"no backend yet: the one that says transit", nil, "", "my_Transit"},
		{"the one with the most backends", [][]string{{"beta=10.2.0.5"}, {"beta=10.2.0.6"}, {"my_Transit=10.3.0.5"}}, "", "beta"},
		{"as many on two: the one that says transit, in any case", [][]string{{"alpha=10.1.0.5"}, {"my_Transit=10.3.0.5"}}, "", "my_Transit"},
		{"as many on two, none says transit: the alphabet", [][]string{{"beta=10.2.0.5"}, {"alpha=10.1.0.5"}}, "", "alpha"},
		{"one backend on several", [][]string{{"alpha=10.1.0.5", "beta=10.2.0.5"}, {"beta=10.2.0.6"}}, "", "beta"},
		{"pinned, although others have more", [][]string{{"beta=10.2.0.5"}, {"beta=10.2.0.6"}}, "alpha", "alpha"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := threeNetworks()
			for i, on := range tt.on {
				w.run(string(rune('a'+i)), "tcp/"+string(rune('1'+i)), on...)
			}
			w.run("database", "", "alpha=10.1.0.90")
			w.run("cache", "", "alpha=10.1.0.91")
			c := auto()
			c.SharedNetwork = tt.pin
			if s, _ := w.decide(t, c, anchord.Memory{}); s.Shared != tt.want {
				t.Errorf("read on %q, want %q (%+v)", s.Shared, tt.want, s.Notices)
			}
		})
	}
}

func TestBackendOnTwoNetworksIsReachedThroughTheSharedOne(t *testing.T) {
	w := threeNetworks()
	w.run("a", "tcp/1", "alpha=10.1.0.5", "my_Transit=10.3.0.5")
	c := auto()
	c.SharedNetwork = "my_Transit"
	s, _ := w.decide(t, c, anchord.Memory{})
	wantEntries(t, s, "v4 tcp/1 > 10.3.0.5 1 a by eth3")
}

func TestPinnedSharedNetwork(t *testing.T) {
	w := usual()
	w.run("web", "tcp/80", "shop_transit=10.213.0.5")
	c := auto()
	c.SharedNetwork = "transit" // its Compose name
	s, _ := w.decide(t, c, anchord.Memory{})
	wantNotices(t, s)
	if s.Shared != "shop_transit" {
		t.Errorf("read on %q", s.Shared)
	}
	c.SharedNetwork = "backend"
	s, _ = w.decide(t, c, anchord.Memory{})
	wantNotices(t, s, []string{anchord.EventSharedMissing, `not attached to ANCHORD_SHARED_NETWORK "backend", only to: shop_transit`})
	wantEntries(t, s)
}

func TestSharedNetworkIsProvisionalUntilABackendIsSeenAndThenKept(t *testing.T) {
	w := threeNetworks()
	s, m := w.decide(t, auto(), anchord.Memory{})
	if s.Shared != "my_Transit" || m.Shared.Confirmed {
		t.Fatalf("provisional choice %+v", m.Shared)
	}
	wantNotices(t, s)

	w.run("a", "tcp/1", "beta=10.2.0.5")
	s, m = w.decide(t, auto(), m)
	if s.Shared != "beta" || !m.Shared.Confirmed {
		t.Fatalf("with a backend %+v", m.Shared)
	}
	wantNotices(t, s, []string{anchord.EventSharedPicked, "network beta", "before on my_Transit"})

	w.run("b", "tcp/2", "alpha=10.1.0.5")
	w.run("c", "tcp/3", "alpha=10.1.0.6")
	s, m = w.decide(t, auto(), m)
	wantNotices(t, s)
	if s.Shared != "beta" {
		t.Errorf("more backends elsewhere made it flap to %s", s.Shared)
	}
	w.Containers = nil
	s, m = w.decide(t, auto(), m)
	wantNotices(t, s)
	if s.Shared != "beta" {
		t.Errorf("without backends it flapped to %s", s.Shared)
	}

	w.run("b", "tcp/2", "alpha=10.1.0.5")
	w.Self.Networks = slices.DeleteFunc(w.Self.Networks, func(n anchord.Network) bool { return n.Name == "beta" })
	s, _ = w.decide(t, auto(), m)
	if s.Shared != "alpha" {
		t.Errorf("when its network is gone, another has to be picked: %s", s.Shared)
	}
	wantNotices(t, s, []string{anchord.EventSharedPicked, "network alpha", "before on beta"})
}

func TestFiveRoundsWithoutBackendWarnOnce(t *testing.T) {
	w := usual()
	w.run("database", "", "shop_transit=10.213.0.9")
	var m anchord.Memory
	var s anchord.State
	for round := 1; round <= 4; round++ {
		s, m = w.decide(t, auto(), m)
		wantNotices(t, s)
	}
	// Events alone can make five rounds of one second's recreation.
	s, m = w.decide(t, auto(), m)
	wantNotices(t, s)
	w.Now += 10 * time.Second
	s, m = w.decide(t, auto(), m)
	wantNotices(t, s, []string{anchord.EventNoBackends, "anchord.expose", "project shop", "shop_transit"})
	first := s.Notices[0]
	s, m = w.decide(t, auto(), m)
	if len(s.Notices) != 1 || s.Notices[0] != first {
		t.Errorf("the sixth round says something else, which would be logged again: %+v", s.Notices)
	}
	w.run("web", "tcp/80", "shop_transit=10.213.0.5")
	s, m = w.decide(t, auto(), m)
	wantNotices(t, s)
	w.Containers = nil
	s, _ = w.decide(t, auto(), m)
	wantNotices(t, s)
}

func TestOnlyTheLANAttached(t *testing.T) {
	w := bare()
	w.attach(anchord.Network{Name: "shop_lan", Driver: "macvlan"}, "lan0", lanMAC)
	w.run("web", "tcp/80", "shop_default=10.0.0.5")
	s, _ := w.decide(t, auto(), anchord.Memory{})
	wantNotices(t, s, []string{anchord.EventSharedMissing, "attached to the LAN only"})
	if s.Ext != "lan0" || s.Clients[anchord.V4] == nil {
		t.Errorf("the LAN side has to work all the same: %+v", s)
	}
}

func TestTransitWithoutItsInterfaceYet(t *testing.T) {
	w := bare()
	w.attach(anchord.Network{Name: "shop_lan", Driver: "macvlan"}, "lan0", lanMAC)
	w.attach(bridge("shop_transit", "10.213.0.0/24"), "", transitMAC)
	s, _ := w.decide(t, auto(), anchord.Memory{})
	wantNotices(t, s, []string{anchord.EventTransitMissing, "network shop_transit has no interface with MAC " + transitMAC})
}

func TestGatewayAddressesThatAnchordTakes(t *testing.T) {
	v6 := pool("fd5a:1::/64", "")
	v6.DefaultGateway = addr("fd5a:1::ffff")
	both := pool("10.5.0.0/24", "10.5.0.1")
	both.DefaultGateway = addr("10.5.0.254")
	for _, tt := range []struct {
		name    string
		network anchord.Network
		want    []string
	}{
		{"bridge whose host address is inhibited", anchord.Network{InhibitIPv4: true, Pools: []anchord.Pool{pool("10.5.0.0/16", "10.5.0.1")}}, []string{"10.5.0.1/16"}},
		{"plain bridge: the host has it", anchord.Network{Pools: []anchord.Pool{pool("10.5.0.0/24", "10.5.0.1")}}, nil},
		{"inhibited without a gateway", anchord.Network{InhibitIPv4: true, Pools: []anchord.Pool{pool("10.5.0.0/24", "")}}, nil},
		{"IPv6 by auxiliary address", anchord.Network{Pools: []anchord.Pool{v6}}, []string{"fd5a:1::ffff/64"}},
		{"IPv6 without one: the host has it", anchord.Network{InhibitIPv4: true, Pools: []anchord.Pool{pool("fd5a:1::/64", "fd5a:1::1")}}, nil},
		{"both families", anchord.Network{InhibitIPv4: true, Pools: []anchord.Pool{pool("10.5.0.0/24", "10.5.0.1"), v6}}, []string{"10.5.0.1/24", "fd5a:1::ffff/64"}},
		{"auxiliary address before the gateway", anchord.Network{InhibitIPv4: true, Pools: []anchord.Pool{both}}, []string{"10.5.0.254/24"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, p := range tt.network.VacantGateways() {
				got = append(got, p.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
