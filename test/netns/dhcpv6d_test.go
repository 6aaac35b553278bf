package netns_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv6"
)

// DHCPv6 message types, options and status codes (RFC 8415, 7.3 and 21; RFC 3646).
const (
	solicit6, advertise6, request6, confirm6, renew6, rebind6 = 1, 2, 3, 4, 5, 6
	reply6, release6, decline6, inform6                       = 7, 8, 9, 11

	optClientID6, optServerID6, optIANA, optIAAddr = 1, 2, 3, 5
	optStatus6, optDNS6, optDomains6, optFQDN6     = 13, 23, 24, 39

	noAddrsAvail, noBinding, notOnLink = 2, 3, 4
)

// forever6 is a lifetime without end.
const forever6 = 1<<32 - 1

// dhcpd6 is a DHCPv6 server that a test can make misbehave.
type dhcpd6 struct {
	conn *net.UDPConn
	duid string

	mu               sync.Mutex
	addr             netip.Addr
	valid, preferred uint32 // seconds
	t1, t2           uint32
	deaf             map[byte]bool // to these messages; 0: to all
	status           map[byte]byte // of the address, in the answers to these
	message          string        // of the status
	strict           bool          // a client that extends another address than ours has no binding
	extra            []byte        // further options
	inIA             []byte        // and these where the address is
	got              []message6
}

// message6 is what a client sent.
type message6 struct {
	kind    byte
	at      time.Time
	xid     string
	options map[uint16][]byte
	iaid    uint32
	addrs   []netip.Addr // that it has or would like
	from    net.Addr
}

// startDHCPD6 makes the router a DHCPv6 server with one address to give, which
// is to be renewed after renewal6.
func (w *world) startDHCPD6(addr string) *dhcpd6 {
	w.t.Helper()
	return w.startDHCPD6On(w.router, addr)
}

const (
	renewal6  = 3 // T1, in seconds
	rebind6At = 5 // T2
	lifetime6 = 30
)

func (w *world) startDHCPD6On(host *ns, addr string) *dhcpd6 {
	w.t.Helper()
	d := &dhcpd6{
		duid: "\x00\x03\x00\x01" + host.name, addr: netip.MustParseAddr(addr),
		valid: lifetime6, preferred: lifetime6, t1: renewal6, t2: rebind6At, deaf: map[byte]bool{}, status: map[byte]byte{},
	}
	err := in(host, func() error {
		cfg := net.ListenConfig{Control: dhcpSocket}
		c, err := cfg.ListenPacket(context.Background(), "udp6", "[::]:547")
		if err != nil {
			return err
		}
		d.conn = c.(*net.UDPConn)
		iface, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return ipv6.NewPacketConn(c).JoinGroup(iface, &net.UDPAddr{IP: net.ParseIP("ff02::1:2")})
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { d.conn.Close() })
	go d.serve()
	return d
}

// change sets what the server does from now on.
func (d *dhcpd6) change(f func(*dhcpd6)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// hush makes the server deaf, or hear again.
func (d *dhcpd6) hush(deaf bool) { d.change(func(d *dhcpd6) { d.deaf[0] = deaf }) }

// messages is every message of these kinds so far.
func (d *dhcpd6) messages(kinds ...byte) []message6 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var some []message6
	for _, m := range d.got {
		if slices.Contains(kinds, m.kind) {
			some = append(some, m)
		}
	}
	return some
}

// hears is a condition: at least n messages of a kind have come.
func (d *dhcpd6) hears(kind byte, n int) func() error {
	return func() error {
		if got := len(d.messages(kind)); got < n {
			return fmt.Errorf("%d DHCPv6 messages of type %d, want %d", got, kind, n)
		}
		return nil
	}
}

// hearsMore is hears for messages from now on.
func (d *dhcpd6) hearsMore(kind byte) func() error { return d.hears(kind, len(d.messages(kind))+1) }

func (d *dhcpd6) serve() {
	buf := make([]byte, 4096)
	for {
		n, from, err := d.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if m, ok := parseDHCP6(slices.Clone(buf[:n])); ok {
			m.from = from
			d.handle(m)
		}
	}
}

func parseDHCP6(b []byte) (message6, bool) {
	if len(b) < 4 {
		return message6{}, false
	}
	m := message6{kind: b[0], at: time.Now(), xid: string(b[1:4]), options: options6(b[4:])}
	if ia := m.options[optIANA]; len(ia) >= 12 {
		m.iaid = binary.BigEndian.Uint32(ia)
		for rest := ia[12:]; len(rest) >= 4; {
			end := min(len(rest), 4+int(binary.BigEndian.Uint16(rest[2:])))
			if a := rest[4:end]; binary.BigEndian.Uint16(rest) == optIAAddr && len(a) >= 16 {
				addr, _ := netip.AddrFromSlice(a[:16])
				m.addrs = append(m.addrs, addr)
			}
			rest = rest[end:]
		}
	}
	return m, m.options[optClientID6] != nil
}

// options6 are the options by their codes, each the first of its kind.
func options6(b []byte) map[uint16][]byte {
	all := map[uint16][]byte{}
	for len(b) >= 4 {
		code, end := binary.BigEndian.Uint16(b), min(len(b), 4+int(binary.BigEndian.Uint16(b[2:])))
		if _, seen := all[code]; !seen {
			all[code] = b[4:end]
		}
		b = b[end:]
	}
	return all
}

// option6 is one DHCPv6 option on the wire.
func option6(code uint16, value string) []byte {
	b := binary.BigEndian.AppendUint16(nil, code)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(value))), value...)
}

func (d *dhcpd6) handle(m message6) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got = append(d.got, m)
	if d.deaf[0] || d.deaf[m.kind] {
		return
	}
	if server, named := m.options[optServerID6]; named && string(server) != d.duid {
		return
	}
	kind := byte(reply6)
	if m.kind == solicit6 {
		kind = advertise6
	}
	reply := append([]byte{kind}, m.xid...)
	reply = append(reply, option6(optClientID6, string(m.options[optClientID6]))...)
	reply = append(reply, option6(optServerID6, d.duid)...)
	switch m.kind {
	case solicit6, request6, renew6, rebind6:
		reply = append(reply, option6(optIANA, string(d.ia(m)))...)
		reply = append(reply, option6(optDNS6, string(ips("2001:db8:1::53")))...)
	case confirm6, release6, decline6:
		reply = append(reply, option6(optStatus6, string([]byte{0, d.status[m.kind]})+d.message)...)
	case inform6:
	default:
		return
	}
	reply = append(reply, d.extra...)
	time.AfterFunc(2*time.Millisecond, func() {
		d.conn.WriteTo(reply, m.from) //nolint:errcheck // the client asks again
	})
}

// ia is what the answer says of the address.
func (d *dhcpd6) ia(m message6) []byte {
	b := binary.BigEndian.AppendUint32(nil, m.iaid)
	b = binary.BigEndian.AppendUint32(b, d.t1)
	b = binary.BigEndian.AppendUint32(b, d.t2)
	extends := m.kind == renew6 || m.kind == rebind6
	status := d.status[m.kind]
	if status == 0 && d.strict && extends && !slices.Contains(m.addrs, d.addr) {
		status = noBinding
	}
	if status == 0 && !d.addr.IsValid() {
		status = noAddrsAvail
	}
	if status != 0 {
		return append(b, option6(optStatus6, string([]byte{0, status})+d.message)...)
	}
	for _, old := range m.addrs {
		if extends && old != d.addr {
			b = append(b, iaAddr(old, 0, 0, nil)...)
		}
	}
	return append(b, iaAddr(d.addr, d.preferred, d.valid, d.inIA)...)
}

func iaAddr(addr netip.Addr, preferred, valid uint32, further []byte) []byte {
	b := binary.BigEndian.AppendUint32(addr.AsSlice(), preferred)
	b = append(binary.BigEndian.AppendUint32(b, valid), further...)
	return option6(optIAAddr, string(b))
}

func TestTheDHCPv6ServerOfTheseTests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true})
	d := w.startDHCPD6(leasedIP6)
	eventually(t, hang, func() error {
		_, err := w.box.local6("lan0")
		return err
	})
	told := w.dir + "/told"
	hook := w.hook("env | sed -n 's/^new_dhcp6_ia_na1_ia_addr1=//p' >>" + told)
	config := w.write("dhcpcd.conf", "ipv6only\nnoipv6rs\nnoconfigure\nreboot 0\nia_na 1\nscript "+hook+"\n")
	client := w.box.start("unshare", "-m", "sh", "-c", `mount -t tmpfs leases /var/lib/dhcpcd && exec dhcpcd -B -6 -f "$0" lan0`, config)
	eventually(t, hang, w.contains(told, leasedIP6))
	eventually(t, deadline, d.hears(renew6, 1))
	client.signal(syscall.SIGTERM)
	for _, kind := range []byte{solicit6, request6} {
		if err := d.hears(kind, 1)(); err != nil {
			t.Error(err)
		}
	}
}
