package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"github.com/AlexCherrypi/anchord/test/lab"
	"github.com/AlexCherrypi/anchord/test/told"
)

// project is a Compose project with anchord in it.
type project struct {
	*site
	name  string
	dir   string
	files []string
	down  bool // it was taken down, and that was looked at

	warned []string // events of warnings that the scenario is about
}

// project prepares a project that is anchord, as in the example of the native
// pattern, and what the scenario adds to it.
func (s *site) project(name, services string) *project {
	s.Helper()
	anchord, _, found := strings.Cut(readExample(s.T, "native/compose.yaml"), "\n  web:")
	if !found {
		s.Fatal("the native example has no service web any more, at which its anchord could be cut off")
	}
	return s.projectOf(name, anchord+"\n", services)
}

// projectOf prepares a project of an example's text and additions to it.
func (s *site) projectOf(name, text, additions string) *project {
	s.Helper()
	parent, err := s.lan.Parent(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	p := &project{site: s, name: name}
	if p.dir, err = s.engine.TempDir(); err != nil {
		s.Fatal(err)
	}
	p.write("compose.yaml", asInLab(text, parent))
	if s.engine.old {
		p.write("engine-before-28.yaml", onLAN(readExample(s.T, "native/engine-before-28.yaml"), s.lan))
	}
	if additions != "" {
		p.write("scenario.yaml", additions)
	}
	s.Cleanup(p.cleanUp)
	return p
}

// write writes a Compose file; one of a new name is used from now on.
func (p *project) write(name, text string) {
	p.Helper()
	path := filepath.Join(p.dir, name)
	if _, err := os.Stat(path); err != nil {
		p.files = append(p.files, path)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		p.Fatal(err)
	}
}

// up starts the project, or brings it to what its files say now.
func (p *project) up(args ...string) time.Time {
	p.Helper()
	start := time.Now()
	p.compose(append([]string{"up", "--detach", "--quiet-pull"}, args...)...)
	return start
}

// compose runs docker compose and gives what it said.
func (p *project) compose(args ...string) string {
	p.Helper()
	return output(p.site, p.engine.Compose(p.ctx, p.dir, p.name, p.files, args...))
}

// docker runs the docker command.
func (s *site) docker(args ...string) string {
	s.Helper()
	return output(s, s.engine.Docker(s.ctx, args...))
}

func output(s *site, cmd *exec.Cmd) string {
	s.Helper()
	out, err := try(cmd)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// try runs a command; its error says what it said.
func try(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// container is the name of a service's container.
func (p *project) container(service string) string { return p.name + "-" + service + "-1" }

func (p *project) inspect(service string) container.InspectResponse {
	p.Helper()
	c, err := p.engine.Client().ContainerInspect(p.ctx, p.container(service))
	if err != nil {
		p.Fatal(err)
	}
	return c
}

// started is when a service's container was started last.
func (p *project) started(service string) time.Time {
	p.Helper()
	at, err := time.Parse(time.RFC3339Nano, p.inspect(service).State.StartedAt)
	if err != nil {
		p.Fatal(err)
	}
	return at
}

// startEvent is when Docker told of a service's start last, which on a busy
// machine can be long after the container's own word for it.
func (p *project) startEvent(service string) time.Time {
	p.Helper()
	messages, errs := p.engine.Client().Events(p.ctx, events.ListOptions{
		Since: "0", Until: fmt.Sprint(time.Now().Unix() + 1),
		Filters: filters.NewArgs(filters.Arg("container", p.inspect(service).ID), filters.Arg("event", "start")),
	})
	var at time.Time
	for {
		select {
		case m := <-messages:
			at = time.Unix(0, m.TimeNano)
		case err := <-errs:
			if !errors.Is(err, io.EOF) || at.IsZero() {
				p.Fatalf("docker has no start event of %s: %v", service, err)
			}
			return at
		}
	}
}

// transitAddr is a service's address behind anchord.
func (p *project) transitAddr(service string) netip.Addr {
	p.Helper()
	n := p.inspect(service).NetworkSettings.Networks[p.name+"_transit"]
	if n == nil {
		p.Fatalf("%s is not on the transit network", service)
	}
	return netip.MustParseAddr(n.IPAddress)
}

// enter gives the namespace of a service's container, as it is now.
func (p *project) enter(service string) *lab.Host {
	p.Helper()
	host, err := p.engine.Enter(p.ctx, p.container(service))
	if err != nil {
		p.Fatal(err)
	}
	return host
}

// anchord runs a command in anchord's container.
func (p *project) exec(args ...string) string {
	p.Helper()
	return p.docker(append([]string{"exec", p.container("anchord")}, args...)...)
}

// logged finds anchord's log lines with one event name, oldest first.
func (p *project) logged(event string) []logLine {
	p.Helper()
	var found []logLine
	for _, l := range p.log() {
		if l.Event == event {
			found = append(found, l)
		}
	}
	return found
}

type logLine struct {
	Time  time.Time
	Level string
	Msg   string
	Event string
	Raw   string
}

// log is anchord's own log since its container was made.
func (p *project) log() []logLine {
	p.Helper()
	var lines []logLine
	for line := range strings.Lines(p.docker("logs", p.container("anchord"))) {
		l := logLine{Raw: strings.TrimSpace(line)}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			p.Errorf("anchord's log has a line that is not JSON: %s", l.Raw)
			continue
		}
		if err := told.Event(l.Level, l.Event); err != nil {
			p.Errorf("%v: %s", err, l.Raw)
		}
		lines = append(lines, l)
	}
	return lines
}

// status is what anchord says about itself.
func (p *project) status() status {
	p.Helper()
	var s status
	text := p.exec("anchord", "status", "--json")
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		p.Fatalf("anchord status --json: %v: %s", err, text)
	}
	return s
}

// status is the part of `anchord status --json` that tests look at.
type status struct {
	Project   string
	Ready     bool
	Hostname  string
	Interface string
	MAC       string
	Addresses []string
	Shared    string `json:"shared_network"`
	Exposed   []struct {
		Protocol, Ports, Container, Backend string
		Connections                         int
	}
	Problems []struct{ Event, Container, Message string }
	Docker   struct{ Connected bool }
}

// metric is the value of one of anchord's metrics, with its labels as they are
// written, or "" if it is not there.
func (p *project) metric(name string) string {
	p.Helper()
	text := p.exec("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9090/metrics")
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// cleanUp shows what there is to see after a failure and takes the project
// down, which always has to work.
func (p *project) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p.ctx = ctx
	p.noFalseAlarm()
	if p.Failed() {
		p.diagnose()
	}
	p.takeDown()
}

// noFalseAlarm looks for warnings of a setup that does not work: those that are
// cleaned up here do.
func (p *project) noFalseAlarm() {
	log, err := try(p.engine.Docker(p.ctx, "logs", p.container("anchord")))
	for _, event := range []string{"network.forwarding_off", "label.unknown", "config.warning", "network.name_missing"} {
		if err == nil && !slices.Contains(p.warned, event) && strings.Contains(log, `"event":"`+event+`"`) {
			p.Errorf("anchord warns of %s, and yet all works", event)
		}
	}
}

// takeDown ends a project, if that has not been done.
func (p *project) takeDown() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if p.down {
		return
	}
	if out, err := try(p.engine.Compose(ctx, p.dir, p.name, p.files, "down", "--volumes", "--remove-orphans", "--timeout", "10")); err != nil {
		p.Errorf("taking the project down: %v", err)
	} else if strings.Contains(strings.ToLower(out), "error") {
		p.Errorf("taking the project down: %s", out)
	}
}

// diagnose shows both ends: what anchord did and what the LAN saw.
func (p *project) diagnose() {
	anchord := p.container("anchord")
	show := func(title string, cmd *exec.Cmd) {
		out, err := cmd.CombinedOutput()
		p.Logf("---- %s (%v)\n%s", title, err, out)
	}
	show("docker ps -a", p.engine.Docker(p.ctx, "ps", "-a", "--filter", "label=com.docker.compose.project="+p.name))
	show("anchord's log", p.engine.Docker(p.ctx, "logs", "--timestamps", anchord))
	show("docker's events", p.engine.Docker(p.ctx, "events", "--since", "30s", "--until", "0s", "--filter", "type=network", "--filter", "type=container"))
	show("all logs", p.engine.Compose(p.ctx, p.dir, p.name, p.files, "logs", "--timestamps", "--tail", "60"))
	show("anchord's ruleset", p.engine.Docker(p.ctx, "exec", anchord, "nft", "list", "ruleset"))
	show("anchord's addresses", p.engine.Docker(p.ctx, "exec", anchord, "ip", "address"))
	show("anchord's routes", p.engine.Docker(p.ctx, "exec", anchord, "ip", "route"))
	show("DHCP server's log", exec.Command("tail", "-n", "60", p.lan.DHCPLog()))
}
