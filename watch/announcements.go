package watch

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord"
)

// Announcements listens, in a service-anchor, to hosts that announce their own
// address (RFC 5227, 3): a network-anchor does when it starts. Its name may then
// mean another address, which is worth a look long before the old one's
// neighbour entry fails.
type Announcements struct {
	Fire func(anchord.Source, time.Time)
}

// Follow listens until ctx ends.
func (a Announcements) Follow(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(networkOrder(unix.ETH_P_ARP)))
	if err != nil {
		return fmt.Errorf("listening to announcements of addresses: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "arp")
	defer socket.Close()
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	packet := make([]byte, 64)
	for {
		n, err := socket.Read(packet)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listening to announcements of addresses: %w", err)
		}
		if _, is := announced(packet[:n]); is {
			a.Fire(anchord.SourceNames, time.Time{})
		}
	}
}

func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// announced is the address that an ARP packet (RFC 826, of Ethernet and IPv4)
// announces: one that asks for, or answers with, its sender's own.
func announced(packet []byte) (addr netip.Addr, is bool) {
	const sender, target, length = 14, 24, 28
	if len(packet) < length || binary.BigEndian.Uint16(packet[2:]) != unix.ETH_P_IP || packet[5] != 4 {
		return addr, false
	}
	from, _ := netip.AddrFromSlice(packet[sender : sender+4])
	about, _ := netip.AddrFromSlice(packet[target : target+4])
	return from, from == about && !from.IsUnspecified()
}
