package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Two containers want one port: the older keeps it, the newer gets its other
// ports, both are told to the user, and it takes over when the older is gone.
func labelConflict(s *site) {
	p := s.project("conflict", `
services:
  older:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
  newer:
    image: peer:lab
    command: [serve, "tcp:80", "tcp:81"]
    networks: [transit]
    labels: {anchord.expose: "tcp/80,tcp/81"}
`)
	p.withoutPoll("anchord")
	p.up("anchord", "older")
	addr := p.reachable(80)
	p.up("newer")
	s.within(patience, time.Now(), "the newer one's other port answers", answers(s.lan.Client, "tcp", addr, 81))
	older, newer := p.container("older"), p.container("newer")
	if answer, err := asks(s.ctx, s.lan.Client, "tcp", addr, 80); err != nil || answer.Host != p.inspect("older").ID[:12] {
		s.Errorf("port 80 is not the older container's: %v, %v", answer, err)
	}
	s.within(patience, time.Now(), "the metric counts it", p.metricIs("anchord_expose_conflicts", "1"))
	s.within(patience, time.Now(), "the status tells it", func(context.Context) error {
		problems := p.status().Problems
		if len(problems) != 1 || problems[0].Event != "expose.conflict" || problems[0].Container != newer || !strings.Contains(problems[0].Message, older) {
			return fmt.Errorf("it has the problems %+v", problems)
		}
		return nil
	})
	if text := p.exec("anchord", "status"); !strings.Contains(text, "PROBLEM (expose.conflict)") {
		s.Errorf("the status does not show the conflict:\n%s", text)
	}
	s.within(patience, time.Now(), "the log tells it once", p.loggedTimes("expose.conflict", 1))
	lines := p.logged("expose.conflict")
	if len(lines) != 1 || lines[0].Level != "error" || !strings.Contains(lines[0].Msg, older) || !strings.Contains(lines[0].Msg, newer) {
		s.Errorf("the log tells of the conflict: %v", lines)
	}

	p.compose("stop", "older")
	s.within(patience, time.Now(), "the newer one takes over", func(ctx context.Context) error {
		answer, err := asks(ctx, s.lan.Client, "tcp", addr, 80)
		if err == nil && answer.Host != p.inspect("newer").ID[:12] {
			err = fmt.Errorf("port 80 is answered by %v", answer)
		}
		return err
	})
	s.within(patience, time.Now(), "the metric is back", p.metricIs("anchord_expose_conflicts", "0"))
	s.within(patience, time.Now(), "the status is content", p.noProblems)
}

// noProblems is a look at whether the status has none.
func (p *project) noProblems(context.Context) error {
	if problems := p.status().Problems; len(problems) > 0 {
		return fmt.Errorf("it has the problems %+v", problems)
	}
	return nil
}

// A label with one bad entry costs only its own container, says what is wrong,
// and works once it is mended.
func malformedLabel(s *site) {
	services := `
services:
  good:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
  bad:
    image: peer:lab
    command: [serve, "tcp:81", "tcp:82"]
    networks: [transit]
    labels: {anchord.expose: "tcp/81,tcp/99999"}
`
	p := s.project("malformed", services)
	p.up()
	addr := p.reachable(80)
	s.within(patience, time.Now(), "the metric counts it", p.metricIs("anchord_expose_errors", "1"))
	refused(s, s.lan.Client, "tcp", addr, 81)
	s.within(patience, time.Now(), "the log tells it once", p.loggedTimes("label.rejected", 1))
	lines := p.logged("label.rejected")
	if len(lines) != 1 || lines[0].Level != "error" || !strings.Contains(lines[0].Msg, p.container("bad")) ||
		!strings.Contains(lines[0].Msg, "tcp/99999") || !strings.Contains(lines[0].Msg, "65535") {
		s.Errorf("the log does not tell container, entry and reason once: %v", lines)
	}
	p.write("scenario.yaml", strings.Replace(services, "tcp/99999", "tcp/82", 1))
	p.up()
	for _, port := range []uint16{80, 81, 82} {
		s.within(patience, time.Now(), fmt.Sprintf("port %d answers", port), answers(s.lan.Client, "tcp", addr, port))
	}
	s.within(patience, time.Now(), "the metric is back", p.metricIs("anchord_expose_errors", "0"))
	s.within(patience, time.Now(), "the status is content", p.noProblems)
}
