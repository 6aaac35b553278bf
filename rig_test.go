package anchord_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/told"
)

// rig is a Reconciler whose whole surroundings are a world in memory. Its
// kernel does what it is told; all that is changed is written down.
type rig struct {
	*anchord.Reconciler
	w *world

	mu        sync.Mutex
	did       []string         // effects in order; a failed one ends in " !"
	fails     map[string]error // by an effect's first word
	events    []string         // level, event, message
	outcomes  []anchord.Outcome
	announced []string
	solicited []string
	dockerErr error
	leaseErr  error
	tables    bool // they stand
	flows     map[anchord.Protocol][]anchord.Flow
	clients   anchord.PerFamily[anchord.DHCPClient]
	refuses   map[string]string // by an effect's first word, the rules that fail it
	inKernel  string            // the body that was applied last
	elements  string            // and its elements
	touched   bool              // somebody changed the tables
	slow      time.Duration     // what a look at the kernel takes
	interrupt func()            // if set, called while a route is being set, which then fails
}

var errBroken = errors.New("broken")

func newRig(w *world, c anchord.Config) *rig {
	g := &rig{w: w, fails: map[string]error{}, refuses: map[string]string{}, flows: map[anchord.Protocol][]anchord.Flow{}}
	g.Reconciler = &anchord.Reconciler{
		Config: c, Docker: g, Kernel: g, Addresses: g, Routes: g, Neighbours: g, Flows: g, Renderer: g, Overrides: g, Tables: g,
		Leases: g, Adverts: g, Names: g, DHCP: fakeDHCP{g}, Reporter: g, Boot: boot, Trigger: anchord.NewTrigger(),
		Uptime:   func() time.Duration { return g.w.Now },
		Forwards: func(f anchord.Family) bool { return !g.w.Stuck[f] },
	}
	return g
}

// look reconciles once and returns the effects.
func (g *rig) look(t *testing.T, source anchord.Source) []string {
	t.Helper()
	if err := g.Reconcile(t.Context(), source, time.Time{}); err != nil {
		t.Fatal(err)
	}
	return g.effects()
}

func (g *rig) effects() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	did := g.did
	g.did = nil
	return did
}

func (g *rig) wantEffects(t *testing.T, source anchord.Source, want ...string) {
	t.Helper()
	if did := g.look(t, source); !slices.Equal(did, want) {
		t.Errorf("did:\n  %s\nwant:\n  %s", strings.Join(did, "\n  "), strings.Join(want, "\n  "))
	}
}

// told returns the messages of an event, and forgets all events.
func (g *rig) told(event string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []string
	for _, e := range g.events {
		if _, rest, _ := strings.Cut(e, " "); strings.HasPrefix(rest, event+" ") {
			list = append(list, e)
		}
	}
	g.events = nil
	return list
}

func (g *rig) last() anchord.Outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.outcomes[len(g.outcomes)-1]
}

func (g *rig) effect(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	g.mu.Lock()
	defer g.mu.Unlock()
	kind, _, _ := strings.Cut(what, " ")
	if err := g.fails[kind]; err != nil {
		g.did = append(g.did, what+" !")
		return fmt.Errorf("%s: %w", kind, err)
	}
	g.did = append(g.did, what)
	return nil
}

// change changes the surroundings while the loop runs.
func (g *rig) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *rig) link(name string) *anchord.Link {
	i := slices.IndexFunc(g.w.Links, func(l anchord.Link) bool { return l.Name == name })
	return &g.w.Links[i]
}

func (g *rig) Self(context.Context) (anchord.Self, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Self, g.dockerErr
}

func (g *rig) Containers(context.Context, anchord.Scope) ([]anchord.Container, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.w.Containers), g.dockerErr
}

func (g *rig) Links(context.Context) ([]anchord.Link, error) {
	time.Sleep(g.slow)
	g.mu.Lock()
	defer g.mu.Unlock()
	links := slices.Clone(g.w.Links)
	for i := range links {
		links[i].Addrs = slices.Clone(links[i].Addrs)
	}
	return links, g.fails["links"]
}

func (g *rig) Routes(context.Context) (anchord.PerFamily[[]anchord.Route], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Observation.Routes, g.fails["routes"]
}

func (g *rig) BeOneHost(context.Context, string) error { return g.fails["quiet"] }

func (g *rig) SetUp(_ context.Context, iface string) error {
	err := g.effect("up %s", iface)
	if err == nil {
		g.link(iface).Down = false
	}
	return err
}

func (g *rig) SetMAC(_ context.Context, iface, mac string, _ []netip.Prefix) error {
	err := g.effect("mac %s %s", iface, mac)
	if err == nil {
		g.link(iface).MAC = mac
	}
	return err
}

func (g *rig) AddAddress(_ context.Context, iface string, p netip.Prefix) error {
	err := g.effect("address %s %s", iface, p)
	if err == nil {
		l := g.link(iface)
		l.Addrs = append(l.Addrs, anchord.LinkAddr{Prefix: p, Permanent: true})
	}
	return err
}

func (g *rig) RemoveAddress(_ context.Context, iface string, p netip.Prefix) error {
	err := g.effect("remove %s %s", iface, p)
	if i := slices.IndexFunc(g.w.Links, func(l anchord.Link) bool { return l.Name == iface }); err == nil && i >= 0 {
		l := &g.w.Links[i]
		l.Addrs = slices.DeleteFunc(l.Addrs, func(a anchord.LinkAddr) bool { return a.Prefix == p })
	}
	return err
}

func (g *rig) Readdress(_ context.Context, iface string, wanted netip.Prefix, lifetime time.Duration, others []netip.Prefix, routes []anchord.Route) error {
	what := "readdress " + iface
	if wanted.IsValid() {
		what += " " + wanted.String() + " for " + lifetime.String()
	}
	if len(others) > 0 {
		what += " without " + words(others)
	}
	for _, route := range routes {
		what += " via " + route.Gateway.String()
	}
	if err := g.effect("%s", what); err != nil {
		return err
	}
	l := g.link(iface)
	l.Addrs = slices.DeleteFunc(l.Addrs, func(a anchord.LinkAddr) bool { return a.Prefix == wanted || slices.Contains(others, a.Prefix) })
	if wanted.IsValid() {
		l.Addrs = append(l.Addrs, anchord.LinkAddr{Prefix: wanted})
	}
	for _, route := range routes {
		g.setRoute(route)
	}
	return nil
}

// setRoute does what the kernel does with a route of the metric that all of
// ours have.
func (g *rig) setRoute(r anchord.Route) {
	others := slices.DeleteFunc(slices.Clone(g.w.Observation.Routes[r.Family]), func(o anchord.Route) bool { return o.Dst == r.Dst })
	g.w.Observation.Routes[r.Family] = append(others, r)
}

func (g *rig) LeaseAddress(_ context.Context, iface string, p netip.Prefix, valid, preferred time.Duration) error {
	err := g.effect("lease %s %s for %s, %s", iface, p, valid, preferred)
	if l := g.link(iface); err == nil && !slices.ContainsFunc(l.Addrs, func(a anchord.LinkAddr) bool { return a.Prefix == p }) {
		l.Addrs = append(l.Addrs, anchord.LinkAddr{Prefix: p})
	}
	return err
}

func (g *rig) AddChild(_ context.Context, c anchord.Child) error {
	err := g.effect("child %s on %s %s", c.Name, c.Parent, c.MAC)
	if err == nil {
		g.w.Links = append(g.w.Links, anchord.Link{Name: c.Name, MAC: c.MAC, Kind: "macvlan"})
	}
	return err
}

func (g *rig) RemoveChild(_ context.Context, c anchord.Child) error {
	return g.effect("unchild %s", c.Name)
}

func (g *rig) Solicit(_ context.Context, iface string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.solicited = append(g.solicited, iface)
	return g.fails["solicit"]
}

func (g *rig) Namings() []anchord.Naming { return g.w.Namings }

func (g *rig) Adverts() map[string]anchord.Advert {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Observation.Adverts
}

func (g *rig) ReplaceRoute(_ context.Context, r anchord.Route) error {
	err := g.effect("route %s %s", r.Gateway, r.Iface)
	if g.interrupt != nil {
		g.interrupt()
		return context.Canceled
	}
	if err == nil {
		g.change(func() { g.setRoute(r) })
	}
	return err
}

func (g *rig) DeleteRoute(_ context.Context, r anchord.Route) error {
	err := g.effect("unroute %s %s", r.Gateway, r.Iface)
	if err == nil {
		g.change(func() {
			g.w.Observation.Routes[r.Family] = slices.DeleteFunc(slices.Clone(g.w.Observation.Routes[r.Family]), func(o anchord.Route) bool { return r.Same(o) && r.Protocol == o.Protocol })
		})
	}
	return err
}

func (g *rig) ForgetNeighbours(_ context.Context, list []anchord.Neighbour) error {
	text := "neighbours"
	for _, n := range list {
		text += fmt.Sprintf(" %s %s %s", n.Iface, n.Addr, n.MAC)
	}
	return g.effect("%s", text)
}

func (g *rig) Announce(_ context.Context, iface string, a netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.announced = append(g.announced, iface+" "+a.String())
	return g.fails["announce"]
}

func (g *rig) Flows(_ context.Context, f anchord.Family, p anchord.Protocol) ([]anchord.Flow, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f == anchord.V6 {
		return nil, nil
	}
	return g.flows[p], g.fails["flows"]
}

func (g *rig) End(_ context.Context, m anchord.FlowMatch) error {
	return g.effect("end %s dst=%s src=%s reply-dst=%s port=%d", m.Protocol, text(m.OrigDst), text(m.ReplySrc), text(m.ReplyDst), m.Port)
}

func (g *rig) Render(s anchord.State) (anchord.Ruleset, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	elements := []anchord.Element{{Text: strings.Join(entries(s), " ")}}
	return anchord.Ruleset{Body: fmt.Sprintf("%s %v", s.Ext, s.Transits), Sets: []anchord.Set{{Elements: elements}}}, g.fails["render"]
}

func (g *rig) With(files []anchord.TemplateFile) (anchord.Renderer, error) {
	for _, f := range files {
		if f.Fault != "" {
			return nil, errors.New(f.Fault)
		}
	}
	return &overriding{g, files}, nil
}

// overriding is a renderer whose body says which templates it is of. One of
// the text "fails with X" does where X is in the ruleset.
type overriding struct {
	*rig
	files []anchord.TemplateFile
}

func (o *overriding) Render(s anchord.State) (anchord.Ruleset, error) {
	rs, err := o.rig.Render(s)
	for _, f := range o.files {
		if on, found := strings.CutPrefix(f.Text, "fails with "); found && strings.Contains(fmt.Sprint(rs), on) {
			return rs, &anchord.TemplateError{File: f.Name, Line: 1, Message: "fails", Rendered: rs.Body}
		}
		rs.Body += " " + f.Text
	}
	return rs, err
}

func (g *rig) Templates() []anchord.TemplateFile {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Observation.Templates
}

func (g *rig) Check(_ context.Context, rs anchord.Ruleset) error {
	return errors.Join(g.effect("check %s", rs.Body), g.refused("check", rs))
}

func (g *rig) refused(kind string, rs anchord.Ruleset) error {
	if word := g.refuses[kind]; word != "" && strings.Contains(rs.Body, word) {
		return errBroken
	}
	return nil
}

func (g *rig) Apply(_ context.Context, rs anchord.Ruleset) error {
	ext, _, _ := strings.Cut(rs.Body, " ")
	if err := g.refused("rules", rs); err != nil {
		return err
	}
	err := g.effect("rules %s", ext)
	if err == nil {
		g.inKernel, g.elements = rs.Body, rs.Sets[0].Elements[0].Text
	}
	g.tables = g.tables || err == nil
	return err
}

func (g *rig) Forget() {}

func (g *rig) Standing(context.Context) (bool, error) { return g.tables, g.fails["standing"] }

func (g *rig) Intact(context.Context) (bool, error) {
	return !g.touched, errors.Join(g.effect("compare"), g.fails["compare"])
}

func (g *rig) Remove(context.Context) error { return g.effect("unrule") }

func (g *rig) Lease(f anchord.Family) (anchord.Lease, error) {
	if f == anchord.V4 {
		return g.w.Leases[f], g.leaseErr
	}
	return g.w.Leases[f], nil
}

func (g *rig) Event(l anchord.Level, event, message string, _ anchord.Fields) {
	told.Must(l, event)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, [...]string{"debug", "info", "warn", "error"}[l]+" "+event+" "+message)
}

func (g *rig) Reconciled(o anchord.Outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.outcomes = append(g.outcomes, o)
}

// fakeDHCP is the rig's DHCP client; only changes are effects.
type fakeDHCP struct{ g *rig }

func (d fakeDHCP) Run(f anchord.Family, c *anchord.DHCPClient, last netip.Addr) {
	var want anchord.DHCPClient
	if c != nil {
		want = *c
	}
	if want != d.g.clients[f] {
		d.g.clients[f] = want
		kind := "client"
		if f == anchord.V6 {
			kind = "client6"
		}
		_ = d.g.effect("%s %s %s %s", kind, want.Iface, want.Hostname, text(last))
	}
}

func (d fakeDHCP) Renew(f anchord.Family, after ...time.Duration) {
	_ = d.g.effect("renew %s %v", f, after)
}

func (d fakeDHCP) Stop(context.Context) bool {
	ran := d.g.clients != anchord.PerFamily[anchord.DHCPClient]{}
	if ran {
		_ = d.g.effect("release")
	}
	return ran
}
