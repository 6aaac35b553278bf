package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/test/generated"
)

func reports() map[string]statusReport {
	seconds, changed := int64(3599), time.Now().Add(-90*time.Second)
	return map[string]statusReport{
		"status-working": {
			Ready: true, Project: "mailcow", Hostname: "mailcow", Interface: "lan0", MAC: "02:42:ab:da:a2:a4",
			Addresses: []string{"192.0.2.77/24", "2001:db8::77/64"}, Mode: "dhcp-refresh",
			Leases: []leaseStatus{
				{Family: "v4", Address: "192.0.2.77/24", Server: "192.0.2.2", Remaining: &seconds, DNS: []string{"192.0.2.53"}},
				{Family: "v6", Address: "2001:db8::77/128", Remaining: &seconds},
			},
			Gateways: []gatewayStatus{{"v4", "192.0.2.1", "lease"}, {"v6", "2001:db8::1", "ANCHORD_EXT_GATEWAY_IP"}},
			Network:  "mailcow_transit", Changed: &changed, Docker: &dockerStatus{Connected: true},
			Exposed: []exposedStatus{
				{"v4", "tcp", "25", "postfix", "10.213.0.5:25", 1234},
				{"v6", "tcp", "25", "postfix", "[fd5a:1::5]:25", 0},
				{"v4", "udp", "49152-49252", "turn", "10.213.0.6:49152-49252", 7},
			},
			Problems: []problemStatus{},
		},
		"status-in-trouble": {
			Unmet: []string{"the ruleset is not in the kernel", "docker cannot be asked: connection refused"}, Project: "evil\x1b[31m", Hostname: "evil--31m",
			Addresses: []string{}, Mode: "auto", Docker: &dockerStatus{Error: "connection refused"},
			Problems: []problemStatus{
				{anchord.EventExposeConflict, "container new does not get tcp/80: container old, which is older, has it as tcp/80", "new"},
				{Event: anchord.EventReconcileFailed, Message: "applying ruleset: broken"},
			},
		},
		"status-refused-template": {
			Ready: true, Project: "shop", Hostname: "shop", Interface: "lan0", MAC: "02:00:00:00:00:01", Addresses: []string{"192.0.2.77/24"}, Mode: "bootstrap",
			Docker: &dockerStatus{Connected: true}, Network: "shop_transit",
			Templates: templateStatus{Overrides: []string{"10-only-from.nft.tmpl"}, Refused: "x.nft.tmpl:2: unexpected EOF"},
			Problems:  []problemStatus{{Event: anchord.EventTemplateRefused, Message: "the template directory is refused: x.nft.tmpl:2: unexpected EOF"}},
		},
		"status-no-lease": {
			Ready: true, Project: "shop", Hostname: "shop", Interface: "lan0", MAC: "02:00:00:00:00:01", Mode: "dhcp-refresh",
			Asking: []askingStatus{{"v4", time.Now().Add(-80 * time.Second), 5}, {"v6", time.Now().Add(-3 * time.Second), 0}},
			Docker: &dockerStatus{Connected: true}, Network: "shop_transit",
			Problems: []problemStatus{{Event: anchord.EventDHCPFailed, Message: "no DHCP server answered; asking again"}},
		},
		"status-endless-lease": {
			Ready: true, Project: "shop", Hostname: "shop", Interface: "lan0", MAC: "02:00:00:00:00:01", Addresses: []string{"192.0.2.77/24"},
			Leases: []leaseStatus{{Family: "v4", Address: "192.0.2.77/24"}}, Docker: &dockerStatus{Connected: true}, Network: "shop_transit",
		},
	}
}

func TestStatusForPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // "ago" needs a clock that stands
		for name, report := range reports() {
			var out bytes.Buffer
			if err := report.print(&out); err != nil {
				t.Fatal(err)
			}
			generated.Golden(t, name, out.String())
			if strings.Contains(out.String(), "\x1b") {
				t.Errorf("%s plays with the terminal", name)
			}
		}
	})
}

// The machine's form goes through the socket, as the command reads it.
func TestStatusForMachines(t *testing.T) {
	dir, err := os.MkdirTemp("", "a") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	want := reports()["status-working"]
	s := server{registry: newRegistry(always), unmet: func() []string { return nil }, status: func(context.Context) any { return want }}
	s.serve(t.Context(), dir, "", newLogger(&bytes.Buffer{}, 0))
	environment(t, "ANCHORD_RUN_DIR", dir)
	code, stdout, stderr := started("status", "--json")
	var got statusReport
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
		t.Fatalf("exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if !bytes.Equal(a, b) {
		t.Errorf("%s\nwant %s", b, a)
	}
	if code, stdout, _ = started("status"); code != 0 || !strings.Contains(stdout, "49152-49252") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
	if code, stdout, _ = started("healthcheck"); code != 0 || stdout != "ready\n" {
		t.Errorf("healthcheck: exit %d, %q", code, stdout)
	}
}

func TestConnectionsOfAnEntry(t *testing.T) {
	inside := netip.MustParseAddr("10.0.0.5")
	key := func(set, element string) string { return exec.CounterKey(anchord.TableV4, set, element) }
	counters := map[string]uint64{
		key("dnat_tcp", "25"): 3, key("dnat_tcp_ranges", "100-110"): 4, key("dnat_tcp", "200"): 5, key("dnat_tcp", "201"): 6, key("dnat_udp", "25"): 100,
	}
	for name, tt := range map[string]struct {
		entry anchord.Entry
		want  uint64
		shown string
	}{
		"one port":        {anchord.Entry{Protocol: anchord.TCP, First: 25, Last: 25, Port: 2525, Backend: inside}, 3, "10.0.0.5:2525"},
		"a range":         {anchord.Entry{Protocol: anchord.TCP, First: 100, Last: 110, Port: 100, Backend: inside}, 4, "10.0.0.5:100-110"},
		"a shifted range": {anchord.Entry{Protocol: anchord.TCP, First: 200, Last: 202, Port: 300, Backend: inside}, 11, "10.0.0.5:300-302"},
		"never used":      {anchord.Entry{Protocol: anchord.TCP, First: 80, Last: 80, Port: 80, Backend: inside}, 0, "10.0.0.5:80"},
		"in IPv6":         {anchord.Entry{Family: anchord.V6, Protocol: anchord.TCP, First: 25, Last: 25, Port: 25, Backend: netip.MustParseAddr("fd00::5")}, 0, "[fd00::5]:25"},
	} {
		if got := connections(counters, tt.entry); got != tt.want {
			t.Errorf("%s: %d connections, want %d", name, got, tt.want)
		}
		if got := backend(tt.entry); got != tt.shown {
			t.Errorf("%s: shown as %q, want %q", name, got, tt.shown)
		}
	}
}

// A client that is started again and again for leases of no use has not just begun
// to ask.
func TestHowLongALeaseIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &networkAnchor{}
		begin := time.Now()
		started := func() { n.asks("v4", anchord.EventDHCPStarted, "asking") }
		started()
		for range 3 {
			time.Sleep(time.Second)
			n.asks("v4", anchord.EventDHCPRefused, "the lease has no address")
			started()
		}
		want := asking{since: begin, failures: 3, last: problemStatus{Event: anchord.EventDHCPRefused, Message: "the lease has no address"}}
		if got := n.asking[anchord.V4]; got != want || n.asking[anchord.V6] != (asking{}) {
			t.Errorf("%+v, want %+v", n.asking, want)
		}
		n.asks("v4", anchord.EventDHCPBound, "an address")
		if got := n.asking[anchord.V4]; got != want {
			t.Errorf("before the lease is used: %+v, want %+v", got, want)
		}
		n.leased(anchord.PerFamily[anchord.Lease]{anchord.V4: {Address: netip.MustParsePrefix("192.0.2.7/24")}})
		started()
		if got := n.asking[anchord.V4]; got != (asking{since: time.Now()}) {
			t.Errorf("with a lease: %+v", got)
		}
		time.Sleep(time.Hour)
		n.asks("v4", anchord.EventDHCPLost, "it ran out")
		if got := n.asking[anchord.V4]; got != (asking{since: time.Now()}) {
			t.Errorf("without it again: %+v", got)
		}
	})
}
