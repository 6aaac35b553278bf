package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
)

type statusCmd struct {
	runVars
	JSON bool `name:"json" help:"For machines."`
}

// statusReport is what the status command shows, and its JSON.
type statusReport struct {
	Ready     bool            `json:"ready"`
	Unmet     []string        `json:"unmet,omitempty"`
	Project   string          `json:"project"`
	Hostname  string          `json:"hostname"`
	Interface string          `json:"interface"`
	MAC       string          `json:"mac"`
	Addresses []string        `json:"addresses"`
	Mode      string          `json:"address_mode"`
	Leases    []leaseStatus   `json:"leases"`
	Gateways  []gatewayStatus `json:"gateways"`
	Network   string          `json:"shared_network"`
	Exposed   []exposedStatus `json:"exposed"`
	Problems  []problemStatus `json:"problems"`
	Changed   *time.Time      `json:"last_change,omitempty"`
	Docker    dockerStatus    `json:"docker"`
	Templates templateStatus  `json:"templates"`
}

type leaseStatus struct {
	Family    string   `json:"family"`
	Address   string   `json:"address"`
	Server    string   `json:"server"`
	Remaining *int64   `json:"remaining_seconds"` // null: it never ends
	DNS       []string `json:"dns"`
}

type gatewayStatus struct {
	Family  string `json:"family"`
	Address string `json:"address"`
	Source  string `json:"source"`
}

type exposedStatus struct {
	Family      string `json:"family"`
	Protocol    string `json:"protocol"`
	Ports       string `json:"ports"`
	Container   string `json:"container"`
	Backend     string `json:"backend"`
	Connections uint64 `json:"connections"`
}

type problemStatus struct {
	Event     string `json:"event"`
	Message   string `json:"message"`
	Container string `json:"container,omitempty"`
}

type dockerStatus struct {
	Connected bool   `json:"connected"`
	Error     string `json:"error,omitempty"`
}

type templateStatus struct {
	Overrides []string `json:"overrides"` // files whose rules stand
	Refused   string   `json:"refused,omitempty"`
}

// line tells which templates say the rules; nothing where all is as usual.
func (t templateStatus) line() string {
	rules := strings.Join(t.Overrides, ", ")
	if t.Refused != "" {
		rules = cmp.Or(rules, "embedded") + "; the template directory is REFUSED, see below"
	}
	return rules
}

// status gathers the report from the last outcome and the kernel's counters.
func (n *networkAnchor) status(ctx context.Context) statusReport {
	unmet := n.unmet()
	n.mu.Lock()
	o, changed, dockerErr, dead := n.last, n.changed, n.dockerErr, n.dead
	n.mu.Unlock()
	s := o.State
	report := statusReport{
		Ready: len(unmet) == 0, Unmet: unmet,
		Project: s.Identity.Project, Hostname: s.Identity.Hostname, Interface: s.Ext, Mode: string(s.Mode), Network: s.Shared,
		Addresses: []string{}, Leases: []leaseStatus{}, Gateways: []gatewayStatus{}, Exposed: []exposedStatus{}, Problems: []problemStatus{},
		Docker: dockerStatus{Connected: dockerErr == nil}, Templates: templateStatus{Overrides: append([]string{}, o.Overrides...)},
	}
	if dockerErr != nil {
		report.Docker.Error = dockerErr.Error()
	}
	if !changed.IsZero() {
		report.Changed = &changed
	}
	n.fillAddresses(ctx, &report)
	for _, f := range anchord.Families {
		if s.Leases[f].Address.IsValid() {
			report.Leases = append(report.Leases, newLeaseStatus(f, s.Leases[f]))
		}
	}
	for _, r := range o.Gateways() {
		report.Gateways = append(report.Gateways, gatewayStatus{r.Family.String(), r.Gateway.String(), string(r.Source)})
	}
	for _, notice := range slices.Concat(s.Notices, dead) {
		if notice.Level > anchord.Info {
			report.Problems = append(report.Problems, problemStatus{notice.Event, notice.Message, notice.Container})
		}
	}
	if o.Refused != nil {
		report.Templates.Refused = o.Refused.Error()
		report.Problems = append(report.Problems, problemStatus{Event: anchord.EventTemplateRefused, Message: anchord.RefusedMessage(o.Overrides, o.Refused)})
	}
	if o.Err != nil {
		report.Problems = append(report.Problems, problemStatus{Event: anchord.EventReconcileFailed, Message: o.Err.Error()})
	}
	n.fillExposed(ctx, &report, s.Entries)
	return report
}

func (n *networkAnchor) fillAddresses(ctx context.Context, report *statusReport) {
	links, err := exec.IP{}.Links(ctx)
	if err != nil {
		return // the outcome's error says why
	}
	for _, l := range links {
		if l.Name != report.Interface {
			continue
		}
		report.MAC = l.MAC
		for _, a := range l.Addrs {
			text := a.Prefix.String()
			switch {
			case a.Duplicate:
				text += " (in use by another host)"
			case a.Tentative:
				text += " (being checked)"
			case a.Deprecated:
				text += " (deprecated)"
			}
			report.Addresses = append(report.Addresses, text)
		}
	}
}

func newLeaseStatus(f anchord.Family, l anchord.Lease) leaseStatus {
	s := leaseStatus{Family: f.String(), Address: l.Address.String(), DNS: []string{}}
	if l.Server.IsValid() {
		s.Server = l.Server.String()
	}
	if !l.Infinite() {
		seconds := int64(l.Remaining(uptime()).Seconds())
		s.Remaining = &seconds
	}
	for _, d := range l.DNS {
		s.DNS = append(s.DNS, d.String())
	}
	return s
}

func (n *networkAnchor) fillExposed(ctx context.Context, report *statusReport, entries []anchord.Entry) {
	counters, err := n.nft.Counters(ctx)
	if err != nil {
		report.Problems = append(report.Problems, problemStatus{Event: anchord.EventReconcileFailed, Message: err.Error()})
	}
	for _, e := range entries {
		e := exposedStatus{
			Family: e.Family.String(), Protocol: string(e.Protocol), Ports: e.Ports(), Container: e.Container,
			Backend: backend(e), Connections: connections(counters, e),
		}
		report.Exposed = append(report.Exposed, e)
	}
}

func backend(e anchord.Entry) string {
	ports := strconv.Itoa(int(e.Port))
	if e.First != e.Last {
		ports += "-" + strconv.Itoa(int(e.Port)+int(e.Last-e.First))
	}
	if e.Family == anchord.V6 {
		return "[" + e.Backend.String() + "]:" + ports
	}
	return e.Backend.String() + ":" + ports
}

// connections adds up the counters of an entry, which may be one element of
// a map or, for a shifted range, one for each port.
func connections(counters map[string]uint64, e anchord.Entry) uint64 {
	table := anchord.Table(e.Family)
	if e.First == e.Last || !e.Shifted() {
		return counters[exec.CounterKey(table, anchord.DNATMap(e.Protocol, e.First != e.Last), e.Ports())]
	}
	var sum uint64
	for port := int(e.First); port <= int(e.Last); port++ {
		sum += counters[exec.CounterKey(table, anchord.DNATMap(e.Protocol, false), strconv.Itoa(port))]
	}
	return sum
}

func (c *statusCmd) Run(ctx context.Context, stdout io.Writer) error {
	response, err := ask(ctx, c.RunDir, "/status")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the anchord here has no status: it is a service-anchor; ask the network-anchor")
	}
	var report statusReport
	if err := json.NewDecoder(response.Body).Decode(&report); err != nil {
		return fmt.Errorf("reading the status: %w", err)
	}
	if c.JSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		return out.Encode(report)
	}
	return report.print(stdout)
}

// print is for people.
func (r statusReport) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	state := "ready"
	if n := len(r.Problems); n > 0 {
		state = fmt.Sprintf("ready, but see the problems below (%d)", n)
	}
	if !r.Ready {
		state = "NOT READY: " + strings.Join(r.Unmet, "; ")
	}
	fmt.Fprintf(t, "%s\t%s\n", printable(r.Project), state)
	fmt.Fprintf(t, "on the LAN\t%s on %s, MAC %s, as %q\n", orNone(strings.Join(r.Addresses, ", ")), orNone(r.Interface), orNone(r.MAC), r.Hostname)
	for _, l := range r.Leases {
		remaining := "never ends"
		if l.Remaining != nil {
			remaining = (time.Duration(*l.Remaining) * time.Second).String() + " left"
		}
		fmt.Fprintf(t, "lease %s\t%s from %s, %s\n", l.Family, l.Address, cmp.Or(l.Server, "a DHCP server"), remaining)
	}
	if len(r.Leases) == 0 {
		fmt.Fprintf(t, "lease\tnone (address mode %s)\n", orNone(r.Mode))
	}
	for _, g := range r.Gateways {
		fmt.Fprintf(t, "gateway %s\t%s (from %s)\n", g.Family, g.Address, g.Source)
	}
	if r.Changed != nil {
		fmt.Fprintf(t, "last change\t%s ago\n", time.Since(*r.Changed).Round(time.Second))
	}
	docker := "connected"
	if !r.Docker.Connected {
		docker = "NOT CONNECTED: " + r.Docker.Error
	}
	fmt.Fprintf(t, "docker\t%s; backends on network %s\n", docker, orNone(r.Network))
	if rules := r.Templates.line(); rules != "" {
		fmt.Fprintf(t, "templates\t%s\n", rules)
	}
	fmt.Fprintf(t, "\nPORT\tCONTAINER\tBACKEND\tCONNECTIONS\n")
	slices.SortStableFunc(r.Exposed, func(a, b exposedStatus) int { return strings.Compare(a.Family, b.Family) })
	for _, e := range r.Exposed {
		fmt.Fprintf(t, "%s/%s\t%s\t%s\t%d\n", e.Protocol, e.Ports, e.Container, e.Backend, e.Connections)
	}
	if len(r.Exposed) == 0 {
		fmt.Fprintln(t, "none")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "\nPROBLEM (%s): %s\n", p.Event, p.Message)
	}
	return nil
}

// printable quotes what could play with a terminal: a project's name may come
// from a label that anybody wrote.
func printable(s string) string {
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
