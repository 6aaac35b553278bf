package anchord

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
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

// Decide turns an observation into the state that the namespace shall have.
// It is a pure function. An error means that nothing can be decided and the
// program cannot go on; everything else that is wrong becomes a notice, and
// what can work works.
func (c Config) Decide(o Observation, m Memory) (State, Memory, error) {
	identity, err := c.Identify(o.Self)
	if err != nil {
		return State{}, m, err
	}
	d := decision{config: c, o: o, memory: m, state: State{Identity: identity}}
	d.external()
	d.transits()
	d.expose()
	d.leasedAddresses()
	d.forwarding()
	d.routes()
	d.resolvers()
	d.strayTemplates()
	d.state.Source[V6] = d.ext.Link.onlyDeprecated()
	return d.state, d.memory, nil
}

// decision is the work in progress of one Decide.
type decision struct {
	config   Config
	o        Observation
	memory   Memory
	attached []Attachment
	ext      Attachment
	waiting  bool // a transit network has no interface yet
	state    State
}

func (d *decision) notice(level Level, event, container, format string, args ...any) {
	d.state.Notices = append(d.state.Notices, Notice{Event: event, Level: level, Container: container, Message: fmt.Sprintf(format, args...)})
}

// external finds the ext interface and its MAC.
func (d *decision) external() {
	project := d.state.Identity.Project
	ownMAC := d.config.MAC.Address
	if ownMAC == "" {
		ownMAC = DerivedMAC(project)
	}
	if d.config.VLANParent != "" {
		ownMAC = "" // no interface of Docker's gets it
	}
	d.attached = d.o.Self.attachments(d.o.Links, d.memory.Ifaces, ownMAC, func(n Network) bool {
		return n.OnLAN() || n.ID == d.memory.Ext || d.config.ExtNetwork != "" && n.Called(d.config.ExtNetwork)
	})
	d.memory.Ifaces = map[string]int{}
	for _, a := range d.attached {
		d.memory.Ifaces[a.Network.ID] = a.Link.Index
	}
	ext, err := d.config.pickExt(d.attached, d.o.Links)
	d.ext = ext
	if ext.Network.ID != "" {
		d.memory.Ext = ext.Network.ID
	}
	if err != nil {
		d.notice(Error, EventExtMissing, "", "no LAN interface: %v", err)
		return
	}
	d.state.Ext = ext.Link.Name
	d.state.ExtMAC = d.config.MAC.For(ext, project)
	if d.config.VLANParent != "" {
		d.state.Ext = d.config.childName()
		d.state.Child = &Child{Name: d.state.Ext, Parent: d.config.VLANParent, MAC: d.state.ExtMAC}
	}
	d.state.Mode = d.config.Mode
	if d.state.Mode == ModeAuto {
		d.state.Mode = ModeDHCPRefresh
		if ext.Endpoint.Addrs[V4].IsValid() {
			d.state.Mode = ModeBootstrap
			d.notice(Info, EventAddressMode, "", "Docker gave the LAN interface the address %s, which is kept: no DHCP server is asked (ANCHORD_ADDRESS_MODE=dhcp-refresh asks one; enable_ipv4: false needs Docker Engine 28)", ext.Endpoint.Addrs[V4])
		}
	}
}

// transits lists the networks towards the containers; without an ext
// interface each attachment might be the LAN, so none is trusted.
func (d *decision) transits() {
	if d.state.Ext == "" {
		return
	}
	for _, a := range d.attached {
		if a.Network.ID == d.ext.Network.ID || a.Network.OnLAN() {
			continue
		}
		if a.Link.Name == "" {
			d.waiting = true
			d.notice(Warn, EventTransitMissing, "", "network %s has no interface with MAC %s in this namespace yet", a.Network.Name, a.Endpoint.MAC)
			continue
		}
		t := Transit{Network: a.Network.Name, Iface: a.Link.Name, Gateways: a.Network.VacantGateways()}
		for _, p := range a.Network.Pools {
			t.Subnets = append(t.Subnets, p.Subnet.Masked())
		}
		d.state.Transits = append(d.state.Transits, t)
	}
}

// transitAttachments are the attachments behind state.Transits.
func (d *decision) transitAttachments() []Attachment {
	var list []Attachment
	for _, a := range d.attached {
		if slices.ContainsFunc(d.state.Transits, func(t Transit) bool { return t.Network == a.Network.Name }) {
			list = append(list, a)
		}
	}
	return list
}

// expose reads the labels, chooses the shared network and maps the ports.
func (d *decision) expose() {
	if d.state.Ext == "" {
		return
	}
	offers := d.offers()
	var backends []Container
	for _, o := range offers {
		backends = append(backends, o.namespace)
	}
	attached := d.transitAttachments()
	if len(attached) == 0 && d.waiting {
		return
	}
	shared, err := d.config.pickShared(d.memory.Shared, attached, backends)
	if err != nil {
		d.notice(Error, EventSharedMissing, "", "no way to the services: %v", err)
		return
	}
	if old := d.memory.Shared.Network; old != "" && old != shared.Network {
		d.notice(Info, EventSharedPicked, "", "backend addresses are now read on network %s, before on %s", shared.Network, old)
	}
	d.memory.Shared, d.state.Shared = shared, shared.Network
	for _, a := range attached {
		if a.Network.Name == shared.Network {
			d.state.Inside = a.inside()
		}
	}
	// The shared network comes first, so that a backend on several of them
	// is reached through it.
	slices.SortStableFunc(attached, func(a, b Attachment) int {
		return -compareBool(a.Network.Name == shared.Network, b.Network.Name == shared.Network)
	})
	d.mapPorts(offers, attached)
	d.countEmpty(len(d.state.Entries) == 0, names(attached))
}

// After patience reconciles without a backend the user is told what to check;
// not within a grace that covers the recreation of a project's only service.
const (
	patience = 5
	grace    = 10 * time.Second
)

func (d *decision) countEmpty(empty bool, networks string) {
	if !empty {
		d.memory.EmptyRounds = 0
		return
	}
	if d.memory.EmptyRounds == 0 {
		d.memory.EmptySince = d.o.Now
	}
	d.memory.EmptyRounds++
	if d.memory.EmptyRounds >= patience && d.o.Now-d.memory.EmptySince >= grace {
		d.notice(Warn, EventNoBackends, "", "no container is exposed: check that the services carry the label %s, run, belong to %s, and are on one of: %s",
			LabelExpose, d.state.Identity, networks)
	}
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

// offer is what one container wants to have exposed, and the container whose
// namespace and addresses it has.
type offer struct {
	container Container
	namespace Container
	exposures []Exposure
	v6        bool
}

// offers reads the labels of the containers in scope, oldest container first.
func (d *decision) offers() []offer {
	containers := slices.Clone(d.o.Containers)
	slices.SortFunc(containers, func(a, b Container) int { return compareBool(b.olderThan(a), a.olderThan(b)) })
	var offers []offer
	for _, c := range containers {
		namespace, known := d.namespaceOf(c)
		if !d.state.Identity.Scope.Manages(c, namespace) {
			continue
		}
		d.checkLabels(c)
		exposures, err := ParseExpose(c.Labels[LabelExpose])
		if err != nil {
			d.state.Rejected++
			d.notice(Error, EventLabelRejected, c.Name, "container %s is not exposed: %v", c.Name, err)
			continue
		}
		v6, err := parseExposeV6(c.Labels[LabelExposeV6])
		if err != nil {
			d.state.Rejected++
			d.notice(Error, EventLabelRejected, c.Name, "container %s is not exposed: %v", c.Name, err)
			continue
		}
		if len(exposures) == 0 {
			continue
		}
		if !known {
			d.notice(Warn, EventBackendUnreachable, c.Name, "container %s exposes ports, but the container whose network namespace it shares (%s) is not running: recreate %s", c.Name, c.NamespaceOf, c.Name)
			continue
		}
		offers = append(offers, offer{c, namespace, exposures, v6})
	}
	return offers
}

func parseExposeV6(value string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "", "auto":
		return true, nil
	case "off":
		return false, nil
	}
	return false, &LabelError{Label: LabelExposeV6, Entry: value, Reason: "is neither auto nor off"}
}

func (d *decision) checkLabels(c Container) {
	for _, label := range slices.Sorted(maps.Keys(c.Labels)) {
		switch {
		case slices.Contains(knownLabels, label), slices.Contains(ownLabels, label):
		case strings.HasPrefix(label, LabelPrefix):
			d.notice(Warn, EventLabelUnknown, c.Name, "container %s has the label %q, which means nothing to anchord; known are: %s",
				c.Name, label, strings.Join(knownLabels, ", "))
		case likeOurs(label) != "":
			d.notice(Warn, EventLabelUnknown, c.Name, "container %s has the label %q, which means nothing to anchord; is it meant to be %s?",
				c.Name, label, likeOurs(label))
		}
	}
}

// namespaceOf resolves network_mode container: and service: to the container
// that has the addresses. Docker allows one step only.
func (d *decision) namespaceOf(c Container) (Container, bool) {
	if c.NamespaceOf == "" {
		return c, true
	}
	for _, owner := range append(slices.Clone(d.o.Containers), d.o.Self.Container) {
		if owner.Is(c.NamespaceOf) {
			return owner, true
		}
	}
	return Container{}, false
}

// forwarding tells where the kernel sends nothing on of a family that is used, on
// the LAN and inside: all that is anchord's to do is done, and nobody is reached.
func (d *decision) forwarding() {
	for _, f := range Families {
		onLAN := d.state.External[f].Prefix.IsValid() || d.ext.Link.hasFamily(f)
		inside := slices.ContainsFunc(d.state.Transits, func(t Transit) bool {
			return slices.ContainsFunc(t.Subnets, func(s netip.Prefix) bool { return FamilyOf(s.Addr()) == f })
		})
		if d.o.Stuck[f] && onLAN && inside {
			d.notice(Error, EventForwardingOff, "", "%s is 0: no IP%s packet gets to a service, nor out: in the service of anchord, sysctls: {%s: \"1\"}", forwardingOf[f], f, forwardingOf[f])
		}
	}
}

// forwardingOf are the kernel's settings by which packets are sent on.
var forwardingOf = PerFamily[string]{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"}

// mapPorts gives each port to the oldest container that asks for it.
func (d *decision) mapPorts(offers []offer, attached []Attachment) {
	taken := map[Protocol]*claims{TCP: {}, UDP: {}}
	for _, o := range offers {
		targets := o.targets(attached)
		if len(targets) == 0 {
			d.notice(Warn, EventBackendUnreachable, o.container.Name, "container %s exposes ports but has no address on a network that anchord is on: attach it to one of: %s", o.container.Name, names(attached))
			continue
		}
		for _, e := range o.exposures {
			if holder, free := taken[e.Protocol].add(claim{e, o.container.Name}); !free {
				d.state.Conflicts++
				d.notice(Error, EventExposeConflict, o.container.Name, "container %s does not get %s: container %s, which is older, has it as %s", o.container.Name, e, holder.container, holder.exposure)
				continue
			}
			if e.Protocol == TCP && e.First <= d.config.MetricsPort && d.config.MetricsPort <= e.Last {
				d.notice(Warn, EventConfigWarning, o.container.Name, "%s of container %s is the port of ANCHORD_METRICS_ADDR too: the project's containers reach the service there, and not the metrics: give the metrics another port", e, o.container.Name)
			}
			for _, t := range targets {
				d.state.Entries = append(d.state.Entries, t.entry(e, o.container.Name))
			}
		}
	}
	sortEntries(d.state.Entries)
}

// claims are the port ranges of one protocol that are given away: disjoint,
// and sorted by port.
type claims []claim

type claim struct {
	exposure  Exposure
	container string
}

// add takes the claim's range, or returns who holds a part of it already.
func (c *claims) add(n claim) (holder claim, free bool) {
	i, _ := slices.BinarySearchFunc(*c, n.exposure.First, func(c claim, port uint16) int { return int(c.exposure.Last) - int(port) })
	if i < len(*c) && (*c)[i].exposure.First <= n.exposure.Last {
		return (*c)[i], false
	}
	*c = slices.Insert(*c, i, n)
	return n, true
}

// target is one address of a backend and the way to it.
type target struct {
	addr       netip.Addr
	mac, iface string
}

func (t target) entry(e Exposure, container string) Entry {
	return Entry{
		Family: FamilyOf(t.addr), Protocol: e.Protocol, First: e.First, Last: e.Last,
		Backend: t.addr, Port: e.Backend, Container: container, BackendMAC: t.mac, Iface: t.iface,
	}
}

// targets finds, per family, the first of the attached networks on which the
// offer's namespace has an address.
func (o offer) targets(attached []Attachment) []target {
	var targets []target
	for _, f := range Families {
		if f == V6 && !o.v6 {
			continue
		}
		for _, a := range attached {
			if e, on := o.namespace.endpoint(a.Network.ID); on && e.Addrs[f].IsValid() {
				targets = append(targets, target{e.Addrs[f], e.MAC, a.Link.Name})
				break
			}
		}
	}
	return targets
}

func sortEntries(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int {
		if a.Family != b.Family {
			return int(a.Family) - int(b.Family)
		}
		if c := strings.Compare(string(a.Protocol), string(b.Protocol)); c != 0 {
			return c
		}
		return int(a.First) - int(b.First)
	})
}

// leasedAddresses decides which DHCP clients run, and which addresses ext
// shall have from leases.
func (d *decision) leasedAddresses() {
	if d.state.Ext == "" || d.state.Mode != ModeDHCPRefresh {
		return
	}
	d.state.OwnsExt = true
	for _, f := range Families {
		lease := d.o.Leases[f]
		valid := lease.ValidAt(d.o.Now, d.o.Boot) && !(f == V6 && lease.Obtained == d.memory.Declined)
		// udhcpc begins again by itself, unless it believes that it has one.
		if d.memory.Leased[f] && !valid && (f == V6 || d.o.Unusable[f]) {
			d.memory.Lost[f]++
		}
		d.memory.Leased[f] = valid
		if valid {
			d.state.Leases[f] = lease
			d.state.External[f] = lease.address()
		}
	}
	if !d.state.Leases[V4].Address.IsValid() {
		d.state.External[V4].Prefix = d.bootstrapAddress()
	}
	if d.ext.Link.Name == "" {
		return // not made yet
	}
	d.state.Clients[V4] = d.client(V4)
	// Without an address of its own on the link, a client cannot ask.
	if d.ext.Link.Local.IsValid() && (d.o.Adverts[d.state.Ext].Managed || d.state.Leases[V6].Address.IsValid()) {
		d.state.Clients[V6] = d.client(V6)
	}
	d.clash()
}

func (d *decision) client(f Family) *DHCPClient {
	mac := d.state.ExtMAC
	if mac == "" {
		mac = d.ext.Link.MAC
	}
	return &DHCPClient{Iface: d.state.Ext, MAC: mac, Hostname: d.state.Identity.Hostname, Lost: d.o.Refused[f] + d.memory.Lost[f]}
}

// maxResolvers is as many as a stub resolver asks (resolv.conf(5), MAXNS).
const maxResolvers = 3

// resolvers are the name servers for the project's containers. What is sent on
// must not come back to ourselves.
func (d *decision) resolvers() {
	if d.config.DNS.Off || len(d.state.Transits) == 0 {
		return
	}
	servers := d.config.DNS.Servers
	if servers == nil {
		servers = append(servers, d.state.Leases[V4].DNS...)
		servers = append(servers, d.state.Leases[V6].DNS...)
		servers = append(servers, d.o.Adverts[d.state.Ext].DNS...)
	}
	for _, s := range servers {
		f := FamilyOf(s)
		own := d.state.External[f].Prefix.Addr() == s || d.ext.Link.hasAddr(s)
		if list := d.state.Resolvers[f]; !own && len(list) < maxResolvers && !slices.Contains(list, s) {
			d.state.Resolvers[f] = append(list, s)
		}
	}
}

// clash tells that the LAN and a network inside use the same addresses: each
// can then only reach one of both.
func (d *decision) clash() {
	for _, f := range Families {
		own := d.state.External[f].Prefix
		for _, t := range d.state.Transits {
			for _, s := range t.Subnets {
				if own.IsValid() && s.IsValid() && s.Overlaps(own) {
					d.notice(Error, EventSubnetClash, "", "network %s has the subnet %s, and the LAN gave the address %s: choose another subnet for the network in the Compose file (networks: … ipam: config: - subnet: …)", t.Network, s, own)
				}
			}
		}
	}
}

// bootstrapAddress is the address that Docker gave ext, if any.
func (d *decision) bootstrapAddress() netip.Prefix {
	addr := d.ext.Endpoint.Addrs[V4]
	for _, p := range d.ext.Network.Pools {
		if addr.IsValid() && p.Subnet.Contains(addr) {
			return netip.PrefixFrom(addr, p.Subnet.Bits())
		}
	}
	return netip.Prefix{}
}
