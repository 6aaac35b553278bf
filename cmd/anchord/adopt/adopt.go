// Package adopt turns a Docker Compose project that publishes ports into one
// server on the LAN: of the project as Compose itself writes it down, it makes an
// override file for Compose and says what a person must know. It reads no file and
// asks no engine; the same input gives the same bytes.
package adopt

import (
	"strings"

	"github.com/AlexCherrypi/anchord"
)

// OverrideFile is the name that the printed commands give the override.
const OverrideFile = "compose.anchord.yaml"

// Options are what the project does not tell of itself.
type Options struct {
	Parent string   // the host's interface on the LAN
	Image  string   // anchord's
	Engine string   // version of Docker Engine; empty: 28 or later
	IPv6   bool     // IPv6 on the LAN and inside
	Proxy  bool     // a read-only socket proxy between anchord and Docker
	Files  []string // the project's own files, for the printed commands
	LAN    LAN      // for engines before 28, which need it; else empty
}

// LAN is what an engine before 28 has to be told of it.
type LAN struct {
	Subnet  string // the LAN's
	Gateway string // its router
	Range   string // addresses that its DHCP server gives to nobody
}

// Faults are all reasons why there is no override, each one line.
type Faults []string

func (f Faults) Error() string { return strings.Join(f, "\n") }

// Result is an override and what goes with it.
type Result struct {
	Override string   // a Compose file
	Exposed  []string // which ports lead to which service, a line each
	Notes    []string // what a person must know, a line each
	Files    []string // the project's own, as far as they were named
	Start    string   // the command that starts the project with the override
	Env      string   // the line of .env that has later commands use it
}

// plan is what has been decided about a project.
type plan struct {
	*project
	options
	names    names
	members  map[string][]string           // services, by network
	exposed  map[string][]anchord.Exposure // by service
	loopback map[string][]anchord.Exposure // what is bound to the host alone, by service
	sctp     map[string]bool               // services that publish a port of it
	remarks  map[string][]string           // what is said of ports, by service
	refused  map[string]string             // services with ports, and why they cannot be adopted
	transits []string                      // the networks whose gateway anchord is, the primary first
	notes    []string
	faults   Faults
}

// Override makes the override for a project that `docker compose config --format
// json` has written. An error is Faults.
func Override(input []byte, o Options) (Result, error) {
	p := &plan{
		exposed:  map[string][]anchord.Exposure{},
		loopback: map[string][]anchord.Exposure{},
		sctp:     map[string]bool{},
		remarks:  map[string][]string{},
		refused:  map[string]string{},
	}
	var faults Faults
	p.options, faults = o.check()
	var err error
	if p.project, err = read(input); err != nil {
		return Result{}, append(faults, err.(Faults)...) //nolint:errorlint // it is nothing else
	}
	p.faults = faults
	p.decide()
	if len(p.faults) > 0 {
		return Result{}, p.faults
	}
	return Result{
		Override: p.yaml(),
		Exposed:  p.told(),
		Notes:    p.notes,
		Files:    p.Files,
		Start:    p.start(),
		Env:      p.env(),
	}, nil
}

// decide fills the plan in, or its faults.
func (p *plan) decide() {
	if p.adopted() {
		return
	}
	for _, name := range p.serviceNames() {
		p.publish(name)
	}
	p.refuse()
	if len(p.exposed) == 0 {
		p.nothingLeft()
		return
	}
	p.findConflicts()
	p.members = p.byNetwork()
	p.transits = p.chooseTransits()
	p.names = p.chooseNames()
	p.noteServices()
	p.noteNetworks()
	p.noteProject()
}

// adopted notes what shows that the project has an anchord already.
func (p *plan) adopted() bool {
	for _, name := range p.serviceNames() {
		s := p.Services[name]
		what := ""
		if _, labelled := s.Labels[anchord.LabelExpose]; labelled {
			what = "carries the label " + anchord.LabelExpose
		} else if isAnchord(s.Image) || repository(s.Image) == repository(p.Image) {
			what = "is an anchord"
		}
		if what != "" {
			p.fault("service %s %s: the project is adopted already; give in the project's own files alone: docker compose%s config --format json", shown(name), what, filesOf(p.Files))
			return true
		}
	}
	return false
}

// nothingLeft says why no port at all can be exposed.
func (p *plan) nothingLeft() {
	for _, name := range p.serviceNames() {
		if reason := p.refused[name]; reason != "" {
			p.fault("%s", reason)
		} else if local := p.loopback[name]; len(local) > 0 {
			p.fault("service %s publishes %s for the Docker host alone (127.0.0.1 or ::1), so nothing of it is exposed; publish it without that address", shown(name), shorten(list(local)))
		} else if p.sctp[name] {
			p.fault("service %s publishes sctp alone, and anchord knows tcp and udp only", shown(name))
		}
	}
	if len(p.faults) == 0 {
		p.fault("no service of the project publishes a port, so there is nothing to expose (services of a profile count when it is on: docker compose --profile NAME config …)")
	}
}
