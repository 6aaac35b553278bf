package exec

import (
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/templates"
)

// elsewhere puts the test's thread, and the programs that it starts, into a network
// namespace of its own. The thread ends with the test.
func elsewhere(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may make a network namespace")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("no network namespace can be made: %v", err)
	}
}

// exposed is a state with all kinds of elements, and addresses and ranges that lie
// side by side.
func exposed(change func(*anchord.State)) anchord.State {
	s := anchord.State{Ext: "lan0", Transits: []anchord.Transit{{Network: "transit", Iface: "transit0", Subnets: []netip.Prefix{
		netip.MustParsePrefix("10.213.0.0/24"), netip.MustParsePrefix("10.213.1.0/24"), netip.MustParsePrefix("10.214.0.7/32"), netip.MustParsePrefix("fd5a:1::/64"),
	}}}}
	for _, backend := range []string{"10.213.0.5", "fd5a:1::5"} {
		addr := netip.MustParseAddr(backend)
		for _, p := range anchord.Protocols {
			for _, e := range []anchord.Entry{
				{First: 25, Last: 25, Port: 2525},
				{First: 80, Last: 80, Port: 80},
				{First: 100, Last: 199, Port: 100},
				{First: 200, Last: 299, Port: 200},
				{First: 300, Last: 309, Port: 5000},
				{First: 65000, Last: 65535, Port: 65000},
			} {
				e.Family, e.Protocol, e.Backend, e.Container = anchord.FamilyOf(addr), p, addr, `odd " : name`
				s.Entries = append(s.Entries, e)
			}
		}
	}
	change(&s)
	return s
}

// What was applied is found to be there, after each kind of change; whatever somebody
// else changes is found, too.
func TestWhetherTheKernelHasWhatWasApplied(t *testing.T) {
	elsewhere(t)
	renderer, err := templates.New()
	if err != nil {
		t.Fatal(err)
	}
	n := &NFT{}
	apply := func(change func(*anchord.State)) {
		t.Helper()
		rs, err := renderer.Render(exposed(change))
		if err == nil {
			err = n.Apply(t.Context(), rs)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	intact := func() bool {
		t.Helper()
		is, err := n.Intact(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	changes := []func(*anchord.State){
		func(*anchord.State) {},
		func(s *anchord.State) { s.Entries = s.Entries[3:] },
		func(s *anchord.State) { s.Entries[0].Port = 99; s.Entries[3].Last = 250 },
		func(s *anchord.State) { s.Resolvers[anchord.V4] = []netip.Addr{netip.MustParseAddr("192.0.2.53")} },
		func(s *anchord.State) { s.Entries = nil },
		func(*anchord.State) {},
	}
	for i, change := range changes {
		if apply(change); !intact() {
			listed, _ := n.list(t.Context())
			t.Fatalf("change %d is not found as it was applied:\n%s", i, listed)
		}
	}
	for _, foreign := range []string{
		"add rule ip anchord_v4 input tcp dport 22 accept",
		"flush chain ip6 anchord_v6 forward",
		"delete table ip6 anchord_v6",
		"add chain ip anchord_v4 theirs",
		"add element ip anchord_v4 dnat_tcp { 8888 : 10.213.0.5 . 80 }",
		"delete element ip6 anchord_v6 dnat_udp { 25 }",
		"delete element ip anchord_v4 dnat_tcp { 25 }\nadd element ip anchord_v4 dnat_tcp { 25 : 10.213.0.9 . 2525 }",
		"delete element ip anchord_v4 dnat_udp_ranges { 100-199 }",
		"delete element ip anchord_v4 transit_subnets { 10.213.1.0/24 }",
		"add element ip anchord_v4 open_tcp { 22 }",
		"flush ruleset",
	} {
		if _, err := (Runner{}).Run(t.Context(), foreign+"\n", "nft", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		if intact() {
			t.Errorf("not found: %s", strings.ReplaceAll(foreign, "\n", "; "))
		}
		n.Forget()
		apply(changes[0])
	}
	// Others' tables are nobody's concern.
	if _, err := (Runner{}).Run(t.Context(), "add table ip theirs\nadd chain ip theirs c\n", "nft", "-f", "-"); err != nil || !intact() {
		t.Errorf("another table is taken for a change of ours: %v", err)
	}
}
