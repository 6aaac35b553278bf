package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	said := len(s.serverLog())
	err := s.lan.ConfigureDHCP(s.ctx, func(c *lab.DHCPConfig) {
		c.Reservations = []lab.Reservation{{Hostname: p.name, Addr: wanted}}
		c.ForgetLeases = true
	})
	if err != nil {
		s.Fatal(err)
	}
	// It renews when half of the time is over; told no once, it asks for another.
	var refused int
	s.within(movingLease/2+patience, time.Now(), "the new address is leased", func(context.Context) (err error) {
		refused, err = s.refusedBefore(said, wanted)
		return err
	})
	if refused != 1 {
		s.Errorf("the old address was asked for %d times until there was the new one, want once", refused)
	}
	s.within(patience, time.Now(), "the new address answers", answers(s.lan.Client, "tcp", wanted, 80))
	s.within(patience, time.Now(), "services leave as the new address", leavesAs(wanted, p.enter("app"), "tcp", s.lan.Client.Addr, 7000))
	s.silent(s.lan.Client, "tcp", old, 80)
	if after := p.starts("anchord", "web", "app"); after != before {
		s.Errorf("something was restarted: before %s, after %s", before, after)
	}
}

// serverLog is what the DHCP server has logged.
func (s *site) serverLog() string {
	s.Helper()
	text, err := os.ReadFile(s.lan.DHCPLog())
	if err != nil {
		s.Fatal(err)
	}
	return string(text)
}

// refusedBefore counts the requests that the DHCP server refused from a place in
// its log on until it leased an address.
func (s *site) refusedBefore(from int, wanted netip.Addr) (int, error) {
	log := s.serverLog()[from:]
	before, _, leased := strings.Cut(log, "DHCPACK(eth0) "+wanted.String()+" ")
	if !leased {
		return 0, fmt.Errorf("the server has not leased %s: %s", wanted, log)
	}
	return strings.Count(before, "DHCPNAK"), nil
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

	conn, flow := s.hold(second, 80), s.looks(slow(answers(s.lan.Client, "udp", second, 80)))
	before, rules := two.starts("anchord", "web", "app"), two.ruleset()
	events := len(two.log())
	if s.engine.old {
		one.compose("stop")
	} else {
		one.compose("down")
		one.down = true
	}
	s.released(one.name)
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
	p.stop("anchord")
	s.released(p.name)
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
	asked := time.Now()
	p.exec("sh", "-c", "kill -TERM $(busybox pidof anchord)")
	if took := running(asked, p.says("anchord.stopped", asked)); took > 5*time.Second {
		s.Errorf("stopping took %v, want at most 5 s", took)
	}
	s.within(patience, asked, "anchord has ended with 0", func(context.Context) error {
		if code := p.exec("sh", "-c", "cat /tmp/exit 2>/dev/null || true"); strings.TrimSpace(code) != "0" {
			return fmt.Errorf("its exit code is %q", code)
		}
		return nil
	})
	s.released(p.name)
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
