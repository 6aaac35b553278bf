package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DHCPConfig is what a LAN's DHCP server hands out.
type DHCPConfig struct {
	Pool          AddrRange
	LeaseTime     time.Duration
	Router        netip.Addr   // invalid: no router option
	DNS           []netip.Addr // empty: no DNS option
	Authoritative bool         // answers NAK to who asks for an address of another network
	Reservations  []Reservation
	Extra         []string // more lines for dnsmasq.conf
	ForgetLeases  bool     // empty the lease table once, when this is applied
}

// Reservation gives a client one address. It is known by any of the three.
type Reservation struct {
	MAC      string
	ClientID string // hexadecimal with colons
	Hostname string
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

type dhcpServer struct {
	config  DHCPConfig
	process *process
}

// shortestLease is dnsmasq's own limit.
const shortestLease = 2 * time.Minute

func (lan *LAN) prepareDHCP(ctx context.Context, options LANOptions) error {
	lan.dhcp.config = DHCPConfig{
		Pool:          lan.Pool,
		LeaseTime:     options.LeaseTime,
		Router:        lan.Router.Addr,
		DNS:           []netip.Addr{lan.Router.Addr},
		Authoritative: true,
	}
	if options.LeaseTime == 0 {
		lan.dhcp.config.LeaseTime = shortestLease
	}
	return nil
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
		if err := os.Remove(lan.file("leases")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return lan.startDHCP(ctx)
}

// DHCPLog is the path of what the server has logged, packet by packet.
func (lan *LAN) DHCPLog() string { return lan.file("dnsmasq.log") }

// Leases reads the server's lease table.
func (lan *LAN) Leases() ([]Lease, error) {
	text, err := os.ReadFile(lan.file("leases"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the leases of %s: %w", lan.Name, err)
	}
	return parseLeases(string(text))
}

// parseLeases reads dnsmasq's format: expiry, MAC, address, name, client
// identifier, with * for what is not known.
func parseLeases(text string) ([]Lease, error) {
	var leases []Lease
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > 0 && fields[0] == "duid" {
			break // DHCPv6 from here on
		}
		if len(fields) != 5 {
			return nil, fmt.Errorf("lease line %q is not dnsmasq's", line)
		}
		expiry, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("lease line %q: %w", line, err)
		}
		mac, err := net.ParseMAC(fields[1])
		if err != nil {
			return nil, fmt.Errorf("lease line %q: %w", line, err)
		}
		addr, err := netip.ParseAddr(fields[2])
		if err != nil {
			return nil, fmt.Errorf("lease line %q: %w", line, err)
		}
		leases = append(leases, Lease{
			Expiry: time.Unix(expiry, 0), MAC: mac, Addr: addr,
			Hostname: strings.TrimPrefix(fields[3], "*"), ClientID: strings.TrimPrefix(fields[4], "*"),
		})
	}
	return leases, nil
}

func (lan *LAN) startDHCP(ctx context.Context) error {
	if err := lan.stopDHCP(); err != nil {
		return err
	}
	if err := lan.shortenLeases(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(lan.file("dnsmasq.conf"), []byte(lan.dnsmasqConf()), 0o644); err != nil {
		return fmt.Errorf("configuring dnsmasq: %w", err)
	}
	p, err := startProcess(exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file="+lan.file("dnsmasq.conf")),
		lan.Router, lan.DHCPLog())
	if err != nil {
		return fmt.Errorf("starting dnsmasq: %w", err)
	}
	lan.dhcp.process = p
	err = waitFor(ctx, 10*time.Second, func() (bool, error) {
		if p.ended() {
			return false, fmt.Errorf("it ended: %v", p.cmd.ProcessState)
		}
		// The pid file is written once all sockets are there.
		_, err := os.Stat(lan.file("dnsmasq.pid"))
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for dnsmasq: %w; its last words:\n%s", err, tail(lan.DHCPLog(), 5))
	}
	return nil
}

func (lan *LAN) stopDHCP() error {
	if p := lan.dhcp.process; p != nil {
		p.cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			p.cmd.Process.Kill()
			<-p.done
		}
		lan.dhcp.process = nil
	}
	if err := os.Remove(lan.file("dnsmasq.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (lan *LAN) dnsmasqConf() string {
	c := lan.dhcp.config
	lines := []string{
		"user=root", "no-hosts", "no-resolv", "log-dhcp", "log-facility=-",
		"bind-interfaces", "interface=eth0", "except-interface=lo",
		"pid-file=" + lan.file("dnsmasq.pid"),
		"dhcp-leasefile=" + lan.file("leases"),
		"no-ping", // else every offer waits for a ping's answer
		"dhcp-lease-max=1000",
		fmt.Sprintf("dhcp-range=%s,%s,%d", c.Pool.First, c.Pool.Last, int(max(c.LeaseTime, shortestLease).Seconds())),
		"dhcp-option=option:router" + optionList(c.Router),
		"dhcp-option=option:dns-server" + optionList(c.DNS...),
	}
	if c.Authoritative {
		lines = append(lines, "dhcp-authoritative")
	}
	for _, r := range c.Reservations {
		lines = append(lines, "dhcp-host="+r.dnsmasq())
	}
	return strings.Join(append(lines, c.Extra...), "\n") + "\n"
}

// optionList is empty without addresses: dnsmasq then leaves the option out
// instead of naming itself.
func optionList(addrs ...netip.Addr) string {
	var list string
	for _, addr := range addrs {
		if addr.IsValid() {
			list += "," + addr.String()
		}
	}
	return list
}

func (r Reservation) dnsmasq() string {
	var parts []string
	if r.MAC != "" {
		parts = append(parts, r.MAC)
	}
	if r.ClientID != "" {
		parts = append(parts, "id:"+r.ClientID)
	}
	if r.Hostname != "" {
		parts = append(parts, r.Hostname)
	}
	return strings.Join(append(parts, r.Addr.String()), ",")
}

// shortenLeases lets clients see shorter leases than the two minutes that
// dnsmasq allows: a test cannot wait that long for a renewal. The option is
// rewritten on its way out, where dnsmasq always puts it, after the message type
// and its own address. To the server the lease is the longer one, so nothing is
// ever given to a second client too early.
func (lan *LAN) shortenLeases(ctx context.Context) error {
	rules := "add table ip lab_dhcp\ndelete table ip lab_dhcp\n"
	if lease := lan.dhcp.config.LeaseTime; lease < shortestLease {
		rules += fmt.Sprintf(`table ip lab_dhcp {
	chain output {
		type filter hook output priority 0
		udp sport 67 @th,2056,16 0x3304 @th,2072,32 set %d
	}
}
`, max(1, int(lease.Seconds())))
	}
	cmd := lan.Router.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if err := run(cmd); err != nil {
		return fmt.Errorf("setting the lease time of %s: %w", lan.Name, err)
	}
	return nil
}
