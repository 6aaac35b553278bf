package exec

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Offer is a DHCP server's answer to a DISCOVER.
type Offer struct {
	Server, Address, Router netip.Addr // Router is invalid if none is named
}

// Discover asks for offers of an address (RFC 2131, 3.1) in the name of a
// client, and takes none: no server writes anything down before it is asked for
// what it offered. It waits for the first offer until ctx ends; none is no error.
func Discover(ctx context.Context, iface, mac, hostname string) (Offer, bool, error) {
	client, err := net.ParseMAC(mac)
	if err != nil || len(client) != 6 {
		return Offer{}, false, fmt.Errorf("asking for an address with the MAC %q: it is none", mac)
	}
	p, err := openPackets(iface, unix.ETH_P_IP)
	if err != nil {
		return Offer{}, false, err
	}
	defer p.close()
	xid := make([]byte, 4)
	_, _ = rand.Read(xid) // documented never to fail
	var offer Offer
	var found bool
	err = p.exchange(ctx, discoverPacket(xid, client, hostname), time.Second, func(b []byte) bool {
		offer, found = parseOffer(b, xid)
		return found
	})
	if err != nil {
		return Offer{}, false, fmt.Errorf("asking for an address on %s: %w", iface, err)
	}
	return offer, found, nil
}

// DHCP's numbers (RFC 2131, RFC 2132).
const (
	dhcpHeader = 236
	dhcpMagic  = "\x63\x82\x53\x63"

	dhcpRouter, dhcpHostname, dhcpType, dhcpServer, dhcpParameters, dhcpClientID, dhcpEnd = 3, 12, 53, 54, 55, 61, 255

	dhcpDiscover, dhcpOffer = 1, 2
)

// discoverPacket is what udhcpc sends first, but that every answer shall be
// broadcast, since the interface may have another MAC than the client will.
func discoverPacket(xid []byte, mac net.HardwareAddr, hostname string) []byte {
	message := make([]byte, dhcpHeader)
	copy(message, []byte{1, 1, 6, 0}) // a request, Ethernet, length of its addresses, no hops
	copy(message[4:], xid)
	message[10] = 0x80 // broadcast
	copy(message[28:], mac)
	message = append(message, dhcpMagic...)
	message = append(message, dhcpType, 1, dhcpDiscover)
	message = append(message, dhcpParameters, 3, 1, dhcpRouter, 6)
	name := hostname[:min(len(hostname), 253)]
	message = append(append(message, dhcpHostname, byte(len(name))), name...)
	message = append(append(message, dhcpClientID, byte(len(name)+1), 0), name...)
	message = append(message, dhcpEnd)
	message = append(message, make([]byte, max(0, 300-len(message)))...) // servers may want that many (RFC 1542, 2.1)
	return udp4(message)
}

// udp4 wraps a message of a DHCP client, that has no address yet.
func udp4(message []byte) []byte {
	const header, udpHeader = 20, 8
	b := make([]byte, header+udpHeader, header+udpHeader+len(message))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(header+udpHeader+len(message)))
	copy(b[16:], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(b[10:], onesComplement(b[:header]))
	binary.BigEndian.PutUint16(b[20:], 68)
	binary.BigEndian.PutUint16(b[22:], 67)
	binary.BigEndian.PutUint16(b[24:], uint16(udpHeader+len(message))) // its checksum may be left out (RFC 768)
	return append(b, message...)
}

// parseOffer reads an IP packet that may be the answer.
func parseOffer(b, xid []byte) (Offer, bool) {
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_UDP {
		return Offer{}, false
	}
	b = b[min(int(b[0]&15)*4, len(b)):]
	if len(b) < 8+dhcpHeader+len(dhcpMagic) || binary.BigEndian.Uint16(b[2:]) != 68 {
		return Offer{}, false
	}
	message := b[8:]
	if message[0] != 2 || !bytes.Equal(message[4:8], xid) || string(message[dhcpHeader:dhcpHeader+4]) != dhcpMagic {
		return Offer{}, false
	}
	var o Offer
	kind := byte(0)
	o.Address = netip.AddrFrom4([4]byte(message[16:20]))
	for options := message[dhcpHeader+4:]; len(options) > 1 && options[0] != dhcpEnd; {
		if options[0] == 0 {
			options = options[1:]
			continue
		}
		end := 2 + int(options[1])
		if end > len(options) {
			break
		}
		value := options[2:end]
		switch {
		case options[0] == dhcpType && len(value) == 1:
			kind = value[0]
		case options[0] == dhcpServer && len(value) == 4:
			o.Server = netip.AddrFrom4([4]byte(value))
		case options[0] == dhcpRouter && len(value) >= 4:
			o.Router = netip.AddrFrom4([4]byte(value[:4]))
		}
		options = options[end:]
	}
	return o, kind == dhcpOffer && o.Address.IsGlobalUnicast()
}
