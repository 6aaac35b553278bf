package lab

import (
	"context"
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
}

// LAN is an Ethernet with a router, a client and as many more hosts and macvlan
// parents as a test asks for. Within its prefix .1 is the router, .2 the client,
// .3 to .7 are other hosts, the second eight are BootstrapRange, and Pool is
// from .16 on.
type LAN struct {
	Name           string
	Prefix         netip.Prefix
	BootstrapRange netip.Prefix // for an ip_range in Docker; the DHCP server keeps out of it
	Pool           AddrRange    // what the DHCP server starts with
	Router         *Host
	Client         *Host
	Switch         *Host // where all traffic passes, for tcpdump on interface "lan"
	Remote         *Host // with LANOptions.Remote: a host beyond the router

	RemotePrefix netip.Prefix

	lab     *Lab
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

// LAN makes a LAN. Close, or the lab's Down, removes it.
func (l *Lab) LAN(ctx context.Context, options LANOptions) (_ *LAN, err error) {
	l.mu.Lock()
	l.lans++
	lan := &LAN{Name: "lan" + strconv.Itoa(l.lans), lab: l}
	l.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making %s: %w", lan.Name, err), lan.Close())
		}
	}()
	if lan.Prefix, err = l.takePrefix(); err != nil {
		return nil, err
	}
	lan.BootstrapRange = netip.PrefixFrom(lan.addr(8), 29)
	lan.Pool = AddrRange{lan.addr(16), lan.addr(30)}
	if err := lan.addSwitch(ctx); err != nil {
		return nil, err
	}
	if lan.Router, err = lan.addHost(ctx, "router", lan.addr(1)); err != nil {
		return nil, err
	}
	if err := lan.Router.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		return nil, err
	}
	if lan.Client, err = lan.addHost(ctx, "client", lan.addr(2)); err != nil {
		return nil, err
	}
	lan.hosts = 2
	if options.Remote {
		if err := lan.addRemote(ctx); err != nil {
			return nil, err
		}
	}
	if err := lan.prepareDHCP(ctx, options); err != nil {
		return nil, err
	}
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
	return lan.addHost(ctx, name, lan.addr(n))
}

// Parent makes a new interface of the Docker host that is plugged into the LAN,
// and gives its name for a macvlan network's parent option. Each call makes
// another one, since an old engine allows one network per parent.
func (lan *LAN) Parent(ctx context.Context) (string, error) {
	lan.mu.Lock()
	name := fmt.Sprintf("%sp%d", lan.Name, len(lan.parents)+1)
	lan.parents = append(lan.parents, name)
	lan.mu.Unlock()
	if err := lan.plug(ctx, lan.lab.root, name, name); err != nil {
		return "", err
	}
	return name, lan.lab.root.ip(ctx, "link set "+name+" promisc on up")
}

// Close stops the DHCP server and removes the LAN with everything on it.
func (lan *LAN) Close() error {
	failed := []error{lan.StopDHCP()}
	lan.mu.Lock()
	defer lan.mu.Unlock()
	// A veth goes with the namespace of its other end.
	for i := len(lan.all) - 1; i >= 0; i-- {
		failed = append(failed, lan.all[i].close())
	}
	lan.all = nil
	lan.lab.givePrefix(lan.Prefix)
	lan.lab.givePrefix(lan.RemotePrefix)
	return errors.Join(failed...)
}

// addr is the n-th address of the LAN.
func (lan *LAN) addr(n int) netip.Addr { return nthAddr(lan.Prefix, n) }

func nthAddr(prefix netip.Prefix, n int) netip.Addr {
	a := prefix.Addr().As4()
	a[3] += byte(n)
	return netip.AddrFrom4(a)
}

// addSwitch makes the bridge. It has a namespace of its own because Docker's
// firewall filters bridged packets too where br_netfilter is loaded, and no real
// switch is filtered by a host that is plugged into it.
func (lan *LAN) addSwitch(ctx context.Context) error {
	h, err := lan.newNamespace(ctx, "switch")
	if err != nil {
		return err
	}
	lan.Switch = h
	return h.ip(ctx, "link add lan type bridge forward_delay 0", "link set lan up")
}

// addHost makes a host with an address and the default route every LAN host
// has.
func (lan *LAN) addHost(ctx context.Context, name string, addr netip.Addr) (*Host, error) {
	h, err := lan.newNamespace(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := lan.plug(ctx, h, "eth0", name); err != nil {
		return nil, err
	}
	h.Addr, h.Iface = addr, "eth0"
	commands := []string{
		fmt.Sprintf("address add %s/%d broadcast + dev eth0", addr, lan.Prefix.Bits()),
		"link set eth0 up",
	}
	if addr != lan.addr(1) {
		commands = append(commands, fmt.Sprintf("route add default via %s", lan.addr(1)))
	}
	return h, h.ip(ctx, commands...)
}

// addRemote makes a second network behind the router with one host.
func (lan *LAN) addRemote(ctx context.Context) (err error) {
	if lan.RemotePrefix, err = lan.lab.takePrefix(); err != nil {
		return err
	}
	if lan.Remote, err = lan.newNamespace(ctx, "remote"); err != nil {
		return err
	}
	gateway, addr := nthAddr(lan.RemotePrefix, 1), nthAddr(lan.RemotePrefix, 2)
	lan.Remote.Addr, lan.Remote.Iface = addr, "eth0"
	if err := lan.Router.ip(ctx,
		"link add wan0 type veth peer name eth0 netns "+lan.Remote.netnsName(),
		fmt.Sprintf("address add %s/27 dev wan0", gateway),
		"link set wan0 up"); err != nil {
		return err
	}
	return lan.Remote.ip(ctx,
		fmt.Sprintf("address add %s/27 dev eth0", addr),
		"link set eth0 up",
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
