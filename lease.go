package anchord

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Lease is a DHCPv4 lease as the client reported it (RFC 2131), with the
// fields that anchord uses and has checked.
type Lease struct {
	Address netip.Prefix // the address with the prefix length of its network
	Routers []netip.Addr // option 3, in the server's order
	DNS     []netip.Addr // option 6
	Server  netip.Addr   // option 54
	// Duration is the lease time (option 51); zero means that it never ends.
	Duration time.Duration
	// Obtained is the time since boot at which the client reported it. The
	// boot clock, because a jump of the wall clock must not end a lease.
	Obtained time.Duration
	Boot     string // id of the boot that Obtained counts from
	Ignored  []string
	// Released says that we gave it back: it may be asked for again, no more.
	Released bool
}

// Infinite says that the lease has no end.
func (l Lease) Infinite() bool { return l.Duration == 0 }

// Remaining is the time left at now (since boot); never negative, and
// meaningless for an infinite lease.
func (l Lease) Remaining(now time.Duration) time.Duration {
	return max(0, l.Obtained+l.Duration-now)
}

// ValidAt says whether the lease holds at now, in the boot called boot.
func (l Lease) ValidAt(now time.Duration, boot string) bool {
	if !l.Address.IsValid() || l.Boot != boot || l.Released {
		return false
	}
	return l.Infinite() || l.Remaining(now) > 0
}

// infiniteLease is the lease time that means "forever" (RFC 2131, 3.3).
const infiniteLease = math.MaxUint32

// LeaseFile is what the DHCP hook writes on every event: the event's name,
// the boot clock, and the client's environment, each as key=value ended by a
// NUL. NUL is the one byte that cannot occur in an environment, so that no
// DHCP option can forge a field.
type LeaseFile struct {
	Event string
	At    time.Duration
	Boot  string // id of the boot that At counts from
	vars  map[string]string
}

// ParseLeaseFile splits a lease file into its fields. A key that occurs twice
// keeps its first value: the hook writes its own before the client's.
func ParseLeaseFile(data []byte) (LeaseFile, error) {
	if len(data) == 0 || data[len(data)-1] != 0 {
		return LeaseFile{}, errors.New("lease file is cut short")
	}
	f := LeaseFile{vars: map[string]string{}}
	for _, field := range bytes.Split(data[:len(data)-1], []byte{0}) {
		key, value, found := strings.Cut(string(field), "=")
		if _, seen := f.vars[key]; found && !seen {
			f.vars[key] = value
		}
	}
	f.Event = f.vars["event"]
	if f.Event == "" {
		return LeaseFile{}, errors.New("lease file names no event")
	}
	at, err := parseUptime(f.vars["uptime"])
	if err != nil {
		return LeaseFile{}, err
	}
	f.At, f.Boot = at, f.vars["ANCHORD_BOOT"]
	return f, nil
}

// parseUptime reads the first number of /proc/uptime (proc_uptime(5)).
func parseUptime(s string) (time.Duration, error) {
	first, _, _ := strings.Cut(s, " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil || seconds < 0 || seconds > 1e9 || math.IsNaN(seconds) {
		return 0, fmt.Errorf("lease file has no usable uptime: %q", s)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// Lease checks the fields that make a lease. Without a usable address, mask
// or lease time there is none, and the error says why; any other bad field is
// left out and named in Ignored.
func (f LeaseFile) Lease() (Lease, error) {
	l := Lease{Obtained: f.At, Boot: f.Boot}
	addr, err := hostAddr(f.vars["ip"])
	if err != nil {
		return Lease{}, fmt.Errorf("lease refused: offered address: %w", err)
	}
	length, err := maskLength(f.vars["mask"], f.vars["subnet"])
	if err != nil {
		return Lease{}, fmt.Errorf("lease refused: %w", err)
	}
	l.Address = netip.PrefixFrom(addr, length)
	seconds, err := strconv.ParseUint(f.vars["lease"], 10, 32)
	if err != nil || seconds == 0 {
		return Lease{}, fmt.Errorf("lease refused: lease time %q is not a number of seconds", f.vars["lease"])
	}
	if seconds != infiniteLease {
		l.Duration = time.Duration(seconds) * time.Second
	}
	l.Routers = l.addrs("router", f.vars["router"])
	l.DNS = l.addrs("dns", f.vars["dns"])
	if server := l.addrs("serverid", f.vars["serverid"]); len(server) > 0 {
		l.Server = server[0]
	}
	return l, nil
}

// addrs reads a space-separated list and notes what in it is no host address.
func (l *Lease) addrs(field, list string) []netip.Addr {
	var addrs []netip.Addr
	for _, word := range strings.Fields(list) {
		a, err := hostAddr(word)
		if err != nil {
			l.Ignored = append(l.Ignored, fmt.Sprintf("%s: %v", field, err))
			continue
		}
		addrs = append(addrs, a)
	}
	return addrs
}

// hostAddr accepts an IPv4 address that one host can have.
func hostAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || !a.Is4():
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 address", s)
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.As4()[0] == 0, a.As4()[0] >= 240:
		return netip.Addr{}, fmt.Errorf("%s is not the address of a host", a)
	}
	return a, nil
}

// maskLength takes the prefix length that the client computed, or else the
// dotted mask (option 1), 1..32.
func maskLength(length, dotted string) (int, error) {
	if n, err := strconv.ParseUint(length, 10, 8); err == nil && n >= 1 && n <= 32 {
		return int(n), nil
	}
	if a, err := netip.ParseAddr(dotted); err == nil && a.Is4() {
		b := a.As4()
		m := binary.BigEndian.Uint32(b[:])
		if n := bits.LeadingZeros32(^m); n >= 1 && bits.OnesCount32(m) == n {
			return n, nil
		}
	}
	return 0, fmt.Errorf("subnet mask %q (prefix length %q) is not usable", dotted, length)
}
