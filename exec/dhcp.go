package exec

import (
	"context"
	"encoding/hex"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// DHCP4 runs udhcpc for the ext interface. All fields but Observe are
// required.
type DHCP4 struct {
	Script     string // hook; writes into LeaseDir
	LeaseDir   string
	Boot       string // id of this boot, for the lease file
	BackoffMax time.Duration
	// Ended is called when a client was ended on purpose and has given its
	// lease back.
	Ended func()
	// Observe is told what the client does.
	Observe func(anchord.Level, string, string, anchord.Fields)

	mu      sync.Mutex
	running anchord.DHCPClient
	child   supervised
	// What the client said last; used by its one goroutine only.
	offered, lastLine string
	hookTold          map[string]bool
}

// Run makes exactly this client run; nil means none. A client that runs
// already is left alone.
func (d *DHCP4) Run(c *anchord.DHCPClient, last netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var want anchord.DHCPClient
	if c != nil {
		want = *c
	}
	if want == d.running {
		return
	}
	d.end()
	d.running = want
	if c == nil {
		return
	}
	d.Observe(anchord.Info, anchord.EventDHCPStarted, "asking the LAN's DHCP server for an address", anchord.Fields{"iface": c.Iface, "hostname": c.Hostname})
	d.child.start(&Child{
		Args:       UDHCPCArgs(*c, d.Script, last),
		Env:        []string{"ANCHORD_LEASE_DIR=" + d.LeaseDir, "ANCHORD_BOOT=" + d.Boot},
		Line:       d.line,
		Exited:     d.exited,
		BackoffMax: d.BackoffMax,
	})
}

// Stop ends the client, which releases its lease as long as the address is on
// the interface.
func (d *DHCP4) Stop(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
	return nil
}

func (d *DHCP4) end() {
	if d.running == (anchord.DHCPClient{}) {
		return
	}
	d.child.stop()
	d.running = anchord.DHCPClient{}
	if d.Ended != nil {
		d.Ended()
	}
}

// line picks from udhcpc's chatter what no hook is told.
func (d *DHCP4) line(line string) {
	d.lastLine = line
	if !strings.HasPrefix(line, "udhcpc: ") && !d.hookTold[line] {
		if d.hookTold == nil {
			d.hookTold = map[string]bool{}
		}
		d.hookTold[line] = true
		d.Observe(anchord.Error, anchord.EventDHCPHookFailed, "the DHCP hook could not write the lease down (is ANCHORD_RUN_DIR writable, and not full?): "+line, nil)
		return
	}
	if _, rest, found := strings.Cut(line, "select for "); found {
		d.offered, _, _ = strings.Cut(rest, ",")
	}
	if strings.Contains(line, "address is in use") {
		d.Observe(anchord.Error, anchord.EventDHCPDeclined, "the offered address is used by another host: declined, asking again; look for a host with a static address inside the DHCP pool", anchord.Fields{"address": d.offered})
		return
	}
	d.Observe(anchord.Debug, anchord.EventDHCPStarted, line, nil)
}

func (d *DHCP4) exited(err error, again time.Duration) {
	message := "the DHCP client failed; starting it again"
	if strings.Contains(d.lastLine, "no lease") {
		message = "no DHCP server answered; asking again"
	}
	d.Observe(anchord.Warn, anchord.EventDHCPFailed, message, anchord.Fields{
		"again_in_s": again.Round(100 * time.Millisecond).Seconds(), "error": err.Error(), "client": d.lastLine,
	})
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
