package exec

import (
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
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

func (o *observed) observe(_ anchord.Level, event, message string, _ anchord.Fields) {
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
	d := &DHCP{Hooks: "/hooks", LeaseDir: LeaseDir("/run/anchord"), Boot: "b", Observe: o.observe}
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
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
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
	d := &DHCP{Hooks: "/hooks", BackoffMax: time.Second, Observe: o.observe}
	d.Run(anchord.V4, &anchord.DHCPClient{Iface: "lan0", Hostname: "shop"}, netip.Addr{})
	o.until(t, anchord.EventDHCPDeclined)
	o.until(t, anchord.EventDHCPFailed)
	_ = d.Stop(t.Context())
}
