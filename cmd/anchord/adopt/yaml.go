package adopt

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const inhibit = `com.docker.network.bridge.inhibit_ipv4: "true"`

// lanSysctls make anchord a host on the LAN, though it is a router inside.
const lanSysctls = `com.docker.network.endpoint.sysctls: "net.ipv6.conf.IFNAME.forwarding=0,net.ipv6.conf.IFNAME.disable_ipv6=0,net.ipv6.conf.IFNAME.ra_defrtr_metric=2048"`

// page is a YAML file that grows line by line.
type page struct{ strings.Builder }

// line writes one at a depth; arguments are quoted already.
func (y *page) line(depth int, format string, args ...any) {
	fmt.Fprintf(y, strings.Repeat("  ", depth)+format+"\n", args...)
}

// remarked is a line with a comment behind it, which stand below each other.
func (y *page) remarked(depth int, line, comment string) {
	const column = 28
	y.line(0, "%s  # %s", fmt.Sprintf("%-*s", column-2, strings.Repeat("  ", depth)+line), comment)
}

func (y *page) gap() { y.WriteByte('\n') }

// yaml is the override.
func (p *plan) yaml() string {
	y := &page{}
	y.line(0, "# Makes the Compose project %s one server on the LAN. Made by anchord adopt;", shown(p.Name))
	y.line(0, "# it goes with the project's own files, which stay as they are:")
	y.line(0, "#")
	y.line(0, "#   %s", p.start())
	y.line(0, "name: %s", value(p.Name))
	y.gap()
	y.line(0, "networks:")
	p.writeLAN(y)
	for _, name := range p.transits {
		p.writeTransit(y, name)
	}
	if p.Proxy {
		y.remarked(1, p.names.dockerAPI+":", "between anchord and the socket proxy alone")
		y.line(2, "internal: true")
	}
	y.gap()
	y.line(0, "services:")
	p.writeAnchord(y)
	if p.Proxy {
		p.writeProxy(y)
	}
	for _, name := range p.serviceNames() {
		p.writeService(y, name)
	}
	return y.String()
}

func (p *plan) writeLAN(y *page) {
	y.remarked(1, p.names.lan+":", "the project's network card")
	y.line(2, "driver: macvlan")
	if !p.old {
		y.remarked(2, "enable_ipv4: false", "the LAN's DHCP server gives the address")
	}
	y.line(2, "driver_opts:")
	y.remarked(3, "parent: "+value(p.Parent), "the host's interface on the LAN")
	if !p.old {
		return
	}
	y.line(2, "# Such an engine makes one network of a subnet. A second project on this LAN")
	y.line(2, "# joins this one: %s: !override {external: true, name: %s}", p.names.lan, value(p.Name+"_"+p.names.lan))
	y.line(2, "ipam:")
	y.line(3, "config:")
	y.line(4, "- subnet: %s", p.LAN.Subnet)
	y.line(4, "  gateway: %s", p.LAN.Gateway)
	y.line(4, "  ip_range: %s", p.LAN.Range)
}

func (p *plan) writeTransit(y *page, name string) {
	y.remarked(1, key(name)+":", "anchord is this network's gateway")
	y.line(2, "driver_opts:")
	y.line(3, "%s", inhibit)
	if !p.IPv6 {
		return
	}
	y.line(2, "enable_ipv6: true")
	config, instead := p.withIPv6(name)
	if config == nil {
		return
	}
	y.line(2, "ipam:")
	if instead {
		y.remarked(3, "config: !override", "the project's own, with an IPv6 gateway")
	} else {
		y.line(3, "config:")
	}
	for _, s := range config {
		s.write(y)
	}
}

// write writes an entry of ipam. What comes from the input is as Compose wrote it,
// with its dollars doubled.
func (s subnet) write(y *page) {
	bullet := "- "
	for _, f := range []struct{ name, value string }{{"subnet", s.Subnet}, {"gateway", s.Gateway}, {"ip_range", s.Range}} {
		if f.value != "" {
			y.line(4, "%s%s: %s", bullet, f.name, scalar(f.value))
			bullet = "  "
		}
	}
	if len(s.Aux) == 0 {
		return
	}
	y.line(4, "%saux_addresses:", bullet)
	for _, name := range slices.Sorted(maps.Keys(s.Aux)) {
		y.line(6, "%s: %s", key(name), strconv.QuoteToASCII(s.Aux[name]))
	}
}

func (p *plan) writeAnchord(y *page) {
	y.line(1, "%s:", p.names.anchord)
	y.line(2, "image: %s", value(p.Image))
	y.line(2, "cap_drop: [ALL]")
	y.line(2, "cap_add: [NET_ADMIN, NET_RAW, NET_BIND_SERVICE]")
	y.line(2, "read_only: true")
	y.line(2, "tmpfs: [/run]")
	y.line(2, `security_opt: ["no-new-privileges:true"]`)
	p.writeSysctls(y)
	p.writeNetworks(y)
	if p.old || p.Proxy {
		y.line(2, "environment:")
	}
	if p.old {
		y.line(3, "ANCHORD_ADDRESS_MODE: dhcp-refresh")
	}
	if p.Proxy {
		y.line(3, "DOCKER_HOST: tcp://%s:2375", p.names.proxy)
		y.line(3, `ANCHORD_AUTOSTART_SIBLINGS: "false"  # it cannot, by this proxy`)
		y.line(2, "depends_on: [%s]", p.names.proxy)
	} else {
		y.line(2, "volumes:")
		y.line(3, "- /var/run/docker.sock:/var/run/docker.sock:ro")
	}
	y.line(2, "restart: unless-stopped")
}

func (p *plan) writeSysctls(y *page) {
	y.line(2, "sysctls:")
	y.line(3, `net.ipv4.ip_forward: "1"`)
	if !p.IPv6 {
		return
	}
	y.line(3, `net.ipv6.conf.all.forwarding: "1"`)
	if !p.old {
		return
	}
	y.line(3, `net.ipv6.conf.all.disable_ipv6: "0"`)
	for i := range p.ownNetworks() { // which of them is the LAN is Docker's choice
		y.line(3, `net.ipv6.conf.eth%d.accept_ra: "2"`, i)
	}
}

// ownNetworks are anchord's, each as a key.
func (p *plan) ownNetworks() []string {
	all := append([]string{p.names.lan}, p.transits...)
	if p.Proxy {
		all = append(all, p.names.dockerAPI)
	}
	return all
}

func (p *plan) writeNetworks(y *page) {
	all := p.ownNetworks()
	addresses, host := map[string]string{}, p.IPv6 && !p.old
	for _, name := range p.transits {
		if a := p.addresses(name); a != "" {
			addresses[name] = a
		}
	}
	if !host && len(addresses) == 0 {
		for i, name := range all {
			all[i] = value(name)
		}
		y.line(2, "networks: [%s]", strings.Join(all, ", "))
		return
	}
	y.line(2, "networks:")
	if host {
		y.remarked(3, p.names.lan+":", "a host there, though a router inside")
		y.line(4, "driver_opts:")
		y.line(5, "%s", lanSysctls)
	} else {
		y.line(3, "%s:", p.names.lan)
	}
	for _, name := range all[1:] {
		if a := addresses[name]; a != "" {
			y.remarked(3, fmt.Sprintf("%s: {%s}", key(name), a), "no service has this one")
		} else {
			y.line(3, "%s:", key(name))
		}
	}
}

func (p *plan) writeProxy(y *page) {
	y.gap()
	y.remarked(1, p.names.proxy+":", "lets anchord read, and nothing else")
	y.line(2, "image: haproxy:lts-alpine")
	y.remarked(2, "user: root", "whose the socket is")
	y.line(2, "cap_drop: [ALL]")
	y.line(2, "read_only: true")
	y.line(2, "tmpfs: [/run]")
	y.line(2, `security_opt: ["no-new-privileges:true"]`)
	y.line(2, "networks: [%s]", p.names.dockerAPI)
	y.line(2, "volumes:")
	y.line(3, "- /var/run/docker.sock:/var/run/docker.sock")
	y.line(2, "command:")
	y.line(3, "- sh")
	y.line(3, "- -c")
	y.line(3, "- %s", proxyCommand)
	y.line(2, "environment:")
	y.line(3, "SOCKET_PROXY_CFG: |")
	for line := range strings.Lines(strings.ReplaceAll(proxyConfig, "$", "$$")) {
		if line == "\n" {
			y.gap()
			continue
		}
		y.WriteString(strings.Repeat("  ", 4) + line)
	}
	y.line(2, "restart: unless-stopped")
}

// writeService writes what changes of a service, if anything does.
func (p *plan) writeService(y *page, name string) {
	transit, priority, needed := p.wayOut(name)
	cleared := len(p.Services[name].Ports) > 0 && p.on(name, p.transits) && p.refused[name] == ""
	if !needed && !cleared {
		return
	}
	y.gap()
	y.line(1, "%s:", key(name))
	if cleared {
		y.line(2, "ports: !reset []")
	}
	if e := p.exposed[name]; len(e) > 0 {
		y.line(2, "labels:")
		y.line(3, `anchord.expose: "%s"`, list(e))
	}
	if needed {
		y.line(2, "networks:")
		y.remarked(3, fmt.Sprintf("%s: {gw_priority: %d}", key(transit), priority), "its way out")
	}
}

// What may stand in YAML without quotes, and what of that YAML would not take for a
// string.
var (
	plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./:@-]*$`)
	words = regexp.MustCompile(`(?i)^(y|yes|n|no|on|off|true|false|null)$|:$`)
)

// scalar is a string as YAML.
func scalar(s string) string {
	if plain.MatchString(s) && !words.MatchString(s) || isAddress(s) {
		return s
	}
	// Go's escapes are YAML's.
	return strconv.QuoteToASCII(s)
}

// isAddress knows subnets and IPv4 addresses, which look like nothing else to YAML.
func isAddress(s string) bool {
	_, notSubnet := netip.ParsePrefix(s)
	addr, notAddr := netip.ParseAddr(s)
	return notSubnet == nil || notAddr == nil && addr.Is4()
}

// key is the key of a map: Compose replaces no variables there.
func key(s string) string { return scalar(s) }

// value is a string in which Compose shall replace no variables.
func value(s string) string { return scalar(strings.ReplaceAll(s, "$", "$$")) }
