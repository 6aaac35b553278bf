package anchord

import (
	"bytes"
	"cmp"
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

// Lease is a lease as the client reported it, DHCPv4 (RFC 2131) or DHCPv6 (RFC
// 8415), with the fields that anchord uses and has checked.
type Lease struct {
	Address netip.Prefix  // with the prefix length of its network; in IPv6 128
	Routers []netip.Addr  // option 3, in the server's order; none in IPv6
	Static  []StaticRoute // option 121 but for the default route
	DNS     []netip.Addr  // option 6; in IPv6 23
	Server  netip.Addr    // option 54; unknown in IPv6
	// Duration is the lease time (option 51; in IPv6 the valid lifetime); zero
	// means that it never ends. Preferred is the part of it in which new
	// connections may use the address; zero: all of it.
	Duration, Preferred time.Duration
	// Obtained is the time since boot at which the client reported it. The
	// boot clock, because a jump of the wall clock must not end a lease.
	Obtained time.Duration
	Boot     string // id of the boot that Obtained counts from
	Ignored  []string
	// Released says that we gave it back: it may be asked for again, no more.
	Released bool
	// First says that it was not a renewal that gave it.
	First bool
}

// echoes says whether l only tells again of the lease old: dhcpcd does when the
// kernel has found the address free.
func (l Lease) echoes(old Lease) bool {
	return l.First && l.Boot == old.Boot && !old.Released && l.Address == old.Address &&
		l.Duration == old.Duration && l.Obtained >= old.Obtained && l.Obtained-old.Obtained < echo
}

// echo covers the time of duplicate address detection, with its delays.
const echo = 10 * time.Second

// StaticRoute is a classless static route (RFC 3442).
type StaticRoute struct {
	Dst     netip.Prefix // masked
	Gateway netip.Addr   // invalid: on the LAN itself
}

// address is the leased address with its lifetimes.
func (l Lease) address() LeasedAddr {
	a := LeasedAddr{Prefix: l.Address}
	if !l.Infinite() {
		a.Until = l.Obtained + l.Duration
	}
	if l.Preferred > 0 {
		a.Preferred = l.Obtained + l.Preferred
	}
	return a
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

// defaultLease is what udhcpc takes a lease for whose time the server does not
// tell, in seconds.
const defaultLease = "3600"

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
		return 0, fmt.Errorf("lease file has no usable uptime: %s", quoted(s))
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
	seconds, err := strconv.ParseUint(cmp.Or(f.vars["lease"], defaultLease), 10, 32)
	if err != nil || seconds == 0 {
		return Lease{}, fmt.Errorf("lease refused: lease time %s is not a number of seconds", quoted(f.vars["lease"]))
	}
	if seconds != infiniteLease {
		l.Duration = time.Duration(seconds) * time.Second
	}
	l.Routers = l.gateways("router", f.vars["router"])
	l.staticRoutes(f.vars["staticroutes"])
	l.DNS = l.addrs("dns", f.vars["dns"])
	if server := l.addrs("serverid", f.vars["serverid"]); len(server) > 0 {
		l.Server = server[0]
	}
	return l, nil
}

// maxStaticRoutes bounds what a server can have us put into the kernel; an
// option's 255 bytes hold fewer than 64.
const maxStaticRoutes = 64

// staticRoutes reads option 121: pairs of a prefix and a gateway. A server that
// sends it means them in place of the router option (RFC 3442).
func (l *Lease) staticRoutes(list string) {
	words := strings.Fields(list)
	if len(words) == 0 {
		return
	}
	var routers []netip.Addr
	for ; len(words) > 1 && len(l.Static) < maxStaticRoutes; words = words[2:] {
		dst, gateway, err := staticRoute(words[0], words[1])
		if err == nil && gateway.IsValid() {
			err = l.leadsOn(gateway)
		}
		switch {
		case err != nil:
			l.ignore("staticroutes", err)
		case dst.Bits() > 0:
			l.Static = append(l.Static, StaticRoute{dst, gateway})
		case gateway.IsValid():
			routers = append(routers, gateway)
		}
	}
	if len(words) > 0 {
		l.ignore("staticroutes", fmt.Errorf("%s is left over", quoted(words[0])))
	}
	if len(routers)+len(l.Static) > 0 {
		l.Routers = routers
	}
}

func staticRoute(prefix, via string) (dst netip.Prefix, gateway netip.Addr, err error) {
	dst, err = netip.ParsePrefix(prefix)
	if err != nil || !dst.Addr().Is4() {
		return dst, gateway, fmt.Errorf("%s is not an IPv4 prefix", quoted(prefix))
	}
	if dst = dst.Masked(); dst.Bits() > 0 {
		if first := dst.Addr(); first.IsMulticast() || first.IsLoopback() || dst.Bits() >= 8 && first.As4()[0] == 0 || first.As4()[0] >= 224 {
			return dst, gateway, fmt.Errorf("%s is no destination of unicast", dst)
		}
	}
	if via == "0.0.0.0" {
		return dst, netip.Addr{}, nil
	}
	gateway, err = hostAddr(via)
	return dst, gateway, err
}

// Lease6 is Lease for what the DHCPv6 client tells (RFC 8415): of its
// addresses the first that can be used.
func (f LeaseFile) Lease6() (Lease, error) {
	l := Lease{Obtained: f.At, Boot: f.Boot, First: f.Event == "BOUND6"}
	refused := errors.New("no address offered")
	for n := 1; n <= maxAddresses && !l.Address.IsValid(); n++ {
		prefix := "new_dhcp6_ia_na1_ia_addr" + strconv.Itoa(n)
		offered, is := f.vars[prefix]
		if !is {
			break
		}
		refused = l.address6(offered, f.vars[prefix+"_vltime"], f.vars[prefix+"_pltime"])
	}
	if !l.Address.IsValid() {
		return Lease{}, fmt.Errorf("lease refused: %w", refused)
	}
	for _, word := range strings.Fields(f.vars["new_dhcp6_name_servers"]) {
		a, err := hostAddr6(word)
		if err != nil {
			l.ignore("name_servers", err)
			continue
		}
		l.DNS = append(l.DNS, a)
	}
	return l, nil
}

// maxAddresses is how many of one answer's addresses are looked at.
const maxAddresses = 8

func (l *Lease) address6(offered, valid, preferred string) error {
	addr, err := hostAddr6(offered)
	if err != nil {
		return fmt.Errorf("offered address: %w", err)
	}
	seconds, err := strconv.ParseUint(valid, 10, 32)
	if err != nil || seconds == 0 {
		return fmt.Errorf("valid lifetime %s is not a number of seconds", quoted(valid))
	}
	l.Address = netip.PrefixFrom(addr, 128)
	if seconds != infiniteLease {
		l.Duration = time.Duration(seconds) * time.Second
	}
	switch p, err := strconv.ParseUint(preferred, 10, 32); {
	case err != nil || p > seconds:
		l.ignore("preferred lifetime", fmt.Errorf("%s is not a number of seconds up to the valid lifetime", quoted(preferred)))
	case p < seconds:
		// Zero would mean that it is preferred all the time.
		l.Preferred = max(time.Nanosecond, time.Duration(p)*time.Second)
	}
	return nil
}

// hostAddr6 accepts an IPv6 address that one host can have and others reach.
func hostAddr6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || !a.Is6() || a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%s is not an IPv6 address", quoted(s))
	case !a.IsGlobalUnicast() || a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%s is not the address of a host", a)
	}
	return a, nil
}

func (l *Lease) ignore(field string, err error) {
	l.Ignored = append(l.Ignored, fmt.Sprintf("%s: %v", field, err))
}

// gateways is addrs for what is to be a router of the leased address's network.
func (l *Lease) gateways(field, list string) []netip.Addr {
	var some []netip.Addr
	for _, a := range l.addrs(field, list) {
		if err := l.leadsOn(a); err != nil {
			l.ignore(field, err)
			continue
		}
		some = append(some, a)
	}
	return some
}

// leadsOn accepts a gateway that can be another host's: not the leased address,
// nor the first or last of its network, which are for all hosts (RFC 1122, 3.3.6;
// RFC 3021 for networks of two).
func (l *Lease) leadsOn(gateway netip.Addr) error {
	if gateway == l.Address.Addr() {
		return fmt.Errorf("%s is the leased address itself", gateway)
	}
	if l.Address.Bits() > 30 || !l.Address.Contains(gateway) {
		return nil
	}
	b := gateway.As4()
	host := binary.BigEndian.Uint32(b[:]) << l.Address.Bits() >> l.Address.Bits()
	if host == 0 || host == math.MaxUint32>>l.Address.Bits() {
		return fmt.Errorf("%s is no host of %s", gateway, l.Address.Masked())
	}
	return nil
}

// addrs reads a space-separated list and notes what in it is no host address.
func (l *Lease) addrs(field, list string) []netip.Addr {
	var addrs []netip.Addr
	for _, word := range strings.Fields(list) {
		a, err := hostAddr(word)
		if err != nil {
			l.ignore(field, err)
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
		return netip.Addr{}, fmt.Errorf("%s is not an IPv4 address", quoted(s))
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.As4()[0] == 0, a.As4()[0] >= 240:
		return netip.Addr{}, fmt.Errorf("%s is not the address of a host", a)
	}
	return a, nil
}

// maskLength reads the subnet mask (option 1), of several the first; where there
// is none, the prefix length that the client assumes, 1..32. That length alone
// would not do: it is a count of bits, wherever they stand.
func maskLength(length, dotted string) (int, error) {
	first, _, _ := strings.Cut(strings.TrimSpace(dotted), " ")
	if first == "" {
		if n, err := strconv.ParseUint(length, 10, 8); err == nil && n >= 1 && n <= 32 {
			return int(n), nil
		}
	}
	if a, err := netip.ParseAddr(first); err == nil && a.Is4() {
		b := a.As4()
		m := binary.BigEndian.Uint32(b[:])
		if n := bits.LeadingZeros32(^m); n >= 1 && bits.OnesCount32(m) == n {
			return n, nil
		}
	}
	return 0, fmt.Errorf("subnet mask %s (prefix length %s) is not usable", quoted(dotted), quoted(length))
}
