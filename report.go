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
		list = append(list, string(e.Protocol)+"/"+e.Ports()+" "+e.Family.String()+" "+e.Container)
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

func (r *Reconciler) reportLease(old, lease Lease) {
	if lease.Obtained == old.Obtained && lease.Address == old.Address {
		return
	}
	if lease.Address.IsValid() && !lease.ValidAt(r.seen.Now, r.seen.Boot) {
		return // left by an earlier run; it is only asked for again
	}
	if !lease.Address.IsValid() {
		r.Reporter.Event(Warn, EventDHCPLost, "the DHCP server took the lease back; a new one is asked for", Fields{"address": old.Address.String()})
		return
	}
	fields := Fields{"address": lease.Address.String(), "lease_s": int64(lease.Duration.Seconds()), "server": lease.Server.String()}
	if len(lease.Routers) > 0 {
		fields["router"] = lease.Routers[0].String()
	}
	for _, ignored := range lease.Ignored {
		r.Reporter.Event(Warn, EventDHCPIgnored, "an option of the lease is not usable and is left out: "+ignored, nil)
	}
	if lease.Address == old.Address {
		r.Reporter.Event(Info, EventDHCPRenewed, "the lease was renewed", fields)
		return
	}
	r.Reporter.Event(Info, EventDHCPBound, "the DHCP server gave the project an address", fields)
}

// reportRefusal tells that a lease file cannot be used.
func (r *Reconciler) reportRefusal(err error) {
	if news, _ := r.refused.next(err); news {
		r.Reporter.Event(Error, EventDHCPRefused, err.Error(), nil)
	}
}

// reportExpiry logs that the lease ran out unrenewed.
func (r *Reconciler) reportExpiry(next State) {
	if r.state.Lease.Address.IsValid() && !next.Lease.Address.IsValid() && r.seen.Lease.Address.IsValid() && !r.seen.Lease.ValidAt(r.seen.Now, r.seen.Boot) {
		r.Reporter.Event(Error, EventDHCPLost, "the lease ran out: no DHCP server renewed it; asking on", Fields{"address": r.state.Lease.Address.String()})
	}
}

// routeSet notes and tells that a default route was set: for the first time,
// to another gateway, or because somebody had changed it.
func (r *Reconciler) routeSet(want Route) {
	ours := r.routed[want.Family]
	r.routed[want.Family], r.wrote = want, true
	fields := Fields{"family": want.Family.String(), "gateway": want.Gateway.String(), "iface": want.Iface, "source": string(want.Source)}
	if !ours.Same(want) {
		r.Reporter.Event(Info, EventRouteSet, "the default route is set", fields)
		return
	}
	if has := r.seen.Routes[want.Family]; len(has) > 0 {
		fields["was"] = has[0].Gateway.String() + " dev " + has[0].Iface
	}
	r.outcome.Reasserted[want.Family]++
	r.Reporter.Event(Warn, EventRouteReasserted, "the default route was changed or lost; it is put back", fields)
}
