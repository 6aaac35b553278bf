package e2e

import (
	"github.com/AlexCherrypi/anchord/test/lab"
)

// scenarios run with bridged packets filtered by the Docker host's firewall, as
// on most hosts.
var scenarios = []scenario{
	{name: "cold start of the native example", run: nativeExample},
	{name: "a service is restarted", run: serviceRestarted},
	{name: "three ports on one container", run: threePorts},
	{name: "UDP flows that never pause", run: udpFlows},
	{name: "another address", run: anotherAddress, lan: lab.LANOptions{LeaseTime: movingLease}},
	{name: "two projects on one LAN", run: twoProjects},
	{name: "down leaves nothing", run: down},
	{name: "nothing is left in the namespace", run: nothingLeftInNamespace},
}

// unfiltered run without that.
var unfiltered = []scenario{
	{name: "native", run: bridgedUnfiltered},
}

// alone run one after the other, at the end.
var alone = []scenario{
	{name: "fifty recreations", run: fiftyRecreations},
}
