package anchord

import (
	"context"
	"net/netip"
	"slices"
)

// Route is a default route of one family.
type Route struct {
	Family  Family
	Gateway netip.Addr
	Iface   string
	// OnLink makes the kernel take the gateway for a neighbour although no
	// address of the interface says so.
	OnLink bool
	Source GatewaySource
	// Metric and Advertised are the kernel's: its preference, less is more,
	// and whether a router advertisement made the route.
	Metric     int
	Advertised bool
}

// Same says whether two routes lead the same way.
func (r Route) Same(o Route) bool {
	return r.Family == o.Family && r.Gateway == o.Gateway && r.Iface == o.Iface
}

// GatewaySource is where a gateway is known from.
type GatewaySource string

const (
	FromLease  GatewaySource = "lease"
	FromConfig GatewaySource = "ANCHORD_EXT_GATEWAY_IP"
	FromDocker GatewaySource = "docker"
	FromDNS    GatewaySource = "dns"
)

// defaultRoutes decides the default route of each family. Where no gateway is
// known, or ext has no address yet, the family's route is left alone.
func (d *decision) defaultRoutes() {
	if len(d.state.Lease.Routers) > 0 {
		d.memory.LeasedGateway = d.state.Lease.Routers[0]
	}
	if d.state.Ext == "" {
		return
	}
	for _, f := range Families {
		if f == V6 && d.advertised() {
			continue // the kernel keeps what the router says
		}
		gateway, source := d.gateway(f)
		if !gateway.IsValid() || !d.extHas(f) {
			continue
		}
		onLink := !d.ext.Link.onLink(gateway) && !d.state.External.Prefix.Contains(gateway)
		d.state.Routes = append(d.state.Routes, Route{Family: f, Gateway: gateway, Iface: d.state.Ext, OnLink: onLink, Source: source})
	}
}

// gateway picks by precedence: what a lease named, even one that has ended
// since; the pinned one; Docker's.
func (d *decision) gateway(f Family) (netip.Addr, GatewaySource) {
	switch {
	case f == V4 && d.memory.LeasedGateway.IsValid():
		return d.memory.LeasedGateway, FromLease
	case d.config.Gateways[f].IsValid():
		return d.config.Gateways[f], FromConfig
	}
	return d.ext.Network.Gateway(f), FromDocker
}

// advertised says whether a router on ext has named itself for IPv6.
func (d *decision) advertised() bool {
	return slices.ContainsFunc(d.o.Routes[V6], func(r Route) bool { return r.Advertised && r.Iface == d.state.Ext })
}

// settle puts a family's default route right, given those that there are. One
// that is there and yet not the first is in the shadow of another's, which
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
		return d.state.External.Prefix.IsValid()
	}
	return d.ext.Link.hasFamily(f)
}
