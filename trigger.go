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
	SourceDoubt                         // somebody may have changed anchord's tables: it was not seen whether
	SourceAll        = SourceContainers | SourceSelf | SourceKernel | SourceLease
)

// How looks are paced that somebody on the network can ask for as often as he likes:
// with router advertisements, addresses and routes that come and go, or announcements.
const (
	// pace: over time such looks take a fifth of it, whatever one of them takes.
	pace = 5
	// burst is how much of that is given in advance: looks that take 20 ms are made
	// twenty times at once before the first has to wait. An ordinary change asks for a
	// few; a start, for a dozen.
	burst = 2 * time.Second
	// longestPause bounds what is waited for a look, so that a route which somebody
	// takes away is back within a second even then; but a look never takes more than
	// half of the time.
	longestPause = 500 * time.Millisecond
)

// Trigger wakes a loop. Firing never blocks, and firings that come before the loop
// has taken the last are joined. Sources that are paced wake it no more often than
// their looks can be afforded; all others wake it at once, and wait for none of them.
// Make one with NewTrigger.
type Trigger struct {
	mu     sync.Mutex
	source Source
	since  time.Time
	wake   chan struct{}

	paced Source
	spent time.Time // up to when the looks of paced sources are paid for
	later *time.Timer
}

// NewTrigger makes a trigger that nobody has fired yet.
func NewTrigger() *Trigger { return &Trigger{wake: make(chan struct{}, 1)} }

// Pace says which sources are paced. The loop tells with Looked what they cost.
func (t *Trigger) Pace(s Source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paced = s
}

// Looked tells that a look at s took so long. What others asked for too counts as
// theirs.
func (t *Trigger) Looked(s Source, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s == 0 || s&^t.paced != 0 {
		return
	}
	now := time.Now()
	if earliest := now.Add(-took); t.spent.Before(earliest) {
		t.spent = earliest
	}
	t.spent = t.spent.Add(pace * took)
	if latest := now.Add(burst + max(longestPause, took)); t.spent.After(latest) {
		t.spent = latest
	}
	if t.source != 0 && t.source&^t.paced == 0 && t.early() > 0 {
		select {
		case <-t.wake: // it was called before the look had its price
		default:
		}
		t.call()
	}
}

// early is how long paced sources have to wait. t.mu is held.
func (t *Trigger) early() time.Duration { return time.Until(t.spent.Add(-burst)) }

// Fire asks for a reconcile. at is when Docker says the cause happened, or
// zero.
func (t *Trigger) Fire(s Source, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.source |= s
	if t.since.IsZero() {
		t.since = at
	}
	t.call()
}

// call wakes the loop, now or when it is time. t.mu is held.
func (t *Trigger) call() {
	wait := t.early()
	if t.source&^t.paced != 0 || wait <= 0 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
		return
	}
	if t.later == nil {
		t.later = time.AfterFunc(wait, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.later = nil; t.source != 0 {
				t.call()
			}
		})
	}
}

// Wake is readable when there is something to Take.
func (t *Trigger) Wake() <-chan struct{} { return t.wake }

// Take returns all that was fired since the last Take, and the time of its
// earliest cause. Paced sources for which it is too early stay.
func (t *Trigger) Take() (Source, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, since := t.source, t.since
	if t.early() > 0 {
		s &^= t.paced
	}
	t.source &^= s
	t.since = time.Time{}
	if t.source != 0 {
		t.call()
	}
	return s, since
}
