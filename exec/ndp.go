package exec

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// Neighbour discovery (RFC 4861). No tool of the image sends these messages.

// advertise sends three unsolicited neighbour advertisements to all nodes, a
// second apart (7.2.6), for as long as the address can be used.
func advertise(ctx context.Context, iface string, addr netip.Addr) error {
	const override = 0x20 // replace what is cached; neither a router nor an answer
	body := append([]byte{override, 0, 0, 0}, addr.AsSlice()...)
	message := ndpMessage{kind: ipv6.ICMPTypeNeighborAdvertisement, body: body, option: targetLinkLayerAddress, to: net.IPv6linklocalallnodes}
	for range 3 {
		if err := message.send(iface, addr); err != nil {
			if !usable(iface, addr) {
				return nil
			}
			return fmt.Errorf("announcing %s: %w", addr, err)
		}
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
	}
	return nil
}

// usable says whether something can be sent from an address: its interface is up,
// and the address is ours and known to be free, or it could not be bound.
func usable(iface string, addr netip.Addr) bool {
	link, err := net.InterfaceByName(iface)
	if err != nil || link.Flags&net.FlagUp == 0 {
		return false
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// Solicit asks the routers on an interface to introduce themselves (RFC 4861,
// 4.1).
func (i IP) Solicit(_ context.Context, iface string) error {
	message := ndpMessage{kind: ipv6.ICMPTypeRouterSolicitation, body: make([]byte, 4), option: sourceLinkLayerAddress, to: net.IPv6linklocalallrouters}
	if err := message.send(iface, netip.Addr{}); err != nil {
		return fmt.Errorf("asking the routers on %s: %w", iface, err)
	}
	return nil
}

// sleep says whether the whole pause has passed.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Options that carry our hardware address (RFC 4861, 4.6.1).
const (
	sourceLinkLayerAddress = 1
	targetLinkLayerAddress = 2
)

type ndpMessage struct {
	kind   ipv6.ICMPType
	body   []byte
	option byte
	to     net.IP
}

// send sends it once, with the hop limit that proves it comes from the link.
func (m ndpMessage) send(iface string, from netip.Addr) error {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return err
	}
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return fmt.Errorf("%w (the container lacks a permission: add cap_add: [NET_RAW])", err)
	}
	defer func() { _ = conn.Close() }()
	text := append([]byte{byte(m.kind), 0, 0, 0}, m.body...) // the kernel fills in the checksum
	text = append(text, slices.Concat([]byte{m.option, 1}, link.HardwareAddr)...)
	control := &ipv6.ControlMessage{IfIndex: link.Index, HopLimit: 255}
	if from.IsValid() {
		control.Src = from.AsSlice()
	}
	// No zone: package net remembers for a minute which number an interface of
	// that name had.
	_, err = conn.IPv6PacketConn().WriteTo(text, control, &net.IPAddr{IP: m.to})
	return err
}
