package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/ipv6"

	"github.com/AlexCherrypi/anchord/test/lab"
	"github.com/AlexCherrypi/anchord/test/peer/probe"
)

// Each way in which a LAN gives addresses, in each pattern: the same Compose
// files, with IPv6 in them, on different LANs. The service-anchor pattern needs a
// host that does not filter bridged packets, as its example does.
var (
	nativeMatrix = append(matrix("native"), scenario{
		name: "a router that advertises itself without pause", once: true,
		lan: lab.LANOptions{IPv6: lab.SLAAC}, run: advertised,
	})
	serviceAnchorMatrix = matrix("service-anchor")
)

// addressing is what a LAN gives to a host.
type addressing struct {
	name   string
	once   bool // as a scenario's
	lan    lab.LANOptions
	v4, v6 bool
}

var addressings = []addressing{
	{name: "v4-only", once: true, v4: true},
	{name: "v6-only", lan: lab.LANOptions{IPv6: lab.SLAAC, NoIPv4: true}, v6: true},
	{name: "both", lan: lab.LANOptions{IPv6: lab.SLAAC}, v4: true, v6: true},
	{name: "none", once: true, lan: lab.LANOptions{IPv6: lab.SLAAC, NoDHCP: true}},
	{name: "dhcpv6", lan: lab.LANOptions{IPv6: lab.DHCPv6}, v4: true, v6: true},
	{name: "dhcpv6-kea", once: true, lan: lab.LANOptions{IPv6: lab.DHCPv6, Kea: true}, v4: true, v6: true},
}

func matrix(pattern string) []scenario {
	var all []scenario
	for _, a := range addressings {
		all = append(all, scenario{
			name: pattern + " with addresses: " + a.name,
			once: a.once,
			lan:  a.lan,
			run:  func(s *site) { s.addressed(pattern, a) },
		})
	}
	return all
}

// addressed is the life of a project on such a LAN, from a cold start to its end.
func (s *site) addressed(pattern string, a addressing) {
	p := s.dualStack(pattern, a.name)
	start := p.up()
	s.within(patience, start, "anchord is ready", p.healthy)
	addrs := p.lanAddrs(a)
	for _, addr := range addrs {
		s.within(patience, start, fmt.Sprintf("web answers at %s", addr), answers(s.lan.Client, "tcp", addr, 80))
		p.translates(addr)
	}
	p.sameContainer(addrs)
	p.leavesAsItself(addrs)
	p.reachableInside()
	p.comesBack(addrs)
	if len(addrs) == 0 {
		p.livesWithout(start)
	}
	p.leaves()
}

// dualStack prepares an example with IPv6, whose service says whom it sees.
func (s *site) dualStack(pattern, name string) *project {
	s.Helper()
	p := s.projectOf(name+"-"+pattern, readExample(s.T, pattern+"/compose.yaml"), "services:\n  web:\n    image: peer:lab\n")
	if s.engine.old {
		// A LAN without IPv4 has no router that could be named. To the
		// engine it has to be some address of the subnet.
		old := strings.Replace(onLAN(readExample(s.T, "native/engine-before-28.yaml"), s.lan),
			"gateway: "+netip.Addr{}.String(), "gateway: "+s.lan.Prefix.Addr().Next().String(), 1)
		p.write("engine-before-28.yaml", old)
	}
	p.write("ipv6.yaml", withULA(s, readExample(s.T, pattern+"/ipv6.yaml")))
	if s.engine.old {
		p.write("ipv6-before-28.yaml", readExample(s.T, pattern+"/ipv6-before-28.yaml"))
	}
	return p
}

// withULA writes a subnet that no other scenario on the engine has in place of
// the example's, which is all that a user changes.
func withULA(s *site, example string) string {
	s.Helper()
	a := s.lan.Prefix.Addr().As4()
	own := fmt.Sprintf("fd5a:%x%02x::", a[2], a[3])
	text := strings.NewReplacer("fd5a:1::", own, "fd5a:2::", own).Replace(example)
	if strings.Count(text, own) != 2 {
		s.Fatalf("the subnet and the gateway were to be replaced:\n%s", text)
	}
	return text
}

// healthy is a look at whether anchord says that it is ready.
func (p *project) healthy(context.Context) error {
	out, err := try(p.engine.Docker(p.ctx, "exec", p.container("anchord"), "anchord", "healthcheck"))
	if err == nil && !strings.Contains(out, "ready") {
		err = fmt.Errorf("healthcheck says %q", out)
	}
	return err
}

// owner is the service whose container has the namespace that web runs in.
func (p *project) owner() string {
	if strings.HasSuffix(p.name, "-service-anchor") {
		return "web-anchor"
	}
	return "web"
}

// lanAddrs waits for an address of each family that the LAN gives, looks where
// it is from, and checks that there is none of the other.
func (p *project) lanAddrs(a addressing) []netip.Addr {
	p.Helper()
	var addrs []netip.Addr
	if a.v4 {
		addr := p.addr()
		if !p.lan.Pool.Contains(addr) {
			p.Errorf("%s is not of the DHCP server's pool", addr)
		}
		p.has(addr)
		addrs = append(addrs, addr)
	}
	switch {
	case a.v6 && a.lan.IPv6 == lab.DHCPv6:
		addr := p.lease6(p.name).Addr
		if !p.lan.Pool6.Contains(addr) {
			p.Errorf("%s is not of the DHCPv6 server's pool", addr)
		}
		p.has(addr)
		if made := p.madeAddr(); made.IsValid() && made != addr {
			p.Errorf("anchord made itself %s on a LAN where addresses are leased", made)
		}
		addrs = append(addrs, addr)
	case a.v6:
		var addr netip.Addr
		p.within(patience, time.Now(), "an address of the advertised prefix", func(context.Context) error {
			if addr = p.madeAddr(); !addr.IsValid() {
				return errors.New("there is none")
			}
			return nil
		})
		addrs = append(addrs, addr)
	default:
		if made := p.madeAddr(); made.IsValid() {
			p.Errorf("anchord has %s on a LAN that gives no address of IPv6", made)
		}
	}
	return addrs
}

// has waits until anchord has an address.
func (p *project) has(addr netip.Addr) {
	p.Helper()
	p.within(patience, time.Now(), "anchord has "+addr.String(), func(context.Context) error {
		if all := p.allAddrs(); !slices.Contains(all, addr) {
			return fmt.Errorf("it has %v", all)
		}
		return nil
	})
}

// madeAddr is anchord's address of the LAN's IPv6 prefix, if there is one.
func (p *project) madeAddr() netip.Addr {
	p.Helper()
	for _, addr := range p.allAddrs() {
		if p.lan.Prefix6.IsValid() && p.lan.Prefix6.Contains(addr) {
			return addr
		}
	}
	return netip.Addr{}
}

// allAddrs are those of anchord's namespace.
func (p *project) allAddrs() []netip.Addr {
	p.Helper()
	var addrs []netip.Addr
	for line := range strings.Lines(p.exec("ip", "-oneline", "address", "show", "scope", "global", "-tentative")) {
		fields := strings.Fields(line)
		prefix, err := netip.ParsePrefix(fields[3])
		if err != nil {
			p.Fatalf("ip shows %q: %v", line, err)
		}
		addrs = append(addrs, prefix.Addr())
	}
	return addrs
}

// lease6 waits until the DHCPv6 server's table shows the name.
func (s *site) lease6(name string) lab.Lease6 {
	s.Helper()
	var found lab.Lease6
	s.within(patience, time.Now(), "an IPv6 lease for "+name, func(context.Context) (err error) {
		found, err = s.findLease6(name)
		return err
	})
	return found
}

func (s *site) findLease6(name string) (lab.Lease6, error) {
	leases, err := s.lan.Leases6()
	for _, l := range leases {
		if l.Hostname == name {
			return l, nil
		}
	}
	return lab.Lease6{}, fmt.Errorf("the table of IPv6 leases has no %s, only %v (%v)", name, leases, err)
}

// released6 waits until the DHCPv6 server's table shows the name no more.
func (s *site) released6(name string) {
	s.Helper()
	s.within(patience, time.Now(), "the IPv6 lease of "+name+" is given back", func(context.Context) error {
		leases, err := s.lan.Leases6()
		for _, l := range leases {
			if l.Hostname == name {
				return fmt.Errorf("the table has %v", l)
			}
		}
		return err
	})
}

// backend is where web is behind anchord, in the family of an address.
func (p *project) backend(family netip.Addr) netip.Addr {
	p.Helper()
	if family.Is4() {
		return p.transitAddr(p.owner())
	}
	n := p.inspect(p.owner()).NetworkSettings.Networks[p.name+"_transit"]
	return netip.MustParseAddr(n.GlobalIPv6Address)
}

// translates checks that the ruleset says for an address's family where port 80
// leads.
func (p *project) translates(addr netip.Addr) {
	p.Helper()
	table := []string{"ip", "anchord_v4"}
	if addr.Is6() {
		table = []string{"ip6", "anchord_v6"}
	}
	rules := p.exec(append([]string{"nft", "list", "map"}, append(table, "dnat_tcp")...)...)
	if want := p.backend(addr).String() + " . 80"; !strings.Contains(rules, want) {
		p.Errorf("the ruleset has no %q for %s:\n%s", want, addr, rules)
	}
}

// sameContainer checks that both families lead to one container.
func (p *project) sameContainer(addrs []netip.Addr) {
	p.Helper()
	for _, addr := range addrs {
		answer, err := asks(p.ctx, p.lan.Client, "tcp", addr, 80)
		if err != nil || answer.Host != p.inspect(p.owner()).ID[:12] {
			p.Errorf("at %s it is not %s that answers: %v, %v", addr, p.owner(), answer, err)
		}
	}
}

// leavesAsItself checks that what the service sends in a family comes from the
// project's address.
func (p *project) leavesAsItself(addrs []netip.Addr) {
	p.Helper()
	p.serve(p.lan.Client, "tcp:7000")
	for _, addr := range addrs {
		to := p.lan.Client.Addr
		if addr.Is6() {
			to = p.lan.Client.Addr6
		}
		p.within(patience, time.Now(), "web is seen as "+addr.String(), leavesAs(addr, p.enter(p.owner()), "tcp", to, 7000))
	}
}

// reachableInside checks that the service answers behind anchord, whatever the
// LAN is like.
func (p *project) reachableInside() {
	p.Helper()
	inside := p.enter("anchord")
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		addr := p.backend(family)
		p.within(patience, time.Now(), "web answers inside at "+addr.String(), func(ctx context.Context) error {
			_, err := probe.Ask(ctx, inside, "tcp", netip.AddrPortFrom(addr, 80).String())
			return err
		})
	}
}

// comesBack restarts the service: five seconds later it is back, and
// connections to the old one have ended.
func (p *project) comesBack(addrs []netip.Addr) {
	p.Helper()
	if len(addrs) == 0 {
		return
	}
	all := map[string]*looks{"the old connection has ended": p.looks(hasEnded(p.hold(addrs[len(addrs)-1], 80)))}
	for _, addr := range addrs {
		all[fmt.Sprintf("web answers again at %s", addr)] = p.looks(answers(p.lan.Client, "tcp", addr, 80))
	}
	p.compose("restart", "--timeout", "5", p.owner())
	start := p.started("web")
	p.back(5*time.Second, start, start, all)
	for _, l := range all {
		l.stop()
	}
}

// livesWithout looks at a project on a LAN that gives no address: anchord does
// not crash, and on an old engine the address that Docker gave is used.
func (p *project) livesWithout(start time.Time) {
	p.Helper()
	before := p.starts("anchord", p.owner())
	if p.engine.old {
		n := p.inspect("anchord").NetworkSettings.Networks[p.name+"_lan"]
		addr := netip.MustParseAddr(n.IPAddress)
		p.within(patience, start, "web answers at the engine's address "+addr.String(), answers(p.lan.Client, "tcp", addr, 80))
	}
	p.within(patience, start, "anchord says that no server answers", func(context.Context) error {
		if len(p.logged("dhcp.failed")) == 0 {
			return errors.New("it does not")
		}
		return nil
	})
	if err := p.healthy(p.ctx); err != nil {
		p.Errorf("anchord is not ready any more: %v", err)
	}
	c := p.inspect("anchord")
	if after := p.starts("anchord", p.owner()); after != before || c.RestartCount > 0 || !c.State.Running {
		p.Errorf("something was restarted: before %s, after %s", before, after)
	}
	p.reachableInside()
}

// leaves takes the project down: anchord ends with 0, and nothing is left of it
// in either lease table or in Docker.
func (p *project) leaves() {
	p.Helper()
	p.stop("anchord")
	p.released(p.name)
	p.released6(p.name)
	out := p.compose("down")
	p.down = true
	for _, word := range []string{"rror", "in use", "active endpoints", "arning"} {
		if strings.Contains(out, word) {
			p.Errorf("down complains: %s", out)
		}
	}
	for _, list := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q"}} {
		if left := p.docker(append(list, "--filter", "label=com.docker.compose.project="+p.name)...); left != "" {
			p.Errorf("docker %s still shows %s", list[0], left)
		}
	}
}

// advertised starts anchord on a LAN whose router advertises itself without pause,
// so that the kernel has its default route before Docker sets one.
func advertised(s *site) {
	p := s.dualStack("native", "advertised")
	s.advertise()
	p.up()
	for range 5 {
		p.up("--force-recreate", "--timeout", "1", "anchord")
	}
	s.within(patience, time.Now(), "anchord is ready", p.healthy)
	for _, addr := range p.lanAddrs(addressing{v4: true, v6: true}) {
		s.within(patience, time.Now(), fmt.Sprintf("web answers at %s", addr), answers(s.lan.Client, "tcp", addr, 80))
	}
}

// advertise has the router send bare advertisements (RFC 4861, 4.2) until the
// scenario ends.
func (s *site) advertise() {
	s.Helper()
	conn, err := s.lan.Router.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		s.Fatal(err)
	}
	var lan *net.Interface
	if err := s.lan.Router.Do(func() (err error) { lan, err = net.InterfaceByName("eth0"); return err }); err != nil {
		s.Fatal(err)
	}
	p := ipv6.NewPacketConn(conn)
	if err := errors.Join(p.SetMulticastHopLimit(255), p.SetMulticastInterface(lan)); err != nil {
		s.Fatal(err)
	}
	advert := make([]byte, 16)
	advert[0], advert[4] = 134, 64                // router advertisement, hop limit
	binary.BigEndian.PutUint16(advert[6:], 30*60) // router lifetime, seconds
	all := &net.IPAddr{IP: net.ParseIP("ff02::1")}
	var sending sync.WaitGroup
	stop := make(chan struct{})
	sending.Go(func() {
		for pace := time.NewTicker(3 * time.Millisecond); ; <-pace.C {
			select {
			case <-stop:
				return
			default:
				_, _ = conn.WriteTo(advert, all)
			}
		}
	})
	s.Cleanup(func() { close(stop); sending.Wait(); _ = conn.Close() })
}
