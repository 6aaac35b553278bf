package exec

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// What the doctor asks the LAN. Nothing here takes an address, or changes what
// anybody else knows of us.

// Holders asks the LAN who has an IPv4 address, by an ARP probe (RFC 5227, 2.1.1),
// of which nobody learns anything of us, and returns the hardware addresses of
// others that answer before ctx ends; the first answer is enough.
func Holders(ctx context.Context, iface string, addr netip.Addr) ([]string, error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	p, err := openPackets(iface, unix.ETH_P_ARP)
	if err != nil {
		return nil, err
	}
	defer p.close()
	var found []string
	err = p.exchange(ctx, arpProbe(link.HardwareAddr, addr), 300*time.Millisecond, func(b []byte) bool {
		holder, ok := arpSender(b, addr)
		if ok && !bytes.Equal(holder, link.HardwareAddr) {
			found = append(found, holder.String())
		}
		return len(found) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("asking who has %s: %w", addr, err)
	}
	return found, nil
}

// arpProbe asks who has an address (RFC 826), as nobody.
func arpProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	header := []byte{0, 1, 8, 0, 6, 4, 0, 1}                             // Ethernet, IPv4, lengths of both addresses, request
	return slices.Concat(header, mac, make([]byte, 4+6), addr.AsSlice()) // no sender's address, no target's MAC
}

// arpSender is who claims in an ARP message, be it a request or an answer, to
// have addr.
func arpSender(b []byte, addr netip.Addr) (net.HardwareAddr, bool) {
	if len(b) < 28 || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) || !bytes.Equal(b[14:18], addr.AsSlice()) {
		return nil, false
	}
	return slices.Clone(b[8:14]), true
}

// Answers says whether a host answers a ping that comes from one of our own
// addresses, before ctx ends.
func Answers(ctx context.Context, from, to netip.Addr) (bool, error) {
	network, proto := "ip4:icmp", 1
	var ask, want icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if to.Is6() {
		network, proto, ask, want = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := icmp.ListenPacket(network, from.String())
	if os.IsPermission(err) {
		return false, errNoNetRaw
	}
	if err != nil {
		return false, fmt.Errorf("asking %s from %s: %w", to, from, err)
	}
	defer func() { _ = conn.Close() }()
	id := make([]byte, 4)
	_, _ = rand.Read(id) // documented never to fail
	echo := &icmp.Echo{ID: int(binary.BigEndian.Uint16(id)), Seq: int(binary.BigEndian.Uint16(id[2:]))}
	text, err := (&icmp.Message{Type: ask, Body: echo}).Marshal(nil)
	if err != nil {
		return false, err
	}
	buf := make([]byte, 1500)
	for ctx.Err() == nil {
		if _, err := conn.WriteTo(text, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return false, fmt.Errorf("asking %s from %s: %w", to, from, err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		for {
			n, sender, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			message, err := icmp.ParseMessage(proto, buf[:n])
			if err != nil || message.Type != want {
				continue
			}
			ip, _ := sender.(*net.IPAddr)
			if answer, ok := message.Body.(*icmp.Echo); ok && ip != nil && answer.ID == echo.ID && answer.Seq == echo.Seq && ip.IP.Equal(to.AsSlice()) {
				return true, nil
			}
		}
	}
	return false, nil
}

// Connects says why a TCP connection is not accepted; one that is ends at once. It
// comes from one of our own addresses, or, if from is invalid, from the nearest.
func Connects(ctx context.Context, from netip.Addr, to netip.AddrPort) error {
	var dialer net.Dialer
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	return conn.Close()
}

// Reaches has the kernel ask anew for a neighbour, and says whether it answers
// before ctx ends.
func (i IP) Reaches(ctx context.Context, iface string, addr netip.Addr) (bool, error) {
	show := func(ctx context.Context) (string, error) {
		out, err := i.Runner.Run(ctx, "", "ip", "neighbour", "show", addr.String(), "dev", iface)
		return string(out), err
	}
	before, err := show(ctx)
	if err != nil {
		return false, fmt.Errorf("looking for neighbour %s: %w", addr, err)
	}
	if strings.Contains(before, "PERMANENT") || strings.Contains(before, "NOARP") {
		return true, nil // somebody's own word, which is not ours to put in doubt
	}
	ask := []string{"ip", "neighbour", "replace", addr.String(), "dev", iface, "use"}
	if strings.Contains(before, "lladdr") {
		ask = []string{"ip", "neighbour", "change", addr.String(), "dev", iface, "nud", "probe"}
	}
	if _, err := i.Runner.Run(ctx, "", ask...); err != nil {
		return false, fmt.Errorf("asking for neighbour %s: %w", addr, err)
	}
	for ctx.Err() == nil {
		if state, _ := show(ctx); strings.Contains(state, "REACHABLE") {
			return true, nil
		}
		sleep(ctx, 50*time.Millisecond)
	}
	// It may have answered while we were kept from looking.
	state, err := show(context.WithoutCancel(ctx))
	return strings.Contains(state, "REACHABLE"), err
}

// Raised brings an interface up, if it is down, and says how to undo it.
func (i IP) Raised(ctx context.Context, iface string) (undo func(), err error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	if link.Flags&net.FlagUp != 0 {
		return func() {}, nil
	}
	if err := i.SetUp(ctx, iface); err != nil {
		return nil, err
	}
	return func() {
		_, _ = i.Runner.Run(context.WithoutCancel(ctx), "", "ip", "link", "set", "dev", iface, "down")
	}, nil
}
