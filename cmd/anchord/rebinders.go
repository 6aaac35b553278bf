package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/watch"
)

// rebindVars are read by both modes that only change other containers.
type rebindVars struct {
	dockerVars
	PollInterval string `env:"ANCHORD_POLL_INTERVAL" default:"30s" help:"Look at everything this often, though nothing moved."`
}

type wrapRebinderCmd struct {
	commonVars
	rebindVars
}

type externalRebinderCmd struct {
	commonVars
	rebindVars
	externalRebinderVars
}

// externalRebinderVars are the external-rebinder's own.
type externalRebinderVars struct {
	Network string `env:"ANCHORD_FOLLOW_NETWORK" help:"Name of the other project's network. Required."`
	Target  string `env:"ANCHORD_FOLLOW_TARGET" help:"The container that is kept on it: a service of this Compose project, or a container's name. Required."`
	Restart string `env:"ANCHORD_FOLLOW_RESTART" default:"false" help:"Restart that container whenever it was attached again."`
}

func (c *wrapRebinderCmd) Run(ctx context.Context, stdout io.Writer, strays strayVars) error {
	log := newLogger(stdout, c.level())
	bad := &configError{}
	c.commonVars.check(bad)
	interval := c.rebindVars.check(bad)
	if err := log.start("wrap-rebinder", bad, strays); err != nil {
		return err
	}
	r := newRebinder("wrap-rebinder", log)
	r.metrics = newWrapMetrics(r.registry)
	return r.run(ctx, c.commonVars, c.rebindVars, func(docker *watch.Docker, containers *exec.Containers) func(context.Context) {
		return (&anchord.Repairer{
			Config: anchord.RepairConfig{Rebind: true, Interval: interval},
			Self:   docker.Self, Members: docker, Containers: containers, Reporter: r, Trigger: r.trigger,
		}).Run
	})
}

func (c *externalRebinderCmd) Run(ctx context.Context, stdout io.Writer, strays strayVars) error {
	log := newLogger(stdout, c.level())
	bad := &configError{}
	c.commonVars.check(bad)
	interval := c.rebindVars.check(bad)
	restart := c.externalRebinderVars.check(bad)
	if err := log.start("external-rebinder", bad, strays); err != nil {
		return err
	}
	r := newRebinder("external-rebinder", log)
	r.target, r.network = c.Target, c.Network
	r.metrics = newExternalMetrics(r.registry)
	return r.run(ctx, c.commonVars, c.rebindVars, func(docker *watch.Docker, containers *exec.Containers) func(context.Context) {
		return (&anchord.Rebinder{
			Network: c.Network, Target: c.Target, Restart: restart, Interval: interval,
			Self: docker.Self, Networks: docker, Connections: containers, Reporter: r, Trigger: r.trigger,
		}).Run
	})
}

// check also reads whether the container is restarted.
func (v externalRebinderVars) check(e *configError) bool {
	if v.Network == "" {
		e.bad("ANCHORD_FOLLOW_NETWORK", "", errors.New("is required: the name of the network, as docker network ls shows it"))
	}
	if v.Target == "" {
		e.bad("ANCHORD_FOLLOW_TARGET", "", errors.New("is required: the name of a service of this project, or of a container"))
	}
	return boolean(e, "ANCHORD_FOLLOW_RESTART", v.Restart)
}

func (v rebindVars) check(e *configError) time.Duration {
	checkDockerHost(e, v.DockerHost)
	return interval(e, "ANCHORD_POLL_INTERVAL", v.PollInterval)
}

// rebinder is the wiring of both modes.
type rebinder struct {
	mode            string
	target, network string // of the external-rebinder
	log             logger
	trigger         *anchord.Trigger
	registry        registry
	metrics         rebindMetrics

	mu   sync.Mutex
	err  error
	seen bool
	last *doneStatus
}

func newRebinder(mode string, log logger) *rebinder {
	r := &rebinder{mode: mode, log: log, trigger: anchord.NewTrigger()}
	r.registry = newRegistry(r.unmet)
	return r
}

// run follows Docker's events with the loop that start gives, until ctx ends.
// Nothing is undone then: what was put right stays so.
func (r *rebinder) run(ctx context.Context, common commonVars, v rebindVars, start func(*watch.Docker, *exec.Containers) func(context.Context)) error {
	stopped := func(err error) error {
		r.log.Event(anchord.Error, anchord.EventStopped, err.Error(), nil)
		return errLogged
	}
	if err := takeRunDir(common.RunDir); err != nil {
		return stopped(err)
	}
	docker, err := watch.NewDocker(v.DockerHost, watch.OwnReferences())
	if err != nil {
		return stopped(err)
	}
	defer func() { _ = docker.Close() }()
	if err := docker.Check(ctx); err != nil {
		r.log.Event(anchord.Error, anchord.EventConfigInvalid, err.Error(), nil)
		return &configError{faults: []string{err.Error()}, logged: true}
	}
	containers, err := exec.NewContainers(v.DockerHost)
	if err != nil {
		return stopped(err)
	}
	defer func() { _ = containers.Close() }()
	serving, stop := context.WithCancel(context.Background())
	defer stop()
	server{registry: r.registry, unmet: r.unmet, status: func(context.Context) any { return r.status() }}.serve(serving, common.RunDir, common.MetricsAddr, r.log)
	var wg sync.WaitGroup
	wg.Go(func() {
		docker.Follow(ctx, func(s anchord.Source, at time.Time) {
			if s&anchord.SourceEngine != 0 {
				r.trigger.Fire(s, at)
			}
		}, r.subscribed)
	})
	wg.Go(func() { start(docker, containers)(ctx) })
	wg.Wait()
	r.log.Event(anchord.Info, anchord.EventStopped, "stopped; what was put right stays so", nil)
	return nil
}

// subscribed is told of each try to follow Docker's events; changes are logged.
func (r *rebinder) subscribed(err error) {
	r.mu.Lock()
	changed := !r.seen || (err == nil) != (r.err == nil)
	r.seen, r.err = true, err
	r.mu.Unlock()
	r.metrics.docker.Set(truth(err == nil))
	switch {
	case changed && err != nil:
		r.log.Event(anchord.Error, anchord.EventDockerLost, "docker cannot be asked: nothing is put right until it can", anchord.Fields{"error": err.Error()})
	case changed:
		r.log.Event(anchord.Info, anchord.EventDockerConnected, "docker can be asked", nil)
	}
}

func (r *rebinder) Event(level anchord.Level, event, message string, fields anchord.Fields) {
	r.log.Event(level, event, message, fields)
	r.mu.Lock()
	r.last = &doneStatus{At: time.Now(), Event: event, Message: message}
	r.mu.Unlock()
}

// Dead is of the wrap-rebinder.
func (r *rebinder) Dead(notices []anchord.Notice) { r.metrics.dead.Set(float64(len(notices))) }

// unmet: ready while Docker can be asked.
func (r *rebinder) unmet() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.seen:
		return []string{"docker was not asked yet"}
	case r.err != nil:
		return []string{"docker cannot be asked: " + r.err.Error()}
	}
	return nil
}
