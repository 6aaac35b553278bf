package anchord

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Resolver looks a host name up, per family; a family without an address is
// an invalid one, and an error means that neither has any.
type Resolver interface {
	Resolve(ctx context.Context, host string) (PerFamily[[]netip.Addr], error)
}

// Originals remembers the default routes that a namespace had before, and puts
// them back.
type Originals interface {
	Record(ctx context.Context) (found PerFamily[bool], err error)
	Restore(ctx context.Context) error
}

// NameServers adds name servers behind those of the namespace; none removes
// them.
type NameServers interface {
	Add(servers []netip.Addr) error
}

// FollowOutcome is what one round of a Follower saw and did.
type FollowOutcome struct {
	Asked    bool // names were looked up
	Resolved PerFamily[bool]
	Replaced PerFamily[bool]
	Present  PerFamily[bool] // our default route is in
	Err      error
}

// Follower keeps a namespace's default routes on the network-anchor: the
// service-anchor's whole work. All fields but Pinned are required.
type Follower struct {
	Host     string                // name of the network-anchor, asked in DNS
	Pinned   PerFamily[netip.Addr] // if any is valid, no name is asked
	Interval time.Duration         // of the safety-net look at names
	Resolver Resolver
	Kernel   Kernel
	Routes   Routes
	Original Originals
	Names    NameServers
	Trigger  *Trigger
	Reporter interface {
		Event(l Level, event, message string, fields Fields)
		Followed(o FollowOutcome)
	}

	gateways   PerFamily[netip.Addr] // last good
	named      []netip.Addr          // name servers that were added
	unnamed    episode               // of adding them
	set        PerFamily[Route]      // installed by us
	failed     episode
	failing    bool  // in the last round
	unresolved error // of the last lookup, until the next
	retry      time.Duration

	links    []Link // as seen at lookedAt
	routes   PerFamily[[]Route]
	lookedAt time.Time
}

// SourceNames asks to resolve the network-anchor's name again.
const SourceNames = SourceContainers

func (f *Follower) pinned() bool { return f.Pinned[V4].IsValid() || f.Pinned[V6].IsValid() }

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	if f.pinned() {
		f.gateways = f.Pinned
	}
	f.record(ctx)
	look := time.NewTimer(f.Interval)
	defer look.Stop()
	f.Trigger.Pace(SourceNames | SourceKernel) // of both, whoever is on its networks has a say
	for source := SourceNames; ; {
		failing, began := f.failing, time.Now()
		f.round(ctx, source)
		f.Trigger.Looked(source, time.Since(began))
		// The kernel may say something all the time: what was to come, comes.
		if source&SourceNames != 0 || f.failing && !failing {
			look.Reset(f.next())
		}
		pause(ctx, coalesce)
		select {
		case <-ctx.Done():
			return
		case <-f.Trigger.Wake():
			source, _ = f.Trigger.Take()
		case <-look.C:
			source = SourceNames
		}
	}
}

// record remembers what was there before. In a namespace that another container
// owns it is put back at the end; in one of our own there is usually nothing.
func (f *Follower) record(ctx context.Context) {
	found, err := f.Original.Record(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		f.Reporter.Event(Warn, EventNothingToRestore, "the default routes that were here before will not be put back at the end: "+err.Error(), nil)
	case err == nil && found == PerFamily[bool]{}:
		f.Reporter.Event(Warn, EventNothingToRestore, "no default route was here before: at the end there will be none", nil)
	}
}

// next is when to look again: after a failure with growing pauses.
func (f *Follower) next() time.Duration {
	if !f.failing {
		f.retry = 0
		return f.Interval
	}
	f.retry = min(max(2*f.retry, 200*time.Millisecond), f.Interval)
	return f.retry
}

func (f *Follower) round(ctx context.Context, source Source) {
	var o FollowOutcome
	err := f.look(ctx, source)
	errs := []error{err}
	if source&SourceNames != 0 && !f.pinned() {
		f.unresolved = f.resolve(ctx, f.links, &o)
	}
	errs = append(errs, f.unresolved)
	if err == nil {
		for _, family := range Families {
			errs = append(errs, f.keep(ctx, family, f.links, defaultRoutesOf(f.routes[family]), &o))
		}
	}
	f.name()
	if o.Err = errors.Join(errs...); ctx.Err() == nil {
		f.report(o)
	}
}

// safetyNet is how often the kernel is looked at though nothing moved.
const safetyNet = 30 * time.Second

// look asks the kernel again, if something moved in it or after a failure.
func (f *Follower) look(ctx context.Context, source Source) error {
	if source&SourceKernel == 0 && !f.failing && time.Since(f.lookedAt) < safetyNet {
		return nil
	}
	links, err := f.Kernel.Links(ctx)
	if err != nil {
		return err
	}
	routes, err := f.Kernel.Routes(ctx)
	if err != nil {
		return err
	}
	f.links, f.routes, f.lookedAt = links, routes, time.Now()
	return nil
}

// resolve looks the name up; the last good address of a family stays.
func (f *Follower) resolve(ctx context.Context, links []Link, o *FollowOutcome) error {
	o.Asked = true
	addrs, err := f.Resolver.Resolve(ctx, f.Host)
	for _, family := range Families {
		gateway := onLinkFirst(addrs[family], links)
		o.Resolved[family] = gateway.IsValid()
		if !gateway.IsValid() || gateway == f.gateways[family] {
			continue
		}
		// Another name server than Docker's may know another host of this name.
		if f.gateways[family].IsValid() && !onLink(gateway, links) {
			continue
		}
		f.gateways[family] = gateway
		f.Reporter.Event(Info, EventGatewayResolved, "the network-anchor is at "+gateway.String(), Fields{"host": f.Host, "family": family.String()})
	}
	if err != nil {
		return fmt.Errorf("the network-anchor's name is not known: %w (are both on one network, and is ANCHORD_GATEWAY_HOSTNAME right?)", err)
	}
	return nil
}

// name adds the network-anchor to the name servers: Docker's own cannot resolve
// names of the outside on internal networks.
func (f *Follower) name() {
	var servers []netip.Addr
	for _, family := range Families {
		if gateway := f.set[family].Gateway; gateway.IsValid() {
			servers = append(servers, gateway)
		}
	}
	if slices.Equal(servers, f.named) {
		return
	}
	err := f.Names.Add(servers)
	if news, _ := f.unnamed.next(err); news {
		f.Reporter.Event(Warn, EventNameServersFailed, "names of the outside may not be resolved here: "+err.Error(), nil)
	}
	if err == nil {
		f.named = servers
	}
}

// onLinkFirst prefers an address that is reached directly: a name can have
// one on each network.
func onLinkFirst(addrs []netip.Addr, links []Link) netip.Addr {
	for _, a := range addrs {
		if onLink(a, links) {
			return a
		}
	}
	if len(addrs) > 0 {
		return addrs[0]
	}
	return netip.Addr{}
}

func onLink(a netip.Addr, links []Link) bool {
	return slices.ContainsFunc(links, func(l Link) bool { return l.onLink(a) })
}

// keep puts one family's default route right.
func (f *Follower) keep(ctx context.Context, family Family, links []Link, has []Route, o *FollowOutcome) error {
	want := Route{Family: family, Gateway: f.gateways[family], Source: FromDNS, Protocol: ProtoAnchord}
	if !want.Gateway.IsValid() {
		return nil
	}
	for _, l := range links {
		if l.onLink(want.Gateway) {
			want.Iface = l.Name
		}
	}
	if len(has) > 0 && has[0].Same(want) {
		o.Present[family], f.set[family] = true, want
		return f.alone(ctx, family, has[1:])
	}
	if want.Iface == "" {
		return fmt.Errorf("the network-anchor's address %s is on no network of this namespace: attach both to one network", want.Gateway)
	}
	if err := settle(ctx, f.Routes, want, has); err != nil {
		if ctx.Err() != nil {
			f.set[family] = want // interrupted by the stop: it may be in all the same
		}
		return err
	}
	fields := Fields{"family": family.String(), "gateway": want.Gateway.String(), "iface": want.Iface}
	if f.set[family].Same(want) {
		f.Reporter.Event(Warn, EventRouteReasserted, "the default route was changed or lost; it is put back", fields)
	} else {
		f.Reporter.Event(Info, EventRouteSet, "the default route leads to the network-anchor", fields)
	}
	o.Replaced[family], o.Present[family], f.set[family] = true, true, want
	f.routes[family] = []Route{want}
	return nil
}

// alone takes other IPv6 default routes away: the kernel would take one while the
// network-anchor does not answer, and packets would leave past the project.
func (f *Follower) alone(ctx context.Context, family Family, others []Route) error {
	if family == V4 {
		return nil
	}
	var errs []error
	for _, other := range others {
		errs = append(errs, f.Routes.DeleteRoute(ctx, other))
	}
	return errors.Join(errs...)
}

func (f *Follower) report(o FollowOutcome) {
	f.failing = o.Err != nil
	if news, _ := f.failed.next(o.Err); news {
		f.Reporter.Event(Error, EventGatewayUnresolved, o.Err.Error(), nil)
	}
	f.Reporter.Followed(o)
}

// Stop removes the routes that were installed, and puts back what was there
// before.
func (f *Follower) Stop(ctx context.Context) error {
	var errs []error
	for _, family := range Families {
		if f.set[family].Gateway.IsValid() {
			errs = append(errs, f.Routes.DeleteRoute(ctx, f.set[family]))
		}
	}
	errs = append(errs, f.Original.Restore(ctx))
	if f.named != nil {
		errs = append(errs, f.Names.Add(nil))
	}
	return errors.Join(errs...)
}
