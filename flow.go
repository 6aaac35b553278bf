package anchord

import (
	"net/netip"
	"slices"
)

// Flow is a tracked flow: where its sender addressed it, and who answers.
type Flow struct {
	OrigDst   netip.Addr
	OrigPort  uint16
	ReplySrc  netip.Addr
	ReplyPort uint16
}

// translated says whether the flow was sent on to a backend.
func (f Flow) translated() bool { return f.OrigDst != f.ReplySrc || f.OrigPort != f.ReplyPort }

// FlowMatch selects tracked flows to end. Fields that are zero match all.
type FlowMatch struct {
	Family                      Family
	Protocol                    Protocol
	OrigDst, ReplySrc, ReplyDst netip.Addr
	Port                        uint16 // original destination port
	ReplyPort                   uint16 // the answerer's
}

// StaleFlows returns what selects those flows to the namespace's own
// addresses that the entries would now send elsewhere: to another backend, to
// none, or, for UDP, to a backend instead of the namespace itself, so that a
// client that never stops sending is picked up. All others live on.
// Where nothing leads to a backend any more, one match ends all of its flows.
func StaleFlows(f Family, p Protocol, flows []Flow, own []netip.Addr, entries []Entry) []FlowMatch {
	entries, live := backends(f, p, entries)
	var stale []FlowMatch
	seen := map[FlowMatch]bool{}
	for _, flow := range flows {
		if !slices.Contains(own, flow.OrigDst) {
			continue
		}
		backend, port, mapped := backendOf(flow.OrigPort, entries)
		if !flow.translated() && (p != UDP || !mapped) {
			continue
		}
		if mapped && flow.ReplySrc == backend && flow.ReplyPort == port {
			continue
		}
		m := FlowMatch{Family: f, Protocol: p, OrigDst: flow.OrigDst, ReplySrc: flow.ReplySrc, Port: flow.OrigPort, ReplyPort: flow.ReplyPort}
		if flow.OrigDst != flow.ReplySrc && !live[flow.ReplySrc] {
			m.Port, m.ReplyPort = 0, 0
		}
		if !seen[m] {
			seen[m] = true
			stale = append(stale, m)
		}
	}
	return stale
}

// backends are the entries of one family and protocol, by port, and all
// addresses that they lead to.
func backends(f Family, p Protocol, entries []Entry) ([]Entry, map[netip.Addr]bool) {
	live := map[netip.Addr]bool{}
	var list []Entry
	for _, e := range entries {
		if e.Family == f && e.Protocol == p {
			list = append(list, e)
			live[e.Backend] = true
		}
	}
	sortEntries(list)
	return list, live
}

// backendOf is where the entries, sorted by port, send a public port.
func backendOf(port uint16, entries []Entry) (netip.Addr, uint16, bool) {
	i, _ := slices.BinarySearchFunc(entries, port, func(e Entry, port uint16) int { return int(e.Last) - int(port) })
	if i == len(entries) || entries[i].First > port {
		return netip.Addr{}, 0, false
	}
	return entries[i].Backend, entries[i].Port + (port - entries[i].First), true
}

// ofEntries leaves those flows that are not translated, or as the entries say.
func ofEntries(f Family, p Protocol, flows []Flow, entries []Entry) []Flow {
	entries, _ = backends(f, p, entries)
	return slices.DeleteFunc(flows, func(flow Flow) bool {
		backend, port, mapped := backendOf(flow.OrigPort, entries)
		return flow.translated() && !(mapped && flow.ReplySrc == backend && flow.ReplyPort == port)
	})
}
