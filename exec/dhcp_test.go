package exec

import (
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/told"
)

func TestDHCPClientsCommandLine(t *testing.T) {
	c := anchord.DHCPClient{Iface: "lan0", MAC: "02:00:00:00:00:01", Hostname: "my-app"}
	const first = "udhcpc -f -n -R -a300 -t 4 -T 2 -i lan0 -s /hook -O staticroutes -x hostname:my-app -x 0x3d:006d792d617070"
	if got := strings.Join(UDHCPCArgs(c, "/hook", netip.Addr{}), " "); got != first {
		t.Errorf("%s\nwant %s", got, first)
	}
	if got, want := strings.Join(UDHCPCArgs(c, "/hook", netip.MustParseAddr("192.0.2.7")), " "), first+" -r 192.0.2.7"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// observed are the events that a DHCP client tells.
type observed struct {
	mu     sync.Mutex
	events []string
	more   chan struct{}
}

func (o *observed) observe(l anchord.Level, event, message string, _ anchord.Fields) {
	told.Must(l, event)
	o.mu.Lock()
	o.events = append(o.events, event+" "+message)
	o.mu.Unlock()
	o.more <- struct{}{}
}

// until waits for an event; the limit only catches what never comes.
func (o *observed) until(t *testing.T, event string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		o.mu.Lock()
		all := strings.Join(o.events, "\n")
		o.mu.Unlock()
		if strings.Contains(all, event) {
			return
		}
		select {
		case <-o.more:
		case <-limit:
			t.Fatalf("never told %q, but:\n%s", event, all)
		}
	}
}

func TestDHCPClientRunsAsAsked(t *testing.T) {
	recorded := tools(t, map[string]string{"udhcpc": "echo udhcpc: running; exec sleep 100"})
	o := &observed{more: make(chan struct{}, 100)}
	d := &DHCP{Hook: "/hook", LeaseDir: LeaseDir("/run/anchord"), Boot: "b", Observe: o.observe}
	client := anchord.DHCPClient{Iface: "lan0", MAC: "02:00:00:00:00:01", Hostname: "shop"}
	d.Run(anchord.V4, &client, netip.Addr{})
	o.until(t, "running")
	same := client
	d.Run(anchord.V4, &same, netip.MustParseAddr("192.0.2.7"))
	if got := recorded(); strings.Count(got, "udhcpc -f") != 1 || strings.Contains(got, "-r ") {
		t.Errorf("a running client was not left alone: %q", got)
	}
	o.mu.Lock()
	o.events = nil
	o.mu.Unlock()
	same.MAC = "02:00:00:00:00:02"
	d.Run(anchord.V4, &same, netip.MustParseAddr("192.0.2.7"))
	o.until(t, "running")
	if got := recorded(); !strings.Contains(got, "-r 192.0.2.7") {
		t.Errorf("with another MAC: %q", got)
	}
	if !d.Stop(t.Context()) || d.Stop(t.Context()) {
		t.Error("one client was to be stopped, once")
	}
	d.Run(anchord.V4, nil, netip.Addr{})
	if got := recorded(); got != "" {
		t.Errorf("without a client to run: %q", got)
	}
	if d.LeaseDir != filepath.Join("/run/anchord", "leases") {
		t.Error(d.LeaseDir)
	}
}

func TestDHCPClientTellsOfConflictsAndSilence(t *testing.T) {
	tools(t, map[string]string{"udhcpc": "echo 'udhcpc: offered address is in use (got ARP reply), declining'; exit 1"})
	o := &observed{more: make(chan struct{}, 100)}
	d := &DHCP{Hook: "/hook", BackoffMax: time.Second, Observe: o.observe}
	d.Run(anchord.V4, &anchord.DHCPClient{Iface: "lan0", Hostname: "shop"}, netip.Addr{})
	o.until(t, anchord.EventDHCPDeclined)
	o.until(t, anchord.EventDHCPFailed)
	_ = d.Stop(t.Context())
}

func TestDHCPv6ClientsCommandLineAndFile(t *testing.T) {
	c := anchord.DHCPClient{Iface: "lan0", MAC: "02:00:00:00:00:01", Hostname: "my-app"}
	const line = "dhcpcd -B -6 --noipv6rs --noconfigure -f /run/anchord/dhcpcd.conf lan0"
	if got := strings.Join(DHCPCDArgs(c, "/run/anchord/dhcpcd.conf"), " "); got != line {
		t.Errorf("%s\nwant %s", got, line)
	}
	text := DHCPCDConfig(c, "/hook", "/run/anchord/leases", "b", netip.Addr{})
	for _, want := range []string{"duid 00:04:", "hostname \"my-app\"\n", "noipv6rs\n", "noconfigure\n", "script /hook\n", "env ANCHORD_LEASE_DIR=/run/anchord/leases\n", "env ANCHORD_BOOT=b\n", "\nia_na 1\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if again := DHCPCDConfig(c, "/hook", "/run/anchord/leases", "b", netip.MustParseAddr("2001:db8::7")); !strings.Contains(again, "\nia_na 1/2001:db8::7\n") {
		t.Errorf("the last address is not asked for:\n%s", again)
	}
	if a, b := DUID("shop"), DUID("shop2"); a == b || a != DUID("shop") || len(strings.Split(a, ":")) != 18 {
		t.Errorf("identifiers %s, %s", a, b)
	}
}

// A client that gets no lease is ended, for the pause to be ours; one whose
// leases are nothing is not let loop.
func TestDHCPv6ClientThatAsksInALoopIsEnded(t *testing.T) {
	tools(t, map[string]string{"dhcpcd": "echo 'lan0: soliciting a DHCPv6 lease'; while :; do echo 'lan0: ADV 2001:db8::7/128 from fe80::1'; sleep 0.01; done"})
	o := &observed{more: make(chan struct{}, 1000)}
	run := t.TempDir()
	d := &DHCP{Hook: "/hook", LeaseDir: LeaseDir(run), Boot: "b", BackoffMax: time.Second, Observe: o.observe}
	d.Run(anchord.V6, &anchord.DHCPClient{Iface: "lan0", Hostname: "shop"}, netip.Addr{})
	o.until(t, anchord.EventDHCPFailed)
	_ = d.Stop(t.Context())
}

func TestDHCPClientThatLosesLeasesAgainAndAgainIsSlowedDown(t *testing.T) {
	c := dhcpClient{began: time.Now()}
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second} {
		c.pause = c.next(true, 5*time.Second)
		if c.pause != want {
			t.Errorf("pause %v, want %v", c.pause, want)
		}
	}
	if got := c.next(false, 5*time.Second); got != 0 {
		t.Errorf("another interface has to wait %v", got)
	}
	c.began = time.Now().Add(-time.Hour)
	if got := c.next(true, 5*time.Second); got != 0 {
		t.Errorf("after an hour with a lease: %v", got)
	}
}
