package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/dashboard"
	"github.com/AlexCherrypi/anchord/test/lab"
)

// The example of a Prometheus inside the project: the LAN reads its pages, and
// it goes on scraping an anchord that was recreated, as the same instance. The
// program is Debian's, at its own place in an image without it.
func prometheusInside(s *site) {
	program := dashboard.Program("prometheus")
	p := s.projectOf("monitored", readExample(s.T, "native/compose.yaml"), "")
	p.write("monitoring.yaml", readExample(s.T, "monitoring/monitoring.yaml"))
	p.write("scenario.yaml", fmt.Sprintf(`
services:
  prometheus:
    image: %s
    entrypoint: [%s, --config.file=/etc/prometheus/prometheus.yml, --storage.tsdb.path=/prometheus]
    volumes: ["%[2]s:%[2]s:ro"]
`, lab.ImageBase, program))
	p.beside("prometheus.yml", readExample(s.T, "monitoring/prometheus.yml"))
	p.beside("alerts.yml", readExample(s.T, "../contrib/prometheus/alerts.yml"))
	p.up()
	addr := p.lease(p.name).Addr
	s.within(time.Minute, time.Now(), "it scrapes anchord", func(ctx context.Context) error {
		return s.prometheusSays(ctx, addr, "query?query=anchord_docker_connected", `"instance":"anchord"`, `"job":"anchord"`, `,"1"]`)
	})
	s.within(patience, time.Now(), "it has the alert rules", func(ctx context.Context) error {
		return s.prometheusSays(ctx, addr, "rules", `"AnchordNoLease"`, `"AnchordNotReady"`, `"health":"ok"`)
	})
	p.up("--force-recreate", "--no-deps", "anchord")
	recreated := url.QueryEscape(fmt.Sprintf("timestamp(anchord_docker_connected) > %d", time.Now().Unix()))
	s.within(time.Minute, time.Now(), "it scrapes the new one", func(ctx context.Context) error {
		return s.prometheusSays(ctx, addr, "query?query="+recreated, `"instance":"anchord"`)
	})
}

// prometheusSays asks an API of Prometheus, from the LAN.
func (s *site) prometheusSays(ctx context.Context, addr netip.Addr, what string, words ...string) error {
	page, err := fetch(ctx, s.lan.Client, fmt.Sprintf("http://%s/api/v1/%s", netip.AddrPortFrom(addr, 9090), what))
	if err != nil {
		return err
	}
	for _, word := range append(words, `"status":"success"`) {
		if !strings.Contains(page, word) {
			return fmt.Errorf("%s has no %s: %.400s", what, word, page)
		}
	}
	return nil
}

// beside writes a file that a Compose file mounts.
func (p *project) beside(name, text string) {
	p.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
		p.Fatal(err)
	}
}
