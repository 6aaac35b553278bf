package anchord

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// What a Reconciler needs of the world. Each is small, and declared here, by
// its consumer; exec, watch and templates implement them.
type (
	// Docker is asked what there is; it is never changed by these.
	Docker interface {
		Self(ctx context.Context) (Self, error)
		Containers(ctx context.Context, scope Scope) ([]Container, error)
	}
	// Kernel is asked what the namespace looks like.
	Kernel interface {
		Links(ctx context.Context) ([]Link, error)
		DefaultRoutes(ctx context.Context) (PerFamily[[]Route], error)
	}
	// Addresses changes interfaces.
	Addresses interface {
		SetMAC(ctx context.Context, iface, mac string) error
		AddAddress(ctx context.Context, iface string, p netip.Prefix) error
		RemoveAddress(ctx context.Context, iface string, p netip.Prefix) error
		Readdress(ctx context.Context, iface string, wanted netip.Prefix, lifetime time.Duration, others []netip.Prefix, route *Route) error
	}
	// Routes changes default routes.
	Routes interface {
		ReplaceRoute(ctx context.Context, r Route) error
		DeleteRoute(ctx context.Context, r Route) error
	}
	// Neighbours keeps neighbours' and our own tables of them right.
	Neighbours interface {
		SetNeighbour(ctx context.Context, iface string, addr netip.Addr, mac string) error
		Announce(ctx context.Context, iface string, addr netip.Addr) error
	}
	// Flows lists and ends tracked flows.
	Flows interface {
		Flows(ctx context.Context, f Family, p Protocol) ([]Flow, error)
		End(ctx context.Context, m FlowMatch) error
	}
	// Renderer words a state.
	Renderer interface {
		Render(s State) (Ruleset, error)
	}
	// Tables holds the ruleset in the kernel.
	Tables interface {
		Apply(ctx context.Context, rs Ruleset) error
		Forget()
		Standing(ctx context.Context) (bool, error)
		Remove(ctx context.Context) error
	}
	// Leases reads the lease that the DHCP client reported last; a zero
	// Lease means none.
	Leases interface {
		Lease() (Lease, error)
	}
	// DHCP runs the DHCP client.
	DHCP interface {
		// Run makes exactly this client run; nil: none. last is the address
		// to ask for again.
		Run(c *DHCPClient, last netip.Addr)
		// Stop ends the client after it has released its lease.
		Stop(ctx context.Context) error
	}
	// Reporter tells people and their tools.
	Reporter interface {
		Event(l Level, event, message string, fields Fields)
		Reconciled(o Outcome)
	}
)

// Fields are the details of an event.
type Fields map[string]any

// Outcome is what one reconcile saw and did.
type Outcome struct {
	State      State
	Links      []Link // as seen before the changes
	Source     Source
	Err        error // joined
	DockerErr  error // Docker could not be asked; the last answer was used
	EventAt    time.Time
	Took       time.Duration
	Applied    bool // the ruleset was applied
	ApplyErr   error
	ApplyTook  time.Duration
	AppliedAt  time.Time
	Drift      bool
	Flushes    PerFamily[int]
	Reasserted PerFamily[int]
	RulesetIn  bool // anchord's ruleset stands
	Settled    bool // and Docker and the ext interface are known
}

// Timings of the loop.
const (
	// coalesce is how long a reconcile keeps the next one waiting: the first
	// event acts at once, those right behind it are joined.
	coalesce = 5 * time.Millisecond
	retryMin = time.Second
)

// Reconciler brings the namespace into the state decided, again and again.
// All fields down to Trigger are required.
type Reconciler struct {
	Config     Config
	Docker     Docker
	Kernel     Kernel
	Addresses  Addresses
	Routes     Routes
	Neighbours Neighbours
	Flows      Flows
	Renderer   Renderer
	Tables     Tables
	Leases     Leases
	DHCP       DHCP
	Reporter   Reporter
	Boot       string
	Uptime     func() time.Duration // since boot
	Trigger    *Trigger

	seen      Observation
	selfOK    bool // Docker has told who we are and what there is
	inKernel  []Entry
	linksOK   bool // the kernel has told its interfaces
	undo      undoing
	wrote     bool // seen.Links or seen.Routes were changed by us since
	memory    Memory
	applied   *Ruleset // in the kernel, nil if none
	inherited bool     // a killed predecessor's tables stand
	state     State    // as decided last
	macs      map[netip.Addr]string
	held      LeasedAddr // address that was put on ext last
	routed    [2]Route   // default routes that were set last
	flowsDue  bool       // flows have to be checked (again)
	retry     time.Duration
	failed    episode // of reconciling
	refused   episode // of the lease file
	outcome   Outcome
}

// Run reconciles at once, on every trigger and on the poll, until ctx ends.
// It returns an error only for a fault that no later look can mend.
func (r *Reconciler) Run(ctx context.Context) error {
	r.close(ctx)
	poll := time.NewTicker(r.Config.PollInterval)
	defer poll.Stop()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	source, since := SourceAll, time.Time{}
	for {
		if err := r.Reconcile(ctx, source, since); err != nil {
			return err
		}
		retry.Stop()
		if r.retry > 0 {
			retry.Reset(r.retry)
		}
		pause(ctx, coalesce)
		select {
		case <-ctx.Done():
			return nil
		case <-r.Trigger.Wake():
			source, since = r.Trigger.Take()
		case <-poll.C:
			source, since = SourceAll|SourcePoll, time.Time{}
		case <-retry.C:
			source, since = SourceAll, time.Time{}
		}
	}
}

// close shuts the box until the first decision: without rules every listener
// of the namespace would answer the LAN. Tables that a killed predecessor
// left standing are better than closed, and stay until then.
func (r *Reconciler) close(ctx context.Context) {
	// What fails here fails again, and is reported, in the first reconcile.
	r.inherited, _ = r.Tables.Standing(ctx)
	r.flowsDue = true // whatever a predecessor left
	_ = r.applyRuleset(ctx)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Reconcile looks at what source names, decides, and applies what differs.
func (r *Reconciler) Reconcile(ctx context.Context, source Source, since time.Time) error {
	start := time.Now()
	r.outcome = Outcome{Source: source, EventAt: since}
	r.lookAtDocker(ctx, source)
	lookErr := r.look(ctx, source)
	if ctx.Err() != nil {
		return nil // what was interrupted is no failure, and no news
	}
	// Before Docker and the kernel have told who and where we are, the box
	// stays closed.
	var state State
	if r.selfOK && r.linksOK {
		var err error
		if state, r.memory, err = r.Config.Decide(r.seen, r.memory); err != nil {
			return err
		}
	}
	r.reportNotices(state)
	r.reportExpiry(state)
	before := r.state
	r.state = state
	err := errors.Join(lookErr, r.apply(ctx, before))
	if ctx.Err() != nil {
		return nil // stopping: what was interrupted is no failure
	}
	r.finish(err, start)
	return nil
}

// look asks again what may have moved. What cannot be asked keeps its last
// answer.
func (r *Reconciler) look(ctx context.Context, source Source) error {
	r.seen.Now, r.seen.Boot = r.Uptime(), r.Boot
	err := r.lookAtKernel(ctx, source)
	r.lookAtLease(source)
	return err
}

// lookAtDocker keeps the last answer while Docker cannot be asked; that is an
// outcome of its own, since the rest goes on without it.
func (r *Reconciler) lookAtDocker(ctx context.Context, source Source) {
	if source&SourceSelf != 0 || (!r.selfOK && source&SourceContainers != 0) {
		self, err := r.Docker.Self(ctx)
		if err != nil {
			r.outcome.DockerErr = err
			return
		}
		r.seen.Self = self
	}
	if source&(SourceSelf|SourceContainers) == 0 {
		return
	}
	identity, err := r.Config.Identify(r.seen.Self)
	if err != nil {
		r.selfOK = true
		return // Decide says it
	}
	containers, err := r.Docker.Containers(ctx, identity.Scope)
	if err != nil {
		r.outcome.DockerErr = err
		return
	}
	r.seen.Containers, r.selfOK = containers, true
}

func (r *Reconciler) lookAtKernel(ctx context.Context, source Source) error {
	if source&SourcePoll != 0 && r.applied != nil {
		if standing, err := r.Tables.Standing(ctx); err != nil {
			return err
		} else if !standing {
			r.drifted()
		}
	}
	if source&SourceRuleset != 0 && r.applied != nil {
		r.drifted()
	}
	if source&(SourceKernel|SourceSelf) == 0 && !r.wrote {
		return nil
	}
	links, err := r.Kernel.Links(ctx)
	if err != nil {
		return err
	}
	routes, err := r.Kernel.DefaultRoutes(ctx)
	if err != nil {
		return err
	}
	r.seen.Links, r.seen.Routes, r.wrote, r.linksOK = links, routes, false, true
	return nil
}

// drifted notes that somebody else changed anchord's tables.
func (r *Reconciler) drifted() {
	if r.outcome.Drift {
		return
	}
	r.outcome.Drift = true
	r.applied = nil
	r.flowsDue = true
	r.Tables.Forget()
	r.Reporter.Event(Warn, EventRulesetDrift, "anchord's tables were changed by somebody else and are put back", nil)
}

func (r *Reconciler) lookAtLease(source Source) {
	if source&SourceLease == 0 {
		return
	}
	lease, err := r.Leases.Lease()
	r.reportRefusal(err)
	if err != nil {
		return // the lease that is held goes on
	}
	old := r.seen.Lease
	r.seen.Lease = lease
	r.reportLease(old, lease)
}

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
		r.applyMAC(ctx),
		r.applyGateways(ctx),
		r.applyExternal(ctx),
		r.applyRoutes(ctx),
		r.applyNeighbours(ctx),
		r.endStaleFlows(ctx, before),
	)
	r.DHCP.Run(r.state.DHCP, r.seen.Lease.Address.Addr())
	return err
}

func (r *Reconciler) applyRuleset(ctx context.Context) error {
	if r.inherited && !r.selfOK {
		return nil
	}
	rs, err := r.Renderer.Render(r.state)
	if err != nil {
		r.outcome.ApplyErr = err
		return err
	}
	if r.applied != nil && reflect.DeepEqual(*r.applied, rs) {
		return nil
	}
	start := time.Now()
	err = r.Tables.Apply(ctx, rs)
	r.outcome.Applied, r.outcome.ApplyErr, r.outcome.ApplyTook = true, err, time.Since(start)
	r.outcome.AppliedAt = time.Now()
	if err != nil {
		return err
	}
	r.applied = &rs
	r.reportApplied()
	return nil
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
	if r.state.ExtMAC == "" || link.MAC == r.state.ExtMAC || link.Name == "" {
		return nil
	}
	if err := r.Addresses.SetMAC(ctx, link.Name, r.state.ExtMAC); err != nil {
		return err
	}
	r.wrote = true
	r.Reporter.Event(Info, EventMACSet, "the LAN interface has the project's own MAC", Fields{"iface": link.Name, "mac": r.state.ExtMAC, "was": link.MAC})
	for _, a := range link.Addrs {
		r.announce(ctx, link.Name, a.Prefix.Addr())
	}
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

// applyGateways takes the gateway addresses that Docker left vacant.
func (r *Reconciler) applyGateways(ctx context.Context) error {
	var errs []error
	for _, t := range r.state.Transits {
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
			r.announce(ctx, t.Iface, p.Addr())
			r.Reporter.Event(Info, EventAddressAdded, "anchord is the gateway of network "+t.Network, Fields{"iface": t.Iface, "address": p.String()})
		}
	}
	return errors.Join(errs...)
}

// applyExternal gives ext the address of the lease, or Docker's, and nothing
// else. A renewed lease changes only the lifetime.
func (r *Reconciler) applyExternal(ctx context.Context) error {
	if !r.state.OwnsExt {
		return nil
	}
	link, want := r.link(r.state.Ext), r.state.External
	var others []netip.Prefix
	for _, a := range link.Addrs {
		if a.Prefix.Addr().Is4() && a.Prefix != want.Prefix {
			others = append(others, a.Prefix)
		}
	}
	present := !want.Prefix.IsValid() || link.has(want.Prefix)
	if present && len(others) == 0 && (want == r.held || !want.Prefix.IsValid()) {
		r.held = want
		return nil
	}
	var lifetime time.Duration
	if want.Until > 0 {
		lifetime = want.Until - r.seen.Now
	}
	var route *Route
	if !present || len(others) > 0 {
		route = r.wantedRoute(V4)
	}
	if want.Prefix == r.state.Lease.Address {
		r.undo.leased = ifaceAddr{link.Name, want.Prefix}
	}
	if err := r.Addresses.Readdress(ctx, link.Name, want.Prefix, lifetime, others, route); err != nil {
		return err
	}
	if route != nil {
		// It went with the old address; that is nobody's interference.
		if !r.routed[V4].Same(*route) {
			r.routeSet(*route)
		}
		r.routed[V4], r.seen.Routes[V4] = *route, []Route{*route}
	}
	r.readdressed(ctx, link.Name, want, others, present)
	return nil
}

// readdressed tells of the change of address, and ends what used the old one.
func (r *Reconciler) readdressed(ctx context.Context, iface string, want LeasedAddr, others []netip.Prefix, present bool) {
	r.held, r.wrote = want, true
	if want.Prefix.IsValid() && !present {
		r.announce(ctx, iface, want.Prefix.Addr())
		r.Reporter.Event(Info, EventAddressAdded, "the project has an address on the LAN", Fields{"iface": iface, "address": want.Prefix.String()})
	}
	for _, p := range others {
		r.Reporter.Event(Info, EventAddressRemoved, "the LAN interface gave up an address", Fields{"iface": iface, "address": p.String()})
		if p.Addr() == want.Prefix.Addr() {
			continue // another prefix length only
		}
		for _, m := range []FlowMatch{{OrigDst: p.Addr()}, {ReplyDst: p.Addr()}} {
			if err := r.Flows.End(ctx, m); err != nil {
				r.Reporter.Event(Warn, EventReconcileFailed, err.Error(), nil)
			}
			r.outcome.Flushes[V4]++
		}
	}
	r.flowsDue = true
}

func (r *Reconciler) wantedRoute(f Family) *Route {
	for _, route := range r.state.Routes {
		if route.Family == f {
			return &route
		}
	}
	return nil
}

// applyRoutes puts the default routes right, whoever changed them.
func (r *Reconciler) applyRoutes(ctx context.Context) error {
	var errs []error
	for _, want := range r.state.Routes {
		has := r.seen.Routes[want.Family]
		if len(has) > 0 && has[0].Same(want) {
			r.routed[want.Family] = want
			continue
		}
		if err := settle(ctx, r.Routes, want, has); err != nil {
			errs = append(errs, err)
			continue
		}
		r.routeSet(want)
	}
	return errors.Join(errs...)
}

// applyNeighbours corrects the MAC of backends that were recreated under
// their old address.
func (r *Reconciler) applyNeighbours(ctx context.Context) error {
	var errs []error
	if r.macs == nil {
		r.macs = map[netip.Addr]string{}
	}
	tried := map[netip.Addr]bool{}
	for _, e := range r.state.Entries {
		old := r.macs[e.Backend]
		if e.BackendMAC == "" || old == e.BackendMAC || tried[e.Backend] {
			continue
		}
		if old != "" {
			tried[e.Backend] = true
			if err := r.Neighbours.SetNeighbour(ctx, e.Iface, e.Backend, e.BackendMAC); err != nil {
				errs = append(errs, err)
				continue // to be tried again, in the next round
			}
		}
		// Kept when the backend goes: its address comes back with another.
		r.macs[e.Backend] = e.BackendMAC
	}
	return errors.Join(errs...)
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
			if !r.flowsDue && !mayLeaveStale(p, entriesOf(before, f, p), entriesOf(r.state, f, p)) {
				continue
			}
			errs = append(errs, r.endStale(ctx, f, p, own))
		}
	}
	err := errors.Join(errs...)
	r.flowsDue = err != nil
	return err
}

// mayLeaveStale says whether a change of entries can leave flows behind: a new
// TCP port cannot, since whoever tried it before was told that it is closed.
func mayLeaveStale(p Protocol, before, now []Entry) bool {
	if p == UDP {
		return !slices.Equal(before, now)
	}
	kept := make(map[Entry]bool, len(now))
	for _, e := range now {
		kept[e] = true
	}
	return slices.ContainsFunc(before, func(e Entry) bool { return !kept[e] })
}

func (r *Reconciler) endStale(ctx context.Context, f Family, p Protocol, own []netip.Addr) error {
	flows, err := r.Flows.Flows(ctx, f, p)
	if err != nil {
		return err
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
	own := []netip.Addr{r.state.External.Prefix.Addr()}
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

// finish tells the outcome, and sets the time of the next try after a
// failure.
func (r *Reconciler) finish(err error, start time.Time) {
	r.outcome.State, r.outcome.Links, r.outcome.Err, r.outcome.Took = r.state, r.seen.Links, err, time.Since(start)
	r.outcome.RulesetIn = r.applied != nil
	r.outcome.Settled = r.outcome.RulesetIn && r.selfOK && r.state.Ext != ""
	r.reportFailure(err)
	if err == nil && r.outcome.DockerErr == nil {
		r.retry = 0
	} else {
		r.retry = min(max(2*r.retry, retryMin), r.Config.PollInterval)
	}
	r.Reporter.Reconciled(r.outcome)
}
