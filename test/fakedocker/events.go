package fakedocker

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

// history is how many events a real engine keeps for `since`.
const history = 256

// broker hands every event to every stream and keeps the last ones.
type broker struct {
	mu      sync.Mutex
	past    []events.Message
	streams map[*stream]struct{}
}

type stream struct {
	messages chan events.Message
	end      chan struct{}
}

func (b *broker) publish(m events.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	m.Scope, m.Time, m.TimeNano = "local", now.Unix(), now.UnixNano()
	b.past = append(b.past, m)
	if len(b.past) > history {
		b.past = b.past[1:]
	}
	for s := range b.streams {
		s.messages <- m
	}
}

// subscribe returns what happened at or after since and a stream that misses
// nothing from there on. Without since there is no past, as in a real engine.
func (b *broker) subscribe(since time.Time) ([]events.Message, *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []events.Message
	for _, m := range b.past {
		if !since.IsZero() && m.TimeNano >= since.UnixNano() {
			past = append(past, m)
		}
	}
	s := &stream{messages: make(chan events.Message, 65536), end: make(chan struct{})}
	if b.streams == nil {
		b.streams = map[*stream]struct{}{}
	}
	b.streams[s] = struct{}{}
	return past, s
}

func (b *broker) unsubscribe(s *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.streams, s)
}

func (b *broker) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams {
		close(s.end)
		delete(b.streams, s)
	}
}

func (b *broker) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.past = nil
}

func (b *broker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.streams)
}

func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	f, err := filters.FromJSON(r.URL.Query().Get("filters"))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	since, err := parseTime(r.URL.Query().Get("since"))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	until, err := parseTime(r.URL.Query().Get("until"))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	s.mu.Lock()
	down, pause := s.stopped, s.subscribeAfter
	s.mu.Unlock()
	// As the real one, it answers first.
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	time.Sleep(pause)
	past, st := s.broker.subscribe(since)
	defer s.broker.unsubscribe(st)
	send := func(m events.Message) {
		if included(m, f) {
			json.NewEncoder(w).Encode(m) //nolint:errcheck // a client that has gone ends the request's context
		}
		w.(http.Flusher).Flush()
	}
	for _, m := range past {
		send(m)
	}
	var ended <-chan time.Time
	if !until.IsZero() {
		ended = time.After(time.Until(until))
	}
	for {
		select {
		case m := <-st.messages:
			send(m)
		case <-st.end:
			return
		case <-ended:
			return
		case <-down:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// parseTime reads the engine's "seconds.nanoseconds".
func parseTime(v string) (time.Time, error) {
	if v == "" {
		return time.Time{}, nil
	}
	secs, frac, _ := strings.Cut(v, ".")
	sec, err := strconv.ParseInt(secs, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	if frac == "" {
		return time.Unix(sec, 0), nil
	}
	nano, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	return time.Unix(sec, nano), err
}

// included is the engine's own filter: several keys must all match, several
// values of one key are alternatives, labels are sought among the attributes.
func included(m events.Message, f filters.Args) bool {
	return f.ExactMatch("type", string(m.Type)) &&
		f.ExactMatch("event", string(m.Action)) &&
		f.ExactMatch("scope", m.Scope) &&
		matchesActor(m, f, events.ContainerEventType) &&
		matchesActor(m, f, events.NetworkEventType) &&
		(!f.Contains("label") || f.MatchKVList("label", m.Actor.Attributes))
}

func matchesActor(m events.Message, f filters.Args, key events.Type) bool {
	return f.FuzzyMatch(string(key), m.Actor.ID) || f.FuzzyMatch(string(key), m.Actor.Attributes["name"])
}
