package watch

import (
	"slices"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
)

// leaving are the containers that were told to stop. Docker goes on listing them
// until they have, and then it can be too late: it takes a tenth of a second to
// leave a network, and Compose removes it sooner after its last own container.
type leaving struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// survived is when a container that was told to stop, and runs still, was not.
const survived = 2 * time.Minute

// harmless are the signals that tell a program something else than to end
// (signal(7)): HUP, USR1, USR2, CONT, WINCH.
var harmless = []string{"0", "1", "10", "12", "18", "28"}

func (l *leaving) note(m events.Message) {
	if m.Type != events.ContainerEventType {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch m.Action {
	case events.ActionKill:
		if slices.Contains(harmless, m.Actor.Attributes["signal"]) {
			return
		}
		if l.since == nil {
			l.since = map[string]time.Time{}
		}
		l.since[m.Actor.ID] = time.Now()
	case events.ActionStart, events.ActionDestroy:
		delete(l.since, m.Actor.ID)
	}
}

func (l *leaving) is(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, told := l.since[id]
	if told && time.Since(at) > survived {
		delete(l.since, id)
		return false
	}
	return told
}
