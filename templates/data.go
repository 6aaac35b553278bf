package templates

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/AlexCherrypi/anchord"
)

// DataVersion is the version of the data. It grows when a field or method is
// taken away or means something else; what is only added does not change it.
const DataVersion = 1

// Table is what the template is given. It is executed twice: for IPv4 and for
// IPv6.
type Table struct {
	// Version is the version of the data.
	Version int
	// Name is what nft calls the table: ip anchord_v4 or ip6 anchord_v6.
	Name string
	// Family is v4 or v6.
	Family anchord.Family
	// Project is the Compose project's name.
	Project Name
	// Ext is the interface on the LAN; empty, which counts as false, while it
	// is unknown.
	Ext Iface
	// Transits are the interfaces towards the containers; may be none.
	Transits Ifaces
	// Resolvers are the name servers that containers reach at their gateway;
	// may be none.
	Resolvers []netip.Addr
	// Source is what leaves by Ext is translated to, where masquerading would
	// choose wrongly; its IsValid is false else.
	Source netip.Addr
	// Exposed are the exposed ports of this family, sorted by protocol and
	// port. A template that uses them makes all rules anew whenever a
	// container comes or goes.
	Exposed []Port

	entries []anchord.Entry // of this family
}

// Port is one exposed port or range of ports and where it leads.
type Port struct {
	// Protocol is tcp or udp.
	Protocol anchord.Protocol
	// First is the first public port, 1 to 65535.
	First uint16
	// Last is the last public port; First for a single one.
	Last uint16
	// Backend is the container's address.
	Backend netip.Addr
	// BackendFirst is the container's port for First; a range keeps step.
	BackendFirst uint16
	// Container is the container's name.
	Container Name
}

// Public is the public port or range as nft writes it: 80, or 8000-8010.
func (p Port) Public() string { return span(p.First, p.Last) }

// BackendPorts is the container's port or range as nft writes it.
func (p Port) BackendPorts() string { return span(p.BackendFirst, p.BackendFirst+(p.Last-p.First)) }

func span(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// Name is text that somebody else wrote, such as a container's name. It prints
// in quotes, as for nft's comments. It holds letters, digits, dots, hyphens and
// underscores only, at most 100; anything else has become an underscore.
// Compare it with a plain string: eq .Container "shop-web-1".
type Name string

// String is the name in quotes.
func (n Name) String() string { return `"` + string(n) + `"` }

// maxName leaves room in a comment, which nft limits to 128 bytes.
const maxName = 100

func newName(s string) Name {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '_'
	}, s)
	return Name(s[:min(len(s), maxName)])
}

// Iface is an interface's name. It prints in quotes: iifname {{.Ext}}.
type Iface string

// String is the name in quotes.
func (i Iface) String() string { return `"` + string(i) + `"` }

// Ifaces are several interfaces. They print as a set: iifname {{.Transits}}.
type Ifaces []Iface

// String is nft's anonymous set of the names.
func (i Ifaces) String() string {
	quoted := make([]string, len(i))
	for k, name := range i {
		quoted[k] = name.String()
	}
	return "{ " + strings.Join(quoted, ", ") + " }"
}

// newIface refuses what nft would misread. At most 15 bytes (IFNAMSIZ); a star
// would be a wildcard.
func newIface(name string) (Iface, error) {
	if len(name) > 15 || strings.ContainsAny(name, "\"*\\/ ") || clean(name) != name {
		return "", fmt.Errorf("%q cannot be used as the name of an interface", name)
	}
	return Iface(name), nil
}

// V6 says whether this is the IPv6 table.
func (t Table) V6() bool { return t.Family == anchord.V6 }

// IP is nft's word for the family's header: ip or ip6.
func (t Table) IP() string {
	if t.V6() {
		return "ip6"
	}
	return "ip"
}

// TTL is the family's hop count field: ip ttl or ip6 hoplimit.
func (t Table) TTL() string {
	if t.V6() {
		return "ip6 hoplimit"
	}
	return "ip ttl"
}

// AddrType is nft's type of the family's addresses: ipv4_addr or ipv6_addr.
func (t Table) AddrType() string {
	if t.V6() {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// Protocols are those that have ports: tcp and udp.
func (t Table) Protocols() []anchord.Protocol { return anchord.Protocols[:] }

// Masquerade gives what leaves by Ext the server's address and, if there are some,
// one of these ports: what nft takes behind a colon, as 32768-60999.
func (t Table) Masquerade(ports string) string {
	switch {
	case ports == "" && !t.Source.IsValid():
		return "masquerade"
	case ports == "":
		return "snat " + t.IP() + " to " + t.Source.String()
	case !t.Source.IsValid():
		return "masquerade to :" + ports
	}
	return "snat " + t.IP() + " to " + t.Source.String() + " : " + ports
}

// Unexposed is a range of ports of a protocol that nobody exposes, for those who may
// not have the port that they sent from: 32768-60999 (Linux's own choice, ip(7),
// ip_local_port_range), or the longest part of that, or of all above 1023.
func (t Table) Unexposed(p anchord.Protocol) string {
	for _, within := range []gap{{32768, 60999}, {1024, 65535}} {
		if free := t.longestGap(p, within); free.first <= free.last {
			return fmt.Sprintf("%d-%d", free.first, free.last)
		}
	}
	return "1024-65535" // all is exposed; such a packet is dropped
}

// gap is a range of ports with both ends in it.
type gap struct{ first, last int }

// longestGap is the longest range without an exposed port; first is above last if
// there is none.
func (t Table) longestGap(p anchord.Protocol, within gap) gap {
	longest, next := gap{1, 0}, within.first
	consider := func(g gap) {
		if g.last-g.first > longest.last-longest.first {
			longest = g
		}
	}
	for _, e := range t.entries { // sorted by port
		if e.Protocol != p || int(e.Last) < within.first || int(e.First) > within.last {
			continue
		}
		consider(gap{next, int(e.First) - 1})
		next = int(e.Last) + 1
	}
	consider(gap{next, within.last})
	return longest
}

func newTable(f anchord.Family, s anchord.State) (Table, error) {
	ext, err := newIface(s.Ext)
	if err != nil {
		return Table{}, err
	}
	t := Table{
		Version: DataVersion, Name: anchord.Table(f), Family: f, Project: newName(s.Identity.Project),
		Ext: ext, Resolvers: s.Resolvers[f], Source: s.Source[f],
	}
	for _, e := range s.Entries {
		if e.Family == f {
			t.entries = append(t.entries, e)
		}
	}
	for _, transit := range s.Transits {
		iface, err := newIface(transit.Iface)
		if err == nil && iface == "" {
			err = fmt.Errorf("network %q has no interface", transit.Network)
		}
		if err != nil {
			return Table{}, err
		}
		t.Transits = append(t.Transits, iface)
	}
	return t, nil
}

func exposed(f anchord.Family, s anchord.State) []Port {
	var ports []Port
	for _, e := range s.Entries {
		if e.Family == f {
			ports = append(ports, Port{
				Protocol: e.Protocol, First: e.First, Last: e.Last,
				Backend: e.Backend.WithZone(""), BackendFirst: e.Port, Container: newName(e.Container),
			})
		}
	}
	return ports
}
