package anchord

import (
	"sync"
	"time"
)

// Source says what somebody saw move. It carries no truth, only where to look
// again; several are joined with |.
type Source uint16

const (
	SourceContainers Source = 1 << iota // Docker's containers
	SourceSelf                          // the networks that anchord is on
	SourceKernel                        // interfaces, addresses, routes
	SourceLease                         // the lease file
	SourceRuleset                       // somebody else changed anchord's tables
	SourcePoll                          // nobody saw anything move; look all the same, at the tables too
	SourceEngine                        // any container or network of the engine
	SourceTemplates                     // the operator's templates
	SourceNaming                        // the names of containers on their networks
	SourceAll        = SourceContainers | SourceSelf | SourceKernel | SourceLease
)

// Trigger wakes the reconcile loop. Firing never blocks, and firings that
// come before the loop has taken the last are joined. Make one with
// NewTrigger.
type Trigger struct {
	mu     sync.Mutex
	source Source
	since  time.Time
	wake   chan struct{}
}

// NewTrigger makes a trigger that nobody has fired yet.
func NewTrigger() *Trigger { return &Trigger{wake: make(chan struct{}, 1)} }

// Fire asks for a reconcile. at is when Docker says the cause happened, or
// zero.
func (t *Trigger) Fire(s Source, at time.Time) {
	t.mu.Lock()
	t.source |= s
	if t.since.IsZero() {
		t.since = at
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Wake is readable when there is something to Take.
func (t *Trigger) Wake() <-chan struct{} { return t.wake }

// Take returns all that was fired since the last Take, and the time of its
// earliest cause.
func (t *Trigger) Take() (Source, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, since := t.source, t.since
	t.source, t.since = 0, time.Time{}
	return s, since
}
