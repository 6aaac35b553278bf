package netns_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/sys/unix"
)

// both is a project on a LAN with both families; each test of it names a family by
// its addresses.
type both struct {
	*running
	ext6 string
}

func startBoth(t *testing.T) *both {
	t.Helper()
	r := start(t, setup{ipv6: true})
	return &both{r, r.ext6()}
}

// kin are the addresses of one family.
type kin struct {
	name, ext, client, outside string
	of                         func(*backend) string
}

func (b *both) families() []kin {
	return []kin{
		{"v4", b.ext, clientIP, outsideIP, func(c *backend) string { return c.ip }},
		{"v6", b.ext6, clientIP6, outsideIP6, func(c *backend) string { return c.ip6 }},
	}
}

// peers notes from which addresses and ports a host was spoken to, and answers.
func (n *ns) peers(network, addr string) func() []netip.AddrPort {
	n.t.Helper()
	seen := make(chan netip.AddrPort, 100000) // more than are asked for
	if network == "udp" {
		var c net.PacketConn
		if err := in(n, func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { c.Close() })
		go func() {
			for buf := make([]byte, 1500); ; {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				seen <- netip.MustParseAddrPort(from.String())
				c.WriteTo([]byte("seen "+from.String()), from) //nolint:errcheck // who asks sees it
			}
		}()
	} else {
		var l net.Listener
		if err := in(n, func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				seen <- netip.MustParseAddrPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "seen %s", c.RemoteAddr())
				c.Close()
			}
		}()
	}
	return func() (all []netip.AddrPort) {
		for {
			select {
			case from := <-seen:
				all = append(all, from)
			default:
				return all
			}
		}
	}
}

// askFromPort asks from a port of one's own.
func (n *ns) askFromPort(network string, port int, addr string) (string, error) {
	var answer string
	err := in(n, func() error {
		d := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }) //nolint:errcheck // the bind tells
		}}
		d.LocalAddr = &net.UDPAddr{Port: port}
		if network == "tcp" {
			d.LocalAddr = &net.TCPAddr{Port: port}
		}
		c, err := d.DialContext(context.Background(), network, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) //nolint:errcheck // so that the port is free for the next one
		}
		c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a socket that is open takes it
		if network == "udp" {
			if _, err := c.Write([]byte("?\n")); err != nil {
				return err
			}
		}
		buf := make([]byte, 200)
		k, err := c.Read(buf)
		answer = strings.TrimSpace(string(buf[:k]))
		return err
	})
	return answer, err
}

// leavesFrom is a condition: what a container sends from a port is seen as coming
// from the project's address, and from a port that this says yes to.
func (b *both) leavesFrom(c *backend, k kin, network string, port, to int, right func(port int) bool) func() error {
	return func() error {
		got, err := c.askFromPort(network, port, net.JoinHostPort(k.outside, strconv.Itoa(to)))
		if err != nil {
			return err
		}
		from, err := netip.ParseAddrPort(strings.TrimPrefix(got, "seen "))
		if err != nil || from.Addr().String() != k.ext || !right(int(from.Port())) {
			return fmt.Errorf("%s %s of %s from %d has left as %s (%v)", k.name, network, c.name, port, got, err)
		}
		return nil
	}
}

func exactly(want int) func(int) bool { return func(port int) bool { return port == want } }
func none(of ...int) func(int) bool {
	return func(port int) bool {
		for _, p := range of {
			if port == p {
				return false
			}
		}
		return true
	}
}

// A port that is exposed is its service's in both directions, and nobody else's.
func TestAPortLeavesAsItComesIn(t *testing.T) {
	t.Parallel()
	b := startBoth(t)
	label := func(p string) string {
		return fmt.Sprintf("%[1]s/5300, %[1]s/5310-5319, %[1]s/5400:5500, %[1]s/6000-6009:7000", p)
	}
	owner := b.backend("owner", 10, label("udp")+","+label("tcp"))
	other := b.backend("other", 11, "udp/5500:5600,tcp/5500:5600")
	mallory := b.backend("mallory", 20, "")
	for i, network := range []string{"udp", "tcp"} {
		b.outside.peers(network, ":9000")
		for _, k := range b.families() {
			t.Run(k.name+" "+network, func(t *testing.T) {
				eventually(t, deadline, func() error {
					return errors.Join(b.leavesFrom(owner, k, network, 5300, 9000, exactly(5300))(), b.leavesFrom(other, k, network, 5600, 9000, exactly(5500))())
				})
				exposed := []int{5300, 5310, 5315, 5319, 5400, 5500, 6000, 6009}
				for port, want := range map[int]int{5315: 5315, 5500: 5400, 7003: 6003, 4711: 4711} {
					eventually(t, deadline, b.leavesFrom(owner, k, network, port, 9000, exactly(want)))
				}
				for _, port := range exposed {
					eventually(t, deadline, b.leavesFrom(mallory, k, network, port, 9000, none(exposed...)))
				}
				eventually(t, deadline, b.leavesFrom(mallory, k, network, 4800+i, 9000, exactly(4800+i)))
			})
		}
	}
}

// Where two containers send from one port to one port of a peer, the kernel gives the
// second another one: never one that is exposed.
func TestACollisionOfPortsTakesNobodysPort(t *testing.T) {
	t.Parallel()
	b := startBoth(t)
	owner := b.backend("owner", 10, "udp/30000-65535")
	one, two := b.backend("one", 20, ""), b.backend("two", 21, "")
	b.outside.peers("udp", ":9000")
	for _, k := range b.families() {
		eventually(t, deadline, b.leavesFrom(owner, k, "udp", 30000, 9000, exactly(30000)))
		for port := 2001; port <= 2010; port++ {
			eventually(t, deadline, b.leavesFrom(one, k, "udp", port, 9000, exactly(port)))
		}
		for port := 2001; port <= 2010; port++ {
			// What would take an exposed port is dropped, and may try again.
			var err error
			eventually(t, hang, func() error {
				err = b.leavesFrom(two, k, "udp", port, 9000, func(p int) bool { return p < 30000 })()
				var late net.Error
				if errors.As(err, &late) && late.Timeout() {
					return err
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}

// A container without any capability sends to a client from the port of somebody
// else's service, without pause: the client's own datagrams reach that service, also
// where they were on their way before the port was exposed.
func TestAnotherServicesPortIsNotTaken(t *testing.T) {
	t.Parallel()
	b := startBoth(t)
	mallory := b.backend("mallory", 20, "")
	for _, k := range b.families() {
		taker := mallory.serveUDP("mallory", net.JoinHostPort(k.of(mallory), "5300"))
		to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(k.client, "5300"))
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for tick := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case <-stop:
					tick.Stop()
					return
				case <-tick.C:
					taker.conn.WriteTo([]byte("hello"), to) //nolint:errcheck // the client may refuse
				}
			}
		}()
	}
	eventually(t, deadline, func() error {
		for family, k := range map[string]kin{"ipv4": b.families()[0], "ipv6": b.families()[1]} {
			if flows := b.box.run("conntrack", "-L", "-f", family, "-p", "udp", "--orig-dst", k.client); !strings.Contains(flows, "sport=5300") {
				return fmt.Errorf("nothing is sent to %s yet: %s", k.client, flows)
			}
		}
		return nil
	})
	voice := b.bare("voice", 10)
	voice.serveUDP("voice", ":5300")
	voice.id = b.docker.AddContainer(voice.container("udp/5300"))
	for _, k := range b.families() {
		eventually(t, deadline, func() error {
			got, err := b.client.askFromPort("udp", 5300, net.JoinHostPort(k.ext, "5300"))
			if got == "hello" { // what mallory sends comes from another port, but to the same socket
				return errors.New("a datagram of mallory's came first")
			}
			if want := "voice " + k.client; err == nil && got != want {
				err = fmt.Errorf("the client is answered %q, want %q", got, want)
			}
			return err
		})
	}
}

// With Docker's default capabilities, a container can make neighbour discovery. None
// of it leaves the network inside, whatever source it has.
func TestNeighbourDiscoveryStaysInside(t *testing.T) {
	t.Parallel()
	b := startBoth(t)
	mallory := b.backend("mallory", 20, "")
	// Where a solicitation has its target; the last one is an echo, which may pass.
	seen := b.client.capture("eth0", "icmp6 and ip6[60:4] = 0x0bad0bad")
	about := make([]byte, 16)
	binary.BigEndian.PutUint32(about[12:], 0x0bad0bad)
	for _, source := range []string{mallory.ip6, b.ext6, routerIP6} {
		if source != mallory.ip6 {
			mallory.ns.ip("addr add " + source + "/128 dev transit0 nodad\n")
		}
		for _, kind := range []byte{130, 131, 132, 133, 134, 135, 136, 137, 143, 151} {
			mallory.sendICMP6(source, clientIP6, append([]byte{kind, 0, 0, 0, 0xe0, 0, 0, 0}, about...))
		}
	}
	eventually(t, deadline, func() error {
		mallory.sendICMP6(mallory.ip6, clientIP6, append([]byte{128, 0, 0, 0, 0, 1, 0, 1}, about...))
		if !strings.Contains(seen.text(), "echo request") {
			return errors.New("the last packet has not come")
		}
		return nil
	})
	for _, line := range strings.Split(seen.text(), "\n") {
		if !strings.Contains(line, "ICMP6, echo re") {
			t.Errorf("it left the network inside: %s", line)
		}
	}
}

// sendICMP6 sends a message as only a neighbour can: with the highest hop limit.
func (n *ns) sendICMP6(source, to string, message []byte) {
	n.t.Helper()
	err := in(n, func() error {
		c, err := icmp.ListenPacket("ip6:ipv6-icmp", source)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.IPv6PacketConn().SetHopLimit(255); err != nil {
			return err
		}
		_, err = c.WriteTo(message, &net.IPAddr{IP: net.ParseIP(to)})
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// The project's lease is its own: no container gives it back, or speaks DHCP to the
// LAN at all.
func TestNoContainerSpeaksDHCPToTheLAN(t *testing.T) {
	t.Parallel()
	b := startBoth(t)
	mallory := b.backend("mallory", 20, "")
	ports := map[string][]int{"v4": {67, 68}, "v6": {546, 547}}
	for _, k := range b.families() {
		seen := b.outside.peers("udp", net.JoinHostPort(k.outside, "9000"))
		dhcp := map[int]func() []netip.AddrPort{}
		for _, port := range ports[k.name] {
			dhcp[port] = b.outside.peers("udp", net.JoinHostPort(k.outside, strconv.Itoa(port)))
			mallory.askFromPort("udp", 5000+port, net.JoinHostPort(k.outside, strconv.Itoa(port))) //nolint:errcheck // nothing is to be answered
			mallory.askFromPort("udp", port, net.JoinHostPort(k.outside, "9000"))                  //nolint:errcheck // the same
		}
		eventually(t, deadline, b.leavesFrom(mallory, k, "udp", 5000, 9000, exactly(5000))) // all before has arrived, if it does
		for _, from := range seen() {
			if from.Port() != 5000 {
				t.Errorf("%s: a datagram from a port of DHCP has left, from %s", k.name, from)
			}
		}
		for port, who := range dhcp {
			if from := who(); len(from) > 0 {
				t.Errorf("%s: a datagram to port %d has left, from %v", k.name, port, from)
			}
		}
	}
	// What this was about: the release of the lease, as its client would send it.
	mac, _ := net.ParseMAC(b.box.mac("lan0"))
	release := dhcpRelease(netip.MustParseAddr(b.ext), netip.MustParseAddr(routerIP), mac, project)
	if err := mallory.sendFromPort(68, routerIP+":67", release); err != nil {
		t.Fatal(err)
	}
	b.router.peers("udp", routerIP+":9000")
	eventually(t, deadline, func() error { _, err := mallory.askFromPort("udp", 5001, routerIP+":9000"); return err })
	if got := b.d.table(); len(got) != 1 || got[0].ip != b.ext {
		t.Errorf("the server's leases are %v: the project's was given back", got)
	}
}

// sendFromPort sends one datagram from a port of one's own.
func (n *ns) sendFromPort(port int, to string, payload []byte) error {
	return in(n, func() error {
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{Port: port}}).Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(payload)
		return err
	})
}

// dhcpRelease is a DHCPRELEASE (RFC 2131, 4.4.6).
func dhcpRelease(addr, server netip.Addr, mac net.HardwareAddr, name string) []byte {
	m := make([]byte, 236)
	m[0], m[1], m[2] = 1, 1, 6
	copy(m[12:], addr.AsSlice())
	copy(m[28:], mac)
	m = append(m, 99, 130, 83, 99, 53, 1, 7, 54, 4)
	m = append(m, server.AsSlice()...)
	m = append(m, 61, byte(1+len(name)), 0)
	return append(append(m, name...), 255)
}

// Errors about packets that nobody sent change nothing for those that are sent: a
// route's MTU is that of the whole project.
func TestAForgedErrorLowersNoMTU(t *testing.T) {
	t.Parallel()
	b := startBoth(t)
	echo := make([]byte, 8)
	echo[0] = 8
	b.client.sendError4(b.ext, 3, 4, 600, quote4(b.ext, outsideIP, echo))
	b.client.sendError6(b.ext6, 1280, quote6(b.ext6, outsideIP6, echo))
	// The kernel answers in order, so that by then it has seen the errors.
	b.client.run("ping", "-n", "-c", "1", "-W", "5", b.ext)
	b.client.run("ping", "-n", "-c", "1", "-W", "5", b.ext6)
	for _, to := range []string{outsideIP, outsideIP6} {
		if route := b.box.run("ip", "route", "get", to); strings.Contains(route, "mtu ") {
			t.Errorf("the way to %s has got a smaller MTU: %s", to, route)
		}
	}
}

// quote4 is the beginning of an IPv4 packet, as errors have it.
func quote4(from, to string, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 60, 1
	binary.BigEndian.PutUint16(h[2:], uint16(20+1400))
	copy(h[12:], netip.MustParseAddr(from).AsSlice())
	copy(h[16:], netip.MustParseAddr(to).AsSlice())
	return append(h, payload...)
}

func quote6(from, to string, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, 58, 60
	binary.BigEndian.PutUint16(h[4:], 1400)
	copy(h[8:], netip.MustParseAddr(from).AsSlice())
	copy(h[24:], netip.MustParseAddr(to).AsSlice())
	return append(h, append([]byte{128}, payload[1:]...)...)
}

// sendError4 sends an ICMP error with a next-hop MTU (RFC 1191, 4).
func (n *ns) sendError4(to string, kind, code byte, mtu uint16, quoted []byte) {
	n.t.Helper()
	m := append([]byte{kind, code, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted...)
	binary.BigEndian.PutUint16(m[2:], checksum(m))
	err := in(n, func() error {
		c, err := net.ListenPacket("ip4:icmp", "0.0.0.0")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.WriteTo(m, &net.IPAddr{IP: net.ParseIP(to)})
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// sendError6 sends a Packet Too Big (RFC 4443, 3.2).
func (n *ns) sendError6(to string, mtu uint32, quoted []byte) {
	n.t.Helper()
	n.sendICMP6("::", to, append(binary.BigEndian.AppendUint32([]byte{2, 0, 0, 0}, mtu), quoted...))
}

// checksum is that of the Internet (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(append(b[i+1:], 0)[0])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Nobody on the LAN is the project: what comes from there with its address is forged,
// and does not reach its services, as it would not reach those of an ordinary host.
func TestTheProjectsOwnAddressIsNoSourceOnTheLAN(t *testing.T) {
	t.Parallel()
	b := startBoth(t)
	web := b.backend("web", 10, "udp/53")
	got := web.serveUDP("web", ":53")
	eventually(t, deadline, b.client.answers("udp", on6(b.ext6, 53), "web "+clientIP6))
	before := got.count()
	dropped := func() string { return b.box.run("nft", "list", "chain", "ip6", "anchord_v6", "early") }
	b.client.inject("eth0", b.box.mac("lan0"), udp6(b.ext6, b.ext6, 4000, 53))
	b.client.inject("eth0", b.box.mac("lan0"), udp6(clientIP6, "fd5a:1::", 4000, 53)) // the subnet-router anycast address inside
	eventually(t, deadline, b.client.answers("udp", on6(b.ext6, 53), "web "+clientIP6))
	if after := got.count(); after != before+1 {
		t.Errorf("the service has got %d datagrams, want 1, that of the client:\n%s", after-before, dropped())
	}
	for _, comment := range []string{"this server's own address as source", "not to this server"} {
		eventually(t, deadline, func() error {
			for _, line := range strings.Split(dropped(), "\n") {
				if strings.Contains(line, comment) && !strings.Contains(line, "packets 0 ") {
					return nil
				}
			}
			return fmt.Errorf("nothing was dropped by %q:\n%s", comment, dropped())
		})
	}
}

// udp6 is a whole IPv6 packet with a datagram.
func udp6(from, to string, source, port uint16) []byte {
	payload := []byte("?\n\x00\x00")
	u := binary.BigEndian.AppendUint16(nil, source)
	u = binary.BigEndian.AppendUint16(u, port)
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	u = append(append(u, 0, 0), payload...)
	addrs := append(netip.MustParseAddr(from).AsSlice(), netip.MustParseAddr(to).AsSlice()...)
	binary.BigEndian.PutUint16(u[6:], checksum(append(append(addrs[:32:32], 0, 0, 0, byte(len(u)), 0, 0, 0, 17), u...)))
	h := make([]byte, 8)
	h[0], h[6], h[7] = 0x60, 17, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(u)))
	return append(append(h, addrs...), u...)
}

// inject puts an IPv6 packet on the wire, whatever its addresses.
func (n *ns) inject(iface, mac string, packet []byte) {
	n.t.Helper()
	to, err := net.ParseMAC(mac)
	if err != nil {
		n.t.Fatal(err)
	}
	err = in(n, func() error {
		i, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		addr := unix.SockaddrLinklayer{Protocol: 0xdd86, Ifindex: i.Index, Halen: 6}
		copy(addr.Addr[:], to)
		return unix.Sendto(fd, packet, 0, &addr)
	})
	if err != nil {
		n.t.Fatal(err)
	}
}
