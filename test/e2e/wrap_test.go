package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// wrapScenarios are about a project that is not edited and that another one puts
// on the LAN.
var wrapScenarios = []scenario{
	{name: "wrap example", run: wrapExample},
	{name: "wrap example with IPv6", once: true, run: wrapIPv6, lan: lab.LANOptions{IPv6: lab.SLAAC}},
	{name: "wrapped: routes are put back", once: true, run: wrappedRoutes},
	{name: "wrapped: started before its target", run: wrappedStartedEarly},
	{name: "wrapped: anchord moves to another address inside", once: true, run: wrappedMoved},
}

// wrap is both projects: the wrapped one, and the one with anchord in it.
type wrap struct {
	*project
	wrapped *project
}

// wrap prepares the examples, with the wrapped project's name in place of theirs,
// and with IPv6 on its network if it shall have it.
func (s *site) wrap(name string, ipv6 bool) *wrap {
	s.Helper()
	own := strings.NewReplacer("thirdparty", name)
	w := &wrap{wrapped: &project{site: s, name: name}}
	dir, err := s.engine.TempDir()
	if err != nil {
		s.Fatal(err)
	}
	w.wrapped.dir = dir
	w.wrapped.write("third-party.yaml", own.Replace(asInLab(readExample(s.T, "wrap/third-party.yaml"), "")))
	if ipv6 {
		w.wrapped.write("ipv6.yaml", "networks:\n  default:\n    enable_ipv6: true\n    ipam:\n      config:\n        - subnet: "+s.ula()+"/64\n")
	}
	s.Cleanup(w.wrapped.takeDown)
	w.project = s.projectOf(name+"-wrapper", own.Replace(readExample(s.T, "wrap/compose.yaml")), "")
	return w
}

// ula is a prefix that no other scenario on the engine has.
func (s *site) ula() string {
	a := s.lan.Prefix.Addr().As4()
	return fmt.Sprintf("fd5a:%x%02x::", a[2], a[3])
}

// both starts both projects, as their user does, and waits for the mail server's
// greeting.
func (w *wrap) both() netip.Addr {
	w.Helper()
	w.wrapped.up()
	w.up()
	addr := w.lease(w.wrapped.name).Addr
	w.within(patience, time.Now(), "web answers", showsNginx(w.lan.Client, addr))
	w.within(patience, time.Now(), "mail greets", greets(w.lan.Client, addr))
	return addr
}

// greets is a look at whether a mail server answers.
func greets(from *lab.Host, addr netip.Addr) func(context.Context) error {
	return says(from, netip.AddrPortFrom(addr, 25), "QUIT\r\n", "220 ")
}

// says is a look at how a server's first line begins, after some words to it.
func says(from *lab.Host, server netip.AddrPort, words, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := from.DialContext(ctx, "tcp", server.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if deadline, ok := ctx.Deadline(); ok {
			conn.SetDeadline(deadline)
		}
		if _, err := io.WriteString(conn, words); err != nil {
			return err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil && !strings.HasPrefix(line, want) {
			err = fmt.Errorf("%s says %q", server, line)
		}
		return err
	}
}

// wrapExample is the example of the pattern from end to end: an untouched project
// is one server on the LAN, and after the wrapper's end it is as it was before.
func wrapExample(s *site) {
	w := s.wrap("thirdparty", true)
	left := w.leavesNoTrace()
	addr := w.both()
	s.serve(s.lan.Client, "tcp:7000", "udp:7000")
	w.atHomeAt(addr, s.lan.Client.Addr)

	database := w.wrapped.addrOn("database", w.wrapped.name+"_default")
	s.within(patience, time.Now(), "the database answers inside",
		says(w.wrapped.enter("web"), netip.AddrPortFrom(database, 6379), "PING\r\n", "+PONG"))
	refused(s, s.lan.Client, "tcp", addr, 6379)
	s.must(s.lan.Client, "ip", "route", "add", database.String()+"/32", "via", addr.String())
	s.silent(s.lan.Client, "tcp", database, 6379)

	left()
}

// wrapIPv6 is the same with both families, on a LAN that has them.
func wrapIPv6(s *site) {
	w := s.wrap("thirdsix", true)
	w.write("ipv6.yaml", readExample(s.T, "wrap/ipv6.yaml"))
	if s.engine.old {
		w.write("ipv6-before-28.yaml", readExample(s.T, "native/ipv6-before-28.yaml"))
	}
	left := w.leavesNoTrace()
	addr := w.both()
	var addr6 netip.Addr
	s.within(patience, time.Now(), "an address of the advertised prefix", func(context.Context) error {
		if addr6 = w.madeAddr(); !addr6.IsValid() {
			return errors.New("there is none")
		}
		return nil
	})
	s.serve(s.lan.Client, "tcp:7000", "udp:7000")
	w.atHomeAt(addr, s.lan.Client.Addr)
	w.atHomeAt(addr6, s.lan.Client.Addr6)
	left()
}

// atHomeAt checks that the project is at an address, in both directions, and sees
// its client's own.
func (w *wrap) atHomeAt(addr, client netip.Addr) {
	w.Helper()
	w.within(patience, time.Now(), "web answers", showsNginx(w.lan.Client, addr))
	w.within(patience, time.Now(), "mail greets", greets(w.lan.Client, addr))
	w.within(patience, time.Now(), "nginx logs the client's address", w.wrapped.logs("web", "\n"+client.String()+" "))
	w.within(patience, time.Now(), "postfix logs the client's address", w.wrapped.logs("mail", ": connect from unknown["+client.String()+"]\n"))
	for _, service := range []string{"web", "mail"} {
		for _, network := range []string{"tcp", "udp"} {
			w.within(patience, time.Now(), network+" of "+service+" leaves as the project",
				leavesAs(addr, w.wrapped.enter(service), network, client, 7000))
		}
	}
}

// leavesNoTrace starts the wrapped project, and gives what takes the wrapper down
// and checks that the project is as it was before.
func (w *wrap) leavesNoTrace() (down func()) {
	w.Helper()
	w.wrapped.up()
	services := []string{"web", "mail", "database"}
	before, starts := w.wrapped.shapes(services...), w.wrapped.starts(services...)
	return func() {
		w.Helper()
		if now := w.wrapped.shapes("web", "mail"); strings.Contains(before, now) {
			w.Errorf("the wrapper was to change the wrapped project: %s", now)
		}
		w.compose("down")
		w.down = true
		if after := w.wrapped.shapes(services...); after != before {
			w.Errorf("the wrapped project is not as it was before:\n%s\nnow:\n%s", before, after)
		}
		if now := w.wrapped.starts(services...); now != starts {
			w.Errorf("something of the wrapped project was restarted: before %s, after %s", starts, now)
		}
	}
}

// shapes is what a wrapper changes of containers: their routes, with all their
// attributes, and their name servers.
func (p *project) shapes(services ...string) string {
	p.Helper()
	var all []string
	for _, service := range services {
		all = append(all, service+" "+p.container(service), p.routes(service), p.docker("exec", p.container(service), "cat", "/etc/resolv.conf"))
	}
	return strings.Join(all, "\n")
}

func (p *project) routes(service string) string {
	p.Helper()
	host := p.enter(service)
	return p.must(host, "ip", "-details", "-json", "route", "show", "default") + "\n" +
		p.must(host, "ip", "-6", "-details", "-json", "route", "show", "default")
}

// logs is a look at whether a service has logged something.
func (p *project) logs(service, what string) func(context.Context) error {
	return func(context.Context) error {
		if log := "\n" + p.docker("logs", p.container(service)); !strings.Contains(log, what) {
			return fmt.Errorf("the log of %s has no %q: %s", service, what, log)
		}
		return nil
	}
}

// addrOn is a service's address on a network.
func (p *project) addrOn(service, network string) netip.Addr {
	p.Helper()
	n := p.inspect(service).NetworkSettings.Networks[network]
	if n == nil {
		p.Fatalf("%s is not on network %s", service, network)
	}
	return netip.MustParseAddr(n.IPAddress)
}

// wrappedRoutes is that a service-anchor leaves its target's default routes of
// both families as it found them, however it came to its end.
func wrappedRoutes(s *site) {
	w := s.wrap("routed", true)
	w.wrapped.up()
	before := w.wrapped.shapes("web")
	if strings.Count(before, `"dst":"default"`) != 2 {
		s.Fatalf("the target has not one default route of each family: %s", before)
	}
	addr := w.both()
	wrapped := func(what string) {
		s.Helper()
		s.within(patience, time.Now(), "both default routes lead to anchord, "+what, w.leadsToAnchord)
		s.within(patience, time.Now(), "web answers, "+what, showsNginx(s.lan.Client, addr))
	}
	putBack := func(what string) {
		s.Helper()
		w.compose("stop", "web-anchor")
		if c := w.inspect("web-anchor").State; c.ExitCode != 0 {
			s.Errorf("%s: the service-anchor ended with %d", what, c.ExitCode)
		}
		if after := w.wrapped.shapes("web"); after != before {
			s.Errorf("%s: the target is not as it was before:\n%s\nnow:\n%s", what, before, after)
		}
	}
	wrapped("at first")
	putBack("stopped")

	w.compose("start", "web-anchor")
	wrapped("started again")
	w.docker("kill", "--signal", "KILL", w.container("web-anchor"))
	if after := w.wrapped.shapes("web"); after == before {
		s.Fatal("a killed service-anchor was to leave its routes")
	}
	w.compose("start", "web-anchor")
	wrapped("killed and started again")
	putBack("killed, started again and stopped")

	w.compose("start", "web-anchor")
	wrapped("started a third time")
	old := w.inspect("web-anchor").ID
	w.wrapped.compose("restart", "--timeout", "5", "web")
	s.within(patience, time.Now(), "the service-anchor follows its target's restart", func(context.Context) error {
		if c, err := w.engine.Client().ContainerInspect(w.ctx, w.container("web-anchor")); err != nil || c.ID == old || !c.State.Running {
			return fmt.Errorf("it does not run anew (%w)", err)
		}
		return nil
	})
	wrapped("after the target's restart")
	putBack("stopped after the target's restart")
}

// leadsToAnchord is a look at the default routes of the wrapped web server.
func (w *wrap) leadsToAnchord(context.Context) error {
	n := w.inspect("anchord").NetworkSettings.Networks[w.wrapped.name+"_default"]
	if n == nil {
		return errors.New("anchord is not on the wrapped network")
	}
	host, err := w.engine.Enter(w.ctx, w.wrapped.container("web"))
	if err != nil {
		return err
	}
	for family, gateway := range map[string]string{"-4": n.IPAddress, "-6": n.GlobalIPv6Address} {
		got, err := w.command(host, "ip", family, "route", "show", "default")
		if err != nil {
			return err
		}
		if !strings.HasPrefix(got, "default via "+gateway+" ") || strings.Contains(got, "\n") {
			return fmt.Errorf("the default route is %q, want via %s", got, gateway)
		}
	}
	return nil
}

// wrappedRecreated is that the wrapped project may be recreated without any hand
// for the wrapper: each service-anchor follows its target, and is made once.
func wrappedRecreated(s *site) {
	w := s.wrap("followed", false)
	w.withoutPoll("anchord", "rebinder")
	addr := w.both()
	follows := func(what string, recreate func()) {
		s.Helper()
		old, created := w.inspect("web-anchor").ID, w.tape("create")
		recreate()
		s.within(patience, time.Now(), "web answers after "+what, showsNginx(s.lan.Client, addr))
		if w.inspect("web-anchor").ID == old {
			s.Errorf("after %s the service-anchor is the old one", what)
		}
		if host := w.inspect("web-anchor").HostConfig; host.NetworkMode.ConnectedContainer() != w.wrapped.inspect("web").ID || host.RestartPolicy.Name != "unless-stopped" || len(host.CapAdd) != 1 {
			s.Errorf("after %s the service-anchor is made with %s, %v, %v", what, host.NetworkMode, host.RestartPolicy, host.CapAdd)
		}
		once := func(context.Context) error {
			if made := w.made(created, "web-anchor"); len(made) != 1 {
				return fmt.Errorf("after %s the service-anchor was made %d times: %q", what, len(made), made)
			}
			return nil
		}
		s.within(patience, time.Now(), "docker tells that the service-anchor was made", once)
		// Were it made twice, it would be within this time.
		s.stays(2*time.Second, "that it is made once", once)
	}
	recreate := func() { w.wrapped.up("--force-recreate", "web") }
	mail := w.starts("mail-anchor", "anchord")
	follows("a recreation", recreate)
	follows("a recreation that nobody saw", func() {
		w.compose("stop", "rebinder")
		old := w.inspect("web-anchor").ID
		recreate()
		s.stays(2*time.Second, "the service-anchor", func(context.Context) error {
			if now := w.inspect("web-anchor").ID; now != old {
				return errors.New("it was made anew, though the rebinder does not run")
			}
			return nil
		})
		w.compose("start", "rebinder")
	})
	if now := w.starts("mail-anchor", "anchord"); now != mail {
		s.Errorf("something else was restarted: before %s, after %s", mail, now)
	}
	follows("down and up", func() {
		w.wrapped.compose("down")
		w.wrapped.up()
	})
	s.within(patience, time.Now(), "mail greets after down and up", greets(s.lan.Client, addr))
	if out := w.compose("up", "--detach"); strings.Contains(out, "Recreate") {
		s.Errorf("Compose does not know its service-anchors again: %s", out)
	}
	w.complains("rebinder")
	w.compose("down")
	w.down = true
	if left := w.docker("ps", "-a", "--format", "{{.Names}}", "--filter", "name="+w.name); left != "" {
		s.Errorf("down leaves %s", left)
	}
}

// complains checks that a service logged nothing worse than what it did.
func (p *project) complains(service string) {
	p.Helper()
	for line := range strings.Lines(p.docker("logs", p.container(service))) {
		if strings.Contains(line, `"level":"error"`) || strings.Contains(line, `"level":"warning"`) {
			p.Errorf("%s complains: %s", service, line)
		}
	}
}

// made are the creations of a service's container on a tape, by any name that
// begins like it.
func (p *project) made(t *tape, service string) (ids []string) {
	for _, m := range t.of("create", p.container(service)) {
		ids = append(ids, m.Actor.Attributes["name"]+" "+m.Actor.ID[:12])
	}
	return ids
}

// wrappedStartedEarly is that the wrapper may be started while a target is
// stopped: Docker cannot start its service-anchor then, and it is started when the
// target is.
func wrappedStartedEarly(s *site) {
	w := s.wrap("early", false)
	w.withoutPoll("anchord", "rebinder")
	w.wrapped.up()
	w.wrapped.compose("stop", "--timeout", "5", "web")
	// Of the mail server something is exposed all the time, without which anchord
	// complains.
	w.up("anchord", "rebinder", "mail-anchor")
	addr := w.lease(w.wrapped.name).Addr
	if out, err := try(w.engine.Compose(w.ctx, w.dir, w.name, w.files, "up", "--detach", "web-anchor")); err == nil {
		s.Fatalf("a container was to need the one whose namespace it joins: %s", out)
	}
	w.stranded()
	created := w.tape("create")
	w.wrapped.compose("start", "web")
	s.within(patience, time.Now(), "web answers", showsNginx(s.lan.Client, addr))
	// Whoever else would mend it has seen it by then: a thing that does not happen
	// can only be given time.
	s.stays(2*time.Second, "that the service-anchor is only started", func(context.Context) error {
		if made := w.made(created, "web-anchor"); len(made) > 0 {
			return fmt.Errorf("it was made anew: %q", made)
		}
		return nil
	})
	w.complains("anchord")
	w.complains("rebinder")
}

// stranded checks that nobody starts a service-anchor whose target does not run.
func (w *wrap) stranded() {
	w.Helper()
	w.stays(2*time.Second, "the service-anchor", func(context.Context) error {
		c, err := w.inspectNamed(w.container("web-anchor"))
		if err == nil && c.State.Status != "created" {
			err = fmt.Errorf("it is %s", c.State.Status)
		}
		return err
	})
}

// wrappedMoved is that the network-anchor is recreated and finds its address on
// the wrapped network taken: the service-anchors lead to where it is now.
func wrappedMoved(s *site) {
	w := s.wrap("moved", true)
	addr := w.both()
	network := w.wrapped.name + "_default"
	was, before := w.addrOn("anchord", network), w.starts("web-anchor", "mail-anchor", "rebinder")
	w.compose("rm", "--stop", "--force", "anchord")
	squatter := w.name + "-squatter"
	w.docker("run", "--detach", "--name", squatter, "--network", network, lab.ImagePeer)
	s.Cleanup(func() {
		if _, err := try(s.engine.Docker(context.Background(), "rm", "--force", squatter)); err != nil {
			s.Error(err)
		}
	})
	w.up("anchord")
	if now := w.addrOn("anchord", network); now == was {
		s.Fatalf("anchord was to get another address than %s", was)
	}
	if now := w.lease(w.wrapped.name).Addr; now != addr {
		s.Errorf("the address on the LAN was %s, now it is %s", addr, now)
	}
	s.within(patience, time.Now(), "both default routes lead to anchord", w.leadsToAnchord)
	s.within(patience, time.Now(), "web answers", showsNginx(s.lan.Client, addr))
	s.within(patience, time.Now(), "mail greets", greets(s.lan.Client, addr))
	if after := w.starts("web-anchor", "mail-anchor", "rebinder"); after != before {
		s.Errorf("something else was restarted: before %s, after %s", before, after)
	}
}

// wrappedForgotten is the limit of following: a target is recreated while no
// rebinder runs, and Docker has forgotten what the old one was called. Its user
// is told, with the command that helps.
func wrappedForgotten(s *site) {
	w := s.wrap("forgotten", false)
	addr := w.both()
	w.compose("stop", "rebinder")
	w.wrapped.up("--force-recreate", "web")
	// Docker remembers 256 events.
	for range 300 {
		if _, err := w.engine.Client().ContainerExecCreate(w.ctx, w.wrapped.container("database"), container.ExecOptions{Cmd: []string{"true"}}); err != nil {
			s.Fatal(err)
		}
	}
	w.compose("start", "rebinder")
	var warning struct{ Event, Container, Msg string }
	s.within(patience, time.Now(), "the rebinder tells of the service-anchor", func(context.Context) error {
		log := w.docker("logs", w.container("rebinder"))
		for line := range strings.Lines(log) {
			if err := json.Unmarshal([]byte(line), &warning); err == nil && warning.Event == "netns.dead" {
				return nil
			}
		}
		return fmt.Errorf("its log has no such line: %s", log)
	})
	_, fix, found := strings.Cut(warning.Msg, "; fix: ")
	if !found || warning.Container != w.container("web-anchor") {
		s.Fatalf("the warning is %+v", warning)
	}
	cmd := exec.CommandContext(w.ctx, "sh", "-c", fix)
	cmd.Env = w.engine.Environ()
	if _, err := try(cmd); err != nil {
		s.Fatal(err)
	}
	s.within(patience, time.Now(), "web answers after what the log says was done", showsNginx(s.lan.Client, addr))
}
