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
func StaleFlows(f Family, p Protocol, flows []Flow, own []netip.Addr, entries []Entry) []FlowMatch {
	var stale []FlowMatch
	for _, flow := range flows {
		if !slices.Contains(own, flow.OrigDst) {
			continue
		}
		backend, port, mapped := backendOf(f, p, flow.OrigPort, entries)
		if !flow.translated() && (p != UDP || !mapped) {
			continue
		}
		if mapped && flow.ReplySrc == backend && flow.ReplyPort == port {
			continue
		}
		m := FlowMatch{Family: f, Protocol: p, OrigDst: flow.OrigDst, ReplySrc: flow.ReplySrc, Port: flow.OrigPort, ReplyPort: flow.ReplyPort}
		if !slices.Contains(stale, m) {
			stale = append(stale, m)
		}
	}
	return stale
}

// backendOf is where the entries send a public port.
func backendOf(f Family, p Protocol, port uint16, entries []Entry) (netip.Addr, uint16, bool) {
	for _, e := range entries {
		if e.Family == f && e.Protocol == p && e.First <= port && port <= e.Last {
			return e.Backend, e.Port + (port - e.First), true
		}
	}
	return netip.Addr{}, 0, false
}
