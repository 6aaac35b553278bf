package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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
	Anchord   string          `json:"anchord"` // the mode, as ANCHORD_MODE names it
	Ready     bool            `json:"ready"`
	Unmet     []string        `json:"unmet,omitempty"`
	Project   string          `json:"project"`
	Hostname  string          `json:"hostname"`
	Interface string          `json:"interface"`
	MAC       string          `json:"mac"`
	Addresses []string        `json:"addresses"`
	Mode      string          `json:"address_mode"`
	Leases    []leaseStatus   `json:"leases"`
	Asking    []askingStatus  `json:"asking"` // families whose DHCP client has no lease
	Gateways  []gatewayStatus `json:"gateways"`
	Network   string          `json:"shared_network"`
	Exposed   []exposedStatus `json:"exposed"`
	Problems  []problemStatus `json:"problems"`
	Changed   *time.Time      `json:"last_change,omitempty"`
	Docker    *dockerStatus   `json:"docker"`
	Templates templateStatus  `json:"templates"`
	// Looked is when everything was looked at last, which happens on each poll.
	Looked      *time.Time `json:"last_look,omitempty"`
	PollSeconds int64      `json:"poll_seconds"`
}

type leaseStatus struct {
	Family    string   `json:"family"`
	Address   string   `json:"address"`
	Server    string   `json:"server"`
	Remaining *int64   `json:"remaining_seconds"` // null: it never ends
	DNS       []string `json:"dns"`
}

type askingStatus struct {
	Family   string    `json:"family"`
	Since    time.Time `json:"since"`
	Failures int       `json:"failures"` // tries that ended without a lease
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

func newDockerStatus(err error) *dockerStatus {
	if err != nil {
		return &dockerStatus{Error: err.Error()}
	}
	return &dockerStatus{Connected: true}
}

// moment is a time, if there was one.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
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
	o, changed, looked, dockerErr, dead, asking := n.last, n.changed, n.looked, n.dockerErr, n.dead, n.asking
	n.mu.Unlock()
	s := o.State
	report := statusReport{
		Anchord: "network-anchor", PollSeconds: int64(n.reconciler.Config.PollInterval.Seconds()),
		Ready: len(unmet) == 0, Unmet: unmet,
		Project: s.Identity.Project, Hostname: s.Identity.Hostname, Interface: s.Ext, Mode: string(s.Mode), Network: s.Shared,
		Addresses: []string{}, Leases: []leaseStatus{}, Asking: []askingStatus{}, Gateways: []gatewayStatus{}, Exposed: []exposedStatus{}, Problems: []problemStatus{},
		Docker: newDockerStatus(dockerErr), Templates: templateStatus{Overrides: append([]string{}, o.Overrides...)},
	}
	report.Changed, report.Looked = moment(changed), moment(looked)
	n.fillAddresses(ctx, &report)
	for _, f := range anchord.Families {
		switch a := asking[f]; {
		case s.Leases[f].Address.IsValid():
			report.Leases = append(report.Leases, newLeaseStatus(f, s.Leases[f]))
		case s.Clients[f] != nil && !a.since.IsZero():
			report.Asking = append(report.Asking, askingStatus{f.String(), a.since, a.failures})
			if a.failures > 0 {
				report.Problems = append(report.Problems, a.last)
			}
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
	n.fillExposed(ctx, &report, s.Entries, o.RulesetIn)
	report.Problems = append(report.Problems, unanswered(ctx, s.Entries, onLAN(o))...)
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

func (n *networkAnchor) fillExposed(ctx context.Context, report *statusReport, entries []anchord.Entry, counted bool) {
	var counters map[string]uint64
	if counted {
		var err error
		if counters, err = n.nft.Counters(ctx); err != nil {
			report.Problems = append(report.Problems, problemStatus{Event: anchord.EventReconcileFailed, Message: err.Error()})
		}
	}
	for _, e := range entries {
		e := exposedStatus{
			Family: e.Family.String(), Protocol: string(e.Protocol), Ports: e.Ports(), Container: e.Container,
			Backend: backend(e), Connections: connections(counters, e),
		}
		report.Exposed = append(report.Exposed, e)
	}
}

// onLAN is an address of each family that the LAN interface has, as last seen.
func onLAN(o anchord.Outcome) (addrs anchord.PerFamily[netip.Addr]) {
	for _, l := range o.Links {
		for _, a := range l.Addrs {
			if f := anchord.FamilyOf(a.Prefix.Addr()); l.Name == o.State.Ext && !a.Tentative && !a.Duplicate && !addrs[f].IsValid() {
				addrs[f] = a.Prefix.Addr()
			}
		}
	}
	return addrs
}

// answerTime is far longer than a service in the same machine takes for its first
// word.
const answerTime = 300 * time.Millisecond

// unanswered tells of containers that have not answered connections of the last two
// minutes, and do not answer one from the LAN address either: the way back may not
// lead here, which nothing else shows.
func unanswered(ctx context.Context, entries []anchord.Entry, from anchord.PerFamily[netip.Addr]) []problemStatus {
	suspects := suspects(ctx, entries)
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	silent := make([]bool, len(suspects))
	var wg sync.WaitGroup
	for i, e := range suspects {
		if from[e.Family].IsValid() {
			wg.Go(func() {
				err := exec.Connects(ctx, from[e.Family], netip.AddrPortFrom(e.Backend, e.Port))
				silent[i] = err != nil && !errors.Is(err, syscall.ECONNREFUSED)
			})
		}
	}
	wg.Wait()
	var problems []problemStatus
	for i, e := range suspects {
		if silent[i] {
			problems = append(problems, problemStatus{
				Event: anchord.EventBackendUnreachable, Container: e.Container,
				Message: fmt.Sprintf("container %s does not answer what is sent on to it (%s/%s at %s): it is stuck or has a firewall, or its way back does not lead here: anchord doctor tells which", e.Container, e.Protocol, e.Ports(), backend(e)),
			})
		}
	}
	return problems
}

// suspects are entries of containers, one of each, that left a connection
// unanswered. What fails here, the reconciler meets too, and tells.
func suspects(ctx context.Context, entries []anchord.Entry) (found []anchord.Entry) {
	for _, f := range anchord.Families {
		silent, _ := exec.Conntrack{}.Unanswered(ctx, f)
		for _, who := range silent {
			i := slices.IndexFunc(entries, func(e anchord.Entry) bool {
				return e.Protocol == anchord.TCP && e.First == e.Last && netip.AddrPortFrom(e.Backend, e.Port) == who
			})
			if i >= 0 && !slices.ContainsFunc(found, func(e anchord.Entry) bool { return e.Container == entries[i].Container }) {
				found = append(found, entries[i])
			}
		}
	}
	return found
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

// shown is a mode's status.
type shown interface{ print(w io.Writer) error }

func (c *statusCmd) Run(ctx context.Context, stdout io.Writer) error {
	response, err := ask(ctx, c.RunDir, "/status")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the anchord here is another version than this command: it has no status")
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("reading the status: %w", err)
	}
	report, err := readStatus(text)
	if err != nil {
		return fmt.Errorf("reading the status: %w", err)
	}
	if c.JSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		return out.Encode(report)
	}
	return report.print(stdout)
}

// readStatus reads what the anchord of any mode answers.
func readStatus(text []byte) (shown, error) {
	var of struct{ Anchord string }
	if err := json.Unmarshal(text, &of); err != nil {
		return nil, err
	}
	var report shown = &statusReport{}
	switch of.Anchord {
	case "service-anchor":
		report = &followReport{}
	case "wrap-rebinder", "external-rebinder":
		report = &rebinderReport{}
	}
	return report, json.Unmarshal(text, report)
}

// print is for people, at a terminal of 80 columns.
func (r statusReport) print(w io.Writer) error {
	t := table{}
	state := readiness(r.Ready, r.Unmet, r.Problems)
	if r.Ready && len(r.Addresses) == 0 {
		state = "ready, but without an address on the LAN"
	}
	if n := len(r.Problems); n > 0 && r.Ready {
		state = fmt.Sprintf("ready, but see the problems below (%d)", n)
	}
	t.row(printable(r.Project), state)
	t.row("name", printable(r.Hostname))
	t.row("interface", orNone(r.Interface)+", MAC "+orNone(r.MAC))
	for _, a := range r.Addresses {
		t.row("address", a)
	}
	if len(r.Addresses) == 0 {
		t.row("address", "none")
	}
	for _, l := range r.Leases {
		remaining := "never ends"
		if l.Remaining != nil {
			remaining = (time.Duration(*l.Remaining) * time.Second).String() + " left"
		}
		t.row("lease "+l.Family, fmt.Sprintf("%s from %s, %s", l.Address, cmp.Or(l.Server, "a DHCP server"), remaining))
	}
	for _, a := range r.Asking {
		text := "none yet, asking for " + since(a.Since)
		if a.Failures > 0 {
			text = fmt.Sprintf("NONE: asking for %s, %s in vain", since(a.Since), plural(a.Failures, "try", "tries"))
		}
		t.row("lease "+a.Family, text)
	}
	if len(r.Leases)+len(r.Asking) == 0 {
		t.row("lease", "none (address mode "+orNone(r.Mode)+")")
	}
	for _, g := range r.Gateways {
		t.row("gateway "+g.Family, g.Address+" (from "+g.Source+")")
	}
	if len(r.Gateways) == 0 {
		t.row("gateway", "none")
	}
	if r.Changed != nil {
		t.row("last change", ago(*r.Changed))
	}
	t.row("docker", r.Docker.String()+"; backends on network "+orNone(printable(r.Network)))
	if rules := r.Templates.line(); rules != "" {
		t.row("templates", rules)
	}
	t.write(w)
	printExposed(w, r.Exposed)
	printProblems(w, r.Problems)
	return nil
}

// onlyUnmet are the conditions that no problem tells of, too.
func onlyUnmet(unmet []string, problems []problemStatus) []string {
	return slices.DeleteFunc(slices.Clone(unmet), func(condition string) bool {
		return slices.ContainsFunc(problems, func(p problemStatus) bool { return strings.ReplaceAll(p.Message, "\n", "; ") == condition })
	})
}

func readiness(ready bool, unmet []string, problems []problemStatus) string {
	if ready {
		return "ready"
	}
	return "NOT READY: " + cmp.Or(strings.Join(onlyUnmet(unmet, problems), "; "), "see below")
}

func ago(t time.Time) string { return since(t) + " ago" }

func since(t time.Time) string { return time.Since(t).Round(time.Second).String() }

func (d *dockerStatus) String() string {
	switch {
	case d == nil:
		return "not asked"
	case d.Connected:
		return "connected"
	}
	return "NOT CONNECTED: " + d.Error
}

// table has a column of names, and one of texts that are wrapped at the width of a
// terminal.
type table [][2]string

func (t *table) row(name, text string) { *t = append(*t, [2]string{name, text}) }

func (t table) write(w io.Writer) {
	widest := 0
	for _, row := range t {
		widest = max(widest, min(len(row[0]), 20))
	}
	for _, row := range t {
		for i, line := range wrap(clean(row[1]), reportWidth-widest-2) {
			name := row[0]
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(w, "%-*s  %s\n", widest, name, line)
		}
	}
}

func printExposed(w io.Writer, exposed []exposedStatus) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nPORT\tCONTAINER\tBACKEND\tCONNECTIONS\n")
	slices.SortStableFunc(exposed, func(a, b exposedStatus) int { return strings.Compare(a.Family, b.Family) })
	for _, e := range exposed {
		fmt.Fprintf(t, "%s/%s\t%s\t%s\t%d\n", e.Protocol, e.Ports, shorten(printable(e.Container)), e.Backend, e.Connections)
	}
	if len(exposed) == 0 {
		fmt.Fprintln(t, "none")
	}
	_ = t.Flush()
}

// longest name of a container with which a port, an IPv6 backend and a count
// share a line of 80 columns.
const longestName = 24

// shorten cuts a name's middle: its end tells the service.
func shorten(name string) string {
	if len(name) <= longestName {
		return name
	}
	head := (longestName - 1) / 2
	return name[:head] + "~" + name[len(name)-(longestName-1-head):]
}

func printProblems(w io.Writer, problems []problemStatus) {
	for _, p := range problems {
		text := "PROBLEM (" + p.Event + "): " + clean(p.Message)
		fmt.Fprintf(w, "\n%s\n", strings.Join(wrapProse(text), "\n  "))
	}
}

// wrapProse leaves a command at the end of a message whole, so that it can be
// copied.
func wrapProse(text string) []string {
	prose, command, found := strings.Cut(text, "fix: docker ")
	if !found {
		return wrap(text, reportWidth-2)
	}
	return append(wrap(prose+"fix:", reportWidth-2), "docker "+command)
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
