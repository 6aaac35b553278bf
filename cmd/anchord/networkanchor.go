package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/templates"
	"github.com/AlexCherrypi/anchord/watch"
)

type networkAnchorCmd struct {
	commonVars
	networkVars
	repairVars
}

// dhcpHook is part of the image.
const dhcpHook = "/usr/share/anchord/dhcp.script"

func (c *networkAnchorCmd) Run(ctx context.Context, stdout io.Writer, strays strayVars) error {
	log := newLogger(stdout, c.level())
	bad := &configError{}
	c.check(bad)
	config, backoffMax, warnings := c.networkVars.config(bad)
	config.MetricsPort = c.metricsPort()
	repairs, more := c.repairVars.config(bad)
	warnings = append(warnings, more...)
	if err := log.start("network-anchor", bad, append(warnings, strays...)); err != nil {
		return err
	}
	n, err := newNetworkAnchor(c, config, repairs, backoffMax, log)
	if err != nil {
		log.Event(anchord.Error, anchord.EventStopped, err.Error(), nil)
		return errLogged
	}
	return n.run(ctx)
}

// networkAnchor is the wiring: watchers fire the trigger, the reconciler
// decides, exec does.
type networkAnchor struct {
	vars       *networkAnchorCmd
	log        logger
	docker     *watch.Docker
	containers *exec.Containers
	nft        *exec.NFT
	reconciler *anchord.Reconciler
	repairer   *anchord.Repairer
	trigger    *anchord.Trigger
	metrics    *networkMetrics
	server     server
	leases     watch.LeaseDir
	adverts    *watch.Adverts
	templates  *watch.TemplateDir
	standing   chan struct{} // closed once the ruleset is in the kernel
	stands     func()        // closes it

	mu         sync.Mutex
	last       anchord.Outcome
	changed    time.Time // last time that the ruleset changed
	looked     time.Time // last time that everything was looked at
	dockerErr  error
	dockerSeen bool // it was reported whether Docker answers
	eventsErr  error
	eventsTold bool
	ready      bool
	dead       []anchord.Notice
	asking     anchord.PerFamily[asking]
}

// asking is how a family's DHCP client has fared since it had a lease last.
type asking struct {
	since    time.Time // zero: no client was started
	failures int
	last     problemStatus // what was told of the last failure
}

func newNetworkAnchor(c *networkAnchorCmd, config anchord.Config, repairs anchord.RepairConfig, backoffMax time.Duration, log logger) (*networkAnchor, error) {
	if err := takeRunDir(c.RunDir); err != nil {
		return nil, err
	}
	leaseDir := exec.LeaseDir(c.RunDir)
	if err := os.MkdirAll(leaseDir, 0o700); err != nil {
		return nil, fmt.Errorf("ANCHORD_RUN_DIR: %w", err)
	}
	bootID, err := bootID()
	if err != nil {
		return nil, err
	}
	docker, err := watch.NewDocker(c.DockerHost, watch.OwnReferences())
	if err != nil {
		return nil, err
	}
	containers, err := exec.NewContainers(c.DockerHost)
	if err != nil {
		return nil, err
	}
	renderer, err := templates.New()
	if err != nil {
		return nil, err
	}
	n := &networkAnchor{
		vars: c, log: log, docker: docker, containers: containers, nft: &exec.NFT{},
		trigger: anchord.NewTrigger(), leases: watch.LeaseDir{Path: leaseDir},
		templates: &watch.TemplateDir{Path: c.TemplateDir}, standing: make(chan struct{}),
	}
	n.stands = sync.OnceFunc(func() { close(n.standing) })
	registry := newRegistry(n.unmet)
	n.metrics = newNetworkMetrics(registry, uptime, bootID)
	n.adverts = &watch.Adverts{Uptime: uptime, Fire: n.trigger.Fire}
	n.server = server{registry: registry, unmet: n.unmet, status: func(ctx context.Context) any { return n.status(ctx) }}
	ip := exec.IP{}
	n.reconciler = &anchord.Reconciler{
		Config: config, Docker: docker, Kernel: ip, Addresses: ip, Routes: ip, Neighbours: ip,
		Flows: exec.Conntrack{}, Renderer: renderer, Overrides: n.templates, Tables: n.nft, Leases: n.leases,
		Adverts: n.adverts, Names: docker,
		DHCP: &exec.DHCP{
			Hook: dhcpHook, LeaseDir: leaseDir, Boot: bootID, BackoffMax: backoffMax, Observe: n.Event,
			Ended: func(f anchord.Family) { n.noted(n.leases.MarkReleased(f, uptime(), bootID)) },
			Lost:  func(f anchord.Family) { n.noted(n.leases.MarkLost(f, uptime(), bootID)) },
		},
		Reporter: n, Boot: bootID, Uptime: uptime, Forwards: watch.Forwards, Trigger: n.trigger,
	}
	repairs.Interval = config.PollInterval
	n.repairer = &anchord.Repairer{
		Config: repairs, Identify: config.Identify, Self: docker.Self, Gateways: n.gateways,
		Members: docker, Containers: containers, Reporter: n, Trigger: anchord.NewTrigger(),
	}
	return n, nil
}

// gateways are the addresses that the project's containers reach anchord at.
func (n *networkAnchor) gateways() anchord.PerFamily[netip.Addr] {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last.State.Inside
}

// fire hands what Docker tells to the loops that it concerns.
func (n *networkAnchor) fire(s anchord.Source, at time.Time) {
	if s&anchord.SourceEngine != 0 {
		n.repairer.Trigger.Fire(s, at)
	}
	if rest := s &^ anchord.SourceEngine; rest != 0 {
		n.trigger.Fire(rest, at)
	}
}

// Dead is told which containers of the project have no network.
func (n *networkAnchor) Dead(notices []anchord.Notice) {
	n.metrics.dead.Set(float64(len(notices)))
	n.mu.Lock()
	n.dead = notices
	n.mu.Unlock()
}

// bootID is another one after each boot (random(4)).
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot's id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

// uptime is the time since boot, suspended time included (clock_gettime(2)),
// which is what /proc/uptime shows too.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // cannot fail on any kernel that has nftables
	}
	return time.Duration(t.Nano())
}

// run works until ctx ends, then undoes everything.
func (n *networkAnchor) run(ctx context.Context) error {
	serving, stopServing := context.WithCancel(context.Background())
	defer stopServing()
	n.server.serve(serving, n.vars.RunDir, n.vars.MetricsAddr, n.log)

	group, working := errgroup.WithContext(ctx)
	monitors, stopMonitors := context.WithCancel(working)
	defer stopMonitors()
	n.watch(monitors, group)
	group.Go(func() error {
		if err := n.reconciler.Run(working); err != nil {
			return err
		}
		return ctx.Err()
	})
	err := group.Wait()
	if other := (*anchord.NotDockerError)(nil); errors.Is(err, anchord.ErrNoProject) || errors.As(err, &other) {
		n.log.Event(anchord.Error, anchord.EventConfigInvalid, err.Error(), nil)
		_ = n.stop()
		return &configError{faults: []string{err.Error()}, logged: true}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		n.log.Event(anchord.Error, anchord.EventReconcileFailed, err.Error(), nil)
		_ = n.stop()
		return errLogged
	}
	return n.stop()
}

// watch starts everything that fires the trigger.
func (n *networkAnchor) watch(ctx context.Context, group *errgroup.Group) {
	kernel := func() { n.trigger.Fire(anchord.SourceKernel, time.Time{}) }
	n.monitor(ctx, group, &exec.Child{
		Args: []string{"ip", "monitor", "link", "address", "route"}, Line: func(string) { kernel() }, Started: kernel, Listens: true,
	}, nil)
	rules := &watch.Ruleset{Fire: n.trigger.Fire}
	// It reads which tables there are before it listens, and is blind to those
	// made in between; so the tables come first. Whether they still stand when it
	// listens, a look tells; when it is started again, it may have missed anything.
	unseen := anchord.SourcePoll
	n.monitor(ctx, group, &exec.Child{
		Args: []string{"nft", "monitor"}, Line: rules.Line, Listens: true, Started: func() {
			rules.Began()
			n.trigger.Fire(unseen, time.Time{})
			unseen = anchord.SourceDoubt
		},
	}, n.standing)
	group.Go(func() error { n.followLeases(ctx); return nil })
	group.Go(func() error { n.followRouters(ctx); return nil })
	group.Go(func() error { n.templates.Follow(ctx, n.trigger.Fire); return nil })
	group.Go(func() error {
		n.docker.Follow(ctx, n.fire, n.dockerSubscribed)
		return nil
	})
	group.Go(func() error { n.docker.FollowNames(ctx, n.trigger.Fire); return nil })
	group.Go(func() error { n.repairer.Run(ctx); return nil })
}

// monitor keeps a child running that tells of changes, from when it may begin.
func (n *networkAnchor) monitor(ctx context.Context, group *errgroup.Group, child *exec.Child, begin <-chan struct{}) {
	child.Exited = childExited(n.log, child)
	group.Go(func() error {
		if begin != nil {
			select {
			case <-begin:
			case <-ctx.Done():
				return nil
			}
		}
		child.Run(ctx)
		return nil
	})
}

// followLeases looks every second where the directory cannot be watched.
func (n *networkAnchor) followLeases(ctx context.Context) {
	err := n.leases.Follow(ctx, n.trigger.Fire)
	if err == nil {
		return
	}
	n.log.Event(anchord.Warn, anchord.EventLeaseWatchFailed, "lease files are looked at every second instead of at once: "+err.Error(), nil)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.trigger.Fire(anchord.SourceLease, time.Time{})
		}
	}
}

// followRouters listens again after a minute if it cannot; without it, what
// the kernel makes of router advertisements works all the same.
func (n *networkAnchor) followRouters(ctx context.Context) {
	told := false
	for {
		err := n.adverts.Follow(ctx)
		if err != nil && !told {
			told = true
			n.log.Event(anchord.Warn, anchord.EventRoutersUnheard, "what routers advertise is not heard, so no DHCPv6 server is asked (add cap_add: [NET_RAW]): "+err.Error(), nil)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Minute):
		}
	}
}

// noted tells that what became of a lease could not be written down.
func (n *networkAnchor) noted(err error) {
	if err != nil {
		n.log.Event(anchord.Error, anchord.EventDHCPHookFailed, "what became of a lease cannot be written down (is ANCHORD_RUN_DIR writable, and not full?): "+err.Error(), nil)
	}
}

// childExited tells the first of a row of ends of a child, with what it said
// last.
func childExited(log logger, child *exec.Child) func(error, time.Duration) {
	last, told := "", map[string]bool{}
	line := child.Line
	child.Line = func(text string) { last = text; line(text) }
	return func(err error, again time.Duration) {
		message := err.Error() + ": " + last
		if told[message] {
			return
		}
		told[message] = true
		log.Event(anchord.Warn, anchord.EventChildExited, "a monitor ended; it is started again, from now on without a word", anchord.Fields{"error": err.Error(), "said": last, "again_in_s": again.Round(time.Second).Seconds()})
	}
}

func (n *networkAnchor) stop() error {
	n.log.Event(anchord.Info, anchord.EventStopping, "anchord stops", nil)
	err := n.reconciler.Stop(context.Background())
	_ = n.docker.Close()
	_ = n.containers.Close()
	if err != nil {
		n.log.Event(anchord.Error, anchord.EventStopped, "stopped, but not everything could be undone", anchord.Fields{"error": err.Error()})
		return errLogged
	}
	n.log.Event(anchord.Info, anchord.EventStopped, "stopped; everything is undone", nil)
	return nil
}

// Event logs, and counts what only the DHCP client tells.
func (n *networkAnchor) Event(level anchord.Level, event, message string, fields anchord.Fields) {
	n.log.Event(level, event, message, fields)
	family, _ := fields["family"].(string)
	switch event {
	case anchord.EventDHCPBound:
		n.metrics.acquired.WithLabelValues(family, "ok").Inc()
	case anchord.EventDHCPFailed:
		n.metrics.acquired.WithLabelValues(family, "error").Inc()
		n.metrics.clientRestarts.WithLabelValues(family).Inc()
	}
	n.asks(family, event, message)
}

// asks notes how the DHCP clients fare, for the status. That one has a lease is
// noted with the outcome in which it is used.
func (n *networkAnchor) asks(family, event, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range anchord.Families {
		a := &n.asking[f]
		switch {
		case f.String() != family:
		case event == anchord.EventDHCPLost:
			*a = asking{since: time.Now()}
		case event == anchord.EventDHCPStarted && a.since.IsZero():
			a.since = time.Now() // the client may be started again and again
		case event == anchord.EventDHCPFailed, event == anchord.EventDHCPDeclined, event == anchord.EventDHCPRefused:
			a.failures++
			a.last = problemStatus{Event: event, Message: message}
		}
	}
}

// leased ends the asking of the families that have a lease. n.mu is held.
func (n *networkAnchor) leased(leases anchord.PerFamily[anchord.Lease]) {
	for _, f := range anchord.Families {
		if leases[f].Address.IsValid() {
			n.asking[f] = asking{}
		}
	}
}

// Reconciled records an outcome for metrics, health and status.
func (n *networkAnchor) Reconciled(o anchord.Outcome) {
	n.metrics.reconciled(o)
	if o.Source&(anchord.SourceContainers|anchord.SourceSelf) != 0 {
		n.dockerAsked(o.DockerErr)
	}
	n.mu.Lock()
	if o.Applied && o.ApplyErr == nil {
		n.changed = o.AppliedAt
	}
	if o.Source&anchord.SourceAll == anchord.SourceAll {
		n.looked = time.Now()
	}
	moved := n.last.State.Inside != o.State.Inside
	n.last = o
	n.leased(o.State.Leases)
	becameReady := !n.ready && o.Settled
	n.ready = n.ready || o.Settled
	n.mu.Unlock()
	if o.RulesetIn {
		n.stands()
	}
	if moved {
		n.repairer.Trigger.Fire(anchord.SourceEngine, time.Time{})
	}
	if becameReady {
		n.log.Event(anchord.Info, anchord.EventReady, "the project is connected", anchord.Fields{"iface": o.State.Ext, "entries": len(o.State.Entries), "network": o.State.Shared})
	}
}

// dockerAsked is told whether Docker could be asked; changes are logged. That
// events cannot be followed is told only where the rest works.
func (n *networkAnchor) dockerAsked(err error) {
	n.mu.Lock()
	changed := !n.dockerSeen || (err == nil) != (n.dockerErr == nil)
	if err == nil && n.dockerErr != nil {
		n.eventsErr = nil // the outage's, until the next try says otherwise
	}
	n.dockerSeen, n.dockerErr = true, err
	eventsErr := n.eventsErr
	tellEvents := err == nil && eventsErr != nil && !n.eventsTold
	n.eventsTold = n.eventsTold || tellEvents
	n.mu.Unlock()
	n.metrics.docker.Set(truth(err == nil))
	switch {
	case changed && err != nil:
		n.log.Event(anchord.Error, anchord.EventDockerLost, "docker cannot be asked: what is exposed stays as it is, and changes are not seen until it can", anchord.Fields{"error": err.Error()})
	case changed:
		n.log.Event(anchord.Info, anchord.EventDockerConnected, "docker can be asked", nil)
	}
	if tellEvents {
		n.log.Event(anchord.Error, anchord.EventDockerEventsLost, "docker's events cannot be followed: changes are seen only on the poll", anchord.Fields{"error": eventsErr.Error(), "poll_s": n.reconciler.Config.PollInterval.Seconds()})
	}
}

// dockerSubscribed is told of each try to follow Docker's events.
func (n *networkAnchor) dockerSubscribed(err error) {
	n.mu.Lock()
	again := err == nil && n.eventsTold
	n.eventsErr, n.eventsTold = err, n.eventsTold && err != nil
	n.mu.Unlock()
	if again {
		n.log.Event(anchord.Info, anchord.EventDockerConnected, "docker's events are followed again", nil)
	}
}

// unmet lists the conditions that readiness still waits for.
func (n *networkAnchor) unmet() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ready && n.last.RulesetIn {
		return nil
	}
	var unmet []string
	if !n.last.RulesetIn {
		unmet = append(unmet, "the ruleset is not in the kernel")
	}
	if n.dockerErr != nil {
		unmet = append(unmet, "docker cannot be asked: "+n.dockerErr.Error())
	}
	if n.last.State.Ext == "" {
		unmet = append(unmet, "the LAN interface is not known")
	}
	for _, notice := range n.last.State.Notices {
		if notice.Level == anchord.Error {
			unmet = append(unmet, notice.Message)
		}
	}
	if n.last.Err != nil {
		unmet = append(unmet, strings.ReplaceAll(n.last.Err.Error(), "\n", "; "))
	}
	return unmet
}
