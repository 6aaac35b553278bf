package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// DHCPConfig is what a LAN's router hands out and announces.
type DHCPConfig struct {
	Pool          AddrRange // none: no DHCPv4
	Pool6         AddrRange // none: no DHCPv6; else the advertisements say that there is
	Prefixes6     []Prefix6 // in router advertisements; none: the router sends none
	LeaseTime     time.Duration
	Router        netip.Addr   // invalid: no router option; IPv6 has none
	DNS           []netip.Addr // those of a family are told by its means; none: no DNS option
	Authoritative bool         // answers NAK to who asks for an address of another network
	Reservations  []Reservation
	Extra         []string // more lines for dnsmasq.conf
	ForgetLeases  bool     // empty the lease table once, when this is applied
}

// Prefix6 is a prefix in router advertisements. The router has the first address
// of it.
type Prefix6 struct {
	Prefix     netip.Prefix
	SLAAC      bool // hosts make themselves addresses of it
	Deprecated bool // and use them for nothing new: their preferred lifetime is 0
}

// Reservation gives a client one address. It is known by any of the three.
type Reservation struct {
	MAC      string
	ClientID string // hexadecimal with colons; for IPv6 the DUID
	Hostname string // not to Kea
	Addr     netip.Addr
}

// Lease is one line of the DHCP server's lease table.
type Lease struct {
	Expiry   time.Time
	MAC      net.HardwareAddr
	Addr     netip.Addr
	Hostname string // empty when the client gave none
	ClientID string // hexadecimal with colons, empty when there is none
}

// Lease6 is the same for DHCPv6.
type Lease6 struct {
	Expiry   time.Time
	Addr     netip.Addr
	Hostname string // empty when the client gave none
	DUID     string // hexadecimal with colons
	IAID     uint32
}

// dhcpServer is one program or several that do the work of one.
type dhcpServer struct {
	config  DHCPConfig
	kind    serverKind
	daemons []daemon // those that run
}

// serverKind is an implementation.
type serverKind interface {
	// log is the name of the file in which the programs say what they do.
	log() string
	// configure writes the configuration and gives the programs to start.
	configure(ctx context.Context, lan *LAN) ([]daemon, error)
	leases(lan *LAN) ([]Lease, error)
	leases6(lan *LAN) ([]Lease6, error)
	// tables are the names of the files with leases.
	tables() []string
}

// daemon is one program of a server.
type daemon struct {
	argv    []string
	env     []string // more than this process has
	pid     string   // the file into which it writes its number; it is removed before the start
	ready   func() (bool, error)
	end     unix.Signal // that ends it without a word
	process *process
}

func (lan *LAN) prepareDHCP() {
	c := DHCPConfig{LeaseTime: lan.options.LeaseTime, Router: lan.Router.Addr, Authoritative: true}
	if c.LeaseTime == 0 {
		c.LeaseTime = shortestLease
	}
	if !lan.options.NoIPv4 {
		c.Pool = lan.Pool
	}
	switch lan.options.IPv6 {
	case SLAAC:
		c.Prefixes6 = []Prefix6{{Prefix: lan.Prefix6, SLAAC: true}}
	case DHCPv6:
		c.Prefixes6 = []Prefix6{{Prefix: lan.Prefix6}}
		c.Pool6 = lan.Pool6
	}
	for _, addr := range []netip.Addr{lan.Router.Addr, lan.Router.Addr6} {
		if addr.IsValid() {
			c.DNS = append(c.DNS, addr)
		}
	}
	lan.dhcp.config, lan.dhcp.kind = c, dnsmasq{}
	if lan.options.Kea {
		lan.dhcp.kind = kea{}
	}
}

// StartDHCP starts the server and waits until it can answer.
func (lan *LAN) StartDHCP(ctx context.Context) error {
	lan.mu.Lock()
	defer lan.mu.Unlock()
	return lan.startDHCP(ctx)
}

// StopDHCP ends the server without a word to its clients. The lease table
// stays.
func (lan *LAN) StopDHCP() error {
	lan.mu.Lock()
	defer lan.mu.Unlock()
	return lan.stopDHCP()
}

// ConfigureDHCP changes what the server hands out and restarts it, also when it
// was stopped.
func (lan *LAN) ConfigureDHCP(ctx context.Context, change func(*DHCPConfig)) error {
	lan.mu.Lock()
	defer lan.mu.Unlock()
	if err := lan.stopDHCP(); err != nil {
		return err
	}
	change(&lan.dhcp.config)
	if lan.dhcp.config.ForgetLeases {
		lan.dhcp.config.ForgetLeases = false
		for _, table := range lan.dhcp.kind.tables() {
			if err := removeFile(lan.file(table)); err != nil {
				return err
			}
		}
	}
	return lan.startDHCP(ctx)
}

// DHCPLog is the path of what the server has logged, packet by packet.
func (lan *LAN) DHCPLog() string { return lan.file(lan.dhcp.kind.log()) }

// Leases reads the server's lease table.
func (lan *LAN) Leases() ([]Lease, error) {
	leases, err := lan.dhcp.kind.leases(lan)
	if err != nil {
		return nil, fmt.Errorf("reading the leases of %s: %w", lan.Name, err)
	}
	return leases, nil
}

// Leases6 reads what the server has leased of IPv6.
func (lan *LAN) Leases6() ([]Lease6, error) {
	leases, err := lan.dhcp.kind.leases6(lan)
	if err != nil {
		return nil, fmt.Errorf("reading the IPv6 leases of %s: %w", lan.Name, err)
	}
	return leases, nil
}

// startDHCP starts all programs, then waits for all of them.
func (lan *LAN) startDHCP(ctx context.Context) error {
	if err := lan.stopDHCP(); err != nil {
		return err
	}
	for _, p := range lan.dhcp.config.Prefixes6 {
		if p.Prefix == lan.Prefix6 {
			continue
		}
		if err := lan.addPrefix(ctx, p.Prefix); err != nil {
			return err
		}
	}
	daemons, err := lan.dhcp.kind.configure(ctx, lan)
	if err != nil {
		return fmt.Errorf("configuring the DHCP server of %s: %w", lan.Name, err)
	}
	for _, d := range daemons {
		if d.process, err = lan.startDaemon(d); err != nil {
			return fmt.Errorf("starting %s: %w", d.argv[0], err)
		}
		lan.dhcp.daemons = append(lan.dhcp.daemons, d)
	}
	for _, d := range lan.dhcp.daemons {
		if err := lan.waitDaemon(ctx, d); err != nil {
			return fmt.Errorf("waiting for %s: %w; its last words:\n%s", d.argv[0], err, tail(lan.DHCPLog(), 10))
		}
	}
	return nil
}

func (lan *LAN) startDaemon(d daemon) (*process, error) {
	if err := removeFile(d.pid); err != nil {
		return nil, err
	}
	cmd := exec.Command(d.argv[0], d.argv[1:]...)
	cmd.Env = append(os.Environ(), d.env...)
	return startProcess(cmd, lan.Router, lan.DHCPLog())
}

func (lan *LAN) waitDaemon(ctx context.Context, d daemon) error {
	return waitFor(ctx, 10*time.Second, func() (bool, error) {
		if d.process.ended() {
			return false, fmt.Errorf("it ended: %v", d.process.cmd.ProcessState)
		}
		return d.ready()
	})
}

func (lan *LAN) stopDHCP() error {
	for _, d := range lan.dhcp.daemons {
		d.process.cmd.Process.Signal(d.end)
	}
	for _, d := range lan.dhcp.daemons {
		select {
		case <-d.process.done:
		case <-time.After(5 * time.Second):
			d.process.cmd.Process.Kill()
			<-d.process.done
		}
	}
	lan.dhcp.daemons = nil
	return nil
}

// family are the addresses of one family.
func family(addrs []netip.Addr, is func(netip.Addr) bool) []netip.Addr {
	var some []netip.Addr
	for _, addr := range addrs {
		if is(addr) {
			some = append(some, addr)
		}
	}
	return some
}

// there is the readiness of a program that writes a file when its sockets are
// open.
func there(path string) func() (bool, error) {
	return func() (bool, error) {
		_, err := os.Stat(path)
		return err == nil, nil
	}
}

// removeFile removes a file that may not be there.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
