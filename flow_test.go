package anchord_test

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/AlexCherrypi/anchord"
)

func TestStaleFlows(t *testing.T) {
	own := []netip.Addr{addr("192.0.2.77"), addr("10.213.0.1")}
	flow := func(dst string, port uint16, src string, reply uint16) anchord.Flow {
		return anchord.Flow{OrigDst: addr(dst), OrigPort: port, ReplySrc: addr(src), ReplyPort: reply}
	}
	match := func(p anchord.Protocol, f anchord.Flow) anchord.FlowMatch {
		return anchord.FlowMatch{Protocol: p, OrigDst: f.OrigDst, Port: f.OrigPort, ReplySrc: f.ReplySrc, ReplyPort: f.ReplyPort}
	}
	mapped := []anchord.Entry{
		{Protocol: anchord.TCP, First: 80, Last: 80, Backend: addr("10.213.0.5"), Port: 8080},
		{Protocol: anchord.TCP, First: 1000, Last: 1010, Backend: addr("10.213.0.5"), Port: 1000},
		{Protocol: anchord.UDP, First: 53, Last: 53, Backend: addr("10.213.0.6"), Port: 53},
		{Protocol: anchord.UDP, First: 100, Last: 110, Backend: addr("10.213.0.6"), Port: 200},
	}
	for _, tt := range []struct {
		name  string
		proto anchord.Protocol
		flows []anchord.Flow
		want  []anchord.FlowMatch
	}{
		{"still right", anchord.TCP, []anchord.Flow{flow("192.0.2.77", 80, "10.213.0.5", 8080)}, nil},
		{"right inside a range", anchord.TCP, []anchord.Flow{flow("192.0.2.77", 1005, "10.213.0.5", 1005)}, nil},
		{"right inside a shifted range", anchord.UDP, []anchord.Flow{flow("192.0.2.77", 105, "10.213.0.6", 205)}, nil},
		{"another backend now", anchord.TCP, []anchord.Flow{flow("192.0.2.77", 80, "10.213.0.9", 8080)}, []anchord.FlowMatch{{Protocol: anchord.TCP, OrigDst: addr("192.0.2.77"), ReplySrc: addr("10.213.0.9")}}},
		{"another backend port now", anchord.TCP, []anchord.Flow{flow("192.0.2.77", 80, "10.213.0.5", 80)}, []anchord.FlowMatch{match(anchord.TCP, flow("192.0.2.77", 80, "10.213.0.5", 80))}},
		{"wrong inside a shifted range", anchord.UDP, []anchord.Flow{flow("192.0.2.77", 105, "10.213.0.6", 105)}, []anchord.FlowMatch{match(anchord.UDP, flow("192.0.2.77", 105, "10.213.0.6", 105))}},
		{"mapping gone", anchord.TCP, []anchord.Flow{flow("192.0.2.77", 443, "10.213.0.5", 443)}, []anchord.FlowMatch{match(anchord.TCP, flow("192.0.2.77", 443, "10.213.0.5", 443))}},
		{"through the transit's own address", anchord.TCP, []anchord.Flow{flow("10.213.0.1", 443, "10.213.0.5", 443)}, []anchord.FlowMatch{match(anchord.TCP, flow("10.213.0.1", 443, "10.213.0.5", 443))}},
		{"UDP before the port was mapped", anchord.UDP, []anchord.Flow{flow("192.0.2.77", 53, "192.0.2.77", 53)}, []anchord.FlowMatch{match(anchord.UDP, flow("192.0.2.77", 53, "192.0.2.77", 53))}},
		{"UDP to a port that is not mapped", anchord.UDP, []anchord.Flow{flow("192.0.2.77", 5060, "192.0.2.77", 5060)}, nil},
		{"TCP to the namespace itself", anchord.TCP, []anchord.Flow{flow("192.0.2.77", 80, "192.0.2.77", 80)}, nil},
		{"the other protocol's entry says nothing", anchord.UDP, []anchord.Flow{flow("192.0.2.77", 80, "192.0.2.77", 80)}, nil},
		{"outbound, masqueraded", anchord.TCP, []anchord.Flow{flow("198.51.100.9", 80, "198.51.100.9", 80)}, nil},
		{"somebody else's translation", anchord.TCP, []anchord.Flow{flow("127.0.0.11", 53, "127.0.0.11", 40000)}, nil},
		{"many clients, one match", anchord.TCP, []anchord.Flow{flow("192.0.2.77", 443, "10.213.0.5", 443), flow("192.0.2.77", 443, "10.213.0.5", 443), flow("192.0.2.77", 444, "10.213.0.5", 444)}, []anchord.FlowMatch{
			match(anchord.TCP, flow("192.0.2.77", 443, "10.213.0.5", 443)), match(anchord.TCP, flow("192.0.2.77", 444, "10.213.0.5", 444)),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := anchord.StaleFlows(anchord.V4, tt.proto, tt.flows, own, mapped); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestStaleFlowsKeepFamiliesApart(t *testing.T) {
	own := []netip.Addr{addr("2001:db8::77")}
	right := []anchord.Flow{{OrigDst: own[0], OrigPort: 80, ReplySrc: addr("fd5a:1::5"), ReplyPort: 80}}
	v6 := []anchord.Entry{{Family: anchord.V6, Protocol: anchord.TCP, First: 80, Last: 80, Backend: addr("fd5a:1::5"), Port: 80}}
	if stale := anchord.StaleFlows(anchord.V6, anchord.TCP, right, own, v6); stale != nil {
		t.Errorf("a flow that is right: %+v", stale)
	}
	v4 := []anchord.Entry{{Protocol: anchord.TCP, First: 80, Last: 80, Backend: addr("10.213.0.5"), Port: 80}}
	if stale := anchord.StaleFlows(anchord.V6, anchord.TCP, right, own, v4); len(stale) != 1 || stale[0].Family != anchord.V6 {
		t.Errorf("only IPv4 is mapped now: %+v", stale)
	}
}
