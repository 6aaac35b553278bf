package netns_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestTablesTouchedByHandAreBackWithinASecond(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		touch func(*testing.T, *running)
	}{
		{"whole table", func(t *testing.T, r *running) { r.box.run("nft", "delete", "table", "ip", "anchord_v4") }},
		{"both tables", func(t *testing.T, r *running) {
			r.box.run("nft", "delete table ip anchord_v4; delete table ip6 anchord_v6")
		}},
		{"flush ruleset", func(t *testing.T, r *running) { r.box.run("nft", "flush", "ruleset") }},
		{"one rule", func(t *testing.T, r *running) { r.box.run("nft", deleteOneRule(t, r, "forward")) }},
		{"one element", func(t *testing.T, r *running) {
			r.box.run("nft", "delete", "element", "ip", "anchord_v4", "dnat_tcp", "{ 80 }")
		}},
		{"flushed chain", func(t *testing.T, r *running) { r.box.run("nft", "flush", "table", "ip", "anchord_v4") }},
		{"a rule too many", func(t *testing.T, r *running) {
			r.box.run("nft", "add", "rule", "ip", "anchord_v4", hooked(t, r, "input"), "accept")
		}},
		{"an element too many", func(t *testing.T, r *running) {
			r.box.run("nft", "add", "element", "ip", "anchord_v4", "dnat_tcp", "{ 8888 : 10.213.0.10 . 80 }")
		}},
		{"a changed policy", func(t *testing.T, r *running) {
			r.box.run("nft", "add chain ip anchord_v4 "+hooked(t, r, "forward")+" { policy accept; }")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, setup{})
			web := r.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
			eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
			want, drift := r.rules(), r.a.count("anchord_ruleset_drift_total")
			promise(t, func() { c.touch(t, r) }, func() error { return same(r.rules(), want) })
			eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
			eventually(t, deadline, func() error {
				if got := r.a.count("anchord_ruleset_drift_total"); got != drift+1 {
					return fmt.Errorf("anchord_ruleset_drift_total is %v, was %v", got, drift)
				}
				return nil
			})
			if len(r.a.entries("ruleset.drift")) == 0 {
				t.Error("the drift was not logged")
			}
		})
	}
}

// Between the tables and the one who listens to what becomes of them, there is a
// moment.
func TestTablesDeletedBeforeAnybodyListensAreBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{bootstrap: "198.51.100.77"})
	slow := w.programs(map[string]string{"nft": `[ "$1" = monitor ] && busybox sleep 1
exec REAL "$@"`})
	r := &running{world: w, a: w.anchord("ANCHORD_POLL_INTERVAL=1h", slow).ready()}
	rules := r.rules()
	r.box.run("nft", "delete", "table", "ip", "anchord_v4")
	eventually(t, hang, func() error { return same(r.rules(), rules) })
}

// changing is what of a ruleset's listing may differ between two equal ones.
var changing = regexp.MustCompile(`packets \d+ bytes \d+|expires \S+|comment "anchord: project .*"`)

// rules is anchord's ruleset as nft lists it, without what changes by itself:
// counters, and the serial number of the last apply.
func (r *running) rules() string {
	out, err := r.box.try("nft", "-s", "list", "ruleset")
	if err != nil {
		return err.Error()
	}
	out = changing.ReplaceAllString(out, "")
	return regexp.MustCompile(`(?s)set (\w*serial\w*|applied) \{.*?\n\t\}`).ReplaceAllString(out, "")
}

// same compares two listings and shows only the lines in which they differ.
func same(got, want string) error {
	if got == want {
		return nil
	}
	return fmt.Errorf("the ruleset has\n%s\ninstead of\n%s", minus(got, want), minus(want, got))
}

// minus is a's lines that b has not.
func minus(a, b string) string {
	known := map[string]bool{}
	for line := range strings.Lines(b) {
		known[line] = true
	}
	var only strings.Builder
	for line := range strings.Lines(a) {
		if !known[line] {
			only.WriteString(line)
		}
	}
	return only.String()
}

// hooked is the chain of anchord's table at a hook.
func hooked(t *testing.T, r *running, hook string) string {
	t.Helper()
	for _, o := range r.nftJSON(t) {
		if c, ok := o["chain"].(map[string]any); ok && c["hook"] == hook && c["table"] == "anchord_v4" && c["type"] == "filter" {
			return c["name"].(string)
		}
	}
	t.Fatalf("no chain at %s", hook)
	return ""
}

// deleteOneRule is the command that deletes the first rule at a hook.
func deleteOneRule(t *testing.T, r *running, hook string) string {
	t.Helper()
	chain := hooked(t, r, hook)
	for _, o := range r.nftJSON(t) {
		if rule, ok := o["rule"].(map[string]any); ok && rule["chain"] == chain && rule["table"] == "anchord_v4" {
			return fmt.Sprintf("delete rule ip anchord_v4 %s handle %v", chain, rule["handle"])
		}
	}
	t.Fatalf("no rule in %s", chain)
	return ""
}

func (r *running) nftJSON(t *testing.T) []map[string]any {
	t.Helper()
	var doc struct {
		Nftables []map[string]any `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(r.box.run("nft", "-j", "list", "table", "ip", "anchord_v4")), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Nftables
}

func TestTheRulesetReadsLikeDocumentation(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80,udp/6000-6009")
	web.serveTCP("web", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	for _, family := range []string{"ip anchord_v4", "ip6 anchord_v6"} {
		out := r.box.run("nft", "list table "+family)
		for _, want := range []string{"map dnat_tcp ", "map dnat_udp ", web.name, "counter", "a Compose project as one server"} {
			if !strings.Contains(out, want) {
				t.Errorf("table %s has no %q", family, want)
			}
		}
	}
}

func TestOthersTablesAreLeftAlone(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	r.box.run("nft", "add table ip nat; add chain ip nat docker; add rule ip nat docker counter")
	promise(t, func() { r.box.run("nft", "delete", "table", "ip", "anchord_v4") }, func() error {
		if out := r.box.run("nft", "list", "tables"); !strings.Contains(out, "anchord_v4") {
			return fmt.Errorf("the tables are %q", out)
		}
		return nil
	})
	if out := r.box.run("nft", "list", "table", "ip", "nat"); !strings.Contains(out, "counter") {
		t.Errorf("Docker's own table is now %q", out)
	}
	r.a.terminate()
	if out := r.box.run("nft", "list", "ruleset"); strings.Contains(out, "anchord") || !strings.Contains(out, "counter") {
		t.Errorf("after the stop the ruleset is %q", out)
	}
}

func TestADefaultRouteChangedByHandIsPutRight(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	want := "default via " + routerIP + " dev lan0"
	eventually(t, deadline, r.hasRoute(want))
	r.box.ip("route add 203.0.113.128/25 via " + clientIP + "\n")
	for name, line := range map[string]string{
		"replaced, as Docker does": "route replace default via 10.213.0.9 dev transit0",
		"deleted":                  "route delete default",
		"another, which is better": "route replace default via " + clientIP + " dev lan0",
		"link flap":                "link set lan0 down\nlink set lan0 up",
		"link down":                "link set lan0 down",
	} {
		t.Run(name, func(t *testing.T) {
			reasserts := r.a.count(`anchord_route_reasserts_total{family="v4"}`)
			logged := len(r.a.entries("route.reasserted"))
			promise(t, func() { r.box.ip(line + "\n") }, r.hasRoute(want))
			eventually(t, deadline, func() error {
				if got := r.a.count(`anchord_route_reasserts_total{family="v4"}`); got <= reasserts {
					return fmt.Errorf("anchord_route_reasserts_total is %v, was %v", got, reasserts)
				}
				return nil
			})
			eventually(t, deadline, func() error {
				if len(r.a.entries("route.reasserted")) <= logged {
					return fmt.Errorf("not logged")
				}
				return nil
			})
		})
	}
	eventually(t, deadline, r.a.logs("address.interface_up", "lan0"))
	t.Run("other routes are left alone", func(t *testing.T) {
		r.box.ip("route replace 203.0.113.128/25 via " + clientIP + "\n")
		throughout(t, 300*time.Millisecond, func() error {
			if out := r.box.run("ip", "route", "show", "203.0.113.128/25"); !strings.Contains(out, clientIP) {
				return fmt.Errorf("the route is now %q", out)
			}
			return nil
		})
	})
}

// hasRoute is a condition: the namespace has exactly this default route.
func (r *running) hasRoute(want string) func() error { return r.box.hasRoute(want) }

func (n *ns) hasRoute(want string) func() error {
	return func() error {
		out, err := n.try("ip", "-4", "route", "show", "default")
		if err == nil && !strings.HasPrefix(out, want) || strings.Count(out, "\n") > 1 {
			err = fmt.Errorf("the default route is %q, want %q", out, want)
		}
		return err
	}
}

func TestTheGatewayAddressTakenAwayByHandComesBack(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	app := r.backend("app", 10, "")
	r.outside.serveTCP("outside", ":80")
	eventually(t, deadline, app.answers("tcp", outsideIP+":80", "outside "+r.ext))
	promise(t, func() { r.box.ip("addr del " + transitGW + "/24 dev transit0\n") }, app.answers("tcp", outsideIP+":80", "outside "+r.ext))
}

func TestTheLeasedAddressTakenAwayByHandComesBack(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	promise(t, func() { r.box.ip("addr flush dev lan0\n") },
		r.client.answers("tcp", r.addr(80), "web "+clientIP), r.outside.answers("tcp", r.addr(80), "web "+outsideIP))
}

func TestTheDockerSocketIsGoneForAWhile(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	eventually(t, deadline, r.a.metricIs("anchord_docker_connected", 1))
	long := r.client.session(r.addr(80))
	rules := r.rules()
	r.docker.Down()
	eventually(t, deadline, r.a.metricIs("anchord_docker_connected", 0))
	// Meanwhile one container comes and nobody is told.
	late := r.backend("late", 11, "tcp/81")
	late.serveTCP("late", ":81")
	throughout(t, 10*time.Second, func() error {
		return errors.Join(same(r.rules(), rules), long.echo())
	})
	if !strings.Contains(r.a.status(), "ocker") {
		t.Errorf("the status says nothing of Docker:\n%s", r.a.status())
	}
	if n := len(r.a.entries("docker.lost")); n != 1 {
		t.Errorf("the loss was logged %d times", n)
	}
	r.docker.DropHistory()
	if err := r.docker.Up(); err != nil {
		t.Fatal(err)
	}
	eventually(t, hang, r.client.answers("tcp", r.addr(81), "late "+clientIP))
	eventually(t, deadline, r.a.metricIs("anchord_docker_connected", 1))
	if err := long.echo(); err != nil {
		t.Error(err)
	}
	// And events work again, as soon as they are followed again: it was by its own
	// next try that anchord saw what had come.
	eventually(t, hang, func() error {
		if r.docker.Streams() == 0 {
			return fmt.Errorf("no event stream")
		}
		return nil
	})
	promise(t, func() { r.docker.Remove(late.id) }, r.client.refused("tcp", r.addr(81)))
}

func TestAnEventStreamThatIsCutLosesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, setup{}, "ANCHORD_POLL_INTERVAL=1h")
	eventually(t, deadline, func() error {
		if r.docker.Streams() == 0 {
			return fmt.Errorf("no event stream")
		}
		return nil
	})
	r.docker.CutStreams()
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	if len(r.docker.Writes()) != 0 {
		t.Errorf("Docker was written to: %v", r.docker.Writes())
	}
}

func TestOneEventIsOneListCall(t *testing.T) {
	t.Parallel()
	r := start(t, setup{}, "ANCHORD_POLL_INTERVAL=1h")
	web := r.bare("web", 10)
	web.serveTCP("web", ":80")
	before := len(r.docker.RequestLog())
	promise(t, func() { r.docker.AddContainer(web.container("tcp/80")) }, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	calls := map[string]int{}
	for _, c := range r.docker.RequestLog()[before:] {
		// The repair loop lists all there are, running or not, and itself.
		if !strings.Contains(c.Query, "all=1") && c.Path != "/containers/"+r.boxID+"/json" {
			calls[c.Method+" "+c.Path]++
		}
	}
	for call, n := range calls {
		// create, network connect and start may be looked at one by one.
		if call != "GET /containers/json" || n > 3 {
			t.Errorf("%s: %d calls for one started container", call, n)
		}
	}
}
