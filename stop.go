package anchord

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// undoing remembers what the reconciler put into the namespace, whether or
// not it is still wanted.
type undoing struct {
	leased   []ifaceAddr
	gateways []ifaceAddr
	child    Child
}

type ifaceAddr struct {
	iface  string
	prefix netip.Prefix
}

func (u *undoing) lease(iface string, p netip.Prefix) {
	if a := (ifaceAddr{iface, p}); !slices.Contains(u.leased, a) {
		u.leased = append(slices.DeleteFunc(u.leased, func(old ifaceAddr) bool { return old.prefix.Addr().Is4() == p.Addr().Is4() }), a)
	}
}

func (u *undoing) gateway(iface string, p netip.Prefix) {
	if a := (ifaceAddr{iface, p}); !slices.Contains(u.gateways, a) {
		u.gateways = append(u.gateways, a)
	}
}

// stepTime is what one step of a stop may take, so that one that hangs leaves
// time for the others. A step takes some ten milliseconds.
const stepTime = time.Second

// Stop undoes what the reconciler did to the namespace: the client releases
// its lease while the address is still there, then the routes, the addresses
// and last the tables go, so that nothing is open in between.
func (r *Reconciler) Stop(ctx context.Context) error {
	var errs []error
	step := func(what string, do func(context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, stepTime)
		defer cancel()
		if err := do(ctx); err != nil {
			errs = append(errs, err)
			r.Reporter.Event(Warn, EventStopping, "not done: "+err.Error(), nil)
			return
		}
		r.Reporter.Event(Info, EventStopping, what, nil)
	}
	if r.state.Clients[V4] != nil || r.state.Clients[V6] != nil {
		what := "DHCP clients stopped"
		if r.state.Leases[V4].Address.IsValid() || r.state.Leases[V6].Address.IsValid() {
			what += ", leases released"
		}
		step(what, r.DHCP.Stop)
	}
	for _, route := range r.routed {
		step("route to "+route.To()+" removed", func(ctx context.Context) error { return r.Routes.DeleteRoute(ctx, route) })
	}
	for _, a := range r.undo.leased {
		step("leased address removed", func(ctx context.Context) error { return r.Addresses.RemoveAddress(ctx, a.iface, a.prefix) })
	}
	for _, a := range r.undo.gateways {
		step("gateway address removed", func(ctx context.Context) error { return r.Addresses.RemoveAddress(ctx, a.iface, a.prefix) })
	}
	if child := r.undo.child; child.Name != "" {
		step("LAN interface removed", func(ctx context.Context) error { return r.Addresses.RemoveChild(ctx, child) })
	}
	step("ruleset removed", r.Tables.Remove)
	return errors.Join(errs...)
}
