package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// LANOptions say what LAN makes. The zero value is a LAN with a router that is
// also its DHCP server, and one client.
type LANOptions struct {
	LeaseTime time.Duration // what clients are told; two minutes when zero
	NoDHCP    bool          // make the configuration but do not start the server
	Remote    bool          // also a host that is reached only through the router
	IPv6      IPv6          // how hosts get IPv6 addresses
	NoIPv4    bool          // no host has an IPv4 address, and none is handed out
	Kea       bool          // the server is Kea, with radvd, and not dnsmasq
}

// IPv6 is how hosts of a LAN get IPv6 addresses. Those that the lab makes have
// theirs by hand.
type IPv6 int

// The zero value is a LAN without IPv6.
const (
	NoIPv6 IPv6 = iota
	SLAAC       // of a prefix that the router advertises
	DHCPv6      // from a server; advertisements say so and leave no other way
)

// LAN is an Ethernet with a router, a client and as many more hosts and macvlan
// parents as a test asks for. Within its prefix .1 is the router, .2 the client,
// .3 to .7 are other hosts, the second eight are BootstrapRange, and Pool is
// from .16 on. Hosts end the same in Prefix6, where Pool6 is from ::100 on.
type LAN struct {
	Name           string
	Prefix         netip.Prefix // also without IPv4: an old engine wants one for its network
	BootstrapRange netip.Prefix // for an ip_range in Docker; the DHCP server keeps out of it
	Pool           AddrRange    // what the DHCP server starts with
	Prefix6        netip.Prefix // with LANOptions.IPv6
	Pool6          AddrRange    // what the DHCPv6 server starts with, if there is one
	NextPrefix6    netip.Prefix // for a provider that gives another one
	Router         *Host
	Client         *Host
	Switch         *Host // where all traffic passes, for tcpdump on interface "lan"
	Remote         *Host // with LANOptions.Remote: a host beyond the router

	RemotePrefix  netip.Prefix
	RemotePrefix6 netip.Prefix

	lab     *Lab
	options LANOptions
	mu      sync.Mutex
	hosts   int
	parents []string
	all     []*Host
	dhcp    dhcpServer
}

// AddrRange is a range of addresses with both ends in it.
type AddrRange struct{ First, Last netip.Addr }

// Contains says whether an address lies in the range.
func (r AddrRange) Contains(a netip.Addr) bool {
	return r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// valid is false for the zero value, a range of nothing.
func (r AddrRange) valid() bool { return r.First.IsValid() }

// LAN makes a LAN. Close, or the lab's Down, removes it.
func (l *Lab) LAN(ctx context.Context, options LANOptions) (_ *LAN, err error) {
	l.mu.Lock()
	l.lans++
	lan := &LAN{Name: "lan" + strconv.Itoa(l.lans), lab: l, options: options}
	l.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making %s: %w", lan.Name, err), lan.Close())
		}
	}()
	if lan.Prefix, err = l.takePrefix(); err != nil {
		return nil, err
	}
	lan.BootstrapRange = netip.PrefixFrom(nthAddr(lan.Prefix, 8), 29)
	lan.Pool = AddrRange{nthAddr(lan.Prefix, 16), nthAddr(lan.Prefix, 30)}
	if lan.hasIPv6() {
		lan.Prefix6, lan.NextPrefix6 = prefix6(lan.Prefix, 0), prefix6(lan.Prefix, 1)
		lan.Pool6 = AddrRange{nthAddr(lan.Prefix6, 0x100), nthAddr(lan.Prefix6, 0x1ff)}
	}
	if err := lan.addSwitch(ctx); err != nil {
		return nil, err
	}
	if lan.Router, err = lan.addHost(ctx, "router", router); err != nil {
		return nil, err
	}
	if lan.Client, err = lan.addHost(ctx, "client", router+1); err != nil {
		return nil, err
	}
	lan.hosts = router + 1
	if options.Remote {
		if err := lan.addRemote(ctx); err != nil {
			return nil, err
		}
	}
	lan.prepareDHCP()
	if options.NoDHCP {
		return lan, nil
	}
	return lan, lan.StartDHCP(ctx)
}

// AddHost puts another host with a static address on the LAN.
func (lan *LAN) AddHost(ctx context.Context, name string) (*Host, error) {
	lan.mu.Lock()
	lan.hosts++
	n := lan.hosts
	lan.mu.Unlock()
	if n > 7 {
		return nil, fmt.Errorf("adding host %s to %s: all its static addresses are in use", name, lan.Name)
	}
	return lan.addHost(ctx, name, n)
}

// Parent makes a new interface of the Docker host that is plugged into the LAN,
// and gives its name for a macvlan network's parent option. Each call makes
// another one, since an old engine allows one network per parent.
func (lan *LAN) Parent(ctx context.Context) (string, error) {
	lan.mu.Lock()
	defer lan.mu.Unlock()
	name := fmt.Sprintf("%sp%d", lan.Name, len(lan.parents)+1)
	if err := lan.plug(ctx, lan.lab.root, name, name); err != nil {
		return "", err
	}
	lan.parents = append(lan.parents, name)
	// As little as an IPv4 address has it one of IPv6: what a service sends by
	// the Docker host goes nowhere.
	if err := lan.lab.root.Sysctl("net.ipv6.conf."+name+".disable_ipv6", "1"); err != nil {
		return "", err
	}
	return name, lan.lab.root.ip(ctx, "link set "+name+" promisc on up")
}

// Close stops the DHCP server and removes the LAN with everything on it.
func (lan *LAN) Close() error {
	failed := []error{lan.StopDHCP()}
	lan.mu.Lock()
	defer lan.mu.Unlock()
	// A veth goes with the namespace of its other end, some time later. The
	// Docker host's are gone at once, with what routes there are by them.
	for _, name := range lan.parents {
		failed = append(failed, lan.lab.root.ip(context.Background(), "link delete "+name))
	}
	lan.parents = nil
	for i := len(lan.all) - 1; i >= 0; i-- {
		failed = append(failed, lan.all[i].close())
	}
	lan.all = nil
	lan.lab.givePrefix(lan.Prefix)
	lan.lab.givePrefix(lan.RemotePrefix)
	return errors.Join(failed...)
}

// router is the router's number among the addresses of the LAN.
const router = 1

func (lan *LAN) hasIPv6() bool { return lan.options.IPv6 != NoIPv6 }

func nthAddr(prefix netip.Prefix, n int) netip.Addr {
	a := prefix.Addr().AsSlice()
	last := a[len(a)-2:]
	binary.BigEndian.PutUint16(last, binary.BigEndian.Uint16(last)+uint16(n))
	addr, _ := netip.AddrFromSlice(a)
	return addr
}

// prefix6 is the n-th IPv6 network of a LAN. It follows from that of IPv4, which
// no other LAN of the lab has at the same time.
func prefix6(prefix netip.Prefix, n byte) netip.Prefix {
	a, v4 := netip.MustParseAddr("2001:db8::").As16(), prefix.Addr().As4()
	a[5], a[6], a[7] = n, v4[2], v4[3]
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// addSwitch makes the bridge. It has a namespace of its own because Docker's
// firewall filters bridged packets too where br_netfilter is loaded, and no real
// switch is filtered by a host that is plugged into it. It says nothing itself,
// and all that hosts say to many is heard by all.
func (lan *LAN) addSwitch(ctx context.Context) error {
	h, err := lan.newNamespace(ctx, "switch")
	if err != nil {
		return err
	}
	lan.Switch = h
	if err := h.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		return err
	}
	return h.ip(ctx, "link add lan type bridge forward_delay 0 mcast_snooping 0", "link set lan up")
}

// addHost makes a host with the n-th address and the default route every LAN
// host has.
func (lan *LAN) addHost(ctx context.Context, name string, n int) (*Host, error) {
	h, err := lan.newNamespace(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := lan.setKernel(h, n); err != nil {
		return nil, err
	}
	if err := lan.plug(ctx, h, "eth0", name); err != nil {
		return nil, err
	}
	h.Iface = "eth0"
	commands := []string{"link set eth0 up"}
	if !lan.options.NoIPv4 {
		h.Addr = nthAddr(lan.Prefix, n)
		commands = append(commands, fmt.Sprintf("address add %s/%d broadcast + dev eth0", h.Addr, lan.Prefix.Bits()))
	}
	if lan.hasIPv6() {
		h.Addr6 = nthAddr(lan.Prefix6, n)
		commands = append(commands, fmt.Sprintf("address add %s/64 dev eth0 nodad", h.Addr6))
	}
	if n != router {
		commands = append(commands, defaultRoutes(lan.Router.Addr, lan.Router.Addr6)...)
	}
	return h, h.ip(ctx, commands...)
}

// setKernel sets what has to be set before a host has an interface.
func (lan *LAN) setKernel(h *Host, n int) error {
	parameters := map[string]string{}
	if lan.hasIPv6() {
		parameters["net.ipv6.conf.default.accept_ra"] = "0"
	}
	if n == router {
		parameters["net.ipv4.ip_forward"] = "1"
	}
	if n == router && lan.hasIPv6() {
		parameters["net.ipv6.conf.all.forwarding"] = "1"
		parameters["net.ipv6.conf.default.accept_dad"] = "0" // its servers bind to its addresses at once
	}
	for parameter, value := range parameters {
		if err := h.Sysctl(parameter, value); err != nil {
			return err
		}
	}
	return nil
}

// defaultRoutes are the commands for the routers that there are.
func defaultRoutes(routers ...netip.Addr) []string {
	var commands []string
	for _, addr := range routers {
		if addr.IsValid() {
			commands = append(commands, fmt.Sprintf("route add default via %s", addr))
		}
	}
	return commands
}

// addPrefix gives the hosts addresses of another IPv6 prefix too, as they would
// make them themselves if theirs were not made by hand.
func (lan *LAN) addPrefix(ctx context.Context, prefix netip.Prefix) error {
	for _, h := range lan.all {
		if !lan.Prefix6.Contains(h.Addr6) {
			continue
		}
		end := h.Addr6.As16()
		addr := nthAddr(prefix, int(end[15]))
		if err := h.ip(ctx, fmt.Sprintf("address replace %s/64 dev eth0 nodad", addr)); err != nil {
			return err
		}
	}
	return nil
}

// addRemote makes a second network behind the router with one host.
func (lan *LAN) addRemote(ctx context.Context) (err error) {
	if lan.RemotePrefix, err = lan.lab.takePrefix(); err != nil {
		return err
	}
	if lan.Remote, err = lan.newNamespace(ctx, "remote"); err != nil {
		return err
	}
	lan.Remote.Iface = "eth0"
	if err := lan.Router.ip(ctx,
		"link add wan0 type veth peer name eth0 netns "+lan.Remote.netnsName(),
		"link set wan0 up"); err != nil {
		return err
	}
	if err := lan.Remote.ip(ctx, "link set eth0 up"); err != nil {
		return err
	}
	if !lan.options.NoIPv4 {
		if lan.Remote.Addr, err = lan.joinRemote(ctx, lan.RemotePrefix); err != nil {
			return err
		}
	}
	if lan.hasIPv6() {
		lan.RemotePrefix6 = prefix6(lan.RemotePrefix, 0)
		lan.Remote.Addr6, err = lan.joinRemote(ctx, lan.RemotePrefix6)
	}
	return err
}

// joinRemote puts the router and the remote host into one network and gives the
// host's address.
func (lan *LAN) joinRemote(ctx context.Context, prefix netip.Prefix) (netip.Addr, error) {
	gateway, addr, nodad := nthAddr(prefix, 1), nthAddr(prefix, 2), ""
	if addr.Is6() {
		nodad = " nodad"
	}
	if err := lan.Router.ip(ctx, fmt.Sprintf("address add %s/%d dev wan0%s", gateway, prefix.Bits(), nodad)); err != nil {
		return addr, err
	}
	return addr, lan.Remote.ip(ctx,
		fmt.Sprintf("address add %s/%d dev eth0%s", addr, prefix.Bits(), nodad),
		fmt.Sprintf("route add default via %s", gateway))
}

// plug joins a host to the switch by a cable whose ends are iface and port.
func (lan *LAN) plug(ctx context.Context, h *Host, iface, port string) error {
	return lan.Switch.ip(ctx,
		fmt.Sprintf("link add %s type veth peer name %s netns %s", port, iface, h.netnsName()),
		fmt.Sprintf("link set %s master lan up", port))
}

func (lan *LAN) newNamespace(ctx context.Context, name string) (*Host, error) {
	h, err := newHost(ctx, lan.lab.record.namespace()+"-"+lan.Name+"-"+name)
	if err != nil {
		return nil, err
	}
	h.Name = name
	lan.mu.Lock()
	lan.all = append(lan.all, h)
	lan.mu.Unlock()
	return h, nil
}

// netnsName is the namespace's name for ip(8).
func (h *Host) netnsName() string { return strings.TrimPrefix(h.path, namespaceRoot+"/") }

// file is a path for one of the LAN's own files.
func (lan *LAN) file(name string) string {
	return filepath.Join(lan.lab.record.dir(), lan.Name+"."+name)
}

// prefixPool are the /27 networks that LANs are made of: documentation
// addresses, which cannot be anybody's own. The third documentation network is
// left out, because some machines use it themselves.
type prefixPool struct{ taken map[netip.Prefix]bool }

var documentation = []netip.Prefix{
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
}

func (l *Lab) takePrefix() (netip.Prefix, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.prefixes.taken == nil {
		l.prefixes.taken = map[netip.Prefix]bool{}
	}
	for _, network := range documentation {
		for n := 0; n < 256; n += 32 {
			prefix := netip.PrefixFrom(nthAddr(network, n), 27)
			if !l.prefixes.taken[prefix] {
				l.prefixes.taken[prefix] = true
				return prefix, nil
			}
		}
	}
	return netip.Prefix{}, errors.New("all 16 prefixes of the lab are in use, close a LAN first")
}

func (l *Lab) givePrefix(prefix netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.prefixes.taken, prefix)
}
