package netns_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// A LAN's prefixes, and addresses in the second one.
const (
	firstPrefix  = "2001:db8:1::"
	secondPrefix = "2001:db8:5::"
	router2IP6   = secondPrefix + "1"
	client2IP6   = secondPrefix + "20"
)

// advertiser is a router that a test commands. dnsmasq stands for the ordinary
// ones; but it does not resign, nor change its mind.
type advertiser struct {
	n     *ns
	conn  *icmp.PacketConn
	iface *net.Interface
	local netip.Addr

	mu     sync.Mutex
	says   advert
	asked  int // router solicitations heard
	silent bool
}

// advert is what a router advertisement says (RFC 4861, 4.2).
type advert struct {
	lifetime   uint16 // as a default router, in seconds; 0: it is none
	managed    bool
	preference byte // 0: medium, 1: high, 3: low (RFC 4191)
	mtu        uint32
	prefixes   []onLink
	hopLimit   int // of the packet; 0: 255, as it has to be
}

// onLink is a prefix for addresses, and for how long.
type onLink struct {
	prefix           string
	valid, preferred uint32
}

// ordinary is what most routers say.
func ordinary(prefixes ...string) advert {
	a := advert{lifetime: 1800}
	for _, p := range prefixes {
		a.prefixes = append(a.prefixes, onLink{p, 86400, 14400})
	}
	return a
}

// advertise makes a namespace a router of the LAN, which says this at once, when
// it is asked, and when it changes its mind.
func (w *world) advertise(n *ns, says advert) *advertiser {
	w.t.Helper()
	r := &advertiser{n: n, says: says}
	eventually(w.t, hang, func() (err error) {
		r.local, err = n.local6("eth0")
		return err
	})
	err := in(n, func() (err error) {
		if r.iface, err = net.InterfaceByName("eth0"); err == nil {
			r.conn, err = icmp.ListenPacket("ip6:ipv6-icmp", "::")
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { r.conn.Close() })
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := r.conn.IPv6PacketConn().SetICMPFilter(&only); err != nil {
		w.t.Fatal(err)
	}
	go r.serve()
	r.say(func(*advert) {})
	return r
}

func (r *advertiser) serve() {
	for buf := make([]byte, 1500); ; {
		if _, _, err := r.conn.ReadFrom(buf); err != nil {
			return
		}
		r.mu.Lock()
		r.asked++
		says, silent := r.says, r.silent
		r.mu.Unlock()
		if !silent {
			r.send(says) //nolint:errcheck // whoever asks asks again
		}
	}
}

// say changes what the router says, and says it.
func (r *advertiser) say(change func(*advert)) {
	r.n.t.Helper()
	r.mu.Lock()
	change(&r.says)
	says := r.says
	r.mu.Unlock()
	if err := r.send(says); err != nil {
		r.n.t.Fatal(err)
	}
}

// hush lets it answer nobody, or again.
func (r *advertiser) hush(silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = silent
}

// isAsked is a condition: hosts have asked for routers so often.
func (r *advertiser) isAsked(times int) func() error {
	return func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.asked < times {
			return fmt.Errorf("the router was asked %d times, want %d", r.asked, times)
		}
		return nil
	}
}

func (r *advertiser) times() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *advertiser) send(says advert) error {
	control := &ipv6.ControlMessage{IfIndex: r.iface.Index, HopLimit: 255, Src: r.local.AsSlice()}
	if says.hopLimit != 0 {
		control.HopLimit = says.hopLimit
	}
	_, err := r.conn.IPv6PacketConn().WriteTo(says.message(r.iface.HardwareAddr), control, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: strconv.Itoa(r.iface.Index)})
	return err
}

func (a advert) message(mac net.HardwareAddr) []byte {
	flags := a.preference << 3
	if a.managed {
		flags |= 0x80
	}
	b := []byte{134, 0, 0, 0, 64, flags}
	b = binary.BigEndian.AppendUint16(b, a.lifetime)
	b = append(b, make([]byte, 8)...) // reachable and retransmission times: unspecified
	b = append(append(b, 1, 1), mac...)
	if a.mtu != 0 {
		b = binary.BigEndian.AppendUint32(append(b, 5, 1, 0, 0), a.mtu)
	}
	for _, p := range a.prefixes {
		b = append(b, 3, 4, 64, 0xc0) // on link, and for addresses
		b = binary.BigEndian.AppendUint32(b, p.valid)
		b = binary.BigEndian.AppendUint32(b, p.preferred)
		b = append(append(b, 0, 0, 0, 0), netip.MustParseAddr(p.prefix).AsSlice()...)
	}
	return b
}

// local6 is an interface's link-local address, once it can be used.
func (n *ns) local6(iface string) (netip.Addr, error) {
	addrs, err := n.addresses6(iface)
	for _, a := range addrs {
		if a.scope == "link" && !a.tentative {
			return netip.ParseAddr(a.addr)
		}
	}
	return netip.Addr{}, fmt.Errorf("%s: %s has no link-local address: %v, %v", n.name, iface, addrs, err)
}

// address6 is an IPv6 address of an interface.
type address6 struct {
	addr, scope           string
	tentative, deprecated bool
}

// addresses6 is every IPv6 address of an interface, sorted.
func (n *ns) addresses6(iface string) ([]address6, error) {
	out, err := n.try("ip", "-6", "-j", "addr", "show", "dev", iface)
	if err != nil {
		return nil, err
	}
	var links []struct {
		Addrs []struct {
			Local, Scope          string
			Tentative, Deprecated bool
		} `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return nil, err
	}
	var all []address6
	for _, l := range links {
		for _, a := range l.Addrs {
			if a.Local != "" {
				all = append(all, address6{a.Local, a.Scope, a.Tentative, a.Deprecated})
			}
		}
	}
	slices.SortFunc(all, func(a, b address6) int { return strings.Compare(a.addr, b.addr) })
	return all, nil
}

// hasOnly6 is a condition: the interface on the LAN can use exactly these global
// IPv6 addresses; those that are deprecated have "old " before them.
func (w *world) hasOnly6(want ...string) func() error {
	return func() error {
		addrs, err := w.box.addresses6(w.lan)
		if err != nil {
			return err
		}
		var got []string
		for _, a := range addrs {
			switch {
			case a.scope != "global":
				continue
			case a.tentative:
				a.addr = "tentative " + a.addr
			case a.deprecated:
				a.addr = "old " + a.addr
			}
			got = append(got, a.addr)
		}
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			return fmt.Errorf("%s has %q, want %q", w.lan, got, want)
		}
		return nil
	}
}

// slaac is the address that a card with this MAC makes in a prefix (RFC 4291,
// appendix A).
func slaac(prefix, mac string) string {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		panic(err)
	}
	a := netip.MustParseAddr(prefix).As16()
	copy(a[8:], []byte{hw[0] ^ 2, hw[1], hw[2], 0xff, 0xfe, hw[3], hw[4], hw[5]})
	return netip.AddrFrom16(a).String()
}

// derivedMAC is the project's own.
var derivedMAC = func() string {
	sum := sha256.Sum256([]byte(project))
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3])
}()

// The project's addresses in each of the prefixes.
var (
	firstIP6  = slaac(firstPrefix, derivedMAC)
	secondIP6 = slaac(secondPrefix, derivedMAC)
)

// startSLAAC makes a world whose router the test commands and which has no
// DHCPv4 server, and an anchord that has its IPv6 address in the first prefix.
func startSLAAC(t testing.TB, s setup, says advert, env ...string) (*running, *advertiser) {
	t.Helper()
	s.ipv6 = true
	w := newWorld(t, s)
	router := w.advertise(w.router, says)
	r := &running{world: w}
	r.a = w.anchord(env...).ready()
	eventually(t, hang, w.hasOnly6(firstIP6))
	w.box.usable6("lan0")
	r.lookAgain()
	return r, router
}

// lookAgain returns when anchord has seen what is in the kernel now.
func (r *running) lookAgain() {
	r.t.Helper()
	const looks = `anchord_reconcile_total{result="ok"}`
	before := r.a.count(looks)
	r.box.ip("addr add 10.213.0.201/32 dev transit0\naddr del 10.213.0.201/32 dev transit0\n")
	eventually(r.t, hang, func() error {
		if got := r.a.count(looks); got < before+2 { // one may have been under way
			r.box.ip("addr add 10.213.0.201/32 dev transit0\naddr del 10.213.0.201/32 dev transit0\n")
			return fmt.Errorf("%v looks, %v before", got, before)
		}
		return nil
	})
}

// on6 is a port of an IPv6 address.
func on6(addr string, port int) string { return fmt.Sprintf("[%s]:%d", addr, port) }

// routes6 are the IPv6 default routes, best first: gateway, interface, and who
// set each.
func (n *ns) routes6() ([]string, error) {
	out, err := n.try("ip", "-6", "-j", "route", "show", "default")
	if err != nil {
		return nil, err
	}
	var routes []struct{ Gateway, Dev, Protocol string }
	if strings.TrimSpace(out) != "" {
		if err := json.Unmarshal([]byte(out), &routes); err != nil {
			return nil, fmt.Errorf("%q: %w", out, err)
		}
	}
	var all []string
	for _, r := range routes {
		all = append(all, strings.TrimSpace("via "+r.Gateway+" dev "+r.Dev+" "+r.Protocol))
	}
	return all, nil
}

// hasRoutes6 is a condition: exactly these default routes are there.
func (n *ns) hasRoutes6(want ...string) func() error {
	return func() error {
		got, err := n.routes6()
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%s has the IPv6 default routes %q, want %q", n.name, got, want)
		}
		return err
	}
}

// goes6 is a condition: IPv6 packets for the Internet go to this gateway.
func (n *ns) goes6(gateway, iface string) func() error {
	return func() error {
		out, err := n.try("ip", "-6", "route", "get", outsideIP6)
		if err == nil && !strings.Contains(out, " via "+gateway+" dev "+iface+" ") {
			err = fmt.Errorf("the way out is %q, want via %s dev %s", out, gateway, iface)
		}
		return err
	}
}

// byRA is the default route that the kernel makes of a router's word.
func (r *advertiser) byRA() string { return "via " + r.local.String() + " dev lan0 ra" }

func TestTheIPv6AddressIsMadeOfTheProjectsOwnMAC(t *testing.T) {
	t.Parallel()
	r := start(t, setup{ipv6: true})
	eventually(t, hang, r.hasOnly6(firstIP6))
	web := r.backend("web", 10, "tcp/80,udp/53")
	web.serveTCP("web", ":80")
	web.serveUDP("web", ":53")
	r.outside.serveUDP("outside", ":53")
	eventually(t, deadline, r.outside.answers("udp", on6(firstIP6, 53), "web "+outsideIP6))
	eventually(t, deadline, web.answers("udp", on6(outsideIP6, 53), "outside "+firstIP6))
	eventually(t, deadline, web.answers("udp", on6(firstIP6, 53), "web "+firstIP6))
	pings := r.outside.capture("eth0", "icmp6 and ip6[40] == 128")
	web.run("busybox", "ping6", "-c", "1", "-W", "2", outsideIP6)
	eventually(t, deadline, pings.sees(firstIP6+` > `+outsideIP6+`: .*echo request`))
	local, err := r.router.local6("eth0")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the router's own default route is left as the kernel made it", func(t *testing.T) {
		if err := r.box.hasRoutes6("via " + local.String() + " dev lan0 ra")(); err != nil {
			t.Error(err)
		}
		for _, event := range []string{"route.set", "route.reasserted"} {
			if err := r.a.logs(event, `"family":"v6"`)(); err == nil {
				t.Errorf("%s: %v", event, r.a.entries(event))
			}
		}
	})
	t.Run("told", func(t *testing.T) {
		eventually(t, deadline, r.a.logs("address.added", firstIP6))
		eventually(t, deadline, r.a.states(firstIP6+"/64", r.ext+"/24", local.String(), "router advertisement"))
		if n := len(r.a.entries("address.added")); n != 4 { // and of the transit network's gateways
			t.Errorf("%d addresses are told: %v", n, r.a.entries("address.added"))
		}
	})
}

// bothPrefixes gives the LAN's router and client addresses in the second one.
func (w *world) bothPrefixes() {
	w.router.ip("addr add " + router2IP6 + "/64 dev eth0 nodad\n")
	w.client.ip("addr add " + client2IP6 + "/64 dev eth0 nodad preferred_lft 0\n")
}

func TestAChangedPrefixIsFollowed(t *testing.T) {
	t.Parallel()
	const short = 12
	s := setup{ipv6: true}
	w := newWorld(t, s)
	w.bothPrefixes()
	router := w.advertise(w.router, advert{lifetime: 1800, prefixes: []onLink{{firstPrefix, short, short}}})
	r := &running{world: w}
	r.a = w.anchord().ready()
	eventually(t, hang, w.hasOnly6(firstIP6))
	web := r.backend("web", 10, "tcp/80,udp/53")
	web.serveTCP("web", ":80")
	web.serveUDP("web", ":53")
	r.outside.serveTCP("outside", ":80")
	r.outside.serveUDP("outside", ":53")
	out := web.stream(on6(outsideIP6, 53))
	eventually(t, deadline, out.answeredBy("outside "+firstIP6))
	eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
	in := r.client.session(on6(firstIP6, 80))
	ended := r.box.monitor("conntrack", "-E", "-f", "ipv6", "-e", "DESTROY", "-p", "tcp")

	router.say(func(a *advert) {
		a.prefixes = []onLink{{firstPrefix, short, 0}, {secondPrefix, 86400, 14400}}
	})
	router.say(func(a *advert) { a.prefixes = a.prefixes[1:] }) // and no more of the old one
	// Until the new address can be used, the old one is better than none.
	var pause time.Duration
	eventually(t, deadline, func() error {
		pause = max(pause, out.silence())
		return out.answeredBy("outside " + secondIP6)()
	})
	if pause > 700*time.Millisecond {
		t.Errorf("what went out was not answered for %v", pause)
	}
	eventually(t, deadline, r.a.logs("address.deprecated", firstIP6))
	eventually(t, deadline, w.hasOnly6("old "+firstIP6, secondIP6))
	eventually(t, deadline, r.a.logs("address.added", secondIP6))
	eventually(t, deadline, out.answeredBy("outside "+secondIP6))
	eventually(t, deadline, web.answers("tcp", on6(outsideIP6, 80), "outside "+secondIP6))
	eventually(t, deadline, r.client.answers("tcp", on6(secondIP6, 80), "web "+clientIP6))
	eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
	eventually(t, deadline, r.outside.answers("udp", on6(secondIP6, 53), "web "+outsideIP6))
	eventually(t, deadline, r.outside.answers("udp", on6(firstIP6, 53), "web "+outsideIP6))
	if err := in.echo(); err != nil {
		t.Errorf("a connection to the old address, which is valid still, was cut: %v\n%s", err, ended.out)
	}
	if n := len(r.a.entries("address.deprecated")); n != 1 {
		t.Errorf("told %d times that the address is deprecated", n)
	}
	eventually(t, deadline, r.a.states(firstIP6+"/64 (deprecated)", secondIP6+`/64"`))

	eventually(t, hang, w.hasOnly6(secondIP6))
	eventually(t, deadline, r.a.logs("address.removed", firstIP6))
	eventually(t, deadline, func() error {
		if flows := r.box.run("conntrack", "-L", "-f", "ipv6", "--orig-dst", firstIP6); flows != "" {
			return fmt.Errorf("flows of the address that is gone are tracked:\n%s", flows)
		}
		return nil
	})
	eventually(t, deadline, out.answeredBy("outside "+secondIP6))
	eventually(t, deadline, r.client.answers("tcp", on6(secondIP6, 80), "web "+clientIP6))
}

// silence is how long ago the last answer came.
func (s *stream) silence() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return awake() - s.at
}

func TestAnIPv6AddressTakenAwayByHand(t *testing.T) {
	t.Parallel()
	r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
	web := r.backend("web", 10, "udp/53")
	web.serveUDP("web", ":53")
	eventually(t, deadline, r.client.answers("udp", on6(firstIP6, 53), "web "+clientIP6))
	promise(t, func() { r.box.ip("addr del " + firstIP6 + "/64 dev lan0\n") }, r.a.logs("address.removed", firstIP6), func() error {
		if flows := r.box.run("conntrack", "-L", "-f", "ipv6", "--orig-dst", firstIP6); flows != "" {
			return fmt.Errorf("still tracked:\n%s", flows)
		}
		return nil
	})
	router.say(func(*advert) {})
	eventually(t, deadline, r.client.answers("udp", on6(firstIP6, 53), "web "+clientIP6))
}

func TestNoInsideAddressIsEverSeenOnTheLAN(t *testing.T) {
	t.Parallel()
	// The kernel would rather take a good address of another interface than
	// none, or an old one, of the right one.
	for name, says := range map[string]advert{
		"no prefix for addresses":        {lifetime: 1800},
		"no prefix for new connections":  {lifetime: 1800, prefixes: []onLink{{firstPrefix, 3600, 0}}},
		"an address that is not checked": ordinary(firstPrefix),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{ipv6: true})
			seen := w.router.capture("eth0", "udp port 53")
			app := w.backend("app", 10, "")
			w.outside.serveUDP("outside", ":53")
			out := app.stream(on6(outsideIP6, 53))
			router := w.advertise(w.router, says)
			w.anchord().ready()
			eventually(t, hang, w.box.hasRoutes6(router.byRA()))
			throughout(t, time.Second, func() error {
				if inside := seen.all(`\) (fd5a:1:\S+) > `); len(inside) > 0 {
					return fmt.Errorf("%d packets left with the inside address %s", len(inside), inside[0])
				}
				return nil
			})
			if name == "an address that is not checked" {
				eventually(t, deadline, out.answeredBy("outside "+firstIP6))
			}
		})
	}
}

func TestARouterWhoseRouteIsChangedByHand(t *testing.T) {
	t.Parallel()
	const else6 = "fe80::bad"
	for name, lines := range map[string]string{
		"deleted":                    "route delete default",
		"replaced by another":        "route replace default via " + else6 + " dev lan0",
		"replaced, as Docker does":   "route replace default via fd5a:1::9 dev transit0",
		"another, which is better":   "route add default via " + else6 + " dev lan0 metric 1",
		"another, as good":           "route append default via " + else6 + " dev lan0",
		"another, which is worse":    "route add default via fd5a:1::9 dev transit0 metric 2000",
		"two ways at the same time":  "route add default metric 1 nexthop via " + else6 + " dev lan0 nexthop via fe80::bad2 dev lan0",
		"set by another program":     "route add default via " + else6 + " dev lan0 metric 1 proto static",
		"straight out, no gateway":   "route add default dev lan0 metric 1",
		"without its gateway's help": "route delete default\nroute add default via fd5a:1::9 dev transit0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
			app := r.backend("app", 10, "")
			r.outside.serveTCP("outside", ":80")
			eventually(t, deadline, app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
			if err := r.box.hasRoutes6(router.byRA())(); err != nil {
				t.Fatal(err)
			}
			router.hush(true) // so that it is anchord who puts it right
			put := r.a.count(`anchord_route_reasserts_total{family="v6"}`)
			promise(t, func() { r.box.ip6(lines + "\n") },
				r.box.goes6(router.local.String(), "lan0"), app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6),
				r.a.logs("route.reasserted", `"family":"v6"`), func() error {
					if got := r.a.count(`anchord_route_reasserts_total{family="v6"}`); got <= put {
						return fmt.Errorf("anchord_route_reasserts_total is %v, was %v", got, put)
					}
					return nil
				})
			// The router's next word takes the place of what stood in for it.
			router.hush(false)
			router.say(func(*advert) {})
			eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
			eventually(t, deadline, app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
			if n := len(r.a.entries("route.reasserted")); n > 3 {
				t.Errorf("told %d times", n)
			}
			if err := r.a.logs("reconcile.failed")(); err == nil {
				t.Errorf("%v", r.a.entries("reconcile.failed"))
			}
			t.Run("the router is heard all the same", func(t *testing.T) {
				r.bothPrefixes()
				router.say(func(a *advert) { a.prefixes = ordinary(firstPrefix, secondPrefix).prefixes })
				eventually(t, deadline, r.hasOnly6(firstIP6, secondIP6))
			})
		})
	}
}

func TestARouterIsAskedWhenItsRouteIsLost(t *testing.T) {
	t.Parallel()
	r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
	eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
	asked := router.times()
	r.box.ip6("route delete default\n")
	eventually(t, deadline, router.isAsked(asked+1))
	eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
}

func TestOtherIPv6RoutesAreLeftAlone(t *testing.T) {
	t.Parallel()
	r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
	r.box.ip("route add 2001:db8:77::/48 via fe80::77 dev lan0\nroute add 2001:db8:78::/48 via fd5a:1::9 dev transit0\n")
	before := r.box.run("ip", "-6", "route", "show", "root", "2001:db8:70::/44")
	r.box.ip6("route delete default\n")
	eventually(t, deadline, r.a.logs("route.reasserted"))
	eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
	if after := r.box.run("ip", "-6", "route", "show", "root", "2001:db8:70::/44"); after != before || strings.Count(after, "\n") != 2 {
		t.Errorf("the other routes are\n%s, were\n%s", after, before)
	}
	r.a.terminate()
	if after := r.box.run("ip", "-6", "route", "show", "root", "2001:db8:70::/44"); after != before {
		t.Errorf("after the stop the other routes are\n%s, were\n%s", after, before)
	}
}

func TestARouterThatResignsIsNotPutBack(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*running, *advertiser){
		"as it was": func(*running, *advertiser) {},
		"while anchord's own route stands in for it": func(r *running, router *advertiser) {
			router.hush(true)
			r.box.ip6("route delete default\n")
			eventually(r.t, deadline, r.a.logs("route.reasserted"))
			eventually(r.t, deadline, r.box.goes6(router.local.String(), "lan0"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
			web := r.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			before(r, router)
			told := len(r.a.entries("route.reasserted"))
			router.say(func(a *advert) { a.lifetime = 0 })
			eventually(t, deadline, r.box.hasRoutes6())
			throughout(t, 2*time.Second, r.box.hasRoutes6())
			if n := len(r.a.entries("route.reasserted")); n != told {
				t.Errorf("put back: %v", r.a.entries("route.reasserted")[told:])
			}
			eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
			eventually(t, deadline, func() error {
				if s := r.a.status(); strings.Contains(s, router.local.String()) {
					return fmt.Errorf("the status still names the router: %s", s)
				}
				return nil
			})
			router.say(func(a *advert) { a.lifetime = 1800 })
			eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
		})
	}
}

func TestARouterThatResignsWhileMuchElseHappens(t *testing.T) {
	t.Parallel()
	r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
	r.box.start("sh", "-c", "while ip addr add 10.213.0.200/32 dev transit0; do sleep 0.03; ip addr del 10.213.0.200/32 dev transit0; sleep 0.03; done")
	for range 20 {
		for _, lifetime := range []uint16{0, 1800} {
			router.say(func(a *advert) { a.lifetime = lifetime })
			r.lookAgain()
		}
	}
	eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
	// Where the machine is so busy that anchord hears later than the kernel, once
	// may happen; it is undone at once.
	if told := r.a.entries("route.reasserted"); len(told) > 2 {
		t.Errorf("put back %d times: %v", len(told), told)
	}
}

func TestARouterThatFallsSilentIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	says := ordinary(firstPrefix)
	says.lifetime = 6
	r, router := startSLAAC(t, setup{}, says, "ANCHORD_POLL_INTERVAL=1s")
	router.say(func(*advert) {})
	router.hush(true)
	r.box.ip6("route delete default\n") // and anchord's stands in for it
	eventually(t, deadline, r.a.logs("route.reasserted"))
	eventually(t, hang, r.box.hasRoutes6())
	throughout(t, time.Second, r.box.hasRoutes6())
}

func TestTwoRouters(t *testing.T) {
	t.Parallel()
	r, first := startSLAAC(t, setup{}, ordinary(firstPrefix))
	second := r.advertise(r.secondRouter(), advert{lifetime: 1800, preference: 1})
	app := r.backend("app", 10, "")
	r.outside.serveTCP("outside", ":80")
	both := func() error {
		got, err := r.box.routes6()
		if err == nil && (len(got) != 2 || !slices.Contains(got, first.byRA()) || !slices.Contains(got, second.byRA())) {
			err = fmt.Errorf("the default routes are %q", got)
		}
		return err
	}
	eventually(t, deadline, both)
	eventually(t, deadline, r.box.goes6(second.local.String(), "lan0")) // it says that it is to be preferred
	eventually(t, deadline, app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
	throughout(t, 500*time.Millisecond, both)
	second.say(func(a *advert) { a.lifetime = 0 })
	eventually(t, deadline, r.box.hasRoutes6(first.byRA()))
	eventually(t, deadline, app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
	throughout(t, 500*time.Millisecond, r.box.hasRoutes6(first.byRA()))
	first.say(func(a *advert) { a.lifetime = 0 })
	eventually(t, deadline, r.box.hasRoutes6())
	second.say(func(a *advert) { a.lifetime = 1800 })
	eventually(t, deadline, r.box.hasRoutes6(second.byRA()))
	if told := r.a.entries("route.reasserted"); len(told) > 0 {
		t.Errorf("nobody interfered, and yet: %v", told)
	}
	t.Run("both routes deleted by hand", func(t *testing.T) {
		first.say(func(a *advert) { a.lifetime = 1800 })
		eventually(t, deadline, both)
		promise(t, func() { r.box.ip6("route delete default\nroute delete default\n") }, app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6))
		eventually(t, deadline, both)
	})
}

// secondRouter is another way to the Internet, by the first one.
func (w *world) secondRouter() *ns {
	w.t.Helper()
	n := newNS(w.t, "router2")
	n.sysctl("net.ipv6.conf.default.accept_dad", "0")
	n.sysctl("net.ipv6.conf.default.accept_ra", "0")
	w.plug(n, "eth0", "br-lan", "2001:db8:1::2/64")
	n.sysctl("net.ipv6.conf.all.forwarding", "1")
	n.ip("route add default via " + routerIP6 + "\n")
	return n
}

func TestADefaultRouteToOurOwnIPv6GatewayIsRemoved(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]advert{
		"where a router advertises": ordinary(firstPrefix),
		"where none does":           {prefixes: ordinary(firstPrefix).prefixes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{ipv6: true})
			w.box.ip("route add default via " + transitGW6 + " dev transit0\n")
			router := w.advertise(w.router, says)
			a := w.anchord().ready()
			eventually(t, hang, w.hasOnly6(firstIP6))
			want := []string{}
			if says.lifetime > 0 {
				want = append(want, router.byRA())
			}
			eventually(t, deadline, w.box.hasRoutes6(want...))
			eventually(t, deadline, a.logs("route.removed", transitGW6))
		})
	}
}

func TestTheIPv6Gateway(t *testing.T) {
	t.Parallel()
	noRouter := advert{prefixes: ordinary(firstPrefix).prefixes}
	pinned := "ANCHORD_EXT_GATEWAY_IP=" + routerIP6
	viaPinned := "via " + routerIP6 + " dev lan0"
	t.Run("none is known", func(t *testing.T) {
		t.Parallel()
		r, _ := startSLAAC(t, setup{}, noRouter)
		throughout(t, time.Second, r.box.hasRoutes6())
	})
	t.Run("the pinned one where no router speaks, the router as soon as one does", func(t *testing.T) {
		t.Parallel()
		r, router := startSLAAC(t, setup{}, noRouter, pinned)
		app := r.backend("app", 10, "")
		r.outside.serveTCP("outside", ":80")
		out := app.answers("tcp", on6(outsideIP6, 80), "outside "+firstIP6)
		eventually(t, deadline, r.box.hasRoutes6(viaPinned))
		eventually(t, deadline, out)
		eventually(t, deadline, r.a.states(routerIP6, "ANCHORD_EXT_GATEWAY_IP"))
		promise(t, func() { r.box.ip6("route delete default\n") }, r.box.hasRoutes6(viaPinned), out)
		promise(t, func() { r.box.ip("route replace default via fe80::bad dev lan0\n") }, r.box.goes6(routerIP6, "lan0"), out)
		promise(t, func() { r.box.ip("route add default via fe80::bad dev lan0 metric 1\n") }, r.box.goes6(routerIP6, "lan0"), out)
		// The kernel would take it while the gateway does not answer.
		promise(t, func() { r.box.ip("route add default via fd5a:1::9 dev transit0 metric 2000\n") }, r.box.hasRoutes6(viaPinned), out)
		router.say(func(a *advert) { a.lifetime = 1800 })
		eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
		eventually(t, deadline, out)
		router.say(func(a *advert) { a.lifetime = 0 })
		eventually(t, deadline, r.box.hasRoutes6(viaPinned))
		eventually(t, deadline, out)
		r.a.terminate()
		if err := r.box.hasRoutes6()(); err != nil {
			t.Errorf("after the stop: %v", err)
		}
	})
	t.Run("a router beats the pinned one", func(t *testing.T) {
		t.Parallel()
		r, router := startSLAAC(t, setup{}, ordinary(firstPrefix), "ANCHORD_EXT_GATEWAY_IP="+clientIP6)
		throughout(t, time.Second, r.box.hasRoutes6(router.byRA()))
	})
	t.Run("a router beats what Docker set", func(t *testing.T) {
		t.Parallel()
		given := firstPrefix + "77"
		w := newWorld(t, setup{ipv6: true, bootstrap: "198.51.100.77", bootstrap6: given})
		router := w.advertise(w.router, ordinary(firstPrefix))
		w.anchord().ready()
		eventually(t, hang, w.hasOnly6(given, slaac(firstPrefix, boxMAC)))
		eventually(t, deadline, w.box.hasRoutes6(router.byRA()))
	})
	t.Run("the network's own in Docker, put back when changed", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setup{ipv6: true, bootstrap: "198.51.100.77", bootstrap6: firstPrefix + "77"})
		w.anchord().ready()
		promise(t, func() { w.box.ip("route replace default via fe80::bad dev lan0\n") }, w.box.goes6(routerIP6, "lan0"))
	})
	t.Run("pinned to the router that speaks later", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setup{ipv6: true, bootstrap: "198.51.100.77", bootstrap6: firstPrefix + "77"})
		w.box.ip6("route delete default\n")
		var local string
		eventually(t, hang, func() error {
			a, err := w.router.local6("eth0")
			local = a.String()
			return err
		})
		w.anchord("ANCHORD_EXT_GATEWAY_IP=" + local).ready()
		eventually(t, hang, w.box.hasRoutes6("via "+local+" dev lan0"))
		router := w.advertise(w.router, ordinary(secondPrefix))
		eventually(t, hang, w.hasOnly6(firstPrefix+"77", slaac(secondPrefix, boxMAC)))
		eventually(t, deadline, w.box.hasRoutes6(router.byRA()))
	})
}

func TestWhenADHCPv6ServerIsAsked(t *testing.T) {
	t.Parallel()
	managed := ordinary(firstPrefix)
	managed.managed = true
	asked := func(a *anchord) func() error { return a.logs("dhcp.started", `"family":"v6"`) }
	t.Run("a router says so from the start", func(t *testing.T) {
		t.Parallel()
		r, _ := startSLAAC(t, setup{}, managed)
		eventually(t, deadline, asked(r.a))
	})
	t.Run("a router says so later", func(t *testing.T) {
		t.Parallel()
		r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
		throughout(t, 300*time.Millisecond, not(asked(r.a)))
		router.say(func(a *advert) { a.managed = true })
		eventually(t, deadline, asked(r.a))
	})
	t.Run("a router that had spoken before anchord came", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setup{ipv6: true, bootstrap: "198.51.100.77"})
		router := w.advertise(w.router, managed)
		eventually(t, hang, w.hasOnly6(slaac(firstPrefix, boxMAC)))
		before := router.times()
		a := w.anchord("ANCHORD_ADDRESS_MODE=dhcp-refresh").ready()
		eventually(t, hang, router.isAsked(before+1))
		eventually(t, deadline, asked(a))
	})
	t.Run("not where somebody beyond the router says so", func(t *testing.T) {
		t.Parallel()
		forged := managed
		forged.hopLimit = 64
		r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
		for range 3 {
			if err := router.send(forged); err != nil {
				t.Fatal(err)
			}
		}
		throughout(t, 500*time.Millisecond, not(asked(r.a)))
	})
	for _, mode := range []string{"bootstrap", "slaac-ra-only"} {
		t.Run("not in the mode "+mode, func(t *testing.T) {
			t.Parallel()
			r, _ := startSLAAC(t, setup{}, managed, "ANCHORD_ADDRESS_MODE="+mode)
			throughout(t, time.Second, not(asked(r.a)))
			if n := r.box.processes("dhcp") + r.box.processes("udhcp"); n != 0 {
				t.Errorf("%d DHCP clients run", n)
			}
		})
	}
}

// not is a condition: the other one does not hold.
func not(cond func() error) func() error {
	return func() error {
		if cond() == nil {
			return errors.New("it is so")
		}
		return nil
	}
}

func TestAnIPv6AddressThatAnotherHostHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true})
	w.plain.ip("addr add " + firstIP6 + "/64 dev eth0 nodad\n")
	router := w.advertise(w.router, ordinary(firstPrefix, secondPrefix))
	a := w.anchord().ready()
	eventually(t, hang, a.logs("address.duplicate", firstIP6))
	eventually(t, hang, a.logs("address.added", secondIP6))
	if err := a.logs("address.added", firstIP6)(); err == nil {
		t.Error("another host's address is told as ours")
	}
	tries := w.box.monitor("ip", "-o", "monitor", "address")
	router.say(func(*advert) {}) // the kernel tries again
	eventually(t, deadline, func() error {
		for _, line := range tries.out.list() {
			if strings.HasPrefix(line, "Deleted") && strings.Contains(line, firstIP6+"/64") {
				return nil
			}
		}
		return fmt.Errorf("the kernel did not try and fail: %s", tries.out)
	})
	if n := len(a.entries("address.duplicate")); n != 1 {
		t.Errorf("told %d times", n)
	}
}
