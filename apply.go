package anchord

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// apply makes the difference, in an order that never opens what shall be
// closed: rules, then addresses, then routes, then the flows that the old
// rules left behind.
func (r *Reconciler) apply(ctx context.Context, before State) error {
	ruleErr := r.applyRuleset(ctx)
	if r.applied == nil {
		r.flowsDue = true
		return ruleErr // no address without a ruleset
	}
	err := errors.Join(
		ruleErr,
		r.applyChild(ctx),
		r.applyMAC(ctx),
		r.applyUp(ctx),
		r.applyGateways(ctx),
		r.applyExternal(ctx),
		r.applyLeased6(ctx),
		r.applyRoutes(ctx),
		r.followAddresses(ctx),
		r.applyNeighbours(ctx),
		r.endStaleFlows(ctx, before),
	)
	for _, f := range Families {
		if ctx.Err() != nil {
			break
		}
		r.DHCP.Run(f, r.state.Clients[f], r.seen.Leases[f].Address.Addr())
	}
	return err
}

func (r *Reconciler) link(name string) Link {
	i := slices.IndexFunc(r.seen.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return Link{}
	}
	return r.seen.Links[i]
}

func (r *Reconciler) applyMAC(ctx context.Context) error {
	link := r.link(r.state.Ext)
	if link.Name != "" && r.quieted != link.Name+link.MAC {
		if err := r.Addresses.BeOneHost(ctx, link.Name); err != nil {
			r.Reporter.Event(Warn, EventARPUnset, "the LAN may hear in ARP of addresses inside: "+err.Error(), nil)
		}
		r.quieted = link.Name + cmp.Or(r.state.ExtMAC, link.MAC)
	}
	if r.state.ExtMAC == "" || link.MAC == r.state.ExtMAC || link.Name == "" {
		return nil
	}
	var keep []netip.Prefix // the kernel did not make them of the MAC
	for _, a := range link.Addrs {
		if a.Prefix.Addr().Is6() && a.Permanent {
			keep = append(keep, a.Prefix)
		}
	}
	if err := r.Addresses.SetMAC(ctx, link.Name, r.state.ExtMAC, keep); err != nil {
		return err
	}
	r.wrote = true
	r.Reporter.Event(Info, EventMACSet, "the LAN interface has the project's own MAC", Fields{"iface": link.Name, "mac": r.state.ExtMAC, "was": link.MAC})
	for _, a := range link.Addrs {
		if a.Prefix.Addr().Is4() || a.Permanent {
			r.announce(ctx, link.Name, a.Prefix.Addr())
		}
	}
	// The interface went down and up: its routes are gone, and its IPv6
	// addresses, which the kernel makes anew from the new MAC.
	r.restarted(link.Name)
	return nil
}

// applyUp brings the LAN interface up, whoever set it down.
func (r *Reconciler) applyUp(ctx context.Context) error {
	link := r.link(r.state.Ext)
	if link.Name == "" || !link.Down {
		return nil
	}
	if err := r.Addresses.SetUp(ctx, link.Name); err != nil {
		return err
	}
	r.wrote = true
	r.Reporter.Event(Warn, EventBroughtUp, "the LAN interface was down; it is up again", Fields{"iface": link.Name})
	return nil
}

// restarted notes what is gone from an interface through our own doing, so
// that it is nobody's interference.
func (r *Reconciler) restarted(iface string) {
	for _, f := range Families {
		r.routesGone(f, iface)
	}
	r.seen.Links = slices.Clone(r.seen.Links)
	for i, l := range r.seen.Links {
		if l.Name == iface {
			l.Local, l.Down = netip.Addr{}, false
			l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a LinkAddr) bool { return a.Prefix.Addr().Is6() && !a.Permanent })
			r.seen.Links[i] = l
			// Not to be taken for addresses that another host has.
			maps.DeleteFunc(r.ours, func(_ netip.Prefix, a LinkAddr) bool { return a.Tentative })
		}
	}
}

// routesGone notes that an interface has lost a family's routes.
func (r *Reconciler) routesGone(f Family, iface string) {
	gone := func(route Route) bool { return route.Family == f && route.Iface == iface }
	r.seen.Routes[f] = slices.DeleteFunc(slices.Clone(r.seen.Routes[f]), gone)
	r.routed = slices.DeleteFunc(r.routed, gone)
}

// applyChild makes the LAN interface where that is anchord's own work.
func (r *Reconciler) applyChild(ctx context.Context) error {
	child := r.state.Child
	if child == nil {
		return nil
	}
	r.undo.child = *child
	if r.link(child.Name).Name != "" {
		return nil
	}
	if err := r.Addresses.AddChild(ctx, *child); err != nil {
		return err
	}
	r.wrote = true
	r.Trigger.Fire(SourceKernel, time.Time{})
	r.Reporter.Event(Info, EventChildMade, "the LAN interface is made", Fields{"iface": child.Name, "parent": child.Parent})
	return nil
}

// announce runs beside the loop: it takes seconds, and its failure is no
// reason to stop.
func (r *Reconciler) announce(ctx context.Context, iface string, a netip.Addr) {
	go func() {
		if err := r.Neighbours.Announce(ctx, iface, a); err != nil && ctx.Err() == nil {
			r.Reporter.Event(Warn, EventAnnounceFailed, err.Error(), nil)
		}
	}()
}

// announceInside announces an address, unless that was done with the MAC that its
// interface has.
func (r *Reconciler) announceInside(ctx context.Context, iface string, p netip.Prefix) {
	at, mac := ifaceAddr{iface, p}, r.link(iface).MAC
	if r.announced[at] == mac {
		return
	}
	if r.announced == nil {
		r.announced = map[ifaceAddr]string{}
	}
	r.announced[at] = mac
	r.announce(ctx, iface, p.Addr())
}

// applyGateways takes the gateway addresses that Docker left vacant, and
// announces all that we have inside, once with each MAC: a predecessor may have had
// them with another one, or service-anchors may look for us elsewhere.
func (r *Reconciler) applyGateways(ctx context.Context) error {
	var errs []error
	for _, t := range r.state.Transits {
		for _, a := range r.link(t.Iface).Addrs {
			if !a.Tentative {
				r.announceInside(ctx, t.Iface, a.Prefix)
			}
		}
		for _, p := range t.Gateways {
			r.undo.gateway(t.Iface, p)
			if r.link(t.Iface).has(p) {
				continue
			}
			if err := r.Addresses.AddAddress(ctx, t.Iface, p); err != nil {
				errs = append(errs, err)
				continue
			}
			r.wrote = true
			r.announceInside(ctx, t.Iface, p)
			r.Reporter.Event(Info, EventAddressAdded, "anchord is the gateway of network "+t.Network, Fields{"iface": t.Iface, "address": p.String()})
		}
	}
	return errors.Join(errs...)
}

// applyExternal gives ext the IPv4 address of the lease, or Docker's, and
// nothing else. A renewed lease changes only the lifetime.
func (r *Reconciler) applyExternal(ctx context.Context) error {
	link, want := r.link(r.state.Ext), r.state.External[V4]
	if !r.state.OwnsExt || link.Name == "" {
		return nil
	}
	var others []netip.Prefix
	for _, a := range link.Addrs {
		if a.Prefix.Addr().Is4() && a.Prefix != want.Prefix {
			others = append(others, a.Prefix)
		}
	}
	if held := r.held[V4].Prefix; held.IsValid() && held != want.Prefix && !link.has(held) {
		// The kernel was faster: the lifetime that it was given is over.
		r.gone(ctx, link.Name, held, want.Prefix)
		r.held[V4] = LeasedAddr{}
	}
	present := !want.Prefix.IsValid() || link.has(want.Prefix)
	if present && len(others) == 0 && (want == r.held[V4] || !want.Prefix.IsValid()) {
		r.held[V4] = want
		return nil
	}
	var routes []Route
	if !present || len(others) > 0 {
		routes = r.wantedRoutes(V4)
	}
	if want.Prefix.IsValid() && want.Prefix == r.state.Leases[V4].Address {
		r.undo.lease(link.Name, want.Prefix)
	}
	if err := r.Addresses.Readdress(ctx, link.Name, want.Prefix, r.left(want.Until), others, routes); err != nil {
		return err
	}
	// They went with the old address; that is nobody's interference.
	for _, route := range routes {
		if !r.isOurs(route) {
			r.routeSet(route)
		}
		r.seen.Routes[V4] = append([]Route{route}, slices.DeleteFunc(slices.Clone(r.seen.Routes[V4]), func(has Route) bool { return has.Dst == route.Dst })...)
	}
	r.readdressed(ctx, link.Name, want, others, present)
	return nil
}

// left is the time until a point of the boot clock; zero is forever.
func (r *Reconciler) left(until time.Duration) time.Duration {
	if until == 0 {
		return 0
	}
	return max(time.Second, until-r.seen.Now)
}

// readdressed tells of the change of address, and ends what used the old one.
func (r *Reconciler) readdressed(ctx context.Context, iface string, want LeasedAddr, others []netip.Prefix, present bool) {
	r.held[V4], r.wrote = want, true
	if !want.Prefix.IsValid() {
		r.routesGone(V4, iface) // with the last address
	}
	if want.Prefix.IsValid() && !present {
		r.gained(ctx, iface, want.Prefix)
	}
	for _, p := range others {
		r.gone(ctx, iface, p, want.Prefix)
	}
	r.flowsDue = true
}

// gone tells that an address is given up for another, if any, and ends what used
// it.
func (r *Reconciler) gone(ctx context.Context, iface string, p, instead netip.Prefix) {
	r.addressEvent(Info, EventAddressRemoved, "the LAN interface gave up an address", iface, p)
	if p.Addr() != instead.Addr() { // else only the prefix length is another
		r.endFlowsOf(ctx, FlowMatch{OrigDst: p.Addr()}, FlowMatch{ReplyDst: p.Addr()})
	}
}

// gained tells people and neighbours of a new address.
func (r *Reconciler) gained(ctx context.Context, iface string, p netip.Prefix) {
	r.announce(ctx, iface, p.Addr())
	r.addressEvent(Info, EventAddressAdded, "the project has an address on the LAN", iface, p)
}

func (r *Reconciler) addressEvent(l Level, event, message, iface string, p netip.Prefix) {
	r.Reporter.Event(l, event, message, Fields{"iface": iface, "address": p.String(), "family": FamilyOf(p.Addr()).String()})
}

func (r *Reconciler) endFlowsOf(ctx context.Context, matches ...FlowMatch) {
	for _, m := range matches {
		if m.OrigDst.IsValid() {
			m.Family = FamilyOf(m.OrigDst)
		} else {
			m.Family = FamilyOf(m.ReplyDst)
		}
		if err := r.Flows.End(ctx, m); err != nil {
			r.Reporter.Event(Warn, EventReconcileFailed, err.Error(), nil)
		}
		r.outcome.Flushes[m.Family]++
	}
}

// applyLeased6 keeps the address of a DHCPv6 lease on ext, beside those that
// the kernel makes of router advertisements.
func (r *Reconciler) applyLeased6(ctx context.Context) error {
	link, want, held := r.link(r.state.Ext), r.state.External[V6], r.held[V6]
	if link.Name == "" {
		return nil
	}
	var errs []error
	if want.Prefix.IsValid() && r.inUse(link, want.Prefix) {
		r.decline(link.Name)
		want = LeasedAddr{}
	}
	if want.Prefix.IsValid() && (want != held || !link.has(want.Prefix)) {
		r.undo.lease(link.Name, want.Prefix)
		if err := r.Addresses.LeaseAddress(ctx, link.Name, want.Prefix, r.left(want.Until), r.left(want.Preferred)); err != nil {
			errs = append(errs, err)
		}
		r.wrote = true
	}
	if held.Prefix.IsValid() && held.Prefix != want.Prefix && link.has(held.Prefix) {
		errs = append(errs, r.Addresses.RemoveAddress(ctx, link.Name, held.Prefix))
		r.wrote = true
	}
	err := errors.Join(errs...)
	if err == nil {
		r.held[V6] = want
	}
	return err
}

// inUse says whether the kernel found that another host has an address of ours:
// it then removes it while still checking, or marks it.
func (r *Reconciler) inUse(link Link, p netip.Prefix) bool {
	for _, a := range link.Addrs {
		if a.Prefix == p {
			return a.Duplicate
		}
	}
	return !link.Down && r.ours[p].Tentative // set down, it loses all of them
}

// decline gives up the DHCPv6 lease of an address that another host has, until
// the server gives another lease. Later releases of dhcpcd tell the server.
func (r *Reconciler) decline(iface string) {
	lease := r.state.Leases[V6]
	r.memory.Declined = lease.Obtained
	r.seen.Leases[V6].Released = true // that it is told again is another lease
	r.Trigger.Fire(SourceKernel, time.Time{})
	r.addressEvent(Error, EventDHCPDeclined, "the leased address is used by another host and is given up, asking again; look for a host with a static address inside the DHCP pool", iface, lease.Address)
}

// duplicate tells once that another host has an address; the kernel tries it again
// with each router advertisement.
func (r *Reconciler) duplicate(iface string, p netip.Prefix) {
	if r.taken[p] {
		return
	}
	if r.taken == nil {
		r.taken = map[netip.Prefix]bool{}
	}
	r.taken[p] = true
	r.addressEvent(Error, EventAddressDuplicate, "another host has this address: it is not used; look for a host with the same address or MAC", iface, p)
}

// followAddresses tells of ext's IPv6 addresses as they come, age and go,
// whoever made them, and ends the flows that they leave behind.
func (r *Reconciler) followAddresses(ctx context.Context) error {
	link := r.link(r.state.Ext)
	now := map[netip.Prefix]LinkAddr{}
	moved := false // there is another address to leave from, or one less
	for _, a := range link.Addrs {
		if !a.Prefix.Addr().Is6() {
			continue
		}
		now[a.Prefix] = a
		before, known := r.ours[a.Prefix]
		switch {
		case a.Duplicate && !before.Duplicate:
			r.duplicate(link.Name, a.Prefix)
		case a.Tentative || a.Duplicate:
		case !known || before.Tentative || before.Duplicate:
			r.gained(ctx, link.Name, a.Prefix)
			moved = true
			delete(r.taken, a.Prefix)
		}
		if a.Deprecated && known && !before.Deprecated {
			r.addressEvent(Info, EventAddressDeprecated, "new connections use another address from now on", link.Name, a.Prefix)
			moved = true
		}
	}
	for p, before := range r.ours {
		_, has := now[p]
		switch {
		case has:
		case p == r.held[V6].Prefix && p == r.state.External[V6].Prefix: // just written again
		case before.Tentative && link.Local.IsValid():
			r.duplicate(link.Name, p)
		default:
			r.gone(ctx, link.Name, p, netip.Prefix{})
		}
	}
	for p, a := range now {
		// What comes to the old address may still come. What leaves from it
		// is to leave from another, as soon as there is one.
		if moved && a.Deprecated && !link.onlyDeprecated().IsValid() {
			r.endFlowsOf(ctx, FlowMatch{ReplyDst: p.Addr()})
		}
	}
	r.ours = now
	return nil
}

func (r *Reconciler) wantedRoutes(f Family) []Route {
	return slices.DeleteFunc(slices.Clone(r.state.Routes), func(route Route) bool { return route.Family != f })
}

func (r *Reconciler) isOurs(route Route) bool { return slices.ContainsFunc(r.routed, route.Same) }

// applyRoutes puts the routes right, whoever changed them.
func (r *Reconciler) applyRoutes(ctx context.Context) error {
	if r.state.Ext == "" {
		return nil // not known at the moment: what is there stays
	}
	var errs []error
	var changed PerFamily[bool]
	for _, want := range r.state.Routes {
		if r.link(want.Iface).Name == "" {
			continue
		}
		has := routesTo(want.Dst, r.seen.Routes[want.Family])
		if len(has) > 0 && has[0].Same(want) {
			r.routeIs(want)
			continue
		}
		if want.Source == FromRouter && r.justLost() {
			changed[V6] = true
			continue
		}
		changed[want.Family] = true
		if err := settle(ctx, r.Routes, want, has); err != nil {
			if ctx.Err() != nil {
				r.routeIs(want) // interrupted by the stop: it may be in all the same
			}
			errs = append(errs, err)
			continue
		}
		r.routeSet(want)
	}
	errs = append(errs, r.removeStrayRoutes(ctx, changed))
	r.followRouter(ctx)
	return errors.Join(errs...)
}

// removeStrayRoutes takes away what leads astray, but where our own routes have
// just changed: what there is then is seen by the next look.
func (r *Reconciler) removeStrayRoutes(ctx context.Context, changed PerFamily[bool]) error {
	var errs []error
	for _, f := range Families {
		for _, has := range r.seen.Routes[f] {
			why := r.stray(f, has)
			if why == "" || changed[f] {
				continue
			}
			if err := r.Routes.DeleteRoute(ctx, has); err != nil {
				errs = append(errs, err)
				continue
			}
			r.wrote = true
			fields := Fields{"family": f.String(), "to": has.To(), "gateway": has.Gateway.String(), "iface": has.Iface}
			if why == straysForeign {
				r.outcome.Reasserted[f]++
				r.Reporter.Event(Warn, EventRouteReasserted, why, fields)
				continue
			}
			r.Reporter.Event(Info, EventRouteRemoved, why, fields)
		}
	}
	r.routed = slices.DeleteFunc(r.routed, func(set Route) bool { return !slices.ContainsFunc(r.state.Routes, set.Same) })
	return errors.Join(errs...)
}

const straysForeign = "somebody else's default route is removed, which the kernel would take while the right one's gateway does not answer"

// stray says why a route is to go: ours that is not wanted any more; a default
// route to ourselves, which Docker sets where it takes us for an ordinary
// container of a network whose gateway we are; in IPv6, where the kernel chooses
// among several, any default route but the router's or ours. It is empty for a
// route that stays.
func (r *Reconciler) stray(f Family, has Route) string {
	isDefault := !has.Dst.IsValid()
	wanted := r.wantsRouteTo(f, has.Dst)
	ours := r.isOurs(has) && has.Protocol != ProtoRA
	router := f == V6 && advertised(r.seen.Routes[V6], r.state.Ext)
	switch {
	case has.Protocol == ProtoRA && has.Iface == r.state.Ext:
		return ""
	case (ours || has.Protocol == ProtoDHCP && has.Iface == r.state.Ext) && !wanted:
		return "a route that is not wanted any more is removed"
	case isDefault && r.isGateway(has.Gateway) && !wanted:
		return "a default route that leads to ourselves is removed"
	case isDefault && f == V6 && !ours && (router || wanted):
		return straysForeign
	}
	return ""
}

func (r *Reconciler) wantsRouteTo(f Family, dst netip.Prefix) bool {
	return slices.ContainsFunc(r.state.Routes, func(want Route) bool { return want.Family == f && want.Dst == dst })
}

// isGateway says whether a is an address that we took as a network's gateway.
func (r *Reconciler) isGateway(a netip.Addr) bool {
	return slices.ContainsFunc(r.state.Transits, func(t Transit) bool {
		return slices.ContainsFunc(t.Gateways, func(g netip.Prefix) bool { return g.Addr() == a })
	})
}

// resigning is the time that a router's own word gets to reach us, after the
// kernel has taken its route away on the same word.
const resigning = 100 * time.Millisecond

// justLost says whether the kernel's route to its router went so shortly ago that
// we may still hear why.
func (r *Reconciler) justLost() bool {
	if !r.advertised {
		return false
	}
	if r.lostAt == 0 {
		r.lostAt = r.seen.Now
		time.AfterFunc(resigning, func() { r.Trigger.Fire(SourceKernel, time.Time{}) })
	}
	return r.seen.Now-r.lostAt < resigning
}

// followRouter asks the LAN's routers to introduce themselves: once at the
// start, since the kernel has taken what they said before and tells only part
// of it, and whenever the kernel's route to them was lost.
func (r *Reconciler) followRouter(ctx context.Context) {
	link := r.link(r.state.Ext)
	if !link.Local.IsValid() {
		r.solicited, r.advertised = "", false
		return
	}
	has := advertised(r.seen.Routes[V6], link.Name)
	lost := r.advertised && !has && r.seen.Adverts[link.Name].RouterAt(r.seen.Now).IsValid()
	if lost && r.justLost() {
		return
	}
	r.advertised, r.lostAt = has, 0
	if r.solicited == link.Name+link.MAC && !lost {
		return
	}
	r.solicited = link.Name + link.MAC
	go r.solicit(ctx, link.Name, r.seen.Now)
}

// solicit asks the routers on an interface, and again where none has been heard:
// the first question may be lost (RFC 4861, 6.3.7).
func (r *Reconciler) solicit(ctx context.Context, iface string, since time.Duration) {
	for range 3 {
		if err := r.Neighbours.Solicit(ctx, iface); err != nil {
			r.Reporter.Event(Warn, EventSolicitFailed, err.Error(), nil)
			return
		}
		pause(ctx, 4*time.Second)
		if r.Adverts.Adverts()[iface].At >= since || ctx.Err() != nil {
			return
		}
	}
}

// applyNeighbours has the kernel ask for the MACs of new backends: another
// container, of whatever kind, may have had the address and be remembered for a
// minute.
func (r *Reconciler) applyNeighbours(ctx context.Context) error {
	backends := map[netip.Addr]Neighbour{}
	var fresh []Neighbour
	for _, e := range r.state.Entries {
		n := Neighbour{Iface: e.Iface, Addr: e.Backend, MAC: e.BackendMAC}
		if _, listed := backends[n.Addr]; listed {
			continue
		}
		backends[n.Addr] = n
		if r.backends[n.Addr] != n {
			fresh = append(fresh, n)
		}
	}
	if len(fresh) > 0 {
		if err := r.Neighbours.ForgetNeighbours(ctx, fresh); err != nil {
			return err // to be tried again, in the next round
		}
	}
	r.backends = backends
	return nil
}

// endStaleFlows ends the flows that the ruleset, which is in the kernel by
// now, would send elsewhere. After it, never before: a flow that begins in
// between would be tracked the old way.
func (r *Reconciler) endStaleFlows(ctx context.Context, before State) error {
	var errs []error
	own := r.ownAddresses()
	if r.outcome.ApplyErr != nil {
		r.flowsDue = true // the old rules would take them up again
		return nil
	}
	for _, f := range Families {
		for _, p := range Protocols {
			was := entriesOf(before, f, p)
			if r.flowsDue || !slices.Equal(was, entriesOf(r.state, f, p)) {
				errs = append(errs, r.endStale(ctx, f, p, own, was))
			}
		}
	}
	err := errors.Join(errs...)
	r.flowsDue = err != nil
	return err
}

func (r *Reconciler) endStale(ctx context.Context, f Family, p Protocol, own []netip.Addr, before []Entry) error {
	flows, err := r.Flows.Flows(ctx, f, p)
	if err != nil {
		return err
	}
	if r.words.good != nil && len(before) > 0 {
		flows = ofEntries(f, p, flows, own, before) // others are translated by an override
	}
	told := map[netip.Addr]bool{}
	for _, m := range StaleFlows(f, p, flows, own, r.state.Entries) {
		if err := r.Flows.End(ctx, m); err != nil {
			return err
		}
		r.outcome.Flushes[f]++
		if !told[m.ReplySrc] {
			told[m.ReplySrc] = true
			r.Reporter.Event(Info, EventFlowsFlushed, "flows that lead elsewhere now were ended", Fields{"proto": string(p), "was": m.ReplySrc.String()})
		}
	}
	return nil
}

func entriesOf(s State, f Family, p Protocol) []Entry {
	var list []Entry
	for _, e := range s.Entries {
		if e.Family == f && e.Protocol == p {
			list = append(list, e)
		}
	}
	return list
}

// ownAddresses are all that a client may have addressed.
func (r *Reconciler) ownAddresses() []netip.Addr {
	var own []netip.Addr
	for _, f := range Families {
		own = append(own, r.state.External[f].Prefix.Addr())
	}
	for _, l := range r.seen.Links {
		for _, a := range l.Addrs {
			own = append(own, a.Prefix.Addr())
		}
	}
	for _, t := range r.state.Transits {
		for _, g := range t.Gateways {
			own = append(own, g.Addr())
		}
	}
	return own
}
