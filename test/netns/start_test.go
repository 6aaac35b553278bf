package netns_test

import (
	"fmt"
	"testing"
)

// running is a project that is on the LAN.
type running struct {
	*world
	a   *anchord
	d   *dnsmasq
	ext string // its leased address
}

// start makes a world with a DHCP server and an anchord that has its lease.
func start(t testing.TB, s setup, env ...string) *running {
	t.Helper()
	w := newWorld(t, s)
	r := &running{world: w, d: w.startDnsmasq(s.dnsmasqArgs()...)}
	r.a = w.anchord(env...).ready()
	r.ext = r.a.leased()
	return r
}

func (s setup) dnsmasqArgs() []string {
	args := []string{"--dhcp-range=198.51.100.100,198.51.100.150,255.255.255.0,1h"}
	if s.ipv6 {
		args = append(args, "--enable-ra", "--dhcp-range=2001:db8:1::,ra-only,64")
	}
	return args
}

// addr is a port of the project's address.
func (r *running) addr(port int) string { return fmt.Sprintf("%s:%d", r.ext, port) }
