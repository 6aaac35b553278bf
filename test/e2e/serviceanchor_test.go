package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// serviceAnchor is the example of that pattern from end to end. It needs a host
// that does not filter bridged packets: its transit network is internal, and
// there Docker's own rules drop each packet of a client, whose address is not of
// the network.
func serviceAnchor(s *site) {
	p := s.projectOf("mymail", readExample(s.T, "service-anchor/compose.yaml"), "")
	start := p.up()
	lease := p.lease(p.name)
	s.within(patience, start, "nginx serves its page", showsNginx(s.lan.Client, lease))
	s.within(5*time.Second, time.Now(), "nginx logs the client's address", p.nginxLogs("web", s.lan.Client))
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
	s.within(time.Second, time.Now(), "the default route is put back", p.servicesRoute)
	leaves("after the route was deleted")

	// The service shares the namespace, so Compose restarts it as well.
	p.compose("restart", "web-anchor")
	s.within(patience, time.Now(), "nginx answers after a restart of the service-anchor", showsNginx(s.lan.Client, lease))
	s.within(patience, time.Now(), "the default route is there", p.servicesRoute)
	leaves("after a restart of the service-anchor")

	before := p.starts("web-anchor", "web", "whoami")
	p.up("--force-recreate", "--no-deps", "anchord")
	s.within(patience, p.started("anchord"), "nginx answers after anchord was recreated", showsNginx(s.lan.Client, lease))
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
