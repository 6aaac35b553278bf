package anchord

import (
	"net/netip"
	"slices"
)

// Flow is a tracked flow: who sent it and where to, and who answers whom.
type Flow struct {
	OrigSrc       netip.Addr
	OrigSrcPort   uint16 // that it was sent from
	OrigDst       netip.Addr
	OrigPort      uint16 // that it was sent to
	ReplySrc      netip.Addr
	ReplyPort     uint16 // that answers come from
	ReplyDst      netip.Addr
	ReplyDestPort uint16 // that answers go to: the port that the flow has left from
}

// translated says whether the flow was sent on to a backend.
func (f Flow) translated() bool { return f.OrigDst != f.ReplySrc || f.OrigPort != f.ReplyPort }

// FlowMatch selects tracked flows to end. Fields that are zero match all.
type FlowMatch struct {
	Family                               Family
	Protocol                             Protocol
	OrigSrc, OrigDst, ReplySrc, ReplyDst netip.Addr
	Port                                 uint16 // original destination port
	ReplyPort                            uint16 // the answerer's
	ReplyDestPort                        uint16 // that answers go to
}

// StaleFlows returns what selects those flows to the namespace's own
// addresses that the entries would now send elsewhere: to another backend, to
// none, or, for UDP, to a backend instead of the namespace itself, so that a
// client that never stops sending is picked up; and those that have left from a port
// which is another container's now, and in its way. All others live on.
// Where nothing leads to a backend any more, one match ends all of its flows.
func StaleFlows(f Family, p Protocol, flows []Flow, own []netip.Addr, entries []Entry) []FlowMatch {
	entries, live := backends(f, p, entries)
	var stale []FlowMatch
	seen := map[FlowMatch]bool{}
	for _, flow := range flows {
		if !slices.Contains(own, flow.OrigDst) {
			if flow.leftWrongly(p, own, entries) {
				stale = append(stale, FlowMatch{Family: f, Protocol: p, OrigSrc: flow.OrigSrc, ReplySrc: flow.ReplySrc, ReplyPort: flow.ReplyPort, ReplyDst: flow.ReplyDst, ReplyDestPort: flow.ReplyDestPort})
			}
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

// leftWrongly says whether the flow, one to the outside, has left from a port that
// the rules would not give it now. From an exposed one that is not its sender's: what
// comes for that port from its peer would be answers to it, before any rule is asked.
// Or, for UDP, from another one than that by which the LAN knows its sender's socket:
// it began before anybody knew that this is exposed.
func (f Flow) leftWrongly(p Protocol, own []netip.Addr, entries []Entry) bool {
	if !slices.Contains(own, f.ReplyDst) || slices.Contains(own, f.OrigSrc) {
		return false
	}
	if backend, _, mapped := backendOf(f.ReplyDestPort, entries); mapped {
		return backend != f.OrigSrc
	}
	return p == UDP && slices.ContainsFunc(entries, func(e Entry) bool {
		return e.Backend == f.OrigSrc && e.Port <= f.OrigSrcPort && f.OrigSrcPort-e.Port <= e.Last-e.First
	})
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

// ofEntries leaves those flows that are not translated, or as the entries say, and of
// those to the outside, those that no backend has begun.
func ofEntries(f Family, p Protocol, flows []Flow, own []netip.Addr, entries []Entry) []Flow {
	entries, live := backends(f, p, entries)
	return slices.DeleteFunc(flows, func(flow Flow) bool {
		if !slices.Contains(own, flow.OrigDst) {
			return live[flow.OrigSrc]
		}
		backend, port, mapped := backendOf(flow.OrigPort, entries)
		return flow.translated() && !(mapped && flow.ReplySrc == backend && flow.ReplyPort == port)
	})
}
