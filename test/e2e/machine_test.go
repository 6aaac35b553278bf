package e2e

import (
	"sync"
	"testing"
	"time"
)

// machine knows when the machine stood still, as virtual ones do for seconds when
// their host has other work: nobody can keep a promise in that time.
var machine stills

type stills struct {
	mu    sync.Mutex
	last  time.Time // up to which all are found
	found []still
}

type still struct{ from, to time.Time }

// pulse is how often it is looked, and noticeable what counts as standing still:
// far more than a busy scheduler takes, far less than anything that is promised.
const (
	pulse      = 10 * time.Millisecond
	noticeable = 200 * time.Millisecond
)

func (m *stills) watch() {
	m.last = time.Now()
	for range time.Tick(pulse) {
		m.mu.Lock()
		now := time.Now()
		if now.Sub(m.last) > noticeable {
			m.found = append(m.found, still{m.last, now})
		}
		m.last = now
		m.mu.Unlock()
	}
}

// running is the time between two moments without that in which the machine stood
// still.
func running(from, to time.Time) time.Duration {
	for {
		if length, known := machine.running(from, to); known {
			return length
		}
		time.Sleep(pulse)
	}
}

func (m *stills) running(from, to time.Time) (length time.Duration, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	length = to.Sub(from)
	for _, s := range m.found {
		if s.from.Before(from) {
			s.from = from
		}
		if s.to.After(to) {
			s.to = to
		}
		length -= max(0, s.to.Sub(s.from))
	}
	return length, !to.After(m.last)
}

func TestRunning(t *testing.T) {
	zero := time.Now()
	at := func(seconds int) time.Time { return zero.Add(time.Duration(seconds) * time.Second) }
	m := stills{last: at(9), found: []still{{at(2), at(4)}, {at(7), at(8)}}}
	for _, c := range []struct{ from, to, want int }{
		{0, 1, 1}, {0, 3, 2}, {0, 10, 7}, {3, 10, 5}, {2, 4, 0}, {4, 7, 3}, {8, 9, 1}, {9, 8, -1},
	} {
		got, known := m.running(at(c.from), at(c.to))
		if got != time.Duration(c.want)*time.Second || known != (c.to <= 9) {
			t.Errorf("from %d to %d: %v, %t, want %d s", c.from, c.to, got, known, c.want)
		}
	}
}
