package watch

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// advert is a router advertisement with this flags byte and lifetime in seconds.
func advert(flags byte, lifetime uint16, options ...byte) []byte {
	return append([]byte{134, 0, 0, 0, 64, flags, byte(lifetime >> 8), byte(lifetime), 0, 0, 0, 0, 0, 0, 0, 0}, options...)
}

// rdnss is an option with two servers.
func rdnss(lifetime byte, servers ...string) []byte {
	option := []byte{25, byte(1 + 2*len(servers)), 0, 0, 0, 0, 0, lifetime}
	for _, s := range servers {
		option = append(option, netip.MustParseAddr(s).AsSlice()...)
	}
	return option
}

func TestWhatARouterAdvertises(t *testing.T) {
	router := netip.MustParseAddr("fe80::1%lan0")
	other := []byte{1, 1, 2, 66, 0, 0, 0, 1} // source link-layer address
	for _, tt := range []struct {
		name    string
		message []byte
		router  netip.Addr
		want    string
	}{
		{"plain", advert(0, 1800), router, "false fe80::1 31m0s []"},
		{"managed", advert(0x80, 1800), router, "true fe80::1 31m0s []"},
		{"other configuration only", advert(0x40, 1800), router, "false fe80::1 31m0s []"},
		{"no default router", advert(0x80, 0), router, "true fe80::1 1m0s []"},
		{"name servers", advert(0, 1800, slices.Concat(other, rdnss(60, "2001:db8::53", "2001:db8::54"))...), router, "false fe80::1 31m0s [2001:db8::53 2001:db8::54]"},
		{"name servers no longer", advert(0, 1800, rdnss(0, "2001:db8::53")...), router, "false fe80::1 31m0s []"},
		{"name servers that nobody else reaches", advert(0, 1800, rdnss(60, "fe80::53", "ff02::1", "::", "2001:db8::53")...), router, "false fe80::1 31m0s [2001:db8::53]"},
		{"an option without a length", advert(0, 1800, 25, 0, 0, 0, 0, 0, 0, 60), router, "false fe80::1 31m0s []"},
		{"an option that is cut short", advert(0, 1800, rdnss(60, "2001:db8::53")[:16]...), router, "false fe80::1 31m0s []"},
		{"cut short", advert(0, 1800)[:15], router, ""},
		{"not from the link", advert(0, 1800), netip.MustParseAddr("2001:db8::1"), ""},
		{"another message", append([]byte{133}, advert(0, 1800)[1:]...), router, ""},
	} {
		said, ok := parseAdvert(tt.message, tt.router, time.Minute)
		got := ""
		if ok {
			got = fmt.Sprint(said.Managed, said.Router, said.Until, said.DNS)
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestSeveralRoutersAreHeardTogether(t *testing.T) {
	now := time.Hour
	a := &Adverts{Uptime: func() time.Duration { return now }}
	says := func(router string, managed bool, lifetime time.Duration) bool {
		return a.note("lan0", 2, anchord.Advert{Managed: managed, Router: netip.MustParseAddr(router), Until: now + lifetime, At: now})
	}
	if !says("fe80::2", false, time.Minute) || says("fe80::2", false, time.Minute) {
		t.Error("only the first word is news")
	}
	if !says("fe80::1", true, 2*time.Minute) {
		t.Error("another router is news")
	}
	if got := a.Adverts()["lan0"]; got.Router.String() != "fe80::1" || !got.Managed {
		t.Errorf("%+v, want the lower address, and managed as one says", got)
	}
	if !says("fe80::1", true, 0) {
		t.Error("a router that resigns is news")
	}
	if got := a.Adverts()["lan0"]; got.Router.String() != "fe80::2" {
		t.Errorf("%+v, want the one that is left", got)
	}
	now += time.Hour
	if got := a.Adverts()["lan0"]; got.Router.IsValid() {
		t.Errorf("%+v, though nobody said it again", got)
	}
	for i := range 2 * maxRouters {
		says(fmt.Sprintf("fe80::1:%x", i), false, time.Minute)
	}
	if got := len(a.last["lan0"].routers); got > maxRouters {
		t.Errorf("%d routers are remembered", got)
	}
}

// A flood of advertisements, by however many routers, wakes nobody as long as what
// all of them say together stays the same.
func TestAdvertisementsThatChangeNothingAreNoNews(t *testing.T) {
	now := time.Hour
	a := &Adverts{Uptime: func() time.Duration { return now }}
	says := func(router string, lifetime time.Duration, dns ...string) bool {
		said := anchord.Advert{Router: netip.MustParseAddr(router), Until: now + lifetime, At: now}
		for _, d := range dns {
			said.DNS = append(said.DNS, netip.MustParseAddr(d))
		}
		return a.note("lan0", 2, said)
	}
	if !says("fe80::1", time.Hour) {
		t.Fatal("the first word is news")
	}
	news := 0
	for i := range 10000 {
		now += time.Millisecond
		lifetime := time.Duration(i%2) * time.Minute // comes and goes
		if says(fmt.Sprintf("fe80::2:%x", i%5000), lifetime) {
			news++
		}
	}
	if news > 0 {
		t.Errorf("%d of them are news", news)
	}
	now += time.Minute // those that stayed have gone
	if !says("fe80::3", time.Minute, "2001:db8::53") {
		t.Error("a name server is news")
	}
}
