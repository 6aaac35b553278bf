package exec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Settings of an interface that /proc/sys has, which cannot be written in a
// container. Netlink can set them too; no option of ip does (linux/ip.h).
const (
	arpAnnounce        = 18 // 2: ask with the interface's own address only
	arpIgnore          = 19 // 1: answer for the interface's own addresses only
	promoteSecondaries = 20 // 1: dhcpcd insists on it
)

// BeOneHost has an interface speak in ARP for its own addresses alone, and not, as
// Linux does otherwise, for all of the namespace: the LAN would hear of those
// inside.
func (i IP) BeOneHost(_ context.Context, iface string) error {
	return errors.Join(setDevconf(iface, arpIgnore, 1), setDevconf(iface, arpAnnounce, 2))
}

func setDevconf(iface string, setting uint16, value uint32) error {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	spec := attribute(unix.IFLA_AF_SPEC, attribute(unix.AF_INET, attribute(unix.IFLA_INET_CONF, attribute(setting, native32(value)))))
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], uint32(link.Index))
	if err := netlink(unix.RTM_NEWLINK, append(body, spec...)); err != nil {
		return fmt.Errorf("changing setting %d of %s: %w", setting, iface, err)
	}
	return nil
}

// attribute is one of rtnetlink(7)'s, padded to 4 bytes.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// netlink sends one request to the kernel and returns what it answers.
func netlink(kind uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	b := native32(uint32(unix.SizeofNlMsghdr + len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, make([]byte, 8)...) // sequence and sender: the kernel fills in what it needs
	if err := unix.Sendto(fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("the kernel gave no answer to request %d", kind)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
