package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// leastPrivilege is all that anchord needs, as docs/security.md has it: three
// capabilities, a root file system that cannot be written, no new privileges. The
// lease is renewed, which takes one of the three, and given back.
func leastPrivilege(s *site) {
	p := s.project("least", twoServices+docBlock(s.T, "docs/security.md", "## Least privilege", "yaml"))
	p.up()
	addr := p.reachable(80)
	host := p.inspect("anchord").HostConfig
	if len(host.CapAdd) != 3 || !host.ReadonlyRootfs || len(host.CapDrop) != 1 {
		s.Fatalf("the container does not have what this is about: %v, %v, %v", host.CapAdd, host.CapDrop, host.ReadonlyRootfs)
	}
	s.serve(s.lan.Client, "tcp:7000")
	s.within(patience, time.Now(), "services leave as the project", leavesAs(addr, p.enter("app"), "tcp", s.lan.Client.Addr, 7000))
	s.within(patience, time.Now(), "the lease is renewed", func(context.Context) error {
		if len(p.logged("dhcp.renewed")) == 0 {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	web := s.looks(answers(s.lan.Client, "tcp", addr, 80))
	p.up("--force-recreate", "--no-deps", "web")
	start := p.started("web")
	s.back(5*time.Second, start, start, map[string]*looks{"the new container answers": web})
	web.stop()
	for _, l := range p.log() {
		// While its only service was recreated, nothing was exposed.
		if (l.Level == "warning" || l.Level == "error") && l.Event != "expose.no_backends" {
			s.Errorf("anchord complains: %s", l.Raw)
		}
	}
	p.stop("anchord")
	// To the server the lease lasts two minutes, too, whatever it tells its clients.
	s.released(p.name)
}

// Without NET_ADMIN there is one message, and it says what is missing.
func withoutNetAdmin(s *site) {
	p := s.project("powerless", twoServices+`
  anchord:
    cap_add: !reset []
`)
	p.up()
	if add := p.inspect("anchord").HostConfig.CapAdd; len(add) > 0 {
		s.Fatalf("the container has capabilities: %v", add)
	}
	errors := func() (found []string) {
		for _, l := range p.log() {
			if l.Level == "error" || l.Level == "fatal" {
				found = append(found, l.Raw)
			}
		}
		return found
	}
	s.within(patience, time.Now(), "an error names NET_ADMIN", func(context.Context) error {
		if said := errors(); len(said) == 0 || !strings.Contains(said[0], "NET_ADMIN") {
			return fmt.Errorf("the errors are %q", said)
		}
		return nil
	})
	p.finds("the one thing that is missing", p.doctor("anchord"), reports("capabilities", "fail", "NET_ADMIN is missing"), func(d diagnosis) error {
		if d.Failures != 1 || d.Warnings > 0 {
			return fmt.Errorf("it makes %d failures of it:\n%s", d.Failures, d.text)
		}
		return nil
	})
	// It tries again after one and after three seconds.
	s.stays(5*time.Second, "that one error", func(context.Context) error {
		if said := errors(); len(said) != 1 {
			return fmt.Errorf("there are %d:\n%s", len(said), strings.Join(said, "\n"))
		}
		return nil
	})
}
