package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"

	"github.com/AlexCherrypi/anchord"
)

// Adverts listens to router advertisements (RFC 4861, 4.2): the kernel makes
// addresses and routes of them, but does not tell whether a DHCPv6 server is to
// be asked, nor why a route went. Uptime and Fire are required.
type Adverts struct {
	Uptime func() time.Duration
	Fire   func(anchord.Source, time.Time)

	mu   sync.Mutex
	last map[string]*heard // by interface

	named struct { // as asked last
		index int
		name  string
		at    time.Duration
	}
}

// heard is what was heard on one interface.
type heard struct {
	index   int // another one is another interface of this name
	routers map[netip.Addr]anchord.Advert
}

// forgotten is when a router that is heard no more has nothing to say any more,
// whatever lifetime it named: routers speak every half an hour at least (RFC 4861,
// 6.2.1).
const forgotten = 30 * time.Minute

// Adverts is what the routers of each interface say, taken together: addresses
// are managed if one of them says so.
func (a *Adverts) Adverts() map[string]anchord.Advert {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Uptime()
	all := map[string]anchord.Advert{}
	for iface, on := range a.last {
		all[iface] = on.sum(now)
	}
	return all
}

// sum takes what the routers say at now together.
func (h *heard) sum(now time.Duration) (sum anchord.Advert) {
	for _, router := range slices.SortedFunc(maps.Keys(h.routers), netip.Addr.Compare) {
		said := h.routers[router]
		sum.DNS = append(sum.DNS, said.DNS...)
		sum.Managed = sum.Managed || said.Managed && now < max(said.Until, said.At+forgotten)
		sum.At = max(sum.At, said.At)
		// Of several the one with the lowest address, so as not to flap.
		if said.RouterAt(now).IsValid() && !sum.Router.IsValid() {
			sum.Router, sum.Until = said.Router, said.Until
		}
	}
	return sum
}

// Follow listens until ctx ends. It returns nil where there is no IPv6.
func (a *Adverts) Follow(ctx context.Context) error {
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listening to router advertisements: %w", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c := conn.IPv6PacketConn()
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterAdvertisement)
	if err := errors.Join(c.SetICMPFilter(&only), c.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true)); err != nil {
		return fmt.Errorf("listening to router advertisements: %w", err)
	}
	message := make([]byte, 1500)
	for {
		n, control, from, err := c.ReadFrom(message)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listening to router advertisements: %w", err)
		}
		a.hear(message[:n], control, from)
	}
}

// hear takes one message, if it is from a router on the link.
func (a *Adverts) hear(message []byte, control *ipv6.ControlMessage, from net.Addr) {
	ip, _ := from.(*net.IPAddr)
	if ip == nil || control == nil || control.HopLimit != 255 {
		return
	}
	router, _ := netip.AddrFromSlice(ip.IP)
	said, ok := parseAdvert(message, router, a.Uptime())
	if !ok {
		return
	}
	name, err := a.nameOf(control.IfIndex)
	if err != nil {
		return
	}
	if a.note(name, control.IfIndex, said) {
		a.Fire(anchord.SourceKernel, time.Time{})
	}
}

// nameLasts is for how long an interface is taken to have the name that it had: to
// ask the kernel costs more than all else that an advertisement does.
const nameLasts = time.Second

// nameOf is the name of an interface. Only the listening goroutine calls it.
func (a *Adverts) nameOf(index int) (string, error) {
	now := a.Uptime()
	if a.named.index == index && now-a.named.at < nameLasts {
		return a.named.name, nil
	}
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return "", err
	}
	a.named.index, a.named.name, a.named.at = index, link.Name, now
	return link.Name, nil
}

// parseAdvert reads the fixed part of an advertisement.
func parseAdvert(message []byte, router netip.Addr, now time.Duration) (anchord.Advert, bool) {
	const managed = 0x80
	if len(message) < 16 || message[0] != byte(ipv6.ICMPTypeRouterAdvertisement) || message[1] != 0 || !router.IsLinkLocalUnicast() {
		return anchord.Advert{}, false
	}
	lifetime := time.Duration(int(message[6])<<8|int(message[7])) * time.Second
	return anchord.Advert{Managed: message[5]&managed != 0, Router: router.WithZone(""), Until: now + lifetime, At: now, DNS: nameServers(message[16:])}, true
}

// nameServers reads the options for recursive DNS servers (RFC 8106, 5.1). Those
// that are local to the link cannot be reached by those whom we tell of them.
func nameServers(options []byte) (servers []netip.Addr) {
	const rdnss, lifetime, addresses = 25, 4, 8
	for len(options) >= 8 && options[1] > 0 {
		length := 8 * int(options[1])
		if length > len(options) {
			return servers
		}
		option := options[:length]
		options = options[length:]
		if option[0] != rdnss || length < addresses+16 || binary.BigEndian.Uint32(option[lifetime:]) == 0 {
			continue
		}
		for rest := option[addresses:]; len(rest) >= 16 && len(servers) < maxNameServers; rest = rest[16:] {
			if a := netip.AddrFrom16([16]byte(rest[:16])); a.IsGlobalUnicast() && !a.Is4In6() {
				servers = append(servers, a)
			}
		}
	}
	return servers
}

// maxNameServers is more than anybody asks.
const maxNameServers = 8

// maxRouters keeps a host that invents routers from filling our memory.
const maxRouters = 16

// note says whether, with a router's word, all routers of the interface together say
// something else than before: more than that is nobody's concern.
func (a *Adverts) note(iface string, index int, said anchord.Advert) (news bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		a.last = map[string]*heard{}
	}
	if on := a.last[iface]; on == nil || on.index != index {
		a.last[iface] = &heard{index: index, routers: map[netip.Addr]anchord.Advert{}}
	}
	routers, now := a.last[iface].routers, a.Uptime()
	before := a.last[iface].sum(now)
	if _, known := routers[said.Router]; !known && len(routers) >= maxRouters {
		maps.DeleteFunc(routers, func(_ netip.Addr, old anchord.Advert) bool { return old.Until <= now })
		if len(routers) >= maxRouters {
			return false
		}
	}
	routers[said.Router] = said
	after := a.last[iface].sum(now)
	return before.Managed != after.Managed || before.Router != after.Router || !slices.Equal(before.DNS, after.DNS)
}
