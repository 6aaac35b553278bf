package exec

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// As iproute2 6.1 prints it, cut to what differs.
const addressShow = `[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"qdisc":"noqueue","operstate":"UNKNOWN","group":"default","txqlen":1000,"link_type":"loopback","address":"00:00:00:00:00:00","broadcast":"00:00:00:00:00:00","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host","label":"lo","valid_life_time":4294967295,"preferred_life_time":4294967295}]},
{"ifindex":2,"link":"eth0","ifname":"p0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"qdisc":"noqueue","operstate":"UP","group":"default","txqlen":1000,"link_type":"ether","address":"ba:a7:f3:e4:02:a2","broadcast":"ff:ff:ff:ff:ff:ff","addr_info":[{"family":"inet6","local":"fe80::b8a7:f3ff:fee4:2a2","prefixlen":64,"scope":"link","tentative":true,"valid_life_time":4294967295,"preferred_life_time":4294967295}]},
{"ifindex":3,"link":"p0","ifname":"eth0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"qdisc":"noqueue","operstate":"UP","group":"default","txqlen":1000,"link_type":"ether","address":"36:b7:0d:08:cd:77","broadcast":"ff:ff:ff:ff:ff:ff","addr_info":[{"family":"inet","local":"192.0.2.5","prefixlen":24,"scope":"global","dynamic":true,"label":"eth0","valid_life_time":3600,"preferred_life_time":3600},{"family":"inet6","local":"fd00::5","prefixlen":64,"scope":"global","nodad":true,"valid_life_time":4294967295,"preferred_life_time":4294967295},{"family":"inet6","local":"fe80::34b7:dff:fe08:cd77","prefixlen":64,"scope":"link","tentative":true,"valid_life_time":4294967295,"preferred_life_time":4294967295}]},{}]`

func TestLinks(t *testing.T) {
	links, err := parseLinks([]byte(addressShow))
	want := []anchord.Link{
		{Name: "p0", Index: 2, MAC: "ba:a7:f3:e4:02:a2"},
		{Name: "eth0", Index: 3, MAC: "36:b7:0d:08:cd:77", Addrs: []anchord.LinkAddr{
			{Prefix: netip.MustParsePrefix("192.0.2.5/24")},
			{Prefix: netip.MustParsePrefix("fd00::5/64"), Permanent: true},
		}},
	}
	if err != nil || !reflect.DeepEqual(links, want) {
		t.Errorf("%+v, %v; want %+v", links, err, want)
	}
	down, err := parseLinks([]byte(strings.Replace(addressShow, `"MULTICAST","UP","LOWER_UP"`, `"MULTICAST"`, 1)))
	if err != nil || !down[0].Down || down[1].Down {
		t.Errorf("%+v, %v; want the first one down", down, err)
	}
	if _, err := parseLinks([]byte("Error: nonsense")); err == nil {
		t.Error("what is no JSON is no error")
	}
}

func TestRoutes(t *testing.T) {
	for _, tt := range []struct {
		name, json string
		family     anchord.Family
		want       []string
	}{
		{"none", "[ ]", anchord.V4, nil},
		{"none, in IPv6", "[]\n", anchord.V6, nil},
		{"none, as some releases say it", "", anchord.V4, nil},
		{"one", `[{"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]}]`, anchord.V4, []string{"default 192.0.2.1 eth0"}},
		{"on link", `[{"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":["onlink"]}]`, anchord.V4, []string{"default 192.0.2.1 eth0"}},
		{"two, best first", `[{"dst":"default","gateway":"10.0.0.1","dev":"eth1","flags":[]},{"dst":"default","gateway":"192.0.2.1","dev":"eth0","metric":100,"flags":[]}]`, anchord.V4, []string{"default 10.0.0.1 eth1", "default 192.0.2.1 eth0"}},
		{"without a gateway", `[{"dst":"default","dev":"eth0","scope":"link","flags":[]}]`, anchord.V4, []string{"default invalid IP eth0"}},
		{"from a router advertisement", `[{"dst":"default","gateway":"fe80::1","dev":"eth0","protocol":"ra","metric":1024,"expires":1795,"flags":[],"pref":"medium"}]`, anchord.V6, []string{"default fe80::1 eth0 ra"}},
		{"from a router that has not been heard for too long", `[{"dst":"default","gateway":"fe80::1","dev":"eth0","protocol":"ra","metric":1024,"expires":-10,"flags":[]}]`, anchord.V6, nil},
		{"a lease's", `[{"dst":"10.9.0.0/16","gateway":"192.0.2.5","dev":"eth0","protocol":"dhcp","flags":[]},{"dst":"10.8.0.1","dev":"eth0","protocol":"dhcp","scope":"link","flags":[]}]`, anchord.V4, []string{"10.9.0.0/16 192.0.2.5 eth0 dhcp", "10.8.0.1/32 invalid IP eth0 dhcp"}},
		{"others", `[{"dst":"192.0.2.0/24","dev":"eth0","protocol":"kernel","scope":"link","prefsrc":"192.0.2.7","flags":[]},{"type":"multicast","dst":"multicast","dev":"eth0"}]`, anchord.V4, []string{"192.0.2.0/24 invalid IP eth0 kernel"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			routes, err := parseRoutes(tt.family, []byte(tt.json), false)
			var got []string
			for _, r := range routes {
				if r.Family != tt.family {
					t.Errorf("family %v", r.Family)
				}
				how := ""
				if r.Protocol != "" {
					how = " " + r.Protocol
				}
				got = append(got, r.To()+" "+r.Gateway.String()+" "+r.Iface+how)
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
	for _, bad := range []string{"x", `[{"dst":"default"}`, `[{"dst":"default"},{"dst":`} {
		if _, err := parseRoutes(anchord.V4, []byte(bad), false); err == nil {
			t.Errorf("%s is no error", bad)
		}
	}
}

// Whoever sends router advertisements can make the kernel have tens of thousands of
// routes: they are neither asked for nor kept.
func TestOfVeryManyRoutesTheFirstAreRead(t *testing.T) {
	recorded := tools(t, map[string]string{"ip": `case "$*" in
*-4*) echo '[ ]' ;;
*) printf '['; i=0; while [ $i -lt 4000 ]; do printf '{"dst":"default","gateway":"fe80::%x","dev":"eth0","protocol":"ra","metric":1024,"flags":[],"pref":"medium"},' $i; i=$((i+1)); done; echo '{"dst":"default","dev":"eth0"}]' ;;
esac`})
	routes, err := IP{}.Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(routes[anchord.V6]); n < 1000 || n >= 4000 || routes[anchord.V6][0].Gateway.String() != "fe80::" {
		t.Errorf("%d routes are kept, the first %v", n, routes[anchord.V6][0])
	}
	wantText(t, "asked", recorded(), "ip -4 -j route show table main\nip -6 -j route show table main default")
}

func TestWhatIPIsAskedToDo(t *testing.T) {
	recorded := tools(t, map[string]string{"ip": "", "busybox": ""})
	ip, ctx := IP{}, t.Context()
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	route := anchord.Route{Gateway: addr("192.0.2.1"), Iface: "lan0"}
	for _, tt := range []struct {
		name string
		do   func() error
		want string
	}{
		{"MAC", func() error {
			return ip.SetMAC(ctx, "lan0", "02:00:00:00:00:01", []netip.Prefix{prefix("2001:db8::60/64")})
		}, "ip -batch -\nlink set dev lan0 address 02:00:00:00:00:01\nlink set dev lan0 down\nlink set dev lan0 up\naddress replace 2001:db8::60/64 dev lan0 nodad"},
		{"gateway address", func() error { return ip.AddAddress(ctx, "transit0", prefix("10.0.0.1/24")) }, "ip address replace 10.0.0.1/24 dev transit0"},
		{"gateway address in IPv6, not to be probed for", func() error { return ip.AddAddress(ctx, "transit0", prefix("fd00::1/64")) }, "ip address replace fd00::1/64 dev transit0 nodad"},
		{"address away", func() error { return ip.RemoveAddress(ctx, "lan0", prefix("192.0.2.7/24")) }, "ip address delete 192.0.2.7/24 dev lan0"},
		{"first address", func() error {
			return ip.Readdress(ctx, "lan0", prefix("192.0.2.7/24"), 90*time.Minute, nil, []anchord.Route{route})
		}, "ip -batch -\naddress replace 192.0.2.7/24 dev lan0 valid_lft 5400 preferred_lft 5400\nroute replace default via 192.0.2.1 dev lan0"},
		{"renewal", func() error {
			return ip.Readdress(ctx, "lan0", prefix("192.0.2.7/24"), 1500*time.Millisecond, nil, nil)
		}, "ip -batch -\naddress replace 192.0.2.7/24 dev lan0 valid_lft 2 preferred_lft 2"},
		{"another address: written again after the old is gone", func() error {
			return ip.Readdress(ctx, "lan0", prefix("192.0.2.8/24"), 0, []netip.Prefix{prefix("192.0.2.7/24"), prefix("192.0.2.6/24")}, []anchord.Route{route})
		}, "ip -batch -\naddress replace 192.0.2.8/24 dev lan0\naddress delete 192.0.2.7/24 dev lan0\naddress delete 192.0.2.6/24 dev lan0\naddress replace 192.0.2.8/24 dev lan0\nroute replace default via 192.0.2.1 dev lan0"},
		{"no address left", func() error {
			return ip.Readdress(ctx, "lan0", netip.Prefix{}, 0, []netip.Prefix{prefix("192.0.2.7/24")}, nil)
		}, "ip -batch -\naddress delete 192.0.2.7/24 dev lan0"},
		{"route", func() error { return ip.ReplaceRoute(ctx, route) }, "ip -4 route replace default via 192.0.2.1 dev lan0"},
		{"route to a gateway that no address covers", func() error {
			return ip.ReplaceRoute(ctx, anchord.Route{Family: anchord.V6, Gateway: addr("fe80::1"), Iface: "lan0", OnLink: true})
		}, "ip -6 route replace default via fe80::1 dev lan0 onlink"},
		{"route of a lease", func() error {
			return ip.ReplaceRoute(ctx, anchord.Route{Dst: prefix("10.9.0.0/16"), Gateway: addr("192.0.2.5"), Iface: "lan0", Protocol: anchord.ProtoDHCP})
		}, "ip -4 route replace 10.9.0.0/16 via 192.0.2.5 dev lan0 proto dhcp"},
		{"leased address", func() error {
			return ip.LeaseAddress(ctx, "lan0", prefix("2001:db8::7/128"), time.Hour, time.Minute)
		}, "ip address replace 2001:db8::7/128 dev lan0 valid_lft 3600 preferred_lft 60 noprefixroute"},
		{"leased address for ever", func() error {
			return ip.LeaseAddress(ctx, "lan0", prefix("2001:db8::7/128"), 0, 0)
		}, "ip address replace 2001:db8::7/128 dev lan0 noprefixroute"},
		{"own interface", func() error {
			return ip.AddChild(ctx, anchord.Child{Name: "ext", Parent: "eth0", MAC: "02:00:00:00:00:01"})
		}, "ip -6 route flush dev eth0\nip -batch -\nlink set dev eth0 arp off addrgenmode none up\naddress flush dev eth0 to ::/0\nlink add link eth0 name ext address 02:00:00:00:00:01 type macvlan mode bridge\nlink set dev ext up"},
		{"own interface away", func() error { return ip.RemoveChild(ctx, anchord.Child{Name: "ext", Parent: "eth0"}) }, "ip link delete dev ext\nip link set dev eth0 arp on addrgenmode eui64"},
		{"route away", func() error { return ip.DeleteRoute(ctx, route) }, "ip -4 route delete default via 192.0.2.1 dev lan0 proto boot"},
		{"up", func() error { return ip.SetUp(ctx, "lan0") }, "ip link set dev lan0 up"},
		{"announcement", func() error { return ip.Announce(ctx, "lan0", addr("192.0.2.7")) }, "busybox arping -U -c 3 -I lan0 192.0.2.7"},
	} {
		if err := tt.do(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		wantText(t, tt.name, recorded(), tt.want)
	}
}

// An entry that is right is not touched: a packet in it would be lost.
func TestOnlyAnotherContainersMACIsForgotten(t *testing.T) {
	recorded := tools(t, map[string]string{"ip": `case "$*" in "-j neighbour show") echo '[
		{"dst":"10.0.0.5","dev":"transit0","lladdr":"02:42:0a:00:00:05","state":["REACHABLE"]},
		{"dst":"10.0.0.6","dev":"transit0","lladdr":"02:42:0a:00:00:66","state":["STALE"]},
		{"dst":"10.0.0.7","dev":"transit0","state":["INCOMPLETE"]},
		{"dst":"10.0.0.9","dev":"transit0","lladdr":"02:42:0a:00:00:99","state":["PERMANENT"]},
		{"dst":"10.0.0.8","dev":"transit1","lladdr":"02:42:0a:00:00:88","state":["REACHABLE"]},
		{"dst":"fd00::5","dev":"transit0","lladdr":"02:42:0a:00:00:55","state":["PROBE"]}]' ;; esac`})
	of := func(addr, mac string) anchord.Neighbour {
		return anchord.Neighbour{Iface: "transit0", Addr: netip.MustParseAddr(addr), MAC: mac}
	}
	forget := func(list ...anchord.Neighbour) {
		t.Helper()
		if err := (IP{}).ForgetNeighbours(t.Context(), list); err != nil {
			t.Error(err)
		}
	}
	look := "ip -j neighbour show"
	forget(of("10.0.0.5", "02:42:0A:00:00:05"), of("10.0.0.6", "02:42:0a:00:00:06"), of("10.0.0.7", "02:42:0a:00:00:07"),
		of("10.0.0.8", "02:42:0a:00:00:08"), of("10.0.0.9", "02:42:0a:00:00:09"), of("10.0.0.10", "02:42:0a:00:00:0a"), of("fd00::5", ""))
	wantText(t, "some are others'", recorded(), look+"\nip -force -batch -\nneighbour replace 10.0.0.6 dev transit0 nud failed\nneighbour replace fd00::5 dev transit0 nud failed")
	forget(of("10.0.0.5", "02:42:0a:00:00:05"))
	wantText(t, "all are right", recorded(), look)
}

// What the tools say when something is gone already, release by release.
func TestWhatIsGoneAlreadyIsNoError(t *testing.T) {
	for name, said := range map[string]string{
		"IPv4 address":   "Error: ipv4: Address not found.",
		"IPv6 address":   "Error: ipv6: address not found.",
		"address, older": "RTNETLINK answers: Cannot assign requested address",
		"interface":      `Cannot find device "lan0"`,
		"route":          "RTNETLINK answers: No such process",
	} {
		tools(t, map[string]string{"ip": "echo '" + said + "' >&2; exit 2"})
		ip := IP{}
		if err := ip.RemoveAddress(t.Context(), "lan0", netip.MustParsePrefix("192.0.2.7/24")); err != nil {
			t.Errorf("%s: removing an address: %v", name, err)
		}
		if err := ip.DeleteRoute(t.Context(), anchord.Route{Gateway: netip.MustParseAddr("192.0.2.1")}); err != nil {
			t.Errorf("%s: removing a route: %v", name, err)
		}
	}
	tools(t, map[string]string{"ip": "echo 'RTNETLINK answers: Operation not permitted' >&2; exit 2"})
	if err := (IP{}).RemoveAddress(t.Context(), "lan0", netip.MustParsePrefix("192.0.2.7/24")); err == nil || !strings.Contains(err.Error(), "removing address 192.0.2.7/24") {
		t.Errorf("not permitted: %v", err)
	}
	if err := (IP{}).DeleteRoute(t.Context(), anchord.Route{Gateway: netip.MustParseAddr("192.0.2.1")}); err == nil {
		t.Error("a route that may not be removed is no error")
	}
}
