package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// check is one of the doctor's. The texts are docs/doctor.md, which a test keeps
// the same.
type check struct {
	name  string // in the report, in the JSON and in the docs: it is not changed
	group string
	modes []string
	what  string // is looked at
	why   string // it matters
	fix   string
	run   func(context.Context, *patient) []finding
}

var (
	inNetworkAnchor = []string{"network-anchor"}
	inServiceAnchor = []string{"service-anchor"}
	inAnchors       = []string{"network-anchor", "service-anchor"}
	withDocker      = []string{"network-anchor", "wrap-rebinder", "external-rebinder"}
)

// Groups of checks, as the report shows them.
const (
	groupContainer = "anchord's container"
	groupDocker    = "Docker"
	groupNetworks  = "networks"
	groupLAN       = "the LAN"
	groupRoute     = "the way out"
	groupServices  = "services"
)

// checks lists all, in the report's order.
func checks() []check {
	return []check{
		{
			"configuration", groupContainer, modes,
			"Every variable of the mode, as at the start.",
			"With a wrong one anchord ends at once, with exit code 2.",
			"Correct the variable that is named.", checkConfiguration,
		},
		{
			"capabilities", groupContainer, inAnchors,
			"`NET_ADMIN`; `NET_RAW` and, for the DHCP client, `NET_BIND_SERVICE`.",
			"Docker gives the last two by itself, unless `cap_drop: [ALL]` takes them.",
			"`cap_add: [NET_ADMIN]`, and with `cap_drop: [ALL]` also `NET_RAW` and `NET_BIND_SERVICE`.", checkCapabilities,
		},
		{
			"forwarding", groupContainer, inNetworkAnchor,
			"`net.ipv4.ip_forward` in anchord's container.",
			"Without it no packet gets to a service, nor out.",
			"`sysctls: {net.ipv4.ip_forward: \"1\"}`.", checkForwarding,
		},
		{
			"ipv6", groupContainer, inNetworkAnchor,
			"Forwarding of IPv6 where a network inside has a subnet of it, and whether the LAN interface has IPv6 and heeds the router: `accept_ra` must be 2 where its `forwarding` is 1.",
			"A kernel that forwards ignores router advertisements, unless told otherwise.",
			"The lines in [addressing](addressing.md#the-lines-for-compose).", checkIPv6,
		},
		{
			"rp-filter", groupContainer, inNetworkAnchor,
			"Whether `rp_filter` of the LAN interface is strict (1) while the default route leads elsewhere.",
			"The kernel then drops what comes from beyond the LAN's router.",
			"A gateway on the LAN (`ANCHORD_EXT_GATEWAY_IP`), or `rp_filter` 2.", checkReversePath,
		},
		{
			"programs", groupContainer, inAnchors,
			"The programs that anchord calls, and their versions against the oldest that the tests run with.",
			"An image of your own may lack one. A missing program is a failure where nothing works without it.",
			"The anchord image.", checkPrograms,
		},
		{
			"kernel", groupContainer, inNetworkAnchor,
			"Each feature of nftables that the ruleset needs, in a table that is made and deleted in one transaction.",
			"Some of them are modules that a slim kernel does not have; in a container nobody can load them.",
			"`modprobe -a` on the Docker host, with the modules that are named.", checkKernel,
		},
		{
			"templates", groupContainer, inNetworkAnchor,
			"Whether the templates in `ANCHORD_TEMPLATE_DIR` can be used: rendered for the project as it is, and checked by `nft`; and whether a block drops what anchord has in it.",
			"One that cannot has the whole directory refused: the rules are then those accepted last, or anchord's own.",
			"The file and line that are named; [templates](templates.md) has what there is.", checkTemplates,
		},
		{
			"docker", groupDocker, withDocker,
			"Whether Docker answers, and not Podman in its place, and each call that reads. `/version` is not among them: anchord does not need it.",
			"Where reading is refused, nothing is exposed. Where only the events are, changes are seen on the poll.",
			"Mount the socket, or allow reading in the proxy.", checkDocker,
		},
		{
			"rights", groupDocker, withDocker,
			"Each call that writes and that a feature needs which is on, asked of a container that cannot exist: nothing is changed.",
			"What a [socket proxy](socket-proxy.md) refuses, a feature is lost by. Everything else works without.",
			"Allow the calls in the proxy, or switch the feature off.", checkRights,
		},
		{
			"lan-interface", groupNetworks, inNetworkAnchor,
			"Which interface is the LAN's, by which network, whether it has a link, and whether an old engine gave it an address of its own.",
			"Without it anchord stays a closed box. ipvlan in mode l3 passes no DHCP on.",
			"One macvlan network whose parent is the host's interface on the LAN, or the variable that is named.", checkLAN,
		},
		{
			"transit", groupNetworks, inNetworkAnchor,
			"Who is the gateway of the networks on which services are, and whether packets with a client's address get through: exposed containers are pinged from the LAN address.",
			"Where Docker keeps the gateway, services answer by the host. On internal networks, Docker drops every client where `net.bridge.bridge-nf-call-iptables` is 1.",
			"The option `inhibit_ipv4`, or service-anchors.", checkTransit,
		},
		{
			"ipv6-leak", groupNetworks, inNetworkAnchor,
			"Networks that anchord is on, with IPv6 and the Docker host as their gateway. Others it does not see.",
			"Services then go out with the host's IPv6 address, past anchord.",
			"The auxiliary address `DefaultGatewayIPv6` beside the network's subnet.", checkLeaks,
		},
		{
			"dhcp", groupLAN, inNetworkAnchor,
			"The lease that anchord has; else whether a DHCP server offers one. It is asked in the project's name and takes nothing. One that pings an address before it offers it may need a second try.",
			"Without a lease there is no IPv4 address.",
			"`tcpdump` on the Docker host tells on which side to look.", checkDHCP,
		},
		{
			"router", groupLAN, inNetworkAnchor,
			"Whether a router advertises itself where the LAN interface has IPv6.",
			"Without advertisements there is neither an IPv6 address nor a gateway.",
			"Advertisements in the router, or IPv6 off.", checkRouter,
		},
		{
			"gateway", groupLAN, inNetworkAnchor,
			"Whether the default gateway of each family answers ARP or neighbour discovery.",
			"Without it nothing beyond the LAN is reached.",
			"The router, or the address that the DHCP server or `ANCHORD_EXT_GATEWAY_IP` names.", checkGateway,
		},
		{
			"dns", groupLAN, inNetworkAnchor,
			"Whether the name servers of the lease, or of `ANCHORD_DNS`, answer. That none does is a failure where the shared network is internal, else a warning.",
			"Services on internal networks have no others for names of the outside.",
			"Another name server, or `ANCHORD_DNS`.", checkDNS,
		},
		{
			"duplicate", groupLAN, inNetworkAnchor,
			"Whether another host answers for the project's addresses.",
			"Clients then reach now the one, now the other.",
			"Another address for the other host, outside the DHCP server's pool.", checkDuplicate,
		},
		{
			"name", groupRoute, inServiceAnchor,
			"Whether the network-anchor's name has an address, on a network of the service-anchor.",
			"The default route leads there.",
			"A network that both are on, or `ANCHORD_GATEWAY_IP`.", checkName,
		},
		{
			"default-route", groupRoute, inServiceAnchor,
			"Whether the default route is the service-anchor's.",
			"Services answer clients by it.",
			"The service-anchor's log says why it did not.", checkFollowed,
		},
		{
			"gateway", groupRoute, inServiceAnchor,
			"Whether the default gateway of each family answers ARP or neighbour discovery.",
			"The network-anchor may be gone.",
			"Start the network-anchor.", checkGateway,
		},
		{
			"exposed", groupServices, inNetworkAnchor,
			"What the labels ask for, and what of it is refused.",
			"A label with a mistake exposes nothing; of two containers with one port, the older has it.",
			"Correct the label that is named.", checkExposed,
		},
		{
			"published", groupServices, inNetworkAnchor,
			"Exposed containers with `ports:`, which are on an address of the Docker host too.",
			"Who comes by the host reaches them past anchord, often with the host's address in their logs; or not at all, where the transit is their only network.",
			"Remove `ports:`.", checkPublished,
		},
		{
			"listening", groupServices, inNetworkAnchor,
			"Whether each exposed TCP port accepts a connection, which is closed at once. Of UDP ports nothing can be known, and nobody need listen on a whole range.",
			"A server that listens on 127.0.0.1 of its container, or on another port, refuses everybody.",
			"The server's own configuration, or the port in the label.", checkListening,
		},
		{
			"way-back", groupServices, inNetworkAnchor,
			"Whether each exposed container answers a ping that comes from the LAN address.",
			"A container that answers only its neighbours has another default route: clients wait in vain.",
			"A default route that leads to anchord.", checkWayBack,
		},
		{
			"namespaces", groupServices, inNetworkAnchor,
			"Containers of the project in a network namespace that no longer exists. `anchord doctor stale-netns` looks at all projects.",
			"They look as if they ran, and have no network.",
			"The command that is printed.", checkNamespaces,
		},
		{
			"names", groupServices, inNetworkAnchor,
			"Whether each service of the project is known by its name on the networks that Compose made for the project.",
			"Compose, when a network's definition changed, makes it anew and connects running containers without their names, or, if it fails in between, to none: nobody finds `db` any more.",
			"The command that is printed.", checkNames,
		},
		{
			"anchord", groupServices, modes,
			"The anchord that runs in this container: ready, connected to Docker, and not long without a look around.",
			"Its own word, as in `anchord status`.",
			"Its log.", checkRunning,
		},
	}
}

func checksOf(mode string) []check {
	return slices.DeleteFunc(checks(), func(c check) bool { return !slices.Contains(c.modes, mode) })
}

// reference is the part of docs/doctor.md that lists the checks.
func reference() string {
	var b strings.Builder
	b.WriteString("| check | modes | what is looked at, and why | fix |\n|---|---|---|---|\n")
	for _, c := range checks() {
		in := "all"
		if len(c.modes) < len(modes) {
			in = strings.Join(c.modes, ", ")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s %s | %s |\n", c.name, in, c.what, c.why, c.fix)
	}
	return b.String()
}
