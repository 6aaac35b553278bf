package exec

import (
	"context"
	"encoding/hex"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord"
)

// DHCP runs the DHCP clients of the ext interface, one for each family. All
// fields but Ended and Lost are required.
type DHCP struct {
	Hook       string // script that writes into LeaseDir
	LeaseDir   string
	Boot       string // id of this boot, for the lease files
	BackoffMax time.Duration
	// Ended is called when a client was ended on purpose and has given its
	// lease back; Lost when it gave a lease up without telling the hook.
	Ended, Lost func(f anchord.Family)
	// Observe is told what the clients do.
	Observe func(anchord.Level, string, string, anchord.Fields)

	clients anchord.PerFamily[dhcpClient]
}

// dhcpClient is one family's client.
type dhcpClient struct {
	mu      sync.Mutex
	running anchord.DHCPClient
	last    atomic.Pointer[netip.Addr] // to ask for again
	child   supervised
	began   time.Time
	pause   time.Duration // before the present one was started
	signals chan syscall.Signal
	renewal []*time.Timer
	// What the client said last; used by its one goroutine only.
	offered, lastLine string
	hookTold          map[string]bool
}

// Run makes exactly this client of the family run; nil means none. A client
// that runs already is left alone.
func (d *DHCP) Run(f anchord.Family, c *anchord.DHCPClient, last netip.Addr) {
	client := &d.clients[f]
	client.mu.Lock()
	defer client.mu.Unlock()
	client.last.Store(&last)
	var want anchord.DHCPClient
	if c != nil {
		want = *c
	}
	if want == client.running {
		return
	}
	lost := client.running.Lost < want.Lost
	d.end(f)
	if c == nil {
		return
	}
	client.pause = client.next(lost, d.BackoffMax)
	client.running, client.began = want, time.Now()
	d.Observe(anchord.Info, anchord.EventDHCPStarted, "asking the LAN's DHCP server for an address", d.fields(f, anchord.Fields{"iface": c.Iface, "hostname": c.Hostname}))
	stuck := make(chan struct{}, 1)
	client.signals = make(chan syscall.Signal, 1)
	child := d.supervise(f, *c, func() {
		select {
		case stuck <- struct{}{}:
		default:
		}
	})
	child.Delay, child.Stuck, child.Signals = client.pause, stuck, client.signals
	client.child.start(child)
}

// Renew has the family's client ask for its lease again after these times, in
// place of all that were named before.
func (d *DHCP) Renew(f anchord.Family, after ...time.Duration) {
	client := &d.clients[f]
	client.mu.Lock()
	defer client.mu.Unlock()
	client.forgetRenewals()
	signals := client.signals
	for _, in := range after {
		client.renewal = append(client.renewal, time.AfterFunc(in, func() {
			select {
			case signals <- syscall.SIGUSR1:
			default: // no client to hand it to
			}
		}))
	}
}

func (c *dhcpClient) forgetRenewals() {
	for _, t := range c.renewal {
		t.Stop()
	}
	c.renewal = nil
}

// lastAddress is the one to ask for again.
func (c *dhcpClient) lastAddress() netip.Addr {
	if last := c.last.Load(); last != nil {
		return *last
	}
	return netip.Addr{}
}

// next is the pause before a client that has lost its lease begins anew: none,
// unless that happens again and again.
func (c *dhcpClient) next(lost bool, limit time.Duration) time.Duration {
	if !lost || time.Since(c.began) >= goodRun+c.pause {
		return 0
	}
	return min(max(2*c.pause, time.Second), limit)
}

func (d *DHCP) fields(f anchord.Family, fields anchord.Fields) anchord.Fields {
	fields["family"] = f.String()
	return fields
}

// DHCP clients parse what anybody on the LAN may have sent. Raw packets and a
// port below 1024 is all that they need.
var dhcpCapabilities = []int{unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}

// supervise describes the family's program. giveUp ends its present run, as one
// that leads nowhere.
func (d *DHCP) supervise(f anchord.Family, c anchord.DHCPClient, giveUp func()) *Child {
	child := &Child{
		Exited:       func(err error, again time.Duration) { d.exited(f, err, again) },
		BackoffMax:   d.BackoffMax,
		Capabilities: dhcpCapabilities,
		Grace:        time.Second,
	}
	if f == anchord.V6 {
		d.dhcpcd(child, c, giveUp)
		return child
	}
	client := &d.clients[f]
	child.Args = []string{"udhcpc"}
	child.Next = func() []string { return UDHCPCArgs(c, d.Hook, client.lastAddress()) }
	child.Env = []string{"ANCHORD_LEASE_DIR=" + d.LeaseDir, "ANCHORD_BOOT=" + d.Boot}
	child.Line = func(line string) {
		if strings.Contains(line, "entering init state") {
			giveUp() // its own pauses would be fixed from now on
		}
		d.line4(line)
	}
	return child
}

// Stop ends the clients at the same time, and says whether there were any; each
// releases its lease as long as the address is on the interface.
func (d *DHCP) Stop(context.Context) bool {
	var wg sync.WaitGroup
	var ended atomic.Bool
	for _, f := range anchord.Families {
		wg.Go(func() {
			d.clients[f].mu.Lock()
			defer d.clients[f].mu.Unlock()
			if d.clients[f].running != (anchord.DHCPClient{}) {
				ended.Store(true)
				d.end(f)
			}
		})
	}
	wg.Wait()
	return ended.Load()
}

func (d *DHCP) end(f anchord.Family) {
	client := &d.clients[f]
	if client.running == (anchord.DHCPClient{}) {
		return
	}
	client.forgetRenewals()
	client.child.stop()
	client.running = anchord.DHCPClient{}
	if d.Ended != nil {
		d.Ended(f)
	}
}

// line4 picks from udhcpc's chatter what no hook is told.
func (d *DHCP) line4(line string) {
	client := &d.clients[anchord.V4]
	client.lastLine = line
	if !strings.HasPrefix(line, "udhcpc: ") {
		d.hookSays(anchord.V4, line)
		return
	}
	if _, rest, found := strings.Cut(line, "select for "); found {
		client.offered, _, _ = strings.Cut(rest, ",")
	}
	if strings.Contains(line, "address is in use") {
		if d.Lost != nil {
			d.Lost(anchord.V4)
		}
		d.Observe(anchord.Error, anchord.EventDHCPDeclined, "the offered address is used by another host: declined, asking again; look for a host with a static address inside the DHCP pool", d.fields(anchord.V4, anchord.Fields{"address": client.offered}))
		return
	}
	d.Observe(anchord.Debug, anchord.EventDHCPStarted, line, d.fields(anchord.V4, anchord.Fields{}))
}

// hookSays is told what a hook wrote: it only does if it fails.
func (d *DHCP) hookSays(f anchord.Family, line string) {
	client := &d.clients[f]
	if client.hookTold[line] {
		return
	}
	if client.hookTold == nil {
		client.hookTold = map[string]bool{}
	}
	client.hookTold[line] = true
	d.Observe(anchord.Error, anchord.EventDHCPHookFailed, "the DHCP hook could not write the lease down (is ANCHORD_RUN_DIR writable, and not full?): "+line, d.fields(f, anchord.Fields{}))
}

func (d *DHCP) exited(f anchord.Family, err error, again time.Duration) {
	last := d.clients[f].lastLine
	message := "the DHCP client failed; starting it again"
	if strings.Contains(last, "no lease") {
		message = "no DHCP server answered; asking again (is there one on the LAN, and is the network's parent the host's interface there? anchord doctor looks)"
	}
	d.Observe(anchord.Warn, anchord.EventDHCPFailed, message, d.fields(f, anchord.Fields{
		"again_in_s": again.Round(100 * time.Millisecond).Seconds(), "error": err.Error(), "client": last,
	}))
}

// Timings of one try, in udhcpc's units: DISCOVERs a try, seconds between
// them, and milliseconds of listening for somebody else who has the address
// (RFC 5227 recommends probing; its seconds would delay every start).
const (
	discovers     = "4"
	discoverPause = "2"
	probe         = "300"
)

// UDHCPCArgs builds udhcpc's command line: in the foreground, ending when
// nobody answers (the pause between tries is ours), releasing on TERM, with
// the host name (RFC 2132, option 12) and a client identifier made from it
// (option 61, type 0), so that a reservation survives a changed MAC. last, if
// valid, is asked for again (option 50).
func UDHCPCArgs(c anchord.DHCPClient, script string, last netip.Addr) []string {
	args := []string{
		"udhcpc", "-f", "-n", "-R", "-a" + probe,
		"-t", discovers, "-T", discoverPause,
		"-i", c.Iface, "-s", script,
		"-O", "staticroutes", // option 121
		"-x", "hostname:" + c.Hostname,
		"-x", "0x3d:00" + hex.EncodeToString([]byte(c.Hostname)),
	}
	if last.IsValid() {
		args = append(args, "-r", last.String())
	}
	return args
}

// LeaseDir is where the hook writes, inside the run directory.
func LeaseDir(runDir string) string { return filepath.Join(runDir, "leases") }
