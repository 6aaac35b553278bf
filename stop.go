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

// Times of a stop, which promises to end within 5 s: for each try of a step, for
// all steps between the DHCP clients and the ruleset, so that what hangs leaves
// time for the others, and for all together. A step takes some ten milliseconds;
// on a host that is being shut down a program may not run for a while, so a step
// is tried twice.
const (
	stepTime = time.Second
	undoTime = 2 * time.Second
	stopTime = 4500 * time.Millisecond
)

// Stop undoes what the reconciler did to the namespace: the clients release
// their leases while the addresses are still there, then the routes, the
// addresses and last the tables go, so that nothing is open in between.
func (r *Reconciler) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	var errs []error
	step := func(ctx context.Context, what string, do func(context.Context) error) {
		err := inTime(ctx, do)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = inTime(ctx, do)
		}
		if err != nil {
			errs = append(errs, err)
			r.Reporter.Event(Warn, EventStopping, "not done: "+err.Error(), nil)
			return
		}
		r.Reporter.Event(Info, EventStopping, what, nil)
	}
	if r.DHCP.Stop(ctx) {
		what := "DHCP clients stopped"
		if r.state.Leases[V4].Address.IsValid() || r.state.Leases[V6].Address.IsValid() {
			what += ", leases released"
		}
		r.Reporter.Event(Info, EventStopping, what, nil)
	}
	undoing, cancel := context.WithTimeout(ctx, undoTime)
	defer cancel()
	for _, route := range r.routed {
		step(undoing, "route to "+route.To()+" removed", func(ctx context.Context) error { return r.Routes.DeleteRoute(ctx, route) })
	}
	for _, a := range r.undo.leased {
		step(undoing, "leased address removed", func(ctx context.Context) error { return r.Addresses.RemoveAddress(ctx, a.iface, a.prefix) })
	}
	for _, a := range r.undo.gateways {
		step(undoing, "gateway address removed", func(ctx context.Context) error { return r.Addresses.RemoveAddress(ctx, a.iface, a.prefix) })
	}
	if child := r.undo.child; child.Name != "" {
		step(undoing, "LAN interface removed", func(ctx context.Context) error { return r.Addresses.RemoveChild(ctx, child) })
	}
	step(ctx, "ruleset removed", r.Tables.Remove)
	return errors.Join(errs...)
}

func inTime(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return do(ctx)
}
