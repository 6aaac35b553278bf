package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// serviceAnchor is the example of that pattern from end to end. It needs a host
// that does not filter bridged packets: its transit network is internal, and
// there Docker's own rules drop each packet of a client, whose address is not of
// the network.
func serviceAnchor(s *site) {
	p := s.projectOf("mymail", readExample(s.T, "service-anchor/compose.yaml"), `
services:
  web-anchor:
    environment: {ANCHORD_GATEWAY_RESOLVE_INTERVAL: 1h} # what is put right, it was told of
`)
	start := p.up()
	lease := p.lease(p.name)
	s.within(patience, start, "nginx serves its page", showsNginx(s.lan.Client, lease.Addr))
	s.within(patience, time.Now(), "nginx logs the client's address", p.nginxLogs("web", s.lan.Client))
	refused(s, s.lan.Client, "tcp", lease.Addr, 8080)

	s.serve(s.lan.Client, "tcp:7000", "udp:7000")
	leaves := func(what string) {
		s.Helper()
		for _, network := range []string{"tcp", "udp"} {
			s.within(patience, time.Now(), network+" leaves as the project, "+what,
				leavesAs(lease.Addr, p.enter("web-anchor"), network, s.lan.Client.Addr, 7000))
		}
	}
	leaves("at the start")

	p.docker("exec", p.container("web-anchor"), "ip", "route", "delete", "default")
	s.within(patience, time.Now(), "the default route is put back", p.servicesRoute)
	leaves("after the route was deleted")

	// The service shares the namespace, so Compose restarts it as well.
	p.compose("restart", "web-anchor")
	s.within(patience, time.Now(), "nginx answers after a restart of the service-anchor", showsNginx(s.lan.Client, lease.Addr))
	s.within(patience, time.Now(), "the default route is there", p.servicesRoute)
	leaves("after a restart of the service-anchor")

	before := p.starts("web-anchor", "web", "whoami")
	p.up("--force-recreate", "--no-deps", "anchord")
	s.within(patience, p.started("anchord"), "nginx answers after anchord was recreated", showsNginx(s.lan.Client, lease.Addr))
	leaves("after anchord was recreated")
	if after := p.starts("web-anchor", "web", "whoami"); after != before {
		s.Errorf("something else was restarted: before %s, after %s", before, after)
	}

	p.compose("stop", "web", "web-anchor")
	if c := p.inspect("web-anchor").State; c.ExitCode != 0 {
		s.Errorf("the service-anchor ended with %d", c.ExitCode)
	}
}

// servicesRoute is a look at whether the service's default route leads to
// anchord.
func (p *project) servicesRoute(context.Context) error {
	host, err := p.engine.Enter(p.ctx, p.container("web-anchor"))
	if err != nil {
		return err
	}
	got, err := p.command(host, "ip", "route", "show", "default")
	if want := "default via " + p.transitAddr("anchord").String() + " dev "; err == nil && !strings.HasPrefix(got, want) {
		err = fmt.Errorf("the default route is %q, want %q", got, want)
	}
	return err
}

// outsideNames asks for a name that only the LAN's own name server knows, in an
// application on networks without a way out.
func outsideNames(s *site) {
	if err := s.lan.ConfigureDHCP(s.ctx, func(c *lab.DHCPConfig) { c.Extra = append(c.Extra, "address=/outside.example/203.0.113.9") }); err != nil {
		s.Fatal(err)
	}
	p := s.projectOf("names", readExample(s.T, "service-anchor/compose.yaml"), "")
	start := p.up()
	asks := func(service string, command ...string) func(context.Context) error {
		return func(context.Context) error {
			out, err := try(s.engine.Docker(s.ctx, append([]string{"exec", p.container(service)}, command...)...))
			if command[len(command)-1] != "outside.example" {
				return err
			}
			if !strings.Contains(out, "203.0.113.9") { // which answers nobody
				return fmt.Errorf("it says %q (%v)", out, err)
			}
			return nil
		}
	}
	s.within(patience, start, "the application resolves a name of the outside", slow(asks("web", "getent", "ahostsv4", "outside.example")))
	s.within(patience, start, "so does busybox", slow(asks("web-anchor", "busybox", "ping", "-c", "1", "-W", "1", "outside.example")))
	s.within(patience, start, "the application resolves another container's name", slow(asks("web", "getent", "ahostsv4", "whoami")))
	if servers := p.nameServers(); len(servers) != 2 || servers[0] != "127.0.0.11" || servers[1] != p.transitAddr("anchord").String() {
		s.Errorf("the name servers are %q", servers)
	}
	p.docker("kill", "--signal", "TERM", p.container("web-anchor"))
	s.within(patience, time.Now(), "its name server is gone with the service-anchor", func(context.Context) error {
		if servers := p.nameServers(); len(servers) != 1 {
			return fmt.Errorf("they are %q", servers)
		}
		return nil
	})
}

// nameServers are those of the application.
func (p *project) nameServers() []string {
	p.Helper()
	var servers []string
	for line := range strings.Lines(p.docker("exec", p.container("web"), "cat", "/etc/resolv.conf")) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "nameserver" {
			servers = append(servers, fields[1])
		}
	}
	return servers
}

// anchordMoves recreates anchord while another container has taken its address
// on the transit network: the service-anchors follow it within a second of its
// being ready, because it says where it is; on their own they do not look.
func anchordMoves(s *site) {
	p := s.projectOf("moving", readExample(s.T, "service-anchor/compose.yaml"), `
services:
  squatter:
    image: peer:lab
    networks: [transit]
  web-anchor:
    environment: {ANCHORD_GATEWAY_RESOLVE_INTERVAL: 1h}
`)
	p.up("anchord", "web-anchor", "web", "whoami")
	lease := p.lease(p.name)
	s.within(patience, time.Now(), "nginx serves its page", showsNginx(s.lan.Client, lease.Addr))
	s.serve(s.lan.Client, "tcp:7000")
	inbound := s.looks(showsNginx(s.lan.Client, lease.Addr))
	outbound := s.looks(leavesAs(lease.Addr, p.enter("web-anchor"), "tcp", s.lan.Client.Addr, 7000))
	for round := range 3 {
		old := p.transitAddr("anchord")
		p.compose("rm", "--stop", "--force", "anchord")
		p.compose("rm", "--stop", "--force", "squatter")
		p.up("--no-deps", "squatter")
		p.up("--no-deps", "anchord")
		p.backWhenReady(inbound, outbound)
		s.Logf("round %d: from %s to %s", round, old, p.transitAddr("anchord"))
		if round == 0 && p.transitAddr("anchord") == old {
			s.Error("anchord has its old address")
		}
	}
}
