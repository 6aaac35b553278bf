package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

// tape notes what Docker tells of containers as it happens: Docker remembers 256
// events for the whole engine, which others can fill at any time.
type tape struct {
	mu   sync.Mutex
	told []events.Message
}

// tape begins one, of events by these names.
func (s *site) tape(names ...string) *tape {
	s.Helper()
	options := events.ListOptions{
		Since:   time.Now().Format(time.RFC3339Nano), // the stream may begin a little later
		Filters: filters.NewArgs(filters.Arg("type", "container")),
	}
	for _, name := range names {
		options.Filters.Add("event", name)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	messages, errs := s.engine.Client().Events(ctx, options)
	t := &tape{}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case m := <-messages:
				t.note(m)
			case err := <-errs:
				if ctx.Err() == nil {
					s.Errorf("docker's events have ended: %v", err)
				}
				return
			}
		}
	})
	s.Cleanup(func() { cancel(); group.Wait() })
	return t
}

func (t *tape) note(m events.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = append(t.told, m)
}

// of is what was told until now of containers whose names begin so.
func (t *tape) of(event, name string) (found []events.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.told {
		if string(m.Action) == event && strings.HasPrefix(m.Actor.Attributes["name"], name) {
			found = append(found, m)
		}
	}
	return found
}

// first waits for the first such event and gives Docker's time of it.
func (t *tape) first(s *site, event, name string) time.Time {
	s.Helper()
	var at time.Time
	s.within(patience, time.Now(), "docker tells of "+event+" of "+name, func(context.Context) error {
		found := t.of(event, name)
		if len(found) == 0 {
			return fmt.Errorf("it does not")
		}
		at = time.Unix(0, found[0].TimeNano)
		return nil
	})
	return at
}

// stop stops a service, which has five seconds from Docker's signal on and has to
// end with 0.
func (p *project) stop(service string) {
	p.Helper()
	t, name := p.tape("kill", "die"), p.container(service)
	p.compose("stop", service)
	if took := running(t.first(p.site, "kill", name), t.first(p.site, "die", name)); took > 5*time.Second {
		p.Errorf("%s took %v to stop, want at most 5 s", service, took)
	}
	if c := p.inspect(service).State; c.ExitCode != 0 {
		p.Errorf("%s ended with %d", service, c.ExitCode)
	}
}

// withoutPoll has services look only when Docker tells them of something: their
// safety net comes as soon as patience ends, and would hide that they do not.
func (p *project) withoutPoll(services ...string) {
	p.Helper()
	text := "services:\n"
	for _, service := range services {
		text += "  " + service + ": {environment: {ANCHORD_POLL_INTERVAL: 1h}}\n"
	}
	p.write("without-poll.yaml", text)
}
