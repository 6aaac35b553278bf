package anchord

import (
	"net/netip"
	"time"
)

// Advert is what the routers of the LAN said last (RFC 4861, 4.2). The kernel
// makes addresses and routes of it by itself; anchord needs what the kernel
// does not tell.
type Advert struct {
	// Managed says that addresses are to be had from a DHCPv6 server.
	Managed bool
	// Router is a default router, until the time since boot at which its
	// word ends.
	Router netip.Addr
	Until  time.Duration
	At     time.Duration // since boot, when a router was heard last
	// DNS are name servers (RFC 8106), for as long as they are named.
	DNS []netip.Addr
}

// RouterAt is the default router at now, if there is one.
func (a Advert) RouterAt(now time.Duration) netip.Addr {
	if now >= a.Until {
		return netip.Addr{}
	}
	return a.Router
}
