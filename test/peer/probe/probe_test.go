package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serve opens one endpoint on a free port and gives its loopback address.
func serve(t *testing.T, network string) string {
	t.Helper()
	s, err := Serve([]Endpoint{{Network: network}}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var addr net.Addr
	switch c := s.closers[0].(type) {
	case net.Listener:
		addr = c.Addr()
	case net.PacketConn:
		addr = c.LocalAddr()
	}
	port := netip.MustParseAddrPort(addr.String()).Port()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
}

func TestAsk(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		address := serve(t, network)
		answer, err := Ask(t.Context(), &net.Dialer{}, network, address)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Network != network || answer.Peer != answer.From || answer.Local != address || answer.Host == "" {
			t.Errorf("%s: %+v", network, answer)
		}
	}
}

func TestConnectionStaysOpen(t *testing.T) {
	conn, err := net.Dial("tcp", serve(t, "tcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		if _, err := AskOn(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHTTP(t *testing.T) {
	response, err := http.Get("http://" + serve(t, "tcp") + "/path")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), "\npeer: 127.0.0.1:") {
		t.Errorf("%s, %v: %s", response.Status, err, body)
	}
}

func TestUDPFlow(t *testing.T) {
	report, err := UDPFlow(t.Context(), &net.Dialer{}, serve(t, "udp"), 5*time.Millisecond, 500*time.Millisecond, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if report.Sent < 5 || report.Answered != report.Sent || len(report.Hosts) != 1 {
		t.Errorf("%+v", report)
	}
}

// A service that appears while the flow goes on is noticed on the same socket.
func TestUDPFlowOutage(t *testing.T) {
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().String()
	free.Close()
	ctx, answered := context.WithTimeout(t.Context(), 20*time.Second)
	defer answered()
	appears := &appearing{refused: sync.OnceFunc(func() {
		endpoints, _ := ParseEndpoints("udp:" + address[strings.LastIndex(address, ":")+1:])
		s, err := Serve(endpoints, io.Discard)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { s.Close() })
	}), answered: answered}
	report, err := UDPFlow(ctx, appears, address, 5*time.Millisecond, 20*time.Second, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if report.Answered == 0 || report.FirstAfter == 0 || report.Errors == 0 {
		t.Errorf("%+v", report)
	}
}

// appearing has the service appear with the first refusal, and the flow end with
// the first answer.
type appearing struct{ refused, answered func() }

func (a *appearing) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return told{conn, a}, err
}

type told struct {
	net.Conn
	*appearing
}

func (c told) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	switch {
	case err == nil:
		c.answered()
	case errors.Is(err, syscall.ECONNREFUSED):
		c.refused()
	}
	return n, err
}

func (c told) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if errors.Is(err, syscall.ECONNREFUSED) {
		c.refused()
	}
	return n, err
}

func TestConnFlood(t *testing.T) {
	report := ConnFlood(t.Context(), &net.Dialer{}, serve(t, "tcp"), 4, 500*time.Millisecond, nil)
	if report.Connections < 10 || report.Failures != 0 {
		t.Errorf("%+v", report)
	}
	closed := ConnFlood(context.Background(), &net.Dialer{}, "127.0.0.1:1", 1, 10*time.Millisecond, nil)
	if closed.Failures == 0 || closed.FirstError == "" {
		t.Errorf("a closed port: %+v", closed)
	}
}

func TestParseEndpoints(t *testing.T) {
	got, err := ParseEndpoints("udp:5000-5002")
	if want := []Endpoint{{"udp", 5000}, {"udp", 5001}, {"udp", 5002}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "tcp", "tcp:", "icmp:1", "tcp:2-1", "tcp:65536", "tcp:x"} {
		if _, err := ParseEndpoints(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
