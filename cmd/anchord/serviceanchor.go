package main

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/watch"
)

type serviceAnchorCmd struct {
	commonVars
	followVars
}

func (c *serviceAnchorCmd) Run(ctx context.Context, stdout io.Writer, strays strayVars) error {
	log := newLogger(stdout, c.level())
	bad := &configError{}
	c.check(bad)
	follower, warnings := c.config(bad)
	if err := log.start("service-anchor", bad, append(warnings, strays...)); err != nil {
		return err
	}
	if err := takeRunDir(c.RunDir); err != nil {
		log.Event(anchord.Error, anchord.EventStopped, err.Error(), nil)
		return errLogged
	}
	boot, err := bootID()
	if err != nil {
		log.Event(anchord.Error, anchord.EventStopped, err.Error(), nil)
		return errLogged
	}
	s := &serviceAnchor{vars: c, log: log, follower: &follower}
	registry := newRegistry(s.unmet)
	s.metrics = newFollowMetrics(registry)
	follower.Resolver, follower.Kernel, follower.Routes = watch.DNS{}, exec.IP{}, exec.IP{}
	follower.Trigger, follower.Reporter = anchord.NewTrigger(), s
	follower.Original, follower.Names = &exec.Originals{Dir: c.RunDir, Boot: boot}, exec.ResolvConf{Path: "/etc/resolv.conf"}
	serving, stop := context.WithCancel(context.Background())
	defer stop()
	server{registry: registry, unmet: s.unmet, status: func(ctx context.Context) any { return s.status(ctx) }}.serve(serving, c.RunDir, c.MetricsAddr, log)
	return s.run(ctx)
}

// serviceAnchor is the wiring of the service-anchor mode.
type serviceAnchor struct {
	vars     *serviceAnchorCmd
	log      logger
	metrics  *followMetrics
	follower *anchord.Follower

	mu      sync.Mutex
	last    anchord.FollowOutcome
	changed time.Time // last time that a route was set
}

func (s *serviceAnchor) run(ctx context.Context) error {
	gateway := &watch.Gateway{Fire: s.follower.Trigger.Fire}
	monitor := &exec.Child{
		Args: []string{"ip", "monitor", "label", "address", "route", "neigh"},
		Line: gateway.Line, Listens: true,
		Started: func() { s.follower.Trigger.Fire(anchord.SourceKernel, time.Time{}) },
	}
	monitor.Exited = childExited(s.log, monitor)
	var wg sync.WaitGroup
	wg.Go(func() { monitor.Run(ctx) })
	wg.Go(func() { s.followAnnouncements(ctx) })
	s.follower.Run(ctx)
	wg.Wait()
	s.log.Event(anchord.Info, anchord.EventStopping, "anchord stops", nil)
	stopping, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := s.follower.Stop(stopping); err != nil {
		s.log.Event(anchord.Error, anchord.EventStopped, err.Error(), nil)
		return errLogged
	}
	s.log.Event(anchord.Info, anchord.EventStopped, "stopped; its default route and name server are gone, and what it found at its start is back", nil)
	return nil
}

// followAnnouncements is a shortcut: without it, names are looked up on the
// interval.
func (s *serviceAnchor) followAnnouncements(ctx context.Context) {
	if err := (watch.Announcements{Fire: s.follower.Trigger.Fire}).Follow(ctx); err != nil {
		s.log.Event(anchord.Warn, anchord.EventAnnouncementsUnheard, "a network-anchor that comes back with another address is noticed on the interval only (add cap_add: [NET_RAW]): "+err.Error(), nil)
	}
}

func (s *serviceAnchor) Event(level anchord.Level, event, message string, fields anchord.Fields) {
	s.log.Event(level, event, message, fields)
}

func (s *serviceAnchor) Followed(o anchord.FollowOutcome) {
	s.metrics.followed(o)
	s.mu.Lock()
	s.last = o
	if o.Replaced[anchord.V4] || o.Replaced[anchord.V6] {
		s.changed = time.Now()
	}
	s.mu.Unlock()
}

func (s *serviceAnchor) unmet() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.Present[anchord.V4] || s.last.Present[anchord.V6] {
		return nil
	}
	unmet := []string{"no default route leads to the network-anchor yet"}
	if s.last.Err != nil {
		unmet = append(unmet, s.last.Err.Error())
	}
	return unmet
}
