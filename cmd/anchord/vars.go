package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/sirupsen/logrus"
)

// commonVars are read in both modes.
type commonVars struct {
	Mode        string `env:"ANCHORD_MODE" default:"network-anchor" help:"Mode, if none is given as an argument: network-anchor, service-anchor, wrap-rebinder or external-rebinder."`
	LogLevel    string `env:"ANCHORD_LOG_LEVEL" default:"info" help:"debug, info, warn or error."`
	MetricsAddr string `env:"ANCHORD_METRICS_ADDR" default:"127.0.0.1:9090" help:"Where /metrics, /healthz and /readyz are served; empty: nowhere. Never reachable from the LAN."`
	runVars
}

// runVars are read by every command that talks to the running anchord.
type runVars struct {
	RunDir string `env:"ANCHORD_RUN_DIR" default:"/run/anchord" help:"Lease files and runtime state."`
}

// networkVars are the network-anchor's.
type networkVars struct {
	Project        string `env:"ANCHORD_PROJECT" help:"Compose project whose containers are managed. Default: the project of anchord's own container, else $COMPOSE_PROJECT_NAME."`
	ComposeProject string `env:"COMPOSE_PROJECT_NAME" hidden:""`
	LabelSelector  string `env:"ANCHORD_LABEL_SELECTOR" help:"Manage the containers that carry all these labels, in place of a project's: k=v,k2=v2."`
	ExtNetwork     string `env:"ANCHORD_EXT_NETWORK" help:"Docker network that is the LAN. Default: the one macvlan or ipvlan network attached."`
	ExtIface       string `env:"ANCHORD_EXT_IFACE" help:"LAN interface where no network tells it. Default: eth0."`
	VLANParent     string `env:"ANCHORD_VLAN_PARENT" help:"Interface of anchord's own namespace on which it makes the LAN interface itself (macvlan), named ANCHORD_EXT_IFACE, else anchord-ext."`
	ExtMAC         string `env:"ANCHORD_EXT_MAC" help:"MAC on the LAN: aa:bb:cc:dd:ee:ff, keep or derived. Default: derived from the project's name where Docker gave no IPv4 address, else keep."`
	AddressMode    string `env:"ANCHORD_ADDRESS_MODE" default:"auto" help:"auto, bootstrap (keep Docker's address), dhcp-refresh (lease one) or slaac-ra-only (Docker's in IPv4, no DHCP client). auto: bootstrap where Docker gave an IPv4 address, else dhcp-refresh."`
	ExtGatewayIP   string `env:"ANCHORD_EXT_GATEWAY_IP" help:"Gateway on the LAN where no lease names one: v4, v6 or v4,v6."`
	DHCPHostname   string `env:"ANCHORD_DHCP_HOSTNAME" help:"Name and client identifier for the DHCP server. Default: the project's name; with a selector alone, its first value by key."`
	DHCPBackoffMax string `env:"ANCHORD_DHCP_BACKOFF_MAX" default:"5m" help:"Longest pause between tries for a lease; the first is 1s."`
	SharedNetwork  string `env:"ANCHORD_SHARED_NETWORK" help:"Docker network on which backend addresses are read. Default: the attached one with the most exposed containers."`
	DNS            string `env:"ANCHORD_DNS" help:"Name servers that the project's containers reach at their gateway: ip[,ip], or off. Default: the lease's."`
	PollInterval   string `env:"ANCHORD_POLL_INTERVAL" default:"30s" help:"Look at everything this often, though nothing moved."`
	TemplateDir    string `env:"ANCHORD_TEMPLATE_DIR" default:"/etc/anchord/templates" help:"Directory of templates that override the rules', or single blocks of them."`
	dockerVars
}

// repairVars are about containers that share network namespaces.
type repairVars struct {
	Autostart        string `env:"ANCHORD_AUTOSTART_SIBLINGS" default:"true" help:"Start containers that could not start because the container whose network namespace they join did not run, once it does."`
	Autofix          string `env:"ANCHORD_AUTOFIX_DEAD_NETNS" default:"true" help:"Recreate the containers that shared the network namespace of the managed service-anchor when that is made anew."`
	ManagedTarget    string `env:"ANCHORD_MANAGED_SA_TARGET" help:"Container in whose network namespace a service-anchor is made and kept, whenever it runs."`
	ManagedName      string `env:"ANCHORD_MANAGED_SA_NAME" help:"Name of that service-anchor. Default: <target>-service-anchor."`
	ManagedImage     string `env:"ANCHORD_MANAGED_SA_IMAGE" help:"Its image. Default: the network-anchor's own."`
	ManagedGatewayIP string `env:"ANCHORD_MANAGED_SA_GATEWAY_IP" help:"Where its default route leads: one address per family. Default: the network-anchor's own on the shared network."`
	ManagedExtraEnv  string `env:"ANCHORD_MANAGED_SA_EXTRA_ENV" help:"Further variables for it, as a JSON object of strings."`
	ManagedLabels    string `env:"ANCHORD_MANAGED_SA_LABELS" help:"Further labels for it, as a JSON object of strings: anchord.expose, say."`
}

// dockerVars are read by every command that asks Docker.
type dockerVars struct {
	DockerHost string `env:"DOCKER_HOST" default:"unix:///var/run/docker.sock" help:"Docker's socket, or tcp:// to a socket proxy."`
}

// followVars are the service-anchor's.
type followVars struct {
	GatewayHostname string `env:"ANCHORD_GATEWAY_HOSTNAME" help:"Docker DNS name of the network-anchor. Default: anchord."`
	GatewayIP       string `env:"ANCHORD_GATEWAY_IP" help:"Address of the network-anchor, one per family; no name is asked then."`
	ResolveInterval string `env:"ANCHORD_GATEWAY_RESOLVE_INTERVAL" default:"5s" help:"Ask for the name this often, though nothing moved."`
}

// configError holds everything that is wrong with the configuration.
type configError struct {
	faults []string
	logged bool
}

func (e *configError) Error() string { return strings.Join(e.faults, "\n") }

// bad notes one bad variable: its name, its value and what is accepted.
func (e *configError) bad(name, value string, err error) {
	e.faults = append(e.faults, fmt.Sprintf("%s=%q: %v", name, value, err))
}

func (e *configError) orNil() error {
	if len(e.faults) == 0 {
		return nil
	}
	return e
}

func (v commonVars) check(e *configError) {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, v.LogLevel) {
		e.bad("ANCHORD_LOG_LEVEL", v.LogLevel, errors.New("is not one of debug, info, warn, error"))
	}
	if v.MetricsAddr != "" {
		if _, err := netip.ParseAddrPort(normalAddr(v.MetricsAddr)); err != nil {
			e.bad("ANCHORD_METRICS_ADDR", v.MetricsAddr, errors.New("is not an address like 127.0.0.1:9090 or :9090 (empty: disabled)"))
		}
	}
	if !strings.HasPrefix(v.RunDir, "/") || !plainPath(v.RunDir) {
		e.bad("ANCHORD_RUN_DIR", v.RunDir, errors.New("is not an absolute path of letters, digits and ./_-"))
	}
}

// plainPath accepts what can stand in any file that names the path.
func plainPath(path string) bool {
	return strings.IndexFunc(path, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("./_-", r)
	}) < 0
}

// normalAddr completes ":9090".
func normalAddr(addr string) string {
	if strings.HasPrefix(addr, ":") {
		return "[::]" + addr
	}
	return strings.Replace(addr, "localhost:", "127.0.0.1:", 1)
}

func (v commonVars) level() logrus.Level {
	level, err := logrus.ParseLevel(v.LogLevel)
	if err != nil {
		return logrus.InfoLevel
	}
	return level
}

// metricsPort is where others scrape; 0 if they cannot.
func (v commonVars) metricsPort() uint16 {
	addr, err := netip.ParseAddrPort(normalAddr(v.MetricsAddr))
	if err != nil || addr.Addr().IsLoopback() {
		return 0
	}
	return addr.Port()
}

// config checks everything and tells all that is wrong at once. Warnings are
// for what is valid but surely not meant.
func (v networkVars) config(e *configError) (c anchord.Config, backoffMax time.Duration, warnings []string) {
	c = anchord.Config{
		Project: v.Project, FallbackProject: v.ComposeProject, Hostname: v.DHCPHostname,
		ExtNetwork: v.ExtNetwork, ExtIface: v.ExtIface, VLANParent: v.VLANParent, SharedNetwork: v.SharedNetwork,
		Mode: anchord.AddressMode(v.AddressMode),
	}
	var err error
	if v.LabelSelector != "" {
		if c.Selector, err = anchord.ParseSelector(v.LabelSelector); err != nil {
			e.bad("ANCHORD_LABEL_SELECTOR", v.LabelSelector, fmt.Errorf("%w; accepted is k=v,k2=v2", err))
		}
		if v.Project != "" {
			warnings = append(warnings, "ANCHORD_PROJECT and ANCHORD_LABEL_SELECTOR are both set: the selector says which containers are managed")
		}
	}
	if c.MAC, err = anchord.ParseMACPolicy(v.ExtMAC); err != nil {
		e.bad("ANCHORD_EXT_MAC", v.ExtMAC, err)
	}
	if !slices.Contains(anchord.AddressModes, c.Mode) {
		e.bad("ANCHORD_ADDRESS_MODE", v.AddressMode, fmt.Errorf("is not one of %v", anchord.AddressModes))
	}
	if c.DNS, err = anchord.ParseDNS(v.DNS); err != nil {
		e.bad("ANCHORD_DNS", v.DNS, fmt.Errorf("%w; accepted is ip[,ip], or off", err))
	}
	if c.Gateways, err = anchord.ParseGateways(v.ExtGatewayIP); err != nil {
		e.bad("ANCHORD_EXT_GATEWAY_IP", v.ExtGatewayIP, fmt.Errorf("%w; accepted is one address per family, as in 192.0.2.1,2001:db8::1", err))
	}
	if v.DHCPHostname != "" {
		if err := anchord.ValidateHostname(v.DHCPHostname); err != nil {
			e.bad("ANCHORD_DHCP_HOSTNAME", v.DHCPHostname, fmt.Errorf("is not a host name: %w", err))
		}
	}
	checkIface(e, "ANCHORD_EXT_IFACE", v.ExtIface)
	checkIface(e, "ANCHORD_VLAN_PARENT", v.VLANParent)
	if v.VLANParent != "" && v.VLANParent == cmp.Or(v.ExtIface, anchord.DefaultChild) {
		e.bad("ANCHORD_EXT_IFACE", v.ExtIface, errors.New("is the parent itself: give the interface that anchord makes another name, or none"))
	}
	if v.VLANParent != "" && v.ExtNetwork != "" {
		warnings = append(warnings, "ANCHORD_VLAN_PARENT and ANCHORD_EXT_NETWORK are both set: the LAN interface is made on the parent")
	}
	if v.VLANParent != "" && (c.Mode == anchord.ModeBootstrap || c.Mode == anchord.ModeSLAACRAOnly) {
		warnings = append(warnings, "ANCHORD_VLAN_PARENT with ANCHORD_ADDRESS_MODE="+v.AddressMode+": nobody gives the interface an IPv4 address")
	}
	if v.ExtNetwork != "" && v.ExtIface != "" && v.VLANParent == "" {
		warnings = append(warnings, "ANCHORD_EXT_NETWORK and ANCHORD_EXT_IFACE are both set: the network wins")
	}
	c.PollInterval = interval(e, "ANCHORD_POLL_INTERVAL", v.PollInterval)
	backoffMax = interval(e, "ANCHORD_DHCP_BACKOFF_MAX", v.DHCPBackoffMax)
	checkDockerHost(e, v.DockerHost)
	if !strings.HasPrefix(v.TemplateDir, "/") {
		e.bad("ANCHORD_TEMPLATE_DIR", v.TemplateDir, errors.New("is not an absolute path"))
	}
	return c, backoffMax, warnings
}

// config checks the variables of the repairs.
func (v repairVars) config(e *configError) (c anchord.RepairConfig, warnings []string) {
	c.Autostart = boolean(e, "ANCHORD_AUTOSTART_SIBLINGS", v.Autostart)
	c.Autofix = boolean(e, "ANCHORD_AUTOFIX_DEAD_NETNS", v.Autofix)
	recipe := anchord.Recipe{Target: v.ManagedTarget, Name: v.ManagedName, Image: v.ManagedImage}
	var err error
	if recipe.Gateways, err = anchord.ParseGateways(v.ManagedGatewayIP); err != nil {
		e.bad("ANCHORD_MANAGED_SA_GATEWAY_IP", v.ManagedGatewayIP, fmt.Errorf("%w; accepted is one address per family, as in 10.0.0.2,fd00::2", err))
	}
	if recipe.Env, err = anchord.ParseEnv(v.ManagedExtraEnv); err != nil {
		e.bad("ANCHORD_MANAGED_SA_EXTRA_ENV", v.ManagedExtraEnv, err)
	}
	if recipe.Labels, err = anchord.ParseLabels(v.ManagedLabels); err != nil {
		e.bad("ANCHORD_MANAGED_SA_LABELS", v.ManagedLabels, err)
	}
	checkContainer(e, "ANCHORD_MANAGED_SA_TARGET", strings.TrimPrefix(v.ManagedTarget, "/"))
	checkContainer(e, "ANCHORD_MANAGED_SA_NAME", v.ManagedName)
	switch {
	case v.ManagedTarget != "":
		c.Managed = &recipe
	case v.ManagedName+v.ManagedImage+v.ManagedGatewayIP+v.ManagedExtraEnv+v.ManagedLabels != "":
		warnings = append(warnings, "ANCHORD_MANAGED_SA_* is set without ANCHORD_MANAGED_SA_TARGET: no service-anchor is made")
	}
	return c, warnings
}

// checkContainer accepts Docker's names of containers.
func checkContainer(e *configError, variable, name string) {
	if name != "" && (!plainPath(name) || strings.Contains(name, "/") || strings.ContainsAny(name[:1], "._-")) {
		e.bad(variable, name, errors.New("is not the name of a container: letters, digits, dots, hyphens and underscores, the first a letter or digit"))
	}
}

// boolean accepts true, false, 1 and 0 in any case.
func boolean(e *configError, variable, value string) bool {
	switch strings.ToLower(value) {
	case "true", "1":
		return true
	case "false", "0":
		return false
	}
	e.bad(variable, value, errors.New("is not one of true, false, 1, 0"))
	return false
}

func checkIface(e *configError, variable, name string) {
	if len(name) > 15 || !plainPath(name) || strings.Contains(name, "/") || strings.HasPrefix(name, "-") || name == "." || name == ".." {
		e.bad(variable, name, errors.New("is not the name of an interface: at most 15 letters, digits, dots, hyphens and underscores"))
	}
}

func interval(e *configError, name, value string) time.Duration {
	d, err := anchord.ParseInterval(value)
	if err != nil {
		e.bad(name, value, err)
	}
	return d
}

func checkDockerHost(e *configError, host string) {
	u, err := url.Parse(host)
	if err != nil || !slices.Contains([]string{"unix", "tcp", "http"}, u.Scheme) || u.Host+u.Path == "" {
		e.bad("DOCKER_HOST", host, errors.New("is not like unix:///var/run/docker.sock or tcp://proxy:2375"))
	}
}

func (v followVars) config(e *configError) (f anchord.Follower, warnings []string) {
	var err error
	if f.Pinned, err = anchord.ParseGateways(v.GatewayIP); err != nil {
		e.bad("ANCHORD_GATEWAY_IP", v.GatewayIP, fmt.Errorf("%w; accepted is one address per family, as in 10.0.0.2,fd00::2", err))
	}
	f.Host = "anchord"
	if v.GatewayHostname != "" {
		f.Host = v.GatewayHostname
		if strings.ContainsAny(f.Host, " \t\n/:,") {
			e.bad("ANCHORD_GATEWAY_HOSTNAME", f.Host, errors.New("is not a host name"))
		}
		if v.GatewayIP != "" {
			warnings = append(warnings, "ANCHORD_GATEWAY_IP and ANCHORD_GATEWAY_HOSTNAME are both set: the address wins")
		}
	}
	f.Interval = interval(e, "ANCHORD_GATEWAY_RESOLVE_INTERVAL", v.ResolveInterval)
	return f, warnings
}
