package probe

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// listenUDP opens a socket that tells to which of the host's addresses each
// datagram was sent: an answer has to leave from that one.
func listenUDP(address string) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			// Without IPv6 in the kernel there is nothing to set.
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	conn, err := config.ListenPacket(context.Background(), "udp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// readFrom also gives the local address and port of the datagram.
func readFrom(conn *net.UDPConn, buf, control []byte) (n int, local, peer netip.AddrPort, err error) {
	n, oobn, _, peer, err := conn.ReadMsgUDPAddrPort(buf, control)
	if err != nil {
		return 0, local, peer, err
	}
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	return n, netip.AddrPortFrom(localAddr(control[:oobn]), port), peer, nil
}

// writeTo answers from the address that was asked.
func writeTo(conn *net.UDPConn, answer []byte, local, peer netip.AddrPort) {
	conn.WriteMsgUDPAddrPort(answer, sourceControl(local.Addr()), peer)
}

// localAddr finds the destination address in a datagram's control messages.
func localAddr(control []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0]))
			return netip.AddrFrom4(info.Addr)
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&m.Data[0]))
			return netip.AddrFrom16(info.Addr).Unmap()
		}
	}
	return netip.Addr{}
}

func sourceControl(local netip.Addr) []byte {
	switch {
	case local.Is4():
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
	case local.Is6():
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16()})
	}
	return nil
}
