package adopt

import (
	"crypto/sha256"
	"maps"
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
	aux := map[string]string{}
	maps.Copy(aux, s.Aux)
	aux[gatewayKey] = lastFree(prefix, p.taken(s)).String()
	return aux
}
