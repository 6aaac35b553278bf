package adopt

import (
	"cmp"
	"slices"
)

// chooseTransits chooses the networks whose gateway anchord becomes: the primary
// first. They are as few as let every service of the project that has a network of
// its own leave by anchord, since one that does not would show the host's address.
func (p *plan) chooseTransits() []string {
	transits := []string{p.primary()}
	for {
		next, found := p.mostNeeded(transits)
		if !found {
			break
		}
		transits = append(transits, next)
	}
	for _, name := range p.networkNames() {
		if !slices.Contains(transits, name) && p.rivals(name, transits) {
			transits = append(transits, name)
		}
	}
	return transits
}

// primary is the network that most services with ports are on; of several, that of
// most services, then default, then the first by name. There is one.
func (p *plan) primary() string {
	return p.best(func(network string) int {
		return p.count(network, func(s string) bool { return len(p.exposed[s]) > 0 })
	})
}

// mostNeeded is the network on which most services are that are on no transit, if
// there are any.
func (p *plan) mostNeeded(transits []string) (network string, found bool) {
	left := func(network string) int {
		return p.count(network, func(s string) bool { return !p.on(s, transits) })
	}
	network = p.best(left)
	return network, left(network) > 0
}

// best is the own network with the highest score; of several, that of most
// services, then default, then the first by name.
func (p *plan) best(score func(network string) int) string {
	own := slices.DeleteFunc(p.networkNames(), func(n string) bool { return !p.Networks[n].own() })
	anybody := func(string) bool { return true }
	return slices.MinFunc(own, func(a, b string) int {
		return cmp.Or(
			cmp.Compare(score(b), score(a)),
			cmp.Compare(p.count(b, anybody), p.count(a, anybody)),
			-compareBool(a == "default", b == "default"),
			cmp.Compare(a, b),
		)
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// count is how many services that count are on a network.
func (p *plan) count(network string, counts func(service string) bool) (n int) {
	for _, name := range p.members[network] {
		if counts(name) {
			n++
		}
	}
	return n
}

// on says whether a service is on one of the networks.
func (p *plan) on(service string, networks []string) bool {
	return slices.ContainsFunc(p.networksOf(service), func(n string) bool { return slices.Contains(networks, n) })
}

// rivals says whether a network of the project would take a service's default route
// from its transit, though the transit had the higher priority: an engine before 28
// knows no priority, and later ones prefer the network that has IPv6 as well.
func (p *plan) rivals(network string, transits []string) bool {
	n := p.Networks[network]
	if !n.own() || !(p.old || n.EnableIPv6) {
		return false
	}
	return p.count(network, func(s string) bool { return p.on(s, transits) }) > 0
}

// wayOut is the transit that has to be given the higher gateway priority for a
// service, and which: its default route could lead elsewhere.
func (p *plan) wayOut(service string) (transit string, priority int, needed bool) {
	for _, t := range p.transits {
		if p.on(service, []string{t}) {
			transit = t
			break
		}
	}
	if transit == "" || p.old || len(p.otherWays(service)) == 0 {
		return "", 0, false
	}
	for name, a := range p.Services[service].Networks {
		if name != transit {
			priority = max(priority, a.GatewayPriority)
		}
	}
	priority++
	return transit, priority, p.Services[service].Networks[transit].GatewayPriority < priority
}

// otherWays are a service's networks that are no transits and could have its
// default route.
func (p *plan) otherWays(service string) []string {
	return slices.DeleteFunc(p.networksOf(service), func(n string) bool {
		return slices.Contains(p.transits, n) || !p.Networks[n].leads()
	})
}
