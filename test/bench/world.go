package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/templates"
)

// world is a LAN and a project on it without an engine: a client, the
// network-anchor's namespace with what Docker gives it (a macvlan on the LAN
// and a port of a bridge), and two services behind it.
type world struct {
	spaces   []*space
	sw       *space // both bridges
	client   *space
	box      *space
	services []*space
	renderer *templates.Renderer
}

const (
	project     = "bench"
	lanPrefix   = "198.51.100.0/24"
	extAddr     = "198.51.100.40"
	extMAC      = "02:42:aa:00:00:01"
	transit     = "10.213.0.0/16"
	gateway     = "10.213.0.1"
	boxAddr     = "10.213.0.2"
	boxMAC      = "02:42:aa:00:00:02"
	publicPort  = 8000
	servicePort = 80
)

// clientAddrs are several, so that a flood does not soon use a port again.
const clientAddrs = 8

func clientAddr(n int) string { return fmt.Sprintf("198.51.100.%d", 100+n) }

func serviceAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 213, 1, byte(n + 1)}) }

func newWorld() (w *world, err error) {
	w = &world{}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.renderer, err = templates.New(); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		name string
		into **space
	}{{"switch", &w.sw}, {"client", &w.client}, {"box", &w.box}} {
		if *s.into, err = newSpace(s.name); err != nil {
			return nil, err
		}
		w.spaces = append(w.spaces, *s.into)
	}
	if err := w.cable(); err != nil {
		return nil, err
	}
	return w, w.addServices(2)
}

// cable makes the LAN and the transit network.
func (w *world) cable() error {
	err := w.sw.ip("link add br-lan type bridge mcast_snooping 0", "link set br-lan up",
		"link add br-transit type bridge mcast_snooping 0", "link set br-transit up",
		"link add p-lan type veth peer name p-macvlan", "link set p-lan master br-lan up", "link set p-macvlan up promisc on",
		"link add link p-macvlan name lan0 netns "+w.box.path()+" address "+extMAC+" type macvlan mode bridge")
	if err != nil {
		return err
	}
	err = errors.Join(w.plug(w.client, "eth0", "br-lan"), w.plug(w.box, "transit0", "br-transit"))
	if err != nil {
		return err
	}
	commands := []string{"route add " + transit + " via " + extAddr + " dev eth0"}
	for n := clientAddrs - 1; n >= 0; n-- {
		commands = append([]string{"address add " + clientAddr(n) + "/24 dev eth0"}, commands...)
	}
	return errors.Join(
		w.client.ip(commands...),
		w.box.ip("link set transit0 down", "link set transit0 address "+boxMAC, "link set transit0 up",
			"address add "+extAddr+"/24 dev lan0", "link set lan0 up",
			"address add "+boxAddr+"/16 dev transit0", "address add "+gateway+"/16 dev transit0"),
		w.box.sysctl("net.ipv4.ip_forward", "1"),
		w.client.sysctl("net.ipv4.ip_local_port_range", "1024 65535"),
	)
}

func (w *world) addServices(count int) error {
	for n := range count {
		s, err := newSpace(fmt.Sprintf("service%d", n))
		if err != nil {
			return err
		}
		w.spaces, w.services = append(w.spaces, s), append(w.services, s)
		if err := w.plug(s, "eth0", "br-transit"); err != nil {
			return err
		}
		if err := s.ip("address add "+serviceAddr(n).String()+"/16 dev eth0", "route add default via "+gateway); err != nil {
			return err
		}
	}
	return nil
}

// plug joins a namespace to one of the switch's bridges.
func (w *world) plug(s *space, iface, bridge string) error {
	return errors.Join(
		w.sw.ip(fmt.Sprintf("link add %s type veth peer name %s netns %s", s.name, iface, s.path()),
			fmt.Sprintf("link set %s master %s up", s.name, bridge)),
		s.ip("link set "+iface+" up"))
}

func (w *world) close() {
	for _, s := range w.spaces {
		s.close()
	}
}

// state is the project with one entry for each of the ports from publicPort
// on; all lead to service n.
func (w *world) state(entries, n int) anchord.State {
	s := anchord.State{
		Identity: anchord.Identity{Project: project}, Ext: "lan0", Shared: "transit",
		Transits: []anchord.Transit{{Network: "transit", Iface: "transit0", Subnets: []netip.Prefix{netip.MustParsePrefix(transit)}}},
	}
	for _, p := range anchord.Protocols {
		for i := range entries {
			public := uint16(publicPort + i)
			s.Entries = append(s.Entries, anchord.Entry{
				Protocol: p, First: public, Last: public, Backend: serviceAddr(n), Port: servicePort,
				Container: fmt.Sprintf("%s-service%d-1", project, i), Iface: "transit0",
			})
		}
	}
	return s
}

// apply words a state and puts it into the kernel as the program does.
func (w *world) apply(ctx context.Context, nft *exec.NFT, s anchord.State) error {
	rs, err := w.renderer.Render(s)
	if err != nil {
		return err
	}
	return w.box.in(func() error { return nft.Apply(ctx, rs) })
}

// listen opens a port of a service.
func (w *world) listen(n int) (l net.Listener, err error) {
	err = w.services[n].in(func() error {
		l, err = net.Listen("tcp4", fmt.Sprintf(":%d", servicePort))
		return err
	})
	return l, err
}

// reachable waits until the client is answered: the first packet of all waits
// for three neighbours to be found.
func (w *world) reachable(ctx context.Context, address string) error {
	return wait(ctx, 5*time.Second, 20*time.Millisecond, "the client reaches "+address, func() (bool, error) {
		var c net.Conn
		err := w.client.in(func() (err error) {
			c, err = net.DialTimeout("tcp4", address, time.Second)
			return err
		})
		if err != nil {
			return false, err
		}
		return true, c.Close()
	})
}

// counter reads one of the counters of a table of the bench's own.
func (w *world) counter(name string) (int, error) {
	out, err := w.box.run("", "nft", "list", "counter", "ip", "bench", name)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(out, "packets ")
	var packets int
	_, err = fmt.Sscan(rest, &packets)
	return packets, err
}
