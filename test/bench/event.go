package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sync/errgroup"
)

const (
	restarts  = 100
	burstSize = 30
)

// eventToKernel restarts services one after the other and takes the time from
// Docker's own time of the start to the element in the kernel.
func eventToKernel(ctx context.Context, b *bench) error {
	s, err := b.site(ctx)
	if err != nil {
		return err
	}
	e, err := s.observe(ctx)
	if err != nil {
		return err
	}
	defer e.close()
	before, err := histogram(e.box)
	if err != nil {
		return err
	}
	self, _, err := e.box.anchord()
	if err != nil {
		return err
	}
	forks, err := countForks(self.pid)
	if err != nil {
		return err
	}
	defer forks.stop()
	var latency, delivery, toFork, toExec, toKernel sample
	began := time.Now()
	for i := range restarts {
		n, now, at := i%backends, 0, time.Now()
		if err := s.Client().ContainerRestart(ctx, s.services[n], container.StopOptions{Timeout: &now}); err != nil {
			return err
		}
		start, err := nextStart(ctx, e.starts, fmt.Sprintf("service%d", n))
		if err != nil {
			return err
		}
		took, err := e.latency(ctx, n, start, at)
		if err != nil {
			return err
		}
		latency, delivery = append(latency, took), append(delivery, start.read.Sub(start.at))
		time.Sleep(10 * time.Millisecond) // for the kernel's word of the processes
		if nft, ok := forks.before(self.pid, start.at.Add(took)); ok {
			toFork = append(toFork, nft.forked.Sub(start.at))
			toExec = append(toExec, nft.exec.Sub(nft.forked))
			toKernel = append(toKernel, start.at.Add(took).Sub(nft.exec))
		}
	}
	progress("  %d restarts took %v", restarts, time.Since(began).Round(time.Second))
	b.table.add(fmt.Sprintf("Docker's start event to the kernel, %d services", backends), "p50 <= 8 ms, p99 <= 25 ms",
		latency.String(), verdictOf(latency.p50() <= 8*time.Millisecond && latency.p99() <= 25*time.Millisecond))
	b.table.detail("of it until anchord forks nft", toFork.String())
	b.table.detail("of it until nft runs", toExec.String())
	b.table.detail("of it until the element is in the kernel", toKernel.String())
	b.table.detail("for comparison: until Docker has told the bench of the event", delivery.String())
	for _, l := range []struct {
		what   string
		filter filters.KeyValuePair
	}{
		{"for comparison: one listing, as anchord asks for it", filters.Arg("label", "com.docker.compose.project="+project)},
		{"for comparison: one listing of only one container", filters.Arg("id", s.services[0])},
	} {
		took, err := s.listTime(ctx, l.filter)
		if err != nil {
			return err
		}
		b.table.detail(l.what, took.String())
	}
	return e.own(b, before)
}

// burst starts many services at once.
func burst(ctx context.Context, b *bench) error {
	s, err := b.site(ctx)
	if err != nil {
		return err
	}
	now := 0
	err = s.each(burstSize, func(id string) error {
		return s.Client().ContainerStop(ctx, id, container.StopOptions{Timeout: &now})
	})
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	e, err := s.observe(ctx)
	if err != nil {
		return err
	}
	defer e.close()
	before, err := histogram(e.box)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.each(burstSize, func(id string) error { return s.Client().ContainerStart(ctx, id, container.StartOptions{}) }); err != nil {
		return err
	}
	all := time.Since(began)
	var latency sample
	for range burstSize {
		var start started
		select {
		case start = <-e.starts:
		case <-time.After(10 * time.Second):
			return fmt.Errorf("docker told of only %d starts", len(latency))
		}
		var n int
		if _, err := fmt.Sscanf(start.service, "service%d", &n); err != nil {
			return err
		}
		took, err := e.latency(ctx, n, start, began)
		if err != nil {
			return err
		}
		latency = append(latency, took)
	}
	b.table.add(fmt.Sprintf("%d services started at once, each from its own event", burstSize), "max <= 100 ms",
		latency.short(), verdictOf(latency.max() <= 100*time.Millisecond))
	b.table.detail("Docker took for the starts", ms(all))
	return e.own(b, before)
}

// each does the same to the first so many services at once.
func (s *site) each(count int, do func(id string) error) error {
	var group errgroup.Group
	for _, id := range s.services[:count] {
		group.Go(func() error { return do(id) })
	}
	return group.Wait()
}

// eyes look at both ends: Docker's events and the kernel's.
type eyes struct {
	box    *space
	rules  *monitor
	starts <-chan started
	stop   context.CancelFunc
	once   sync.Once
}

func (s *site) observe(ctx context.Context) (*eyes, error) {
	box, err := s.enter(ctx, "anchord")
	if err != nil {
		return nil, err
	}
	rules, err := box.monitor()
	if err != nil {
		box.close()
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	return &eyes{box: box, rules: rules, starts: s.starts(ctx), stop: stop}, nil
}

func (e *eyes) close() {
	e.once.Do(func() {
		e.stop()
		e.rules.stop()
		e.box.close()
	})
}

// latency waits for the element of service n that was added after began.
func (e *eyes) latency(ctx context.Context, n int, start started, began time.Time) (time.Duration, error) {
	var at time.Time
	err := wait(ctx, 5*time.Second, time.Millisecond, fmt.Sprintf("service %d in the kernel", n), func() (ok bool, err error) {
		at, ok = e.rules.since(publicPort+n, began)
		return ok, nil
	})
	return at.Sub(start.at), err
}

// own shows what anchord has measured of itself meanwhile.
func (e *eyes) own(b *bench, before map[string]int) error {
	after, err := histogram(e.box)
	if err == nil {
		b.table.detail("anchord's own event_to_ruleset_seconds", grown(before, after))
	}
	return err
}

// listTime is how long Docker takes for a list.
func (s *site) listTime(ctx context.Context, filter filters.KeyValuePair) (sample, error) {
	var took sample
	for range 50 {
		began := time.Now()
		if _, err := s.Client().ContainerList(ctx, container.ListOptions{Filters: filters.NewArgs(filter)}); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}
