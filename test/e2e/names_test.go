package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A network's definition changes while containers run on it, and a plain up makes it
// anew: Compose connects those that did not change themselves without their service
// names. That is told, with the command that cures it, and over when it has run.
func namesLost(s *site) {
	const other = `
networks:
  other: {internal: true%s}
services:
  web:
    image: peer:lab
    networks: [transit, other]
    labels: {anchord.expose: "tcp/80"}
  db:
    image: peer:lab
    networks: [other]
`
	s.answersDNS()
	p := s.project("renamed", "")
	p.warned = []string{"network.name_missing"}
	p.write("other.yaml", fmt.Sprintf(other, ""))
	p.up()
	p.reachable(80)
	// On the other network, which web, being on two, does not ask for itself.
	knows := func() string {
		return p.resolves(p.enter("web"), []string{"db"}) + p.resolves(p.enter("db"), []string{"web"})
	}
	if known := knows(); known != "dbweb" {
		s.Fatalf("they know only %q of each other", known)
	}
	p.finds("nothing wrong", p.doctor("anchord"), reports("names", "ok", ""))

	p.write("other.yaml", fmt.Sprintf(other, `, driver_opts: {com.docker.network.driver.mtu: "1400"}`))
	p.up("--yes")
	if known := knows(); known != "" {
		s.Fatalf("they still know %q: Compose does not lose names any more, and docs/engines.md says that it does", known)
	}
	const lost = "db on renamed_other; web on renamed_other"
	d := p.finds("the names missing", p.doctor("anchord"), reports("names", "fail", lost))
	cure := p.told(d, "names", "fail", lost).Commands
	if len(cure) != 1 || !strings.HasSuffix(cure[0], " up -d --no-deps --force-recreate db web") {
		s.Fatalf("the cure is %q", cure)
	}
	p.within(patience, time.Now(), "the status tells", p.hasProblem("network.name_missing", cure[0]))
	p.Log(p.onHost(cure[0]))
	if known := knows(); known != "dbweb" {
		s.Errorf("after the cure they know only %q", known)
	}
	p.within(patience, time.Now(), "the status tells no more", func(context.Context) error {
		if err := p.hasProblem("network.name_missing", "")(s.ctx); err == nil {
			return errors.New("it still does")
		}
		return nil
	})
	p.finds("nothing wrong any more", p.doctor("anchord"), reports("names", "ok", ""))
	if told := p.logged("network.name_missing"); len(told) != 1 {
		s.Errorf("it is told %d times: %v", len(told), told)
	}
}

// hasProblem is a look at whether the status has a problem that says this.
func (p *project) hasProblem(event, says string) func(context.Context) error {
	return func(context.Context) error {
		problems := p.status().Problems
		for _, problem := range problems {
			if problem.Event == event && strings.Contains(problem.Message, says) {
				return nil
			}
		}
		return fmt.Errorf("the problems are %v", problems)
	}
}
