package anchord

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// What a Repairer needs of the world.
type (
	// Members lists the containers of the whole engine, with the details of those
	// that share namespaces and of those that are named.
	Members interface {
		Members(ctx context.Context, names ...string) ([]Member, error)
	}
	// Containers changes containers. Errors that are ErrRefused mean that
	// somebody in between, such as a socket proxy, does not allow it.
	Containers interface {
		Start(ctx context.Context, id string) error
		// Create makes a container, and does not start it.
		Create(ctx context.Context, s ContainerSpec) (id string, err error)
		// Copy makes a container with all settings of another one, under another
		// name and in the namespace of a third, and does not start it.
		Copy(ctx context.Context, id, name, namespaceOf string) (newID string, err error)
		// Replace stops and removes a container and gives its name to another
		// one, which is started if it shall be. A second call goes on where the
		// first one failed; old may be gone.
		Replace(ctx context.Context, old, id, name string, start bool) error
		Remove(ctx context.Context, id string) error
	}
)

// ErrRefused is Docker's or a socket proxy's refusal to change something.
var ErrRefused = errors.New("refused")

// RepairConfig says what a Repairer does.
type RepairConfig struct {
	Autostart bool          // start what could not start before the owner of its namespace
	Autofix   bool          // recreate what was in the namespace of a service-anchor that was made anew
	Rebind    bool          // recreate service-anchors of the own project when their target was
	Managed   *Recipe       // service-anchor to make
	Interval  time.Duration // of the safety-net look
}

// RepairAction is what is done to a container.
type RepairAction string

const (
	RepairStart    RepairAction = "start"
	RepairMake     RepairAction = "make"     // from a spec, in place of the member if there is one
	RepairRecreate RepairAction = "recreate" // with all its settings, in a namespace that exists
	RepairFinish   RepairAction = "finish"   // an interrupted make or recreate
	RepairDiscard  RepairAction = "discard"  // what an interrupted one left, and nobody needs
)

// Repair is one thing to be done about a container.
type Repair struct {
	Action RepairAction
	Member Member        // zero if one is to be made
	Spec   ContainerSpec // make
	Onto   Member        // recreate: the new owner of the namespace
	Old    string        // finish: id of the container in whose place it comes
	Name   string        // finish: that it gets
	Why    string
}

// RepairView is what one plan looks at.
type RepairView struct {
	Self     Member
	Scope    Scope
	Members  []Member
	Gateways PerFamily[netip.Addr] // the network-anchor's addresses towards the containers
	First    bool                  // first look of this run: an image may be another one than before
	Managed  string                // id of the managed service-anchor, as seen last
}

// Repairer follows the network namespaces that containers share, and mends what
// a restart or recreation of their owners breaks.
type Repairer struct {
	Config     RepairConfig
	Identify   func(Self) (Identity, error) // optional: whose containers are watched beside those of the own project
	Self       func(ctx context.Context) (Self, error)
	Gateways   func() PerFamily[netip.Addr] // optional
	Members    Members
	Containers Containers
	Reporter   interface {
		Event(l Level, event, message string, fields Fields)
		// Dead is told of the containers without a network, after each look.
		Dead(notices []Notice)
	}
	Trigger *Trigger

	self    Self
	all     []Container // of the engine, at the last look
	scope   Scope
	first   bool
	managed string
	failed  episode
	repairs map[string]*episode // by action and container's name
	refused map[RepairAction]bool
	dead    map[string]time.Time // victims and since when
	told    map[string]bool      // victims that were told of
	notices []string             // of the last plan
}

// Timings of the repairs.
const (
	// settling leaves the first milliseconds after an event to the ruleset, and
	// joins what Compose does in one go.
	settling = 200 * time.Millisecond
	// deadGrace is the time in which whoever recreates the owner of a namespace,
	// most often Compose, recreates its dependents as well.
	deadGrace = 5 * time.Second
)

// Run looks and mends until ctx ends.
func (r *Repairer) Run(ctx context.Context) {
	r.first = true
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.Trigger.Wake():
			pause(ctx, settling)
			r.Trigger.Take()
		case <-timer.C:
		}
		timer.Reset(r.round(ctx))
	}
}

// round looks, mends, and says when to look again at the latest.
func (r *Repairer) round(ctx context.Context) time.Duration {
	view, err := r.look(ctx)
	if ctx.Err() != nil {
		return 0
	}
	// That Docker cannot be asked is told by whoever needs it more.
	if news, _ := r.failed.next(err); news {
		r.Reporter.Event(Debug, EventRepairFailed, err.Error(), nil)
	}
	if err != nil {
		return min(r.Config.Interval, 5*time.Second)
	}
	plan, notices := r.Config.Plan(view)
	r.first = r.first && view.Gateways == (PerFamily[netip.Addr]{})
	r.tell(notices)
	if r.do(ctx, plan) {
		return settling // what was mended may be the condition of more
	}
	return r.reportDead(view, plan)
}

func (r *Repairer) look(ctx context.Context) (RepairView, error) {
	if r.self.ID == "" {
		self, err := r.Self(ctx)
		if err != nil {
			return RepairView{}, err
		}
		if r.Identify != nil {
			identity, err := r.Identify(self)
			if err != nil {
				return RepairView{}, err
			}
			r.scope = identity.Scope
		}
		r.self = self
	}
	names := []string{r.self.ID}
	if m := r.Config.Managed; m != nil {
		names = append(names, strings.TrimPrefix(m.Target, "/"), m.name())
	}
	members, err := r.Members.Members(ctx, names...)
	if err != nil {
		return RepairView{}, err
	}
	r.all = containersOf(members)
	self, known := find(members, r.self.ID)
	if !known {
		return RepairView{}, errors.New("docker does not list our own container")
	}
	view := RepairView{Self: self, Scope: r.scope, Members: members, First: r.first, Managed: r.managed}
	if r.Gateways != nil {
		view.Gateways = r.Gateways()
	}
	if m := r.Config.Managed; m != nil {
		if sa, known := find(members, m.name()); known && sa.Labels[LabelManagedBy] != "" {
			r.managed = sa.ID
		}
	}
	return view, nil
}

// tell logs what stands in the way of a plan, once.
func (r *Repairer) tell(notices []string) {
	for _, n := range notices {
		if !slices.Contains(r.notices, n) {
			r.Reporter.Event(Error, EventRepairFailed, n, nil)
		}
	}
	r.notices = notices
}

// Plan says what is to be done, as a pure function; what it holds can be done at
// one time, and what follows from it comes with the next look. Notices are what
// only a person can change.
func (c RepairConfig) Plan(v RepairView) (plan []Repair, notices []string) {
	wanted, notices := c.wanted(v)
	plan = v.leftovers()
	for _, p := range wanted {
		if !slices.ContainsFunc(plan, p.awaits) {
			plan = append(plan, p)
		}
	}
	return plan, notices
}

// wanted is all that there is to be done, each after what it may have to await.
func (c RepairConfig) wanted(v RepairView) (plan []Repair, notices []string) {
	if c.Managed != nil {
		managed, notice := c.Managed.plan(v)
		if notice != "" {
			notices = append(notices, notice)
		}
		if managed != nil {
			plan = append(plan, *managed)
		} else if c.Autofix {
			plan = append(plan, c.Managed.orphans(v)...)
		}
	}
	if c.Rebind {
		plan = append(plan, v.rebinds()...)
	}
	if c.Autostart {
		for _, m := range Stranded(v.Members) {
			if v.ours(m) {
				plan = append(plan, Repair{Action: RepairStart, Member: m, Why: "the container whose network namespace it joins has started"})
			}
		}
	}
	return plan, notices
}

// awaits says whether p is about a container that other is about as well, or
// about one that joins that.
func (p Repair) awaits(other Repair) bool {
	same := p.subject() == other.subject() || (p.Member.ID != "" && p.Member.ID == other.Member.ID)
	return same || other.Member.Is(p.Member.NamespaceOf) || p.Onto.Is(other.subject())
}

// ours says whether a container is one of those that are looked after.
func (v RepairView) ours(m Member) bool {
	return v.Scope.Matches(m.Labels) || (v.Self.Project() != "" && m.Project() == v.Self.Project())
}

// marker is the end of the names of containers that are to take the place of
// others, by who makes them.
func marker(self Member) string { return ".by-" + self.Name }

// leftovers are the ends of what was interrupted: a container that bears its
// maker's mark still. Where the old one runs, or somebody made one meanwhile, it
// is not needed.
func (v RepairView) leftovers() []Repair {
	var plan []Repair
	for _, m := range v.Members {
		name, marked := strings.CutSuffix(m.Name, marker(v.Self))
		if !marked {
			continue
		}
		old, exists := find(v.Members, name)
		if exists && (old.Running || old.Created.After(m.Created)) {
			plan = append(plan, Repair{Action: RepairDiscard, Member: m, Name: name, Why: "it was to take the place of a container that is there"})
			continue
		}
		plan = append(plan, Repair{Action: RepairFinish, Member: m, Old: old.ID, Name: name, Why: "its recreation was interrupted"})
	}
	return plan
}

// plan brings the managed service-anchor to what the recipe says, while the
// target runs.
func (r Recipe) plan(v RepairView) (*Repair, string) {
	target, known := find(v.Members, r.Target)
	gateways := r.Gateways
	if gateways == (PerFamily[netip.Addr]{}) {
		gateways = v.Gateways
	}
	if !known || !target.Running || gateways == (PerFamily[netip.Addr]{}) {
		return nil, ""
	}
	has, exists := find(v.Members, r.name())
	if !exists {
		var replaces []string
		if v.Managed != "" {
			replaces = []string{v.Managed}
		}
		return &Repair{Action: RepairMake, Spec: r.spec(v.Self, gateways, replaces), Why: "container " + target.Name + " runs without it"}, ""
	}
	if has.Labels[LabelManagedBy] == "" {
		return nil, fmt.Sprintf("container %s gets no service-anchor: a container called %s exists that anchord did not make; remove it, or set ANCHORD_MANAGED_SA_NAME", target.Name, has.Name)
	}
	want := r.spec(v.Self, gateways, predecessors(has))
	if why := r.outdated(has, target, want, v); why != "" {
		return &Repair{Action: RepairMake, Member: has, Spec: want, Why: why}, ""
	}
	if !has.Running && has.Started.IsZero() {
		return &Repair{Action: RepairStart, Member: has, Why: "container " + target.Name + " runs without it"}, ""
	}
	return nil, ""
}

// outdated says why a service-anchor has to be made anew, if it has to. One that
// somebody stopped is left to them.
func (r Recipe) outdated(has, target Member, want ContainerSpec, v RepairView) string {
	switch {
	case !target.Is(has.NamespaceOf) || (!has.Started.IsZero() && target.Started.After(has.Started)):
		return "container " + target.Name + " was recreated or restarted"
	case has.Labels[labelRecipe] != want.Labels[labelRecipe]:
		return "it was made with other settings"
	case v.First && r.Image == "" && has.ImageID != v.Self.ImageID, v.First && r.Image != "" && has.Image != r.Image:
		return "its image is another one than wanted"
	}
	return ""
}

// remembered is how many predecessors a service-anchor names.
const remembered = 8

// predecessors are the ids in whose place another one would come.
func predecessors(m Member) []string {
	ids := append([]string{m.ID}, strings.FieldsFunc(m.Labels[labelReplaces], func(r rune) bool { return r == ',' })...)
	return ids[:min(len(ids), remembered)]
}

// orphans are the containers that were in the namespace of the managed
// service-anchor's predecessors.
func (r Recipe) orphans(v RepairView) []Repair {
	owner, known := find(v.Members, r.name())
	if !known || !owner.Running || owner.Labels[LabelManagedBy] == "" {
		return nil
	}
	if _, dead := owner.lostNamespace(v.Members); dead != "" {
		return nil // its own comes first, and that waits for the target
	}
	var plan []Repair
	for _, m := range v.Members {
		if m.NamespaceOf == "" || m.ID == owner.ID {
			continue
		}
		_, dead := m.lostNamespace(v.Members)
		refersToOld := slices.Contains(predecessors(owner)[1:], m.NamespaceOf)
		if refersToOld || (dead != "" && owner.Is(m.NamespaceOf)) {
			plan = append(plan, Repair{Action: RepairRecreate, Member: m, Onto: owner, Why: "the service-anchor " + owner.Name + ", whose network namespace it shares, was made anew"})
		}
	}
	return plan
}

// rebinds are the service-anchors of the own project whose target was recreated,
// or restarted: they go into the namespace of the container that has its name.
// One that a network-anchor made, it follows up by itself.
func (v RepairView) rebinds() []Repair {
	var plan []Repair
	for _, m := range v.Members {
		if !v.follows(m) || !m.wanted() {
			continue
		}
		target, runs := v.target(m)
		if !runs || target.ID == m.ID {
			continue
		}
		switch {
		case target.Is(m.NamespaceOf) && !m.Running:
			plan = append(plan, Repair{Action: RepairStart, Member: m, Why: "container " + target.Name + ", whose network namespace it joins, has started"})
		case !target.Is(m.NamespaceOf), target.Started.After(m.Started):
			plan = append(plan, Repair{Action: RepairRecreate, Member: m, Onto: target, Why: "container " + target.Name + ", whose network namespace it shares, was recreated or restarted"})
		}
	}
	return plan
}

// follows says whether a container is one of those that rebinds looks after.
func (v RepairView) follows(m Member) bool {
	own := m.Project() == v.Self.Project() && v.Self.Project() != "" && m.ID != v.Self.ID
	return own && m.Labels[LabelManagedBy] == "" && m.NamespaceOf != "" && m.isServiceAnchor(v.Self)
}

// target is the container that has the name now of the one that m joined, and
// whether it runs.
func (v RepairView) target(m Member) (Member, bool) {
	target, known := find(v.Members, cmp.Or(m.NamespaceName, m.NamespaceOf))
	return target, known && target.Running
}

// waits says whether what ails a container is only that its target does not run:
// nobody can mend that, and it is mended when the target is back.
func (c RepairConfig) waits(v RepairView, m Member) bool {
	if _, runs := v.target(m); runs {
		return false
	}
	return c.Rebind && v.follows(m) && m.NamespaceName != ""
}

// wanted says whether a container is to run: it does, or could not start. One
// that was stopped is left so.
func (m Member) wanted() bool { return m.Running || m.StartFailed }

func (m Member) isServiceAnchor(self Member) bool {
	return slices.Contains(m.Env, "ANCHORD_MODE=service-anchor") || slices.Contains(m.Args, "service-anchor") && m.ImageID == self.ImageID
}

// do carries a plan out, all of it at one time, and says whether something was
// done.
func (r *Repairer) do(ctx context.Context, plan []Repair) bool {
	var wg sync.WaitGroup
	errs := make([]error, len(plan))
	for i, repair := range plan {
		wg.Go(func() { errs[i] = r.one(ctx, repair) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return false
	}
	if r.repairs == nil || len(plan) == 0 { // all is well
		r.repairs = map[string]*episode{}
	}
	done := false
	for i, repair := range plan {
		key := string(repair.Action) + " " + repair.subject()
		r.repairs[key] = cmp.Or(r.repairs[key], &episode{})
		done = r.report(repair, errs[i], r.repairs[key]) || done
	}
	return done
}

func (r *Repairer) one(ctx context.Context, p Repair) error {
	temporary := p.subject() + marker(Member{Container: r.self.Container})
	switch p.Action {
	case RepairStart:
		return r.Containers.Start(ctx, p.Member.ID)
	case RepairMake:
		spec := p.Spec
		spec.Name = temporary
		id, err := r.Containers.Create(ctx, spec)
		if err != nil {
			return err
		}
		return r.Containers.Replace(ctx, p.Member.ID, id, p.Spec.Name, true)
	case RepairRecreate:
		id, err := r.Containers.Copy(ctx, p.Member.ID, temporary, p.Onto.ID)
		if err != nil {
			return err
		}
		return r.Containers.Replace(ctx, p.Member.ID, id, p.Member.Name, p.Member.wanted())
	case RepairFinish:
		return r.Containers.Replace(ctx, p.Old, p.Member.ID, p.Name, true) // most were running
	}
	return r.Containers.Remove(ctx, p.Member.ID)
}

// subject is the name of the container that a repair is about.
func (p Repair) subject() string { return cmp.Or(p.Name, p.Spec.Name, p.Member.Name) }

var repaired = map[RepairAction]struct{ event, message string }{
	RepairStart:    {EventContainerStarted, "a container was started"},
	RepairMake:     {EventServiceAnchorMade, "a service-anchor was made"},
	RepairRecreate: {EventContainerRecreated, "a container was recreated, with all its settings, in the network namespace that there is now"},
	RepairFinish:   {EventContainerRecreated, "a recreation that was interrupted was brought to its end"},
	RepairDiscard:  {EventContainerRecreated, "what an interrupted recreation left was removed"},
}

// report tells what came of a repair: a failure once, until it is another one.
func (r *Repairer) report(p Repair, err error, e *episode) (done bool) {
	fields := Fields{"container": p.subject(), "why": p.Why}
	if err == nil && p.Action == RepairDiscard {
		// After each try at what does not succeed.
		r.Reporter.Event(Debug, repaired[p.Action].event, repaired[p.Action].message, fields)
		return true
	}
	if err == nil {
		e.next(nil)
		r.Reporter.Event(Info, repaired[p.Action].event, repaired[p.Action].message, fields)
		return true
	}
	if errors.Is(err, ErrRefused) {
		if !r.refused[p.Action] {
			if r.refused == nil {
				r.refused = map[RepairAction]bool{}
			}
			r.refused[p.Action] = true
			r.Reporter.Event(Warn, EventDockerRefused, lost[p.Action], Fields{"container": p.subject(), "error": err.Error()})
		}
		return false
	}
	if news, _ := e.next(err); news {
		message := fmt.Sprintf("container %s cannot be put right (%s): %v", p.subject(), p.Action, err)
		if cures := Recreations([]Container{p.Member.Container}, r.all); len(cures) > 0 {
			message += "; " + cures[0]
			fields["fix"] = cures[0]
		}
		r.Reporter.Event(Error, EventRepairFailed, message, fields)
	}
	return false
}

// lost says what does not work without a right.
var lost = map[RepairAction]string{
	RepairStart:    "docker's socket proxy does not let anchord start containers: those that were made before the container whose network namespace they join have to be started by hand (allow POST on containers/{id}/start, or set ANCHORD_AUTOSTART_SIBLINGS=false)",
	RepairMake:     "docker's socket proxy does not let anchord make containers: there is no managed service-anchor (see " + DocsURL + "socket-proxy.md, or unset ANCHORD_MANAGED_SA_TARGET)",
	RepairRecreate: "docker's socket proxy does not let anchord recreate containers: those in a network namespace that is gone have to be recreated by hand (see " + DocsURL + "socket-proxy.md; with ANCHORD_AUTOFIX_DEAD_NETNS=false a network-anchor does not try)",
	RepairFinish:   "docker's socket proxy does not let anchord recreate containers: an interrupted recreation has to be ended by hand (see " + DocsURL + "socket-proxy.md)",
	RepairDiscard:  "docker's socket proxy does not let anchord remove containers: what an interrupted recreation left has to be removed by hand (see " + DocsURL + "socket-proxy.md)",
}

// reportDead tells of each container without a network once, when whoever broke
// it has had the time to mend it; and says when to look again.
func (r *Repairer) reportDead(v RepairView, plan []Repair) time.Duration {
	since, next := map[string]time.Time{}, r.Config.Interval
	var notices []Notice
	for _, d := range DeadNamespaces(v.Members) {
		for _, m := range d.Victims {
			if !v.ours(m) || r.Config.waits(v, m) {
				continue
			}
			since[m.ID] = r.dead[m.ID]
			if since[m.ID].IsZero() {
				since[m.ID] = time.Now()
			}
			if left := deadGrace - time.Since(since[m.ID]); left > 0 {
				next = min(next, left)
				continue
			}
			notices = append(notices, d.notice(m))
		}
	}
	for _, n := range notices {
		if !r.told[n.Container] {
			r.Reporter.Event(n.Level, n.Event, n.Message, Fields{"container": n.Container})
		}
	}
	r.told = map[string]bool{}
	for _, n := range notices {
		r.told[n.Container] = true
	}
	r.dead = since
	r.Reporter.Dead(notices)
	if len(plan) > 0 {
		next = min(next, deadGrace) // what failed is tried again
	}
	return next
}

func (d DeadNamespace) notice(m Member) Notice {
	fix := "recreate it as it was made"
	if cures := d.cures([]Member{m}); len(cures) > 0 {
		fix = strings.Join(cures, " && ")
	}
	return Notice{Event: EventNamespaceDead, Level: Warn, Container: Short(m.Name), Message: Cut(fmt.Sprintf("container %s has no network: it is in the network namespace of %s, which %s; fix: %s", Short(m.Name), Short(d.Target), d.Reason, fix), LongestText)}
}
