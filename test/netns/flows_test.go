package netns_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

// recreate replaces a backend by a new container with another address, as
// compose does; start has the new one's servers run before Docker tells of it.
func (r *running) recreate(old *backend, name string, host int, start func(*backend)) *backend {
	r.t.Helper()
	c, _ := r.docker.Container(old.id)
	b := r.bare(name, host)
	start(b)
	old.vanish()
	b.name = old.name
	b.id = r.docker.Recreate(old.id, func(n *fakedocker.Container) {
		n.Networks = b.container("").Networks
		n.Labels = c.Labels
	})
	return b
}

// TCP would hide a lost packet: it sends it again. It runs by itself: datagrams
// without a pause keep the machine busy.
func TestNoDatagramIsLost(t *testing.T) {
	for name, change := range map[string]func(r *running, round int){
		"when the service is taken up": func(*running, int) {},
		"when another service comes and goes": func(r *running, round int) {
			other := r.docker.AddContainer(r.bare(fmt.Sprintf("other%d", round), 30+round).container("tcp/81,udp/54"))
			eventually(r.t, deadline, r.a.logs("ruleset.applied", fmt.Sprintf("tcp/81 v4 shop-other%d-1", round)))
			r.docker.Stop(other)
			r.docker.Remove(other)
		},
		"when rules are added": func(r *running, round int) {
			comment := fmt.Sprintf("round %d", round)
			r.override("10-a.nft.tmpl", forward(comment))
			eventually(r.t, deadline, r.says(comment, true))
		},
		"when docker is asked everything anew": func(r *running, _ int) {
			before := r.subscriptions()
			r.docker.CutStreams()
			eventually(r.t, deadline, func() error {
				if r.subscriptions() == before {
					return errors.New("docker's events are not followed again")
				}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{ipv6: true})
			w.advertise(w.router, ordinary(firstPrefix))
			r := w.overridden(setup{})
			ext6 := r.ext6()
			web := r.bare("web", 10)
			web.serveTCP("web", ":80")
			web.serveUDP("web", ":53")
			r.outside.serveUDP("outside", ":53")
			for round := range 20 {
				web.id = r.docker.AddContainer(web.container("tcp/80,udp/53"))
				eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
				pulses := []*pulse{r.client.pulse(r.addr(53), 0), r.client.pulse(on6(ext6, 53), 0), web.pulse(outsideIP+":53", 0)}
				change(r, round)
				for _, p := range pulses {
					more := p.count() + 1500 // one that was lost meanwhile is not told of yet
					eventually(t, hang, func() error { return p.beaten(more) })
					p.stop()
				}
				r.docker.Stop(web.id)
				r.docker.Remove(web.id)
				eventually(t, deadline, r.client.refused("tcp", r.addr(80)))
			}
		})
	}
}

// subscriptions is how often docker was asked for its events.
func (w *world) subscriptions() int {
	n := 0
	for _, c := range w.docker.RequestLog() {
		if strings.HasSuffix(c.Path, "/events") {
			n++
		}
	}
	return n
}

func TestAUDPFlowThatNeverPausesFollowsARecreatedBackend(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	old := r.backend("old", 10, "udp/53,udp/5000-5009")
	old.serveUDP("old", ":53")
	old.serveUDP("old", ":5005")
	app := r.backend("app", 20, "")
	streams := map[*stream]string{
		r.client.stream(r.addr(53)):   clientIP,
		r.client.stream(r.addr(5005)): clientIP,
		app.stream(r.addr(53)):        r.ext,
	}
	for s, source := range streams {
		eventually(t, deadline, s.answeredBy("old "+source))
	}
	var followed []func() error
	for s, source := range streams {
		followed = append(followed, s.answeredBy("new "+source))
	}
	promise(t, func() {
		r.recreate(old, "new", 11, func(b *backend) {
			b.serveUDP("new", ":53")
			b.serveUDP("new", ":5005")
		})
	}, followed...)
}

func TestAUDPSenderThatBeganBeforeTheMappingIsPickedUp(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	app := r.backend("app", 20, "")
	web := r.bare("web", 10)
	web.serveUDP("web", ":53")
	web.serveUDP("web", ":6001")
	streams := map[*stream]string{
		r.client.stream(r.addr(53)):     clientIP,
		r.client.stream(r.addr(6000)):   clientIP,
		r.outside.stream(r.addr(53)):    outsideIP,
		app.stream(r.addr(53)):          r.ext,
		app.stream(transitGW + ":9999"): "", // never mapped: keeps the table from being trivial
	}
	eventually(t, deadline, func() error {
		// The flows are tracked, if at all, before the mapping is there.
		if out, err := r.box.try("conntrack", "-L", "-p", "udp", "--orig-port-dst", "53"); err != nil || !strings.Contains(out, "dport=53") {
			return fmt.Errorf("no flow is tracked yet: %q %v", out, err)
		}
		return nil
	})
	var pickedUp []func() error
	for s, source := range streams {
		if source != "" {
			pickedUp = append(pickedUp, s.answeredBy("web "+source))
		}
	}
	promise(t, func() { web.id = r.docker.AddContainer(web.container("udp/53,udp/6000:6001")) }, pickedUp...)
}

func TestARestartOfOneBackendCostsAnotherNothing(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	db := r.backend("db", 10, "tcp/5432")
	db.serveTCP("db", ":5432")
	web := r.backend("web", 11, "tcp/80,udp/53")
	web.serveTCP("web", ":80")
	r.outside.serveTCP("outside", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	in, out := r.client.session(r.addr(5432)), db.session(outsideIP+":80")
	flow := func() string {
		return flowID(t, r.box.run("conntrack", "-L", "-p", "tcp", "--reply-src", db.ip, "-o", "id"))
	}
	before := flow()
	gone := r.box.monitor("conntrack", "-E", "-e", "DESTROY", "-p", "tcp")
	r.recreate(web, "web2", 12, func(b *backend) { b.serveTCP("web2", ":80") })
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web2 "+clientIP))
	for range 3 {
		for _, s := range []*session{in, out} {
			if err := s.echo(); err != nil {
				t.Errorf("a connection to another backend suffered: %v", err)
			}
		}
	}
	if after := flow(); after != before {
		t.Errorf("the tracked connection is another one: %q, was %q", after, before)
	}
	if gone.out.contains(db.ip) {
		t.Errorf("flows of another backend were ended:\n%s", gone.out)
	}
}

// flowID is the kernel's id of the one tracked flow.
func flowID(t *testing.T, listing string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(listing), "\n")
	_, id, ok := strings.Cut(lines[0], " id=")
	if len(lines) != 1 || !ok {
		t.Fatalf("not one flow: %q", listing)
	}
	return id
}

func TestOldFlowsToAVanishedBackendAreEnded(t *testing.T) {
	t.Parallel()
	for name, vanish := range map[string]func(*running, *backend){
		"removed": func(r *running, b *backend) { r.docker.Remove(b.id) },
		"another address": func(r *running, b *backend) {
			r.recreate(b, "new", 12, func(b *backend) { b.serveTCP("new", ":80") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, setup{})
			web := r.backend("web", 10, "tcp/80,udp/53,tcp/9000-9001:7000")
			web.serveTCP("web", ":80")
			web.serveTCP("web", ":7001")
			web.serveUDP("web", ":53")
			eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
			sessions := []*session{r.client.session(r.addr(80)), r.client.session(r.addr(9001))}
			eventually(t, deadline, r.client.answers("udp", r.addr(53), "web "+clientIP))
			ip := web.ip
			flows := func() string {
				out, _ := r.box.try("conntrack", "-L", "--reply-src", ip)
				return out
			}
			if !strings.Contains(flows(), "dport=80") {
				t.Fatal("no flow is tracked")
			}
			promise(t, func() { vanish(r, web) }, func() error {
				if out := flows(); out != "" {
					return fmt.Errorf("still tracked:\n%s", out)
				}
				return nil
			})
			for _, s := range sessions {
				if s.echo() == nil {
					t.Error("the old connection lives on")
				}
			}
		})
	}
}

func TestTwoContainersWantTheSamePort(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	// The one that starts first is the younger.
	younger := r.backend("younger", 11, "tcp/79-81,udp/53")
	elder := r.bare("elder", 10)
	c := elder.container("tcp/80")
	c.Created = time.Now().Add(-time.Hour)
	elder.id = r.docker.AddContainer(c)
	elder.serveTCP("elder", ":80")
	younger.serveTCP("younger", ":80")
	younger.serveUDP("younger", ":53")
	eventually(t, deadline, r.client.answers("udp", r.addr(53), "younger "+clientIP))
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "elder "+clientIP))
	eventually(t, deadline, r.a.logs("expose.conflict", elder.name, younger.name))
	eventually(t, deadline, r.a.metricIs("anchord_expose_conflicts", 1))
	eventually(t, deadline, r.a.states(elder.name, younger.name))
	promise(t, func() { r.docker.Remove(elder.id) }, r.client.answers("tcp", r.addr(80), "younger "+clientIP))
	eventually(t, deadline, r.a.metricIs("anchord_expose_conflicts", 0))
	if n := len(r.a.entries("expose.conflict")); n != 1 {
		t.Errorf("the conflict was logged %d times", n)
	}
}

func TestAMalformedLabelRejectsOnlyItsContainer(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	bad := r.backend("bad", 10, "tcp/81,tcp/99999")
	bad.serveTCP("bad", ":81")
	good := r.backend("good", 11, "tcp/80")
	good.serveTCP("good", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "good "+clientIP))
	eventually(t, deadline, r.a.logs("label.rejected", bad.name, "tcp/99999", "65535"))
	eventually(t, deadline, r.client.refused("tcp", r.addr(81)))
	eventually(t, deadline, r.a.metricIs("anchord_expose_errors", 1))
	eventually(t, deadline, r.a.states(bad.name, "tcp/99999"))
	if n := len(r.a.entries("label.rejected")); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestHostileNamesAndLabels(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	good := r.backend("good", 10, "tcp/80")
	good.serveTCP("good", ":80")
	for i, name := range []string{
		`evil"; flush ruleset; #`, "evil\nflush ruleset\n", "evil}\n}\ntable ip owned { }", "☃\x00\x7f\xff",
		strings.Repeat("x", 300), "{{.Evil}} $(flush) `flush` \\", "*", "",
	} {
		b := r.bare(fmt.Sprintf("evil%d", i), 20+i)
		b.serveTCP("evil", ":80")
		c := b.container(fmt.Sprintf("tcp/%d:80", 1000+i))
		c.Name = name
		c.Labels["anchord.identity"], c.Labels["anchord."+name] = name, name
		r.docker.AddContainer(c)
		eventually(t, deadline, r.client.answers("tcp", r.addr(1000+i), "evil "+clientIP))
	}
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "good "+clientIP))
	if out := r.box.run("nft", "list", "tables"); strings.Contains(out, "owned") || strings.Count(out, "anchord_") != 2 {
		t.Errorf("the tables are now %q", out)
	}
	r.a.log() // fails on a broken line
	if len(r.a.entries("reconcile.failed")) != 0 {
		t.Error("a reconcile failed")
	}
}

func TestARangeOfAWholeTURNServerWorks(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	turn := r.backend("turn", 10, "udp/49152-65535,tcp/3478")
	turn.serveUDP("turn", ":49152")
	turn.serveUDP("turn", ":65535")
	eventually(t, deadline, r.client.answers("udp", r.addr(49152), "turn "+clientIP))
	eventually(t, deadline, r.client.answers("udp", r.addr(65535), "turn "+clientIP))
}

func TestAContainerThatJoinsAnothersNamespaceIsReachedThere(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	owner := r.backend("owner", 10, "")
	owner.serveTCP("owner", ":80")
	c := fakedocker.Container{
		Name: project + "-app-1", NetworkMode: "container:" + owner.id,
		Labels: map[string]string{"com.docker.compose.project": project, "anchord.expose": "tcp/80"},
	}
	promise(t, func() { r.docker.AddContainer(c) }, r.client.answers("tcp", r.addr(80), "owner "+clientIP))
}
