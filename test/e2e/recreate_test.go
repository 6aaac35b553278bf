package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// The network-anchor is recreated, as an update does: nothing else restarts,
// and both directions work within a second of its being ready, with the same
// address, although the containers and the LAN know the old one's MAC.
func anchordRecreated(s *site) {
	p := s.project("updated", twoServices)
	p.up()
	addr := p.reachable(80)
	s.serve(s.lan.Client, "tcp:7000")
	app := p.enter("app")
	s.within(patience, time.Now(), "services leave as the project", leavesAs(addr, app, "tcp", s.lan.Client.Addr, 7000))
	before, id := p.starts("web", "app"), p.inspect("anchord").ID
	inbound := s.looks(answers(s.lan.Client, "tcp", addr, 80))
	outbound := s.looks(leavesAs(addr, app, "tcp", s.lan.Client.Addr, 7000))

	p.up("--force-recreate", "--no-deps", "anchord")
	if p.inspect("anchord").ID == id {
		s.Fatal("anchord is still the old container")
	}
	p.backWhenReady(inbound, outbound)
	if now := p.addr(); now != addr {
		s.Errorf("the address was %s, now it is %s", addr, now)
	}
	if after := p.starts("web", "app"); after != before {
		s.Errorf("something else was restarted: before %s, after %s", before, after)
	}
}

// backWhenReady checks the time from anchord's own word, that it is ready and has
// its address back, to the first success in each direction.
func (p *project) backWhenReady(inbound, outbound *looks) {
	p.Helper()
	started := p.started("anchord")
	ready, bound := p.ready(started), p.says("dhcp.bound", started)
	p.Logf("ready %v after the start, bound %v after it", ready.Sub(started), bound.Sub(started))
	if bound.After(ready) {
		ready = bound
	}
	p.back(time.Second, started, ready, map[string]*looks{"works from the LAN": inbound, "works to the LAN": outbound})
}

// ready waits until anchord has said that it is and gives that time.
func (p *project) ready(since time.Time) time.Time {
	p.Helper()
	return p.says("anchord.ready", since)
}

// says waits until anchord has logged an event after a moment and gives that time.
func (p *project) says(event string, since time.Time) time.Time {
	p.Helper()
	var at time.Time
	p.within(patience, time.Now(), "anchord says "+event, func(context.Context) error {
		for _, l := range p.logged(event) {
			if l.Time.After(since) {
				at = l.Time
				return nil
			}
		}
		return errors.New("it has not")
	})
	return at
}

// anchordKilled is the worst end of the program: the restart policy brings it
// back, with the address that it had.
func anchordKilled(s *site) {
	p := s.project("killed", twoServices)
	p.up()
	addr := p.reachable(80)
	s.serve(s.lan.Client, "tcp:7000")
	app := p.enter("app")
	before := p.starts("web", "app")
	inbound := s.looks(answers(s.lan.Client, "tcp", addr, 80))
	outbound := s.looks(leavesAs(addr, app, "tcp", s.lan.Client.Addr, 7000))
	first := p.started("anchord")
	// What ends with anchord is also the shell that ended it.
	try(s.engine.Docker(s.ctx, "exec", p.container("anchord"), "sh", "-c", "kill -KILL $(busybox pidof anchord)"))
	s.within(patience, time.Now(), "Docker has started anchord again", func(context.Context) error {
		if c := p.inspect("anchord"); c.RestartCount != 1 || !c.State.Running || !p.started("anchord").After(first) {
			return fmt.Errorf("restart count %d, %+v", c.RestartCount, c.State)
		}
		return nil
	})
	p.backWhenReady(inbound, outbound)
	if now := p.addr(); now != addr {
		s.Errorf("the address was %s, now it is %s", addr, now)
	}
	if after := p.starts("web", "app"); after != before {
		s.Errorf("something else was restarted: before %s, after %s", before, after)
	}
}

// Tables that somebody deletes are back within a second, and so is the default
// route.
func repairedByHand(s *site) {
	p := s.project("tampered", twoServices)
	p.up()
	addr := p.reachable(80)
	box := p.enter("anchord")
	s.serve(s.lan.Client, "tcp:7000")
	for i, table := range []string{"ip anchord_v4", "ip6 anchord_v6"} {
		before := s.must(box, "nft", "--stateless", "list", "chain", table, "forward")
		p.putBack(box, "ruleset.applied", "nft", "delete", "table", table)
		s.within(patience, time.Now(), "table "+table+" is what it was", func(context.Context) error {
			now, err := s.command(box, "nft", "--stateless", "list", "chain", table, "forward")
			if err == nil && now != before {
				err = fmt.Errorf("it differs: %s", now)
			}
			return err
		})
		s.within(patience, time.Now(), "the service answers", answers(s.lan.Client, "tcp", addr, 80))
		s.within(patience, time.Now(), "the metric counts it", p.metricIs("anchord_ruleset_drift_total", strconv.Itoa(i+1)))
	}
	p.putBack(box, "route.reasserted", "ip", "route", "delete", "default")
	s.within(patience, time.Now(), "the default route is back", p.defaultRoute)
	s.within(patience, time.Now(), "services leave as the project", leavesAs(addr, p.enter("app"), "tcp", s.lan.Client.Addr, 7000))
	if len(p.logged("route.reasserted")) != 1 {
		s.Error("the log does not say once that the route was put back")
	}
}

// putBack checks that anchord undoes what a command does, and says so, within a
// second.
func (p *project) putBack(box *lab.Host, event string, command ...string) {
	p.Helper()
	start := time.Now()
	p.must(box, command...)
	took := running(start, p.says(event, start))
	p.Logf("%s: put back after %v", strings.Join(command, " "), took)
	if took > time.Second {
		p.Errorf("%s: put back after %v, want at most 1 s", strings.Join(command, " "), took)
	}
}

// defaultRoute is a look at whether anchord's namespace has the one default
// route that it shall have.
func (p *project) defaultRoute(context.Context) error {
	box, err := p.engine.Enter(p.ctx, p.container("anchord"))
	if err != nil {
		return err
	}
	got, err := p.command(box, "ip", "route", "show", "default")
	if want := "default via " + p.lan.Router.Addr.String() + " dev "; err == nil && (!strings.HasPrefix(got, want) || strings.Contains(got, "\n")) {
		err = fmt.Errorf("the default route is %q, want %q", got, want)
	}
	return err
}

// Docker sets a default route of its own when it connects a container to one
// more network, if it comes first by name. Engine 28 refuses to connect such a
// network, because there is a default route already that is not its own.
func networkConnected(s *site) {
	p := s.project("connected", twoServices)
	p.withoutPoll("anchord")
	p.up()
	addr := p.reachable(80)
	s.serve(s.lan.Client, "tcp:7000")
	app := p.enter("app")
	for _, name := range []string{"aaa", "zzz"} {
		other := p.otherNetwork(name)
		for _, verb := range []string{"connect", "disconnect"} {
			_, err := try(s.engine.Docker(s.ctx, "network", verb, other, p.container("anchord")))
			if refused := name == "aaa" && !s.engine.old; err != nil && !refused {
				s.Fatal(err)
			} else if err != nil {
				s.Log(err)
			}
			done, what := time.Now(), " after "+verb+" "+name
			s.within(patience, done, "the default route is the LAN's"+what, p.defaultRoute)
			s.within(patience, done, "the service answers"+what, answers(s.lan.Client, "tcp", addr, 80))
			s.within(patience, done, "services leave as the project"+what, leavesAs(addr, app, "tcp", s.lan.Client.Addr, 7000))
		}
	}
	s.stays(2*time.Second, "the default route", p.defaultRoute)
}

// otherNetwork makes a network that is not of the project.
func (p *project) otherNetwork(name string) string {
	p.Helper()
	other := name + "-" + p.name
	p.docker("network", "create", other)
	p.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		try(p.engine.Docker(ctx, "network", "disconnect", "--force", other, p.container("anchord")))
		if _, err := try(p.engine.Docker(ctx, "network", "rm", other)); err != nil {
			p.Error(err)
		}
	})
	return other
}

// stays checks that a look succeeds for a while, all the time. Each may take the
// time that it takes.
func (s *site) stays(length time.Duration, what string, look func(ctx context.Context) error) {
	s.Helper()
	for end := time.Now().Add(length); ; time.Sleep(50 * time.Millisecond) {
		if err := look(s.ctx); err != nil {
			s.Fatalf("%s does not stay: %v", what, err)
		}
		if time.Now().After(end) {
			return
		}
	}
}

// Docker's socket is away for ten seconds: what is exposed stays, the fact
// shows, and what changed meanwhile is seen afterwards.
func dockerSocketGone(s *site) {
	dir, err := s.engine.TempDir()
	if err != nil {
		s.Fatal(err)
	}
	proxy := s.proxy(dir + "/docker.sock")
	p := s.project("deaf", fmt.Sprintf(`
services:
  web:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
  other:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/81:80"}
  late:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/82:80"}
  anchord:
    environment: {DOCKER_HOST: "unix:///proxy/docker.sock"}
    volumes: ["%s:/proxy"]
`, dir))
	p.withoutPoll("anchord")
	p.up("anchord", "web", "other")
	addr := p.reachable(80)
	s.within(patience, time.Now(), "the other answers", answers(s.lan.Client, "tcp", addr, 81))
	rules := p.ruleset()

	proxy.close()
	closed := time.Now()
	s.within(patience, closed, "the metric tells it", p.metricIs("anchord_docker_connected", "0"))
	if p.status().Docker.Connected {
		s.Error("status says that Docker is connected")
	}
	p.up("late")
	p.compose("stop", "other")
	s.stays(time.Until(closed.Add(10*time.Second)), "the service", answers(s.lan.Client, "tcp", addr, 80))
	if now := p.ruleset(); now != rules {
		s.Errorf("the ruleset changed, before\n%s\nnow\n%s", rules, now)
	}
	proxy.open(s)
	s.within(patience, time.Now(), "what was started meanwhile answers", answers(s.lan.Client, "tcp", addr, 82))
	s.within(patience, time.Now(), "what was stopped meanwhile is closed", s.isRefused(addr, 81))
	s.within(patience, time.Now(), "the metric tells it", p.metricIs("anchord_docker_connected", "1"))
	s.within(patience, time.Now(), "the log tells the loss once", p.loggedTimes("docker.lost", 1))
	s.within(patience, time.Now(), "and what was found", p.loggedTimes("docker.connected", 2))
}

func (p *project) metricIs(name, want string) func(context.Context) error {
	return func(context.Context) error {
		if got := p.metric(name); got != want {
			return fmt.Errorf("%s is %q, want %q", name, got, want)
		}
		return nil
	}
}

func (s *site) isRefused(addr netip.Addr, port uint16) func(context.Context) error {
	return func(ctx context.Context) error {
		answer, err := asks(ctx, s.lan.Client, "tcp", addr, port)
		if err == nil {
			return fmt.Errorf("it is answered: %v", answer)
		}
		if !strings.Contains(err.Error(), "connection refused") {
			return err
		}
		return nil
	}
}
