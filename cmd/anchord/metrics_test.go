package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/AlexCherrypi/anchord"
)

// allowed are all label values that a metric may have.
var allowed = map[string][]string{
	"family": {"v4", "v6"}, "proto": {"tcp", "udp"}, "outcome": {"ok", "error"}, "result": {"ok", "error"}, "source": {"event", "poll"},
}

var (
	label = regexp.MustCompile(`(\w+)="([^"]*)"`)
	help  = regexp.MustCompile(`(?m)^# HELP (\w+) ?(.*)$`)
)

// gathered is every series as a scrape shows it, and its value.
func gathered(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	server{registry: r}.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, m := range help.FindAllStringSubmatch(w.Body.String(), -1) {
		if !strings.HasPrefix(m[1], "anchord_") || m[2] == "" {
			t.Errorf("metric %s: %q", m[1], m[2])
		}
	}
	series := map[string]float64{}
	for _, line := range strings.Split(w.Body.String(), "\n") {
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatal(err)
		}
		series[line[:i]] = v
		for _, l := range label.FindAllStringSubmatch(line, -1) {
			if l[1] != "le" && !strings.HasPrefix(line, "anchord_build_info") && !slices.Contains(allowed[l[1]], l[2]) {
				t.Errorf("a label that is not bounded: %s", line)
			}
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
	registry := newRegistry()
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
	v6 := anchord.Entry{Family: anchord.V6, Protocol: anchord.UDP, Container: "evil6"}
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
	registry := newRegistry()
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
	registry := newRegistry()
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
			wantSeries(t, gathered(t, registry), map[string]float64{`anchord_dhcp_lease_remaining_seconds{family="v4"}`: tt.want})
		})
	}
}

func TestFollowMetrics(t *testing.T) {
	registry := newRegistry()
	m := newFollowMetrics(registry)
	m.followed(anchord.FollowOutcome{Asked: true, Resolved: anchord.PerFamily[bool]{true, false}, Replaced: anchord.PerFamily[bool]{true, false}, Present: anchord.PerFamily[bool]{true, false}})
	m.followed(anchord.FollowOutcome{Present: anchord.PerFamily[bool]{true, false}})
	wantSeries(t, gathered(t, registry), map[string]float64{
		`anchord_gateway_resolve_total{family="v4",outcome="ok"}`: 1, `anchord_gateway_resolve_total{family="v6",outcome="error"}`: 1,
		`anchord_gateway_resolve_total{family="v4",outcome="error"}`: -1,
		`anchord_gateway_route_replaces_total{family="v4"}`:          1, `anchord_gateway_route_replaces_total{family="v6"}`: 0,
		`anchord_default_route_present{family="v4"}`: 1, `anchord_default_route_present{family="v6"}`: 0,
	})
}

func TestHealth(t *testing.T) {
	var unmet []string
	s := server{registry: newRegistry(), unmet: func() []string { return unmet }}
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
