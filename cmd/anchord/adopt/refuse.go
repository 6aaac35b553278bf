package adopt

import (
	"slices"
	"strings"

	"github.com/AlexCherrypi/anchord"
)

// refuse takes away the services whose ports anchord cannot have, with the reason
// and the pattern that fits.
func (p *plan) refuse() {
	for _, name := range p.serviceNames() {
		reason := p.whyNot(name)
		if reason == "" || len(p.Services[name].Ports) == 0 {
			continue
		}
		if len(p.exposed[name]) > 0 || strings.HasPrefix(p.Services[name].NetworkMode, "service:") {
			p.refused[name] = "service " + shown(name) + " cannot be adopted: " + reason
		}
		delete(p.exposed, name)
		delete(p.loopback, name)
	}
}

// whyNot says why a service can be on no network of which anchord is the gateway;
// empty: it can.
func (p *plan) whyNot(name string) string {
	mode := p.Services[name].NetworkMode
	what, of, _ := strings.Cut(mode, ":")
	switch what {
	case "":
		return p.noOwnNetwork(name)
	case "host":
		return "network_mode: host makes it a part of the Docker host; give it a network of the project in place of that (" + pattern("native") + ")"
	case "service":
		return "it shares the network of " + shown(of) + ", so its ports have to stand there"
	case "container":
		return "it shares the network of the container " + shown(of) + ", which is not of this project (" + pattern("wrap") + ")"
	case "none":
		return "network_mode: none leaves it without a network; give it one of the project in place of that (" + pattern("native") + ")"
	case "bridge", "default":
		return "network_mode: " + what + " puts it on a network of the whole engine; give it one of the project in place of that (" + pattern("native") + ")"
	}
	return "network_mode: " + shown(mode) + " is no network of the project (" + pattern("wrap") + ")"
}

func (p *plan) noOwnNetwork(name string) string {
	all := p.networksOf(name)
	if slices.ContainsFunc(all, func(n string) bool { return p.Networks[n].own() }) {
		return ""
	}
	of := func(is func(network) bool) []string {
		var some []string
		for _, n := range all {
			if is(p.Networks[n]) {
				some = append(some, shown(n))
			}
		}
		return some
	}
	if external := of(func(n network) bool { return n.External }); len(external) > 0 {
		return "its way out is another project's network, " + some(external) + "; give it one of its own too, or wrap it (" + pattern("wrap") + ")"
	}
	if other := of(network.leads); len(other) > 0 {
		return "its network " + some(other) + " is no bridge with IPv4, so anchord cannot be its gateway; give it one that is (" + pattern("native") + ")"
	}
	return "its networks are internal: true, on which Docker gives no way out; give it another one, or a service-anchor (" + pattern("service-anchor") + ")"
}

// pattern is where a pattern is explained.
func pattern(name string) string { return anchord.DocsURL + "patterns.md#" + name }
