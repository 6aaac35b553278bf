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
	state     anchord.State // as anchord would decide, or has decided

	links   []anchord.Link
	routes  anchord.PerFamily[[]anchord.Route]
	linkErr error

	started   bool // an anchord runs in this container, or did
	running   *statusReport
	runErr    error
	asked     sync.Once
	offer     exec.Offer
	offered   bool
	offerErr  error
	heard     sync.Once
	advert    anchord.Advert
	advertErr error
	pinged    sync.Once
	answers   map[netip.Addr]answer
	undo      []func()
}

// patient reads the configuration.
func (c *examineCmd) patient() *patient {
	p := &patient{vars: c, mode: c.Mode}
	bad := &configError{}
	c.commonVars.check(bad)
	switch c.Mode {
	case "network-anchor":
		var more []string
		p.config, _, p.warnings = c.networkVars.config(bad)
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

// look asks the kernel, Docker and the running anchord at the same time, and then
// decides as anchord would.
func (p *patient) look(ctx context.Context) {
	p.caps, _ = watch.Capabilities() // none are missed by nobody but the check
	var wg sync.WaitGroup
	var seen anchord.Observation
	wg.Go(func() {
		p.links, p.linkErr = p.ip.Links(ctx)
		if p.linkErr == nil {
			p.routes, p.linkErr = p.ip.Routes(ctx)
		}
	})
	wg.Go(func() { p.askRunning(ctx) })
	if p.asksDocker() {
		wg.Go(func() { seen.Self, seen.Containers, p.dockerErr = p.askDocker(ctx) })
	}
	wg.Wait()
	p.self = seen.Self
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

func (p *patient) isRunning() bool { return p.started && p.runErr == nil }

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
func (p *patient) askRunning(ctx context.Context) {
	if p.started = runs(p.vars.RunDir); !p.started {
		return
	}
	response, err := ask(ctx, p.vars.RunDir, "/status")
	if err != nil {
		p.runErr = err
		return
	}
	defer response.Body.Close()
	var report statusReport
	if response.StatusCode != http.StatusOK {
		p.runErr = errors.New("the anchord that runs here has no status")
	} else if err := json.NewDecoder(response.Body).Decode(&report); err != nil {
		p.runErr = err
	}
	p.running = &report
}

// raise takes the LAN interface up, if it is not; close undoes it.
func (p *patient) raise(ctx context.Context) {
	iface := p.probed()
	if iface == "" || !p.can(capNetAdmin) {
		return
	}
	if undo, err := p.ip.Raised(ctx, iface); err == nil {
		p.undo = append(p.undo, undo)
	}
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

// discover asks for an offer once, for all checks that are interested.
func (p *patient) discover(ctx context.Context) (exec.Offer, bool, error) {
	p.asked.Do(func() {
		mac := p.state.ExtMAC
		if link, has := p.link(p.probed()); mac == "" && has {
			mac = link.MAC
		}
		p.offer, p.offered, p.offerErr = exec.Discover(ctx, p.probed(), mac, p.state.Identity.Hostname)
	})
	return p.offer, p.offered, p.offerErr
}

// router asks the routers of the LAN to introduce themselves, once.
func (p *patient) router(ctx context.Context) (anchord.Advert, error) {
	p.heard.Do(func() {
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
		for ctx.Err() == nil && adverts.Adverts()[p.ext()].At == 0 {
			// It fails while the kernel still checks its own address on the link.
			p.advertErr = p.ip.Solicit(ctx, p.ext())
			select {
			case p.advertErr = <-listening:
				return
			case <-heard:
			case <-time.After(300 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		if p.advert = adverts.Adverts()[p.ext()]; p.advert.At != 0 {
			p.advertErr = nil
		}
	})
	return p.advert, p.advertErr
}
