package anchord

import (
	"net/netip"
	"time"
)

// Observation is everything that one decision looks at.
type Observation struct {
	Self       Self
	Containers []Container // running ones of the scope, and namespace owners that they refer to
	Links      []Link
	Routes     PerFamily[[]Route] // as the kernel has them, best first
	Leases     PerFamily[Lease]   // zero where there is none
	Refused    PerFamily[int]     // leases that could not be used while there was none
	Unusable   PerFamily[bool]    // the client's last word was such a lease
	Adverts    map[string]Advert  // what routers say, by interface
	Templates  []TemplateFile     // of the operator's
	Stuck      PerFamily[bool]    // the kernel sends no packets on
	Namings    []Naming           // by what names containers are known, as far as it was asked
	Now        time.Duration      // since boot
	Boot       string
}

// Memory is what a decision keeps for the next one, so that choices do not
// flap.
type Memory struct {
	Shared        Shared
	Ext           string         // id of the ext network
	Ifaces        map[string]int // indexes of the interfaces, by the network's id
	EmptyRounds   int            // reconciles in a row without any backend
	EmptySince    time.Duration  // boot time of the first of them
	LeasedGateway netip.Addr     // the IPv4 router that a lease named last
	Leased        PerFamily[bool]
	Lost          PerFamily[int] // leases that ended
	Declined      time.Duration  // when the DHCPv6 lease was obtained whose address is somebody else's
}

// State is what the namespace shall look like: the outcome of one decision.
// The zero value is a closed box: its ruleset lets nothing in or through.
type State struct {
	Identity Identity
	Ext      string // ext interface; empty while unknown
	ExtMAC   string // MAC that ext shall have; empty: leave it alone
	Mode     AddressMode
	Shared   string // shared network's name
	// Inside are anchord's own addresses on it.
	Inside   PerFamily[netip.Addr]
	Transits []Transit
	Entries  []Entry // sorted by family, protocol, port
	// Child is the LAN interface that anchord makes itself, if it does.
	Child *Child
	// External are the addresses from leases that ext shall have. In IPv4
	// it shall have no other where anchord is the authority (OwnsExt); in
	// IPv6 the kernel adds its own.
	External PerFamily[LeasedAddr]
	OwnsExt  bool
	// Source is the address for what the containers send out, where the
	// kernel would choose another: if ext has only a deprecated one.
	Source    PerFamily[netip.Addr]
	Routes    []Route
	Leases    PerFamily[Lease] // the valid ones
	Clients   PerFamily[*DHCPClient]
	Resolvers PerFamily[[]netip.Addr] // that the project's containers reach at their gateway
	Notices   []Notice
	Conflicts int // entries refused because another container has the port
	Rejected  int // containers whose label is refused
}

// Transit is a network between anchord and the project's containers.
type Transit struct {
	Network  string
	Iface    string
	Subnets  []netip.Prefix
	Gateways []netip.Prefix // vacant gateway addresses that anchord takes
}

// Entry is one exposed port or range of ports and where it leads.
type Entry struct {
	Family      Family
	Protocol    Protocol
	First, Last uint16 // public ports
	Backend     netip.Addr
	Port        uint16 // backend port of First; a range keeps step
	Container   string
	BackendMAC  string // as Docker knows it; may be empty
	Iface       string // interface towards the backend
}

// Shifted says whether the backend's ports differ from the public ones.
func (e Entry) Shifted() bool { return e.Port != e.First }

// Ports is the public port or range as it is written.
func (e Entry) Ports() string { return portsString(e.First, e.Last) }

// LeasedAddr is an address and how long the kernel may keep it.
type LeasedAddr struct {
	Prefix netip.Prefix
	// Until is the time since boot at which it ends; zero: never. From
	// Preferred on, new connections use another address, if there is one.
	Until, Preferred time.Duration
}

// Child is a macvlan interface on a parent in anchord's own namespace.
type Child struct {
	Name, Parent string
	MAC          string // empty: the kernel's choice
}

// DHCPClient describes a DHCP client that shall run.
type DHCPClient struct {
	Iface    string
	MAC      string // so that a changed MAC restarts the client
	Hostname string
	Lost     int // leases lost or refused so far: a new one is asked for from the start
}

// Notice is something that a person should know: it is logged once when it
// appears, and shown by the status call for as long as it lasts.
type Notice struct {
	Event     string
	Level     Level
	Message   string
	Container string
}

// Level is how bad a notice is.
type Level uint8

const (
	Debug Level = iota
	Info
	Warn
	Error
)

// String is the level as it stands in the log.
func (l Level) String() string { return [...]string{"debug", "info", "warning", "error"}[l] }
