package netns_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// DHCP message types and options (RFC 2131, 2132).
const (
	discover, offer, request, decline, ack, nak, release = 1, 2, 3, 4, 5, 6, 7

	optMask, optRouter, optDNS, optHostname, optRequested, optLease = 1, 3, 6, 12, 50, 51
	optType, optServerID, optClientID, optEnd                       = 53, 54, 61, 255
)

// dhcpd is a DHCP server that a test can make misbehave. dnsmasq stands for
// the ordinary ones; but its leases last two minutes at least, it does not
// change its mind, and it does not fall silent.
type dhcpd struct {
	conn *net.UDPConn
	self netip.Addr

	mu      sync.Mutex
	addr    netip.Addr
	gateway netip.Addr
	lease   time.Duration
	silent  bool
	strict  bool // a client that renews another address than ours gets NAK
	jealous bool // so does a client that chooses another server
	// replaced are options by their code in place of the usual ones; nil
	// leaves one out.
	replaced map[byte][]byte
	extra    []byte // further options
	sname    string // the two fields of fixed size
	bootFile string
	got      []dhcpMessage
}

// dhcpMessage is what a client sent.
type dhcpMessage struct {
	kind    byte
	at      time.Time
	ciaddr  netip.Addr
	options map[byte][]byte
	raw     []byte
}

// startDHCPD makes the router a DHCP server with one address to give.
func (w *world) startDHCPD(addr string, lease time.Duration) *dhcpd {
	w.t.Helper()
	return w.startDHCPDOn(w.router, routerIP, addr, lease)
}

// startDHCPDOn makes a host whose address is self a DHCP server.
func (w *world) startDHCPDOn(host *ns, self, addr string, lease time.Duration) *dhcpd {
	w.t.Helper()
	d := &dhcpd{
		self: netip.MustParseAddr(self), addr: netip.MustParseAddr(addr), gateway: netip.MustParseAddr(routerIP),
		lease: lease, replaced: map[byte][]byte{},
	}
	err := in(host, func() error {
		cfg := net.ListenConfig{Control: dhcpSocket}
		c, err := cfg.ListenPacket(context.Background(), "udp4", "0.0.0.0:67")
		if err == nil {
			d.conn = c.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { d.conn.Close() })
	go d.serve()
	return d
}

// dhcpSocket is bound to the LAN and may broadcast.
func dhcpSocket(_, _ string, raw syscall.RawConn) (err error) {
	ctlErr := raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err == nil {
			err = unix.BindToDevice(int(fd), "eth0")
		}
	})
	if err == nil {
		err = ctlErr
	}
	return err
}

// change sets what the server does from now on.
func (d *dhcpd) change(f func(*dhcpd)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// messages is every message of a kind so far.
func (d *dhcpd) messages(kind byte) []dhcpMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	var some []dhcpMessage
	for _, m := range d.got {
		if m.kind == kind {
			some = append(some, m)
		}
	}
	return some
}

// hears is a condition: at least n messages of a kind have come.
func (d *dhcpd) hears(kind byte, n int) func() error {
	return func() error {
		if got := len(d.messages(kind)); got < n {
			return fmt.Errorf("%d DHCP messages of type %d, want %d", got, kind, n)
		}
		return nil
	}
}

func (d *dhcpd) serve() {
	buf := make([]byte, 2048)
	for {
		n, _, err := d.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if m, ok := parseDHCP(buf[:n]); ok {
			d.handle(m)
		}
	}
}

func parseDHCP(b []byte) (dhcpMessage, bool) {
	if len(b) < 240 || b[0] != 1 {
		return dhcpMessage{}, false
	}
	m := dhcpMessage{at: time.Now(), raw: append([]byte(nil), b...), options: map[byte][]byte{}}
	m.ciaddr, _ = netip.AddrFromSlice(m.raw[12:16])
	for o := m.raw[240:]; len(o) > 1 && o[0] != optEnd; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		end := min(2+int(o[1]), len(o))
		m.options[o[0]] = o[2:end]
		o = o[end:]
	}
	if len(m.options[optType]) != 1 {
		return m, false
	}
	m.kind = m.options[optType][0]
	return m, true
}

func (d *dhcpd) handle(m dhcpMessage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got = append(d.got, m)
	if d.silent {
		return
	}
	switch m.kind {
	case discover:
		if d.addr.IsValid() {
			d.answer(m, offer)
		}
	case request:
		wanted, _ := netip.AddrFromSlice(m.options[optRequested])
		chosen, _ := netip.AddrFromSlice(m.options[optServerID])
		switch {
		case chosen.IsValid() && !chosen.IsUnspecified() && chosen != d.self:
			if d.jealous {
				d.answer(m, nak)
			}
		case d.strict && !m.ciaddr.IsUnspecified() && m.ciaddr != d.addr:
			d.answer(m, nak)
		case wanted.IsValid() && wanted != d.addr:
			d.answer(m, nak)
		default:
			d.answer(m, ack)
		}
	}
}

// answer waits a moment: on a veth an answer can come before the client
// listens.
func (d *dhcpd) answer(m dhcpMessage, kind byte) {
	reply := d.message(m, kind)
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
	if kind == ack && !m.ciaddr.IsUnspecified() {
		to.IP = net.IP(m.ciaddr.AsSlice())
	}
	time.AfterFunc(2*time.Millisecond, func() {
		d.conn.WriteTo(reply, to) //nolint:errcheck // the client asks again
	})
}

func (d *dhcpd) message(m dhcpMessage, kind byte) []byte {
	b := make([]byte, 240, 600)
	copy(b, m.raw[:240])
	b[0] = 2
	clear(b[12:28])
	server := d.self.AsSlice()
	copy(b[20:24], server)
	b = append(b, optType, 1, kind)
	if kind == nak {
		b = append(b, option(optServerID, string(server))...)
		return append(b, optEnd)
	}
	copy(b[16:20], d.addr.AsSlice())
	copy(b[44:108], d.sname)
	copy(b[108:236], d.bootFile)
	for _, o := range []struct {
		code  byte
		value []byte
	}{
		{optServerID, server},
		{optMask, []byte{255, 255, 255, 0}},
		{optLease, binary.BigEndian.AppendUint32(nil, uint32(d.lease/time.Second))},
		{optRouter, d.gateway.AsSlice()},
		{optDNS, []byte{198, 51, 100, 53}},
	} {
		if other, is := d.replaced[o.code]; is {
			o.value = other
		}
		if o.value != nil {
			b = append(b, option(o.code, string(o.value))...)
		}
	}
	return append(append(b, d.extra...), optEnd)
}

// option is one DHCP option on the wire.
func option(code byte, value string) []byte {
	return append([]byte{code, byte(len(value))}, value...)
}

// ips is a value made of addresses.
func ips(addrs ...string) []byte {
	value := []byte{}
	for _, a := range addrs {
		value = append(value, netip.MustParseAddr(a).AsSlice()...)
	}
	return value
}

func TestTheDHCPServerOfTheseTests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	d := w.startDHCPD("198.51.100.77", 30*time.Second)
	hook := w.hook("[ \"$1\" = bound ] && ip addr add $ip/$mask dev lan0")
	w.box.run("udhcpc", "-f", "-q", "-i", "lan0", "-s", hook)
	if got, err := w.extAddress(); err != nil || got != "198.51.100.77" {
		t.Errorf("got %q, %v", got, err)
	}
	if len(d.messages(request)) != 1 {
		t.Errorf("heard %d requests", len(d.messages(request)))
	}
}
