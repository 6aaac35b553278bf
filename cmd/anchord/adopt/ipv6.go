package adopt

import (
	"crypto/sha256"
	"net/netip"
	"slices"
)

// gatewayKey is the auxiliary address that Docker has containers' IPv6 default
// route lead to, and gives to nobody.
const gatewayKey = "DefaultGatewayIPv6"

// withIPv6 is what a transit's addresses have to be, so that anchord is the IPv6
// gateway, and whether they have to take the place of the project's own: Compose
// does not merge lists of subnets by entry.
func (p *plan) withIPv6(name string) (config []subnet, instead bool) {
	config = slices.Clone(p.Networks[name].IPAM.Config)
	i := slices.IndexFunc(config, func(s subnet) bool { return s.prefix().Addr().Is6() })
	if i < 0 {
		prefix := uniqueLocal(p.Name, name)
		return append(config, subnet{Subnet: prefix.String(), Aux: p.gatewayOf(prefix, subnet{})}), len(config) > 0
	}
	if config[i].Aux[gatewayKey] != "" {
		return nil, false
	}
	config[i].Aux = p.gatewayOf(config[i].prefix(), config[i])
	return config, true
}

func (s subnet) prefix() netip.Prefix {
	prefix, _ := netip.ParsePrefix(s.Subnet) //nolint:errcheck // the zero value is of no family
	return prefix.Masked()
}

// uniqueLocal is a /64 of fd00::/8 (RFC 4193) that each network of each project has
// for itself, and has again whenever it is asked for.
func uniqueLocal(project, network string) netip.Prefix {
	sum := sha256.Sum256([]byte("anchord adopt\x00" + project + "\x00" + network))
	var addr [16]byte
	addr[0] = 0xfd
	copy(addr[1:8], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(addr), 64)
}

// gatewayOf adds an address of the subnet for anchord to its auxiliary ones: one
// that nobody has been given.
func (p *plan) gatewayOf(prefix netip.Prefix, s subnet) map[string]string {
	taken := map[netip.Addr]bool{}
	take := func(addr string) {
		if a, err := netip.ParseAddr(addr); err == nil {
			taken[a] = true
		}
	}
	take(s.Gateway)
	aux := map[string]string{}
	for key, addr := range s.Aux {
		aux[key] = addr
		take(addr)
	}
	for _, service := range p.Services {
		for _, a := range service.Networks {
			take(a.IPv6Address)
		}
	}
	addr := highest(prefix)
	for taken[addr] && prefix.Contains(addr.Prev()) {
		addr = addr.Prev()
	}
	aux[gatewayKey] = addr.String()
	return aux
}

// highest is the last address of a subnet, or of its first 65536.
func highest(prefix netip.Prefix) netip.Addr {
	addr := prefix.Addr().As16()
	for bit := max(prefix.Bits(), 112); bit < 128; bit++ {
		addr[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom16(addr)
}
