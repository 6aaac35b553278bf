package anchord_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// What Docker knows of anchord's own interfaces in a usual project.
const (
	lanMAC     = "02:42:aa:00:00:01"
	transitMAC = "02:42:aa:00:00:02"
	boot       = "boot-1"
)

// world is what one decision looks at, in the making.
type world struct{ anchord.Observation }

// bare is a world whose anchord, of project shop, is on no network.
func bare() *world {
	w := &world{anchord.Observation{Now: 1000 * time.Second, Boot: boot}}
	w.Self = self("shop")
	w.Self.ID, w.Self.Name = strings.Repeat("a", 64), "shop-anchord-1"
	return w
}

// usual is a project as the README has it: a macvlan network without an
// address, and a transit network whose gateway is vacant.
func usual() *world {
	w := bare()
	w.attach(anchord.Network{Name: "shop_lan", Key: "lan", Driver: "macvlan"}, "lan0", lanMAC)
	w.attach(anchord.Network{
		Name: "shop_transit", Key: "transit", Driver: "bridge", InhibitIPv4: true,
		Pools: []anchord.Pool{pool("10.213.0.0/24", "10.213.0.1")},
	}, "transit0", transitMAC, "10.213.0.2/24")
	return w
}

func pool(subnet, gateway string) anchord.Pool {
	p := anchord.Pool{Subnet: netip.MustParsePrefix(subnet)}
	if gateway != "" {
		p.Gateway = netip.MustParseAddr(gateway)
	}
	return p
}

// bridge is a plain network of the project.
func bridge(name, subnet string) anchord.Network {
	return anchord.Network{Name: name, Driver: "bridge", Pools: []anchord.Pool{pool(subnet, "")}}
}

// attach puts anchord on a network, by an interface with the addresses that
// Docker gave.
func (w *world) attach(n anchord.Network, iface, mac string, prefixes ...string) {
	n.ID = "id-of-" + n.Name
	e := anchord.Endpoint{NetworkID: n.ID, Network: n.Name, MAC: mac}
	l := anchord.Link{Name: iface, MAC: mac}
	for _, text := range prefixes {
		p := netip.MustParsePrefix(text)
		e.Addrs[anchord.FamilyOf(p.Addr())] = p.Addr()
		l.Addrs = append(l.Addrs, anchord.LinkAddr{Prefix: p, Permanent: true})
	}
	w.Self.Endpoints = append(w.Self.Endpoints, e)
	w.Self.Networks = append(w.Self.Networks, n)
	if iface != "" {
		w.Links = append(w.Links, l)
	}
}

// run adds a running container of the project, younger than all before; each
// of on is network=address.
func (w *world) run(name, expose string, on ...string) *anchord.Container {
	n := len(w.Containers) + 1
	c := anchord.Container{
		ID: fmt.Sprintf("%064x", n), Name: name, Created: time.Unix(int64(n), 0),
		Labels: map[string]string{"com.docker.compose.project": "shop"},
	}
	if expose != "" {
		c.Labels["anchord.expose"] = expose
	}
	for i, where := range on {
		network, addr, _ := strings.Cut(where, "=")
		a := netip.MustParseAddr(addr)
		e := anchord.Endpoint{NetworkID: "id-of-" + network, Network: network, MAC: fmt.Sprintf("02:42:bb:00:%02x:%02x", n, i)}
		e.Addrs[anchord.FamilyOf(a)] = a
		if last := len(c.Endpoints) - 1; last >= 0 && c.Endpoints[last].Network == network {
			c.Endpoints[last].Addrs[anchord.FamilyOf(a)] = a
			continue
		}
		c.Endpoints = append(c.Endpoints, e)
	}
	w.Containers = append(w.Containers, c)
	return &w.Containers[len(w.Containers)-1]
}

// lease gives the world a lease obtained just now.
func (w *world) lease(prefix string, routers ...string) {
	w.Leases[anchord.V4] = anchord.Lease{Address: netip.MustParsePrefix(prefix), Duration: time.Hour, Obtained: w.Now, Boot: w.Boot}
	for _, r := range routers {
		w.Leases[anchord.V4].Routers = append(w.Leases[anchord.V4].Routers, netip.MustParseAddr(r))
	}
}

// lease6 gives the world a DHCPv6 lease obtained just now.
func (w *world) lease6(address string) {
	w.Leases[anchord.V6] = anchord.Lease{
		Address: netip.PrefixFrom(addr(address), 128), Duration: time.Hour, Preferred: 30 * time.Minute, Obtained: w.Now, Boot: w.Boot,
	}
}

// advert is what the routers of the LAN say.
func (w *world) advert(a anchord.Advert) {
	w.Adverts = map[string]anchord.Advert{"lan0": a}
}

// v6 turns IPv6 on, with an address that the kernel made.
func (w *world) v6(prefixes ...string) {
	w.Links[0].Local = addr("fe80::77")
	for _, p := range prefixes {
		w.Links[0].Addrs = append(w.Links[0].Addrs, anchord.LinkAddr{Prefix: netip.MustParsePrefix(p)})
	}
}

func auto() anchord.Config {
	return anchord.Config{Mode: anchord.ModeAuto, PollInterval: 30 * time.Second}
}

func (w *world) decide(t *testing.T, c anchord.Config, m anchord.Memory) (anchord.State, anchord.Memory) {
	t.Helper()
	state, memory, err := c.Decide(w.Observation, m)
	if err != nil {
		t.Fatal(err)
	}
	return state, memory
}

// entries words a state's entries, one each.
func entries(s anchord.State) []string {
	var list []string
	for _, e := range s.Entries {
		list = append(list, fmt.Sprintf("%s %s/%s > %s %d %s by %s", e.Family, e.Protocol, e.Ports(), e.Backend, e.Port, e.Container, e.Iface))
	}
	return list
}

func wantEntries(t *testing.T, s anchord.State, want ...string) {
	t.Helper()
	if got := entries(s); !slices.Equal(got, want) {
		t.Errorf("entries:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// wantNotices compares the notices: each of want is an event, and words that
// its message says.
func wantNotices(t *testing.T, s anchord.State, want ...[]string) {
	t.Helper()
	said := func(i int) bool {
		for _, words := range want[i][1:] {
			if !strings.Contains(s.Notices[i].Message, words) {
				return false
			}
		}
		return s.Notices[i].Event == want[i][0]
	}
	if len(s.Notices) != len(want) {
		t.Fatalf("notices %+v, want %q", s.Notices, want)
	}
	for i := range want {
		if !said(i) {
			t.Errorf("notice %+v, want %q", s.Notices[i], want[i])
		}
	}
}
