package main

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/AlexCherrypi/anchord"
)

// newRegistry is an empty registry with the build's identity.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "anchord_build_info", Help: "Always 1; the labels say which build runs.",
	}, []string{"version", "commit"})
	info.WithLabelValues(version, commit).Set(1)
	registry.MustRegister(info)
	return registry
}

// networkMetrics are the network-anchor's.
type networkMetrics struct {
	reconcileDuration prometheus.Histogram
	reconciles        *prometheus.CounterVec
	applyDuration     prometheus.Histogram
	applies           *prometheus.CounterVec
	drift             prometheus.Counter
	reasserts         *prometheus.CounterVec
	conflicts, errors prometheus.Gauge
	docker            prometheus.Gauge
	dead              prometheus.Gauge
	templateRefused   prometheus.Gauge
	dockerEvents      *prometheus.CounterVec
	eventToRuleset    prometheus.Histogram
	entries           *prometheus.GaugeVec
	flushes           *prometheus.CounterVec
	acquired          *prometheus.CounterVec
	clientRestarts    *prometheus.CounterVec

	mu     sync.Mutex
	leases anchord.PerFamily[anchord.Lease]
}

// Buckets around the promised figures, in seconds.
var (
	reconcileBuckets = []float64{.0025, .005, .01, .015, .03, .06, .15, .3, 1, 5}
	eventBuckets     = []float64{.002, .004, .008, .015, .025, .05, .1, .25, .5, 1, 5}
)

func newNetworkMetrics(registry *prometheus.Registry, uptime func() time.Duration, boot string) *networkMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "anchord_" + name, Help: help}, labels)
		registry.MustRegister(c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "anchord_" + name, Help: help}, labels)
		registry.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "anchord_" + name, Help: help, Buckets: buckets})
		registry.MustRegister(h)
		return h
	}
	m := &networkMetrics{
		reconcileDuration: histogram("reconcile_duration_seconds", "Time of one look, decision and all changes.", reconcileBuckets),
		reconciles:        counter("reconcile_total", "Reconciles, by result.", "result"),
		applyDuration:     histogram("ruleset_apply_duration_seconds", "Time of one nft run that changed the ruleset.", reconcileBuckets),
		applies:           counter("ruleset_apply_total", "Changes of the ruleset, by result.", "result"),
		drift:             counter("ruleset_drift_total", "Times that somebody else changed anchord's tables.").WithLabelValues(),
		reasserts:         counter("route_reasserts_total", "Times that a changed route was put back.", "family"),
		conflicts:         gauge("expose_conflicts", "Exposed ports refused because another container has them.").WithLabelValues(),
		errors:            gauge("expose_errors", "Containers whose label is refused.").WithLabelValues(),
		docker:            gauge("docker_connected", "1 if Docker answers, else 0.").WithLabelValues(),
		dead:              gauge("netns_dependents_dead", "Containers in a network namespace that no longer exists.").WithLabelValues(),
		templateRefused:   gauge("template_override_refused", "1 if templates in the template directory are refused, else 0.").WithLabelValues(),
		dockerEvents:      counter("docker_events_total", "Looks at Docker, by what asked for them.", "source"),
		eventToRuleset:    histogram("event_to_ruleset_seconds", "From Docker's own time of an event to the changed ruleset.", eventBuckets),
		entries:           gauge("dnat_entries", "Exposed ports and ranges.", "family", "proto"),
		flushes:           counter("conntrack_flushes_total", "Groups of tracked flows that were ended.", "family"),
		acquired:          counter("dhcp_acquired_total", "Tries for a lease, by outcome.", "family", "outcome"),
		clientRestarts:    counter("dhcp_client_restarts_total", "Times that the DHCP client was started again.", "family"),
	}
	registry.MustRegister(&leaseCollector{m: m, uptime: uptime, boot: boot})
	m.preset()
	return m
}

// preset makes every series exist from the start, so that alerts see a zero
// and not nothing.
func (m *networkMetrics) preset() {
	for _, result := range []string{"ok", "error"} {
		m.reconciles.WithLabelValues(result)
		m.applies.WithLabelValues(result)
	}
	for _, source := range []string{"event", "poll"} {
		m.dockerEvents.WithLabelValues(source)
	}
	for _, f := range anchord.Families {
		m.reasserts.WithLabelValues(f.String())
		m.flushes.WithLabelValues(f.String())
		m.clientRestarts.WithLabelValues(f.String())
		for _, outcome := range []string{"ok", "error"} {
			m.acquired.WithLabelValues(f.String(), outcome)
		}
		for _, p := range anchord.Protocols {
			m.entries.WithLabelValues(f.String(), string(p))
		}
	}
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

// reconciled records one outcome.
func (m *networkMetrics) reconciled(o anchord.Outcome) {
	m.reconcileDuration.Observe(o.Took.Seconds())
	m.reconciles.WithLabelValues(result(o.Err)).Inc()
	if o.Source&anchord.SourcePoll != 0 {
		m.dockerEvents.WithLabelValues("poll").Inc()
	} else if o.Source&anchord.SourceContainers != 0 {
		m.dockerEvents.WithLabelValues("event").Inc()
	}
	if o.Applied {
		m.applyDuration.Observe(o.ApplyTook.Seconds())
		m.applies.WithLabelValues(result(o.ApplyErr)).Inc()
	}
	if o.Applied && o.ApplyErr == nil && !o.EventAt.IsZero() {
		m.eventToRuleset.Observe(max(0, o.AppliedAt.Sub(o.EventAt).Seconds()))
	}
	if o.Drift {
		m.drift.Inc()
	}
	m.conflicts.Set(float64(o.State.Conflicts))
	m.errors.Set(float64(o.State.Rejected))
	m.templateRefused.Set(0)
	if o.Refused != nil {
		m.templateRefused.Set(1)
	}
	counts := map[anchord.Family]map[anchord.Protocol]int{anchord.V4: {}, anchord.V6: {}}
	for _, e := range o.State.Entries {
		counts[e.Family][e.Protocol]++
	}
	for _, f := range anchord.Families {
		m.reasserts.WithLabelValues(f.String()).Add(float64(o.Reasserted[f]))
		m.flushes.WithLabelValues(f.String()).Add(float64(o.Flushes[f]))
		for _, p := range anchord.Protocols {
			m.entries.WithLabelValues(f.String(), string(p)).Set(float64(counts[f][p]))
		}
	}
	m.mu.Lock()
	m.leases = o.State.Leases
	m.mu.Unlock()
}

// leaseCollector computes the remaining time when it is asked for.
type leaseCollector struct {
	m      *networkMetrics
	uptime func() time.Duration
	boot   string
}

var leaseDesc = prometheus.NewDesc("anchord_dhcp_lease_remaining_seconds", "Time until the lease ends; absent without a lease and with one that never ends.", []string{"family"}, nil)

func (c *leaseCollector) Describe(ch chan<- *prometheus.Desc) { ch <- leaseDesc }

func (c *leaseCollector) Collect(ch chan<- prometheus.Metric) {
	c.m.mu.Lock()
	leases := c.m.leases
	c.m.mu.Unlock()
	for _, f := range anchord.Families {
		if lease := leases[f]; lease.ValidAt(c.uptime(), c.boot) && !lease.Infinite() {
			ch <- prometheus.MustNewConstMetric(leaseDesc, prometheus.GaugeValue, lease.Remaining(c.uptime()).Seconds(), f.String())
		}
	}
}

// followMetrics are the service-anchor's.
type followMetrics struct {
	resolves, replaces *prometheus.CounterVec
	present            *prometheus.GaugeVec
}

func newFollowMetrics(registry *prometheus.Registry) *followMetrics {
	m := &followMetrics{
		resolves: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "anchord_gateway_resolve_total", Help: "Lookups of the network-anchor's name, by outcome."}, []string{"family", "outcome"}),
		replaces: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "anchord_gateway_route_replaces_total", Help: "Times that the default route was set."}, []string{"family"}),
		present:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "anchord_default_route_present", Help: "1 if the default route leads to the network-anchor."}, []string{"family"}),
	}
	registry.MustRegister(m.resolves, m.replaces, m.present)
	for _, f := range anchord.Families {
		m.present.WithLabelValues(f.String())
		m.replaces.WithLabelValues(f.String())
	}
	return m
}

func (m *followMetrics) followed(o anchord.FollowOutcome) {
	for _, f := range anchord.Families {
		if o.Asked {
			outcome := "error"
			if o.Resolved[f] {
				outcome = "ok"
			}
			m.resolves.WithLabelValues(f.String(), outcome).Inc()
		}
		if o.Replaced[f] {
			m.replaces.WithLabelValues(f.String()).Inc()
		}
		present := 0.0
		if o.Present[f] {
			present = 1
		}
		m.present.WithLabelValues(f.String()).Set(present)
	}
}
