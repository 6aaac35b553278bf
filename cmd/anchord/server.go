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
		fmt.Fprintln(w, "unmet:", u)
	}
}

// socketHandler serves the same and, to local commands only, the status.
func (s server) socketHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", s.handler())
	if s.status != nil {
		mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(s.status(r.Context()))
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
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = srv.Close() })
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
