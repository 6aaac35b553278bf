package anchord

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
		Routes(ctx context.Context) (PerFamily[[]Route], error)
	}
	// Addresses changes interfaces.
	Addresses interface {
		AddChild(ctx context.Context, c Child) error
		RemoveChild(ctx context.Context, c Child) error
		// BeOneHost keeps an interface from speaking for others' addresses.
		BeOneHost(ctx context.Context, iface string) error
		SetUp(ctx context.Context, iface string) error
		SetMAC(ctx context.Context, iface, mac string, keep []netip.Prefix) error
		AddAddress(ctx context.Context, iface string, p netip.Prefix) error
		// Durations run from now; zero is for ever.
		LeaseAddress(ctx context.Context, iface string, p netip.Prefix, valid, preferred time.Duration) error
		RemoveAddress(ctx context.Context, iface string, p netip.Prefix) error
		Readdress(ctx context.Context, iface string, wanted netip.Prefix, lifetime time.Duration, others []netip.Prefix, routes []Route) error
	}
	// Routes changes routes.
	Routes interface {
		ReplaceRoute(ctx context.Context, r Route) error
		DeleteRoute(ctx context.Context, r Route) error
	}
	// Neighbours keeps neighbours' and our own tables of them right, and
	// asks routers to introduce themselves.
	Neighbours interface {
		ForgetNeighbours(ctx context.Context, list []Neighbour) error
		Announce(ctx context.Context, iface string, addr netip.Addr) error
		Solicit(ctx context.Context, iface string) error
	}
	// Adverts tells what the routers on each interface said.
	Adverts interface {
		Adverts() map[string]Advert
	}
	// Names tells by what names the containers are known on their networks, of
	// those that it has asked for.
	Names interface {
		Namings() []Naming
	}
	// Flows lists and ends tracked flows.
	Flows interface {
		Flows(ctx context.Context, f Family, p Protocol) ([]Flow, error)
		End(ctx context.Context, m FlowMatch) error
	}
	// Renderer words a state.
	Renderer interface {
		Render(s State) (Ruleset, error)
		// With is a renderer whose templates are overridden by these.
		With(files []TemplateFile) (Renderer, error)
	}
	// Overrides are the operator's templates, sorted by name.
	Overrides interface {
		Templates() []TemplateFile
	}
	// Tables holds the ruleset in the kernel.
	Tables interface {
		Apply(ctx context.Context, rs Ruleset) error
		// Check says what is wrong with a ruleset; nothing is changed.
		Check(ctx context.Context, rs Ruleset) error
		Forget()
		Standing(ctx context.Context) (bool, error)
		// Intact says whether the kernel has what was applied last.
		Intact(ctx context.Context) (bool, error)
		Remove(ctx context.Context) error
	}
	// Leases reads the lease that a family's DHCP client reported last; a
	// zero Lease means none.
	Leases interface {
		Lease(f Family) (Lease, error)
	}
	// DHCP runs the DHCP clients.
	DHCP interface {
		// Run makes exactly this client of the family run; nil: none. last
		// is the address to ask for again.
		Run(f Family, c *DHCPClient, last netip.Addr)
		// Renew has the family's client ask for its lease again after each of
		// these times from now, in place of those named before.
		Renew(f Family, after ...time.Duration)
		// Stop ends the clients, which release their leases, and says whether
		// there were any.
		Stop(ctx context.Context) bool
	}
	// Reporter tells people and their tools.
	Reporter interface {
		Event(l Level, event, message string, fields Fields)
		Reconciled(o Outcome)
	}
)

// NotDockerError says that another engine answers in Docker's place, which no later
// look mends.
type NotDockerError struct{ Host, Version string }

func (e *NotDockerError) Error() string {
	return fmt.Sprintf("DOCKER_HOST=%q: Podman answers there (version %s), and anchord needs Docker Engine: Podman's networks do not know inhibit_ipv4, so that services would leave by the host, with its address", e.Host, word(e.Version))
}

// Fields are the details of an event.
type Fields map[string]any

// Outcome is what one reconcile saw and did.
type Outcome struct {
	State      State
	Links      []Link // as seen before the changes
	Routes     PerFamily[[]Route]
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
	RulesetIn  bool     // anchord's ruleset stands
	Settled    bool     // and Docker and the ext interface are known
	Overrides  []string // template files of the operator's whose rules stand
	Refused    error    // why those that are there now are not used
}

// Gateways are the default routes as they are now: those decided, and where
// the kernel follows a router by itself, that one.
func (o Outcome) Gateways() []Route {
	var gateways []Route
	for _, f := range Families {
		for _, r := range defaultRoutesOf(o.State.Routes) {
			if r.Family == f {
				gateways = append(gateways, r)
			}
		}
		for _, r := range defaultRoutesOf(o.Routes[f]) {
			if r.Protocol == ProtoRA && r.Iface == o.State.Ext {
				r.Source = FromRouter
				gateways = append(gateways, r)
				break
			}
		}
	}
	return gateways
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
	Renderer   Renderer // of the embedded templates
	Overrides  Overrides
	Tables     Tables
	Leases     Leases
	Adverts    Adverts
	Names      Names
	DHCP       DHCP
	Reporter   Reporter
	Boot       string
	Uptime     func() time.Duration // since boot
	Forwards   func(Family) bool    // whether the kernel sends a family's packets on
	Trigger    *Trigger

	seen       Observation
	selfOK     bool // Docker has told who we are and what there is
	inKernel   []Entry
	linksOK    bool // the kernel has told its interfaces
	undo       undoing
	wrote      bool // seen.Links or seen.Routes were changed by us since
	memory     Memory
	applied    *Ruleset // in the kernel, nil if none
	words      wording
	inherited  bool                      // a killed predecessor's tables stand
	state      State                     // as decided last
	backends   map[netip.Addr]Neighbour  // as of the last round
	held       PerFamily[LeasedAddr]     // leased addresses that were put on ext last
	ours       map[netip.Prefix]LinkAddr // IPv6 addresses of ext, as seen last
	routed     []Route                   // that were set last
	announced  map[ifaceAddr]string      // our addresses inside, and the MAC that they were announced with
	advertised bool                      // the kernel had a default route of a router's
	taken      map[netip.Prefix]bool     // IPv6 addresses that other hosts were found to have
	solicited  string                    // interface whose routers were asked
	quieted    string                    // interface that was made to speak for itself only
	lostAt     time.Duration             // IPv6: when the kernel's route to its router was missed first
	flowsDue   bool                      // flows have to be checked (again)
	due        Source                    // what has to be looked at again, at retryAt, since a look failed
	retry      time.Duration
	retryAt    time.Time
	failed     episode                  // of reconciling
	refusedAt  PerFamily[time.Duration] // when the lease was obtained that was refused last
	refused    PerFamily[episode]       // of the lease files
	outcome    Outcome
}

// Run reconciles at once, on every trigger and on the poll, until ctx ends.
// It returns an error only for a fault that no later look can mend.
func (r *Reconciler) Run(ctx context.Context) error {
	r.close(ctx)
	poll := time.NewTicker(r.Config.PollInterval)
	defer poll.Stop()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	// Of the one the LAN has a say, of the other whoever makes many rules at once.
	r.Trigger.Pace(SourceKernel | SourceDoubt)
	source, since := SourceAll, time.Time{}
	for {
		began := time.Now()
		if err := r.Reconcile(ctx, source, since); err != nil {
			return err
		}
		r.Trigger.Looked(source, time.Since(began))
		retry.Stop()
		if r.retry > 0 {
			retry.Reset(time.Until(r.retryAt))
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
			source, since = r.due, time.Time{}
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
	if r.due != 0 && !start.Before(r.retryAt) {
		source |= r.due
	}
	r.outcome = Outcome{Source: source, EventAt: since}
	r.lookAtDocker(ctx, source)
	if other := (*NotDockerError)(nil); errors.As(r.outcome.DockerErr, &other) {
		return other
	}
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
	r.seen.Now, r.seen.Boot, r.seen.Adverts = r.Uptime(), r.Boot, r.Adverts.Adverts()
	r.seen.Templates, r.seen.Namings = r.Overrides.Templates(), r.Names.Namings()
	for _, f := range Families {
		r.seen.Stuck[f] = !r.Forwards(f)
	}
	err := r.lookAtKernel(ctx, source)
	r.lookAtLeases(source)
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
	if source&SourceRuleset != 0 && r.applied != nil {
		r.drifted()
	}
	if source&SourcePoll != 0 && r.applied != nil {
		if standing, err := r.Tables.Standing(ctx); err != nil {
			return err
		} else if !standing {
			r.drifted()
		}
	}
	if source&SourceDoubt != 0 && r.applied != nil {
		if intact, err := r.Tables.Intact(ctx); err != nil {
			return err
		} else if !intact {
			r.drifted()
		}
	}
	if source&(SourceKernel|SourceSelf) == 0 && !r.wrote {
		return nil
	}
	links, err := r.Kernel.Links(ctx)
	if err != nil {
		return err
	}
	routes, err := r.Kernel.Routes(ctx)
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

func (r *Reconciler) lookAtLeases(source Source) {
	if source&SourceLease == 0 {
		return
	}
	for _, f := range Families {
		lease, err := r.Leases.Lease(f)
		if err != nil || lease.Address.IsValid() {
			r.reportRefusal(f, err)
		}
		r.seen.Unusable[f] = err != nil
		if err != nil {
			// A lease that is held goes on. Without one, the client is of
			// another mind than we are: it believes that it has one.
			if !r.seen.Leases[f].ValidAt(r.seen.Now, r.seen.Boot) && lease.Obtained != r.refusedAt[f] {
				r.seen.Refused[f]++
			}
			r.refusedAt[f] = lease.Obtained
			continue
		}
		old := r.seen.Leases[f]
		if lease.echoes(old) {
			continue
		}
		r.seen.Leases[f] = lease
		r.renewInTime(f, lease)
		r.reportLease(f, old, lease)
	}
}

// shortLease is the shortest that udhcpc believes: it renews shorter ones as if
// they were as long.
const shortLease = 30 * time.Second

// renewInTime has a client renew a lease that it takes for longer than it is.
func (r *Reconciler) renewInTime(f Family, lease Lease) {
	if f == V4 && lease.Duration < shortLease && lease.ValidAt(r.seen.Now, r.seen.Boot) && !lease.Infinite() {
		left := lease.Remaining(r.seen.Now)
		r.DHCP.Renew(f, left/2, left*3/4)
	}
}

// finish tells the outcome, and sets the time of the next try after a
// failure.
func (r *Reconciler) finish(err error, start time.Time) {
	r.outcome.State, r.outcome.Links, r.outcome.Routes = r.state, r.seen.Links, r.seen.Routes
	r.outcome.Err, r.outcome.Took = err, time.Since(start)
	r.outcome.RulesetIn = r.applied != nil
	r.outcome.Settled = r.outcome.RulesetIn && r.selfOK && r.state.Ext != ""
	r.tryAgain(err)
	if err != nil || r.due == 0 {
		r.reportFailure(err)
	}
	r.Reporter.Reconciled(r.outcome)
}

// tryAgain sets what is looked at again, and when. That another look succeeded
// does not make up for one that failed.
func (r *Reconciler) tryAgain(err error) {
	r.due &^= r.outcome.Source
	if r.outcome.DockerErr != nil {
		r.due |= r.outcome.Source & (SourceSelf | SourceContainers)
	}
	if err != nil {
		r.due |= SourceAll | r.outcome.Source&SourceDoubt
	}
	now := time.Now()
	switch {
	case r.due == 0:
		r.retry = 0
	case r.retry == 0 || !now.Before(r.retryAt):
		r.retry = min(max(2*r.retry, retryMin), r.Config.PollInterval)
		r.retryAt = now.Add(r.retry)
	}
}
