package netns_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long one attempt waits: shorter than TCP's first
// retransmission, so that a bound of a second can be measured.
const patience = 300 * time.Millisecond

// serveTCP answers each connection with its own name and the peer's address in
// one line, then sends back every line.
func (n *ns) serveTCP(name, addr string) {
	n.t.Helper()
	var l net.Listener
	err := in(n, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	n.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go greet(c, name)
		}
	}()
}

func greet(c net.Conn, name string) {
	defer c.Close()
	fmt.Fprintf(c, "%s %s\n", name, hostOf(c.RemoteAddr()))
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprint(c, line)
	}
}

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// datagrams counts what a UDP server got.
type datagrams struct {
	conn net.PacketConn
	mu   sync.Mutex
	from []string
}

func (d *datagrams) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.from)
}

// serveUDP answers each datagram with its own name and the peer's address.
func (n *ns) serveUDP(name, addr string) *datagrams {
	n.t.Helper()
	d := &datagrams{}
	err := in(n, func() (err error) {
		d.conn, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	n.t.Cleanup(func() { d.conn.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := d.conn.ReadFrom(buf)
			if err != nil {
				return
			}
			d.mu.Lock()
			d.from = append(d.from, hostOf(from))
			d.mu.Unlock()
			d.conn.WriteTo(fmt.Appendf(nil, "%s %s", name, hostOf(from)), from) //nolint:errcheck // the test sees the missing answer
		}
	}()
	return d
}

// open connects from a namespace.
func (n *ns) open(network, addr string) (net.Conn, error) {
	var c net.Conn
	err := in(n, func() (err error) {
		d := net.Dialer{Timeout: patience}
		c, err = d.DialContext(context.Background(), network, addr)
		return err
	})
	return c, err
}

// ask connects once and returns what the server says: its name and the address
// that it sees.
func (n *ns) ask(network, addr string) (string, error) {
	c, err := n.open(network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a socket that is open takes it
	if network == "udp" {
		if _, err := c.Write([]byte("?\n")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 512)
	k, err := c.Read(buf)
	return strings.TrimSpace(string(buf[:k])), err
}

// answers is a condition: this is what a client is told.
func (n *ns) answers(network, addr, want string) func() error {
	return func() error {
		got, err := n.ask(network, addr)
		if err == nil && got != want {
			err = fmt.Errorf("%s asked %s %s: answer %q, want %q", n.name, network, addr, got, want)
		}
		return err
	}
}

// silent is a condition: nothing comes back, not even a refusal's meaning
// matters. Only an answer is a failure.
func (n *ns) silent(network, addr string) func() error {
	return func() error {
		if got, err := n.ask(network, addr); err == nil {
			return fmt.Errorf("%s asked %s %s and was answered %q", n.name, network, addr, got)
		}
		return nil
	}
}

// refused is a condition: the port answers as closed.
func (n *ns) refused(network, addr string) func() error {
	return func() error {
		_, err := n.ask(network, addr)
		if err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("%s asked %s %s: %v, want a refusal", n.name, network, addr, err)
		}
		return nil
	}
}

// session is a connection that stays open.
type session struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

// session opens a TCP connection and reads the greeting.
func (n *ns) session(addr string) *session {
	n.t.Helper()
	c, err := n.open("tcp", addr)
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	n.t.Cleanup(func() { c.Close() })
	s := &session{t: n.t, Conn: c, r: bufio.NewReader(c)}
	if _, err := s.line(); err != nil {
		n.t.Fatalf("%s: reading the greeting: %v", n.name, err)
	}
	return s
}

func (s *session) line() (string, error) {
	s.SetReadDeadline(time.Now().Add(3 * time.Second)) //nolint:errcheck // as in ask
	return s.r.ReadString('\n')
}

// echo is a condition: the connection still carries data both ways.
func (s *session) echo() error {
	word := time.Now().Format("150405.000000000") + "\n"
	if _, err := s.Write([]byte(word)); err != nil {
		return err
	}
	got, err := s.line()
	if err == nil && got != word {
		err = errors.New("the echo is wrong: " + got)
	}
	return err
}

// stream sends datagrams on one socket without a pause and remembers the last
// answer.
type stream struct {
	conn net.Conn
	mu   sync.Mutex
	last string
	at   time.Duration // of awake
}

func (n *ns) stream(addr string) *stream {
	n.t.Helper()
	c, err := n.open("udp", addr)
	if err != nil {
		n.t.Fatal(err)
	}
	s := &stream{conn: c}
	done := make(chan struct{})
	n.t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		for {
			// A refusal is read as an error of the next call: go on.
			if _, err := c.Write([]byte("?\n")); errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	go s.listen()
	return s
}

func (s *stream) listen() {
	buf := make([]byte, 512)
	for {
		k, err := s.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		s.mu.Lock()
		s.last, s.at = string(buf[:k]), awake()
		s.mu.Unlock()
	}
}

// answeredBy is a condition: the newest answer came from this server.
func (s *stream) answeredBy(want string) func() error {
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if ago := awake() - s.at; s.last != want || ago > 200*time.Millisecond {
			return fmt.Errorf("the last answer is %q of %v ago, want %q now", s.last, ago, want)
		}
		return nil
	}
}
