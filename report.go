package anchord

import "slices"

// reportNotices logs what is wrong when it appears, and that it is gone when
// it is gone; never in between.
func (r *Reconciler) reportNotices(next State) {
	for _, n := range next.Notices {
		if !slices.Contains(r.state.Notices, n) {
			r.Reporter.Event(n.Level, n.Event, n.Message, containerField(n))
		}
	}
	for _, n := range r.state.Notices {
		if n.Level > Info && !slices.Contains(next.Notices, n) {
			fields := containerField(n)
			if fields == nil {
				fields = Fields{}
			}
			fields["cleared"] = n.Event
			r.Reporter.Event(Info, EventNoticeCleared, "no longer: "+n.Message, fields)
		}
	}
}

func containerField(n Notice) Fields {
	if n.Container == "" {
		return nil
	}
	return Fields{"container": n.Container}
}

// episode is a time of trouble: each of its messages is told once, and that
// it is over.
type episode struct{ told map[string]bool }

// next says whether err is news, or whether its being nil ends the episode.
func (e *episode) next(err error) (news, over bool) {
	if err == nil {
		over = len(e.told) > 0
		e.told = nil
		return false, over
	}
	news = !e.told[err.Error()]
	if e.told == nil {
		e.told = map[string]bool{}
	}
	e.told[err.Error()] = true
	return news, false
}

// reportApplied tells which ports were opened and closed.
func (r *Reconciler) reportApplied() {
	r.Reporter.Event(Info, EventRulesetApplied, "the ruleset is in the kernel", Fields{
		"entries": len(r.state.Entries), "took_ms": float64(r.outcome.ApplyTook.Microseconds()) / 1000,
		"opened": without(r.state.Entries, r.inKernel), "closed": without(r.inKernel, r.state.Entries),
	})
	r.inKernel = r.state.Entries
}

// named is how many ports an event names.
const named = 20

// without describes the entries that are not among others.
func without(entries, others []Entry) []string {
	known := make(map[Entry]bool, len(others))
	for _, e := range others {
		known[e] = true
	}
	list := []string{}
	for _, e := range entries {
		if known[e] {
			continue
		}
		if len(list) == named {
			return append(list, "…")
		}
		list = append(list, string(e.Protocol)+"/"+e.Ports()+" "+e.Family.String()+" "+Short(e.Container))
	}
	return list
}

func (r *Reconciler) reportFailure(err error) {
	switch news, over := r.failed.next(err); {
	case news:
		r.Reporter.Event(Error, EventReconcileFailed, err.Error(), nil)
	case over:
		r.Reporter.Event(Info, EventReconcileRecovered, "the last look and all changes succeeded again", nil)
	}
}

func (r *Reconciler) reportLease(f Family, old, lease Lease) {
	if lease.Obtained == old.Obtained && lease.Address == old.Address {
		return
	}
	if lease.Address.IsValid() && !lease.ValidAt(r.seen.Now, r.seen.Boot) {
		return // left by an earlier run; it is only asked for again
	}
	if !lease.Address.IsValid() {
		r.Reporter.Event(Warn, EventDHCPLost, "the DHCP server took the lease back; a new one is asked for", Fields{"family": f.String(), "address": old.Address.String()})
		return
	}
	fields := Fields{"family": f.String(), "address": lease.Address.String(), "lease_s": int64(lease.Duration.Seconds())}
	if lease.Server.IsValid() {
		fields["server"] = lease.Server.String()
	}
	if len(lease.Routers) > 0 {
		fields["router"] = lease.Routers[0].String()
	}
	for _, ignored := range lease.Ignored {
		if slices.Contains(old.Ignored, ignored) {
			continue
		}
		r.Reporter.Event(Warn, EventDHCPIgnored, "an option of the lease is not usable and is left out: "+ignored, nil)
	}
	if lease.Address == old.Address {
		r.Reporter.Event(Info, EventDHCPRenewed, "the lease was renewed", fields)
		return
	}
	r.Reporter.Event(Info, EventDHCPBound, "the DHCP server gave the project an address", fields)
}

// reportRefusal tells that a lease file cannot be used.
func (r *Reconciler) reportRefusal(f Family, err error) {
	if news, _ := r.refused[f].next(err); news {
		r.Reporter.Event(Error, EventDHCPRefused, err.Error(), Fields{"family": f.String()})
	}
}

// reportExpiry logs that a lease ran out unrenewed.
func (r *Reconciler) reportExpiry(next State) {
	for _, f := range Families {
		had, read := r.state.Leases[f], r.seen.Leases[f]
		if had.Address.IsValid() && !next.Leases[f].Address.IsValid() && read.Address.IsValid() && !read.ValidAt(r.seen.Now, r.seen.Boot) {
			r.Reporter.Event(Error, EventDHCPLost, "the lease ran out: no DHCP server renewed it; asking on", Fields{"family": f.String(), "address": had.Address.String()})
		}
	}
}

// routeIs notes that a route is there.
func (r *Reconciler) routeIs(want Route) {
	r.routed = slices.DeleteFunc(r.routed, func(set Route) bool { return set.Family == want.Family && set.Dst == want.Dst })
	r.routed = append(r.routed, want)
}

// routeSet notes and tells that a route was set: for the first time, to
// another gateway, or because somebody had changed it.
func (r *Reconciler) routeSet(want Route) {
	again := r.isOurs(want) || want.Source == FromRouter && r.advertised
	r.routeIs(want)
	r.wrote = true
	fields := Fields{"family": want.Family.String(), "to": want.To(), "gateway": want.Gateway.String(), "iface": want.Iface, "source": string(want.Source)}
	if !again {
		r.Reporter.Event(Info, EventRouteSet, "the route is set", fields)
		return
	}
	if has := routesTo(want.Dst, r.seen.Routes[want.Family]); len(has) > 0 {
		fields["was"] = has[0].Gateway.String() + " dev " + has[0].Iface
	}
	r.outcome.Reasserted[want.Family]++
	r.Reporter.Event(Warn, EventRouteReasserted, "the route was changed or lost; it is put back", fields)
}
