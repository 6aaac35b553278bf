package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
)

// Checks of what is exposed, and of the anchord that runs.

// backends are the exposed containers of a family, each once.
func (p *patient) backends(f anchord.Family) []anchord.Entry {
	var list []anchord.Entry
	for _, e := range p.state.Entries {
		if e.Family == f && !slices.ContainsFunc(list, func(o anchord.Entry) bool { return o.Backend == e.Backend }) {
			list = append(list, e)
		}
	}
	return list[:min(len(list), maxBackends)]
}

// maxBackends is how many containers of a family are asked: what breaks one
// network breaks it for all.
const maxBackends = 16

// answer is whether a backend answers pings: from next to it, and as if they
// came from the LAN, which takes the way that clients take.
type answer struct {
	near, far bool
	err       error
}

// ping asks them all at once.
func (p *patient) ping(ctx context.Context) map[netip.Addr]answer {
	ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	answers := map[netip.Addr]answer{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, f := range anchord.Families {
		far := p.address(p.ext(), f)
		for _, b := range p.backends(f) {
			near := p.address(b.Iface, f)
			if !far.IsValid() || !near.IsValid() || !p.can(capNetRaw) || !p.isReady() {
				continue
			}
			wg.Go(func() {
				a := askBackend(ctx, near, far, b.Backend)
				mu.Lock()
				answers[b.Backend] = a
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	return answers
}

func askBackend(ctx context.Context, near, far, backend netip.Addr) (a answer) {
	var wg sync.WaitGroup
	var errs [2]error
	wg.Go(func() { a.near, errs[0] = exec.Answers(ctx, near, backend) })
	wg.Go(func() { a.far, errs[1] = exec.Answers(ctx, far, backend) })
	wg.Wait()
	a.err = errors.Join(errs[:]...)
	return a
}

func checkWayBack(_ context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	switch {
	case !p.isReady():
		return []finding{skipped("anchord does not run, or is not ready: no container has a way out by it yet")}
	case len(p.state.Entries) == 0:
		return []finding{skipped("nothing is exposed")}
	case !p.can(capNetRaw):
		return []finding{skipped("without NET_RAW nothing can be asked")}
	}
	answers := p.askBackends()
	if len(answers) == 0 {
		return []finding{skipped("%s has no address yet, that clients could ask", p.state.Ext)}
	}
	var found []finding
	for _, f := range anchord.Families {
		for _, b := range p.backends(f) {
			if a, asked := answers[b.Backend]; asked {
				found = append(found, judgeWayBack(b.Container, b.Backend, a))
			}
		}
	}
	return joined(found)
}

func judgeWayBack(container string, backend netip.Addr, a answer) finding {
	switch {
	case a.err != nil:
		return skipped("container %s: %v", container, a.err)
	case a.far:
		return fine("%s (%s) answers clients", container, backend)
	case a.near:
		return failure("let its default route lead to anchord: no second network that Docker takes it from (internal: true for that one, or gw_priority on the transit), or a service-anchor; see the check transit", "container %s (%s) answers its neighbours, but not clients: its way back does not lead to anchord, or the Docker host drops them", container, backend)
	}
	return warning("look whether it runs: docker compose ps, docker compose logs", "container %s (%s) does not answer at all", container, backend)
}

// askedPorts is how many ports are asked at most, and listed how many of anything
// a finding names.
const (
	askedPorts = 64
	listed     = 5
)

// list names the first of many.
func list(names []string) string {
	if more := len(names) - listed; more > 0 {
		names = append(slices.Clone(names[:listed]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// checkListening connects from next to the services: what the way is like, other
// checks tell. Nobody need listen on a whole range.
func checkListening(ctx context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	var asked []anchord.Entry
	for _, e := range p.state.Entries {
		if e.Protocol == anchord.TCP && e.First == e.Last && len(asked) < askedPorts && p.address(e.Iface, e.Family).IsValid() {
			asked = append(asked, e)
		}
	}
	if len(asked) == 0 {
		return []finding{skipped("no single TCP port is exposed by which a service could be asked")}
	}
	ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	errs := make([]error, len(asked))
	var wg sync.WaitGroup
	for i, e := range asked {
		wg.Go(func() { errs[i] = exec.Connects(ctx, netip.Addr{}, netip.AddrPortFrom(e.Backend, e.Port)) })
	}
	wg.Wait()
	return judgeListening(asked, errs)
}

// judgeListening tells of each container once that it refuses, and once that it
// does not answer.
func judgeListening(asked []anchord.Entry, errs []error) []finding {
	var containers []string
	refused, silent := map[string][]string{}, map[string][]string{}
	for i, e := range asked {
		if errs[i] == nil {
			continue
		}
		if !slices.Contains(containers, e.Container) {
			containers = append(containers, e.Container)
		}
		if errors.Is(errs[i], syscall.ECONNREFUSED) {
			refused[e.Container] = append(refused[e.Container], backend(e))
			continue
		}
		silent[e.Container] = append(silent[e.Container], fmt.Sprintf("%s (%v)", backend(e), rootCause(errs[i])))
	}
	var found []finding
	for _, c := range containers {
		if at := refused[c]; at != nil {
			found = append(found, warning("have its server listen there on all addresses (0.0.0.0, [::]) and not on 127.0.0.1, or correct the label: "+anchord.LabelExpose+": \"tcp/PUBLIC:BACKEND\"", "container %s refuses connections, as nothing listens: %s", c, list(at)))
		}
		if at := silent[c]; at != nil {
			found = append(found, warning("look whether it runs, and whether it has a firewall of its own: docker compose ps, docker compose logs", "container %s accepts no connections: %s", c, list(at)))
		}
	}
	if found == nil {
		return []finding{fine("%s accepted", plural(len(asked), "connection", "connections"))}
	}
	return found
}

func checkPublished(ctx context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	ports, err := p.docker.Published(ctx, p.state.Identity.Scope)
	if err != nil {
		return []finding{skipped("%v", err)}
	}
	return judgePublished(p.containers, p.state.Entries, ports)
}

func judgePublished(containers []anchord.Container, entries []anchord.Entry, ports map[string][]string) []finding {
	var found []finding
	for _, c := range containers {
		exposed := slices.ContainsFunc(entries, func(e anchord.Entry) bool {
			return e.Container == c.Name || slices.ContainsFunc(c.Endpoints, func(at anchord.Endpoint) bool { return at.Addrs[e.Family] == e.Backend })
		})
		if exposed && len(ports[c.Name]) > 0 {
			found = append(found, warning(`remove ports: from its service; bound to the host alone ("127.0.0.1:8080:80") they do no harm, and work only where the service is on a network beside the transit`, "container %s has ports on the Docker host too: %s", c.Name, list(ports[c.Name])))
		}
	}
	if found == nil {
		return []finding{fine("no exposed container is on the Docker host's addresses too")}
	}
	return found
}

func checkExposed(_ context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	if p.state.Ext == "" {
		return []finding{skipped("without a LAN interface nothing is exposed")}
	}
	return judgeExposed(p.state, p.isRunning())
}

// noticeFixes are what to do about what a decision tells.
var noticeFixes = map[string]string{
	anchord.EventLabelRejected:      "correct the label, and recreate the container; its grammar: " + anchord.DocsURL + "labels.md",
	anchord.EventLabelUnknown:       "correct the label's name, or remove it",
	anchord.EventExposeConflict:     "give one of them another port, or remove it from its label",
	anchord.EventBackendUnreachable: "attach it to the transit network, or recreate it, as said",
	anchord.EventSubnetClash:        "choose another subnet for the network, as said",
	anchord.EventTransitMissing:     "wait a moment; if it stays so: docker compose up -d --force-recreate anchord",
	anchord.EventConfigWarning:      "another port in ANCHORD_METRICS_ADDR",
	anchord.EventDHCPIgnored:        "correct it on the DHCP server",
}

// elsewhere are notices that other checks tell of.
var elsewhere = []string{anchord.EventExtMissing, anchord.EventSharedMissing, anchord.EventNoBackends}

func judgeExposed(s anchord.State, running bool) []finding {
	var found []finding
	containers := map[string]bool{}
	ports := map[string]bool{}
	for _, e := range s.Entries {
		containers[e.Container] = true
		ports[string(e.Protocol)+"/"+e.Ports()] = true
	}
	switch {
	case len(s.Entries) > 0:
		found = append(found, fine("%s of %s", plural(len(ports), "port or range", "ports or ranges"), plural(len(containers), "container", "containers")))
	case !running:
		found = append(found, skipped("no container that is exposed runs yet"))
	default:
		found = append(found, warning("give the services the label "+anchord.LabelExpose+", start them, and attach them to the transit network", "no container is exposed: none with the label runs that belongs to %s", s.Identity))
	}
	for _, n := range s.Notices {
		if n.Level < anchord.Warn || slices.Contains(elsewhere, n.Event) {
			continue
		}
		result := isWarning
		if n.Level == anchord.Error {
			result = isFailure
		}
		found = append(found, fault(result, noticeFixes[n.Event], "%s", n.Message))
	}
	return found
}

func checkRunning(_ context.Context, p *patient) []finding {
	if !p.started {
		return []finding{skipped("no anchord runs in this container")}
	}
	if p.running != nil && !p.running.Ready && slices.Contains(inAnchors, p.mode) && !p.can(capNetAdmin) {
		return []finding{skipped("anchord is not ready, and without NET_ADMIN cannot be: see the check capabilities")}
	}
	return judgeRunning(p.running, p.runErr, p.mode, time.Now())
}

// overdue is far beyond the poll: a reconciler that has done nothing for so long
// hangs.
const overdue = 5

func judgeRunning(r *statusReport, err error, mode string, now time.Time) []finding {
	if err != nil {
		return []finding{failure("docker compose logs anchord, then docker compose restart anchord", "anchord does not answer: %v", err)}
	}
	if slices.Contains(modes, r.Anchord) && r.Anchord != mode {
		return []finding{failure("docker compose exec -e ANCHORD_MODE="+r.Anchord+" SERVICE anchord doctor", "the mode of the anchord that runs here is %s, but ANCHORD_MODE is %s: the checks are not of what runs", r.Anchord, mode)}
	}
	var found []finding
	failed := slices.DeleteFunc(slices.Clone(r.Problems), func(p problemStatus) bool { return p.Event != anchord.EventReconcileFailed })
	if unmet := onlyUnmet(r.Unmet, failed); !r.Ready && len(unmet) > 0 {
		found = append(found, failure("docker compose logs anchord", "anchord is not ready: %s", strings.Join(unmet, "; ")))
	}
	if r.Docker != nil && !r.Docker.Connected {
		found = append(found, failure("see the check docker", "anchord cannot ask Docker: %s", r.Docker.Error))
	}
	for _, p := range failed {
		found = append(found, failure("docker compose logs anchord", "anchord could not put everything right: %s", p.Message))
	}
	ago := ""
	if r.Looked != nil {
		since := now.Sub(*r.Looked).Round(time.Second)
		ago = fmt.Sprintf("; it looked at everything %v ago", since)
		if poll := time.Duration(r.PollSeconds) * time.Second; poll > 0 && since > overdue*poll {
			found = append(found, failure("docker compose restart anchord, and tell its developers with the log", "anchord has not looked at anything for %v, though it should every %v", since, poll))
		}
	}
	if found == nil {
		return []finding{fine("anchord runs and is ready%s", ago)}
	}
	return found
}
