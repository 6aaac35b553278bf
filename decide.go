package anchord

import (
	"fmt"
	"net/netip"
	"slices"
)

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
	d.names()
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
	d.state.Notices = append(d.state.Notices, Notice{Event: event, Level: level, Container: Short(container), Message: Cut(fmt.Sprintf(format, args...), LongestText)})
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
