package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/watch"
)

// patient is what the checks look at: what was seen first, and what more can be
// asked. Nothing of it is changed for longer than the doctor runs.
type patient struct {
	vars     *examineCmd
	mode     string
	config   anchord.Config
	repairs  anchord.RepairConfig
	follower anchord.Follower
	restarts bool     // of the external-rebinder
	faults   []string // of the configuration
	warnings []string

	ip   exec.IP
	nft  exec.NFT
	caps uint64

	docker    *watch.Docker
	calls     *exec.Containers
	dockerErr error
	api       string // version of Docker's API
	self      anchord.Self
	// containers are those of the project that run.
	containers []anchord.Container
	state      anchord.State // as anchord would decide, or has decided

	links   []anchord.Link
	routes  anchord.PerFamily[[]anchord.Route]
	linkErr error

	witness
	undo []func()

	// What is asked once, for all checks that are interested.
	discover    func() (reply, error)
	router      func() (anchord.Advert, error)
	askBackends func() map[netip.Addr]answer
}

// witness is the anchord of this container, and what it says.
type witness struct {
	started bool // it runs, or did
	running *statusReport
	runErr  error
}

// mode is what the anchord that runs says of its own, which an argument may have
// given it; else the given one.
func (w witness) mode(given string) string {
	if w.runErr == nil && w.running != nil && slices.Contains(modes, w.running.Anchord) {
		return w.running.Anchord
	}
	return given
}

func (w witness) isRunning() bool { return w.started && w.runErr == nil }

// isReady says whether the anchord of this container has done its work; what it
// has not done is no other fault.
func (w witness) isReady() bool { return w.isRunning() && w.running != nil && w.running.Ready }

// reply is a DHCP server's; without one, Address is invalid.
type reply struct {
	exec.Offer
	waited time.Duration
}

// patient reads the configuration.
func (c *examineCmd) patient(running witness) *patient {
	p := &patient{vars: c, mode: c.Mode, witness: running}
	bad := &configError{}
	c.commonVars.check(bad)
	switch c.Mode {
	case "network-anchor":
		var more []string
		p.config, _, p.warnings = c.networkVars.config(bad)
		p.config.MetricsPort = c.metricsPort()
		p.repairs, more = c.repairVars.config(bad)
		p.warnings = append(p.warnings, more...)
	case "service-anchor":
		p.follower, p.warnings = c.followVars.config(bad)
	default:
		rebindVars{c.dockerVars, c.PollInterval}.check(bad)
		if c.Mode == "external-rebinder" {
			p.restarts = c.externalRebinderVars.check(bad)
		}
	}
	p.faults = bad.faults
	return p
}

func (p *patient) close() {
	for _, undo := range p.undo {
		undo()
	}
	if p.docker != nil {
		p.docker.Close()
	}
	if p.calls != nil {
		_ = p.calls.Close()
	}
}

// look asks the kernel and Docker at the same time, and then decides as anchord
// would.
func (p *patient) look(ctx context.Context) {
	p.caps, _ = watch.Capabilities() // none are missed by nobody but the check
	var wg sync.WaitGroup
	var seen anchord.Observation
	wg.Go(func() {
		p.links, p.linkErr = p.ip.Links(ctx)
		if p.linkErr == nil {
			p.routes, p.linkErr = p.ip.PrefixRoutes(ctx)
		}
	})
	if p.asksDocker() {
		wg.Go(func() { seen.Self, seen.Containers, p.dockerErr = p.askDocker(ctx) })
	}
	wg.Wait()
	p.self, p.containers = seen.Self, seen.Containers
	if p.mode != "network-anchor" || p.dockerErr != nil || p.linkErr != nil {
		return
	}
	seen.Links, seen.Routes, seen.Now = p.links, p.routes, uptime()
	if boot, err := bootID(); err == nil {
		seen.Boot = boot
		for _, f := range anchord.Families {
			seen.Leases[f], _ = watch.LeaseDir{Path: exec.LeaseDir(p.vars.RunDir)}.Lease(f)
		}
	}
	if !p.isRunning() {
		seen.Leases = anchord.PerFamily[anchord.Lease]{} // given back, or a dead one's
	}
	var err error
	if p.state, _, err = p.config.Decide(seen, anchord.Memory{}); err != nil {
		p.faults = append(p.faults, err.Error())
	}
	p.raise(ctx)
}

func (p *patient) asksDocker() bool { return p.mode != "service-anchor" }

// askDocker connects and looks around as the reconciler does.
func (p *patient) askDocker(ctx context.Context) (self anchord.Self, containers []anchord.Container, err error) {
	if p.docker, err = watch.NewDocker(p.vars.DockerHost, watch.OwnReferences()); err != nil {
		return self, nil, err
	}
	if p.calls, err = exec.NewContainers(p.vars.DockerHost); err != nil {
		return self, nil, err
	}
	p.api = p.calls.APIVersion(ctx)
	if self, err = p.docker.Self(ctx); err != nil {
		return self, nil, err
	}
	identity, err := p.config.Identify(self)
	if err != nil {
		return self, nil, nil //nolint:nilerr // Decide says it
	}
	containers, err = p.docker.Containers(ctx, identity.Scope)
	return self, containers, err
}

// askRunning asks the anchord of this container, if there is one, for its status
// and for what it waits for.
func askRunning(ctx context.Context, runDir string) (w witness) {
	if w.started = runs(runDir); !w.started {
		return w
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	response, err := ask(ctx, runDir, "/status")
	if err != nil {
		w.runErr = err
		return w
	}
	defer response.Body.Close()
	w.running = &statusReport{}
	if response.StatusCode != http.StatusOK {
		w.runErr = errors.New("the anchord that runs here has no status")
	} else {
		w.runErr = json.NewDecoder(response.Body).Decode(w.running)
	}
	return w
}

// raise takes the LAN interface up, if it is not; close undoes it. Where an anchord
// runs, the interface is anchord's, and that it is down is a finding.
func (p *patient) raise(ctx context.Context) {
	iface := p.probed()
	if p.started || iface == "" || !p.can(capNetAdmin) {
		return
	}
	undo, err := p.ip.Raised(ctx, iface)
	if err != nil {
		return
	}
	p.undo = append(p.undo, func() {
		if !runs(p.vars.RunDir) { // one that has started since needs it
			undo()
		}
	})
}

// probed is the interface by which the LAN can be asked: the LAN interface, or
// the parent on which anchord has not made it yet.
func (p *patient) probed() string {
	iface := p.ext()
	if child := p.state.Child; child != nil && !p.has(child.Name) {
		iface = child.Parent
	}
	if !p.has(iface) {
		return ""
	}
	return iface
}

// ext is the LAN interface, as decided or, if Docker cannot be asked, as the
// running anchord has it.
func (p *patient) ext() string {
	if p.state.Ext == "" && p.running != nil {
		return p.running.Interface
	}
	return p.state.Ext
}

func (p *patient) link(iface string) (anchord.Link, bool) {
	i := slices.IndexFunc(p.links, func(l anchord.Link) bool { return l.Name == iface })
	if i < 0 {
		return anchord.Link{}, false
	}
	return p.links[i], true
}

func (p *patient) has(iface string) bool {
	_, has := p.link(iface)
	return has
}

// address is one of our own, of a family, that packets can come from.
func (p *patient) address(iface string, f anchord.Family) netip.Addr {
	link, _ := p.link(iface)
	for _, a := range link.Addrs {
		if anchord.FamilyOf(a.Prefix.Addr()) == f && !a.Tentative && !a.Duplicate {
			return a.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

// askOnce prepares what is asked once, until ctx ends.
func (p *patient) askOnce(ctx context.Context) {
	p.discover = sync.OnceValues(func() (reply, error) { return p.askDHCP(ctx) })
	p.router = sync.OnceValues(func() (anchord.Advert, error) { return p.solicit(ctx) })
	p.askBackends = sync.OnceValue(func() map[netip.Addr]answer { return p.ping(ctx) })
}

// askDHCP asks for an offer.
func (p *patient) askDHCP(ctx context.Context) (reply, error) {
	mac := p.state.ExtMAC
	if link, has := p.link(p.probed()); mac == "" && has {
		mac = link.MAC
	}
	began := time.Now()
	offer, offered, err := exec.Discover(ctx, p.probed(), mac, p.state.Identity.Hostname)
	if !offered {
		offer = exec.Offer{}
	}
	return reply{offer, time.Since(began)}, err
}

// solicit asks the routers of the LAN to introduce themselves.
func (p *patient) solicit(ctx context.Context) (anchord.Advert, error) {
	heard := make(chan struct{}, 1)
	adverts := watch.Adverts{Uptime: uptime, Fire: func(anchord.Source, time.Time) {
		select {
		case heard <- struct{}{}:
		default:
		}
	}}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	listening := make(chan error, 1)
	go func() { listening <- adverts.Follow(ctx) }()
	var err error
	for ctx.Err() == nil && adverts.Adverts()[p.ext()].At == 0 {
		// It fails while the kernel still checks its own address on the link.
		err = p.ip.Solicit(ctx, p.ext())
		select {
		case err := <-listening:
			return anchord.Advert{}, err
		case <-heard:
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	if advert := adverts.Adverts()[p.ext()]; advert.At != 0 {
		return advert, nil
	}
	return anchord.Advert{}, err
}
