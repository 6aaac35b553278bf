package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dnsmasq is the server of most home routers: DHCP of both families, router
// advertisements and DNS in one program.
type dnsmasq struct{}

// shortestLease is dnsmasq's own limit.
const shortestLease = 2 * time.Minute

func (dnsmasq) log() string { return "dnsmasq.log" }

func (dnsmasq) tables() []string { return []string{"leases"} }

func (dnsmasq) configure(ctx context.Context, lan *LAN) ([]daemon, error) {
	if err := lan.shortenLeases(ctx); err != nil {
		return nil, err
	}
	conf, pid := lan.file("dnsmasq.conf"), lan.file("dnsmasq.pid")
	return []daemon{{
		argv:  []string{"dnsmasq", "--keep-in-foreground", "--conf-file=" + conf},
		pid:   pid, // written once all sockets are there
		ready: there(pid),
		end:   unix.SIGTERM,
	}}, os.WriteFile(conf, []byte(lan.dnsmasqConf(pid)), 0o644)
}

func (lan *LAN) dnsmasqConf(pid string) string {
	c := lan.dhcp.config
	lines := []string{
		"user=root", "no-hosts", "no-resolv", "log-dhcp", "log-facility=-",
		"bind-interfaces", "interface=eth0", "except-interface=lo",
		"pid-file=" + pid,
		"dhcp-leasefile=" + lan.file("leases"),
		"no-ping", // else every offer waits for a ping's answer
		"dhcp-lease-max=1000",
	}
	lease := int(max(c.LeaseTime, shortestLease).Seconds())
	if c.Pool.valid() {
		lines = append(lines,
			fmt.Sprintf("dhcp-range=%s,%s,%d", c.Pool.First, c.Pool.Last, lease),
			"dhcp-option=option:router"+optionList("%s", c.Router),
			"dhcp-option=option:dns-server"+optionList("%s", family(c.DNS, netip.Addr.Is4)...))
	}
	lines = append(lines, c.dnsmasq6(lease)...)
	if c.Authoritative {
		lines = append(lines, "dhcp-authoritative")
	}
	for _, r := range c.Reservations {
		lines = append(lines, "dhcp-host="+r.dnsmasq())
	}
	return strings.Join(append(lines, c.Extra...), "\n") + "\n"
}

// dnsmasq6 are the lines for IPv6. To dnsmasq a prefix that it advertises is a
// range of leases, too: ra-only makes it one of SLAAC, a range of addresses makes
// the advertisement say that addresses are managed, and "static" is such a range
// without addresses. "slaac" is both.
func (c DHCPConfig) dnsmasq6(lease int) []string {
	var lines []string
	pooled := false
	for _, p := range c.Prefixes6 {
		var parts []string
		switch inside := c.Pool6.valid() && p.Prefix.Contains(c.Pool6.First); {
		case inside:
			pooled = true
			parts = []string{c.Pool6.First.String(), c.Pool6.Last.String()}
			if p.SLAAC {
				parts = append(parts, "slaac")
			}
		case p.SLAAC:
			parts = []string{p.Prefix.Addr().String(), "ra-only"}
		default:
			parts = []string{p.Prefix.Addr().String(), "static"}
		}
		life := strconv.Itoa(lease)
		if p.Deprecated {
			life = "deprecated"
		}
		lines = append(lines, "dhcp-range="+strings.Join(append(parts, strconv.Itoa(p.Prefix.Bits()), life), ","))
	}
	if len(lines) > 0 {
		lines = append(lines, "enable-ra", fmt.Sprintf("ra-param=eth0,%d,%d", int(raInterval.Seconds()), int(raLifetime.Seconds())))
	}
	if c.Pool6.valid() && !pooled {
		lines = append(lines, fmt.Sprintf("dhcp-range=%s,%s,%d", c.Pool6.First, c.Pool6.Last, lease))
	}
	if len(lines) > 0 {
		lines = append(lines, "dhcp-option=option6:dns-server"+optionList("[%s]", family(c.DNS, netip.Addr.Is6)...))
	}
	return lines
}

// optionList is empty without addresses: dnsmasq then leaves the option out
// instead of naming itself.
func optionList(format string, addrs ...netip.Addr) string {
	var list string
	for _, addr := range addrs {
		if addr.IsValid() {
			list += "," + fmt.Sprintf(format, addr)
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
	addr := r.Addr.String()
	if r.Addr.Is6() {
		addr = "[" + addr + "]"
	}
	return strings.Join(append(parts, addr), ",")
}

// shortenLeases lets clients see shorter leases than the two minutes that
// dnsmasq allows: a test cannot wait that long for a renewal. The option is
// rewritten on its way out, where dnsmasq always puts it, after the message type
// and its own address. To the server the lease is the longer one, so nothing is
// ever given to a second client too early. DHCPv6 has no such place.
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
		return fmt.Errorf("setting the lease time: %w", err)
	}
	return nil
}

func (dnsmasq) leases(lan *LAN) ([]Lease, error) {
	text, err := readTable(lan.file("leases"))
	if err != nil {
		return nil, err
	}
	return parseLeases(text)
}

func (dnsmasq) leases6(lan *LAN) ([]Lease6, error) {
	text, err := readTable(lan.file("leases"))
	if err != nil {
		return nil, err
	}
	return parseLeases6(text)
}

// readTable reads a lease table, which is not there before the first lease.
func readTable(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(text), err
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

// parseLeases6 reads what follows the line with the server's DUID: expiry, IAID,
// address, name, DUID.
func parseLeases6(text string) ([]Lease6, error) {
	var leases []Lease6
	found := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > 0 && fields[0] == "duid" {
			found = true
			continue
		}
		if !found {
			continue
		}
		if len(fields) != 5 {
			return nil, fmt.Errorf("lease line %q is not dnsmasq's", line)
		}
		expiry, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("lease line %q: %w", line, err)
		}
		iaid, err := strconv.ParseUint(strings.TrimPrefix(fields[1], "T"), 10, 32) // T: a temporary address
		if err != nil {
			return nil, fmt.Errorf("lease line %q: %w", line, err)
		}
		addr, err := netip.ParseAddr(fields[2])
		if err != nil {
			return nil, fmt.Errorf("lease line %q: %w", line, err)
		}
		leases = append(leases, Lease6{
			Expiry: time.Unix(expiry, 0), IAID: uint32(iaid), Addr: addr,
			Hostname: strings.TrimPrefix(fields[3], "*"), DUID: strings.TrimPrefix(fields[4], "*"),
		})
	}
	return leases, nil
}
