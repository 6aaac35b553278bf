package watch

import (
	"slices"
	"sync"

	"github.com/docker/docker/api/types/events"

	"github.com/AlexCherrypi/anchord"
)

// listing keeps the last listing of containers and what moved since, so that
// the start of a container needs a request for that one only.
type listing struct {
	mu      sync.Mutex
	scope   anchord.Scope
	last    []anchord.Container
	whole   bool     // last holds, but for those that started since
	started []string // ids of containers that started since
	voided  bool     // something else moved since begin
}

// mayList says whether a container with these labels can be in the listing.
func (l *listing) mayList(labels map[string]string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.scope.Labels) == 0 || l.scope.Matches(labels) || l.scope.MayHelp(labels)
}

// note takes an event in: anything but a start makes the last listing void.
func (l *listing) note(m events.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Type == events.ContainerEventType && m.Action == events.ActionStart {
		l.started = append(l.started, m.Actor.ID)
		return
	}
	if m.Type == events.ContainerEventType {
		l.whole, l.voided = false, true
	}
}

// void makes the next listing ask for all: what moved is not known.
func (l *listing) void() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole, l.voided = false, true
}

// begin returns the only containers to ask for, or none to ask for all. Until
// end is told the answer, the last listing is void.
func (l *listing) begin(scope anchord.Scope) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	started := l.started
	if !l.whole || !l.scope.Equal(scope) {
		started = nil
	}
	l.scope, l.started, l.whole, l.voided = scope, nil, false, false
	return started
}

// end takes the answer in and returns the listing that follows from it.
func (l *listing) end(started []string, answer []anchord.Container) []anchord.Container {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(started) > 0 {
		rest := slices.DeleteFunc(slices.Clone(l.last), func(c anchord.Container) bool { return slices.Contains(started, c.ID) })
		answer = append(rest, answer...)
	}
	l.last, l.whole = answer, !l.voided
	return answer
}
