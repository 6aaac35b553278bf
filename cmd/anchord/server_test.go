package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
)

// pipes is a listener without a network, so that its time can be a bubble's.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.done)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// Whatever a client does or leaves undone, its connection comes to an end.
func TestConnectionsThatLeadNowhereAreClosed(t *testing.T) {
	for name, client := range map[string]struct {
		says  string
		reads bool
		ends  time.Duration
	}{
		"says nothing":           {"", true, requestTime},
		"says half a request":    {"GET /metrics HTTP/1.1\r\nHost: a\r\n", true, requestTime},
		"half a body":            {"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", true, requestTime},
		"stays after its answer": {"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", true, idleTime},
		"does not read":          {"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", false, answerLimit},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				s := server{registry: newRegistry(always), unmet: func() []string { return nil }}
				srv := newHTTPServer(s.handler())
				go srv.Serve(p) //nolint:errcheck // it is closed below
				defer srv.Close()
				conn := p.dial()
				go io.WriteString(conn, client.says) //nolint:errcheck // it may be closed before
				if client.reads {
					go io.Copy(io.Discard, conn) //nolint:errcheck // until it is closed
				}
				time.Sleep(client.ends + time.Second)
				synctest.Wait()
				// A pipe's other end tells by its write that it is closed.
				if _, err := conn.Write([]byte("x")); err == nil {
					t.Errorf("is still open after %v", client.ends+time.Second)
				}
				conn.Close()
			})
		})
	}
}

// Who holds thousands of connections open costs a few, and keeps nobody out.
func TestManyIdleConnectionsKeepNoScrapeOut(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			dir := t.TempDir()
			addr, path := "127.0.0.1:0", filepath.Join(dir, socketName)
			s := server{registry: newRegistry(always), unmet: func() []string { return nil }}
			if network == "tcp" {
				free, err := net.Listen("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				addr = free.Addr().String()
				free.Close()
			} else {
				addr = path
			}
			s.listen(t.Context(), network, addr, s.handler(), newLogger(io.Discard, logrus.InfoLevel))
			var closed, opened int
			answers := make(chan error, 10*maxConnections)
			for range 10 * maxConnections {
				conn, err := net.Dial(network, addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				opened++
				go func() { // asks once, and stays
					_, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
					for err == nil {
						_, err = conn.Read(make([]byte, 512))
					}
					answers <- err
				}()
			}
			client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
				DisableKeepAlives: true,
				Dial:              func(string, string) (net.Conn, error) { return net.Dial(network, addr) },
			}}
			response, err := client.Get("http://anchord/metrics")
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if line, _ := bufio.NewReader(response.Body).ReadString('\n'); !strings.HasPrefix(line, "# HELP ") {
				t.Errorf("answered %q", line)
			}
			for closed < opened-maxConnections {
				select {
				case <-answers:
					closed++
				case <-time.After(10 * time.Second):
					t.Fatalf("of %d idle connections %d are open", opened, opened-closed)
				}
			}
		})
	}
}
