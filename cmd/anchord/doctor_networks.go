package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// Checks of the networks that Docker attached anchord to.

// blind is the answer of a check that has nothing to look at.
func (p *patient) blind() []finding {
	switch {
	case p.dockerErr != nil:
		return []finding{skipped("docker cannot be asked")}
	case p.linkErr != nil:
		return []finding{skipped("the interfaces cannot be seen: %v", p.linkErr)}
	case p.state.Identity.Project == "":
		return []finding{skipped("it is not known whose containers are managed")}
	}
	return nil
}

// lanFacts is the LAN interface as it is found.
type lanFacts struct {
	iface    string
	network  anchord.Network // if Docker made it
	given    netip.Addr      // the IPv4 address that Docker gave
	asked    anchord.AddressMode
	mode     anchord.AddressMode
	api      string
	carrier  bool
	up       bool
	running  bool   // anchord
	made     bool   // it is there
	parent   string // on which anchord makes it
	notFound string // why there is none
}

func checkLAN(ctx context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	f := lanFacts{iface: p.state.Ext, asked: p.config.Mode, mode: p.state.Mode, api: p.api, made: p.has(p.state.Ext)}
	f.notFound = p.noticed(anchord.EventExtMissing)
	if p.state.Child != nil {
		f.parent = p.state.Child.Parent
	}
	if n, ok := p.lanNetwork(); ok {
		f.network = n
		for _, e := range p.self.Endpoints {
			if e.NetworkID == n.ID {
				f.given = e.Addrs[anchord.V4]
			}
		}
	}
	f.carrier, f.up = hasLink(ctx, p.probed())
	f.running = p.isRunning()
	return judgeLAN(f)
}

// hasLink says whether an interface has a link, and whether it is up; one that was
// taken up just now gets a moment for the link.
func hasLink(ctx context.Context, iface string) (link, up bool) {
	ctx, cancel := context.WithTimeout(ctx, 700*time.Millisecond)
	defer cancel()
	for {
		i, err := net.InterfaceByName(iface)
		if err == nil && i.Flags&net.FlagRunning != 0 {
			return true, true
		}
		select {
		case <-ctx.Done():
			return false, err == nil && i.Flags&net.FlagUp != 0
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// noticed is the decision's message of an event, if it has one.
func (p *patient) noticed(event string) string {
	for _, n := range p.state.Notices {
		if n.Event == event {
			return n.Message
		}
	}
	return ""
}

// lanNetwork is the network that is the LAN, if one is.
func (p *patient) lanNetwork() (anchord.Network, bool) {
	i := slices.IndexFunc(p.self.Networks, func(n anchord.Network) bool {
		if p.config.ExtNetwork != "" {
			return n.Called(p.config.ExtNetwork)
		}
		return n.OnLAN()
	})
	if i < 0 || p.config.VLANParent != "" {
		return anchord.Network{}, false
	}
	return p.self.Networks[i], true
}

func judgeLAN(f lanFacts) []finding {
	switch {
	case f.notFound != "":
		return []finding{failure("attach anchord to one macvlan network whose parent is the host's interface on the LAN (README), or name it with the variable above", "%s", f.notFound)}
	case strings.HasPrefix(f.network.IPVLANMode, "l3"):
		return []finding{failure("driver: macvlan for that network, or ipvlan_mode: l2", "network %s is ipvlan in mode %s: it passes neither ARP nor DHCP on", f.network.Name, f.network.IPVLANMode)}
	case !f.up && f.running:
		return []finding{failure("see in anchord's log why it could not be brought up: docker compose logs anchord", "%s is down", f.iface)}
	case !f.up:
		return []finding{skipped("%s is down, and could not be taken up to see whether it has a link", cmp.Or(f.parent, f.iface))}
	case !f.carrier:
		return []finding{failure("on the Docker host, take the network's parent up, and look at its cable: ip link", "%s has no link: the interface below it is down", f.iface)}
	}
	where := "no network of Docker's"
	switch {
	case f.parent != "" && !f.made:
		return []finding{fine("%s is made on %s when anchord starts", f.iface, f.parent)}
	case f.parent != "":
		where = "made by anchord on " + f.parent
	case f.network.ID != "":
		where = fmt.Sprintf("network %s (%s)", f.network.Name, f.network.Driver)
	}
	if f.asked == anchord.ModeAuto && f.mode == anchord.ModeBootstrap && before28(f.api) {
		return []finding{warning("add engine-before-28.yaml, as in the README, and recreate: docker compose down, then up; or set ANCHORD_ADDRESS_MODE=bootstrap if the address is the LAN's", "%s: %s. This engine is older than 28 and does not know enable_ipv4: false: it gave the address %s, which is kept, and no DHCP server is asked", f.iface, where, f.given)}
	}
	return []finding{fine("%s: %s, address mode %s", f.iface, where, f.mode)}
}

// transitFacts is a network between anchord and containers.
type transitFacts struct {
	network anchord.Network
	wrapped bool // the containers are another project's
	// answers says for each exposed container on it that answers its neighbours
	// whether it answers a client of the LAN too.
	answers []bool
}

// transitNetworks are those of the shared network and of every one that a backend is
// reached by: others, to a socket proxy say, are none of ours.
func (p *patient) transitNetworks() []anchord.Network {
	ifaces := map[string]bool{}
	for _, e := range p.state.Entries {
		ifaces[e.Iface] = true
	}
	var list []anchord.Network
	for _, n := range p.self.Networks {
		used := n.Name == p.state.Shared
		for _, t := range p.state.Transits {
			used = used || t.Network == n.Name && ifaces[t.Iface]
		}
		if used {
			list = append(list, n)
		}
	}
	return list
}

func (p *patient) wraps() bool { return p.state.Identity.Scope.Helpers != "" }

func checkTransit(_ context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	if p.state.Ext == "" {
		return []finding{skipped("without a LAN interface no network is trusted to be inside")}
	}
	if missing := p.noticed(anchord.EventSharedMissing); missing != "" {
		return []finding{failure("attach anchord to the network of the services", "%s", missing)}
	}
	answers := p.askBackends()
	var found []finding
	for _, n := range p.transitNetworks() {
		f := transitFacts{network: n, wrapped: p.wraps()}
		for _, b := range p.backends(anchord.V4) {
			if a := answers[b.Backend]; p.reachedBy(b, n) && a.err == nil && a.near {
				f.answers = append(f.answers, a.far)
			}
		}
		found = append(found, judgeTransit(f))
	}
	return found
}

func (p *patient) reachedBy(e anchord.Entry, n anchord.Network) bool {
	return slices.ContainsFunc(p.state.Transits, func(t anchord.Transit) bool { return t.Network == n.Name && t.Iface == e.Iface })
}

const inhibitFix = `in the Compose file, networks: {transit: {driver_opts: {com.docker.network.bridge.inhibit_ipv4: "true"}}}, then docker compose down and up; or a service-anchor for each service`

// judgeTransit: whether the backends answer clients says more than how the network
// was made.
func judgeTransit(f transitFacts) finding {
	vacant := slices.ContainsFunc(f.network.VacantGateways(), func(p netip.Prefix) bool { return p.Addr().Is4() })
	dropped := slices.Contains(f.answers, false)
	proven := len(f.answers) > 0 && !dropped
	name := f.network.Name
	switch {
	case f.network.Internal && dropped:
		return failure("on the Docker host, sysctl net.bridge.bridge-nf-call-iptables=0; or, as in the README, a transit with inhibit_ipv4 in place of internal: true", "network %s is internal, and no packet with a LAN client's address gets through it: Docker's isolation drops them where net.bridge.bridge-nf-call-iptables is 1, or a service has no service-anchor", name)
	case f.network.Internal && !proven:
		return warning("on the Docker host, look whether sysctl net.bridge.bridge-nf-call-iptables is 0; or, as in the README, use inhibit_ipv4 in place of internal: true", "network %s is internal: on a host with bridge-nf-call-iptables=1 every LAN client would be dropped, which cannot be seen from here before services run", name)
	case vacant, f.network.Internal:
		return fine("%s: its containers' way out is anchord", name)
	case dropped:
		return failure(inhibitFix, "the gateway of network %s is Docker's: its containers answer clients by the Docker host, and not by anchord", name)
	case proven:
		return fine("%s: its gateway is Docker's, but the exposed containers' way out is anchord", name)
	case f.wrapped:
		return warning("give each exposed service a service-anchor (examples/wrap)", "the gateway of network %s is Docker's: its containers do not go out by anchord by themselves", name)
	}
	return failure(inhibitFix, "the gateway of network %s is Docker's: its containers go out by the Docker host, and not by anchord", name)
}

func checkLeaks(_ context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	lan, _ := p.lanNetwork()
	var found []finding
	for _, n := range p.self.Networks {
		if n.ID != lan.ID && !n.OnLAN() {
			found = append(found, judgeLeak(n, p.wraps())...)
		}
	}
	if found == nil {
		return []finding{fine("no network that anchord is on leads out to the LAN by the Docker host's IPv6 address")}
	}
	return found
}

// judgeLeak: the containers of a network with IPv6 have Docker's gateway, unless
// there is none (internal) or it is one that nobody has until anchord takes it.
func judgeLeak(n anchord.Network, wrapped bool) []finding {
	if n.Internal {
		return nil
	}
	for _, pool := range n.Pools {
		if !pool.Subnet.Addr().Is6() || pool.DefaultGateway.IsValid() {
			continue
		}
		last := pool.Subnet.Addr().As16()
		last[14], last[15] = 0xff, 0xff
		fix := fmt.Sprintf(`in the Compose file, beside the network's subnet: aux_addresses: {DefaultGatewayIPv6: "%s"}, then docker compose down and up`, netip.AddrFrom16(last))
		f := failure(fix, "network %s has IPv6, and its gateway is the Docker host: containers go out with the host's IPv6 address", n.Name)
		if wrapped {
			f.Result = isWarning
			f.Fix = "give each service a service-anchor (examples/wrap), or switch IPv6 off on that network"
		}
		return []finding{f}
	}
	return nil
}
