package adopt

import (
	"fmt"
	"net/netip"
	"strings"
)

// addresses are anchord's on a transit, as Compose reads them, of each family in
// which services have addresses there that the project's files name; empty: Docker
// chooses. It could choose such a one where anchord starts first, and the service
// would not start then.
func (p *plan) addresses(transit string) string {
	config := p.Networks[transit].IPAM.Config
	if p.IPv6 {
		if with, _ := p.withIPv6(transit); with != nil {
			config = with
		}
	}
	var entries []string
	for _, s := range config {
		prefix, taken := s.prefix(), p.taken(s)
		if addr := lastFree(prefix, taken); p.named(transit, prefix) && !taken[addr] && addr != prefix.Addr() {
			family := "ipv4"
			if addr.Is6() {
				family = "ipv6"
			}
			entries = append(entries, fmt.Sprintf("%s_address: %q", family, addr))
		}
	}
	return strings.Join(entries, ", ")
}

// named says whether a service has an address of the subnet that the files name.
func (p *plan) named(network string, prefix netip.Prefix) bool {
	for _, service := range p.Services {
		for _, said := range service.Networks[network].addresses() {
			if addr, err := netip.ParseAddr(said); err == nil && prefix.Contains(addr) {
				return true
			}
		}
	}
	return false
}

func (a attachment) addresses() [2]string { return [2]string{a.IPv4Address, a.IPv6Address} }

// taken are the addresses of a subnet that somebody has been given.
func (p *plan) taken(s subnet) map[netip.Addr]bool {
	taken := map[netip.Addr]bool{}
	take := func(said string) {
		if addr, err := netip.ParseAddr(said); err == nil {
			taken[addr] = true
		}
	}
	if s.Gateway == "" {
		taken[s.prefix().Addr().Next()] = true // Docker's choice
	}
	take(s.Gateway)
	for _, addr := range s.Aux {
		take(addr)
	}
	for _, service := range p.Services {
		for _, a := range service.Networks {
			for _, addr := range a.addresses() {
				take(addr)
			}
		}
	}
	return taken
}

// lastFree is the last address for a container in a subnet, or in its first 65536
// addresses, that is not taken; the first of the subnet, where all are.
func lastFree(prefix netip.Prefix, taken map[netip.Addr]bool) netip.Addr {
	addr := last(prefix)
	if addr.Is4() {
		addr = addr.Prev() // no broadcast
	}
	for taken[addr] && prefix.Contains(addr.Prev()) {
		addr = addr.Prev()
	}
	return addr
}

// last is the last address of a subnet, or of its first 65536.
func last(prefix netip.Prefix) netip.Addr {
	if !prefix.IsValid() {
		return netip.Addr{}
	}
	addr, bits := prefix.Addr().As16(), prefix.Bits()+128-prefix.Addr().BitLen()
	for bit := max(bits, 112); bit < 128; bit++ {
		addr[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom16(addr).Unmap()
}
