package e2e

import (
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// scenarios run with bridged packets filtered by the Docker host's firewall, as
// on most hosts.
var scenarios = []scenario{
	{name: "cold start of the native example", run: nativeExample},
	{name: "a service is restarted", run: serviceRestarted},
	{name: "three ports on one container", once: true, run: threePorts},
	{name: "another address", run: anotherAddress, lan: lab.LANOptions{LeaseTime: movingLease}},
	{name: "two projects on one LAN", run: twoProjects},
	{name: "down leaves nothing", run: down},
	{name: "nothing is left in the namespace", once: true, run: nothingLeftInNamespace},
	{name: "another network is connected", run: networkConnected},
	{name: "names after a network was made anew", run: namesLost},
	{name: "the Docker socket is gone", once: true, run: dockerSocketGone},
	{name: "hairpin", once: true, run: hairpin},
	{name: "egress", run: egress, lan: lab.LANOptions{Remote: true}},
	{name: "not from the LAN", run: notFromTheLAN, lan: lab.LANOptions{Remote: true}},
	{name: "looks like one host", once: true, run: looksLikeOneHost, lan: lab.LANOptions{Remote: true}},
	{name: "label conflict", once: true, run: labelConflict},
	{name: "malformed label", once: true, run: malformedLabel},
	{name: "prometheus inside the project", once: true, run: prometheusInside},
	{name: "overriding templates", once: true, run: overridingTemplates, lan: lab.LANOptions{Remote: true}},
	{name: "least privilege", run: leastPrivilege, lan: lab.LANOptions{LeaseTime: 30 * time.Second}},
	{name: "without NET_ADMIN", once: true, run: withoutNetAdmin},
}

// unfiltered run without that.
var unfiltered = []scenario{
	{name: "native", run: bridgedUnfiltered},
	{name: "service-anchor example", run: serviceAnchor},
	{name: "a service-anchor recreated by hand", run: recreatedByHand},
	{name: "names of the outside on an internal network", run: outsideNames},
}

// alone run one after the other, with bridged packets filtered: what is promised
// within a second, what keeps the machine busy, and what needs or floods Docker's
// memory of events, which all share.
var alone = []scenario{
	{name: "UDP flows that never pause", once: true, run: udpFlows},
	{name: "anchord is recreated", run: anchordRecreated},
	{name: "anchord is killed", once: true, run: anchordKilled},
	{name: "tables and route deleted by hand", once: true, run: repairedByHand},
	{name: "wrapped: a target is recreated", run: wrappedRecreated},
	{name: "wrapped: a target's name is forgotten", run: wrappedForgotten},
	{name: "a container stays on another project's network", once: true, run: externalRebinder},
	{name: "fifty recreations", once: true, run: fiftyRecreations},
	{name: "the newcomer's path", run: newcomersPath},
	{name: "comparison", once: true, run: comparison, lan: lab.LANOptions{IPv6: lab.SLAAC}},
}

// aloneUnfiltered run like them, without that filter.
var aloneUnfiltered = []scenario{
	{name: "anchord comes back at another address", run: anchordMoves},
}
