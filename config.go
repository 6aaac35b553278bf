package anchord

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Names of the ext interface: where no network tells it, and of the one that
// anchord makes itself.
const (
	DefaultExtIface = "eth0"
	DefaultChild    = "anchord-ext"
)

// AddressMode says where the external addresses come from.
type AddressMode string

const (
	ModeAuto        AddressMode = "auto"          // bootstrap, if Docker gave an IPv4 address, else dhcp-refresh
	ModeBootstrap   AddressMode = "bootstrap"     // Docker's
	ModeDHCPRefresh AddressMode = "dhcp-refresh"  // DHCP servers'
	ModeSLAACRAOnly AddressMode = "slaac-ra-only" // Docker's in IPv4, the kernel's in IPv6
)

// AddressModes lists the valid ones.
var AddressModes = []AddressMode{ModeAuto, ModeBootstrap, ModeDHCPRefresh, ModeSLAACRAOnly}

// Config is the network-anchor's configuration, checked. What is empty is
// found out at run time.
type Config struct {
	Project         string // ANCHORD_PROJECT
	FallbackProject string // COMPOSE_PROJECT_NAME
	Selector        Scope  // ANCHORD_LABEL_SELECTOR
	Hostname        string // ANCHORD_DHCP_HOSTNAME
	ExtNetwork      string
	ExtIface        string
	VLANParent      string // ANCHORD_VLAN_PARENT
	MAC             MACPolicy
	Mode            AddressMode
	Gateways        PerFamily[netip.Addr] // ANCHORD_EXT_GATEWAY_IP
	SharedNetwork   string
	DNS             DNSPolicy // ANCHORD_DNS
	PollInterval    time.Duration
	MetricsPort     uint16 // of ANCHORD_METRICS_ADDR, if others than ourselves reach it
}

// Identity is who the project is: which containers belong to it, and its name
// on the LAN.
type Identity struct {
	Project  string
	Scope    Scope
	Hostname string
}

// String says who is managed, for messages.
func (i Identity) String() string {
	var pairs []string
	for _, p := range i.Scope.Labels {
		if p.Key == labelProject {
			return "project " + p.Value
		}
		pairs = append(pairs, p.Key+"="+p.Value)
	}
	return "selector " + strings.Join(pairs, ",")
}

// ErrNoProject means that nothing says which containers are managed.
var ErrNoProject = errors.New("which project? set ANCHORD_PROJECT to the Compose project's name (or ANCHORD_LABEL_SELECTOR): this container has no Compose label and COMPOSE_PROJECT_NAME is not set")

// Identify settles the identity: from the configuration, else from the
// network-anchor's own Compose label.
func (c Config) Identify(self Self) (Identity, error) {
	project := cmp.Or(c.Project, self.Project(), c.FallbackProject)
	if len(c.Selector.Labels) > 0 {
		name := cmp.Or(c.Project, c.Selector.Labels[0].Value)
		return Identity{Project: name, Scope: c.Selector, Hostname: cmp.Or(c.Hostname, hostnameFrom(name))}, nil
	}
	if project == "" {
		return Identity{}, ErrNoProject
	}
	scope := ProjectScope(project)
	if project != self.Project() {
		scope.Helpers = self.Project()
	}
	return Identity{Project: project, Scope: scope, Hostname: cmp.Or(c.Hostname, hostnameFrom(project))}, nil
}

// hostnameFrom makes a host name label (RFC 1123, 2.1) of a project's name,
// which may hold underscores and, from a label, anything at all.
func hostnameFrom(name string) string {
	mapped := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	if len(mapped) > 63 {
		mapped = mapped[:63]
	}
	return cmp.Or(strings.Trim(mapped, "-"), "anchord")
}

// ValidateHostname accepts a host name label or a fully qualified name
// (RFC 1123, 2.1): letters, digits and inner hyphens, labels of at most 63
// and a whole of at most 253 characters.
func ValidateHostname(name string) error {
	if len(name) > 253 {
		return errors.New("is longer than 253 characters")
	}
	for _, label := range strings.Split(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label || hostnameFrom(label) != strings.ToLower(label) {
			return fmt.Errorf("label %q is not 1 to 63 letters, digits and inner hyphens", label)
		}
	}
	return nil
}

// MACPolicy says which MAC the ext interface gets. The zero value is the
// default: derived where Docker gave no IPv4 address (and so for an interface
// that anchord makes itself), else kept.
type MACPolicy struct {
	Keep, Derived bool
	Address       string // lower-case aa:bb:cc:dd:ee:ff
}

// ParseMACPolicy reads "keep", "derived" or a unicast MAC address.
func ParseMACPolicy(s string) (MACPolicy, error) {
	switch strings.ToLower(s) {
	case "":
		return MACPolicy{}, nil
	case "keep":
		return MACPolicy{Keep: true}, nil
	case "derived":
		return MACPolicy{Derived: true}, nil
	}
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return MACPolicy{}, errors.New("is neither keep, derived nor a MAC address like 02:42:0a:01:02:03")
	}
	if mac[0]&1 != 0 || strings.Trim(mac.String(), "0:") == "" {
		return MACPolicy{}, errors.New("is not the address of one card: it is a multicast address or zero")
	}
	return MACPolicy{Address: mac.String()}, nil
}

// DerivedMAC is a project's own MAC address: locally administered, and the
// same on every host and after every recreation.
func DerivedMAC(project string) string {
	sum := sha256.Sum256([]byte(project))
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3])
}

// For returns the MAC that ext shall have, or "" to leave it alone. An ipvlan
// interface shares its parent's MAC, which cannot be changed.
func (p MACPolicy) For(ext Attachment, project string) string {
	derive := p.Derived || (!p.Keep && !ext.Endpoint.Addrs[V4].IsValid())
	switch {
	case p.Keep || ext.Network.Driver == "ipvlan":
		return ""
	case p.Address != "":
		return p.Address
	case derive:
		return DerivedMAC(project)
	}
	return ""
}

// DNSPolicy says which resolvers the project's containers reach through anchord.
// The zero value is the default: those of the leases.
type DNSPolicy struct {
	Off     bool
	Servers []netip.Addr
}

// ParseDNS reads "off" or a list of addresses.
func ParseDNS(s string) (DNSPolicy, error) {
	if strings.TrimSpace(s) == "" {
		return DNSPolicy{}, nil
	}
	if strings.EqualFold(strings.TrimSpace(s), "off") {
		return DNSPolicy{Off: true}, nil
	}
	var p DNSPolicy
	for _, word := range strings.Split(s, ",") {
		word = strings.TrimSpace(word)
		a, err := netip.ParseAddr(word)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == broadcast {
			return DNSPolicy{}, fmt.Errorf("%q is not the address of a name server", word)
		}
		p.Servers = append(p.Servers, a.Unmap())
	}
	return p, nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// ParseGateways reads one or two addresses, at most one per family, in any
// order.
func ParseGateways(s string) (PerFamily[netip.Addr], error) {
	var gateways PerFamily[netip.Addr]
	if strings.TrimSpace(s) == "" {
		return gateways, nil
	}
	for _, word := range strings.Split(s, ",") {
		word = strings.TrimSpace(word)
		a, err := netip.ParseAddr(word)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == broadcast {
			return gateways, fmt.Errorf("%q is not the address of a router", word)
		}
		a = a.Unmap()
		if gateways[FamilyOf(a)].IsValid() {
			return gateways, fmt.Errorf("has two addresses of one family, %s and %s", gateways[FamilyOf(a)], a)
		}
		gateways[FamilyOf(a)] = a
	}
	return gateways, nil
}

// ParseInterval reads a duration in Go's syntax or as whole seconds; it must
// be positive.
func ParseInterval(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil && strings.Trim(s, "-0123456789") == "" {
		d, err = time.ParseDuration(s + "s")
	}
	if err != nil {
		return 0, errors.New("is not a duration like 30s, 5m or 30 (whole seconds)")
	}
	if d <= 0 {
		return 0, errors.New("must be more than zero")
	}
	return d, nil
}
