package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/peer/probe"
)

// The example of overriding templates, mounted as it tells. It is broken at the start, so that the embedded rules are used; from
// its repair on, a port is closed to all but one network, and new connections
// to another are limited.
func overridingTemplates(s *site) {
	p := s.project("overrides", `
services:
  web:
    image: peer:lab
    command: [serve, "tcp:80", "tcp:8080"]
    networks: [transit]
    labels: {anchord.expose: "tcp/80,tcp/8080"}
`)
	p.write("overrides.yaml", readExample(s.T, "overrides/overrides.yaml"))
	dir := filepath.Join(p.dir, "templates")
	template := func(name, text string) {
		s.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			s.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			s.Fatal(err)
		}
	}
	// The example's networks, but for those that are this LAN's.
	onlyFrom := strings.NewReplacer("192.0.2.0/24, 198.51.100.0/24", s.lan.Prefix.String()).Replace(readExample(s.T, "overrides/templates/10-only-from.nft.tmpl"))
	template("10-only-from.nft.tmpl", strings.Replace(onlyFrom, "saddr", "sadr", 2))
	template("20-new-connections.nft.tmpl", readExample(s.T, "overrides/templates/20-new-connections.nft.tmpl"))
	p.up()
	addr := p.reachable(80)
	s.within(patience, time.Now(), "the metric says that templates are refused", p.metricIs("anchord_template_override_refused", "1"))
	s.within(patience, time.Now(), "the embedded rules let everybody in", answers(s.lan.Remote, "tcp", addr, 8080))
	told := p.logged("template.override_refused")
	if len(told) != 1 || told[0].Level != "error" || !strings.Contains(told[0].Msg, "10-only-from.nft.tmpl:") || !strings.Contains(told[0].Msg, "sadr") {
		s.Errorf("the log tells of the refusal: %v", told)
	}
	if text := p.exec("anchord", "status"); !strings.Contains(text, "PROBLEM (template.override_refused)") {
		s.Errorf("the status does not show the refusal:\n%s", text)
	}
	held := s.hold(addr, 8080)

	template("10-only-from.nft.tmpl", onlyFrom)
	s.within(patience, time.Now(), "the metric says that they are accepted", p.metricIs("anchord_template_override_refused", "0"))
	s.within(patience, time.Now(), "the port answers its network", answers(s.lan.Client, "tcp", addr, 8080))
	s.within(patience, time.Now(), "it is closed for others", func(ctx context.Context) error {
		answer, err := asks(ctx, s.lan.Remote, "tcp", addr, 8080)
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			return fmt.Errorf("it says %v, %v", answer, err)
		}
		return nil
	})
	s.limited(addr)
	if _, err := probe.AskOn(s.ctx, held); err != nil {
		s.Errorf("a connection that was there before: %v", err)
	}
	if status := p.status(); len(status.Problems) > 0 {
		s.Errorf("the status still has the problems %+v", status.Problems)
	}
}

// limited opens connections to port 80 until one is refused, which the example
// promises for the one after the twentieth, or some more if they take long.
func (s *site) limited(addr netip.Addr) {
	s.Helper()
	began, passed := time.Now(), 0
	for {
		_, err := asks(s.ctx, s.lan.Client, "tcp", addr, 80)
		if err != nil && strings.Contains(err.Error(), "connection refused") {
			break
		}
		if err != nil {
			s.Fatal(err)
		}
		passed++
	}
	if most := 21 + int(time.Since(began)/(3*time.Second)); passed < 20 || passed > most {
		s.Errorf("%d new connections passed, want 20 to %d", passed, most)
	}
}
