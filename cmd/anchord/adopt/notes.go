package adopt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// longestShown is how much of a name is shown to a person.
const longestShown = 60

// shown is a name for a person: in quotes, without anything that a terminal would
// take for more than text, and not longer than it is of use.
func shown(name string) string { return `"` + shorten(printable(name)) + `"` }

// printable has an escape in place of what is no visible character.
func printable(s string) string {
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

func shorten(s string) string {
	if r := []rune(s); len(r) > longestShown {
		return string(r[:longestShown]) + "…"
	}
	return s
}

// some are the first of several words, and how many more there are.
func some(words []string) string {
	const most = 10
	if len(words) > most {
		return strings.Join(words[:most], ", ") + fmt.Sprintf(" and %d more", len(words)-most)
	}
	return strings.Join(words, ", ")
}

func (p *plan) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

func (p *plan) fault(format string, args ...any) {
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

// told are the ports of each service, for a person.
func (p *plan) told() []string {
	var lines []string
	for _, name := range p.serviceNames() {
		if e := p.exposed[name]; len(e) > 0 {
			words := strings.Split(list(e), ", ")
			lines = append(lines, fmt.Sprintf("%s: %s", shorten(printable(name)), some(words)))
		}
	}
	return lines
}

// noteServices says what of the services is not as before, or not as expected.
func (p *plan) noteServices() {
	for _, name := range p.serviceNames() {
		s := p.Services[name]
		if reason := p.refused[name]; reason != "" {
			p.note("%s; its ports stay those of the Docker host", reason)
			continue
		}
		for _, said := range p.remarks[name] {
			p.note("service %s: %s", shown(name), said)
		}
		if local := p.loopback[name]; len(local) > 0 && p.on(name, p.transits) {
			p.note("service %s: %s was open to the Docker host alone and is not exposed; the host does not reach it any more, as it has no address on anchord's networks", shown(name), shorten(list(local)))
		}
		if owner, shares := strings.CutPrefix(s.NetworkMode, "service:"); shares {
			p.noteShared(name, owner)
		}
		if n := s.replicas(); n > 1 && len(p.exposed[name]) > 0 {
			p.note("service %s has %d containers: the oldest that runs serves the ports, the others do not", shown(name), n)
		}
		if slices.Contains(s.ExtraHosts, "host-gateway") && p.on(name, p.transits) {
			p.note("service %s has a name for host-gateway: the Docker host cannot be reached from the project, at that name or at its LAN address; what it runs for the project has to move into the project or to another machine", shown(name))
		}
		p.noteOtherWays(name)
	}
}

func (s service) replicas() int {
	n := 1
	for _, said := range []*int{s.Scale, s.Deploy.Replicas} {
		if said != nil {
			n = max(n, *said)
		}
	}
	return n
}

// noteShared says that nothing is exposed of a service that shares the network of
// one without ports.
func (p *plan) noteShared(name, owner string) {
	seen := map[string]bool{}
	for !seen[owner] {
		seen[owner] = true
		next, shares := strings.CutPrefix(p.Services[owner].NetworkMode, "service:")
		if !shares {
			break
		}
		owner = next
	}
	if len(p.Services[owner].Ports) == 0 {
		p.note("service %s shares the network of %s, which publishes no port: nothing of it is exposed; if it shall be, give %s its ports", shown(name), shown(owner), shown(owner))
	}
}

// noteOtherWays says which way out a service has that is also on a network whose
// gateway anchord cannot be.
func (p *plan) noteOtherWays(name string) {
	var all, external []string
	for _, n := range p.otherWays(name) {
		all = append(all, shown(n))
		if p.Networks[n].External {
			external = append(external, shown(n))
		}
	}
	switch {
	case !p.on(name, p.transits):
	case p.old && len(all) > 0:
		p.note("service %s is on %s too, whose gateway is not anchord, and before Engine 28 nobody can say which way it takes: take it off there, or answers may be lost", shown(name), some(all))
	case len(p.exposed[name]) > 0 && len(external) > 0:
		p.note("service %s stays on another project's network too, %s; what it sends out goes by anchord", shown(name), some(external))
	}
}

// noteNetworks says what leaves by the host as before.
func (p *plan) noteNetworks() {
	for _, t := range p.transits {
		if p.Networks[t].EnableIPv6 && !p.IPv6 {
			p.note("network %s has IPv6, in which its services would leave by the Docker host, with the host's address: make the file with --ipv6", shown(t))
		}
	}
	var outside []string
	for _, name := range p.serviceNames() {
		if p.refused[name] == "" && p.leavesByHost(name) {
			outside = append(outside, shown(name))
		}
	}
	if len(outside) > 0 {
		p.note("on no network of which anchord can be the gateway, so they send out as before and not as the project: %s", some(outside))
	}
}

// leavesByHost says whether a service has a way out that is not anchord's.
func (p *plan) leavesByHost(name string) bool {
	mode, _, _ := strings.Cut(p.Services[name].NetworkMode, ":")
	return mode != "none" && mode != "service" && !p.on(name, p.transits) && (mode != "" || len(p.otherWays(name)) > 0)
}

// noteProject says what is true of every project.
func (p *plan) noteProject() {
	if p.Proxy {
		for _, name := range p.serviceNames() {
			if strings.HasPrefix(p.Services[name].NetworkMode, "service:") {
				p.note("service %s shares a network: the socket proxy lets anchord read only, so anchord does not start such a one that Docker could not start (%s)", shown(name), proxyDocs)
				break
			}
		}
	}
	p.note("on the Docker host these ports are closed, and the host itself cannot reach the project at its LAN address; every other machine of the LAN can")
}

// Told is what a person must know of the override: at its end the commands, each
// alone on its line.
func (r Result) Told() string {
	var b strings.Builder
	b.WriteString("On the LAN the project has the ports\n")
	for _, line := range r.Exposed {
		b.WriteString("  " + line + "\n")
	}
	for _, note := range r.Notes {
		b.WriteString("note: " + note + "\n")
	}
	if len(r.Files) == 1 {
		b.WriteString("note: the commands below use " + r.Files[0] + " alone: if the project has other files, such as a compose.override.yaml, call this again with --file NAME for each\n")
	}
	b.WriteString("Start it with this command. (A plain up -d would reconnect running containers without their service names.)\n")
	b.WriteString("  " + r.Start + "\n")
	b.WriteString("This line in .env has later commands use both:\n")
	b.WriteString("  " + r.Env + "\n")
	return b.String()
}
