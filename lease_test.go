package anchord_test

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// leaseFields are those of an ordinary lease, as the hook writes them.
func leaseFields() map[string]string {
	return map[string]string{
		"event": "bound", "uptime": "1000.25 4000.50", "ANCHORD_BOOT": boot,
		"interface": "lan0", "ip": "192.0.2.77", "mask": "24", "subnet": "255.255.255.0",
		"router": "192.0.2.1", "dns": "192.0.2.53 9.9.9.9", "serverid": "192.0.2.2", "lease": "3600",
	}
}

// leaseFile is the file's bytes, the hook's own fields first.
func leaseFile(fields map[string]string) string {
	own := []string{"uptime", "event"}
	var b strings.Builder
	keys := slices.Sorted(maps.Keys(fields))
	slices.SortStableFunc(keys, func(a, b string) int { return slices.Index(own, b) - slices.Index(own, a) })
	for _, key := range keys {
		b.WriteString(key + "=" + fields[key] + "\x00")
	}
	return b.String()
}

// with changes fields; a value of "-" removes the field.
func with(changes ...string) string {
	fields := leaseFields()
	for i := 0; i < len(changes); i += 2 {
		if fields[changes[i]] = changes[i+1]; changes[i+1] == "-" {
			delete(fields, changes[i])
		}
	}
	return leaseFile(fields)
}

func parseLease(data string) (anchord.Lease, error) {
	file, err := anchord.ParseLeaseFile([]byte(data))
	if err != nil {
		return anchord.Lease{}, err
	}
	return file.Lease()
}

func words[T interface{ String() string }](list []T) string {
	var s []string
	for _, v := range list {
		s = append(s, v.String())
	}
	return strings.Join(s, " ")
}

func TestLease(t *testing.T) {
	l, err := parseLease(with())
	if err != nil {
		t.Fatal(err)
	}
	if l.Address.String() != "192.0.2.77/24" || words(l.Routers) != "192.0.2.1" || words(l.DNS) != "192.0.2.53 9.9.9.9" ||
		l.Server.String() != "192.0.2.2" || l.Duration != time.Hour || l.Obtained != 1000250*time.Millisecond || l.Boot != boot || l.Ignored != nil {
		t.Errorf("%+v", l)
	}
}

func TestLeaseAccepted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		data    string
		want    string // address, routers, lease time
		ignored int
	}{
		{"client computed no prefix length", with("mask", "-"), "192.0.2.77/24 [192.0.2.1] 1h0m0s", 0},
		{"client's length before a list of masks", with("subnet", "255.255.255.0 255.0.0.0"), "192.0.2.77/24 [192.0.2.1] 1h0m0s", 0},
		{"bad length, good mask", with("mask", "33", "subnet", "255.255.255.128"), "192.0.2.77/25 [192.0.2.1] 1h0m0s", 0},
		{"one host", with("mask", "32", "subnet", "255.255.255.255"), "192.0.2.77/32 [192.0.2.1] 1h0m0s", 0},
		{"one host by its mask", with("mask", "-", "subnet", "255.255.255.255"), "192.0.2.77/32 [192.0.2.1] 1h0m0s", 0},
		{"infinite", with("lease", "4294967295"), "192.0.2.77/24 [192.0.2.1] 0s", 0},
		{"longest finite", with("lease", "4294967294"), "192.0.2.77/24 [192.0.2.1] 1193046h28m14s", 0},
		{"no router", with("router", "-"), "192.0.2.77/24 [] 1h0m0s", 0},
		{"several routers, in order", with("router", "192.0.2.3 192.0.2.1"), "192.0.2.77/24 [192.0.2.3 192.0.2.1] 1h0m0s", 0},
		{"router 0.0.0.0", with("router", "0.0.0.0"), "192.0.2.77/24 [] 1h0m0s", 1},
		{"multicast among the routers", with("router", "224.0.0.1 192.0.2.1"), "192.0.2.77/24 [192.0.2.1] 1h0m0s", 1},
		{"broadcast, loopback, link-local routers", with("router", "255.255.255.255 127.0.0.1 169.254.1.1"), "192.0.2.77/24 [] 1h0m0s", 3},
		{"router that is a command", with("router", "$(reboot) ;ls 192.0.2.1"), "192.0.2.77/24 [192.0.2.1] 1h0m0s", 2},
		{"router in IPv6", with("router", "fe80::1"), "192.0.2.77/24 [] 1h0m0s", 1},
		{"server that is none", with("serverid", "0.0.0.0"), "192.0.2.77/24 [192.0.2.1] 1h0m0s", 1},
		{"newline forges no field", with("domain", "x\nrouter=6.6.6.6\nip=6.6.6.6", "message", "\nlease=1\n"), "192.0.2.77/24 [192.0.2.1] 1h0m0s", 0},
		{"later keys do not replace the hook's", leaseFile(leaseFields()) + "event=nak\x00uptime=9\x00ip=6.6.6.6\x00", "192.0.2.77/24 [192.0.2.1] 1h0m0s", 0},
		{"fields without an equals sign", leaseFile(leaseFields()) + "ip\x00\x00=x\x00", "192.0.2.77/24 [192.0.2.1] 1h0m0s", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := parseLease(tt.data)
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Address.String() + " [" + words(l.Routers) + "] " + l.Duration.String(); got != tt.want || len(l.Ignored) != tt.ignored {
				t.Errorf("%s, ignored %q; want %s, %d ignored", got, l.Ignored, tt.want, tt.ignored)
			}
			if infinite := strings.Contains(tt.data, "lease=4294967295\x00"); l.Infinite() != infinite {
				t.Errorf("infinite: %v", l.Infinite())
			}
		})
	}
}

func TestLeaseRefused(t *testing.T) {
	whole := with()
	for _, tt := range []struct{ name, data, fault string }{
		{"empty file", "", "cut short"},
		{"cut short", whole[:len(whole)-3], "cut short"},
		{"no event", with("event", "-"), "names no event"},
		{"no uptime", with("uptime", "-"), "no usable uptime"},
		{"uptime not a number", with("uptime", "soon"), "no usable uptime"},
		{"uptime negative", with("uptime", "-1"), "no usable uptime"},
		{"uptime beyond all time", with("uptime", "1e300"), "no usable uptime"},
		{"uptime NaN", with("uptime", "NaN"), "no usable uptime"},
		{"no address", with("ip", "-"), `"" is not an IPv4 address`},
		{"address with a newline", with("ip", "192.0.2.77\n"), "is not an IPv4 address"},
		{"address read as octal by others", with("ip", "010.0.0.1"), "is not an IPv4 address"},
		{"address in IPv6", with("ip", "2001:db8::1"), "is not an IPv4 address"},
		{"address mapped into IPv6", with("ip", "::ffff:192.0.2.77"), "is not an IPv4 address"},
		{"address 0.0.0.0", with("ip", "0.0.0.0"), "not the address of a host"},
		{"address in 0.0.0.0/8", with("ip", "0.1.2.3"), "not the address of a host"},
		{"multicast address", with("ip", "224.0.0.5"), "not the address of a host"},
		{"reserved address", with("ip", "240.0.0.1"), "not the address of a host"},
		{"broadcast address", with("ip", "255.255.255.255"), "not the address of a host"},
		{"loopback address", with("ip", "127.0.0.5"), "not the address of a host"},
		{"link-local address", with("ip", "169.254.3.4"), "not the address of a host"},
		{"no mask at all", with("mask", "-", "subnet", "-"), "subnet mask"},
		{"mask with holes", with("mask", "-", "subnet", "255.0.255.0"), "subnet mask"},
		{"mask of zero", with("mask", "0", "subnet", "0.0.0.0"), "subnet mask"},
		{"length with a sign", with("mask", "+24", "subnet", "-"), "subnet mask"},
		{"lease of 0", with("lease", "0"), "lease time"},
		{"negative lease", with("lease", "-1"), "lease time"},
		{"lease of more than 32 bits", with("lease", "4294967296"), "lease time"},
		{"lease time with a command", with("lease", "3600;reboot"), "lease time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if l, err := parseLease(tt.data); err == nil || !strings.Contains(err.Error(), tt.fault) {
				t.Errorf("%+v, %v; want an error that says %q", l, err, tt.fault)
			}
		})
	}
}

func TestLeaseTime(t *testing.T) {
	l, err := parseLease(with("uptime", "1000 1", "lease", "100"))
	if err != nil {
		t.Fatal(err)
	}
	const s = time.Second
	for _, tt := range []struct {
		now       time.Duration
		boot      string
		remaining time.Duration
		valid     bool
	}{
		{1000 * s, boot, 100 * s, true},
		{1099 * s, boot, 1 * s, true},
		{1100 * s, boot, 0, false},
		{5000 * s, boot, 0, false},
		{1001 * s, "boot-2", 99 * s, false}, // another boot's clock says nothing
		{0, boot, 1100 * s, true},
	} {
		if l.Remaining(tt.now) != tt.remaining || l.ValidAt(tt.now, tt.boot) != tt.valid {
			t.Errorf("at %v in %s: %v left, valid %v; want %v, %v", tt.now, tt.boot, l.Remaining(tt.now), l.ValidAt(tt.now, tt.boot), tt.remaining, tt.valid)
		}
	}
	l.Duration = 0
	if !l.ValidAt(math.MaxInt64, boot) || l.ValidAt(0, "boot-2") {
		t.Error("an infinite lease holds for ever, in its own boot")
	}
	if (anchord.Lease{}).ValidAt(0, "") {
		t.Error("no lease is valid")
	}
}

func TestStaticRoutesOfALease(t *testing.T) {
	for _, tt := range []struct {
		name, option string
		want         string // routes; then the routers
		ignored      int
	}{
		{"none", "", "; 192.0.2.1", 0},
		{"blanks", " \t\n", "; 192.0.2.1", 0},
		{"one: the router option does not count", "203.0.113.0/24 192.0.2.9", "203.0.113.0/24 192.0.2.9; ", 0},
		{"the default inside", "203.0.113.0/24 192.0.2.9 0.0.0.0/0 192.0.2.8", "203.0.113.0/24 192.0.2.9; 192.0.2.8", 0},
		{"the default alone", "0.0.0.0/0 192.0.2.8", "; 192.0.2.8", 0},
		{"two defaults, in order", "0.0.0.0/0 192.0.2.8 0.0.0.0/0 192.0.2.7", "; 192.0.2.8 192.0.2.7", 0},
		{"on the link", "203.0.113.0/24 0.0.0.0", "203.0.113.0/24 invalid IP; ", 0},
		{"the default on the link is none", "0.0.0.0/0 0.0.0.0 203.0.113.0/24 192.0.2.9", "203.0.113.0/24 192.0.2.9; ", 0},
		{"one host", "203.0.113.5/32 192.0.2.9", "203.0.113.5/32 192.0.2.9; ", 0},
		{"halves of all there is", "0.0.0.0/1 192.0.2.9 128.0.0.0/1 192.0.2.9", "0.0.0.0/1 192.0.2.9 128.0.0.0/1 192.0.2.9; ", 0},
		{"bits beyond the prefix", "203.0.113.77/24 192.0.2.9", "203.0.113.0/24 192.0.2.9; ", 0},
		{"a gateway off the link", "203.0.113.0/24 198.51.100.1", "203.0.113.0/24 198.51.100.1; ", 0},
		{"no gateway", "203.0.113.0/24", "; 192.0.2.1", 1},
		{"a word too many", "203.0.113.0/24 192.0.2.9 10.0.0.0/8", "203.0.113.0/24 192.0.2.9; ", 1},
		{"only nonsense: the router option counts", "x y", "; 192.0.2.1", 1},
		{"nonsense among others", "203.0.113.0/33 192.0.2.9 203.0.113.0/24 224.0.0.1 10.0.0.0/8 192.0.2.9", "10.0.0.0/8 192.0.2.9; ", 2},
		{"no prefix length", "203.0.113.0 192.0.2.9", "; 192.0.2.1", 1},
		{"read as octal by others", "010.0.0.0/8 192.0.2.9", "; 192.0.2.1", 1},
		{"IPv6", "2001:db8::/32 2001:db8::1", "; 192.0.2.1", 1},
		{"IPv4 in IPv6", "::ffff:203.0.113.0/120 192.0.2.9", "; 192.0.2.1", 1},
		{"multicast, loopback, reserved, nothing", "224.0.0.0/4 192.0.2.9 127.0.0.0/8 192.0.2.9 240.0.0.0/4 192.0.2.9 0.1.0.0/16 192.0.2.9", "; 192.0.2.1", 4},
		{"a command", "203.0.113.0/24;reboot 192.0.2.9 $(reboot)/8 `x`", "; 192.0.2.1", 2},
		{"a newline is a blank", "203.0.113.0/24\n192.0.2.9\nip=6.6.6.6", "203.0.113.0/24 192.0.2.9; ", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := parseLease(with("staticroutes", tt.option))
			if err != nil {
				t.Fatal(err)
			}
			var routes []string
			for _, r := range l.Static {
				routes = append(routes, r.Dst.String()+" "+r.Gateway.String())
			}
			if got := strings.Join(routes, " ") + "; " + words(l.Routers); got != tt.want || len(l.Ignored) != tt.ignored {
				t.Errorf("%s, ignored %q; want %s, %d ignored", got, l.Ignored, tt.want, tt.ignored)
			}
		})
	}
	l, err := parseLease(with("staticroutes", strings.Repeat("203.0.113.0/24 192.0.2.9 ", 10_000)))
	if err != nil || len(l.Static) > 64 || len(l.Ignored) > 1 {
		t.Errorf("%d routes, %d ignored, %v", len(l.Static), len(l.Ignored), err)
	}
}

// with6 is with for what dhcpcd tells.
func with6(changes ...string) string {
	fields := map[string]string{
		"event": "BOUND6", "reason": "BOUND6", "uptime": "1000.25 4000.50", "ANCHORD_BOOT": boot, "interface": "lan0",
		"new_dhcp6_ia_na1_ia_addr1": "2001:db8::77", "new_dhcp6_ia_na1_ia_addr1_vltime": "3600", "new_dhcp6_ia_na1_ia_addr1_pltime": "1800",
		"new_dhcp6_name_servers": "2001:db8::53",
	}
	for i := 0; i < len(changes); i += 2 {
		key := strings.Replace(changes[i], "addr", "new_dhcp6_ia_na1_ia_addr", 1)
		if fields[key] = changes[i+1]; changes[i+1] == "-" {
			delete(fields, key)
		}
	}
	return leaseFile(fields)
}

func parseLease6(data string) (anchord.Lease, error) {
	file, err := anchord.ParseLeaseFile([]byte(data))
	if err != nil {
		return anchord.Lease{}, err
	}
	return file.Lease6()
}

func TestLease6(t *testing.T) {
	for _, tt := range []struct {
		name    string
		data    string
		want    string // address, valid and preferred lifetime, DNS servers
		ignored int
	}{
		{"as usual", with6(), "2001:db8::77/128 1h0m0s 30m0s [2001:db8::53]", 0},
		{"as usual, not the first", with6("event", "RENEW6"), "2001:db8::77/128 1h0m0s 30m0s [2001:db8::53]", 0},
		{"preferred as long as valid", with6("addr1_pltime", "3600"), "2001:db8::77/128 1h0m0s 0s [2001:db8::53]", 0},
		{"never preferred", with6("addr1_pltime", "0"), "2001:db8::77/128 1h0m0s 1ns [2001:db8::53]", 0},
		{"preferred longer than valid", with6("addr1_pltime", "3601"), "2001:db8::77/128 1h0m0s 0s [2001:db8::53]", 1},
		{"preferred not told", with6("addr1_pltime", "-"), "2001:db8::77/128 1h0m0s 0s [2001:db8::53]", 1},
		{"infinite", with6("addr1_vltime", "4294967295", "addr1_pltime", "4294967295"), "2001:db8::77/128 0s 0s [2001:db8::53]", 0},
		{"infinite, not preferred for ever", with6("addr1_vltime", "4294967295"), "2001:db8::77/128 0s 30m0s [2001:db8::53]", 0},
		{"a local address of the site", with6("addr1", "fd5a:9::77"), "fd5a:9::77/128 1h0m0s 30m0s [2001:db8::53]", 0},
		{"the second where the first is over", with6("addr1_vltime", "0", "addr2", "2001:db8::88", "addr2_vltime", "60", "addr2_pltime", "60"), "2001:db8::88/128 1m0s 0s [2001:db8::53]", 0},
		{"the second where the first is nonsense", with6("addr1", "fe80::1", "addr2", "2001:db8::88", "addr2_vltime", "60", "addr2_pltime", "60"), "2001:db8::88/128 1m0s 0s [2001:db8::53]", 0},
		{"no DNS", with6("new_dhcp6_name_servers", "-"), "2001:db8::77/128 1h0m0s 30m0s []", 0},
		{"DNS with nonsense", with6("new_dhcp6_name_servers", "fe80::1%lan0 ff02::1 :: ::1 192.0.2.53 ::ffff:192.0.2.53 $(x) 2001:db8::54"), "2001:db8::77/128 1h0m0s 30m0s [2001:db8::54]", 7},
		{"newline forges no field", with6("new_dhcp6_domain_search", "x\nnew_dhcp6_ia_na1_ia_addr1=2001:db8::66\n", "new_dhcp6_status_message", "\nreason=EXPIRE6"), "2001:db8::77/128 1h0m0s 30m0s [2001:db8::53]", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := parseLease6(tt.data)
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Address.String() + " " + l.Duration.String() + " " + l.Preferred.String() + " [" + words(l.DNS) + "]"; got != tt.want || len(l.Ignored) != tt.ignored {
				t.Errorf("%s, ignored %q; want %s, %d ignored", got, l.Ignored, tt.want, tt.ignored)
			}
			if l.Obtained != 1000250*time.Millisecond || l.Boot != boot || l.First != strings.Contains(tt.data, "event=BOUND6") {
				t.Errorf("%+v", l)
			}
		})
	}
}

func TestLease6Refused(t *testing.T) {
	for _, tt := range []struct{ name, data, fault string }{
		{"no address", with6("addr1", "-"), "no address offered"},
		{"a second without a first", with6("addr1", "-", "addr2", "2001:db8::88", "addr2_vltime", "60"), "no address offered"},
		{"a prefix instead", with6("addr1", "2001:db8::/64"), "is not an IPv6 address"},
		{"address with a newline", with6("addr1", "2001:db8::77\n"), "is not an IPv6 address"},
		{"address with a zone", with6("addr1", "2001:db8::77%lan0"), "is not an IPv6 address"},
		{"IPv4", with6("addr1", "192.0.2.77"), "is not an IPv6 address"},
		{"IPv4 in IPv6", with6("addr1", "::ffff:192.0.2.77"), "not the address of a host"},
		{"link-local", with6("addr1", "fe80::77"), "not the address of a host"},
		{"multicast", with6("addr1", "ff02::1"), "not the address of a host"},
		{"loopback", with6("addr1", "::1"), "not the address of a host"},
		{"nothing", with6("addr1", "::"), "not the address of a host"},
		{"no lifetime", with6("addr1_vltime", "-"), "valid lifetime"},
		{"lifetime of 0", with6("addr1_vltime", "0"), "valid lifetime"},
		{"negative lifetime", with6("addr1_vltime", "-1"), "valid lifetime"},
		{"lifetime of more than 32 bits", with6("addr1_vltime", "4294967296"), "valid lifetime"},
		{"lifetime with a command", with6("addr1_vltime", "3600;reboot"), "valid lifetime"},
		{"DHCPv4's fields", with(), "no address offered"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if l, err := parseLease6(tt.data); err == nil || !strings.Contains(err.Error(), tt.fault) {
				t.Errorf("%+v, %v; want an error that says %q", l, err, tt.fault)
			}
		})
	}
}

// FuzzParseLeaseFile: whatever is in the file, nothing panics, and what is
// accepted names addresses that hosts can have.
func FuzzParseLeaseFile(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseLease(string(data))
		if err != nil {
			return
		}
		hosts := append(append(slices.Clone(l.Routers), l.DNS...), l.Address.Addr())
		if l.Server.IsValid() {
			hosts = append(hosts, l.Server)
		}
		for _, r := range l.Static {
			if r.Dst != r.Dst.Masked() || r.Dst.Bits() < 1 || !r.Dst.Addr().Is4() {
				t.Fatalf("%s is accepted as a destination: %+v", r.Dst, l)
			}
			if r.Gateway.IsValid() {
				hosts = append(hosts, r.Gateway)
			}
		}
		for _, a := range hosts {
			if !a.Is4() || !a.IsGlobalUnicast() || a.As4()[0] == 0 || a.As4()[0] >= 224 {
				t.Fatalf("%s is accepted as a host: %+v", a, l)
			}
		}
		if l.Address.Bits() < 1 || l.Duration < 0 || l.Obtained < 0 || (l.Infinite() && !l.ValidAt(0, l.Boot)) || len(l.Static) > 64 {
			t.Fatalf("%+v", l)
		}
	})
}

// FuzzLease6 is the same for what dhcpcd tells.
func FuzzLease6(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseLease6(string(data))
		if err != nil {
			return
		}
		for _, a := range append(slices.Clone(l.DNS), l.Address.Addr()) {
			if !a.Is6() || !a.IsGlobalUnicast() || a.Is4In6() || a.Zone() != "" {
				t.Fatalf("%s is accepted as a host: %+v", a, l)
			}
		}
		if l.Address.Bits() != 128 || l.Duration < 0 || l.Preferred < 0 || !l.Infinite() && l.Preferred >= l.Duration {
			t.Fatalf("%+v", l)
		}
	})
}

func TestGatewaysThatLeadNowhere(t *testing.T) {
	for _, tt := range []struct{ address, router, want string }{
		{"192.0.2.77/24", "192.0.2.1", "192.0.2.1"},
		{"192.0.2.77/24", "198.51.100.1", "198.51.100.1"}, // outside: a neighbour by the server's word
		{"192.0.2.77/24", "192.0.2.77", ""},
		{"192.0.2.77/24", "192.0.2.255", ""},
		{"192.0.2.77/24", "192.0.2.0", ""},
		{"192.0.2.77/16", "192.0.2.255", "192.0.2.255"},
		{"192.0.2.76/31", "192.0.2.77", "192.0.2.77"},
		{"192.0.2.77/32", "192.0.2.1", "192.0.2.1"},
		{"192.0.2.77/24", "192.0.2.255 192.0.2.2", "192.0.2.2"},
	} {
		p := netip.MustParsePrefix(tt.address)
		l, err := parseLease(fmt.Sprintf("event=bound\x00uptime=1\x00ip=%s\x00mask=%d\x00lease=60\x00router=%s\x00", p.Addr(), p.Bits(), tt.router))
		if got := words(l.Routers); err != nil || got != tt.want || (len(l.Ignored) > 0) != (tt.want != tt.router) {
			t.Errorf("%s with router %s: %q, ignored %q (%v)", tt.address, tt.router, got, l.Ignored, err)
		}
	}
}
