package templates_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/templates"
)

const wholeFile = "anchord.nft.tmpl"

func file(name, text string) anchord.TemplateFile {
	return anchord.TemplateFile{Name: name, Text: text}
}

// overridden renders with the operator's files.
func overridden(t *testing.T, s anchord.State, files ...anchord.TemplateFile) (anchord.Ruleset, error) {
	t.Helper()
	embedded, err := templates.New()
	if err != nil {
		t.Fatal(err)
	}
	r, err := embedded.With(files)
	if err != nil {
		return anchord.Ruleset{}, err
	}
	return r.Render(s)
}

func mustRender(t *testing.T, s anchord.State, files ...anchord.TemplateFile) anchord.Ruleset {
	t.Helper()
	rs, err := overridden(t, s, files...)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// embeddedText is the embedded template, as operators copy it.
func embeddedText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(wholeFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func exampleOverrides(t *testing.T) []anchord.TemplateFile {
	t.Helper()
	paths, err := filepath.Glob("../examples/overrides/templates/*")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	var files []anchord.TemplateFile
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file(filepath.Base(path), string(text)))
	}
	return files
}

func TestACopyOfTheEmbeddedTemplateChangesNothing(t *testing.T) {
	for name, state := range states() {
		rs := mustRender(t, state, file(wholeFile, embeddedText(t)))
		if got := whole(rs); got != render(t, state) {
			t.Errorf("%s:\n%s", name, got)
		}
		if lines := strings.Count(rs.Body, "\n"); len(rs.Origins) != lines {
			t.Errorf("%s: %d lines, %d origins", name, lines, len(rs.Origins))
		}
	}
}

func TestABlockIsReplaced(t *testing.T) {
	one := states()["one-service"]
	for _, block := range []string{"early", "prerouting", "forward", "input", "postrouting", "extra"} {
		mark := "\n\t\tcounter comment \"mine\"\n"
		if block == "extra" {
			mark = "\n\tcounter mine {\n\t}\n"
		}
		text := `{{define "` + block + `"}}` + mark + `{{end}}`
		replaced := whole(mustRender(t, one, file("x.nft.tmpl", text)))
		before := render(t, one)
		if strings.Count(replaced, "mine") != 2 {
			t.Errorf("%s is not there once for each family:\n%s", block, replaced)
		}
		if block != "extra" && len(replaced) >= len(before) {
			t.Errorf("%s: what was there is there still", block)
		}
		if told := nft(t, "nft -c -f -", replaced); told != "" {
			t.Errorf("%s: %s", block, told)
		}
		added := whole(mustRender(t, one, file("x.nft.tmpl", strings.Replace(text, "{{end}}", `{{template "previous.`+block+`" .}}{{end}}`, 1))))
		if strings.ReplaceAll(added, mark, "") != before {
			t.Errorf("%s with what was there before:\n%s", block, added)
		}
	}
}

// An empty definition replaces, too: text/template itself would keep the other.
func TestABlockCanBeEmptied(t *testing.T) {
	rs := mustRender(t, states()["one-service"], file("x.nft.tmpl", `{{define "input"}}{{end}}`))
	if strings.Contains(rs.Body, "reject") {
		t.Errorf("the block is there still:\n%s", rs.Body)
	}
}

// Files count in the order of their names, and each builds on the one before.
func TestFilesOfOneBlockBuildOnEachOther(t *testing.T) {
	link := func(name string) anchord.TemplateFile {
		return file(name+".nft.tmpl", `{{define "forward"}}
		counter comment "`+name+`"
{{- template "previous.forward" .}}{{end}}`)
	}
	rs := mustRender(t, states()["one-service"], link("20"), link("10"), file(wholeFile, embeddedText(t)))
	first, second, embedded := strings.Index(rs.Body, `"20"`), strings.Index(rs.Body, `"10"`), strings.Index(rs.Body, "ct state invalid")
	if first < 0 || first > second || second > embedded {
		t.Errorf("at %d, %d, %d:\n%s", first, second, embedded, rs.Body)
	}
	last := mustRender(t, states()["one-service"], link("10"), file("20.nft.tmpl", `{{define "forward"}}
		counter comment "20"{{end}}`))
	if strings.Contains(last.Body, `"10"`) {
		t.Error("the last file replaces the block, and the first one is there still")
	}
}

func TestBlocksThatAreDropped(t *testing.T) {
	keeps := `{{define "prerouting"}}# mine
{{template "previous.prerouting" .}}{{end}}`
	drops := `{{define "prerouting"}}# mine
{{end}}`
	for _, c := range []struct {
		name  string
		files []anchord.TemplateFile
		want  map[string]string
	}{
		{"kept", []anchord.TemplateFile{file("a.nft.tmpl", keeps)}, nil},
		{"kept by both", []anchord.TemplateFile{file("a.nft.tmpl", keeps), file("b.nft.tmpl", keeps)}, nil},
		{"dropped", []anchord.TemplateFile{file("a.nft.tmpl", drops)}, map[string]string{"prerouting": "a.nft.tmpl"}},
		{"dropped by the second", []anchord.TemplateFile{file("a.nft.tmpl", keeps), file("b.nft.tmpl", drops)}, map[string]string{"prerouting": "b.nft.tmpl"}},
		{"dropped by the first", []anchord.TemplateFile{file("a.nft.tmpl", drops), file("b.nft.tmpl", keeps)}, map[string]string{"prerouting": "b.nft.tmpl"}},
		{"one that is empty", []anchord.TemplateFile{file("a.nft.tmpl", `{{define "extra"}}# mine
{{end}}`)}, nil},
		{"a copy of all", []anchord.TemplateFile{file(wholeFile, embeddedText(t))}, nil},
		{"a copy of all, and one that keeps", []anchord.TemplateFile{file(wholeFile, embeddedText(t)), file("a.nft.tmpl", keeps)}, nil},
		{"a copy of all, and one that drops", []anchord.TemplateFile{file(wholeFile, embeddedText(t)), file("a.nft.tmpl", drops)}, map[string]string{"prerouting": "a.nft.tmpl"}},
		{"the examples", exampleOverrides(t), nil},
	} {
		embedded, err := templates.New()
		if err != nil {
			t.Fatal(err)
		}
		r, err := embedded.With(c.files)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := r.(*templates.Renderer).Dropped(); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestExamplesAreValid(t *testing.T) {
	for name, state := range states() {
		rs := mustRender(t, state, exampleOverrides(t)...)
		if told := nft(t, "nft -c -f -", whole(rs)); told != "" {
			t.Errorf("%s: %s", name, told)
		}
		if got := strings.Count(rs.Body, "dport 8080") + strings.Count(rs.Body, "dport 80 "); state.Ext != "" && got != 4 {
			t.Errorf("%s: %d of 4 rules:\n%s", name, got, rs.Body)
		}
	}
}

func TestRefusedOverrides(t *testing.T) {
	good := embeddedText(t)
	without := func(cut string) string {
		if !strings.Contains(good, cut) {
			t.Fatalf("the template has no %q", cut)
		}
		return strings.Replace(good, cut, "", 1)
	}
	for name, c := range map[string]struct {
		files []anchord.TemplateFile
		where string // file:line
		words string
	}{
		"template syntax":                {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"forward\"}}\n{{if}}\n{{end}}{{end}}")}, "a.nft.tmpl:2", "missing value for if"},
		"an unclosed definition":         {[]anchord.TemplateFile{file("a.nft.tmpl", `{{define "forward"}}`)}, "a.nft.tmpl:1", "unexpected EOF"},
		"no such field":                  {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"forward\"}}\n\n{{.Nonsense}}{{end}}")}, "a.nft.tmpl:3", "Nonsense"},
		"no such function":               {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"forward\"}}\n{{shout .}}{{end}}")}, "a.nft.tmpl:2", `function "shout" not defined`},
		"a name that is no block":        {[]anchord.TemplateFile{file("a.nft.tmpl", "\n{{define \"forwrad\"}}x{{end}}")}, "a.nft.tmpl:2", `"forwrad", which is no block: blocks are early, extra, forward, input, postrouting, prerouting`},
		"the whole is no block":          {[]anchord.TemplateFile{file("a.nft.tmpl", `{{define "anchord.nft.tmpl"}}x{{end}}`)}, "a.nft.tmpl:1", "no block"},
		"a file's name that is none":     {[]anchord.TemplateFile{file("anchor.nft.tmpl", "")}, "anchor.nft.tmpl", "defines no block and has the name of no embedded template"},
		"text around the definitions":    {[]anchord.TemplateFile{file("a.nft.tmpl", "\n\n  counter\n{{define \"forward\"}}{{end}}")}, "a.nft.tmpl:3", "outside of every {{define}}"},
		"a copy under another name":      {[]anchord.TemplateFile{file("mine.nft.tmpl", good)}, "mine.nft.tmpl:2", "outside of every {{define}}"},
		"twice in one file":              {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"input\"}}x{{end}}\n{{define \"input\"}}y{{end}}")}, "a.nft.tmpl:2", "multiple definition"},
		"no such template":               {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"input\"}}\n{{if .V6}}{{template \"previous.imput\" .}}{{end}}{{end}}")}, "a.nft.tmpl:2", `there is no template "previous.imput"`},
		"a circle":                       {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"input\"}}\n{{template \"input\" .}}{{end}}")}, "a.nft.tmpl:2", `calls itself; previous.input is what it replaces`},
		"a circle of two":                {[]anchord.TemplateFile{file("a.nft.tmpl", `{{define "input"}}{{template "extra" .}}{{end}}{{define "extra"}}{{template "input" .}}{{end}}`)}, "a.nft.tmpl:1", "calls itself"},
		"a block that the whole has not": {[]anchord.TemplateFile{file(wholeFile, without(`{{- block "extra" .}}{{end}}`)), file("a.nft.tmpl", `{{define "extra"}}x{{end}}`)}, "a.nft.tmpl", `"extra", which anchord.nft.tmpl does not have any more`},
		"a map is missing":               {[]anchord.TemplateFile{file(wholeFile, strings.ReplaceAll(good, "map dnat_udp {", "map dnat_upd {"))}, wholeFile, "table ip anchord_v4 has no set or map dnat_udp"},
		"the serial is missing":          {[]anchord.TemplateFile{file(wholeFile, strings.ReplaceAll(good, "set serial {", "set cereal {"))}, wholeFile, "has no set or map serial"},
		"one family is missing":          {[]anchord.TemplateFile{file(wholeFile, "{{if not .V6}}"+strings.ReplaceAll(good, "{{- /*", "{{/*")+"{{end}}")}, wholeFile, "table ip6 anchord_v6 has no set or map"},
		"nothing at all":                 {[]anchord.TemplateFile{file(wholeFile, "")}, wholeFile, "has no set or map"},
		"another table":                  {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"extra\"}}\n}\ntable inet mine {\n{{end}}")}, "a.nft.tmpl:3", "nothing may stand outside of"},
		"a command":                      {[]anchord.TemplateFile{file(wholeFile, "flush ruleset;\n"+good)}, wholeFile + ":1", "nothing may stand outside of"},
		"a brace too many":               {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"extra\"}}\n\n}\n{{end}}")}, "", "is a brace wrong?"},
		"a brace too few":                {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"extra\"}}\nchain x {\n{{end}}")}, "", "is a brace wrong?"},
		"unreadable":                     {[]anchord.TemplateFile{{Name: "a.nft.tmpl", Fault: "cannot be read: permission denied"}}, "a.nft.tmpl", "permission denied"},
		"a loop":                         {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"input\"}}\n{{range 1000000000000}}{{end}}{{end}}")}, "a.nft.tmpl:2", "loop has no end"},
		"loops in a loop":                {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"input\"}}{{range 100000}}{{range 100000}}\n{{range 100000}}{{with 1}}{{end}}{{end}}{{end}}{{end}}{{end}}")}, "a.nft.tmpl:2", "loop has no end"},
		"too much":                       {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"input\"}}\n{{range 100000000}}\n# "+strings.Repeat("x", 1000)+"{{end}}{{end}}")}, "a.nft.tmpl:2", "output is too long"},
		"loops without a word":           {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"input\"}}\n{{range 1000000}}{{$x := upto 65535}}{{end}}{{end}}")}, "a.nft.tmpl:2", "loop has no end"},
		"a width":                        {[]anchord.TemplateFile{file("a.nft.tmpl", "{{define \"input\"}}{{printf \"%999999d\" 1}}{{end}}")}, "a.nft.tmpl:1", "64 KiB"},
		"calls that double":              {[]anchord.TemplateFile{file("a.nft.tmpl", doubling())}, "a.nft.tmpl:1", "loop has no end"},
		"texts that double":              {[]anchord.TemplateFile{file("a.nft.tmpl", `{{define "input"}}{{$x := "0123456789"}}{{range 100}}{{$x = print $x $x}}{{end}}{{end}}`)}, "a.nft.tmpl:1", "64 KiB"},
		"wide formats":                   {[]anchord.TemplateFile{file("a.nft.tmpl", `{{define "input"}}{{printf "%0999999d" 1}}{{end}}`)}, "a.nft.tmpl:1", "64 KiB"},
		"too many numbers":               {[]anchord.TemplateFile{file("a.nft.tmpl", `{{define "input"}}{{upto 1000000000}}{{end}}`)}, "a.nft.tmpl:1", "at most 65535"},
		"quotes of another language":     {[]anchord.TemplateFile{file("a.nft.tmpl", `{{define "input"}}{{js .Ext}}{{end}}`)}, "a.nft.tmpl:1", "another language"},
		"data that does not fit":         {[]anchord.TemplateFile{file("a.nft.tmpl", `{{define "input"}}{{index .Exposed 7}}{{end}}`)}, "a.nft.tmpl:1", "out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := overridden(t, states()["one-service"], c.files...)
			var told *anchord.TemplateError
			if !errors.As(err, &told) || !strings.Contains(told.Error(), c.words) || !strings.HasPrefix(told.Error(), c.where+": ") && c.where != "" {
				t.Errorf("%v, want %s: %s", err, c.where, c.words)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v to say so", took)
			}
		})
	}
}

// doubling calls more templates than there are seconds in a year.
func doubling() string {
	blocks := []string{"input", "extra", "early", "forward", "postrouting"}
	var b strings.Builder
	for i, block := range blocks {
		next := ""
		if i+1 < len(blocks) {
			next = strings.Repeat(`{{template "`+blocks[i+1]+`" .}}`, 500)
		}
		fmt.Fprintf(&b, `{{define "%s"}}%s{{end}}`, block, next)
	}
	return b.String()
}

// What ends in time ends soon, whatever form it has.
func TestLargeOutput(t *testing.T) {
	for name, text := range map[string]string{
		"one line":       `{{range 400000}}x{{end}}`,
		"many lines":     "{{range 200000}}\n# x{{end}}\n",
		"many rules":     "{{range 200000}}\n\t\taccept{{end}}\n",
		"many comments":  "{{range 200000}}# \"{{end}}\n",
		"many quotes":    "{{range 200000}}\"{{end}}\n",
		"braces":         "{{range 200000}} { {{end}}{{range 200000}} } {{end}}\n",
		"closing braces": "{{range 200000}} } {{end}}\n",
	} {
		began := time.Now()
		_, err := overridden(t, states()["one-service"], file("a.nft.tmpl", `{{define "forward"}}`+text+`{{end}}`))
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s took %v (%v)", name, took, err)
		}
	}
}

// Each rendered line knows its template, also where lines are put together
// from several places.
func TestOrigins(t *testing.T) {
	rs := mustRender(t, states()["ranges"], file("a.nft.tmpl", `{{define "forward"}}
		counter comment "second line"
{{- range .Exposed}}
		{{.Protocol}} dport {{.BackendPorts}}
			accept # {{.Container}}
{{- end}}
{{- template "previous.forward" .}}
{{end}}`))
	lines := strings.Split(rs.Body, "\n")
	want := map[string]string{
		"second line": "a.nft.tmpl:2", "udp dport 5353": "a.nft.tmpl:4", `accept # "shop-dns-1"`: "a.nft.tmpl:5",
		"set serial": "anchord.nft.tmpl (embedded):6", "ct state invalid counter drop": "anchord.nft.tmpl (embedded):",
	}
	for text, place := range want {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, text) })
		if i < 0 {
			t.Fatalf("no line %q in:\n%s", text, rs.Body)
		}
		if got := fmt.Sprintf("%s:%d", rs.Origins[i].File, rs.Origins[i].Line); !strings.HasPrefix(got, place) {
			t.Errorf("line %q comes from %s, want %s", text, got, place)
		}
	}
}

// What is no rule is the frame; rules are not.
func TestFrame(t *testing.T) {
	one := states()["one-service"]
	plain := mustRender(t, one)
	rule := mustRender(t, one, file("a.nft.tmpl", `{{define "forward"}} tcp dport { 1, 2 } accept; # set x {
		counter comment "} set y {" # }
{{end}}`))
	if plain.Frame == "" || rule.Frame != plain.Frame {
		t.Errorf("another rule made another frame:\n%s\nwas:\n%s", rule.Frame, plain.Frame)
	}
	for _, extra := range []string{
		"set x { type ipv4_addr; elements = { 192.0.2.1 }; }\n", "set x { type ipv4_addr; elements = { 192.0.2.2 }; }\n", "chain x {\n}\n",
		"chain x { type filter hook input priority 1; policy drop; }\n", "chain x { type filter hook input priority 1; policy accept; }\n", "define x = { 1 }\n",
	} {
		other := mustRender(t, one, file("a.nft.tmpl", "{{define \"extra\"}}\n"+extra+"{{end}}"))
		if other.Frame == plain.Frame {
			t.Errorf("%q is not in the frame", extra)
		}
		plain = other
	}
	if two := mustRender(t, states()["two-transits"]); two.Frame != mustRender(t, one).Frame {
		t.Error("the frame depends on the state")
	}
}

// A container's name stays a word in quotes, however an override writes it.
func TestHostileNamesInOverrides(t *testing.T) {
	hostile := states()["hostile-names"]
	for _, verb := range []string{"{{.Container}}", `{{print .Container}}`, `{{printf "%s" .Container}}`, `{{printf "%v" .}}`, `{{slice .Container 0 3}}`, `{{comment (print .Container)}}`, `{{printf "%+v" .Container}}`} {
		rs := mustRender(t, hostile, file("a.nft.tmpl", `{{define "forward"}}{{range .Exposed}}
		NAME `+verb+`{{end}}{{end}}`))
		for line := range strings.Lines(rs.Body) {
			if _, name, found := strings.Cut(line, "NAME "); found && strings.ContainsAny(name, ";#$`\\") {
				t.Errorf("%s: %s", verb, line)
			}
		}
	}
	rs := mustRender(t, hostile, file("a.nft.tmpl", `{{define "forward"}}
		counter comment {{.Project}}{{range .Exposed}}
		{{.Protocol}} dport {{.Public}} counter comment {{.Container}}{{end}}
{{end}}`))
	if told := nft(t, "nft -c -f -", whole(rs)); told != "" {
		t.Error(told)
	}
}

func TestNamesCanBeCompared(t *testing.T) {
	rs := mustRender(t, states()["ranges"], file("a.nft.tmpl", `{{define "forward"}}{{range .Exposed}}{{if eq .Container "shop-dns-1"}}
		ip daddr {{.Backend}} {{.Protocol}} dport {{.BackendPorts}} accept{{end}}{{end}}
{{end}}`))
	if got := strings.Count(rs.Body, "ip daddr 10.213.0.9 udp dport 5353 accept"); got != 1 {
		t.Errorf("%d rules:\n%s", got, rs.Body)
	}
}
