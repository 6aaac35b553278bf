package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord/test/lab"
	"github.com/AlexCherrypi/anchord/test/peer/probe"
)

// A service that is restarted is back within five seconds, with its old address
// and, when somebody else took that meanwhile, with another one; what its
// clients had open ends.
func serviceRestarted(s *site) {
	p := s.project("restarted", `
services:
  web:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
  squatter:
    image: peer:lab
    networks: [transit]
`)
	p.up("anchord", "web")
	addr := p.reachable(80)
	p.restarts(addr, func() { p.compose("restart", "--timeout", "5", "web") })

	old := p.transitAddr("web")
	p.restarts(addr, func() {
		p.compose("stop", "--timeout", "5", "web")
		p.up("squatter")
		p.compose("start", "web")
	})
	s.Logf("web was at %s and is at %s", old, p.transitAddr("web"))
	if now := p.transitAddr("web"); now != old {
		flows := s.must(p.enter("anchord"), "conntrack", "-L", "-p", "tcp", "--reply-src", old.String())
		if strings.Contains(flows, "dport=80 ") {
			s.Errorf("flows to the old address %s are still tracked:\n%s", old, flows)
		}
	}
}

// hold opens a connection to a service and keeps it open.
func (s *site) hold(addr netip.Addr, port uint16) net.Conn {
	s.Helper()
	conn, err := s.lan.Client.DialContext(s.ctx, "tcp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	if _, err := probe.AskOn(s.ctx, conn); err != nil {
		s.Fatal(err)
	}
	return conn
}

// restarts checks that web is back within five seconds of its start, and that by
// then a connection that was open before has ended.
func (p *project) restarts(addr netip.Addr, restart func()) {
	p.Helper()
	conn := p.hold(addr, 80)
	back, ended := p.looks(answers(p.lan.Client, "tcp", addr, 80)), p.looks(hasEnded(conn))
	restart()
	start := p.started("web")
	p.back(5*time.Second, start, start, map[string]*looks{"web answers again": back, "the old connection has ended": ended})
	back.stop()
	ended.stop()
}

// hasEnded is a look at whether a connection that was open has ended, and its
// client was told.
func hasEnded(conn net.Conn) func(context.Context) error {
	return func(ctx context.Context) error {
		answer, err := probe.AskOn(ctx, conn)
		var timeout net.Error
		switch {
		case err == nil:
			return fmt.Errorf("it is answered: %v", answer)
		case errors.As(err, &timeout) && timeout.Timeout():
			return fmt.Errorf("it hangs: %w", err)
		}
		return nil
	}
}

// One container has three kinds of ports: kept, translated, and a range.
func threePorts(s *site) {
	p := s.project("ports", `
services:
  many:
    image: peer:lab
    command: [serve, "tcp:25", "udp:5353", "udp:49152-49160", "tcp:2100-2103"]
    networks: [transit]
    labels: {anchord.expose: "tcp/25, udp/53:5353, UDP/49152-49160, tcp/21-24:2100"}
`)
	p.up()
	addr := p.reachable(25)
	for _, c := range []struct {
		network    string
		port, seen uint16
	}{
		{"tcp", 25, 25},
		{"udp", 53, 5353},
		{"udp", 49152, 49152},
		{"udp", 49156, 49156},
		{"udp", 49160, 49160},
		{"tcp", 21, 2100},
		{"tcp", 24, 2103},
	} {
		s.within(patience, time.Now(), fmt.Sprintf("%s/%d", c.network, c.port), func(ctx context.Context) error {
			answer, err := asks(ctx, s.lan.Client, c.network, addr, c.port)
			if err == nil && !strings.HasSuffix(answer.Local, fmt.Sprintf(":%d", c.seen)) {
				err = fmt.Errorf("it was led to %s, not to port %d", answer.Local, c.seen)
			}
			return err
		})
	}
	for _, closed := range []struct {
		network string
		port    uint16
	}{{"udp", 25}, {"tcp", 53}, {"udp", 49161}, {"udp", 49151}, {"udp", 5353}, {"tcp", 2100}} {
		refused(s, s.lan.Client, closed.network, addr, closed.port)
	}
}

// flow is a UDP sender that uses one socket and never pauses.
type flow struct {
	mu    sync.Mutex
	first map[string]time.Time // by host that answered, its first answer
}

// flow starts one, which sends every ten milliseconds until the test ends.
func (s *site) flow(addr netip.Addr, port uint16) *flow {
	s.Helper()
	conn, err := s.lan.Client.DialContext(s.ctx, "udp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		s.Fatal(err)
	}
	f := &flow{first: map[string]time.Time{}}
	var group sync.WaitGroup
	done := make(chan struct{})
	group.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			conn.Write([]byte("still here\n")) // errors are about the datagram before
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	group.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if id, bad := probe.ParseIdentity(string(buf[:n])); err == nil && bad == nil {
				f.note(id.Host)
			}
		}
	})
	s.Cleanup(func() {
		close(done)
		conn.Close()
		group.Wait()
	})
	return f
}

func (f *flow) note(host string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first[host].IsZero() {
		f.first[host] = time.Now()
	}
}

// answeredBy waits for the first answer of a container and gives its time.
func (f *flow) answeredBy(p *project, service string) time.Time {
	p.Helper()
	id := p.inspect(service).ID[:12]
	var first time.Time
	p.within(patience, time.Now(), "the flow is answered by "+service, func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		first = f.first[id]
		if first.IsZero() {
			return fmt.Errorf("%s (%s) has not answered, but %v", service, id, f.first)
		}
		return nil
	})
	return first
}

// A UDP client that never pauses is served by the new container within a second
// of its start, although conntrack knows the flow as one to the old container.
// One that began when nothing was there is picked up as quickly.
func udpFlows(s *site) {
	p := s.project("flows", `
services:
  voice:
    image: peer:lab
    command: [serve, "udp:5060"]
    networks: [transit]
    labels: {anchord.expose: "udp/5060"}
  squatter:
    image: peer:lab
    networks: [transit]
  late:
    image: peer:lab
    command: [serve, "udp:5061", "tcp:80"]
    networks: [transit]
    labels: {anchord.expose: "udp/5061,tcp/80"}
`)
	p.up("anchord", "voice")
	addr := p.addr()
	s.within(patience, time.Now(), "voice answers", answers(s.lan.Client, "udp", addr, 5060))
	running, early := s.flow(addr, 5060), s.flow(addr, 5061)
	running.answeredBy(p, "voice")

	p.up("--force-recreate", "--no-deps", "voice")
	p.followed("recreated", running, "voice")
	old := p.transitAddr("voice")
	p.compose("rm", "--stop", "--force", "voice")
	p.up("squatter")
	p.up("voice")
	p.followed("recreated with another address", running, "voice")
	if now := p.transitAddr("voice"); now == old {
		s.Errorf("the address was to be another one than %s", old)
	}
	p.up("late")
	p.followed("late", early, "late")
}

func (p *project) followed(what string, f *flow, service string) {
	p.Helper()
	took := running(p.startEvent(service), f.answeredBy(p, service))
	p.Logf("%s: answered %v after the start", what, took)
	if took > time.Second {
		p.Errorf("%s: the flow was answered by the new container %v after its start, want at most 1 s", what, took)
	}
}

// Fifty recreations of one service cost the clients of another not one
// connection, nor the second that a lost first packet costs.
func fiftyRecreations(s *site) {
	p := s.project("fifty", `
services:
  steady:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
`)
	p.up()
	addr := p.reachable(80)
	steady := p.enter("steady")
	for _, h := range []*lab.Host{s.lan.Client, steady} {
		s.must(h, "nft", firstPackets)
	}
	// Else the client runs out of ports, each of which rests for a minute.
	if err := s.lan.Client.Sysctl("net.ipv4.tcp_tw_reuse", "1"); err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	report := make(chan probe.FloodReport, 1)
	go func() {
		report <- probe.ConnFlood(ctx, s.lan.Client, netip.AddrPortFrom(addr, 80).String(), 2, 10*time.Minute, sameClient)
	}()
	for n := range 50 {
		if !p.recreate(n) {
			break
		}
	}
	cancel()
	r := <-report
	s.Logf("%d connections in %v, the slowest took %v", r.Connections, r.Elapsed.Round(time.Second), r.Slowest)
	if r.Failures > 0 || r.Connections < 1000 {
		s.Errorf("of %d connections to the other service %d failed, the first with: %s", r.Connections, r.Failures, r.FirstError)
	}
	s.within(patience, time.Now(), "as many first packets have arrived as were sent", func(context.Context) error {
		there, here := s.must(steady, "nft", "list", "counters"), s.must(s.lan.Client, "nft", "list", "counters")
		if there != here {
			return fmt.Errorf("the service has %s\nthe client has %s", there, here)
		}
		return nil
	})
	s.within(patience, time.Now(), "the last one recreated answers", answers(s.lan.Client, "tcp", addr, 81))
}

// firstPackets counts the first packet of each connection to port 80 and the first
// answer: at one end those that are sent, at the other those that arrive.
const firstPackets = `table ip first_packets {
	counter questions {}
	counter answers {}
	chain tell {
		tcp dport 80 tcp flags & (syn | ack) == syn counter name questions
		tcp sport 80 tcp flags & (syn | ack) == syn | ack counter name answers
	}
	chain arriving { type filter hook input priority 0; jump tell; }
	chain leaving { type filter hook output priority 0; jump tell; }
}`

func sameClient(a probe.Answer) error {
	if a.Peer != a.From {
		return fmt.Errorf("the service sees %s, but the client is %s", a.Peer, a.From)
	}
	return nil
}

// recreate replaces the service "other" by a new container, without the time
// that Compose takes.
func (p *project) recreate(n int) bool {
	p.Helper()
	docker, name := p.engine.Client(), p.container("other")
	if n > 0 {
		if err := docker.ContainerRemove(p.ctx, name, container.RemoveOptions{Force: true}); err != nil {
			p.Error(err)
			return false
		}
	}
	_, err := docker.ContainerCreate(p.ctx, &container.Config{
		Image: lab.ImagePeer, Cmd: []string{"serve", "tcp:81"},
		Labels: map[string]string{
			"anchord.expose":             "tcp/81",
			"com.docker.compose.project": p.name, "com.docker.compose.service": "other", "com.docker.compose.oneoff": "False",
		},
	}, &container.HostConfig{NetworkMode: container.NetworkMode(p.name + "_transit")}, &network.NetworkingConfig{}, nil, name)
	if err == nil {
		err = docker.ContainerStart(p.ctx, name, container.StartOptions{})
	}
	if err != nil {
		p.Error(err)
	}
	return err == nil
}
