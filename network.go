package anchord

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Network is a Docker network that the network-anchor is attached to.
type Network struct {
	ID   string
	Name string
	// Key is the network's name inside its Compose file, if Compose made it.
	Key         string
	Driver      string
	Internal    bool
	InhibitIPv4 bool   // com.docker.network.bridge.inhibit_ipv4
	Parent      string // the Docker host's interface, of one on the LAN
	IPVLANMode  string // l2, l3 or l3s; empty: l2
	Pools       []Pool
}

// Pool is one address pool of a network.
type Pool struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
	// DefaultGateway is the auxiliary address DefaultGatewayIPv4 or
	// DefaultGatewayIPv6: the containers' default route, owned by nobody.
	DefaultGateway netip.Addr
}

// OnLAN says whether the network's driver puts a container on the LAN itself.
func (n Network) OnLAN() bool { return n.Driver == "macvlan" || n.Driver == "ipvlan" }

// Called says whether name is the network's own name or its Compose name.
func (n Network) Called(name string) bool { return name == n.Name || (n.Key != "" && name == n.Key) }

// Gateway is the address that Docker takes for the network's router.
func (n Network) Gateway(f Family) netip.Addr {
	for _, p := range n.Pools {
		if p.Gateway.IsValid() && FamilyOf(p.Gateway) == f {
			return p.Gateway
		}
	}
	return netip.Addr{}
}

// VacantGateways are the addresses that the network's containers have as
// default gateway although Docker gives them to nobody: the network-anchor
// becomes their router by taking them.
func (n Network) VacantGateways() []netip.Prefix {
	var vacant []netip.Prefix
	for _, p := range n.Pools {
		switch {
		case p.DefaultGateway.IsValid():
			vacant = append(vacant, netip.PrefixFrom(p.DefaultGateway, p.Subnet.Bits()))
		case n.InhibitIPv4 && p.Gateway.Is4():
			vacant = append(vacant, netip.PrefixFrom(p.Gateway, p.Subnet.Bits()))
		}
	}
	return vacant
}

// Link is a network interface of the namespace as the kernel shows it.
type Link struct {
	Name  string
	Index int // the kernel's, which an interface keeps for its life
	MAC   string
	Kind  string     // the kernel's, such as macvlan
	Down  bool       // by somebody's will, not for want of a carrier
	Addrs []LinkAddr // of global scope
	// Local is the IPv6 address for use on the link, once it is known to be
	// free; invalid where IPv6 is off.
	Local netip.Addr
}

// LinkAddr is an address of a link.
type LinkAddr struct {
	Prefix    netip.Prefix
	Permanent bool // no lifetime: it was not a lease that gave it
	// IPv6 (RFC 4862): still to be found free; found in use by another host;
	// no longer to be used for new connections.
	Tentative, Duplicate, Deprecated bool
}

// has says whether the link has exactly this address and prefix length.
func (l Link) has(p netip.Prefix) bool {
	return slices.ContainsFunc(l.Addrs, func(a LinkAddr) bool { return a.Prefix == p })
}

func (l Link) hasAddr(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addrs, func(la LinkAddr) bool { return la.Prefix.Addr() == a })
}

// onlyDeprecated is the link's IPv6 address for new connections if there are none
// but deprecated ones, which the kernel takes after those of other interfaces
// (RFC 6724, 5, rules 3 and 5).
func (l Link) onlyDeprecated() (addr netip.Addr) {
	for _, a := range l.Addrs {
		switch {
		case !a.Prefix.Addr().Is6() || a.Tentative || a.Duplicate:
		case !a.Deprecated:
			return netip.Addr{}
		case !addr.IsValid():
			addr = a.Prefix.Addr()
		}
	}
	return addr
}

// onLink says whether a neighbour with this address is reached directly.
func (l Link) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addrs, func(la LinkAddr) bool { return la.Prefix.Contains(a) })
}

func (l Link) hasFamily(f Family) bool {
	return slices.ContainsFunc(l.Addrs, func(la LinkAddr) bool { return FamilyOf(la.Prefix.Addr()) == f })
}

// Neighbour is who has an address on a link.
type Neighbour struct {
	Iface string
	Addr  netip.Addr
	MAC   string
}

// Self is the network-anchor's own container and the networks it is on.
type Self struct {
	Container
	Networks []Network
}

// Attachment is a network that the network-anchor is on, with its endpoint
// there and the interface that Docker made for it.
type Attachment struct {
	Network  Network
	Endpoint Endpoint
	Link     Link
}

// inside are the addresses at which the network's containers reach anchord.
func (a Attachment) inside() PerFamily[netip.Addr] {
	addrs := a.Endpoint.Addrs
	for _, g := range a.Network.VacantGateways() {
		addrs[FamilyOf(g.Addr())] = g.Addr()
	}
	return addrs
}

// attachments pairs each network with its interface, by MAC, because Docker
// numbers interfaces at random. ownMAC is the address that anchord gives the
// ext interface, which Docker does not know of. An interface whose MAC somebody
// else changed is known by its index, which before has by the network's id.
func (s Self) attachments(links []Link, before map[string]int, ownMAC string, mayBeExt func(Network) bool) []Attachment {
	var found []Attachment
	for _, n := range s.Networks {
		e, attached := s.endpoint(n.ID)
		if !attached {
			continue
		}
		a := Attachment{Network: n, Endpoint: e}
		for _, l := range links {
			if l.MAC != "" && (l.MAC == e.MAC || (mayBeExt(n) && l.MAC == ownMAC)) {
				a.Link = l
			}
		}
		found = append(found, a)
	}
	for i := range found {
		for _, l := range links {
			free := !slices.ContainsFunc(found, func(o Attachment) bool { return o.Link.Name == l.Name })
			if found[i].Link.Name == "" && free && l.Index == before[found[i].Network.ID] && l.Index != 0 {
				found[i].Link = l
			}
		}
	}
	slices.SortFunc(found, func(a, b Attachment) int { return strings.Compare(a.Network.Name, b.Network.Name) })
	return found
}

// pickExt finds the LAN-facing attachment: the network named in the
// configuration, else the only macvlan or ipvlan network, else the interface
// named in the configuration.
func (c Config) pickExt(attached []Attachment, links []Link) (Attachment, error) {
	if c.VLANParent != "" {
		return c.pickChild(attached, links)
	}
	if c.ExtNetwork != "" {
		return pickNamed(attached, c.ExtNetwork)
	}
	var onLAN []Attachment
	for _, a := range attached {
		if a.Network.OnLAN() {
			onLAN = append(onLAN, a)
		}
	}
	switch {
	case len(onLAN) == 1:
		return withLink(onLAN[0])
	case len(onLAN) > 1:
		return Attachment{}, fmt.Errorf("attached to several networks that could be the LAN (%s): name one with ANCHORD_EXT_NETWORK", names(onLAN))
	}
	return pickIface(attached, links, cmp.Or(c.ExtIface, DefaultExtIface))
}

// pickChild is the interface that anchord makes on a parent of its own; its
// link is empty before that.
func (c Config) pickChild(attached []Attachment, links []Link) (Attachment, error) {
	for _, a := range attached {
		if a.Link.Name == c.childName() {
			return Attachment{}, fmt.Errorf("interface %s belongs to network %s: name another one for the child of ANCHORD_VLAN_PARENT with ANCHORD_EXT_IFACE", a.Link.Name, a.Network.Name)
		}
	}
	var ext Attachment
	parent := false
	for _, l := range links {
		parent = parent || l.Name == c.VLANParent
		if l.Name != c.childName() {
			continue
		}
		if l.Kind != "macvlan" {
			return ext, fmt.Errorf("interface %s is there already, and none that anchord made: name another one for the child of ANCHORD_VLAN_PARENT with ANCHORD_EXT_IFACE", l.Name)
		}
		ext.Link = l
	}
	if !parent {
		return ext, fmt.Errorf("ANCHORD_VLAN_PARENT %q is no interface of this namespace: move it here (ip link set %s netns …), or name one that is", c.VLANParent, c.VLANParent)
	}
	return ext, nil
}

// childName is the name of the interface that anchord makes.
func (c Config) childName() string { return cmp.Or(c.ExtIface, DefaultChild) }

func pickNamed(attached []Attachment, name string) (Attachment, error) {
	for _, a := range attached {
		if a.Network.Called(name) {
			return withLink(a)
		}
	}
	return Attachment{}, fmt.Errorf("not attached to ANCHORD_EXT_NETWORK %q, only to: %s", name, names(attached))
}

func pickIface(attached []Attachment, links []Link, iface string) (Attachment, error) {
	i := slices.IndexFunc(links, func(l Link) bool { return l.Name == iface })
	if i < 0 {
		return Attachment{}, fmt.Errorf("no macvlan or ipvlan network attached and no interface %q: attach anchord to a macvlan network, or set ANCHORD_EXT_IFACE", iface)
	}
	for _, a := range attached {
		if a.Link.Name == iface {
			return a, nil
		}
	}
	return Attachment{Link: links[i]}, nil
}

func withLink(a Attachment) (Attachment, error) {
	if a.Link.Name == "" {
		return a, fmt.Errorf("network %s has no interface with MAC %s in this namespace yet", a.Network.Name, a.Endpoint.MAC)
	}
	return a, nil
}

func names(attached []Attachment) string {
	var list []string
	for _, a := range attached {
		list = append(list, a.Network.Name)
	}
	if len(list) == 0 {
		return "no network"
	}
	return strings.Join(list, ", ")
}

// Shared is the network on which backend addresses are read, and whether a
// backend has confirmed the choice; a confirmed choice is kept.
type Shared struct {
	Network   string
	Confirmed bool
}

// errOnlyExt is the whole configuration's fault, not one container's.
var errOnlyExt = errors.New("attached to the LAN only: attach anchord to the network of the project's services too (the transit network)")

// pickShared chooses among the attachments other than ext: the pinned one, or
// the one with the most backends; ties go to a name containing "transit",
// then to the alphabet. transits is sorted by name.
func (c Config) pickShared(before Shared, transits []Attachment, backends []Container) (Shared, error) {
	if len(transits) == 0 {
		return Shared{}, errOnlyExt
	}
	if c.SharedNetwork != "" {
		for _, a := range transits {
			if a.Network.Called(c.SharedNetwork) {
				return Shared{Network: a.Network.Name, Confirmed: true}, nil
			}
		}
		return Shared{}, fmt.Errorf("not attached to ANCHORD_SHARED_NETWORK %q, only to: %s", c.SharedNetwork, names(transits))
	}
	if before.Confirmed && slices.ContainsFunc(transits, func(a Attachment) bool { return a.Network.Name == before.Network }) {
		return before, nil
	}
	best := slices.MaxFunc(transits, func(a, b Attachment) int {
		return cmp.Or(
			cmp.Compare(countOn(a.Network, backends), countOn(b.Network, backends)),
			compareBool(saysTransit(a.Network), saysTransit(b.Network)),
			strings.Compare(b.Network.Name, a.Network.Name),
		)
	})
	return Shared{Network: best.Network.Name, Confirmed: countOn(best.Network, backends) > 0}, nil
}

func countOn(n Network, containers []Container) (count int) {
	for _, c := range containers {
		if _, on := c.endpoint(n.ID); on {
			count++
		}
	}
	return count
}

func saysTransit(n Network) bool { return strings.Contains(strings.ToLower(n.Name), "transit") }

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
