// Package fakedocker is an in-process fake of the part of the Docker Engine API
// that anchord reads. It answers on a unix socket with the SDK's own types, and
// it is driven by the test: containers start, stop and vanish with the events
// of a real engine, in the order of a real engine, and the engine itself can go
// away and come back.
package fakedocker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/network"
)

// APIVersion is what the fake offers; a client negotiates down to it.
const APIVersion = "1.51"

// Request is one call that a client made. Path has no version prefix.
type Request struct {
	Time   time.Time
	Method string
	Path   string
	Query  string
}

// Server is the fake engine.
type Server struct {
	path string

	mu             sync.Mutex
	http           *http.Server
	stopped        chan struct{} // closed when the current listener goes down
	networks       map[string]network.Inspect
	containers     map[string]*Container
	requests       []Request
	failures       map[string]int
	delay          map[string]time.Duration
	subscribeAfter time.Duration
	podman         bool
	broker         broker
}

// Start listens on the unix socket at path.
func Start(path string) (*Server, error) {
	s := &Server{
		path:       path,
		networks:   map[string]network.Inspect{},
		containers: map[string]*Container{},
		failures:   map[string]int{},
		delay:      map[string]time.Duration{},
	}
	return s, s.Up()
}

// Up makes the socket and answers on it. It does nothing when the engine is up.
func (s *Server) Up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing a stale socket: %w", err)
	}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return fmt.Errorf("listening for the fake engine: %w", err)
	}
	s.stopped = make(chan struct{})
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve)}
	go s.http.Serve(l) //nolint:errcheck // always ErrServerClosed: Down is its only end
	return nil
}

// Down removes the socket and cuts every connection, event streams included.
// What happens to containers meanwhile is kept, and so are the last events,
// except that a restarted engine no longer has those: see DropHistory.
func (s *Server) Down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return
	}
	close(s.stopped)
	s.http.Close() //nolint:errcheck // the listener is gone either way
	s.http = nil
}

// Close ends the fake.
func (s *Server) Close() { s.Down() }

// Path is the socket's path.
func (s *Server) Path() string { return s.path }

// Host is the value for DOCKER_HOST.
func (s *Server) Host() string { return "unix://" + s.path }

// CutStreams ends the event streams and nothing else, as a socket proxy does
// after some minutes.
func (s *Server) CutStreams() { s.broker.cut() }

// DropHistory forgets the past events, as an engine does that was restarted.
func (s *Server) DropHistory() { s.broker.forget() }

// Streams is the number of open event streams.
func (s *Server) Streams() int { return s.broker.count() }

// Fail answers every call whose path begins with pathPrefix with this status;
// 0 ends that. A method may stand before the path: "POST /containers".
func (s *Server) Fail(pathPrefix string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if status == 0 {
		delete(s.failures, pathPrefix)
		return
	}
	s.failures[pathPrefix] = status
}

// SubscribeAfter holds back the events, but not the answer that they will come.
func (s *Server) SubscribeAfter(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribeAfter = d
}

// Podman has it answer as Podman 4.3.1 does in Docker's place.
func (s *Server) Podman() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.podman = true
}

// identify puts into an answer who gives it.
func (s *Server) identify(h http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.podman {
		h.Set("Api-Version", "1.41")
		h.Set("Libpod-Api-Version", "4.3.1")
		h.Set("Server", "Libpod/4.3.1 (linux)")
		return
	}
	h.Set("Api-Version", APIVersion)
	h.Set("Ostype", "linux")
	h.Set("Server", "Docker/28.5.2 (linux)")
}

// Delay holds back the answer to every call whose path begins with pathPrefix.
func (s *Server) Delay(pathPrefix string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay[pathPrefix] = d
}

// Requests counts the calls so far by "METHOD /path".
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{}
	for _, r := range s.requests {
		counts[r.Method+" "+r.Path]++
	}
	return counts
}

// RequestLog is every call so far, in order.
func (s *Server) RequestLog() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Writes is every call so far that would have changed something in the engine.
func (s *Server) Writes() []Request {
	var writes []Request
	for _, r := range s.RequestLog() {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			writes = append(writes, r)
		}
	}
	return writes
}

var versionPrefix = regexp.MustCompile(`^/v1\.\d+/`)

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path := versionPrefix.ReplaceAllString(r.URL.Path, "/")
	status, delay := s.note(r, path)
	s.identify(w.Header())
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return
	}
	if status != 0 {
		fail(w, status, "refused by the test: "+r.Method+" "+path)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		fail(w, http.StatusForbidden, "this engine is read-only: "+r.Method+" "+path)
		return
	}
	s.route(w, r, path)
}

func (s *Server) note(r *http.Request, path string) (status int, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, Request{time.Now(), r.Method, path, r.URL.RawQuery})
	for prefix, code := range s.failures {
		if strings.HasPrefix(path, prefix) || strings.HasPrefix(r.Method+" "+path, prefix) {
			status = code
		}
	}
	for prefix, d := range s.delay {
		if strings.HasPrefix(path, prefix) {
			delay = d
		}
	}
	return status, delay
}

func (s *Server) route(w http.ResponseWriter, r *http.Request, path string) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case path == "/_ping":
		fmt.Fprint(w, "OK")
	case path == "/version":
		reply(w, map[string]string{"Version": "28.5.2", "ApiVersion": APIVersion, "MinAPIVersion": "1.24", "Os": "linux"})
	case path == "/info":
		reply(w, map[string]string{"ID": "fake", "ServerVersion": "28.5.2", "OSType": "linux"})
	case path == "/events":
		s.serveEvents(w, r)
	case path == "/containers/json":
		s.listContainers(w, r)
	case len(parts) == 3 && parts[0] == "containers" && parts[2] == "json":
		s.inspectContainer(w, parts[1])
	case path == "/networks":
		s.listNetworks(w, r)
	case len(parts) == 2 && parts[0] == "networks":
		s.inspectNetwork(w, parts[1])
	default:
		fail(w, http.StatusNotFound, "page not found")
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // a client that has gone needs no answer
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"message": message}) //nolint:errcheck // as in reply
}
