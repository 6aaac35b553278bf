package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/templates"
	"github.com/AlexCherrypi/anchord/watch"
)

// Checks of anchord's own container: its configuration, its rights, its kernel
// and its programs.

func checkConfiguration(_ context.Context, p *patient) []finding {
	return judgeConfiguration(p.faults, p.warnings)
}

func judgeConfiguration(faults, warnings []string) []finding {
	var found []finding
	for _, f := range faults {
		found = append(found, failure("correct the variable; anchord MODE --help lists all of them", "%s", f))
	}
	for _, w := range warnings {
		found = append(found, warning("remove the variable, or correct it", "%s", w))
	}
	if found == nil {
		found = append(found, fine("the variables are valid"))
	}
	return found
}

// Capabilities, by their numbers (linux/capability.h).
const (
	capNetBind  = unix.CAP_NET_BIND_SERVICE
	capNetAdmin = unix.CAP_NET_ADMIN
	capNetRaw   = unix.CAP_NET_RAW
)

func (p *patient) can(capability int) bool { return p.caps&(1<<capability) != 0 }

func checkCapabilities(_ context.Context, p *patient) []finding {
	return judgeCapabilities(p.caps, p.mode, p.state.Mode)
}

// judgeCapabilities: an address mode that is not known yet may be one with a DHCP
// client.
func judgeCapabilities(has uint64, mode string, addresses anchord.AddressMode) []finding {
	leases := mode == "network-anchor" && (addresses == "" || addresses == anchord.ModeDHCPRefresh)
	raw := "a network-anchor that comes back at another address is noticed seconds later"
	if mode == "network-anchor" {
		raw = "router advertisements are not heard, so that no DHCPv6 server is asked, and this doctor cannot ask the LAN"
	}
	var names []string
	var found []finding
	for _, c := range []struct {
		number int
		name   string
		lost   string
		result verdict
	}{
		{capNetAdmin, "NET_ADMIN", "nothing of the network can be changed", isFailure},
		{capNetRaw, "NET_RAW", cmp.Or(map[bool]string{true: "the DHCP client cannot send"}[leases], raw), severity(leases)},
		{capNetBind, "NET_BIND_SERVICE", "the DHCP client cannot renew a lease", severity(leases)},
	} {
		switch {
		case has&(1<<c.number) != 0:
			names = append(names, c.name)
		case c.number != capNetBind || leases:
			found = append(found, fault(c.result, "in the service of anchord, cap_add: ["+c.name+"]", "%s is missing: %s", c.name, c.lost))
		}
	}
	if found == nil {
		return []finding{fine("%s", strings.Join(names, ", "))}
	}
	return found
}

func severity(serious bool) verdict {
	if serious {
		return isFailure
	}
	return isWarning
}

func checkForwarding(_ context.Context, _ *patient) []finding {
	value, err := watch.Sysctl("net/ipv4/ip_forward")
	if err != nil {
		return []finding{skipped("net.ipv4.ip_forward cannot be read: %v", err)}
	}
	return judgeForwarding(value)
}

func judgeForwarding(value int) []finding {
	if value == 0 {
		return []finding{failure(`in the service of anchord, sysctls: {net.ipv4.ip_forward: "1"}`, "net.ipv4.ip_forward is 0: nothing is sent on, in either direction")}
	}
	return []finding{fine("net.ipv4.ip_forward is 1")}
}

// ipv6Facts is what decides whether IPv6 works.
type ipv6Facts struct {
	inside  bool   // a transit network has an IPv6 subnet
	ext     string // the LAN interface
	enabled bool   // on it
	global  bool   // it has an address that is not of the link only
	// Settings of the kernel for all and for ext.
	forwardingAll, forwardingExt, acceptRA int
}

func checkIPv6(_ context.Context, p *patient) []finding {
	if !p.has(p.ext()) {
		return []finding{skipped("the LAN interface is not known, or not made yet")}
	}
	f := ipv6Facts{ext: p.ext(), inside: p.insideIPv6(), enabled: p.ipv6On(p.ext()), global: p.address(p.ext(), anchord.V6).IsValid()}
	f.forwardingAll, _ = watch.Sysctl("net/ipv6/conf/all/forwarding")
	f.forwardingExt, _ = watch.Sysctl("net/ipv6/conf/" + f.ext + "/forwarding")
	f.acceptRA, _ = watch.Sysctl("net/ipv6/conf/" + f.ext + "/accept_ra")
	return judgeIPv6(f)
}

// ipv6On says whether an interface has IPv6 at all.
func (p *patient) ipv6On(iface string) bool {
	off, err := watch.Sysctl("net/ipv6/conf/" + iface + "/disable_ipv6")
	return err == nil && off == 0
}

// insideIPv6 says whether a network towards the containers has an IPv6 subnet.
func (p *patient) insideIPv6() bool {
	return slices.ContainsFunc(p.state.Transits, func(t anchord.Transit) bool {
		return slices.ContainsFunc(t.Subnets, func(s netip.Prefix) bool { return s.Addr().Is6() })
	})
}

// endpointSysctls is what a service's entry of the network lan needs for IPv6.
const endpointSysctls = `in anchord's entry of the LAN network, driver_opts: {com.docker.network.endpoint.sysctls: "net.ipv6.conf.IFNAME.forwarding=0,net.ipv6.conf.IFNAME.disable_ipv6=0,net.ipv6.conf.IFNAME.ra_defrtr_metric=2048"} (` + anchord.DocsURL + `addressing.md; before Engine 28: ipv6-before-28.yaml)`

func judgeIPv6(f ipv6Facts) []finding {
	if !f.inside && !f.enabled {
		return []finding{fine("not used: neither on the LAN interface nor inside")}
	}
	var found []finding
	if f.inside && f.forwardingAll == 0 {
		found = append(found, failure(`in the service of anchord, sysctls: {net.ipv6.conf.all.forwarding: "1"}`, "net.ipv6.conf.all.forwarding is 0: no service is reached by IPv6"))
	}
	deaf := f.acceptRA == 0 || f.acceptRA == 1 && f.forwardingExt == 1
	switch {
	case !f.enabled:
		found = append(found, warning(endpointSysctls, "the services have IPv6, but it is off on %s: the LAN reaches none of them by it", f.ext))
	case deaf && f.global:
		found = append(found, warning(endpointSysctls, "%s heeds no router advertisements (accept_ra is %d, forwarding %d): its addresses and its gateway do not follow the LAN's", f.ext, f.acceptRA, f.forwardingExt))
	case deaf:
		found = append(found, failure(endpointSysctls, "%s heeds no router advertisements (accept_ra is %d, forwarding %d): it gets no IPv6 address and no gateway", f.ext, f.acceptRA, f.forwardingExt))
	}
	if found == nil {
		return []finding{fine("forwarded inside: %s; on %s accept_ra is %d, forwarding %d", yes(f.forwardingAll != 0), f.ext, f.acceptRA, f.forwardingExt)}
	}
	return found
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func checkReversePath(_ context.Context, p *patient) []finding {
	iface := p.ext()
	if !p.has(iface) {
		return []finding{skipped("the LAN interface is not known, or not made yet")}
	}
	all, err := watch.Sysctl("net/ipv4/conf/all/rp_filter")
	own, err2 := watch.Sysctl("net/ipv4/conf/" + iface + "/rp_filter")
	if err != nil || err2 != nil {
		return []finding{skipped("rp_filter of %s cannot be read", iface)}
	}
	leads := ""
	for _, r := range p.routes[anchord.V4] {
		if !r.Dst.IsValid() {
			leads = r.Iface
			break
		}
	}
	return judgeReversePath(max(all, own), iface, leads, p.isRunning())
}

// judgeReversePath: the greater of both settings counts; 1 drops what comes by an
// interface by which its sender would not be answered (RFC 3704). leads is the
// interface of the default route, which anchord sets once it runs.
func judgeReversePath(value int, ext, leads string, running bool) []finding {
	switch {
	case value != 1:
		return []finding{fine("rp_filter of %s is %d: it drops nothing of clients", ext, value)}
	case leads == ext || !running:
		return []finding{fine("rp_filter of %s is 1 (strict), which is harmless while the default route leads there", ext)}
	case leads == "":
		return []finding{warning(reversePathFix, "rp_filter of %s is 1 (strict), and there is no default route: clients beyond the LAN's router are dropped", ext)}
	}
	return []finding{warning(reversePathFix, "rp_filter of %s is 1 (strict), but the default route leads by %s: clients beyond the LAN's router are dropped", ext, leads)}
}

const reversePathFix = `let the default route lead to the LAN (ANCHORD_EXT_GATEWAY_IP, where no lease names a gateway), or in the service of anchord, sysctls: {net.ipv4.conf.all.rp_filter: "2"}`

// program is one that anchord calls.
type program struct {
	name   string
	asked  []string // for its version
	tested string   // the oldest version that tests run with
	lost   string   // without it
	result verdict  // if it is missing
}

// programsOf lists what a mode calls.
func programsOf(mode string, addresses anchord.AddressMode) []program {
	ip := program{"ip", []string{"ip", "-V"}, "5.15", "nothing of the network can be seen or changed", isFailure}
	if mode != "network-anchor" {
		return []program{ip}
	}
	leases := severity(addresses == "" || addresses == anchord.ModeDHCPRefresh)
	return []program{
		ip,
		{"nft", []string{"nft", "--version"}, "1.0.6", "there is no ruleset", isFailure},
		{"conntrack", []string{"conntrack", "--version"}, "1.4.7", "old connections go on to where services were", isFailure},
		{"udhcpc", []string{"udhcpc", "--help"}, "1.35", "no DHCP server is asked", leases},
		{"dhcpcd", []string{"dhcpcd", "--version"}, "9.4.1", "no DHCPv6 server is asked", isWarning},
		{"busybox", []string{"busybox"}, "1.35", "the LAN is not told of a new address", isWarning},
	}
}

func checkPrograms(ctx context.Context, p *patient) []finding {
	var found []finding
	var fit []string
	for _, program := range programsOf(p.mode, p.state.Mode) {
		version, err := exec.Version(ctx, program.asked...)
		f := program.judge(version, err)
		if f.Result == isOK {
			fit = append(fit, f.Seen)
			continue
		}
		found = append(found, f)
	}
	if len(fit) > 0 {
		found = append([]finding{fine("%s", strings.Join(fit, ", "))}, found...)
	}
	return found
}

func (p program) judge(version string, err error) finding {
	switch {
	case exec.Missing(err):
		return fault(p.result, "use the anchord image, or install it in yours", "%s is missing: %s", p.name, p.lost)
	case errors.Is(err, context.DeadlineExceeded):
		return skipped("%s did not tell its version in time", p.name)
	case err != nil:
		return warning("use the anchord image", "%s does not tell its version: %v", p.name, err)
	case older(version, p.tested):
		return warning("use the anchord image, or a newer release of yours", "%s %s is older than any version that anchord was tried with (%s)", p.name, version, p.tested)
	}
	return fine("%s %s", p.name, version)
}

// older compares versions of numbers and dots.
func older(a, b string) bool {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
		m, _ := strconv.Atoi(x)
		n, _ := strconv.Atoi(y)
		return cmp.Compare(m, n)
	}) < 0
}

func checkTemplates(ctx context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	dir := watch.TemplateDir{Path: p.vars.TemplateDir}
	files := dir.Templates()
	var names, stray []string
	for _, f := range files {
		stray = append(stray, f.Name)
	}
	files = anchord.Overriding(files)
	for _, f := range files {
		names = append(names, f.Name)
	}
	stray = slices.DeleteFunc(stray, func(name string) bool { return slices.Contains(names, name) })
	if len(files) == 0 {
		return judgeTemplates(names, stray, nil, nil)
	}
	if !p.can(capNetAdmin) {
		return []finding{skipped("without NET_ADMIN nft cannot check them")}
	}
	embedded, err := templates.New()
	if err != nil {
		return []finding{skipped("%v", err)}
	}
	_, dropped, err := overridden(ctx, embedded, files, p.state)
	if err != nil && (exec.Missing(err) || ctx.Err() != nil) {
		return []finding{skipped("nft did not check them: %v", err)}
	}
	return judgeTemplates(names, stray, dropped, err)
}

// judgeTemplates: dropped are the blocks of which nothing of anchord's own is left,
// and the files that define them.
func judgeTemplates(names, stray []string, dropped map[string]string, refused error) []finding {
	var found []finding
	switch {
	case refused != nil:
		found = append(found, failure("correct it, or take it away: anchord reads the directory again by itself; what templates can use: "+anchord.DocsURL+"templates.md", "the template directory is refused: %v", refused))
	case len(names) > 0:
		found = append(found, fine("%s can be used", strings.Join(names, ", ")))
	case len(stray) == 0:
		return []finding{fine("none: the rules are anchord's own")}
	}
	for _, block := range slices.Sorted(maps.Keys(dropped)) {
		found = append(found, warning(fmt.Sprintf(`add {{template "previous.%s" .}} where anchord's own rules are to be, unless they are to go`, block), "%s redefines the block %s without what anchord has in it: ports, ways out or the firewall may be lost", dropped[block], block))
	}
	for _, name := range stray {
		found = append(found, warning("end its name in "+anchord.TemplateSuffix+", or take it away", "the file %q in the template directory does nothing", name))
	}
	return found
}

func checkKernel(ctx context.Context, p *patient) []finding {
	if !p.can(capNetAdmin) {
		return []finding{skipped("without NET_ADMIN the kernel cannot be asked")}
	}
	supports := func(f anchord.Family, features ...exec.Feature) error { return p.nft.Supports(ctx, f, features...) }
	return judgeKernel(ctx, supports)
}

// judgeKernel tries a family's features at once, and one by one only to find those
// that are refused.
func judgeKernel(ctx context.Context, supports func(anchord.Family, ...exec.Feature) error) []finding {
	var found []finding
	for _, f := range anchord.Families {
		features := exec.Features(f)
		if supports(f, features...) == nil {
			continue
		}
		for _, feature := range features {
			err := supports(f, feature)
			switch {
			case err == nil:
			case exec.Missing(err):
				return []finding{skipped("nft is missing, by which the kernel is asked")}
			case ctx.Err() != nil: // it says nothing of the kernel
				return append(found, skipped("nft is too slow here: not every feature was tried"))
			default:
				found = append(found, failure("on the Docker host, load the kernel's modules: modprobe -a "+strings.ReplaceAll(feature.Module, ",", ""), "the kernel or nft refuses %s (IP%s): %v", feature.Name, f, err))
			}
		}
	}
	if found == nil {
		return []finding{fine("nftables has all that the ruleset needs, for IPv4 and IPv6")}
	}
	return found
}
