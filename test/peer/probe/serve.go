// Package probe is what the tests measure a network with: a server that tells
// everyone who they are to it, and clients that notice what a person would
// notice. test/peer makes a program of it; tests call it inside a host.
package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

// Endpoint is one port to serve.
type Endpoint struct {
	Network string // tcp or udp
	Port    int
}

// ParseEndpoints reads tcp:80 or udp:5000-5010.
func ParseEndpoints(text string) ([]Endpoint, error) {
	network, ports, _ := strings.Cut(text, ":")
	if network != "tcp" && network != "udp" {
		return nil, fmt.Errorf("endpoint %q: want tcp:PORT or udp:PORT, also with FIRST-LAST", text)
	}
	from, to, ranged := strings.Cut(ports, "-")
	if !ranged {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err := errors.Join(err1, err2); err != nil || first > last {
		return nil, fmt.Errorf("endpoint %q: want a port of 0 to 65535 or FIRST-LAST", text)
	}
	var endpoints []Endpoint
	for port := first; port <= last; port++ {
		endpoints = append(endpoints, Endpoint{network, int(port)})
	}
	return endpoints, nil
}

// Server answers on all its endpoints until it is closed.
type Server struct {
	closers []io.Closer
	log     io.Writer
	logMu   sync.Mutex
}

// Serve opens all endpoints, on IPv4 and IPv6, and answers in the background.
// It logs one line for every connection and datagram.
func Serve(endpoints []Endpoint, log io.Writer) (*Server, error) {
	s := &Server{log: log}
	for _, e := range endpoints {
		if err := s.open(e); err != nil {
			s.Close()
			return nil, fmt.Errorf("serving %s:%d: %w", e.Network, e.Port, err)
		}
	}
	return s, nil
}

// Close stops listening. Connections that are open stay open.
func (s *Server) Close() error {
	var failed []error
	for _, c := range s.closers {
		failed = append(failed, c.Close())
	}
	return errors.Join(failed...)
}

func (s *Server) open(e Endpoint) error {
	address := ":" + strconv.Itoa(e.Port)
	if e.Network == "tcp" {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		s.closers = append(s.closers, listener)
		go s.acceptAll(listener)
		return nil
	}
	conn, err := listenUDP(address)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, conn)
	go s.answerAll(conn)
	return nil
}

func (s *Server) acceptAll(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client is gone already
		}
		go s.answerConn(conn)
	}
}

// answerConn speaks HTTP to who asks in HTTP, and otherwise answers the
// connection itself and each line on it.
func (s *Server) answerConn(conn net.Conn) {
	defer conn.Close()
	id := Identity{Network: "tcp", Peer: conn.RemoteAddr().String(), Local: conn.LocalAddr().String(), Host: hostname()}
	s.logLine(id)
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if isHTTP(line) {
			serveHTTP(conn, lines, line, id)
			return
		}
		if _, err := fmt.Fprintf(conn, "%s %s", id, line); err != nil {
			return
		}
	}
}

func (s *Server) answerAll(conn *net.UDPConn) {
	buf, control := make([]byte, 65536), make([]byte, 256)
	for {
		n, local, peer, err := readFrom(conn, buf, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error for an earlier answer
		}
		id := Identity{Network: "udp", Peer: peer.String(), Local: local.String(), Host: hostname()}
		s.logLine(id)
		answer := fmt.Appendf(nil, "%s %s", id, strings.TrimSuffix(string(buf[:n]), "\n")+"\n")
		writeTo(conn, answer, local, peer)
	}
}

func (s *Server) logLine(id Identity) {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	fmt.Fprintln(s.log, id)
}

func isHTTP(line string) bool {
	return strings.HasSuffix(strings.TrimRight(line, "\r\n"), " HTTP/1.1") ||
		strings.HasSuffix(strings.TrimRight(line, "\r\n"), " HTTP/1.0")
}

// serveHTTP answers one request, without net/http, which would triple the size
// of the program.
func serveHTTP(conn net.Conn, lines *bufio.Reader, request string, id Identity) {
	for {
		line, err := lines.ReadString('\n')
		if err != nil || strings.TrimSpace(line) == "" {
			break
		}
	}
	body := fmt.Sprintf("%s\npeer: %s\nlocal: %s\nhostname: %s\nrequest: %s\n",
		id, id.Peer, id.Local, id.Host, strings.TrimSpace(request))
	if strings.HasPrefix(request, "HEAD ") {
		body = ""
	}
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		len(body), body)
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "-"
	}
	return name
}

// Identity is what a server tells a client.
type Identity struct {
	Network string
	Peer    string // the client's address and port, as the server sees them
	Local   string // the address and port that the server was reached at
	Host    string // the server's host name: in a container its id or hostname
}

func (id Identity) String() string {
	return fmt.Sprintf("%s peer=%s local=%s host=%s", id.Network, id.Peer, id.Local, id.Host)
}

// ParseIdentity reads the first four words of an answer.
func ParseIdentity(answer string) (Identity, error) {
	fields := strings.Fields(answer)
	id := Identity{}
	if len(fields) < 4 {
		return id, fmt.Errorf("%q is not an answer of a peer", answer)
	}
	id.Network = fields[0]
	for i, into := range []struct {
		key   string
		value *string
	}{{"peer=", &id.Peer}, {"local=", &id.Local}, {"host=", &id.Host}} {
		value, ok := strings.CutPrefix(fields[i+1], into.key)
		if !ok {
			return id, fmt.Errorf("%q is not an answer of a peer", answer)
		}
		*into.value = value
	}
	return id, nil
}

// Main serves until the context ends.
func Main(ctx context.Context, endpoints []Endpoint, log io.Writer) error {
	s, err := Serve(endpoints, log)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}
