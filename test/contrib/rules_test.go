// Package contrib_test checks what the project ships for Prometheus, Grafana
// and Loki: with their own tools where there is one, and that nothing is named
// there that anchord does not have.
package contrib_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/AlexCherrypi/anchord/test/dashboard"
	"github.com/AlexCherrypi/anchord/test/tools"
)

const root = "../../"

// ruleFile is the form that Prometheus and Loki share.
type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

type rule struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func rules(t *testing.T, path string) (all []rule) {
	t.Helper()
	var file ruleFile
	read(t, path, &file)
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no rules", path)
	}
	return all
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text(t, path)), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(root + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMain(m *testing.M) {
	if err := tools.Use("test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(dashboard.Program("promtool"), args...)
	cmd.Dir = root + "contrib/prometheus"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPrometheusTakesTheRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")
	promtool(t, "test", "rules", "alerts_test.yml")
}

// wellSaid are the words that somebody reads who was woken up.
func wellSaid(t *testing.T, r rule) {
	t.Helper()
	if !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) {
		t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
	}
	says := r.Annotations["description"] // or has anchord say it
	if !strings.HasSuffix(r.Annotations["summary"], ".") || len(says) < 60 && !strings.Contains(says, "$labels.msg") {
		t.Errorf("%s: summary %q, description %q", r.Alert, r.Annotations["summary"], says)
	}
}

func TestEveryAlertIsSeenToFire(t *testing.T) {
	tests := text(t, "contrib/prometheus/alerts_test.yml")
	for _, r := range rules(t, "contrib/prometheus/alerts.yml") {
		wellSaid(t, r)
		if !strings.Contains(tests, `alertname="`+r.Alert+`"`) && !strings.Contains(tests, "alertname: "+r.Alert) {
			t.Errorf("no test sees %s fire", r.Alert)
		}
	}
}

// metrics are the names in docs/metrics.md, which is made from the live
// registries.
func metrics(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(anchord_\\w+)").FindAllStringSubmatch(text(t, "docs/metrics.md"), -1) {
		names = append(names, m[1])
	}
	return names
}

// wantMetrics checks that a PromQL expression names metrics that there are.
func wantMetrics(t *testing.T, where, expr string) {
	t.Helper()
	known := metrics(t)
	for _, name := range regexp.MustCompile(`\banchord_\w+`).FindAllString(expr, -1) {
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"), "_sum")
		if !slices.Contains(known, name) {
			t.Errorf("%s: there is no metric %s", where, name)
		}
	}
}

func TestAlertsAreMadeOfMetricsThatThereAre(t *testing.T) {
	for _, r := range rules(t, "contrib/prometheus/alerts.yml") {
		wantMetrics(t, r.Alert, r.Expr)
	}
}

// The configurations of Prometheus in docs/monitoring.md are such as it takes.
func TestDocumentedScrapingIsTaken(t *testing.T) {
	dir := t.TempDir()
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(text(t, "docs/monitoring.md"), -1)
	checked := 0
	for _, block := range blocks {
		if !strings.Contains(block[1], "scrape_configs:") {
			continue
		}
		checked++
		path := filepath.Join(dir, "prometheus.yml")
		for name, content := range map[string]string{path: block[1], filepath.Join(dir, "alerts.yml"): text(t, "contrib/prometheus/alerts.yml")} {
			if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		promtool(t, "check", "config", path)
	}
	if checked != 2 {
		t.Errorf("docs/monitoring.md has %d configurations of Prometheus", checked)
	}
}
