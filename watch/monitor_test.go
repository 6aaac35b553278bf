package watch

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// fired counts what a watcher fires.
type fired []anchord.Source

func (f *fired) fire(s anchord.Source, _ time.Time) { *f = append(*f, s) }

// As nft 1.0.6 monitors them.
func TestRulesetMonitor(t *testing.T) {
	const generation = "# new generation 7 by process 24256 (nft)\n"
	const own = `delete element ip anchord_v4 serial { 0x00000001 }
add element ip anchord_v4 serial { 0x00000002 }
delete element ip6 anchord_v6 serial { 0x00000001 }
add element ip6 anchord_v6 serial { 0x00000002 }
`
	for _, tt := range []struct {
		name, lines string
		fires       int
	}{
		{"our own creation", `add table ip anchord_v4
delete table ip anchord_v4
add table ip anchord_v4
add chain ip anchord_v4 input { type filter hook input priority filter; policy accept; }
add set ip anchord_v4 serial { type mark; } 
add map ip anchord_v4 dnat_tcp { type inet_service : ipv4_addr . inet_service; counter; } 
add element ip anchord_v4 dnat_tcp { 25 counter packets 0 bytes 0 comment "postfix" : 10.0.0.2 . 2525 }
add element ip anchord_v4 serial { 0x00000001 }
` + generation, 0},
		{"our own change", "delete element ip anchord_v4 dnat_tcp { 25 counter packets 0 bytes 0 comment \"postfix\" : 10.0.0.2 . 2525 }\n" + own + generation, 0},
		{"rule added by somebody else", "add rule ip anchord_v4 input tcp dport 22 accept\n" + generation, 1},
		{"element deleted by somebody else", "delete element ip anchord_v4 dnat_tcp { 8080 counter packets 0 bytes 0 : 10.0.0.3 . 80 }\n" + generation, 1},
		{"IPv6 table deleted by somebody else", "delete chain ip6 anchord_v6 input\ndelete table ip6 anchord_v6\n" + generation, 1},
		{"our serial deleted by somebody else", "delete element ip anchord_v4 serial { 0x00000002 }\n" + generation, 1},
		{"Docker's own table", "add table ip nat\nadd chain ip nat DOCKER_OUTPUT\nadd rule ip nat DOCKER_OUTPUT ip daddr 127.0.0.11 tcp dport 53 counter packets 0 bytes 0 dnat to 127.0.0.11:41231\n" + generation, 0},
		{"Docker's table and ours in one transaction", "add rule ip nat DOCKER_OUTPUT counter packets 0 bytes 0\nadd element ip anchord_v4 open_tcp { 443 }\n" + generation, 1},
		{"theirs, then ours, then theirs", "delete rule ip anchord_v4 input handle 6\n" + generation + own + generation + "delete table ip anchord_v4\n" + generation, 2},
		{"ours does not hide theirs", own + generation + "delete rule ip anchord_v4 input handle 6\n" + generation, 1},
		{"not complete yet", "delete table ip anchord_v4\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f fired
			r := &Ruleset{Fire: f.fire}
			for _, line := range strings.Split(strings.TrimSuffix(tt.lines, "\n"), "\n") {
				r.Line(line)
			}
			if len(f) != tt.fires {
				t.Errorf("fired %d times, want %d", len(f), tt.fires)
			}
			for _, s := range f {
				if s != anchord.SourceRuleset {
					t.Errorf("fired %b", s)
				}
			}
		})
	}
}

// Where the monitor does not know all lines of a transaction, nobody is accused: it is
// doubted whether the tables are what they were.
func TestLinesThatWereLostAreADoubt(t *testing.T) {
	const generation, lost = "# new generation 7 by process 24256 (nft)\n", "# ERROR: We lost some netlink events!\n"
	const elements = "add element ip anchord_v4 dnat_tcp { 8080 counter packets 0 bytes 0 : 10.0.0.3 . 80 }\n"
	const doubt, accused = anchord.SourceDoubt, anchord.SourceRuleset
	for _, tt := range []struct {
		name, lines string
		fires       []anchord.Source
	}{
		{"the end of ours", elements + lost + generation, []anchord.Source{doubt, doubt}},
		{"the beginning of ours", lost + elements + generation, []anchord.Source{doubt, doubt}},
		{"again and again", lost + elements + lost + elements + lost + generation, []anchord.Source{doubt, doubt, doubt, doubt}},
		{"and the next is whole", lost + generation + elements + generation, []anchord.Source{doubt, doubt, accused}},
		{"it began in the midst of one", "", nil},
		{"it began in the midst of one of ours", "add element ip6 anchord_v6 serial { 0x00000002 }\n" + generation, []anchord.Source{doubt}},
		{"it began before one of theirs", "# new generation 6 by process 1 (nft)\n" + elements + generation, []anchord.Source{doubt, accused}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f fired
			r := &Ruleset{Fire: f.fire}
			if strings.HasPrefix(tt.name, "it began") {
				r.Began()
			}
			for line := range strings.Lines(tt.lines) {
				r.Line(strings.TrimSuffix(line, "\n"))
			}
			if !slices.Equal(f, tt.fires) {
				t.Errorf("fired %b, want %b", f, tt.fires)
			}
		})
	}
}

// As iproute2 6.1 monitors them.
func TestGatewayMonitor(t *testing.T) {
	const look, ask = anchord.SourceKernel, anchord.SourceNames | anchord.SourceKernel
	for line, want := range map[string]anchord.Source{
		"[ROUTE]default via 10.213.0.1 dev eth0 ":                               look,
		"[ROUTE]Deleted default via 10.213.0.2 dev eth0 ":                       look,
		"[ADDR]2: eth0    inet 10.213.0.9/24 scope global eth0":                 look,
		"[NEIGH]10.213.0.2 dev eth0  FAILED":                                    ask,
		"[NEIGH]10.213.0.2 dev eth0 lladdr 02:42:0a:d5:00:02 REACHABLE":         0,
		"[NEIGH]10.213.0.2 dev eth0 lladdr 02:42:0a:d5:00:02 STALE":             0,
		"[NEIGH]Deleted 10.213.0.2 dev eth0 lladdr 02:42:0a:d5:00:02 PERMANENT": 0,
	} {
		var f fired
		(&Gateway{Fire: f.fire}).Line(line)
		var got anchord.Source
		for _, s := range f {
			got |= s
		}
		if got != want {
			t.Errorf("%q fires %b, want %b", line, got, want)
		}
	}
}
