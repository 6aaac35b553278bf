package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/generated"
)

// gathered is every series as a scrape shows it, and its value. Whatever was
// counted before, no label has a value that is not one of the fixed list's.
func gathered(t *testing.T, r registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				if name != "anchord_build_info" && !slices.Contains(labelValues[l.GetName()], l.GetValue()) {
					t.Errorf("a label that is not bounded: %s %s", name, labels)
				}
			}
			if h := m.GetHistogram(); h != nil {
				name += "_count"
				series[name] = float64(h.GetSampleCount())
				continue
			}
			if labels != nil {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			series[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return series
}

// wantSeries compares the series named, as name{label="value"}; -1: absent.
func wantSeries(t *testing.T, got map[string]float64, want map[string]float64) {
	t.Helper()
	for name, v := range want {
		if g, has := got[name]; has != (v != -1) || (has && g != v) {
			t.Errorf("%s %v (there: %v), want %v", name, g, has, v)
		}
	}
}

func TestNetworkMetrics(t *testing.T) {
	registry := newRegistry(always)
	m := newNetworkMetrics(registry, func() time.Duration { return 0 }, "b")
	before := gathered(t, registry)
	for _, name := range []string{
		`build_info{commit="unknown",version="development"}`, `reconcile_duration_seconds_count`, `reconcile_total{result="error"}`, `dhcp_acquired_total{family="v4",outcome="error"}`,
		`dhcp_client_restarts_total{family="v4"}`, `dnat_entries{family="v6",proto="udp"}`, `conntrack_flushes_total{family="v6"}`, `docker_events_total{source="poll"}`,
		`ruleset_apply_duration_seconds_count`, `ruleset_apply_total{result="error"}`, `ruleset_drift_total`, `route_reasserts_total{family="v6"}`,
		`expose_conflicts`, `expose_errors`, `docker_connected`, `template_override_refused`, `event_to_ruleset_seconds_count`,
	} {
		if _, exists := before["anchord_"+name]; !exists {
			t.Errorf("%s does not exist from the start", name)
		}
	}
	now := time.Now()
	hostile := anchord.Entry{Protocol: anchord.TCP, Container: "evil", Backend: netip.MustParseAddr("10.0.0.5"), First: 80, Last: 80}
	v6 := anchord.Entry{Family: anchord.V6, Protocol: anchord.UDP, Container: "evil6\"} 1\nanchord_ready 1"}
	m.reconciled(anchord.Outcome{
		State:  anchord.State{Entries: []anchord.Entry{hostile, hostile, v6}, Conflicts: 2, Rejected: 3},
		Source: anchord.SourceContainers, Applied: true, AppliedAt: now, EventAt: now.Add(-time.Millisecond), Drift: true,
		Flushes: anchord.PerFamily[int]{4, 5}, Reasserted: anchord.PerFamily[int]{0, 1},
	})
	m.reconciled(anchord.Outcome{Source: anchord.SourceAll | anchord.SourcePoll, Err: errors.New("evil"), Applied: true, ApplyErr: errors.New("evil"), EventAt: now})
	wantSeries(t, gathered(t, registry), map[string]float64{
		`anchord_reconcile_total{result="ok"}`: 1, `anchord_reconcile_total{result="error"}`: 1, `anchord_reconcile_duration_seconds_count`: 2,
		`anchord_ruleset_apply_total{result="ok"}`: 1, `anchord_ruleset_apply_total{result="error"}`: 1, `anchord_event_to_ruleset_seconds_count`: 1,
		`anchord_docker_events_total{source="event"}`: 1, `anchord_docker_events_total{source="poll"}`: 1, `anchord_ruleset_drift_total`: 1,
		`anchord_conntrack_flushes_total{family="v4"}`: 4, `anchord_conntrack_flushes_total{family="v6"}`: 5, `anchord_route_reasserts_total{family="v6"}`: 1,
		`anchord_dnat_entries{family="v4",proto="tcp"}`: 0, `anchord_expose_conflicts`: 0, `anchord_expose_errors`: 0, // as the second outcome says
	})
}

func TestExposedEntriesAreCounted(t *testing.T) {
	registry := newRegistry(always)
	m := newNetworkMetrics(registry, func() time.Duration { return 0 }, "b")
	e := func(f anchord.Family, p anchord.Protocol) anchord.Entry { return anchord.Entry{Family: f, Protocol: p} }
	m.reconciled(anchord.Outcome{Refused: errors.New("evil"), State: anchord.State{Conflicts: 2, Rejected: 3, Entries: []anchord.Entry{
		e(anchord.V4, anchord.TCP), e(anchord.V4, anchord.TCP), e(anchord.V6, anchord.UDP),
	}}})
	wantSeries(t, gathered(t, registry), map[string]float64{
		`anchord_dnat_entries{family="v4",proto="tcp"}`: 2, `anchord_dnat_entries{family="v4",proto="udp"}`: 0,
		`anchord_dnat_entries{family="v6",proto="tcp"}`: 0, `anchord_dnat_entries{family="v6",proto="udp"}`: 1,
		`anchord_expose_conflicts`: 2, `anchord_expose_errors`: 3, `anchord_template_override_refused`: 1,
	})
}

func TestRemainingLease(t *testing.T) {
	var now time.Duration
	registry := newRegistry(always)
	m := newNetworkMetrics(registry, func() time.Duration { return now }, "b")
	lease := anchord.Lease{Address: netip.MustParsePrefix("192.0.2.7/24"), Duration: time.Hour, Obtained: time.Minute, Boot: "b"}
	endless, other := lease, lease
	endless.Duration, other.Boot = 0, "c"
	for _, tt := range []struct {
		name  string
		lease anchord.Lease
		now   time.Duration
		want  float64 // -1: absent
	}{
		{"no lease", anchord.Lease{}, 0, -1},
		{"fresh", lease, time.Minute, 3600},
		{"computed when it is asked for", lease, 31 * time.Minute, 1800},
		{"ended", lease, 61 * time.Minute, -1},
		{"long ended", lease, 100 * time.Hour, -1},
		{"never ends", endless, 100 * time.Hour, -1},
		{"of another boot", other, time.Minute, -1},
	} {
		now = tt.now
		m.reconciled(anchord.Outcome{State: anchord.State{Leases: anchord.PerFamily[anchord.Lease]{tt.lease}}})
		t.Run(tt.name, func(t *testing.T) {
			duration := -1.0
			if tt.want >= 0 {
				duration = 3600
			}
			wantSeries(t, gathered(t, registry), map[string]float64{
				`anchord_dhcp_lease_remaining_seconds{family="v4"}`: tt.want, `anchord_dhcp_lease_duration_seconds{family="v4"}`: duration,
			})
		})
	}
}

func TestFollowMetrics(t *testing.T) {
	registry := newRegistry(always)
	m := newFollowMetrics(registry)
	m.followed(anchord.FollowOutcome{Asked: true, Resolved: anchord.PerFamily[bool]{true, false}, Replaced: anchord.PerFamily[bool]{true, false}, Present: anchord.PerFamily[bool]{true, false}})
	m.followed(anchord.FollowOutcome{Present: anchord.PerFamily[bool]{true, false}})
	wantSeries(t, gathered(t, registry), map[string]float64{
		`anchord_gateway_resolve_total{family="v4",outcome="ok"}`: 1, `anchord_gateway_resolve_total{family="v6",outcome="error"}`: 1,
		`anchord_gateway_resolve_total{family="v4",outcome="error"}`: 0,
		`anchord_gateway_route_replaces_total{family="v4"}`:          1, `anchord_gateway_route_replaces_total{family="v6"}`: 0,
		`anchord_default_route_present{family="v4"}`: 1, `anchord_default_route_present{family="v6"}`: 0,
	})
}

func TestHealth(t *testing.T) {
	var unmet []string
	s := server{registry: newRegistry(always), unmet: func() []string { return unmet }}
	get := func(path string) (int, string, string) {
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		body, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, w.Header().Get("Content-Type"), string(body)
	}
	for _, tt := range []struct {
		path  string
		unmet []string
		code  int
		body  string
	}{
		{"/healthz", nil, 200, "ok\n"},
		{"/healthz", []string{"anything"}, 200, "ok\n"},
		{"/readyz", nil, 200, "ready\n"},
		{"/readyz", []string{"the ruleset is not in the kernel", "docker cannot be asked"}, 503, "unmet: the ruleset is not in the kernel\nunmet: docker cannot be asked\n"},
	} {
		unmet = tt.unmet
		code, kind, body := get(tt.path)
		if code != tt.code || body != tt.body || !strings.HasPrefix(kind, "text/plain") {
			t.Errorf("%s with %q: %d, %s, %q", tt.path, tt.unmet, code, kind, body)
		}
	}
	if code, _, body := get("/metrics"); code != 200 || !strings.Contains(body, "anchord_build_info{") {
		t.Errorf("/metrics: %d\n%s", code, body)
	}
	if code, _, _ := get("/status"); code != 404 {
		t.Errorf("the status is for the socket only, but answers %d", code)
	}
}

// always is ready.
func always() []string { return nil }

// registries are the live registry of each mode, with something to say about
// everything.
func registries() map[string]registry {
	network, service, wrap, external := newRegistry(always), newRegistry(always), newRegistry(always), newRegistry(always)
	m := newNetworkMetrics(network, func() time.Duration { return 0 }, "b")
	lease := anchord.Lease{Address: netip.MustParsePrefix("192.0.2.7/24"), Duration: time.Hour, Boot: "b"}
	m.reconciled(anchord.Outcome{State: anchord.State{Leases: anchord.PerFamily[anchord.Lease]{lease, lease}}})
	newFollowMetrics(service)
	newWrapMetrics(wrap)
	newExternalMetrics(external)
	return map[string]registry{"network-anchor": network, "service-anchor": service, "wrap-rebinder": wrap, "external-rebinder": external}
}

func TestReadyIsAMetric(t *testing.T) {
	var unmet []string
	registry := newRegistry(func() []string { return unmet })
	wantSeries(t, gathered(t, registry), map[string]float64{"anchord_ready": 1})
	unmet = []string{"anything"}
	wantSeries(t, gathered(t, registry), map[string]float64{"anchord_ready": 0})
}

func TestRebindersMetrics(t *testing.T) {
	r := newRebinder("wrap-rebinder", newLogger(io.Discard, 0))
	r.metrics = newWrapMetrics(r.registry)
	wantSeries(t, gathered(t, r.registry), map[string]float64{"anchord_ready": 0, "anchord_docker_connected": 0, "anchord_netns_dependents_dead": 0})
	r.subscribed(nil)
	r.Dead(make([]anchord.Notice, 2))
	wantSeries(t, gathered(t, r.registry), map[string]float64{"anchord_ready": 1, "anchord_docker_connected": 1, "anchord_netns_dependents_dead": 2})
	r.subscribed(errors.New("gone"))
	wantSeries(t, gathered(t, r.registry), map[string]float64{"anchord_ready": 0, "anchord_docker_connected": 0})
}

// What a Prometheus would find odd: names, units, a counter without _total.
func TestMetricsAreWellNamed(t *testing.T) {
	for mode, r := range registries() {
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %v", mode, problems, err)
		}
		for _, f := range families {
			if !strings.HasPrefix(f.GetName(), "anchord_") || f.GetHelp() == "" {
				t.Errorf("%s: metric %s: %q", mode, f.GetName(), f.GetHelp())
			}
			if strings.HasSuffix(f.GetName(), "_seconds") && !strings.HasPrefix(f.GetHelp(), "Seconds ") {
				t.Errorf("%s: %s does not say its unit: %q", mode, f.GetName(), f.GetHelp())
			}
		}
	}
}

// The tables of docs/metrics.md are what the live registries say.
func TestDocsOfMetrics(t *testing.T) {
	tables := map[string]string{}
	for mode, r := range registries() {
		tables[mode] = metricsTable(t, r)
	}
	generated.Parts(t, filepath.Join(docs, "metrics.md"), tables)
}

func metricsTable(t *testing.T, r registry) string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| metric | type | meaning |\n|---|---|---|\n")
	for _, f := range families {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		name := f.GetName()
		if labels != nil {
			name += "{" + strings.Join(labels, ",") + "}"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, strings.ToLower(f.GetType().String()), f.GetHelp())
	}
	return b.String()
}
