package e2e

import (
	"io"
	"net"
	"strings"
	"sync"
)

// proxy is a socket that leads to the engine's, until it is closed.
type proxy struct {
	path, engine string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

// proxy opens one. A container mounts the directory that it is in, since each
// opening makes another file.
func (s *site) proxy(path string) *proxy {
	p := &proxy{path: path, engine: strings.TrimPrefix(s.engine.Host(), "unix://"), conns: map[net.Conn]bool{}}
	p.open(s)
	s.Cleanup(p.close)
	return p
}

func (p *proxy) open(s *site) {
	s.Helper()
	listener, err := net.Listen("unix", p.path)
	if err != nil {
		s.Fatal(err)
	}
	p.mu.Lock()
	p.listener = listener
	p.mu.Unlock()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go p.pass(conn)
		}
	}()
}

// close removes the socket and cuts every connection.
func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener.Close()
	for conn := range p.conns {
		conn.Close()
	}
}

func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	engine, err := net.Dial("unix", p.engine)
	if err != nil {
		return
	}
	defer engine.Close()
	p.mu.Lock()
	p.conns[client], p.conns[engine] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, client)
		delete(p.conns, engine)
	}()
	go func() {
		io.Copy(engine, client)
		engine.Close()
	}()
	io.Copy(client, engine)
}
