package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
)

const twoServices = `
services:
  web:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80,udp/80"}
  app:
    image: peer:lab
    networks: [transit]
`

// The DHCP server hands out another address: from the next renewal on it is the
// project's, in both directions, and nothing was restarted.
func anotherAddress(s *site) {
	p := s.project("moving", twoServices)
	p.up()
	s.serve(s.lan.Client, "tcp:7000")
	old := p.reachable(80)
	before := p.starts("anchord", "web", "app")
	wanted := s.lan.Pool.Last
	if old == wanted {
		wanted = s.lan.Pool.First
	}
	err := s.lan.ConfigureDHCP(s.ctx, func(c *lab.DHCPConfig) {
		c.Reservations = []lab.Reservation{{Hostname: p.name, Addr: wanted}}
		c.ForgetLeases = true
	})
	if err != nil {
		s.Fatal(err)
	}
	changed := time.Now()
	// The client renews when half of the time is over; told no, it waits three
	// seconds before it asks anew.
	bound := movingLease/2 + 6*time.Second
	s.within(bound, changed, "the new address answers", answers(s.lan.Client, "tcp", wanted, 80))
	s.within(bound, changed, "services leave as the new address", leavesAs(wanted, p.enter("app"), "tcp", s.lan.Client.Addr, 7000))
	s.silent(s.lan.Client, "tcp", old, 80)
	if after := p.starts("anchord", "web", "app"); after != before {
		s.Errorf("something was restarted: before %s, after %s", before, after)
	}
}

const movingLease = 30 * time.Second

// starts says when each service was started, to see that none was since.
func (p *project) starts(services ...string) string {
	p.Helper()
	var all []string
	for _, service := range services {
		c := p.inspect(service)
		all = append(all, fmt.Sprintf("%s %s %s", service, c.ID[:12], c.State.StartedAt))
	}
	return strings.Join(all, ", ")
}

// silent checks that nobody at all is at an address. A refusal is an answer.
func (s *site) silent(from *lab.Host, network string, addr netip.Addr, port uint16) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	answer, err := asks(ctx, from, network, addr, port)
	if err == nil {
		s.Errorf("%s %s:%d answers: %v", network, addr, port, answer)
		return
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "no route to host") {
		return
	}
	s.Errorf("%s %s:%d is not silent: %v", network, addr, port, err)
}

// Two projects on one LAN are two servers: two names, two addresses, and one
// does not notice that the other stops.
func twoProjects(s *site) {
	one, two := s.project("alpha", twoServices), s.project("beta", twoServices)
	one.up()
	if s.engine.old {
		// It does not make two networks of one subnet: the second project
		// joins the network of the first.
		two.write("shared.yaml", "networks:\n  lan: !override\n    external: true\n    name: alpha_lan\n")
	}
	two.up()
	first, second := one.reachable(80), two.reachable(80)
	if first == second {
		s.Fatalf("both projects have the address %s", first)
	}
	s.serve(s.lan.Client, "tcp:7000")
	s.within(patience, time.Now(), "alpha leaves as itself", leavesAs(first, one.enter("app"), "tcp", s.lan.Client.Addr, 7000))
	s.within(patience, time.Now(), "beta leaves as itself", leavesAs(second, two.enter("app"), "tcp", s.lan.Client.Addr, 7000))
	for _, c := range []struct {
		p    *project
		addr netip.Addr
	}{{one, first}, {two, second}} {
		answer, err := asks(s.ctx, s.lan.Client, "tcp", c.addr, 80)
		if err != nil || answer.Host != c.p.inspect("web").ID[:12] {
			s.Errorf("at %s the web of %s was expected, not %v, %v", c.addr, c.p.name, answer, err)
		}
	}

	conn, flow := s.hold(second, 80), s.looks(answers(s.lan.Client, "udp", second, 80))
	before, rules := two.starts("anchord", "web", "app"), two.ruleset()
	events := len(two.log())
	if s.engine.old {
		one.compose("stop")
	} else {
		one.compose("down")
		one.down = true
	}
	if _, err := s.findLease(one.name); err == nil {
		s.Error("alpha's lease is still in the table")
	}
	if _, err := askOn(s.ctx, conn); err != nil {
		s.Errorf("a connection to beta did not survive the end of alpha: %v", err)
	}
	if failed := flow.stop(); len(failed) > 0 {
		s.Errorf("beta did not answer %d times while alpha stopped, first: %v", len(failed), failed[0])
	}
	if after := two.starts("anchord", "web", "app"); after != before {
		s.Errorf("beta was restarted: before %s, after %s", before, after)
	}
	if two.ruleset() != rules || len(two.log()) != events {
		s.Errorf("the end of alpha made beta do something; its log: %v", two.log()[events:])
	}
}

// Down leaves nothing: anchord ends with 0, the lease is given back, and the
// networks can be removed.
func down(s *site) {
	p := s.project("leaving", twoServices)
	p.up()
	p.reachable(80)
	asked := time.Now()
	p.compose("stop", "anchord")
	if took := time.Since(asked); took > 6*time.Second {
		s.Errorf("stopping took %v, want at most 5 s and what Compose needs", took)
	}
	if c := p.inspect("anchord").State; c.ExitCode != 0 {
		s.Errorf("anchord ended with %d", c.ExitCode)
	}
	if l, err := s.findLease(p.name); err == nil {
		s.Errorf("the lease is still in the table: %v", l)
	}
	if len(p.logged("anchord.stopped")) != 1 {
		s.Error("anchord does not say that it stopped")
	}
	out := p.compose("down")
	p.down = true
	for _, word := range []string{"rror", "in use", "active endpoints", "arning"} {
		if strings.Contains(out, word) {
			s.Errorf("down complains: %s", out)
		}
	}
	for _, list := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q"}} {
		if left := s.docker(append(list, "--filter", "label=com.docker.compose.project="+p.name)...); left != "" {
			s.Errorf("docker %s still shows %s", list[0], left)
		}
	}
}

// The same where the namespace outlives the program, as it does when somebody
// else owns it: nothing of anchord is left in it.
func nothingLeftInNamespace(s *site) {
	p := s.project("tidy", twoServices+`
  anchord:
    entrypoint: [tini, "--", sh, "-c", "anchord; echo $$? >/tmp/exit; exec sleep infinity"]
`)
	p.up()
	addr := p.reachable(80)
	box := p.enter("anchord")
	addresses := s.must(box, "ip", "-4", "-o", "address")
	gateway := p.transitGateway()
	for _, want := range []string{addr.String() + "/", gateway + "/"} {
		if !strings.Contains(addresses, want) {
			s.Fatalf("the addresses do not have %s: %s", want, addresses)
		}
	}
	p.exec("sh", "-c", "kill -TERM $(busybox pidof anchord)")
	asked := time.Now()
	s.within(5*time.Second, asked, "anchord has ended with 0", func(context.Context) error {
		if code := p.exec("sh", "-c", "cat /tmp/exit 2>/dev/null || true"); strings.TrimSpace(code) != "0" {
			return fmt.Errorf("its exit code is %q", code)
		}
		return nil
	})
	if l, err := s.findLease(p.name); err == nil {
		s.Errorf("the lease is still in the table: %v", l)
	}
	addresses = s.must(box, "ip", "-4", "-o", "address")
	for _, gone := range []string{addr.String() + "/", gateway + "/"} {
		if strings.Contains(addresses, gone) {
			s.Errorf("anchord left the address %s: %s", gone, addresses)
		}
	}
	if route := s.must(box, "ip", "route", "show", "default"); strings.Contains(route, s.lan.Router.Addr.String()) && !s.engine.old {
		s.Errorf("anchord left the default route %s", route)
	}
	if tables := s.must(box, "nft", "list", "tables"); strings.Contains(tables, "anchord") {
		s.Errorf("anchord left its tables: %s", tables)
	}
}

// transitGateway is the address that Docker tells the containers to go by.
func (p *project) transitGateway() string {
	p.Helper()
	return strings.TrimSpace(p.docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", p.name+"_transit"))
}
