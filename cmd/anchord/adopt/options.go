package adopt

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// firstWithoutIPv4 is the engine's version from which on a network can be without
// IPv4 and a container has a gateway priority for each network.
const firstWithoutIPv4 = 28

// options are Options that have been checked.
type options struct {
	Options
	old bool // the engine is before 28
}

var (
	version   = regexp.MustCompile(`^v?([0-9]{1,4})(\.[0-9A-Za-z~+.-]*)?$`)
	iface     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`)
	imageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_./:@-]{0,254}$`)
	fileName  = regexp.MustCompile(`^[^\pC\p{Zl}\p{Zp}':"\\$]{1,255}$`)
)

func (o Options) check() (checked options, faults Faults) {
	checked = options{Options: o}
	if len(checked.Files) == 0 {
		checked.Files = []string{"compose.yaml"}
	}
	if !iface.MatchString(o.Parent) {
		faults = append(faults, "--parent "+shown(o.Parent)+" is not the name of an interface: at most 15 letters, digits, dots, hyphens and underscores")
	}
	if !imageName.MatchString(o.Image) {
		faults = append(faults, "--image "+shown(o.Image)+" is not the name of an image")
	}
	for _, name := range checked.Files {
		if !fileName.MatchString(name) || strings.HasPrefix(name, "-") {
			faults = append(faults, "--file "+shown(name)+" is not the name of a file that a command line and COMPOSE_FILE can hold: no quotes, colons, dollars, backslashes, and no hyphen in front")
		}
	}
	m := version.FindStringSubmatch(o.Engine)
	if m != nil {
		major, _ := strconv.Atoi(m[1]) //nolint:errcheck // it is digits
		checked.old = major < firstWithoutIPv4
	} else if o.Engine != "" {
		return checked, append(faults, "--engine "+shown(o.Engine)+" is not a version of Docker Engine, such as 20.10 or 28")
	}
	return checked, append(faults, checked.checkLAN()...)
}

// checkLAN wants the LAN's numbers where they are needed, and only there.
func (o options) checkLAN() (faults Faults) {
	l := o.LAN
	if !o.old {
		if l != (LAN{}) {
			faults = append(faults, "--lan-subnet, --lan-gateway and --lan-range are for engines before 28 only: leave them out, or say --engine 20.10")
		}
		return faults
	}
	if l.Subnet == "" || l.Gateway == "" || l.Range == "" {
		return append(faults, "an engine before 28 needs the LAN's numbers: --lan-subnet 192.0.2.0/24 --lan-gateway 192.0.2.1 (the router) --lan-range 192.0.2.240/29 (addresses that the DHCP server gives to nobody)")
	}
	subnet, err := netip.ParsePrefix(l.Subnet)
	if err != nil || !subnet.Addr().Is4() || subnet != subnet.Masked() {
		return append(faults, "--lan-subnet "+shown(l.Subnet)+" is not an IPv4 subnet such as 192.0.2.0/24")
	}
	if gateway, err := netip.ParseAddr(l.Gateway); err != nil || !subnet.Contains(gateway) {
		faults = append(faults, "--lan-gateway "+shown(l.Gateway)+" is not an address of "+l.Subnet)
	}
	if r, err := netip.ParsePrefix(l.Range); err != nil || r != r.Masked() || r.Bits() < subnet.Bits() || !subnet.Contains(r.Addr()) {
		faults = append(faults, "--lan-range "+shown(l.Range)+" is not a part of "+l.Subnet+" such as 192.0.2.240/29 is of 192.0.2.0/24")
	}
	return faults
}

// start is the command that makes networks and containers anew.
func (p *plan) start() string {
	return "docker compose" + p.profiles() + filesOf(p.together()) + " up -d --force-recreate"
}

// profiles are options that turn every service of the project on. What runs of a
// profile that is off keeps a network from being made anew.
func (p *plan) profiles() string {
	var on []string
	for _, name := range p.serviceNames() {
		of := slices.DeleteFunc(slices.Clone(p.Services[name].Profiles), func(s string) bool { return !plainWord.MatchString(s) || s[0] == '-' })
		if len(of) > 0 && !slices.ContainsFunc(of, func(s string) bool { return slices.Contains(on, s) }) {
			on = append(on, of[0])
		}
	}
	slices.Sort(on)
	var options strings.Builder
	for _, profile := range on {
		options.WriteString(" --profile " + profile)
	}
	return options.String()
}

// env is the line of .env that has every later command use the same files.
func (o options) env() string { return "COMPOSE_FILE=" + word(strings.Join(o.together(), ":")) }

// together are the project's files and the override.
func (o options) together() []string { return append(slices.Clone(o.Files), OverrideFile) }

// filesOf are files as options of docker compose.
func filesOf(names []string) string {
	var options strings.Builder
	for _, name := range names {
		options.WriteString(" -f " + word(name))
	}
	return options.String()
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:+@%-]+$`)

// word is a word of a shell's command line, and of .env.
func word(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + s + "'"
}

// repository is an image's name without tag and digest.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndexByte(image, ':'); colon > strings.LastIndexByte(image, '/') {
		image = image[:colon]
	}
	return image
}

// isAnchord knows anchord's image in any registry.
func isAnchord(image string) bool {
	name := repository(image)
	return name[strings.LastIndexByte(name, '/')+1:] == "anchord"
}
