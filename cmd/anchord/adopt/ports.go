package adopt

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/AlexCherrypi/anchord"
)

// spot is a port of the project.
type spot struct {
	protocol anchord.Protocol
	port     uint16
}

// publish finds out what a service's ports become, and notes where that is not
// what the file says.
func (p *plan) publish(name string) {
	s := p.Services[name]
	open, local := map[spot]uint16{}, map[spot]uint16{}
	var random, fixed, ranges []string
	for _, entry := range chosenLast(s.Ports) {
		at, target, bad := entry.parse(open)
		if bad != "" {
			p.fault("service %s: a port %s", shown(name), bad)
			continue
		}
		if entry.sctp() {
			p.sctp[name] = true
			p.note("service %s: sctp/%d is not exposed, as anchord knows tcp and udp only", shown(name), target)
			continue
		}
		if entry.loopback() {
			local[at] = target
			continue
		}
		if other, taken := open[at]; taken && other != target {
			p.fault("service %s publishes %s/%d twice, for its ports %d and %d, and the project has one address: publish one of them at another port", shown(name), at.protocol, at.port, other, target)
			continue
		}
		if _, again := open[at]; again {
			continue
		}
		open[at] = target
		switch {
		case entry.random():
			random = append(random, fmt.Sprintf("%s/%d", at.protocol, at.port))
		case entry.oneOf():
			ranges = append(ranges, fmt.Sprintf("%s/%d of %s", at.protocol, at.port, shown(string(entry.Published))))
		}
		if entry.HostIP != "" && !entry.everywhere() {
			fixed = append(fixed, fmt.Sprintf("%s/%d of %s", at.protocol, at.port, shorten(printable(entry.HostIP))))
		}
	}
	for at := range open {
		delete(local, at) // the LAN has it as well
	}
	if len(open) > 0 {
		p.exposed[name] = exposures(open)
	}
	if len(local) > 0 {
		p.loopback[name] = exposures(local)
	}
	p.notePorts(name, random, ranges, fixed)
}

func (p *plan) notePorts(name string, random, ranges, fixed []string) {
	if len(random) > 0 {
		p.note("service %s: Docker chose the host's port for %s; it is exposed at its own number", shown(name), some(random))
	}
	if len(ranges) > 0 {
		p.note("service %s: Docker chose one port of a range; exposed is %s", shown(name), some(ranges))
	}
	if len(fixed) > 0 {
		p.note("service %s: %s is exposed at the project's address, not at that one", shown(name), some(fixed))
	}
}

// chosenLast has the ports of which Docker chooses the host's behind the others, and
// else keeps the order.
func chosenLast(ports []port) []port {
	ports = slices.Clone(ports)
	slices.SortStableFunc(ports, func(a, b port) int {
		return compareBool(a.random() || a.oneOf(), b.random() || b.oneOf())
	})
	return ports
}

// parse gives the port of the project and that of the service, or what is wrong. Of
// a range, of which Docker takes what is free, it is the first that is not taken.
func (e port) parse(taken map[spot]uint16) (at spot, target uint16, bad string) {
	at.protocol = anchord.Protocol(strings.ToLower(e.Protocol))
	if at.protocol == "" {
		at.protocol = anchord.TCP
	}
	if e.Target == 0 {
		return at, 0, "has no target, the port of the service"
	}
	if at.protocol != anchord.TCP && at.protocol != anchord.UDP && !e.sctp() {
		return at, 0, "has the protocol " + shown(e.Protocol) + ", which is neither tcp nor udp"
	}
	if e.HostIP != "" && !e.ip().IsValid() {
		return at, 0, "is bound to " + shown(e.HostIP) + ", which is no address"
	}
	if e.random() {
		at.port = e.Target
		return at, e.Target, ""
	}
	first, last, valid := e.bounds()
	if !valid {
		return at, 0, "is published at " + shown(string(e.Published)) + ", which is no port"
	}
	at.port = first
	for _, used := taken[at]; used && at.port < last; _, used = taken[at] {
		at.port++
	}
	return at, e.Target, ""
}

// bounds are the first and the last port of the host.
func (e port) bounds() (first, last uint16, valid bool) {
	from, to, isRange := strings.Cut(string(e.Published), "-")
	if !isRange {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	return uint16(a), uint16(b), errA == nil && errB == nil && 0 < a && a <= b
}

func (e port) sctp() bool { return strings.EqualFold(e.Protocol, "sctp") }

// random says whether Docker chooses any port of the host.
func (e port) random() bool { return e.Published == "" || e.Published == "0" }

// oneOf says whether Docker chooses one port of a range.
func (e port) oneOf() bool {
	first, last, isRange := strings.Cut(string(e.Published), "-")
	return isRange && first != last
}

func (e port) ip() netip.Addr {
	addr, _ := netip.ParseAddr(strings.Trim(e.HostIP, "[]")) //nolint:errcheck // the zero value says so
	return addr.Unmap()
}

func (e port) loopback() bool { return e.ip().IsLoopback() }

func (e port) everywhere() bool { return e.ip().IsUnspecified() }

// exposures joins neighbouring ports that lead to neighbouring ports.
func exposures(ports map[spot]uint16) []anchord.Exposure {
	var all []anchord.Exposure
	for at, target := range ports {
		all = append(all, anchord.Exposure{Protocol: at.protocol, First: at.port, Last: at.port, Backend: target})
	}
	slices.SortFunc(all, func(a, b anchord.Exposure) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First))
	})
	joined := all[:0]
	for _, e := range all {
		if n := len(joined); n > 0 && continues(joined[n-1], e) {
			joined[n-1].Last = e.Last
			continue
		}
		joined = append(joined, e)
	}
	return joined
}

func continues(e, next anchord.Exposure) bool {
	return e.Protocol == next.Protocol && int(e.Last)+1 == int(next.First) && int(e.Backend)+e.Ports() == int(next.Backend)
}

// list is a label of exposures.
func list(exposures []anchord.Exposure) string {
	var entries []string
	for _, e := range exposures {
		entries = append(entries, e.String())
	}
	return strings.Join(entries, ", ")
}

// findConflicts notes ports that two services want.
func (p *plan) findConflicts() {
	owner, shared := map[spot]string{}, map[[2]string]map[spot]uint16{}
	for _, name := range p.serviceNames() {
		for _, e := range p.exposed[name] {
			for n := int(e.First); n <= int(e.Last); n++ {
				at := spot{e.Protocol, uint16(n)}
				if first, taken := owner[at]; !taken {
					owner[at] = name
				} else if pair := [2]string{first, name}; shared[pair] == nil {
					shared[pair] = map[spot]uint16{at: at.port}
				} else {
					shared[pair][at] = at.port
				}
			}
		}
	}
	for _, pair := range sortedPairs(shared) {
		p.fault("services %s and %s both publish %s, and the project has one address: publish one of them at another port", shown(pair[0]), shown(pair[1]), shorten(list(exposures(shared[pair]))))
	}
}

func sortedPairs(of map[[2]string]map[spot]uint16) [][2]string {
	var pairs [][2]string
	for pair := range of {
		pairs = append(pairs, pair)
	}
	slices.SortFunc(pairs, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	return pairs
}
