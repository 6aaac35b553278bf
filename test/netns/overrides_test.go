package netns_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const examples = "../../examples/overrides/templates/"

// example is a template as users copy it.
func (w *world) example(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(examples + name)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// embedded is the template that is replaced, as users copy it.
func embedded(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../templates/anchord.nft.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// templates is a directory of templates, which need not be there.
func (w *world) templates() string { return filepath.Join(w.dir, "templates") }

// override writes a template as careful programs do, by a rename.
func (w *world) override(name, text string) {
	w.t.Helper()
	if err := os.MkdirAll(w.templates(), 0o755); err != nil {
		w.t.Fatal(err)
	}
	tmp := w.write("new", text)
	if err := os.Rename(tmp, filepath.Join(w.templates(), name)); err != nil {
		w.t.Fatal(err)
	}
}

// withdraw removes a template.
func (w *world) withdraw(name string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.templates(), name)); err != nil {
		w.t.Fatal(err)
	}
}

// forward is an override that is known by its comment in the kernel.
func forward(comment string) string {
	return `{{define "forward"}}
		counter comment "` + comment + `"
{{- template "previous.forward" .}}
{{end}}`
}

// says is a condition: the rules of both families have this comment, or not.
func (r *running) says(comment string, want bool) func() error {
	return func() error {
		n := strings.Count(r.box.run("nft", "list", "ruleset"), `comment "`+comment+`"`)
		if (n == 2) != want || n == 1 {
			return fmt.Errorf("the rules have the comment %q %d times", comment, n)
		}
		return nil
	}
}

// refused is a condition: overrides are, or are not, by all that tells of it.
func (r *running) refusing(want bool) func() error {
	value := 0.0
	if want {
		value = 1
	}
	return func() error {
		if err := r.a.metricIs("anchord_template_override_refused", value)(); err != nil {
			return err
		}
		if status := r.a.status(); strings.Contains(status, `"refused"`) != want || strings.Contains(status, "template.override_refused") != want {
			return fmt.Errorf("the status is %s", status)
		}
		return nil
	}
}

// overridden starts an anchord that looks for templates.
func (w *world) overridden(s setup, wrap ...string) *running {
	w.t.Helper()
	cmd := w.command(w.boxID, []string{"ANCHORD_TEMPLATE_DIR=" + w.templates()})
	cmd.Args = slices.Insert(cmd.Args, len(cmd.Args)-1, wrap...)
	r := &running{world: w, d: w.startDnsmasq(s.dnsmasqArgs()...)}
	r.a = w.launch(w.box, w.runDir(), cmd).ready()
	r.ext = r.a.leased()
	return r
}

// carried is a connection and a UDP flow that go on while rules change.
type carried struct {
	r       *running
	session *session
	stream  *stream
}

func (r *running) traffic() *carried {
	r.t.Helper()
	web := r.backend("web", 10, "tcp/80,udp/53")
	web.serveTCP("web", ":80")
	web.serveUDP("web", ":53")
	eventually(r.t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	return &carried{r: r, session: r.client.session(r.addr(80)), stream: r.client.stream(r.addr(53))}
}

// goesOn fails the test if either was disturbed.
func (f *carried) goesOn() {
	f.r.t.Helper()
	if err := f.session.echo(); err != nil {
		f.r.t.Fatalf("the connection was disturbed: %v", err)
	}
	eventually(f.r.t, deadline, f.stream.answeredBy("web "+clientIP))
	if out := f.r.box.run("conntrack", "-L", "-p", "udp", "--orig-port-dst", "53"); strings.Count(out, "dport=53 ") != 1 {
		f.r.t.Fatalf("the UDP flow did not stay the one that it was:\n%s", out)
	}
}

// A directory that appears, one block, the whole, and the end of each.
func TestOverridesAreTakenUpWhileTrafficFlows(t *testing.T) {
	t.Parallel()
	r := newWorld(t, setup{}).overridden(setup{})
	f := r.traffic()
	for _, step := range []struct {
		what    string
		do      func()
		comment string
		there   bool
	}{
		{"the directory appears with a block", func() { r.override("10-a.nft.tmpl", forward("block one")) }, "block one", true},
		{"the block is changed", func() { r.override("10-a.nft.tmpl", forward("block two")) }, "block two", true},
		{"another file adds to it", func() { r.override("20-b.nft.tmpl", forward("block three")) }, "block three", true},
		{"the whole is replaced", func() {
			r.override("anchord.nft.tmpl", strings.Replace(embedded(t), "a server does not redirect", "the whole", 2))
		}, "the whole", true},
		{"the whole is withdrawn", func() { r.withdraw("anchord.nft.tmpl") }, "the whole", false},
		{"a chain of one's own", func() {
			r.override("30-c.nft.tmpl", "{{define \"extra\"}}\n\tchain mine {\n\t\ttype filter hook forward priority 1; policy accept;\n\t\tcounter comment \"my own\"\n\t}\n{{end}}")
		}, "my own", true},
		{"that chain goes", func() { r.withdraw("30-c.nft.tmpl") }, "my own", false},
		{"blocks are withdrawn", func() { r.withdraw("10-a.nft.tmpl"); r.withdraw("20-b.nft.tmpl") }, "block two", false},
		{"the directory goes and comes", func() {
			os.Remove(r.templates())
			r.override("10-a.nft.tmpl", forward("block four"))
		}, "block four", true},
		{"the directory goes", func() { os.RemoveAll(r.templates()) }, "block four", false},
	} {
		t.Log(step.what)
		step.do()
		eventually(t, hang, r.says(step.comment, step.there))
		f.goesOn()
	}
	if rules := r.box.run("nft", "list", "ruleset"); strings.Contains(rules, "chain mine") {
		t.Errorf("a chain that nobody declares is there still:\n%s", rules)
	}
	eventually(t, deadline, r.a.logs("template.applied", "10-a.nft.tmpl"))
	eventually(t, deadline, r.a.logs("template.applied", "embedded templates again"))
	for _, e := range r.a.log() {
		if e.str("event") == "template.override_refused" || e.str("event") == "ruleset.drift" || e.str("event") == "reconcile.failed" {
			t.Errorf("it complains: %v", e)
		}
	}
}

// What is broken is refused and told once, the rules stand and go on following
// the containers in the words accepted last, and a repair is told.
func TestBrokenOverridesAreRefusedAndContainersFollowedAllTheSame(t *testing.T) {
	t.Parallel()
	// As with cap_drop: ALL, so that a file's mode means something to root.
	r := newWorld(t, setup{}).overridden(setup{}, "setpriv", "--bounding-set", "-dac_override,-dac_read_search")
	f := r.traffic()
	r.override("10-good.nft.tmpl", forward("good"))
	eventually(t, hang, r.says("good", true))

	path := filepath.Join(r.templates(), "20-bad.nft.tmpl")
	for i, c := range []struct {
		name  string
		make  func()
		words []string
	}{
		{"template syntax", func() { r.override("20-bad.nft.tmpl", "{{define \"input\"}}\n{{if}}{{end}}") }, []string{`"file":"20-bad.nft.tmpl"`, `"line":2`, "missing value for if"}},
		{"nft syntax", func() {
			r.override("20-bad.nft.tmpl", "{{define \"input\"}}\n\n\t\ttcp dport nonsense accept\n{{end}}")
		}, []string{`"file":"20-bad.nft.tmpl"`, `"line":3`, "tcp dport nonsense accept", "Servname not supported"}},
		{"what only the kernel refuses", func() { r.override("20-bad.nft.tmpl", "{{define \"input\"}}\n\t\tmasquerade\n{{end}}") }, []string{`"file":"20-bad.nft.tmpl"`, `"line":2`, "Operation not supported"}},
		{"a missing field", func() { r.override("20-bad.nft.tmpl", "{{define \"input\"}}\n{{.Nonsense}}\n{{end}}") }, []string{`"file":"20-bad.nft.tmpl"`, `"line":2`, "Nonsense"}},
		{"a map that is gone", func() {
			r.override("anchord.nft.tmpl", strings.Replace(embedded(t), "map dnat_udp {", "map dnat_upd {", 1))
		}, []string{`"file":"anchord.nft.tmpl"`, "has no set or map dnat_udp"}},
		{"a loop without end", func() { r.override("20-bad.nft.tmpl", "{{define \"input\"}}{{range 1000000000000}}{{end}}{{end}}") }, []string{"loop has no end"}},
		{"permission", func() { r.override("20-bad.nft.tmpl", forward("secret")); os.Chmod(path, 0) }, []string{"permission denied"}},
		{"a directory", func() { os.Mkdir(path, 0o755) }, []string{"is not a file"}},
		{"a pipe", func() { unix.Mkfifo(path, 0o644) }, []string{"is not a file"}},
		{"a circle of links", func() { os.Symlink("20-bad.nft.tmpl", path) }, []string{"too many levels"}},
		{"a huge file", func() { r.override("20-bad.nft.tmpl", strings.Repeat("# large\n", 1<<20)) }, []string{"longer than"}},
		{"a binary file", func() { r.override("20-bad.nft.tmpl", "\x7fELF\x00\x01") }, []string{"is not text"}},
	} {
		t.Log(c.name)
		before := len(r.a.entries("template.override_refused"))
		cleared := len(r.a.entries("notice.cleared"))
		c.make()
		eventually(t, hang, r.refusing(true))
		eventually(t, deadline, r.a.logs("template.override_refused", append(c.words, `"level":"error"`, "10-good.nft.tmpl as accepted before")...))

		late := r.backend(fmt.Sprintf("late%d", i), 20+i, fmt.Sprintf("tcp/%d", 1000+i))
		late.serveTCP("late", fmt.Sprintf(":%d", 1000+i))
		eventually(t, deadline, r.client.answers("tcp", r.addr(1000+i), "late "+clientIP))
		f.goesOn()
		if err := r.says("good", true)(); err != nil {
			t.Error(err)
		}
		if told := len(r.a.entries("template.override_refused")) - before; told != 1 {
			t.Errorf("it was told %d times", told)
		}
		os.Remove(path)
		os.Remove(filepath.Join(r.templates(), "anchord.nft.tmpl"))
		eventually(t, hang, r.refusing(false))
		eventually(t, deadline, func() error {
			if n := len(r.a.entries("notice.cleared")); n != cleared+1 {
				return fmt.Errorf("that it is over was told %d times", n-cleared)
			}
			return nil
		})
		f.goesOn()
	}
	if n := len(r.a.entries("reconcile.failed")) + len(r.a.entries("ruleset.drift")); n > 0 {
		t.Errorf("%d other complaints", n)
	}
}

// A template that fails only for what comes later must not keep the rules from
// following: what it said last stays, and the elements change.
func TestAnOverrideThatFailsLaterKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.override("10-late.nft.tmpl", `{{define "forward"}}
		counter comment "late"
{{- range .Exposed}}{{if eq .First 81}}
		{{.Nonsense}}
{{- end}}{{if eq .First 82}}
		tcp dport nonsense
{{- end}}{{end}}
{{- template "previous.forward" .}}
{{end}}`)
	r := w.overridden(setup{})
	f := r.traffic()
	eventually(t, deadline, r.says("late", true))
	for port, words := range map[int]string{81: "Nonsense", 82: "tcp dport nonsense"} {
		b := r.backend(fmt.Sprintf("b%d", port), port, fmt.Sprintf("tcp/%d", port))
		b.serveTCP("b", fmt.Sprintf(":%d", port))
		eventually(t, deadline, r.client.answers("tcp", r.addr(port), "b "+clientIP))
		eventually(t, deadline, r.refusing(true))
		eventually(t, deadline, r.a.logs("template.override_refused", words, "10-late.nft.tmpl"))
		if err := r.says("late", true)(); err != nil {
			t.Error(err)
		}
		f.goesOn()
		r.docker.Remove(b.id)
		eventually(t, deadline, r.refusing(false))
		eventually(t, deadline, r.client.refused("tcp", r.addr(port)))
	}
}

// What is complete a moment later was never wrong: files are written in
// pieces, swapped as Kubernetes does it, and changed twice at once.
func TestHalfWrittenOverridesAreNeverTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	// A file that is mounted by itself changes without a word to the directory.
	w.override("30-mounted.nft.tmpl", "")
	alone := w.write("alone", forward("mounted"))
	if err := unix.Mount(alone, filepath.Join(w.templates(), "30-mounted.nft.tmpl"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(filepath.Join(w.templates(), "30-mounted.nft.tmpl"), unix.MNT_DETACH) })
	r := w.overridden(setup{})
	text := forward("in pieces")
	out, err := os.Create(filepath.Join(w.templates(), "10-slow.nft.tmpl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, piece := range []string{text[:20], text[20:40], text[40:60], text[60:]} {
		out.WriteString(piece)
		<-time.After(20 * time.Millisecond) // as a slow writer
	}
	out.Close()
	eventually(t, hang, r.says("in pieces", true))

	w.override("10-slow.nft.tmpl", "{{broken")
	w.override("10-slow.nft.tmpl", forward("second thought"))
	eventually(t, hang, r.says("second thought", true))

	// ..data leads to a directory of a date and is replaced by a rename.
	for _, date := range []string{"..one", "..two"} {
		dir := filepath.Join(w.templates(), date)
		os.Mkdir(dir, 0o755)
		os.WriteFile(filepath.Join(dir, "20-kube.nft.tmpl"), []byte(forward("in"+date)), 0o644)
		os.Symlink(date, filepath.Join(w.templates(), "..tmp"))
		os.Rename(filepath.Join(w.templates(), "..tmp"), filepath.Join(w.templates(), "..data"))
		os.Symlink("..data/20-kube.nft.tmpl", filepath.Join(w.templates(), "20-kube.nft.tmpl"))
		eventually(t, hang, r.says("in"+date, true))
	}

	w.write("alone", forward("mounted and changed"))
	eventually(t, hang, r.says("mounted and changed", true))

	for _, e := range r.a.entries("template.override_refused") {
		t.Errorf("it complains: %v", e)
	}
}

// At the start there is nothing accepted before: the embedded templates are
// used, and the repair needs no restart. Files that do nothing are told.
func TestABrokenOverrideAtStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.override("10-bad.nft.tmpl", "{{define \"input\"}}\n\t\tnonsense\n{{end}}")
	w.override("anchord.nft.tmp", "")
	w.override("README~", "")
	r := w.overridden(setup{})
	f := r.traffic()
	eventually(t, deadline, r.refusing(true))
	eventually(t, deadline, r.a.logs("template.override_refused", "the embedded templates", "10-bad.nft.tmpl:2", "nonsense"))
	eventually(t, deadline, r.a.logs("template.ignored", "anchord.nft.tmp", `"level":"warning"`))
	render := func() (string, string) {
		p := w.box.startCmd(w.command(w.boxID, []string{"ANCHORD_TEMPLATE_DIR=" + w.templates()}, "render"))
		<-p.exited
		return p.out.String(), p.errOut.String()
	}
	if out, told := render(); !strings.Contains(told, "10-bad.nft.tmpl:2") || !strings.Contains(out, "reject with tcp reset") {
		t.Errorf("render says %q and prints:\n%s", told, out)
	}
	w.override("10-bad.nft.tmpl", forward("repaired"))
	eventually(t, hang, r.says("repaired", true))
	eventually(t, deadline, r.refusing(false))
	if out, told := render(); told != "" || !strings.Contains(out, "repaired") {
		t.Errorf("render says %q and prints:\n%s", told, out)
	}
	w.withdraw("anchord.nft.tmp")
	eventually(t, hang, r.a.logs("notice.cleared", "template.ignored"))
	f.goesOn()
	if n := len(r.a.entries("template.ignored")); n != 1 {
		t.Errorf("files that do nothing are told %d times", n)
	}
	// Killed while files are swapped, it begins with what is there.
	w.override("10-bad.nft.tmpl", forward("swapped"))
	r.a.crash()
	r.a = w.anchord("ANCHORD_TEMPLATE_DIR=" + w.templates()).ready()
	eventually(t, hang, r.says("swapped", true))
	f.goesOn()
}

// The examples as they are: a port for some networks, and a limit of new
// connections for each client.
func TestExampleOverrides(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{ipv6: true})
	for _, name := range []string{"10-only-from.nft.tmpl", "20-new-connections.nft.tmpl"} {
		w.override(name, w.example(name))
	}
	r := w.overridden(setup{ipv6: true})
	web := w.backend("web", 10, "tcp/80,tcp/8080")
	web.serveTCP("web", ":80")
	web.serveTCP("web", ":8080")
	app := w.backend("app", 11, "")
	addr6 := func(port int) string { return on6(r.ext6(), port) }

	eventually(t, deadline, w.client.answers("tcp", r.addr(8080), "web "+clientIP))
	eventually(t, deadline, w.client.answers("tcp", addr6(8080), "web "+clientIP6))
	eventually(t, deadline, app.answers("tcp", r.addr(8080), "web "+r.ext))
	eventually(t, deadline, w.outside.answers("tcp", r.addr(80), "web "+outsideIP))
	eventually(t, deadline, w.outside.refused("tcp", r.addr(8080)))
	eventually(t, deadline, w.outside.refused("tcp", addr6(8080)))

	for _, c := range []struct {
		from        *ns
		addr, other string
	}{{w.client, r.addr(80), outsideIP}, {w.client, addr6(80), outsideIP6}} {
		established := c.from.session(c.addr)
		passed, began := 1, time.Now()
		for {
			conn, err := c.from.open("tcp", c.addr)
			if err != nil {
				if !strings.Contains(err.Error(), "refused") {
					t.Fatalf("%s: %v", c.addr, err)
				}
				break
			}
			if _, err := io.ReadFull(conn, make([]byte, 3)); err != nil {
				t.Fatal(err)
			}
			conn.Close()
			passed++
		}
		// One every three seconds comes on top.
		if most := 20 + int(time.Since(began)/(3*time.Second)) + 1; passed < 20 || passed > most {
			t.Errorf("%s: %d connections passed, want 20 to %d", c.addr, passed, most)
		}
		if err := established.echo(); err != nil {
			t.Errorf("%s: the established connection: %v", c.addr, err)
		}
		eventually(t, deadline, w.outside.answers("tcp", c.addr, "web "+c.other))
	}
	// Containers that come do not give the refused another turn.
	late := w.backend("late", 12, "tcp/81")
	late.serveTCP("late", ":81")
	eventually(t, deadline, w.client.answers("tcp", r.addr(81), "late "+clientIP))
	refused := 0
	for range 3 {
		if w.client.refused("tcp", r.addr(80))() == nil {
			refused++
		}
	}
	if refused < 2 {
		t.Errorf("%d of 3 connections beyond the limit are refused", refused)
	}
	if n := r.a.count("anchord_ruleset_drift_total"); n != 0 {
		t.Errorf("the clients in the set count as %v drifts", n)
	}
}
