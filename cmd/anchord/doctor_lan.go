package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/watch"
)

// Checks that ask the LAN. None takes an address, or makes one known.

// unasked is the answer of a check that cannot ask the LAN.
func (p *patient) unasked() []finding {
	switch {
	case p.linkErr != nil:
		return []finding{skipped("the interfaces cannot be seen: %v", p.linkErr)}
	case p.ext() == "":
		return []finding{skipped("the LAN interface is not known")}
	case p.probed() == "":
		return []finding{skipped("interface %s is not there", p.ext())}
	case !p.can(capNetRaw):
		return []finding{skipped("without NET_RAW the LAN cannot be asked")}
	}
	return nil
}

// dhcpFacts is what became of asking for an address.
type dhcpFacts struct {
	mode    anchord.AddressMode
	iface   string
	parent  string       // of its network, if known
	lease   *leaseStatus // that the running anchord has
	reply   reply
	err     error
	other   bool // it has an address of the other family, or an older one
	running bool // an anchord that has no lease
}

func checkDHCP(_ context.Context, p *patient) []finding {
	f := dhcpFacts{mode: p.state.Mode, iface: p.ext(), lease: p.lease(anchord.V4)}
	if lan, ok := p.lanNetwork(); ok && plainPath(lan.Parent) {
		f.parent = lan.Parent
	}
	if f.mode != "" && f.mode != anchord.ModeDHCPRefresh {
		return []finding{skipped("no DHCP server is asked in address mode %s", f.mode)}
	}
	if f.lease != nil { // asking again would only disturb
		return judgeDHCP(f)
	}
	if unasked := p.unasked(); unasked != nil {
		return unasked
	}
	if p.state.Identity.Hostname == "" {
		return []finding{skipped("it is not known for whom to ask")}
	}
	f.reply, f.err = p.discover()
	f.running = p.isRunning()
	f.other = p.address(p.ext(), anchord.V6).IsValid()
	return judgeDHCP(f)
}

// lease is what the running anchord holds of a family.
func (p *patient) lease(f anchord.Family) *leaseStatus {
	if !p.isRunning() || p.running == nil {
		return nil
	}
	i := slices.IndexFunc(p.running.Leases, func(l leaseStatus) bool { return l.Family == f.String() })
	if i < 0 {
		return nil
	}
	return &p.running.Leases[i]
}

func judgeDHCP(f dhcpFacts) []finding {
	fix := "on the Docker host, tcpdump -ni " + cmp.Or(f.parent, "PARENT") + " 'udp port 67 or udp port 68' while this runs: nothing seen, then the parent is the wrong interface; no answer seen, then look at the other end (" + anchord.DocsURL + "troubleshooting.md)"
	switch {
	case f.lease != nil:
		left := "without end"
		if f.lease.Remaining != nil {
			left = (time.Duration(*f.lease.Remaining) * time.Second).String() + " left"
		}
		return []finding{fine("a lease of %s from %s, %s", f.lease.Address, cmp.Or(f.lease.Server, "a DHCP server"), left)}
	case f.err != nil:
		return []finding{skipped("%v", f.err)}
	case f.reply.Address.IsValid():
		return []finding{fine("server %s offers %s (which was not taken)", f.reply.Server, f.reply.Address)}
	case !f.running: // anchord itself will ask for longer
		return []finding{warning("run it again, for some servers ping an address for seconds before they offer it; else "+fix, "no DHCP server answered on %s within %d s", f.iface, int(f.reply.waited.Truncate(time.Second).Seconds()))}
	case f.other:
		return []finding{warning(fix, "no DHCP server answers on %s; it has an IPv6 address only", f.iface)}
	}
	return []finding{failure(fix, "no DHCP server answers on %s", f.iface)}
}

func checkRouter(_ context.Context, p *patient) []finding {
	if unasked := p.unasked(); unasked != nil {
		return unasked
	}
	if !p.has(p.ext()) {
		return []finding{skipped("%s is not made yet", p.ext())}
	}
	if !p.ipv6On(p.ext()) {
		return []finding{skipped("IPv6 is off on %s", p.ext())}
	}
	advert, err := p.router()
	return judgeRouter(advert, err, p.ext(), p.state.Mode, p.lease(anchord.V6), p.isRunning())
}

func judgeRouter(a anchord.Advert, err error, ext string, mode anchord.AddressMode, lease *leaseStatus, running bool) []finding {
	if err != nil {
		return []finding{skipped("%v", err)}
	}
	if a.At == 0 {
		return []finding{warning("switch router advertisements on in the LAN's router, or IPv6 off on "+ext, "no router advertises itself on %s: no IPv6 address, and no gateway", ext)}
	}
	seen := "a router that is no gateway advertises on " + ext
	if a.Router.IsValid() {
		seen = "router " + a.Router.String() + " advertises on " + ext
	}
	if !a.Managed || mode != anchord.ModeDHCPRefresh {
		return []finding{fine("%s", seen)}
	}
	switch {
	case lease != nil:
		return []finding{fine("%s that addresses are managed; leased is %s", seen, lease.Address)}
	case running:
		return []finding{warning("look at the LAN's DHCPv6 server, or switch the M flag off in the router's advertisements", "%s that addresses are managed (M flag), but no DHCPv6 server has given one", seen)}
	}
	return []finding{fine("%s that addresses are managed: a DHCPv6 server will be asked", seen)}
}

// gatewayFacts is a router, and whether it answers.
type gatewayFacts struct {
	family  anchord.Family
	gateway netip.Addr
	source  string
	answers bool
	err     error
}

func checkGateway(ctx context.Context, p *patient) []finding {
	if p.linkErr != nil {
		return []finding{skipped("the routes cannot be seen: %v", p.linkErr)}
	}
	if p.mode == "network-anchor" && p.ext() == "" {
		return []finding{skipped("the LAN interface is not known")}
	}
	found := make([][]finding, len(anchord.Families))
	var wg sync.WaitGroup
	for _, f := range anchord.Families {
		wg.Go(func() { found[f] = p.askGateway(ctx, f) })
	}
	wg.Wait()
	if all := slices.Concat(found...); all != nil {
		return all
	}
	if p.mode == "service-anchor" && !p.isRunning() {
		return []finding{skipped("no service-anchor runs here yet, to set a default route")}
	}
	if p.mode == "service-anchor" {
		return []finding{failure("see the check name", "there is no default route: nothing is answered, and nothing goes out")}
	}
	if !p.isReady() {
		return []finding{skipped("no gateway is known before anchord is ready and has a lease")}
	}
	return []finding{failure("have the DHCP server name the router (option 3), or set ANCHORD_EXT_GATEWAY_IP", "no gateway is known: nothing beyond the LAN is reached")}
}

// askedTwice is how long a host has at least that is asked by ARP: silence for less
// says nothing.
const askedTwice = 400 * time.Millisecond

// askGateway asks the kernel's neighbour if there is an address to ask from, and
// else the router that a DHCP server offers.
func (p *patient) askGateway(ctx context.Context, f anchord.Family) []finding {
	route, has := p.defaultRoute(f)
	switch {
	case has && !p.can(capNetAdmin):
		return []finding{skipped("gateway %s: without NET_ADMIN it cannot be asked", route.Gateway)}
	case has && !p.address(route.Iface, f).IsValid():
		return []finding{skipped("gateway %s: %s has no address yet to ask it from", route.Gateway, route.Iface)}
	case has:
		ctx, cancel := context.WithTimeout(ctx, 2300*time.Millisecond)
		defer cancel()
		g := gatewayFacts{family: f, gateway: route.Gateway, source: "default route by " + route.Iface}
		g.answers, g.err = p.ip.Reaches(ctx, route.Iface, route.Gateway)
		return []finding{judgeGateway(g)}
	case f == anchord.V6 || p.isRunning() || p.unasked() != nil || p.state.Mode != anchord.ModeDHCPRefresh || p.mode != "network-anchor":
		return nil
	}
	offer, err := p.discover()
	if err != nil || !offer.Router.IsValid() {
		return nil
	}
	if ends, limited := ctx.Deadline(); limited && time.Until(ends) < askedTwice {
		return []finding{skipped("gateway %s: the offer came too late to ask it", offer.Router)}
	}
	holders, err := exec.Holders(ctx, p.probed(), offer.Router)
	return []finding{judgeGateway(gatewayFacts{f, offer.Router, "offered by DHCP", len(holders) > 0, err})}
}

// defaultRoute is the one that counts: of the network-anchor, that by the LAN.
func (p *patient) defaultRoute(f anchord.Family) (anchord.Route, bool) {
	for _, r := range p.routes[f] {
		if !r.Dst.IsValid() && r.Gateway.IsValid() && (p.mode != "network-anchor" || r.Iface == p.ext()) {
			return r, true
		}
	}
	return anchord.Route{}, false
}

func judgeGateway(g gatewayFacts) finding {
	switch {
	case g.err != nil:
		return skipped("gateway %s: %v", g.gateway, g.err)
	case g.answers:
		return fine("%s answers (%s)", g.gateway, g.source)
	}
	return failure("look whether it runs, and whether it is in the same network; an address that is wrong comes from the DHCP server, ANCHORD_EXT_GATEWAY_IP or the network's ipam", "gateway %s does not answer (%s): nothing beyond is reached by IP%s", g.gateway, g.source, g.family)
}

func checkDNS(ctx context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	if p.config.DNS.Off {
		return []finding{skipped("ANCHORD_DNS is off")}
	}
	if !p.isRunning() {
		return []finding{skipped("anchord does not run: there is no address yet to ask from")}
	}
	var servers []netip.Addr
	for _, f := range anchord.Families {
		servers = append(servers, p.state.Resolvers[f]...)
	}
	if len(servers) == 0 {
		return judgeNoDNS(p.internal())
	}
	answers := make([]dnsAnswer, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			code, err := watch.AskDNS(ctx, s)
			answers[i] = dnsAnswer{s, code, err}
		})
	}
	wg.Wait()
	return judgeDNS(answers, p.internal())
}

// dnsAnswer is a name server's.
type dnsAnswer struct {
	server netip.Addr
	code   string
	err    error
}

// internal says whether the shared network is: its containers then know of no
// other resolver.
func (p *patient) internal() bool {
	return slices.ContainsFunc(p.self.Networks, func(n anchord.Network) bool { return n.Name == p.state.Shared && n.Internal })
}

func judgeNoDNS(internal bool) []finding {
	if internal {
		return []finding{warning("set ANCHORD_DNS to a name server, or have the DHCP server name one", "no name server is known, and services on internal networks have no other: names of the outside are not found")}
	}
	return []finding{fine("no name server is known, and none is needed: the services ask Docker's")}
}

// judgeDNS: services that have other name servers lose nothing for good.
func judgeDNS(answers []dnsAnswer, internal bool) []finding {
	const fix = "look at that name server, or set ANCHORD_DNS to another"
	silent := !slices.ContainsFunc(answers, func(a dnsAnswer) bool { return a.err == nil })
	var found []finding
	for _, a := range answers {
		switch {
		case a.err != nil:
			found = append(found, fault(severity(internal && silent), fix, "name server %s does not answer: %v", a.server, a.err))
		case a.code == "RCodeSuccess" || a.code == "RCodeNameError":
			found = append(found, fine("%s answers", a.server))
		default:
			found = append(found, warning(fix, "name server %s answers that it cannot help (%s)", a.server, strings.TrimPrefix(a.code, "RCode")))
		}
	}
	return found
}

func checkDuplicate(ctx context.Context, p *patient) []finding {
	if unasked := p.unasked(); unasked != nil {
		return unasked
	}
	link, _ := p.link(p.ext())
	lost := unmadeAddresses(link, p.routes[anchord.V6])
	if len(link.Addrs)+len(lost) == 0 {
		return []finding{skipped("%s has no address yet", p.ext())}
	}
	ctx, cancel := context.WithTimeout(ctx, 1200*time.Millisecond)
	defer cancel()
	found := make([]finding, len(link.Addrs)+len(lost))
	var wg sync.WaitGroup
	for i, a := range lost {
		wg.Go(func() {
			taken, err := p.ip.Reaches(ctx, p.ext(), a)
			found[len(link.Addrs)+i] = judgeUnmade(a, taken, err)
		})
	}
	for i, a := range link.Addrs {
		wg.Go(func() {
			if a.Prefix.Addr().Is6() {
				found[i] = judgeDuplicate6(a)
				return
			}
			holders, err := exec.Holders(ctx, p.ext(), a.Prefix.Addr())
			found[i] = judgeDuplicate(a.Prefix.Addr(), holders, err)
		})
	}
	wg.Wait()
	return joined(found)
}

// maxUnmade is as many as the kernel makes of advertisements (max_addresses).
const maxUnmade = 16

// unmadeAddresses are the IPv6 addresses that an interface would have of its MAC
// and the prefixes on the LAN (RFC 4291, appendix A), and has not: the kernel gives
// one up that it finds taken.
func unmadeAddresses(link anchord.Link, routes []anchord.Route) (addrs []netip.Addr) {
	mac, err := net.ParseMAC(link.MAC)
	if err != nil || len(mac) != 6 {
		return nil
	}
	for _, r := range routes {
		if r.Iface != link.Name || r.Dst.Bits() != 64 || r.Gateway.IsValid() || r.Dst.Addr().IsLinkLocalUnicast() {
			continue
		}
		if slices.ContainsFunc(link.Addrs, func(a anchord.LinkAddr) bool { return r.Dst.Contains(a.Prefix.Addr()) }) {
			continue
		}
		if len(addrs) == maxUnmade {
			break
		}
		b := r.Dst.Addr().As16()
		copy(b[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
		addrs = append(addrs, netip.AddrFrom16(b))
	}
	return addrs
}

func judgeUnmade(addr netip.Addr, taken bool, err error) finding {
	switch {
	case err != nil:
		return skipped("%s: %v", addr, err)
	case taken:
		return failure(duplicateFix, "%s is used by another host: the kernel gave it up", addr)
	}
	return fine("%s is nobody's", addr)
}

// joined makes one finding of all that are fine.
func joined(list []finding) []finding {
	var seen []string
	rest := slices.DeleteFunc(slices.Clone(list), func(f finding) bool {
		if f.Result == isOK {
			seen = append(seen, f.Seen)
		}
		return f.Result == isOK
	})
	if len(seen) > 0 {
		rest = append([]finding{fine("%s", strings.Join(seen, ", "))}, rest...)
	}
	return rest
}

const duplicateFix = "give the other host another address; a fixed one must not be in the DHCP server's pool"

func judgeDuplicate(addr netip.Addr, holders []string, err error) finding {
	switch {
	case err != nil:
		return skipped("%s: %v", addr, err)
	case len(holders) > 0:
		return failure(duplicateFix, "%s is used by another host too, with the MAC %s", addr, strings.Join(holders, ", "))
	}
	return fine("%s is nobody else's", addr)
}

// judgeDuplicate6: the kernel has asked already (RFC 4862, 5.4).
func judgeDuplicate6(a anchord.LinkAddr) finding {
	if a.Duplicate {
		return failure(duplicateFix, "%s is used by another host: the kernel found it taken", a.Prefix.Addr())
	}
	return fine("%s is nobody else's", a.Prefix.Addr())
}

// Checks of a service-anchor.

func checkName(ctx context.Context, p *patient) []finding {
	if pinned := p.follower.Pinned; pinned[anchord.V4].IsValid() || pinned[anchord.V6].IsValid() {
		return []finding{skipped("ANCHORD_GATEWAY_IP is set: no name is asked")}
	}
	addrs, err := watch.DNS{}.Resolve(ctx, p.follower.Host)
	return judgeName(p.follower.Host, addrs, err, p.links)
}

func judgeName(host string, addrs anchord.PerFamily[[]netip.Addr], err error, links []anchord.Link) []finding {
	if err != nil {
		return []finding{failure("attach the network-anchor to a network of this service, under the name in ANCHORD_GATEWAY_HOSTNAME (default: anchord), or set ANCHORD_GATEWAY_IP", "the network-anchor's name %q leads nowhere: %v", host, err)}
	}
	all := slices.Concat(addrs[anchord.V4], addrs[anchord.V6])
	for _, a := range all {
		for _, l := range links {
			if slices.ContainsFunc(l.Addrs, func(own anchord.LinkAddr) bool { return own.Prefix.Contains(a) }) {
				return []finding{fine("%s is %s, next to us by %s", host, a, l.Name)}
			}
		}
	}
	return []finding{failure("attach this service to a network that the network-anchor is on", "the network-anchor's name %q means %s, which is on no network of ours", host, fmt.Sprint(all))}
}

func checkFollowed(_ context.Context, p *patient) []finding {
	if p.linkErr != nil {
		return []finding{skipped("the routes cannot be seen: %v", p.linkErr)}
	}
	route, has := p.defaultRoute(anchord.V4)
	if !has {
		route, has = p.defaultRoute(anchord.V6)
	}
	return judgeFollowed(route, has, p.isRunning())
}

func judgeFollowed(r anchord.Route, has, running bool) []finding {
	switch {
	case has && r.Protocol == anchord.ProtoAnchord:
		return []finding{fine("by %s, set by this service-anchor", r.Gateway)}
	case !running:
		return []finding{skipped("no service-anchor runs here yet, to set it")}
	case has:
		return []finding{failure("docker compose logs of this service-anchor", "the default route leads to %s, and it was not this service-anchor that set it", r.Gateway)}
	}
	return []finding{failure("see the check name", "there is no default route")}
}
