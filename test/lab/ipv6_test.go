package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/peer/probe"
)

// A plain host gets what each way of addressing promises, and nothing else, from
// both servers.
func TestIPv6(t *testing.T) {
	t.Parallel()
	l := up(t, Options{})
	for _, c := range []struct {
		name    string
		options LANOptions
		v4      bool // DHCPv4 answers
		slaac   bool // a host has made itself an address
		dhcp6   bool // DHCPv6 answers
		flags   []string
	}{
		{name: "IPv4 only", v4: true},
		{name: "SLAAC only", options: LANOptions{IPv6: SLAAC, NoIPv4: true, Remote: true}, slaac: true, flags: []string{"[none]", "[onlink, auto]"}},
		{name: "both", options: LANOptions{IPv6: SLAAC, Remote: true}, v4: true, slaac: true, flags: []string{"[none]", "[onlink, auto]"}},
		{name: "none", options: LANOptions{IPv6: SLAAC, NoDHCP: true}},
		{name: "DHCPv6", options: LANOptions{IPv6: DHCPv6, Remote: true}, v4: true, dhcp6: true, flags: []string{"[managed, other stateful]", "[onlink]"}},
	} {
		for _, server := range []string{"dnsmasq", "Kea"} {
			t.Run(c.name+" of "+server, func(t *testing.T) {
				t.Parallel()
				options := c.options
				options.Kea = server == "Kea"
				lan := newLAN(t, l, options)
				host := plainHost(t, lan, "laptop")
				if c.v4 {
					leasesIPv4(t, lan, host)
				}
				if c.flags != nil {
					advertises(t, host, c.flags)
				}
				if c.dhcp6 {
					leasesIPv6(t, lan, host)
				}
				addrs := globalAddrs(t, host)
				if !c.slaac {
					if len(addrs) > 0 {
						t.Errorf("the host has made itself %v", addrs)
					}
					return
				}
				addr := awaitAddr(t, host, lan.Prefix6, false)
				if leases, err := lan.Leases6(); err != nil || len(leases) > 0 {
					t.Errorf("the server has leased %v, %v", leases, err)
				}
				asks(t, host, lan.Remote, addr)
			})
		}
	}
}

// The provider gives another prefix, then the router falls silent.
func TestIPv6Changes(t *testing.T) {
	t.Parallel()
	l := up(t, Options{})
	for _, server := range []string{"dnsmasq", "Kea"} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			lan := newLAN(t, l, LANOptions{IPv6: SLAAC, NoIPv4: true, Kea: server == "Kea"})
			host := plainHost(t, lan, "laptop")
			awaitAddr(t, host, lan.Prefix6, false)
			err := lan.ConfigureDHCP(t.Context(), func(c *DHCPConfig) {
				c.Prefixes6[0].Deprecated = true
				c.Prefixes6 = append(c.Prefixes6, Prefix6{Prefix: lan.NextPrefix6, SLAAC: true})
			})
			if err != nil {
				t.Fatal(err)
			}
			addr := awaitAddr(t, host, lan.NextPrefix6, false)
			awaitAddr(t, host, lan.Prefix6, true)
			asks(t, host, lan.Client, addr)

			err = lan.ConfigureDHCP(t.Context(), func(c *DHCPConfig) { c.Prefixes6 = nil })
			if err != nil {
				t.Fatal(err)
			}
			// What the kernel shows is not what it uses: a route that ran out
			// is shown for half a minute more.
			leads := func() (string, error) {
				out, err := host.Command(t.Context(), "ip", "-6", "route", "get", "2001:db8:ffff::1").CombinedOutput()
				return string(out), err
			}
			if _, err := leads(); err != nil {
				t.Error("the host has forgotten its router at once")
			}
			await(t, raLifetime+5*time.Second, "the host forgets its router", func() error {
				if route, err := leads(); err == nil {
					return fmt.Errorf("it uses %s", route)
				}
				return nil
			})
		})
	}
}

// plainHost is one that knows nothing of the LAN but its cable.
func plainHost(t *testing.T, lan *LAN, name string) *Host {
	t.Helper()
	h, err := lan.AddHost(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ip(t.Context(), "address flush dev eth0 scope global", "link set eth0 down"); err != nil {
		t.Fatal(err)
	}
	h.Addr, h.Addr6 = netip.Addr{}, netip.Addr{}
	if err := h.Sysctl("net.ipv6.conf.eth0.accept_ra", "1"); err != nil {
		t.Fatal(err)
	}
	if err := h.ip(t.Context(), "link set eth0 up"); err != nil {
		t.Fatal(err)
	}
	return h
}

// await repeats a look until it succeeds.
func await(t *testing.T, limit time.Duration, what string, look func() error) {
	t.Helper()
	var last error
	err := waitFor(t.Context(), limit, func() (bool, error) {
		last = look()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v; the last: %v", what, err, last)
	}
}

type ifAddr struct {
	Local      netip.Addr
	Deprecated bool
	Tentative  bool
}

func globalAddrs(t *testing.T, h *Host) []ifAddr {
	t.Helper()
	var links []struct {
		Info []ifAddr `json:"addr_info"`
	}
	text := output(t, h.Command(t.Context(), "ip", "-json", "-6", "address", "show", "dev", "eth0", "scope", "global"))
	if err := json.Unmarshal([]byte(text), &links); err != nil {
		t.Fatal(err)
	}
	var addrs []ifAddr
	for _, link := range links {
		addrs = append(addrs, link.Info...)
	}
	return addrs
}

// awaitAddr waits until a host has an address of a prefix.
func awaitAddr(t *testing.T, h *Host, prefix netip.Prefix, deprecated bool) netip.Addr {
	t.Helper()
	var addr netip.Addr
	await(t, 30*time.Second, fmt.Sprintf("an address of %s, deprecated: %t", prefix, deprecated), func() error {
		addrs := globalAddrs(t, h)
		i := slices.IndexFunc(addrs, func(a ifAddr) bool {
			return prefix.Contains(a.Local) && a.Deprecated == deprecated && !a.Tentative
		})
		if i < 0 {
			return fmt.Errorf("it has %v", addrs)
		}
		addr = addrs[i].Local
		return nil
	})
	return addr
}

// asks checks that a host reaches another one and is seen as addr.
func asks(t *testing.T, host, other *Host, addr netip.Addr) {
	t.Helper()
	endpoints, err := probe.ParseEndpoints("tcp:7000")
	if err != nil {
		t.Fatal(err)
	}
	var server *probe.Server
	err = other.Do(func() (err error) {
		server, err = probe.Serve(endpoints, io.Discard)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	answer, err := probe.Ask(t.Context(), host, "tcp", netip.AddrPortFrom(other.Addr6, 7000).String())
	if err != nil {
		t.Fatal(err)
	}
	if peer := netip.MustParseAddrPort(answer.Peer); peer.Addr() != addr {
		t.Errorf("%s was seen as %s, its address is %s", host.Name, peer, addr)
	}
}

// advertises checks the flags of the next router advertisement and of its
// prefix.
func advertises(t *testing.T, h *Host, flags []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	text := output(t, h.Command(ctx, "tcpdump", "-lnvvi", "eth0", "-c", "1", "icmp6 and ip6[40] == 134"))
	for _, want := range flags {
		if !strings.Contains(text, "Flags "+want+",") {
			t.Errorf("the advertisement has not the flags %s:\n%s", want, text)
		}
	}
}

// leasesIPv4 checks that a host gets a lease under its name.
func leasesIPv4(t *testing.T, lan *LAN, h *Host) {
	t.Helper()
	got := output(t, h.Command(t.Context(), "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1",
		"-x", "hostname:laptop", "-x", "0x3d:006d61696c", "-s", script(t)))
	leases, err := lan.Leases()
	if err != nil || len(leases) != 1 {
		t.Fatalf("the table has %v, %v", leases, err)
	}
	l := leases[0]
	if !lan.Pool.Contains(l.Addr) || l.Hostname != "laptop" || l.ClientID != "00:6d:61:69:6c" || time.Until(l.Expiry) <= 0 {
		t.Errorf("the lease is %+v", l)
	}
	for _, want := range []string{"ip=" + l.Addr.String(), "router=" + lan.Router.Addr.String(), "dns=" + lan.Router.Addr.String()} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("the host was not told %q:\n%s", want, got)
		}
	}
}

// leasesIPv6 checks that a host gets a lease under its name, that it is gone
// from the table when it was given back, and that an address can be kept for it.
func leasesIPv6(t *testing.T, lan *LAN, h *Host) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "dhcpcd.conf")
	told, hook := filepath.Join(dir, "told"), filepath.Join(dir, "hook")
	text := "noipv4\nnoipv6rs\nia_na 1\nhostname laptop\nfqdn both\nrelease\nscript " + hook + "\nduid\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho \"$reason\" >> "+told+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	leased := func() Lease6 {
		// Its files are at fixed places, the same for every host of this machine.
		const isolated = `mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir /var/lib/dhcpcd && mount --bind "$1" /var/lib/dhcpcd && shift && exec "$@"`
		client := h.Command(t.Context(), "unshare", "--mount", "sh", "-c", isolated, "-", dir,
			"dhcpcd", "--nobackground", "--noconfigure", "--config", conf, "eth0")
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		var lease Lease6
		await(t, 15*time.Second, "a lease in the table", func() error {
			leases, err := lan.Leases6()
			if err != nil || len(leases) != 1 {
				return fmt.Errorf("it has %v, %v", leases, err)
			}
			lease = leases[0]
			return nil
		})
		// The table has it before the client does, which gives back only what it has.
		await(t, 15*time.Second, "the client's word of its lease", func() error {
			reasons, err := os.ReadFile(told)
			if err == nil && !strings.Contains(string(reasons), "BOUND6") {
				err = fmt.Errorf("it told %q", reasons)
			}
			return err
		})
		interrupt(t, client)
		if err := os.Remove(told); err != nil {
			t.Fatal(err)
		}
		await(t, 10*time.Second, "the lease is given back", func() error {
			if leases, err := lan.Leases6(); err != nil || len(leases) > 0 {
				return fmt.Errorf("the table has %v, %v", leases, err)
			}
			return nil
		})
		return lease
	}
	l := leased()
	if !lan.Pool6.Contains(l.Addr) || l.Hostname != "laptop" || l.IAID != 1 || l.DUID == "" || time.Until(l.Expiry) <= 0 {
		t.Errorf("the lease is %+v", l)
	}
	err := lan.ConfigureDHCP(t.Context(), func(c *DHCPConfig) {
		c.Reservations = []Reservation{{ClientID: l.DUID, Addr: lan.Pool6.Last}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if again := leased(); again.Addr != lan.Pool6.Last {
		t.Errorf("%s was kept for the host, it got %s", lan.Pool6.Last, again.Addr)
	}
}

// interrupt ends dhcpcd, which sleeps through a signal that comes while it takes
// a lease.
func interrupt(t *testing.T, client *exec.Cmd) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		client.Wait()
		close(ended)
	}()
	await(t, 10*time.Second, "the DHCP client ends", func() error {
		client.Process.Signal(os.Interrupt)
		select {
		case <-ended:
			return nil
		case <-time.After(200 * time.Millisecond):
			return errors.New("it runs")
		}
	})
}

func TestParseLeases6(t *testing.T) {
	leases, err := parseLeases6("1700000000 02:42:00:00:00:01 198.51.100.16 mail 00:6d\nduid 00:01:00:01\n" +
		"1700000001 1 2001:db8::100 mail 00:02:00:00\n1700000002 T7 2001:db8::101 * 00:03\n")
	if err != nil || len(leases) != 2 {
		t.Fatalf("%v, %v", leases, err)
	}
	want := Lease6{
		Expiry: time.Unix(1700000001, 0), Addr: netip.MustParseAddr("2001:db8::100"),
		Hostname: "mail", DUID: "00:02:00:00", IAID: 1,
	}
	if leases[0] != want || leases[1].Hostname != "" || leases[1].IAID != 7 {
		t.Errorf("%v", leases)
	}
	if _, err := parseLeases6("duid 00:01\nnonsense\n"); err == nil {
		t.Error("nonsense was taken for a lease")
	}
}

// Kea's table is a journal: a lease is renewed, another given back, and one is
// somebody else's by now.
func TestParseKeaLeases(t *testing.T) {
	leases, err := parseKeaLeases(`address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context
198.51.100.16,02:42:00:00:00:01,00:6d,120,1700000000,1,0,0,mail.,0,
198.51.100.17,02:42:00:00:00:02,,120,1700000000,1,0,0,,0,
198.51.100.18,02:42:00:00:00:03,,120,1700000000,1,0,0,,0,
198.51.100.16,02:42:00:00:00:01,00:6d,120,1700000060,1,0,0,mail.,0,
198.51.100.17,02:42:00:00:00:02,,0,1700000000,1,0,0,,0,
198.51.100.18,,,120,1700000000,1,0,0,,1,
`)
	if err != nil || len(leases) != 1 {
		t.Fatalf("%v, %v", leases, err)
	}
	want := Lease{
		Expiry: time.Unix(1700000060, 0), MAC: net.HardwareAddr{2, 0x42, 0, 0, 0, 1},
		Addr: netip.MustParseAddr("198.51.100.16"), Hostname: "mail", ClientID: "00:6d",
	}
	if fmt.Sprint(leases[0]) != fmt.Sprint(want) {
		t.Errorf("%v", leases)
	}
	leases6, err := parseKeaLeases6(`address,duid,valid_lifetime,expire,subnet_id,pref_lifetime,lease_type,iaid,prefix_len,fqdn_fwd,fqdn_rev,hostname,hwaddr,state,user_context,hwtype,hwaddr_source
2001:db8::100,00:02:00:00,120,1700000000,1,120,0,1,128,0,0,mail.,02:42:00:00:00:01,0,,1,2
`)
	want6 := Lease6{
		Expiry: time.Unix(1700000000, 0), Addr: netip.MustParseAddr("2001:db8::100"),
		Hostname: "mail", DUID: "00:02:00:00", IAID: 1,
	}
	if err != nil || len(leases6) != 1 || leases6[0] != want6 {
		t.Errorf("%v, %v", leases6, err)
	}
	if _, err := parseKeaLeases("address\nnonsense\n"); err == nil {
		t.Error("nonsense was taken for a lease")
	}
}
