package anchord

// The stable names in the field "event" of the log; alerts are built on them.
// Each has its row in EventGroups.
const (
	EventStarting             = "anchord.starting"
	EventReady                = "anchord.ready"
	EventStopping             = "anchord.stopping"
	EventStopped              = "anchord.stopped"
	EventConfigWarning        = "config.warning"
	EventConfigInvalid        = "config.invalid"
	EventReconcileFailed      = "reconcile.failed"
	EventReconcileRecovered   = "reconcile.recovered"
	EventNoticeCleared        = "notice.cleared"
	EventRulesetApplied       = "ruleset.applied"
	EventRulesetDrift         = "ruleset.drift"
	EventTemplateApplied      = "template.applied"
	EventTemplateIgnored      = "template.ignored"
	EventTemplateRefused      = "template.override_refused"
	EventDockerConnected      = "docker.connected"
	EventDockerEventsLost     = "docker.events_lost"
	EventDockerLost           = "docker.lost"
	EventExtMissing           = "network.ext_missing"
	EventTransitMissing       = "network.transit_missing"
	EventSharedMissing        = "network.shared_missing"
	EventSubnetClash          = "network.subnet_clash"
	EventSharedPicked         = "network.shared_picked"
	EventForwardingOff        = "network.forwarding_off"
	EventNameMissing          = "network.name_missing"
	EventNoBackends           = "expose.no_backends"
	EventExposeConflict       = "expose.conflict"
	EventBackendUnreachable   = "expose.backend_unreachable"
	EventLabelRejected        = "label.rejected"
	EventLabelUnknown         = "label.unknown"
	EventAddressAdded         = "address.added"
	EventAddressRemoved       = "address.removed"
	EventAddressDeprecated    = "address.deprecated"
	EventAddressDuplicate     = "address.duplicate"
	EventAddressMode          = "address.mode"
	EventARPUnset             = "address.arp_unset"
	EventAnnounceFailed       = "address.announce_failed"
	EventChildMade            = "address.interface_made"
	EventMACSet               = "address.mac_set"
	EventBroughtUp            = "address.interface_up"
	EventRoutersUnheard       = "route.routers_unheard"
	EventSolicitFailed        = "route.solicit_failed"
	EventRouteSet             = "route.set"
	EventRouteRemoved         = "route.removed"
	EventRouteReasserted      = "route.reasserted"
	EventFlowsFlushed         = "conntrack.flushed"
	EventDHCPStarted          = "dhcp.started"
	EventDHCPBound            = "dhcp.bound"
	EventDHCPRenewed          = "dhcp.renewed"
	EventDHCPLost             = "dhcp.lost"
	EventDHCPFailed           = "dhcp.failed"
	EventDHCPDeclined         = "dhcp.address_in_use"
	EventDHCPRefused          = "dhcp.lease_refused"
	EventDHCPHookFailed       = "dhcp.hook_failed"
	EventLeaseWatchFailed     = "dhcp.watch_failed"
	EventDHCPIgnored          = "dhcp.option_ignored"
	EventChildExited          = "child.exited"
	EventContainerStarted     = "netns.container_started"
	EventContainerRecreated   = "netns.container_recreated"
	EventServiceAnchorMade    = "netns.service_anchor_made"
	EventRepairFailed         = "netns.repair_failed"
	EventNamespaceDead        = "netns.dead"
	EventDockerRefused        = "docker.write_refused"
	EventFollowWaiting        = "follow.waiting"
	EventFollowJoined         = "follow.joined"
	EventFollowLeft           = "follow.left"
	EventFollowRestarted      = "follow.restarted"
	EventFollowFailed         = "follow.failed"
	EventFollowRecovered      = "follow.recovered"
	EventHealthUnavailable    = "health.unavailable"
	EventAnnouncementsUnheard = "gateway.announcements_unheard"
	EventNameServersFailed    = "gateway.nameservers_failed"
	EventNothingToRestore     = "gateway.nothing_to_restore"
	EventGatewayResolved      = "gateway.resolved"
	EventGatewayUnresolved    = "gateway.unresolved"
)

// EventInfo describes one event. docs/events.md is made from it, so Meaning and
// Todo are Markdown that fits into a table.
type EventInfo struct {
	Name    string
	Levels  []Level // with which it is logged, the usual one first
	Meaning string
	Todo    string // what an operator does about it; empty: nothing
}

// EventGroup is one section of docs/events.md.
type EventGroup struct {
	Title  string
	Events []EventInfo
}

// EventGroups are all events that are ever logged, and the levels that each can
// have. Tests hold the program to it in both directions: nothing else is
// logged, and each of them is logged by some test.
var EventGroups = []EventGroup{
	{"Life", []EventInfo{
		{EventStarting, at(Info), "started, with mode and version", ""},
		{EventReady, at(Info), "rules are in, Docker and the LAN interface are known", ""},
		{EventStopping, at(Info, Warn), "a step of the stop; warning: it could not be done", "on a warning, nothing: the namespace goes with the container"},
		{EventStopped, at(Info, Error), "the end; error: it could not start, or not everything could be undone", "read `msg`"},
		{EventConfigInvalid, at(Error), "a variable is wrong, or Podman answers at `DOCKER_HOST`; exit code 2", "`msg` names the variable and what is accepted"},
		{EventConfigWarning, at(Warn), "valid, but surely not meant: two settings, one of which wins, metrics on a port that is exposed, or a variable that anchord does not know", "remove one, or look for the typing error; another port for the metrics"},
		{EventHealthUnavailable, at(Warn), "the metrics address or the socket cannot be listened on; all else works", "another `ANCHORD_METRICS_ADDR`"},
		{EventChildExited, at(Warn), "`ip monitor` or `nft monitor` ended (`said`: its last words) and is started again; the same end is told once", "permissions (`NET_ADMIN`), or the image"},
		{EventReconcileFailed, at(Error, Warn), "something could not be done; it is tried again. Warning: something beside the main work", "`msg` names the command and its error"},
		{EventReconcileRecovered, at(Info), "the last look and all changes succeeded again", ""},
		{EventNoticeCleared, at(Info), "a problem told before is gone; `cleared` is its event", ""},
	}},
	{"Docker and networks", []EventInfo{
		{EventDockerConnected, at(Info), "Docker can be asked (again)", ""},
		{EventDockerLost, at(Error), "Docker cannot be asked: what is exposed stays, changes are not seen", "the engine, the socket's mount, the proxy"},
		{EventDockerEventsLost, at(Error), "docker answers, but its events cannot be followed: changes are seen only on the poll", "allow `GET /events` in the socket proxy"},
		{EventDockerRefused, at(Warn, Error), "a socket proxy refuses to have something changed; told once for each feature, with what does not work without it. Error: it is all that this mode is for", "allow it ([socket-proxy](socket-proxy.md)), or switch the feature off"},
		{EventExtMissing, at(Error), "no LAN interface: nothing is exposed", "attach anchord to a macvlan network; with several, `ANCHORD_EXT_NETWORK`"},
		{EventTransitMissing, at(Warn), "a network's interface is not there (yet)", "nothing, if it goes away by itself"},
		{EventSharedMissing, at(Error), "only the LAN is attached, or not `ANCHORD_SHARED_NETWORK`", "attach anchord to the services' network"},
		{EventSubnetClash, at(Error), "the LAN's addresses and a network's inside overlap: only one of both can be reached", "give the network another subnet"},
		{EventForwardingOff, at(Error), "the kernel of anchord's container sends no packets of a family on that the LAN and the services have", "the `sysctls` line that `msg` names"},
		{EventNameMissing, at(Warn), "services that no container finds by their names, which are missing on a network, or that are on none: Compose connects running containers to a network that it makes anew without them, and to none if it fails. Told at most 10 s after the containers run, and again if others are missing", "the command in `msg`"},
		{EventSharedPicked, at(Info), "backend addresses are read on another network from now on", ""},
	}},
	{"Exposed ports and rules", []EventInfo{
		{EventRulesetApplied, at(Info), "the ruleset changed; `entries`, `took_ms`, the ports `opened` and `closed`", ""},
		{EventRulesetDrift, at(Warn), "somebody else changed anchord's tables; they are put back. Where it was not seen whether somebody did, the tables are compared first", "find who: another program with access to this namespace"},
		{EventTemplateApplied, at(Info), "the rules are those of the templates in `files` from now on; none: the embedded ones", ""},
		{EventTemplateRefused, at(Error), "the template directory is refused; `msg` says why, with `file` and `line`, and which rules stand instead. Told once for each fault", "repair it ([templates](templates.md)), nothing has to be restarted"},
		{EventTemplateIgnored, at(Warn), "a file in the template directory has a name that means nothing", "a typing error?"},
		{EventNoBackends, at(Warn), "no container is exposed after five looks", "label, project, running, common network"},
		{EventExposeConflict, at(Error), "a port is refused, an older container has it", "change one label"},
		{EventBackendUnreachable, at(Warn), "a labelled container has no address on a network that anchord is on, or the container whose namespace it shares does not run", "attach it to the transit network, or recreate it"},
		{EventLabelRejected, at(Error), "a container's label is wrong, or asks for more than there may be; none of its ports are exposed", "`msg` names the entry and the reason"},
		{EventLabelUnknown, at(Warn), "a label begins with `anchord.` and means nothing; of one container five are told of", "a typing error?"},
		{EventFlowsFlushed, at(Info), "connections that led to an old backend were ended", ""},
	}},
	{"Address and route", []EventInfo{
		{EventAddressMode, at(Info), "Docker gave the LAN interface an address, which is kept: no DHCP client runs", "`ANCHORD_ADDRESS_MODE=dhcp-refresh`, if a lease is wanted; on Docker Engine before 28, `enable_ipv4: false` does nothing"},
		{EventARPUnset, at(Warn), "the LAN interface could not be kept from answering ARP for addresses inside", "a kernel that refuses the setting; nothing else depends on it"},
		{EventAnnounceFailed, at(Warn), "neighbours could not be told of an address", "they may send to an old MAC for some minutes"},
		{EventMACSet, at(Info), "the LAN interface has the project's own MAC", ""},
		{EventBroughtUp, at(Warn), "the LAN interface was down; it is up again", "find who set it down (to cut the project off, stop anchord)"},
		{EventChildMade, at(Info), "the LAN interface was made on `ANCHORD_VLAN_PARENT`", ""},
		{EventAddressAdded, at(Info), "an address on the LAN, or the gateway address of a transit network", ""},
		{EventAddressRemoved, at(Info), "the LAN interface gave up an address", ""},
		{EventAddressDeprecated, at(Info), "an IPv6 address is not used for new connections any more: the router announced another prefix", ""},
		{EventAddressDuplicate, at(Error), "another host has the same IPv6 address", "find it: same MAC, or a static address"},
		{EventRouteSet, at(Info), "a route was set, by a network-anchor or a service-anchor; `source` says where its gateway is known from", ""},
		{EventRouteRemoved, at(Info), "a route was removed: the lease names it no more, or it led to anchord itself", ""},
		{EventRouteReasserted, at(Warn), "a route was changed or lost, and is put back", "now and then is normal (Docker does it on `network connect`)"},
		{EventSolicitFailed, at(Warn), "the LAN's routers could not be asked to introduce themselves", "`cap_add: [NET_RAW]`"},
		{EventRoutersUnheard, at(Warn), "router advertisements cannot be listened to: no DHCPv6 server is asked", "`cap_add: [NET_RAW]`"},
		{EventDHCPStarted, at(Info, Debug), "the DHCP client runs; debug: what it says", ""},
		{EventDHCPBound, at(Info), "an address was leased", ""},
		{EventDHCPRenewed, at(Info), "the lease was renewed", ""},
		{EventDHCPLost, at(Warn, Error), "warning: the server took the lease back; error: it ran out, nobody renewed it", "the DHCP server"},
		{EventDHCPFailed, at(Warn), "no DHCP server answered; `again_in_s` until the next try", "the parent interface, the VLAN, the server's pool"},
		{EventDHCPDeclined, at(Error), "another host uses the offered address (`address`); declined", "a host with a static address inside the pool"},
		{EventLeaseWatchFailed, at(Warn), "the lease directory cannot be watched (inotify's limit?); it is looked at every second", "`fs.inotify.max_user_instances` of the host"},
		{EventDHCPHookFailed, at(Error), "the client's hook could not write the lease down", "is `ANCHORD_RUN_DIR` writable, and not full?"},
		{EventDHCPRefused, at(Error), "the lease makes no sense (address, mask or time); the one that is held goes on", "the DHCP server"},
		{EventDHCPIgnored, at(Warn), "an option of the lease makes no sense and is left out", "the DHCP server"},
	}},
	{"Shared network namespaces", []EventInfo{
		{EventContainerStarted, at(Info), "a container that could not start before the owner of its network namespace was started", ""},
		{EventServiceAnchorMade, at(Info), "the service-anchor of `ANCHORD_MANAGED_SA_TARGET` was made, or made anew; `why` says the reason", ""},
		{EventContainerRecreated, at(Info, Debug), "a container was recreated with all its settings in the namespace that there is now, or what an interruption left of that was put right; debug: what a try that failed left was removed", ""},
		{EventRepairFailed, at(Error, Debug), "that could not be done; the container is left as it is and tried again. Told once for each error; debug: Docker could not be asked", "`msg` says the error, and the command that does it by hand"},
		{EventNamespaceDead, at(Warn), "a container looks as if it ran, but has no network: its network namespace is gone. Told once for each, 5 s after it broke, and again if it comes back; not while a wrap-rebinder waits for a target that is down", "the command in `msg`"},
	}},
	{"external-rebinder", []EventInfo{
		{EventFollowJoined, at(Info), "the container was attached to the network", ""},
		{EventFollowLeft, at(Info), "the container was taken off the network as the last one, which would keep it from being removed", ""},
		{EventFollowRestarted, at(Info), "the container was restarted, as `ANCHORD_FOLLOW_RESTART` asks for", ""},
		{EventFollowWaiting, at(Info), "why the container is not on the network at the moment", "nothing, unless it stays so: look at the names"},
		{EventFollowFailed, at(Error), "Docker could not be asked, or refused to attach; it is tried again, at most 30 s apart", "`msg`; a fixed address that another container has?"},
		{EventFollowRecovered, at(Info), "it works again", ""},
	}},
	{"service-anchor", []EventInfo{
		{EventGatewayResolved, at(Info), "the network-anchor's address is known, or has changed", ""},
		{EventGatewayUnresolved, at(Error), "its name is not known, or its address is on no network here; it is tried again", "both on one network? `ANCHORD_GATEWAY_HOSTNAME`?"},
		{EventNothingToRestore, at(Warn), "there was no default route at the start, or it could not be remembered: at the end there will be none", "nothing in a namespace of its own on internal networks, where that is usual; in one of another container, look at its routes"},
		{EventNameServersFailed, at(Warn), "`/etc/resolv.conf` could not be written", "`read_only: true`?"},
		{EventAnnouncementsUnheard, at(Warn), "the network-anchor's announcements cannot be listened to; a new address is noticed on the interval", "`cap_add: [NET_RAW]`"},
	}},
}

func at(levels ...Level) []Level { return levels }

// LookUpEvent gives an event's description.
func LookUpEvent(name string) (info EventInfo, ok bool) {
	for _, g := range EventGroups {
		for _, e := range g.Events {
			if e.Name == name {
				return e, true
			}
		}
	}
	return EventInfo{}, false
}
