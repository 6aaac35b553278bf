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

func (s spot) String() string { return fmt.Sprintf("%s/%d", s.protocol, s.port) }

// publication is what becomes of a service's ports: which port of the project leads
// to which of the service, and what of that is not what the file says.
type publication struct {
	open, local           map[spot]uint16 // to the LAN, and to the host alone until now
	random, ranges, fixed []string        // chosen by Docker; from a range; at one address
	sctp                  []string
}

// publish finds out what a service's ports become.
func (p *plan) publish(name string) {
	pub := publication{open: map[spot]uint16{}, local: map[spot]uint16{}}
	for _, entry := range chosenLast(p.Services[name].Ports) {
		if bad := pub.add(entry); bad != "" {
			p.fault("service %s %s", shown(name), bad)
		}
	}
	for at := range pub.open {
		delete(pub.local, at) // the LAN has it as well
	}
	if len(pub.open) > 0 {
		p.exposed[name] = exposures(pub.open)
	}
	if len(pub.local) > 0 {
		p.loopback[name] = exposures(pub.local)
	}
	p.remarks[name] = pub.remarks()
	p.sctp[name] = len(pub.sctp) > 0
}

// add adds an entry, or says what is wrong with it.
func (pub *publication) add(entry port) (bad string) {
	at, target, bad := entry.parse(pub.open)
	other, taken := pub.open[at]
	switch {
	case bad != "":
		return "has a port that " + bad
	case entry.sctp():
		pub.sctp = append(pub.sctp, at.String())
	case entry.loopback():
		pub.local[at] = target
	case taken && other != target:
		return fmt.Sprintf("publishes %s twice, for its ports %d and %d, and the project has one address: publish one of them at another port", at, other, target)
	case !taken:
		pub.open[at] = target
		pub.remark(entry, at)
	}
	return ""
}

// remark keeps in mind where a port is not exposed as the file has it.
func (pub *publication) remark(entry port, at spot) {
	if entry.random() {
		pub.random = append(pub.random, at.String())
	} else if entry.oneOf() {
		pub.ranges = append(pub.ranges, at.String()+" of "+shown(string(entry.Published)))
	}
	if entry.HostIP != "" && !entry.everywhere() {
		pub.fixed = append(pub.fixed, at.String()+" of "+shorten(printable(entry.HostIP)))
	}
}

func (pub *publication) remarks() (said []string) {
	if len(pub.sctp) > 0 {
		said = append(said, some(pub.sctp)+" is not exposed, as anchord knows tcp and udp only")
	}
	if len(pub.random) > 0 {
		said = append(said, "Docker chose the host's port for "+some(pub.random)+"; it is exposed at its own number")
	}
	if len(pub.ranges) > 0 {
		said = append(said, "Docker chose one port of a range; exposed is "+some(pub.ranges))
	}
	if len(pub.fixed) > 0 {
		said = append(said, some(pub.fixed)+" is exposed at the project's address, not at that one")
	}
	return said
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
