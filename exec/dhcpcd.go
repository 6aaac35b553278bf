package exec

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// noLease is what dhcpcd's lastLine becomes when it was ended because nobody
// answered; it does not say so itself.
const noLease = "no lease, giving up"

// patience is how long dhcpcd asks before the pause between tries is ours: it
// would make pauses of up to an hour (RFC 8415, SOL_MAX_RT).
const patience = 15 * time.Second

// dhcpcd completes the child that leases an IPv6 address and configures
// nothing itself.
func (d *DHCP) dhcpcd(child *Child, c anchord.DHCPClient, giveUp func()) {
	client := &d.clients[anchord.V6]
	config := filepath.Join(filepath.Dir(d.LeaseDir), "dhcpcd.conf")
	answers := 0
	child.Args = []string{"dhcpcd"}
	child.Next = func() []string {
		answers = 0
		if err := setDevconf(c.Iface, promoteSecondaries, 1); err != nil {
			d.Observe(anchord.Debug, anchord.EventDHCPStarted, err.Error(), d.fields(anchord.V6, anchord.Fields{}))
		}
		// Without its file it would do what it likes.
		if err := os.WriteFile(config, []byte(DHCPCDConfig(c, d.Hook, d.LeaseDir, d.Boot, client.lastAddress())), 0o600); err != nil {
			d.Observe(anchord.Error, anchord.EventDHCPHookFailed, "the DHCPv6 client is not started, since its configuration cannot be written (is ANCHORD_RUN_DIR writable, and not full?): "+err.Error(), d.fields(anchord.V6, anchord.Fields{}))
			return nil
		}
		return DHCPCDArgs(c, config)
	}
	var run atomic.Int64
	child.Started = func() {
		began, this := time.Now(), run.Add(1)
		time.AfterFunc(patience, func() {
			if run.Load() == this && !d.leasedSince(began) {
				giveUp()
			}
		})
	}
	child.Line = func(line string) {
		switch {
		// A server whose leases are nothing at once makes it ask in a loop.
		case strings.Contains(line, ": ADV "):
			if answers++; answers == maxAnswers {
				giveUp()
			}
		case strings.Contains(line, "renew in"):
			answers = 0
		}
		d.line6(line)
	}
}

// maxAnswers is more than an honest server makes a client begin anew.
const maxAnswers = 20

// leasedSince says whether the hook has written a lease down since.
func (d *DHCP) leasedSince(began time.Time) bool {
	info, err := os.Stat(filepath.Join(d.LeaseDir, "dhcpcd.lease"))
	return err == nil && info.ModTime().After(began)
}

// line6 picks from dhcpcd's chatter what no hook is told.
func (d *DHCP) line6(line string) {
	client := &d.clients[anchord.V6]
	switch {
	case strings.Contains(line, "soliciting a DHCPv6 lease"):
		client.lastLine = noLease // until it says something else
	case strings.HasPrefix(line, d.Hook+": ") || strings.Contains(line, "script_run"):
		d.hookSays(anchord.V6, line)
		return
	default:
		client.lastLine = line
	}
	d.Observe(anchord.Debug, anchord.EventDHCPStarted, line, d.fields(anchord.V6, anchord.Fields{}))
}

// DHCPCDArgs builds dhcpcd's command line. What keeps it from configuring
// anything is said here too: without its file it would do what it likes.
func DHCPCDArgs(c anchord.DHCPClient, config string) []string {
	return []string{"dhcpcd", "-B", "-6", "--noipv6rs", "--noconfigure", "-f", config, c.Iface}
}

// DHCPCDConfig is dhcpcd.conf(5): one address (IA_NA 1) at once, with no router
// asked; the name (RFC 4704), in quotes lest it be read as hexadecimal; the lease
// given back at the end. last, if valid, is asked for again.
func DHCPCDConfig(c anchord.DHCPClient, script, leaseDir, boot string, last netip.Addr) string {
	address := "ia_na 1"
	if last.IsValid() {
		address += "/" + last.String()
	}
	return strings.Join([]string{
		"# Made by anchord for each start of dhcpcd.",
		"duid " + DUID(c.Hostname),
		`hostname "` + c.Hostname + `"`,
		"fqdn both",
		"ipv6only", "noipv6rs", "noconfigure", "nolink", "nodelay",
		"reboot 0",
		"release",
		"script " + script,
		"env ANCHORD_LEASE_DIR=" + leaseDir,
		"env ANCHORD_BOOT=" + boot,
		"option dhcp6_name_servers",
		address,
	}, "\n") + "\n"
}

// DUID is a project's DHCPv6 identifier, a DUID-UUID (RFC 6355) made of its
// name, so that a reservation survives a recreation and another MAC.
func DUID(hostname string) string {
	sum := sha256.Sum256([]byte(hostname))
	text := "00:04"
	for _, b := range sum[:16] {
		text += fmt.Sprintf(":%02x", b)
	}
	return text
}
