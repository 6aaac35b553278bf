package netns_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/network"
)

// given is the address that Docker gives lan0 where it gives one.
const given = "198.51.100.60"

// mode is what the status says of where addresses come from.
func (a *anchord) mode() (string, error) {
	var s struct {
		Mode string `json:"address_mode"`
	}
	err := json.Unmarshal([]byte(a.status()), &s)
	return s.Mode, err
}

func TestAddressModes(t *testing.T) {
	t.Parallel()
	const leasedHere = "198.51.100.1" // and what follows, of dnsmasq's range from .100 on
	for _, c := range []struct {
		asked  string
		docker string // address that Docker gave
		mode   string // that it amounts to
		v4     string // beginning of the address that lan0 has in the end; "" for none
		mac    string
		client bool
	}{
		{"auto", "", "dhcp-refresh", leasedHere, derivedMAC, true},
		{"auto", given, "bootstrap", given, boxMAC, false},
		{"bootstrap", "", "bootstrap", "", derivedMAC, false},
		{"bootstrap", given, "bootstrap", given, boxMAC, false},
		{"dhcp-refresh", "", "dhcp-refresh", leasedHere, derivedMAC, true},
		{"dhcp-refresh", given, "dhcp-refresh", leasedHere, boxMAC, true},
		{"slaac-ra-only", "", "slaac-ra-only", "", derivedMAC, false},
		{"slaac-ra-only", given, "slaac-ra-only", given, boxMAC, false},
	} {
		name := c.asked + " without an address of Docker's"
		if c.docker != "" {
			name = c.asked + " with an address of Docker's"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{ipv6: true, bootstrap: c.docker})
			d := w.startDnsmasq(setup{ipv6: true}.dnsmasqArgs()...)
			web := w.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			w.outside.serveTCP("outside", ":80")
			a := w.anchord("ANCHORD_ADDRESS_MODE=" + c.asked).ready()
			ext6 := slaac(firstPrefix, c.mac)
			eventually(t, hang, w.hasOnly6(ext6))
			eventually(t, deadline, w.client.answers("tcp", on6(ext6, 80), "web "+clientIP6))
			eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+ext6))
			eventually(t, hang, func() error {
				addrs, err := w.box.addresses("lan0")
				if err == nil && (len(addrs) > 1 || len(addrs) == 0 && c.v4 != "" || len(addrs) == 1 && (c.v4 == "" || !strings.HasPrefix(addrs[0], c.v4) || c.v4 == leasedHere && addrs[0] == given)) {
					err = fmt.Errorf("lan0 has %v", addrs)
				}
				return err
			})
			if c.v4 != "" {
				ext, err := w.extAddress()
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, deadline, w.client.answers("tcp", ext+":80", "web "+clientIP))
				eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+ext))
			}
			if got := w.box.mac("lan0"); got != c.mac {
				t.Errorf("the MAC is %s, want %s", got, c.mac)
			}
			if n := w.box.processes("udhcpc"); (n == 1) != c.client || n > 1 {
				t.Errorf("%d DHCPv4 clients run", n)
			}
			if n := w.box.processes("dhcpcd"); n != 0 {
				t.Errorf("%d DHCPv6 clients run, although no router says that there is a server", n)
			}
			if (len(d.table()) == 1) != c.client {
				t.Errorf("the lease table has %v", d.table())
			}
			if got, err := a.mode(); err != nil || got != c.mode {
				t.Errorf("the status says mode %q (%v), want %q", got, err, c.mode)
			}
			a.terminate()
			after, _ := w.box.addresses("lan0")
			if want := strings.Fields(c.docker); !slices.Equal(after, want) && !(c.client && len(after) == 0) {
				t.Errorf("after the stop lan0 has %v, want %v", after, want)
			}
		})
	}
}

func TestTheMACAndTheIPv6AddressMadeOfIt(t *testing.T) {
	t.Parallel()
	const own = "02:42:c0:ff:ee:00"
	for _, c := range []struct{ asked, docker, mac string }{
		{"keep", "", boxMAC},
		{"keep", given, boxMAC},
		{"derived", "", derivedMAC},
		{"derived", given, derivedMAC},
		{own, "", own},
		{own, given, own},
	} {
		t.Run(c.asked+" "+c.docker, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{ipv6: true, bootstrap: c.docker})
			// Whoever was there first has told its neighbours.
			w.client.run("ip", "neigh", "replace", given, "lladdr", "02:42:00:00:00:99", "dev", "eth0", "nud", "reachable")
			router := w.advertise(w.router, ordinary(firstPrefix))
			if c.docker == "" {
				w.startDnsmasq()
			}
			web := w.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			w.outside.serveTCP("outside", ":80")
			a := w.anchord("ANCHORD_EXT_MAC=" + c.asked).ready()
			eventually(t, hang, w.hasOnly6(slaac(firstPrefix, c.mac)))
			if got := w.box.mac("lan0"); got != c.mac {
				t.Errorf("the MAC is %s, want %s", got, c.mac)
			}
			ext := a.leased()
			if c.docker != "" && ext != given {
				t.Errorf("the address is %s", ext)
			}
			// The interface was down for a moment, but nothing is missing.
			eventually(t, deadline, w.box.hasRoute("default via "+routerIP+" dev lan0"))
			eventually(t, deadline, w.box.hasRoutes6(router.byRA()))
			if c.docker == "" || c.mac != boxMAC {
				eventually(t, deadline, w.client.answers("tcp", ext+":80", "web "+clientIP))
			}
			eventually(t, deadline, w.outside.answers("tcp", ext+":80", "web "+outsideIP))
			eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+ext))
			eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+slaac(firstPrefix, c.mac)))
			if told := a.entries("route.reasserted"); len(told) > 0 {
				t.Errorf("nobody interfered, and yet: %v", told)
			}
			if told := a.entries("reconcile.failed"); len(told) > 0 {
				t.Errorf("%v", told)
			}
		})
	}
}

func TestTheIPv6AddressThatDockerGaveOutlivesAChangeOfMAC(t *testing.T) {
	t.Parallel()
	const given6 = firstPrefix + "60"
	w := newWorld(t, setup{ipv6: true, bootstrap: given, bootstrap6: given6})
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	w.outside.serveTCP("outside", ":80")
	w.anchord("ANCHORD_EXT_MAC=derived").ready()
	eventually(t, deadline, w.client.answers("tcp", given+":80", "web "+clientIP))
	eventually(t, deadline, w.client.answers("tcp", on6(given6, 80), "web "+clientIP6))
	eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+given6))
	if got := w.box.mac("lan0"); got != derivedMAC {
		t.Errorf("the MAC is %s", got)
	}
}

func TestAMACThatSomebodyElseHasForAWhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true, bootstrap: given})
	// Another container on the same parent.
	other := newNS(t, "other")
	w.sw.ip(fmt.Sprintf("link add link p-macvlan name lan0 netns %s address %s type macvlan mode bridge\n", other.path(), derivedMAC))
	other.ip("link set lan0 up\n")
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	a := w.anchord("ANCHORD_EXT_MAC=derived")
	eventually(t, hang, a.logs("reconcile.failed", "setting the MAC"))
	// Better under another MAC than not at all.
	eventually(t, deadline, w.client.answers("tcp", given+":80", "web "+clientIP))
	other.ip("link delete lan0\n")
	eventually(t, hang, func() error {
		if got := w.box.mac("lan0"); got != derivedMAC {
			return fmt.Errorf("the MAC is %s", got)
		}
		return nil
	})
	eventually(t, deadline, w.client.answers("tcp", given+":80", "web "+clientIP))
	eventually(t, deadline, w.box.hasRoute("default via "+routerIP+" dev lan0"))
}

func TestWhichInterfaceIsTheLAN(t *testing.T) {
	t.Parallel()
	bridged := func(w *world) { // the LAN by a driver that anchord does not know
		lan, ep := lanAttachment(setup{})
		w.docker.Disconnect(w.boxID, lanNetwork)
		lan.Driver = "bridge"
		w.docker.SetNetwork(lan)
		w.docker.Connect(w.boxID, lanNetwork, ep)
	}
	another := func(w *world) { // a second network that could be the LAN
		w.docker.SetNetwork(network.Inspect{Name: "dmz", Driver: "macvlan"})
		w.docker.Connect(w.boxID, "dmz", network.EndpointSettings{MacAddress: "02:42:aa:00:00:77"})
	}
	for _, c := range []struct {
		name    string
		arrange func(*world)
		env     func(lan, other string) []string
		says    []string // of the log, with its event first
	}{
		{"one macvlan network", nil, nil, nil},
		{"named", nil, func(string, string) []string { return []string{"ANCHORD_EXT_NETWORK=" + lanNetwork} }, nil},
		{"named as in the Compose file", nil, func(string, string) []string { return []string{"ANCHORD_EXT_NETWORK=lan"} }, nil},
		{"named, one of two", another, func(string, string) []string { return []string{"ANCHORD_EXT_NETWORK=lan"} }, nil},
		{"one macvlan network beats the interface", nil, func(_, other string) []string { return []string{"ANCHORD_EXT_IFACE=" + other} }, nil},
		{"the network beats the interface", nil, func(_, other string) []string {
			return []string{"ANCHORD_EXT_NETWORK=lan", "ANCHORD_EXT_IFACE=" + other}
		}, []string{"config.warning", "ANCHORD_EXT_NETWORK", "ANCHORD_EXT_IFACE"}},
		{"the interface, where no network tells it", bridged, func(lan, _ string) []string {
			return []string{"ANCHORD_EXT_IFACE=" + lan, "ANCHORD_ADDRESS_MODE=dhcp-refresh"}
		}, nil},
		{"the network, of any driver", bridged, func(string, string) []string { return []string{"ANCHORD_EXT_NETWORK=lan"} }, nil},
	} {
		for _, lanFirst := range []bool{true, false} {
			for _, lan := range []string{"eth0", "eth1"} {
				t.Run(fmt.Sprintf("%s, %s, first %v", c.name, lan, lanFirst), func(t *testing.T) {
					t.Parallel()
					other := map[string]string{"eth0": "eth1", "eth1": "eth0"}[lan]
					w := newWorld(t, setup{transitFirst: !lanFirst})
					w.rename("lan0", lan)
					w.rename("transit0", other)
					w.lan = lan
					if c.arrange != nil {
						c.arrange(w)
					}
					var env []string
					if c.env != nil {
						env = c.env(lan, other)
					}
					w.startDnsmasq()
					web := w.backend("web", 10, "tcp/80")
					web.serveTCP("web", ":80")
					w.outside.serveTCP("outside", ":80")
					a := w.anchord(env...).ready()
					ext := a.leased()
					eventually(t, deadline, w.client.answers("tcp", ext+":80", "web "+clientIP))
					eventually(t, deadline, web.answers("tcp", outsideIP+":80", "outside "+ext))
					if c.says != nil {
						eventually(t, deadline, a.logs(c.says[0], c.says[1:]...))
					}
					for _, e := range a.log() {
						if e.str("level") != "info" && (c.says == nil || e.str("event") != c.says[0]) {
							t.Errorf("logged: %v", e)
						}
					}
					if out := w.box.run("ip", "-4", "-o", "addr", "show", "dev", other); !containsAll(out, []string{boxIP + "/", transitGW + "/"}) || strings.Count(out, "\n") != 2 {
						t.Errorf("%s has\n%s", other, out)
					}
				})
			}
		}
	}
}

// rename gives an interface of the box another name, as Docker numbers them.
func (w *world) rename(from, to string) {
	w.t.Helper()
	w.box.ip(fmt.Sprintf("link set %s name %s\n", from, to))
}

func TestSeveralNetworksThatCouldBeTheLANAreAnError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.docker.SetNetwork(network.Inspect{Name: "dmz", Driver: "ipvlan"})
	w.docker.Connect(w.boxID, "dmz", network.EndpointSettings{MacAddress: "02:42:aa:00:00:77"})
	a := w.anchord()
	eventually(t, hang, a.logs("network.ext_missing", "dmz", lanNetwork, "ANCHORD_EXT_NETWORK"))
	w.docker.Disconnect(w.boxID, "dmz")
	a.ready()
}
