package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/AlexCherrypi/anchord"
)

// socketName is the unix socket in the run directory on which the commands
// reach the running anchord, whether or not there is a TCP listener.
const socketName = "anchord.sock"

// server answers /metrics, /healthz, /readyz and /status.
type server struct {
	registry registry
	// unmet lists what is missing for being ready; none: ready.
	unmet func() []string
	// status returns what the status command shows; it may be nil.
	status func(ctx context.Context) any
}

func (s server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	return mux
}

func (s server) readyz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	unmet := s.unmet()
	if len(unmet) == 0 {
		fmt.Fprintln(w, "ready")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	for _, u := range unmet {
		fmt.Fprintln(w, "unmet:", anchord.Cut(u, anchord.LongestText))
	}
}

// socketHandler serves the same and, to local commands only, the status.
func (s server) socketHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", s.handler())
	if s.status != nil {
		mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(bounded(s.status(r.Context())))
		})
	}
	return mux
}

// serve listens until ctx ends. A listener that cannot be had is a warning:
// the network goes on without it.
func (s server) serve(ctx context.Context, runDir, addr string, log logger) {
	socket := filepath.Join(runDir, socketName)
	_ = os.Remove(socket) // left by a predecessor that was killed
	s.listen(ctx, "unix", socket, s.socketHandler(), log)
	if addr != "" {
		s.listen(ctx, "tcp", addr, s.handler(), log)
	}
}

func (s server) listen(ctx context.Context, network, addr string, handler http.Handler, log logger) {
	listener, err := net.Listen(network, addr)
	if err != nil {
		log.Event(anchord.Warn, anchord.EventHealthUnavailable, fmt.Sprintf("going on without the health and metrics listener: %v", err), nil)
		return
	}
	srv := newHTTPServer(handler)
	go func() { _ = srv.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = srv.Close() })
}

// What one connection may cost: a container of the project can reach a public
// ANCHORD_METRICS_ADDR, and is not trusted with our memory.
const (
	// requestTime is enough for a request, which is one line and some headers.
	requestTime = 5 * time.Second
	// answerLimit is more than a status takes with everything slow, and more than
	// any scraper waits by default.
	answerLimit = 15 * time.Second
	// idleTime keeps a connection from one scrape to the next at the usual
	// intervals of up to half a minute; slower scrapers connect again.
	idleTime = 35 * time.Second
	// maxHeader is sixteen times what Prometheus sends.
	maxHeader = 8 << 10
	// maxConnections is more than a few Prometheus servers, health checks and a
	// person have open at one time.
	maxConnections = 64
)

func newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: requestTime, ReadTimeout: requestTime, WriteTimeout: answerLimit,
		IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ConnState: (&crowd{}).moved,
	}
}

// crowd bounds a server's connections: when there are too many, the one goes that
// has been waiting longest without a request, else the longest of all. So whoever
// opens many and says nothing never keeps a scrape out, as a queue would.
type crowd struct {
	mu    sync.Mutex
	conns []member // oldest first
}

type member struct {
	conn   net.Conn
	silent bool
}

// moved is told of each connection's way, before it is served.
func (c *crowd) moved(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.conns, func(m member) bool { return m.conn == conn })
	switch state {
	case http.StateNew:
		if len(c.conns) >= maxConnections {
			c.sendAway()
		}
		c.conns = append(c.conns, member{conn, true})
	case http.StateActive, http.StateIdle:
		if i >= 0 {
			c.conns[i].silent = state == http.StateIdle
		}
	case http.StateClosed, http.StateHijacked:
		if i >= 0 {
			c.conns = slices.Delete(c.conns, i, i+1)
		}
	}
}

func (c *crowd) sendAway() {
	i := max(0, slices.IndexFunc(c.conns, func(m member) bool { return m.silent }))
	_ = c.conns[i].conn.Close() // its own goroutine ends with it
	c.conns = slices.Delete(c.conns, i, i+1)
}

// ask requests a path from the running anchord through its socket.
func ask(ctx context.Context, runDir, path string) (*http.Response, error) {
	socket := filepath.Join(runDir, socketName)
	c := http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://anchord"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.Do(request)
	if err != nil {
		return nil, fmt.Errorf("no anchord answers on %s (is it running, and is ANCHORD_RUN_DIR the same?): %w", socket, errors.Unwrap(err))
	}
	return response, nil
}
