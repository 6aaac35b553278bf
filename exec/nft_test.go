package exec

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// rules is a small ruleset with both kinds of maps; each of elements is a
// map, a key and a target.
func rules(rule string, elements ...[3]string) anchord.Ruleset {
	var rs anchord.Ruleset
	for _, f := range anchord.Families {
		rs.Body += "table " + anchord.Table(f) + " {\n\tset serial {\n\t\ttype mark\n\t}\n"
		if f == anchord.V4 {
			rs.Body += "\tmap dnat_tcp {\n\t\ttype inet_service : ipv4_addr . inet_service\n\t\tcounter\n\t}\n\tmap dnat_tcp_ranges {\n\t\ttype inet_service : ipv4_addr\n\t\tflags interval\n\t}\n"
		}
		rs.Body += "\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n" + rule + "\t}\n}\n"
	}
	for _, name := range []string{"dnat_tcp", "dnat_tcp_ranges"} {
		s := anchord.Set{Table: anchord.TableV4, Name: name}
		for _, e := range elements {
			if e[0] == name {
				s.Elements = append(s.Elements, anchord.Element{Key: e[1], Text: e[1] + " : " + e[2]})
			}
		}
		rs.Sets = append(rs.Sets, s)
	}
	return rs
}

var (
	smtp    = [3]string{"dnat_tcp", "25", "10.0.0.5 . 25"}
	smtpNew = [3]string{"dnat_tcp", "25", "10.0.0.9 . 25"}
	web     = [3]string{"dnat_tcp", "80", "10.0.0.6 . 8080"}
	span    = [3]string{"dnat_tcp_ranges", "100-200", "10.0.0.7"}
	wider   = [3]string{"dnat_tcp_ranges", "100-300", "10.0.0.7"}
	within  = [3]string{"dnat_tcp_ranges", "150-160", "10.0.0.8"}
)

// listing is asked for after each change of rules.
const listing = "nft --stateless --terse list ruleset\n"

func TestFirstApplyCreatesAndLaterOnesChange(t *testing.T) {
	recorded := tools(t, map[string]string{"nft": ""})
	n := &NFT{}
	apply := func(rs anchord.Ruleset) string {
		t.Helper()
		if err := n.Apply(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(strings.ReplaceAll(recorded(), listing, ""), "nft -f -\n")
	}
	wantText(t, "first", apply(rules("", smtp, span)), "add table ip anchord_v4\ndelete table ip anchord_v4\nadd table ip6 anchord_v6\ndelete table ip6 anchord_v6\n"+rules("").Body+
		"add element ip anchord_v4 dnat_tcp {\n\t25 : 10.0.0.5 . 25\n}\nadd element ip anchord_v4 dnat_tcp_ranges {\n\t100-200 : 10.0.0.7\n}\n"+
		"add element ip anchord_v4 serial { 1 }\nadd element ip6 anchord_v6 serial { 1 }\n")

	serial := func(n int) string {
		return fmt.Sprintf("flush set ip anchord_v4 serial\nflush set ip6 anchord_v6 serial\nadd element ip anchord_v4 serial { %d }\nadd element ip6 anchord_v6 serial { %d }\n", n, n)
	}
	wantText(t, "one element more", apply(rules("", smtp, web, span)), "add element ip anchord_v4 dnat_tcp {\n\t80 : 10.0.0.6 . 8080\n}\n"+serial(2))
	wantText(t, "one element otherwise", apply(rules("", smtpNew, web, span)), "delete element ip anchord_v4 dnat_tcp {\n\t25\n}\nadd element ip anchord_v4 dnat_tcp {\n\t25 : 10.0.0.9 . 25\n}\n"+serial(3))
	wantText(t, "all elements gone", apply(rules("")), "delete element ip anchord_v4 dnat_tcp {\n\t25,\n\t80\n}\ndelete element ip anchord_v4 dnat_tcp_ranges {\n\t100-200\n}\n"+serial(4))
	other := rules("\t\tcounter\n")
	wantText(t, "other rules", apply(other), "flush table ip anchord_v4\nflush table ip6 anchord_v6\n"+other.Body+serial(5))
	wantText(t, "nothing else: the serial changes all the same", apply(other), serial(6))
	n.Forget()
	if did := apply(other); !strings.Contains(did, "delete table") || !strings.Contains(did, "serial { 7 }") {
		t.Errorf("after somebody else changed the tables:\n%s", did)
	}
}

func TestFailedChangeFallsBackToCreation(t *testing.T) {
	// An update is what does not delete the tables.
	recorded := tools(t, map[string]string{"nft": `grep -q "delete table" "$(dirname "$0")/record" && exit 0; echo "Error: Could not process rule: No such file or directory" >&2; exit 1`})
	n := &NFT{}
	if err := n.Apply(t.Context(), rules("", smtp)); err != nil {
		t.Fatal(err)
	}
	recorded()
	if err := n.Apply(t.Context(), rules("", web)); err != nil {
		t.Fatal(err)
	}
	runs := strings.Split(recorded(), "nft -f -\n")
	if len(runs) != 3 || strings.Contains(runs[1], "delete table") || !strings.Contains(runs[2], "delete table") || !strings.Contains(runs[2], "80 : 10.0.0.6") {
		t.Errorf("runs: %q", runs)
	}
}

func TestFailedCreationIsToldAndTriedAfresh(t *testing.T) {
	recorded := tools(t, map[string]string{"nft": `echo "/dev/stdin:7:3-9: Error: syntax error" >&2; exit 1`})
	n := &NFT{}
	err := n.Apply(t.Context(), rules("", smtp))
	if err == nil || !strings.Contains(err.Error(), "applying ruleset") || !strings.Contains(err.Error(), "stdin:7:3-9: Error: syntax error") {
		t.Errorf("%v", err)
	}
	first := recorded()
	_ = n.Apply(t.Context(), rules("", smtp))
	second := recorded()
	if !strings.Contains(second, "delete table") || first == second {
		t.Errorf("second try, with another serial:\n%s", second)
	}
}

func TestTablesStanding(t *testing.T) {
	for out, want := range map[string]bool{
		"table ip nat\ntable ip anchord_v4\ntable ip6 anchord_v6\n": true,
		"table ip anchord_v4\n":  false,
		"table ip6 anchord_v6\n": false,
		"":                       false,
		"table ip anchord_v40\ntable ip6 anchord_v60\n": false,
	} {
		tools(t, map[string]string{"nft": "printf '" + strings.ReplaceAll(out, "\n", `\n`) + "'"})
		if got, err := (&NFT{}).Standing(t.Context()); got != want || err != nil {
			t.Errorf("%q: %v, %v", out, got, err)
		}
	}
	tools(t, map[string]string{"nft": "exit 1"})
	if _, err := (&NFT{}).Standing(t.Context()); err == nil {
		t.Error("a failing nft is no error")
	}
}

// As nft 1.0.6 prints it.
const listTable = `{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}}, {"table": {"family": "ip", "name": "anchord_v4", "handle": 2}}, {"set": {"family": "ip", "name": "serial", "table": "anchord_v4", "type": "mark", "handle": 2, "elem": [2]}}, {"map": {"family": "ip", "name": "dnat_tcp", "table": "anchord_v4", "type": "inet_service", "handle": 3, "map": "ipv4_addr . inet_service", "elem": [[{"elem": {"val": 25, "comment": "postfix", "counter": {"packets": 17, "bytes": 1020}}}, {"concat": ["10.0.0.2", 2525]}], [8080, {"concat": ["10.0.0.3", 80]}]], "stmt": [{"counter": null}]}}, {"map": {"family": "ip", "name": "dnat_udp_ranges", "table": "anchord_v4", "type": "inet_service", "handle": 4, "map": "ipv4_addr", "flags": ["interval"], "elem": [[{"elem": {"val": {"range": [49152, 49252]}, "comment": "turn", "counter": {"packets": 3, "bytes": 90}}}, "10.0.0.4"]], "stmt": [{"counter": null}]}}, {"map": {"family": "ip", "name": "dnat_udp", "table": "anchord_v4", "type": "inet_service", "handle": 9, "map": "ipv4_addr . inet_service", "stmt": [{"counter": null}]}}, {"chain": {"family": "ip", "table": "anchord_v4", "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}}]}`

func TestCounters(t *testing.T) {
	tools(t, map[string]string{"nft": "case \"$*\" in *ip6*) echo '{\"nftables\": []}' ;; *) cat <<'END'\n" + listTable + "\nEND\n;; esac"})
	n := &NFT{}
	got, err := n.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{
		CounterKey(anchord.TableV4, "dnat_tcp", "25"):                 17,
		CounterKey(anchord.TableV4, "dnat_tcp", "8080"):               0,
		CounterKey(anchord.TableV4, "dnat_udp_ranges", "49152-49252"): 3,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	tools(t, map[string]string{"nft": "echo Error"})
	if _, err := n.Counters(t.Context()); err == nil {
		t.Error("what is no JSON is no error")
	}
}

// TestChangesInTheKernel: whatever stands, a change to anything else leaves
// exactly what a creation would.
func TestChangesInTheKernel(t *testing.T) {
	all := []anchord.Ruleset{
		rules(""), rules("", smtp), rules("", smtpNew, web), rules("\t\tcounter\n", web, span), rules("", wider), rules("", within, smtp), rules("\t\ttcp dport 22 accept\n", span),
	}
	var script strings.Builder
	type step struct {
		what string
		want int // ruleset that stands after it
	}
	var steps []step
	run := func(what, text string, want int) {
		steps = append(steps, step{what, want})
		fmt.Fprintf(&script, "nft -f - <<'END'\n%sEND\nnft list ruleset; echo ====\n", text)
	}
	for i, rs := range all {
		run(fmt.Sprintf("creating %d", i), Script(rs, 1), i)
	}
	for i, a := range all {
		run(fmt.Sprintf("creating %d again", i), Script(a, 1), i)
		for j, b := range all[:i] {
			run(fmt.Sprintf("changing %d to %d", i, j), updateScript(a, b, 1), j)
			run(fmt.Sprintf("changing %d to %d", j, i), updateScript(b, a, 1), i)
		}
	}
	out, err := exec.Command("unshare", "--net", "sh", "-ec", script.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	listings := strings.Split(string(out), "====\n")
	for i, s := range steps {
		if settled(listings[i]) != settled(listings[s.want]) {
			t.Errorf("%s left:\n%s\nwant:\n%s", s.what, listings[i], listings[s.want])
		}
	}
}

var order = regexp.MustCompile(`(?s)elements = \{.*?\}`)

// settled sorts what nft lists in any order.
func settled(listing string) string {
	return order.ReplaceAllStringFunc(listing, func(s string) string {
		words := strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(",{}\n\t", r) })
		for i := range words {
			words[i] = strings.TrimSpace(words[i])
		}
		slices.Sort(words)
		return strings.Join(words, ";")
	})
}

// Where only rules differ they are refilled; another frame needs the tables
// anew.
func TestAnotherFrameCreatesTheTablesAnew(t *testing.T) {
	recorded := tools(t, map[string]string{"nft": ""})
	n := &NFT{}
	for i, c := range []struct {
		frame string
		anew  bool
	}{{"a", true}, {"a", false}, {"b", true}, {"b", false}} {
		rs := rules(strings.Repeat("\t\tcounter\n", i))
		rs.Frame = c.frame
		if err := n.Apply(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		if did := recorded(); strings.Contains(did, "delete table") != c.anew || strings.Contains(did, "flush table") == c.anew {
			t.Errorf("step %d:\n%s", i, did)
		}
	}
}

// A ruleset that nft refuses is not in the kernel, so that what was there is
// changed on, and not made anew.
func TestARefusedRulesetLeavesWhatStands(t *testing.T) {
	recorded := tools(t, map[string]string{"nft": `grep -q nonsense "$(dirname "$0")/record" && { echo "/dev/stdin:1:1-2: Error: syntax error" >&2; exit 1; }; exit 0`})
	n := &NFT{}
	if err := n.Apply(t.Context(), rules("", smtp)); err != nil {
		t.Fatal(err)
	}
	if err := n.Apply(t.Context(), rules("nonsense", smtp)); err == nil {
		t.Fatal("nonsense was accepted")
	}
	recorded()
	if err := n.Apply(t.Context(), rules("", web)); err != nil {
		t.Fatal(err)
	}
	if did := recorded(); strings.Contains(did, "delete table") || !strings.Contains(did, "80 : 10.0.0.6") {
		t.Errorf("then:\n%s", did)
	}
}

// What nft says of a line is told for the template that the line is from.
func TestComplaintsNameTheTemplate(t *testing.T) {
	complain := func(line int) {
		tools(t, map[string]string{"nft": fmt.Sprintf(`echo "/dev/stdin:%d:3-9: Error: syntax error, unexpected saddr" >&2; echo "the line" >&2; exit 1`, line)})
	}
	rs := rules("\t\tcounter \"x\"\n")
	lines := strings.Split(strings.TrimSuffix(rs.Body, "\n"), "\n")
	for i := range lines {
		rs.Origins = append(rs.Origins, anchord.Origin{File: "a.nft.tmpl", Line: 100 + i})
	}
	removal := strings.Count(removal, "\n")
	for i, text := range lines {
		complain(removal + i + 1)
		for what, err := range map[string]error{"check": (&NFT{}).Check(t.Context(), rs), "apply": (&NFT{}).Apply(t.Context(), rs)} {
			var told *anchord.TemplateError
			if !errors.As(err, &told) || told.File != "a.nft.tmpl" || told.Line != 100+i || told.Rendered != strings.Join(strings.Fields(text), " ") || told.Message != "nft: syntax error, unexpected saddr" {
				t.Errorf("%s of line %q: %v", what, text, err)
			}
		}
	}
	for _, line := range []int{1, removal, removal + len(lines) + 1, 100000} {
		complain(line)
		var told *anchord.TemplateError
		if err := (&NFT{}).Check(t.Context(), rs); err == nil || errors.As(err, &told) || !strings.Contains(err.Error(), "unexpected saddr") {
			t.Errorf("a line of no template: %v", err)
		}
	}
	complain(removal + 1)
	rs.Origins = nil
	var told *anchord.TemplateError
	if err := (&NFT{}).Check(t.Context(), rs); err == nil || errors.As(err, &told) {
		t.Errorf("all templates are embedded: %v", err)
	}
}

// A name has nft ask DNS, which may not answer.
func TestACheckThatDoesNotEnd(t *testing.T) {
	tools(t, map[string]string{"nft": "exec sleep 60"})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := (&NFT{}).Check(ctx, rules("")); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "name stand where an address belongs") {
		t.Errorf("%v", err)
	}
}
