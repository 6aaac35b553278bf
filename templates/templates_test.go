package templates_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/templates"
	"github.com/AlexCherrypi/anchord/test/generated"
)

func entry(p anchord.Protocol, first, last uint16, backend string, port uint16, container string) anchord.Entry {
	a := netip.MustParseAddr(backend)
	return anchord.Entry{Family: anchord.FamilyOf(a), Protocol: p, First: first, Last: last, Backend: a, Port: port, Container: container}
}

func transit(network, iface string, subnets ...string) anchord.Transit {
	t := anchord.Transit{Network: network, Iface: iface}
	for _, s := range subnets {
		t.Subnets = append(t.Subnets, netip.MustParsePrefix(s))
	}
	return t
}

func connected(transits ...anchord.Transit) anchord.State {
	return anchord.State{Identity: anchord.Identity{Project: "shop"}, Ext: "lan0", Transits: transits}
}

func states() map[string]anchord.State {
	net := transit("shop_transit", "transit0", "10.213.0.0/24")
	one := connected(net)
	one.Entries = []anchord.Entry{entry(anchord.TCP, 25, 25, "10.213.0.5", 25, "shop-postfix-1")}

	many := connected(net)
	many.Entries = []anchord.Entry{
		entry(anchord.TCP, 80, 80, "10.213.0.6", 8080, "shop-web-1"),
		entry(anchord.TCP, 443, 443, "10.213.0.6", 8443, "shop-web-1"),
		entry(anchord.TCP, 8000, 8003, "10.213.0.7", 9000, "shop-shifted-1"),
		entry(anchord.TCP, 50000, 50100, "10.213.0.8", 50000, "shop-ftp-1"),
		entry(anchord.TCP, 50101, 50101, "10.213.0.8", 50101, "shop-ftp-1"),
		entry(anchord.UDP, 53, 53, "10.213.0.9", 5353, "shop-dns-1"),
		entry(anchord.UDP, 49152, 49252, "10.213.0.10", 49152, "shop-turn-1"),
		entry(anchord.UDP, 65534, 65535, "10.213.0.10", 1, "shop-turn-1"),
	}

	two := connected(net, transit("shop_side", "side0", "10.5.0.0/16", "10.5.9.0/24"))
	two.Entries = []anchord.Entry{
		entry(anchord.TCP, 25, 25, "10.213.0.5", 25, "shop-postfix-1"),
		entry(anchord.TCP, 80, 80, "10.5.0.6", 80, "shop-web-1"),
	}

	both := connected(transit("shop_transit", "transit0", "10.213.0.0/24", "fd5a:1::/64"))
	both.Entries = []anchord.Entry{
		entry(anchord.TCP, 443, 443, "10.213.0.6", 8443, "shop-web-1"),
		entry(anchord.UDP, 100, 110, "10.213.0.6", 100, "shop-web-1"),
		entry(anchord.TCP, 443, 443, "fd5a:1::6", 8443, "shop-web-1"),
		entry(anchord.UDP, 100, 110, "fd5a:1::6", 100, "shop-web-1"),
	}

	hostile := connected(net)
	hostile.Identity.Project = "\";\n} flush ruleset #\\ " + strings.Repeat("é", 200)
	hostile.Entries = []anchord.Entry{
		entry(anchord.TCP, 80, 80, "10.213.0.6", 80, "x\" : 6.6.6.6 . 22 }\nflush ruleset\n#"),
		entry(anchord.TCP, 81, 81, "10.213.0.7", 81, strings.Repeat("long", 100)),
		entry(anchord.TCP, 82, 90, "10.213.0.8", 82, "`$(reboot)` %s {{.}} \x00\x7f\xff"),
	}

	dns := connected(transit("shop_transit", "transit0", "10.213.0.0/24", "fd5a:1::/64"))
	dns.Resolvers[anchord.V4] = []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	dns.Resolvers[anchord.V6] = []netip.Addr{netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("2001:db8::54")}

	alone := connected()
	return map[string]anchord.State{
		"closed": {}, "lan-only": alone, "one-service": one, "ranges": many, "two-transits": two, "both-families": both, "hostile-names": hostile, "resolvers": dns,
	}
}

func render(t *testing.T, s anchord.State) string {
	t.Helper()
	r, err := templates.New()
	if err != nil {
		t.Fatal(err)
	}
	rs, err := r.Render(s)
	if err != nil {
		t.Fatal(err)
	}
	return whole(rs)
}

// whole is the ruleset with its elements, as one file that nft takes.
func whole(rs anchord.Ruleset) string {
	var b strings.Builder
	b.WriteString(rs.Body)
	for _, s := range rs.Sets {
		for _, e := range s.Elements {
			fmt.Fprintf(&b, "add element %s %s { %s }\n", s.Table, s.Name, e.Text)
		}
	}
	return b.String()
}

// nft runs a shell script, in which nft is at hand, in a fresh network
// namespace.
func nft(t *testing.T, script, input string) string {
	t.Helper()
	cmd := exec.Command("unshare", "--net", "sh", "-ec", script)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func TestRuleset(t *testing.T) {
	for name, state := range states() {
		t.Run(name, func(t *testing.T) {
			text := render(t, state)
			generated.Golden(t, name, text)
			if told := nft(t, "nft -c -f -", text); told != "" {
				t.Errorf("nft -c: %s", told)
			}
		})
	}
}

// What the kernel then has, as an operator sees it: every comment is there,
// and all is the same after a refill of the standing tables. How nft lists
// the rest differs from release to release.
func TestRulesetInTheKernel(t *testing.T) {
	text := render(t, states()["both-families"])
	once := nft(t, "nft -f -; nft list ruleset", text)
	for _, line := range strings.Split(text, "\n") {
		if _, comment, found := strings.Cut(line, `comment "`); found && !strings.Contains(once, comment[:strings.Index(comment, `"`)]) {
			t.Errorf("the kernel's listing does not say what this line does:\n%s", line)
		}
	}
	flush := "flush table ip anchord_v4\nflush table ip6 anchord_v6\n"
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	twice := nft(t, "nft -f "+file+"; cat - "+file+" | nft -f -; nft list ruleset", flush)
	if once != twice {
		t.Errorf("flushed and refilled it is another:\n%s", twice)
	}
}

// A hostile name must not be able to add or take away a single line.
func TestHostileNamesChangeOnlyComments(t *testing.T) {
	s := states()["hostile-names"]
	harmless := s
	harmless.Identity.Project = "shop"
	harmless.Entries = append([]anchord.Entry(nil), s.Entries...)
	for i := range harmless.Entries {
		harmless.Entries[i].Container = "harmless"
	}
	if a, b := withoutComments(render(t, s)), withoutComments(render(t, harmless)); a != b {
		t.Errorf("beside comments a name changed the ruleset:\n%s\nwith harmless names:\n%s", a, b)
	}
	listed := nft(t, "nft -f -; nft list ruleset", render(t, s))
	for _, word := range []string{"6.6.6.6 . 22 }\n", "\nflush"} {
		if strings.Contains(listed, word) {
			t.Errorf("%q is in the kernel:\n%s", word, listed)
		}
	}
}

func withoutComments(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if before, rest, found := strings.Cut(l, `comment "`); found {
			_, after, _ := strings.Cut(rest, `"`)
			lines[i] = before + after
		}
	}
	return strings.Join(lines, "\n")
}

func TestInterfaceNamesThatNftWouldMisread(t *testing.T) {
	r, err := templates.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth*", "eth0\"", "a b", "sixteen-letters0", "eth0\n", "a/b", `a\b`} {
		s := connected()
		s.Ext = name
		if _, err := r.Render(s); err == nil {
			t.Errorf("LAN interface %q was accepted", name)
		}
		if _, err := r.Render(connected(transit("x", name))); err == nil {
			t.Errorf("transit interface %q was accepted", name)
		}
	}
}

func TestSameStateIsTheSameRuleset(t *testing.T) {
	for name, state := range states() {
		first := render(t, state)
		for range 5 {
			if render(t, state) != first {
				t.Fatalf("%s renders differently each time", name)
			}
		}
	}
}

// The body may not depend on the containers, else rules would be flushed with
// each of their changes. What it does depend on is whether a port of those is exposed
// that others are given, which ordinary services do not.
func TestContainersChangeOnlyElements(t *testing.T) {
	r, err := templates.New()
	if err != nil {
		t.Fatal(err)
	}
	some := states()["one-service"]
	none := some
	none.Entries = nil
	a, errA := r.Render(some)
	b, errB := r.Render(none)
	if errA != nil || errB != nil || a.Body != b.Body || len(a.Sets) != len(b.Sets) {
		t.Errorf("the body or the list of sets depends on the containers (%v, %v)", errA, errB)
	}
}
