package anchord

import (
	"context"
	"net/netip"
	"slices"
)

// Route is a route of the main table.
type Route struct {
	Family  Family
	Dst     netip.Prefix // the zero value is the default route
	Gateway netip.Addr   // invalid: the destination is reached directly
	Iface   string
	// OnLink makes the kernel take the gateway for a neighbour although no
	// address of the interface says so.
	OnLink bool
	Source GatewaySource
	Metric int // the kernel's preference, less is more; 0: its usual
	// Protocol is who set it, in the kernel's words: ProtoRA, ProtoDHCP, or
	// empty for a command.
	Protocol string
}

// Protocols of routes (rtnetlink(7)): of router advertisements, of leases, and
// of a service-anchor, to tell its routes from those that it found.
const (
	ProtoRA      = "ra"
	ProtoDHCP    = "dhcp"
	ProtoAnchord = "97"
)

// Same says whether two routes lead the same way.
func (r Route) Same(o Route) bool {
	return r.Family == o.Family && r.Dst == o.Dst && r.Gateway == o.Gateway && r.Iface == o.Iface
}

// To is the destination as people write it.
func (r Route) To() string {
	if r.Dst.IsValid() {
		return r.Dst.String()
	}
	return "default"
}

// routesTo are the routes to one destination, best first.
func routesTo(dst netip.Prefix, routes []Route) []Route {
	var some []Route
	for _, r := range routes {
		if r.Dst == dst {
			some = append(some, r)
		}
	}
	return some
}

// defaultRoutesOf are the default routes, best first.
func defaultRoutesOf(routes []Route) []Route { return routesTo(netip.Prefix{}, routes) }

// GatewaySource is where a gateway is known from.
type GatewaySource string

const (
	FromLease  GatewaySource = "lease"
	FromRouter GatewaySource = "router advertisement"
	FromConfig GatewaySource = "ANCHORD_EXT_GATEWAY_IP"
	FromDocker GatewaySource = "docker"
	FromDNS    GatewaySource = "dns"
)

// routes decides the default route of each family, and those to further
// destinations that the lease names (option 121). Where no gateway is known,
// or ext has no address yet, the family's default route is left alone.
func (d *decision) routes() {
	for _, router := range d.state.Leases[V4].Routers {
		if d.outside(router, "router") {
			d.memory.LeasedGateway = router
			break
		}
	}
	if d.state.Ext == "" {
		return
	}
	for _, f := range Families {
		if f == V6 && advertised(d.o.Routes[V6], d.state.Ext) {
			continue // the kernel keeps what the router says
		}
		gateway, source := d.gateway(f)
		if gateway.IsValid() && d.extHas(f) {
			route := Route{Family: f, Gateway: gateway, Source: source}
			if f == V6 {
				route.Metric = preferred
			}
			d.route(route)
		}
	}
	for _, s := range d.state.Leases[V4].Static {
		if reason := d.harmful(s.Dst); reason != "" {
			d.notice(Warn, EventDHCPIgnored, "", "the DHCP server's route to %s is left out: it would %s", s.Dst, reason)
			continue
		}
		if s.Gateway.IsValid() && !d.outside(s.Gateway, "gateway to "+s.Dst.String()) {
			continue
		}
		if slices.ContainsFunc(d.state.Routes, func(r Route) bool { return r.Family == V4 && r.Dst == s.Dst }) {
			d.notice(Warn, EventDHCPIgnored, "", "the DHCP server names two ways to %s: the one by %s is left out", s.Dst, s.Gateway)
			continue
		}
		d.route(Route{Family: V4, Dst: s.Dst, Gateway: s.Gateway, Source: FromLease, Protocol: ProtoDHCP})
	}
}

// outside says whether a gateway that a lease names is on the LAN, and tells if it
// is one of our own networks inside.
func (d *decision) outside(gateway netip.Addr, what string) bool {
	for _, t := range d.state.Transits {
		if slices.ContainsFunc(t.Subnets, func(s netip.Prefix) bool { return s.Contains(gateway) }) {
			d.notice(Warn, EventDHCPIgnored, "", "the DHCP server's %s %s is left out: it is an address of network %s", what, gateway, t.Network)
			return false
		}
	}
	return true
}

// preferred is a metric before the one that the kernel gives IPv6 routes, 1024.
// Where a route is there already that is the same as a router's in gateway and
// metric, the kernel drops the router's whole advertisement, prefixes included.
const preferred = 512

func (d *decision) route(r Route) {
	r.Iface = d.state.Ext
	r.OnLink = r.Gateway.IsValid() && !r.Gateway.IsLinkLocalUnicast() &&
		!d.ext.Link.onLink(r.Gateway) && !d.state.External[r.Family].Prefix.Contains(r.Gateway)
	d.state.Routes = append(d.state.Routes, r)
}

// harmful says what a leased route would break: one to a network of ours would
// lead the services' own packets, or their neighbours', out to the LAN.
func (d *decision) harmful(dst netip.Prefix) string {
	if own := d.state.External[V4].Prefix; own.IsValid() && own.Masked() == dst {
		return "replace the way to the LAN itself"
	}
	for _, t := range d.state.Transits {
		for _, s := range t.Subnets {
			if s.Overlaps(dst) && dst.Bits() >= s.Bits() {
				return "take packets away from network " + t.Network + " (" + s.String() + ")"
			}
		}
	}
	return ""
}

// gateway picks by precedence: what a lease or a router on the LAN named, even
// a lease that has ended since; the pinned one; Docker's.
func (d *decision) gateway(f Family) (netip.Addr, GatewaySource) {
	router := d.o.Adverts[d.state.Ext].RouterAt(d.o.Now)
	switch {
	case f == V4 && d.memory.LeasedGateway.IsValid():
		return d.memory.LeasedGateway, FromLease
	case f == V6 && router.IsValid():
		return router, FromRouter
	case d.config.Gateways[f].IsValid():
		return d.config.Gateways[f], FromConfig
	}
	return d.ext.Network.Gateway(f), FromDocker
}

// advertised says whether the kernel has a default route from a router's own
// word.
func advertised(routes []Route, iface string) bool {
	return slices.ContainsFunc(defaultRoutesOf(routes), func(r Route) bool { return r.Protocol == ProtoRA && r.Iface == iface })
}

// settle puts a route right, given those to its destination that there are.
// One that is there and yet not the first is in the shadow of another's, which
// has to go: replacing ours again would change nothing.
func settle(ctx context.Context, routes Routes, want Route, has []Route) error {
	if len(has) > 1 && slices.ContainsFunc(has[1:], want.Same) {
		return routes.DeleteRoute(ctx, has[0])
	}
	return routes.ReplaceRoute(ctx, want)
}

// extHas says whether ext has, or is about to get, an address of the family.
func (d *decision) extHas(f Family) bool {
	if f == V4 && d.state.OwnsExt {
		return d.state.External[V4].Prefix.IsValid()
	}
	return d.ext.Link.hasFamily(f)
}
