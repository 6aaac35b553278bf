package exec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// packets is a socket for the payloads of one protocol on one interface
// (packet(7)): what it sends and hears, no firewall and no address table does.
type packets struct {
	fd    int
	index int
	proto uint16 // in network byte order, as packet(7) wants it
}

// errNoNetRaw tells what a packet socket needs.
var errNoNetRaw = errors.New("the container lacks a permission: add cap_add: [NET_RAW]")

func openPackets(iface string, proto uint16) (*packets, error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	p := &packets{index: link.Index, proto: proto<<8 | proto>>8}
	p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, errNoNetRaw
	}
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	// So short that the end of a context is seen soon.
	patience := unix.NsecToTimeval((20 * time.Millisecond).Nanoseconds())
	err = errors.Join(
		unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: p.proto, Ifindex: p.index}),
		unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
	)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("listening on %s: %w", iface, err)
	}
	return p, nil
}

func (p *packets) close() { _ = unix.Close(p.fd) }

// broadcast sends a payload to everybody on the link.
func (p *packets) broadcast(payload []byte) error {
	to := unix.SockaddrLinklayer{Protocol: p.proto, Ifindex: p.index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return unix.Sendto(p.fd, payload, 0, &to)
}

// exchange broadcasts a payload at once and again after each pause, and hands
// what others send to hear, until that says that it is done or ctx ends.
func (p *packets) exchange(ctx context.Context, payload []byte, pause time.Duration, hear func([]byte) (done bool)) error {
	buf := make([]byte, 2048)
	var due time.Time
	for ctx.Err() == nil {
		if now := time.Now(); !now.Before(due) {
			if err := p.broadcast(payload); err != nil {
				return err
			}
			due = now.Add(pause)
		}
		n, from, err := unix.Recvfrom(p.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_OUTGOING && hear(buf[:n]) {
			return nil
		}
	}
	return nil
}

// onesComplement is the checksum of IP (RFC 1071).
func onesComplement(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
