package main

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/AlexCherrypi/anchord"
)

// labelValues are all labels that a metric can have, but for the build's, and all
// their values: never a container, an address or a port, of which there is no
// end, and which others choose.
var labelValues = map[string][]string{
	"family":  {anchord.V4.String(), anchord.V6.String()},
	"proto":   {string(anchord.TCP), string(anchord.UDP)},
	"result":  {"ok", "error"},
	"outcome": {"ok", "error"},
	"source":  {"event", "poll"},
}

// registry is what /metrics shows. Each series of what it makes exists from the
// start, so that alerts see a zero and not nothing.
type registry struct{ *prometheus.Registry }

// newRegistry has the build's identity, and whether anchord is ready.
func newRegistry(unmet func() []string) registry {
	r := registry{prometheus.NewRegistry()}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "anchord_build_info", Help: "Always 1; the labels say which build runs.",
	}, []string{"version", "commit"})
	info.WithLabelValues(version, commit).Set(1)
	r.MustRegister(info, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "anchord_ready", Help: "1 if `/readyz` says so, else 0.",
	}, func() float64 { return truth(len(unmet()) == 0) }))
	return r
}

func (r registry) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "anchord_" + name, Help: help}, labels)
	r.MustRegister(c)
	for _, values := range combinations(labels) {
		c.WithLabelValues(values...)
	}
	return c
}

func (r registry) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "anchord_" + name, Help: help}, labels)
	r.MustRegister(g)
	for _, values := range combinations(labels) {
		g.WithLabelValues(values...)
	}
	return g
}

func (r registry) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "anchord_" + name, Help: help, Buckets: buckets})
	r.MustRegister(h)
	return h
}

// combinations are all sets of values that the labels can have.
func combinations(labels []string) [][]string {
	sets := [][]string{{}}
	for _, l := range labels {
		var longer [][]string
		for _, set := range sets {
			for _, v := range labelValues[l] {
				longer = append(longer, append(slices.Clone(set), v))
			}
		}
		sets = longer
	}
	return sets
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
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

func newNetworkMetrics(r registry, uptime func() time.Duration, boot string) *networkMetrics {
	m := &networkMetrics{
		reconcileDuration: r.histogram("reconcile_duration_seconds", "Seconds of one look, decision and all changes.", reconcileBuckets),
		reconciles:        r.counter("reconcile_total", "Reconciles.", "result"),
		applyDuration:     r.histogram("ruleset_apply_duration_seconds", "Seconds of one run of nft that changed the ruleset.", reconcileBuckets),
		applies:           r.counter("ruleset_apply_total", "Changes of the ruleset.", "result"),
		drift:             r.counter("ruleset_drift_total", "Times that somebody else changed anchord's tables.").WithLabelValues(),
		reasserts:         r.counter("route_reasserts_total", "Times that a route which others had changed was put back, or another default route removed.", "family"),
		conflicts:         r.gauge("expose_conflicts", "Exposed ports that are refused because another container has them.").WithLabelValues(),
		errors:            r.gauge("expose_errors", "Containers whose label is refused.").WithLabelValues(),
		docker:            dockerGauge(r),
		dead:              deadGauge(r),
		templateRefused:   r.gauge("template_override_refused", "1 if templates in the template directory are refused, else 0.").WithLabelValues(),
		dockerEvents:      r.counter("docker_events_total", "Looks at Docker, by what asked for them.", "source"),
		eventToRuleset:    r.histogram("event_to_ruleset_seconds", "Seconds from Docker's own time of an event to the end of the nft run. The rules are live in the kernel some milliseconds before that.", eventBuckets),
		entries:           r.gauge("dnat_entries", "Exposed ports and ranges.", "family", "proto"),
		flushes:           r.counter("conntrack_flushes_total", "Groups of tracked connections that were ended because they led to an old place.", "family"),
		acquired:          r.counter("dhcp_acquired_total", "`ok`: another address was leased (renewals do not count); `error`: a round of asking ended without an answer.", "family", "outcome"),
		clientRestarts:    r.counter("dhcp_client_restarts_total", "Times that the DHCP client ended without a lease and was started again.", "family"),
	}
	r.MustRegister(&leaseCollector{m: m, uptime: uptime, boot: boot})
	return m
}

// The gauges that more than one mode has.
func dockerGauge(r registry) prometheus.Gauge {
	return r.gauge("docker_connected", "1 if Docker can be asked, else 0.").WithLabelValues()
}

func deadGauge(r registry) prometheus.Gauge {
	return r.gauge("netns_dependents_dead", "Containers of the project in a network namespace that no longer exists.").WithLabelValues()
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
	switch {
	case o.Source&anchord.SourceContainers == 0: // Docker was not looked at
	case o.Source&anchord.SourcePoll != 0:
		m.dockerEvents.WithLabelValues("poll").Inc()
	default:
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
	m.templateRefused.Set(truth(o.Refused != nil))
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

var (
	leaseRemaining = prometheus.NewDesc("anchord_dhcp_lease_remaining_seconds", "Seconds until the lease ends, computed when scraped; never negative, absent without a lease and with one that never ends.", []string{"family"}, nil)
	leaseDuration  = prometheus.NewDesc("anchord_dhcp_lease_duration_seconds", "Seconds for which the lease was given, or renewed the last time; absent as `anchord_dhcp_lease_remaining_seconds`.", []string{"family"}, nil)
)

func (c *leaseCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- leaseRemaining
	ch <- leaseDuration
}

func (c *leaseCollector) Collect(ch chan<- prometheus.Metric) {
	c.m.mu.Lock()
	leases := c.m.leases
	c.m.mu.Unlock()
	for _, f := range anchord.Families {
		if lease := leases[f]; lease.ValidAt(c.uptime(), c.boot) && !lease.Infinite() {
			ch <- prometheus.MustNewConstMetric(leaseRemaining, prometheus.GaugeValue, lease.Remaining(c.uptime()).Seconds(), f.String())
			ch <- prometheus.MustNewConstMetric(leaseDuration, prometheus.GaugeValue, lease.Duration.Seconds(), f.String())
		}
	}
}

// followMetrics are the service-anchor's.
type followMetrics struct {
	resolves, replaces *prometheus.CounterVec
	present            *prometheus.GaugeVec
}

func newFollowMetrics(r registry) *followMetrics {
	return &followMetrics{
		resolves: r.counter("gateway_resolve_total", "Lookups of the network-anchor's name; a name without an address of a family counts as its `error`, so look at `v4` where there is no IPv6.", "family", "outcome"),
		replaces: r.counter("gateway_route_replaces_total", "Times that the default route was set.", "family"),
		present:  r.gauge("default_route_present", "1 if the default route leads to the network-anchor, else 0.", "family"),
	}
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
		m.present.WithLabelValues(f.String()).Set(truth(o.Present[f]))
	}
}

// rebindMetrics are the rebinders'. Only the wrap-rebinder looks for dead
// network namespaces.
type rebindMetrics struct{ docker, dead prometheus.Gauge }

func newWrapMetrics(r registry) rebindMetrics {
	return rebindMetrics{docker: dockerGauge(r), dead: deadGauge(r)}
}

func newExternalMetrics(r registry) rebindMetrics { return rebindMetrics{docker: dockerGauge(r)} }
