package anchord_test

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestExposedPorts(t *testing.T) {
	w := usual()
	w.run("postfix", "tcp/587,tcp/25:2525", "shop_transit=10.213.0.5")
	w.run("turn", "udp/49152-49252,udp/100-110:200,tcp/3478", "shop_transit=10.213.0.6", "shop_transit=fd5a:1::6")
	w.run("database", "", "shop_transit=10.213.0.7")
	s, _ := w.decide(t, auto(), anchord.Memory{})
	wantNotices(t, s)
	wantEntries(t, s,
		"v4 tcp/25 > 10.213.0.5 2525 postfix by transit0",
		"v4 tcp/587 > 10.213.0.5 587 postfix by transit0",
		"v4 tcp/3478 > 10.213.0.6 3478 turn by transit0",
		"v4 udp/100-110 > 10.213.0.6 200 turn by transit0",
		"v4 udp/49152-49252 > 10.213.0.6 49152 turn by transit0",
		"v6 tcp/3478 > fd5a:1::6 3478 turn by transit0",
		"v6 udp/100-110 > fd5a:1::6 200 turn by transit0",
		"v6 udp/49152-49252 > fd5a:1::6 49152 turn by transit0",
	)
}

func TestWhoIsExposed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		set     func(*world)
		entries []string
		notices [][]string
	}{
		{"IPv6 off by label", func(w *world) {
			w.run("web", "tcp/80", "shop_transit=10.213.0.5", "shop_transit=fd5a:1::5").Labels["anchord.expose.v6"] = " OFF "
		}, []string{"v4 tcp/80 > 10.213.0.5 80 web by transit0"}, nil},
		{"IPv6 auto by label", func(w *world) {
			w.run("web", "tcp/80", "shop_transit=10.213.0.5", "shop_transit=fd5a:1::5").Labels["anchord.expose.v6"] = "auto"
		}, []string{"v4 tcp/80 > 10.213.0.5 80 web by transit0", "v6 tcp/80 > fd5a:1::5 80 web by transit0"}, nil},
		{"only an IPv6 address", func(w *world) {
			w.run("web", "tcp/80", "shop_transit=fd5a:1::5")
		}, []string{"v6 tcp/80 > fd5a:1::5 80 web by transit0"}, nil},
		{"only an IPv6 address, and IPv6 off", func(w *world) {
			w.run("web", "tcp/80", "shop_transit=fd5a:1::5").Labels["anchord.expose.v6"] = "off"
		}, nil, [][]string{{anchord.EventBackendUnreachable, "container web", "attach it to one of: shop_transit"}}},
		{"on no network of anchord's", func(w *world) {
			w.run("web", "tcp/80", "elsewhere=10.9.0.5")
		}, nil, [][]string{{anchord.EventBackendUnreachable, "container web", "attach it to one of: shop_transit"}}},
		{"on another network of anchord's only", func(w *world) {
			w.attach(bridge("side", "10.5.0.0/24"), "side0", "02:42:aa:00:00:09", "10.5.0.2/24")
			w.run("a", "tcp/1", "shop_transit=10.213.0.5")
			w.run("b", "tcp/2", "shop_transit=10.213.0.6")
			w.run("web", "tcp/80", "side=10.5.0.5")
		}, []string{"v4 tcp/1 > 10.213.0.5 1 a by transit0", "v4 tcp/2 > 10.213.0.6 2 b by transit0", "v4 tcp/80 > 10.5.0.5 80 web by side0"}, nil},
		{"another project's container", func(w *world) {
			w.run("web", "tcp/80", "shop_transit=10.213.0.5").Labels["com.docker.compose.project"] = "other"
		}, nil, nil},
		{"joined to another's namespace, by name", func(w *world) {
			w.run("owner", "", "shop_transit=10.213.0.5")
			w.run("web", "tcp/80").NamespaceOf = "/owner"
		}, []string{"v4 tcp/80 > 10.213.0.5 80 web by transit0"}, nil},
		{"joined to another's namespace, by id", func(w *world) {
			w.run("owner", "", "shop_transit=10.213.0.5")
			w.run("web", "tcp/80").NamespaceOf = w.Containers[0].ID
		}, []string{"v4 tcp/80 > 10.213.0.5 80 web by transit0"}, nil},
		{"joined to another's namespace, by short id", func(w *world) {
			w.run("owner", "", "shop_transit=10.213.0.5").ID = "abcdef012345" + strings.Repeat("0", 52)
			w.run("web", "tcp/80").NamespaceOf = "abcdef012345"
		}, []string{"v4 tcp/80 > 10.213.0.5 80 web by transit0"}, nil},
		{"joined to a container outside the project", func(w *world) {
			delete(w.run("owner", "tcp/99", "shop_transit=10.213.0.5").Labels, "com.docker.compose.project")
			w.run("web", "tcp/80").NamespaceOf = "owner"
		}, []string{"v4 tcp/80 > 10.213.0.5 80 web by transit0"}, nil},
		{"both in one namespace are exposed", func(w *world) {
			w.run("owner", "tcp/25", "shop_transit=10.213.0.5")
			w.run("web", "tcp/80").NamespaceOf = "owner"
		}, []string{"v4 tcp/25 > 10.213.0.5 25 owner by transit0", "v4 tcp/80 > 10.213.0.5 80 web by transit0"}, nil},
		{"namespace's owner does not run", func(w *world) {
			w.run("web", "tcp/80").NamespaceOf = "owner"
			w.run("b", "tcp/2", "shop_transit=10.213.0.6")
		}, []string{"v4 tcp/2 > 10.213.0.6 2 b by transit0"}, [][]string{{anchord.EventBackendUnreachable, "container web", "(owner) is not running"}}},
		{"bad label refuses one container only", func(w *world) {
			w.run("bad", "tcp/25,tcp/http", "shop_transit=10.213.0.5")
			w.run("good", "tcp/80", "shop_transit=10.213.0.6")
		}, []string{"v4 tcp/80 > 10.213.0.6 80 good by transit0"}, [][]string{{anchord.EventLabelRejected, "container bad", `"tcp/http"`, `port "http" is not a number`}}},
		{"bad IPv6 label refuses the container", func(w *world) {
			w.run("bad", "tcp/25", "shop_transit=10.213.0.5").Labels["anchord.expose.v6"] = "no"
			w.run("good", "tcp/80", "shop_transit=10.213.0.6")
		}, []string{"v4 tcp/80 > 10.213.0.6 80 good by transit0"}, [][]string{{anchord.EventLabelRejected, "container bad", "anchord.expose.v6", `"no"`, "neither auto nor off"}}},
		{"unknown label", func(w *world) {
			c := w.run("web", "tcp/80", "shop_transit=10.213.0.5")
			c.Labels["anchord.expsoe"], c.Labels["anchord.identity"], c.Labels["anchordish"] = "tcp/81", "shop", "x"
		}, []string{"v4 tcp/80 > 10.213.0.5 80 web by transit0"}, [][]string{{anchord.EventLabelUnknown, "container web", `"anchord.expsoe"`, "anchord.expose"}}},
		{"label that is nearly anchord's", func(w *world) {
			w.run("web", "", "shop_transit=10.213.0.5").Labels["Anchor-expose"] = "tcp/80"
		}, nil, [][]string{{anchord.EventLabelUnknown, "container web", `"Anchor-expose"`, "is it meant to be anchord.expose?"}}},
		{"labels of others", func(w *world) {
			c := w.run("web", "tcp/80", "shop_transit=10.213.0.5")
			for _, label := range []string{"", "expose", "traefik.enable", "anchore.policy", "com.docker.compose.service", "org.expose", "anch\xff.\x00"} {
				c.Labels[label] = "tcp/80"
			}
		}, []string{"v4 tcp/80 > 10.213.0.5 80 web by transit0"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := usual()
			tt.set(w)
			s, _ := w.decide(t, auto(), anchord.Memory{})
			wantEntries(t, s, tt.entries...)
			wantNotices(t, s, tt.notices...)
		})
	}
}

func TestPortConflicts(t *testing.T) {
	on := func(n string) string { return "shop_transit=10.213.0." + n }
	entry := func(ports, n, backend, container string) string {
		return "v4 tcp/" + ports + " > 10.213.0." + n + " " + backend + " " + container + " by transit0"
	}
	for _, tt := range []struct {
		name    string
		set     func(*world)
		entries []string
		refused [][]string
	}{
		{"the older container keeps the port, its rival's others work", func(w *world) {
			w.run("old", "tcp/80", on("5"))
			w.run("new", "tcp/80,tcp/443", on("6"))
		}, []string{entry("80", "5", "80", "old"), entry("443", "6", "443", "new")}, [][]string{{anchord.EventExposeConflict, "container new", "tcp/80", "container old"}}},
		{"older by creation, not by order of listing", func(w *world) {
			w.run("young", "tcp/80", on("5")).Created = time.Unix(500, 0)
			w.run("elder", "tcp/80", on("6")).Created = time.Unix(400, 0)
		}, []string{entry("80", "6", "80", "elder")}, [][]string{{anchord.EventExposeConflict, "container young", "container elder"}}},
		{"as old: the smaller id", func(w *world) {
			a := w.run("a", "tcp/80", on("5"))
			a.ID, a.Created = strings.Repeat("f", 64), time.Unix(1, 0)
			b := w.run("b", "tcp/80", on("6"))
			b.ID, b.Created = strings.Repeat("e", 64), time.Unix(1, 0)
		}, []string{entry("80", "6", "80", "b")}, [][]string{{anchord.EventExposeConflict, "container a", "container b"}}},
		{"the other protocol is no conflict", func(w *world) {
			w.run("old", "udp/80", on("5"))
			w.run("new", "tcp/80", on("6"))
		}, []string{entry("80", "6", "80", "new"), "v4 udp/80 > 10.213.0.5 80 old by transit0"}, nil},
		{"port inside an older range", func(w *world) {
			w.run("old", "tcp/100-200", on("5"))
			w.run("new", "tcp/150:80", on("6"))
		}, []string{entry("100-200", "5", "100", "old")}, [][]string{{anchord.EventExposeConflict, "does not get tcp/150:80", "container old", "tcp/100-200"}}},
		{"range over an older port", func(w *world) {
			w.run("old", "tcp/150", on("5"))
			w.run("new", "tcp/100-200,tcp/300-301", on("6"))
		}, []string{entry("150", "5", "150", "old"), entry("300-301", "6", "300", "new")}, [][]string{{anchord.EventExposeConflict, "does not get tcp/100-200", "tcp/150"}}},
		{"ranges that share one port", func(w *world) {
			w.run("old", "tcp/100-200", on("5"))
			w.run("new", "tcp/200-300", on("6"))
		}, []string{entry("100-200", "5", "100", "old")}, [][]string{{anchord.EventExposeConflict}}},
		{"ranges that touch", func(w *world) {
			w.run("old", "tcp/101-200", on("5"))
			w.run("above", "tcp/201-300", on("6"))
			w.run("below", "tcp/1-100", on("7"))
		}, []string{entry("1-100", "7", "1", "below"), entry("101-200", "5", "101", "old"), entry("201-300", "6", "201", "above")}, nil},
		{"two in one namespace", func(w *world) {
			w.run("owner", "tcp/80", on("5"))
			w.run("joined", "tcp/80").NamespaceOf = "owner"
		}, []string{entry("80", "5", "80", "owner")}, [][]string{{anchord.EventExposeConflict, "container joined", "container owner"}}},
		{"a refused label claims nothing", func(w *world) {
			w.run("old", "tcp/80,tcp/0", on("5"))
			w.run("new", "tcp/80", on("6"))
		}, []string{entry("80", "6", "80", "new")}, [][]string{{anchord.EventLabelRejected}}},
		{"an unreachable container claims nothing", func(w *world) {
			w.run("old", "tcp/80", "elsewhere=10.9.0.5")
			w.run("new", "tcp/80", on("6"))
		}, []string{entry("80", "6", "80", "new")}, [][]string{{anchord.EventBackendUnreachable}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := usual()
			tt.set(w)
			s, _ := w.decide(t, auto(), anchord.Memory{})
			wantEntries(t, s, tt.entries...)
			wantNotices(t, s, tt.refused...)
			slices.Reverse(w.Containers)
			if again, _ := w.decide(t, auto(), anchord.Memory{}); !reflect.DeepEqual(s, again) {
				t.Errorf("listed in another order it is decided otherwise: %v", entries(again))
			}
			conflicts := 0
			for _, n := range tt.refused {
				if n[0] == anchord.EventExposeConflict {
					conflicts++
				}
			}
			if s.Conflicts != conflicts {
				t.Errorf("%d conflicts counted, want %d", s.Conflicts, conflicts)
			}
		})
	}
}

func TestMetricsOnAnExposedPort(t *testing.T) {
	for _, tt := range []struct {
		expose string
		port   uint16
		told   bool
	}{{"tcp/9090", 9090, true}, {"tcp/9000-9100:9000", 9090, true}, {"tcp/80:9090", 9090, false}, {"udp/9090", 9090, false}, {"tcp/9090", 0, false}} {
		w := usual()
		w.run("web", tt.expose, "shop_transit=10.213.0.5")
		c := auto()
		c.MetricsPort = tt.port
		s, _ := w.decide(t, c, anchord.Memory{})
		if told := len(s.Notices) == 1 && s.Notices[0].Event == anchord.EventConfigWarning; told != tt.told {
			t.Errorf("%s with the metrics on %d: %v", tt.expose, tt.port, s.Notices)
		}
	}
}

// What anchord cannot put right itself is told, where it matters.
func TestForwardingOff(t *testing.T) {
	inside := func(w *world) {
		w.Self.Networks[1].Pools = append(w.Self.Networks[1].Pools, pool("fd5a:1::/64", ""))
	}
	for _, tt := range []struct {
		name    string
		set     func(*world)
		notices [][]string
	}{
		{"IPv4", func(w *world) { w.Stuck[anchord.V4] = true; w.lease("192.0.2.7/24") }, [][]string{{anchord.EventForwardingOff, "no IPv4 packet", `sysctls: {net.ipv4.ip_forward: "1"}`}}},
		{"IPv4, which the LAN does not have", func(w *world) { w.Stuck[anchord.V4] = true }, nil},
		{"IPv6, which is nowhere", func(w *world) { w.Stuck[anchord.V6] = true }, nil},
		{"IPv6, inside only", func(w *world) { w.Stuck[anchord.V6] = true; inside(w) }, nil},
		{"IPv6, on the LAN only", func(w *world) { w.Stuck[anchord.V6] = true; w.lease6("2001:db8::7") }, nil},
		{"IPv6", func(w *world) { w.Stuck[anchord.V6] = true; inside(w); w.lease6("2001:db8::7") }, [][]string{{anchord.EventForwardingOff, "no IPv6 packet", `sysctls: {net.ipv6.conf.all.forwarding: "1"}`}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := usual()
			w.run("web", "tcp/80", "shop_transit=10.213.0.5")
			tt.set(w)
			s, _ := w.decide(t, auto(), anchord.Memory{})
			wantNotices(t, s, tt.notices...)
		})
	}
}

func TestFreedPortIsTakenOver(t *testing.T) {
	w := usual()
	w.run("old", "tcp/80", "shop_transit=10.213.0.5")
	w.run("new", "tcp/80", "shop_transit=10.213.0.6")
	_, m := w.decide(t, auto(), anchord.Memory{})
	w.Containers = w.Containers[1:]
	s, _ := w.decide(t, auto(), m)
	wantEntries(t, s, "v4 tcp/80 > 10.213.0.6 80 new by transit0")
	wantNotices(t, s)
}

func TestHostileNamesAndLabelsOnlyEverBecomeText(t *testing.T) {
	w := usual()
	name := "x\"; } flush ruleset #\n"
	c := w.run(name, "tcp/80", "shop_transit=10.213.0.5")
	c.Labels["anchord.\n\"}"] = "x"
	w.run("bad", "tcp/80\"; flush ruleset\n", "shop_transit=10.213.0.6")
	s, _ := w.decide(t, auto(), anchord.Memory{})
	wantEntries(t, s, "v4 tcp/80 > 10.213.0.5 80 "+name+" by transit0")
	if s.Rejected != 1 {
		t.Errorf("%d labels refused, want 1: %+v", s.Rejected, s.Notices)
	}
}

func TestDecisionWithoutAnyProject(t *testing.T) {
	w := usual()
	w.Self.Labels = nil
	if _, _, err := auto().Decide(w.Observation, anchord.Memory{}); err == nil {
		t.Error("nothing says which containers are managed, and it is no error")
	}
}

func TestTransits(t *testing.T) {
	w := usual()
	w.attach(bridge("side", "10.5.0.9/24"), "side0", "02:42:aa:00:00:09", "10.5.0.2/24")
	s, _ := w.decide(t, auto(), anchord.Memory{})
	want := []anchord.Transit{
		{Network: "shop_transit", Iface: "transit0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.213.0.0/24")}, Gateways: []netip.Prefix{netip.MustParsePrefix("10.213.0.1/24")}},
		{Network: "side", Iface: "side0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/24")}},
	}
	if !reflect.DeepEqual(s.Transits, want) {
		t.Errorf("transits %+v, want %+v", s.Transits, want)
	}
}

// withAddress gives the usual world's LAN interface an address by Docker.
func withAddress(w *world) *world {
	w.Self.Networks[0].Pools = []anchord.Pool{pool("192.0.2.0/24", "192.0.2.254")}
	w.Self.Endpoints[0].Addrs[anchord.V4] = addr("192.0.2.9")
	w.Links[0].Addrs = []anchord.LinkAddr{{Prefix: netip.MustParsePrefix("192.0.2.9/24"), Permanent: true}}
	return w
}

func TestExternalAddress(t *testing.T) {
	for _, tt := range []struct {
		name     string
		w        *world
		set      func(*world)
		mode     anchord.AddressMode
		wantMode anchord.AddressMode
		dhcp     bool
		external string
		until    time.Duration
	}{
		{"auto, no address from Docker", usual(), nil, anchord.ModeAuto, anchord.ModeDHCPRefresh, true, "", 0},
		{"auto, address from Docker", withAddress(usual()), nil, anchord.ModeAuto, anchord.ModeBootstrap, false, "", 0},
		{"bootstrap without any address", usual(), nil, anchord.ModeBootstrap, anchord.ModeBootstrap, false, "", 0},
		{"bootstrap ignores a lease", withAddress(usual()), func(w *world) { w.lease("192.0.2.77/24") }, anchord.ModeBootstrap, anchord.ModeBootstrap, false, "", 0},
		{"dhcp-refresh begins on Docker's address", withAddress(usual()), nil, anchord.ModeDHCPRefresh, anchord.ModeDHCPRefresh, true, "192.0.2.9/24", 0},
		{"lease", usual(), func(w *world) { w.lease("192.0.2.77/24") }, anchord.ModeAuto, anchord.ModeDHCPRefresh, true, "192.0.2.77/24", 4600 * time.Second},
		{"lease in place of Docker's address", withAddress(usual()), func(w *world) { w.lease("198.51.100.7/25") }, anchord.ModeDHCPRefresh, anchord.ModeDHCPRefresh, true, "198.51.100.7/25", 4600 * time.Second},
		{"infinite lease", usual(), func(w *world) { w.lease("192.0.2.77/24"); w.Leases[anchord.V4].Duration = 0 }, anchord.ModeAuto, anchord.ModeDHCPRefresh, true, "192.0.2.77/24", 0},
		{"lease that has ended", usual(), func(w *world) { w.lease("192.0.2.77/24"); w.Now += time.Hour }, anchord.ModeAuto, anchord.ModeDHCPRefresh, true, "", 0},
		{"lease's last second", usual(), func(w *world) { w.lease("192.0.2.77/24"); w.Now += time.Hour - time.Second }, anchord.ModeAuto, anchord.ModeDHCPRefresh, true, "192.0.2.77/24", 4600 * time.Second},
		{"ended lease brings Docker's address back", withAddress(usual()), func(w *world) { w.lease("192.0.2.77/24"); w.Now += time.Hour }, anchord.ModeDHCPRefresh, anchord.ModeDHCPRefresh, true, "192.0.2.9/24", 0},
		{"lease of another boot", usual(), func(w *world) { w.lease("192.0.2.77/24"); w.Boot = "boot-2" }, anchord.ModeAuto, anchord.ModeDHCPRefresh, true, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.set != nil {
				tt.set(tt.w)
			}
			c := auto()
			c.Mode = tt.mode
			s, _ := tt.w.decide(t, c, anchord.Memory{})
			external := ""
			if s.External[anchord.V4].Prefix.IsValid() {
				external = s.External[anchord.V4].Prefix.String()
			}
			if s.Mode != tt.wantMode || (s.Clients[anchord.V4] != nil) != tt.dhcp || s.OwnsExt != tt.dhcp || external != tt.external || s.External[anchord.V4].Until != tt.until {
				t.Errorf("mode %s, client %v, owner %v, address %q until %v", s.Mode, s.Clients[anchord.V4], s.OwnsExt, external, s.External[anchord.V4].Until)
			}
		})
	}
}

func TestDHCPClient(t *testing.T) {
	w := usual()
	w.Self.Labels["com.docker.compose.project"] = "my_app"
	s, _ := w.decide(t, auto(), anchord.Memory{})
	want := anchord.DHCPClient{Iface: "lan0", MAC: anchord.DerivedMAC("my_app"), Hostname: "my-app"}
	if s.Clients[anchord.V4] == nil || *s.Clients[anchord.V4] != want {
		t.Errorf("client %+v, want %+v", s.Clients[anchord.V4], want)
	}
	c := auto()
	c.MAC.Keep = true
	if s, _ = w.decide(t, c, anchord.Memory{}); s.Clients[anchord.V4] == nil || s.Clients[anchord.V4].MAC != lanMAC {
		t.Errorf("client with a kept MAC %+v", s.Clients[anchord.V4])
	}
}

func TestDefaultGateway(t *testing.T) {
	pinned := func(text string) func(*anchord.Config) {
		return func(c *anchord.Config) {
			gateways, err := anchord.ParseGateways(text)
			if err != nil {
				t.Fatal(err)
			}
			c.Gateways = gateways
		}
	}
	v6 := func(w *world) {
		w.Links[0].Addrs = append(w.Links[0].Addrs, anchord.LinkAddr{Prefix: netip.MustParsePrefix("2001:db8::9/64")})
	}
	for _, tt := range []struct {
		name   string
		w      *world
		set    func(*world)
		config func(*anchord.Config)
		want   []string
	}{
		{"nothing known: no route is touched", usual(), func(w *world) { w.lease("192.0.2.77/24") }, nil, nil},
		{"Docker's", withAddress(usual()), nil, nil, []string{"v4 192.0.2.254 docker"}},
		{"pinned beats Docker's", withAddress(usual()), nil, pinned("192.0.2.1"), []string{"v4 192.0.2.1 ANCHORD_EXT_GATEWAY_IP"}},
		{"lease beats pinned and Docker's", withAddress(usual()), func(w *world) { w.lease("192.0.2.77/24", "192.0.2.3", "192.0.2.4") }, func(c *anchord.Config) {
			pinned("192.0.2.1")(c)
			c.Mode = anchord.ModeDHCPRefresh
		}, []string{"v4 192.0.2.3 lease"}},
		{"lease without router leaves it to the pinned one", usual(), func(w *world) { w.lease("192.0.2.77/24") }, pinned("192.0.2.1"), []string{"v4 192.0.2.1 ANCHORD_EXT_GATEWAY_IP"}},
		{"a lease is nothing in bootstrap mode", withAddress(usual()), func(w *world) { w.lease("192.0.2.77/24", "192.0.2.3") }, nil, []string{"v4 192.0.2.254 docker"}},
		{"no address yet", usual(), nil, pinned("192.0.2.1"), nil},
		{"gateway outside the leased network", usual(), func(w *world) { w.lease("192.0.2.77/32", "192.0.2.1") }, nil, []string{"v4 192.0.2.1 lease onlink"}},
		{"IPv6 pinned, with an address", usual(), v6, pinned("2001:db8::1"), []string{"v6 2001:db8::1 ANCHORD_EXT_GATEWAY_IP"}},
		{"IPv6 pinned, without an address", usual(), nil, pinned("2001:db8::1"), nil},
		{"IPv6 from Docker", usual(), func(w *world) {
			v6(w)
			w.Self.Networks[0].Pools = []anchord.Pool{pool("2001:db8::/64", "2001:db8::ffff")}
		}, nil, []string{"v6 2001:db8::ffff docker"}},
		{"IPv6 as a router says, which the kernel does not have", usual(), func(w *world) {
			v6(w)
			w.advert(anchord.Advert{Router: addr("fe80::1"), Until: w.Now + time.Minute})
		}, pinned("2001:db8::1"), []string{"v6 fe80::1 router advertisement"}},
		{"IPv6 where the router's word has ended", usual(), func(w *world) {
			v6(w)
			w.advert(anchord.Advert{Router: addr("fe80::1"), Until: w.Now})
		}, pinned("2001:db8::1"), []string{"v6 2001:db8::1 ANCHORD_EXT_GATEWAY_IP"}},
		{"IPv6 as the kernel has it from a router", usual(), func(w *world) {
			v6(w)
			w.Routes[anchord.V6] = []anchord.Route{{Family: anchord.V6, Gateway: addr("fe80::1"), Iface: "lan0", Protocol: anchord.ProtoRA}}
		}, pinned("2001:db8::1"), nil},
		{"further destinations of a lease", usual(), func(w *world) {
			w.lease("192.0.2.77/24", "192.0.2.3")
			w.Leases[anchord.V4].Static = []anchord.StaticRoute{
				{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: addr("192.0.2.5")},
				{Dst: netip.MustParsePrefix("192.0.3.0/24")},
				{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("192.0.2.5")}, // wider than the transit network
			}
		}, nil, []string{"v4 192.0.2.3 lease", "v4 192.0.2.5 lease to 10.9.0.0/16", "v4 invalid IP lease to 192.0.3.0/24", "v4 192.0.2.5 lease to 10.0.0.0/8"}},
		{"destinations of a lease that are our own networks", usual(), func(w *world) {
			w.lease("192.0.2.77/24", "192.0.2.3")
			w.Leases[anchord.V4].Static = []anchord.StaticRoute{
				{Dst: netip.MustParsePrefix("10.213.0.0/24"), Gateway: addr("192.0.2.5")},
				{Dst: netip.MustParsePrefix("10.213.0.5/32"), Gateway: addr("192.0.2.5")},
				{Dst: netip.MustParsePrefix("192.0.2.0/24"), Gateway: addr("192.0.2.5")},
			}
		}, nil, []string{"v4 192.0.2.3 lease"}},
		{"families are independent", withAddress(usual()), v6, pinned("2001:db8::1"), []string{"v4 192.0.2.254 docker", "v6 2001:db8::1 ANCHORD_EXT_GATEWAY_IP"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.set != nil {
				tt.set(tt.w)
			}
			c := auto()
			if tt.config != nil {
				tt.config(&c)
			}
			s, _ := tt.w.decide(t, c, anchord.Memory{})
			if got := routes(s); !slices.Equal(got, tt.want) {
				t.Errorf("routes %q, want %q", got, tt.want)
			}
		})
	}
}

func routes(s anchord.State) []string {
	var list []string
	for _, r := range s.Routes {
		word := r.Family.String() + " " + r.Gateway.String() + " " + string(r.Source)
		if r.Dst.IsValid() {
			word += " to " + r.To()
		}
		if r.OnLink {
			word += " onlink"
		}
		if r.Iface != s.Ext {
			word += " by " + r.Iface
		}
		list = append(list, word)
	}
	return list
}

func TestGatewayOfALeaseStaysFirst(t *testing.T) {
	w := withAddress(usual())
	c := auto()
	c.Mode = anchord.ModeDHCPRefresh
	c.Gateways[anchord.V4] = addr("192.0.2.1")
	_, m := w.decide(t, c, anchord.Memory{})
	w.lease("192.0.2.77/24", "192.0.2.3")
	_, m = w.decide(t, c, m)
	for _, later := range []struct {
		name string
		set  func()
		want string
	}{
		{"lease ended", func() { w.Now += 2 * time.Hour }, "v4 192.0.2.3 lease"},
		{"taken back", func() { w.Leases[anchord.V4] = anchord.Lease{} }, "v4 192.0.2.3 lease"},
		{"new one without a router", func() { w.lease("192.0.2.78/24") }, "v4 192.0.2.3 lease"},
		{"new one with another router", func() { w.lease("192.0.2.78/24", "192.0.2.5") }, "v4 192.0.2.5 lease"},
		{"and that one ended", func() { w.Now += 2 * time.Hour }, "v4 192.0.2.5 lease"},
	} {
		later.set()
		var s anchord.State
		s, m = w.decide(t, c, m)
		if got := routes(s); !slices.Equal(got, []string{later.want}) {
			t.Errorf("%s: %q, want %q", later.name, got, later.want)
		}
	}
}
