package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
	"github.com/AlexCherrypi/anchord/test/told"
)

// behindProxy run with nothing between anchord and the engine but what
// docs/socket-proxy.md says.
var behindProxy = []scenario{
	{name: "socket proxy that allows reading only", run: proxyReadOnly},
	{name: "socket proxy that allows autostart", run: proxyAutostart},
	{name: "socket proxy that allows a managed service-anchor", run: proxyManaged},
	{name: "socket proxy is restarted", once: true, run: proxyRestarted},
	{name: "socket proxy for the rebinders", run: proxyRebinders},
}

// Headings of docs/socket-proxy.md, below which the blocks are.
const (
	docCompose   = "## Compose"
	docReading   = "## Reading"
	docAutostart = "### Autostart"
	docManaged   = "### Managed service-anchor"
	docRecreate  = "### Recreation"
	docExternal  = "### External-rebinder"
	docRestarts  = "### External-rebinder with restarts"
	docPlace     = "    # Blocks of further rights go here.\n"
	proxyPort    = 2375
)

// proxyBlock is what users copy of docs/socket-proxy.md.
func proxyBlock(t *testing.T, heading, language string) string {
	t.Helper()
	return docBlock(t, "docs/socket-proxy.md", heading, language)
}

// guarded prepares a project whose anchord reaches Docker only by the proxy of
// the documentation, with the rights of these headings beside reading.
func (s *site) guarded(name, services string, rights ...string) *project {
	s.Helper()
	p := s.project(name, services)
	p.proxied(rights...)
	return p
}

func (p *project) proxied(rights ...string) {
	p.Helper()
	compose := proxyBlock(p.T, docCompose, "yaml")
	for theirs, ours := range map[string]string{
		"image: haproxy:lts-alpine\n": "image: " + lab.ImageHAProxy + "\n",
		"- ./socket-proxy.cfg:":       "- " + p.dir + "/socket-proxy.cfg:",
	} {
		if !strings.Contains(compose, theirs) {
			p.Fatalf("the Compose block of docs/socket-proxy.md has no %q", theirs)
		}
		compose = strings.Replace(compose, theirs, ours, 1)
	}
	p.write("socket-proxy.yaml", compose)
	// The official image's, which an import cannot set on every engine.
	p.write("stop-signal.yaml", "services: {socket-proxy: {stop_signal: SIGUSR1}}\n")
	p.allow(rights...)
}

// allow writes the proxy's configuration.
func (p *project) allow(rights ...string) {
	p.Helper()
	config := proxyBlock(p.T, docReading, "haproxy")
	before, after, found := strings.Cut(config, docPlace)
	if !found {
		p.Fatalf("the configuration of docs/socket-proxy.md has no line %q", docPlace)
	}
	for _, heading := range rights {
		before += proxyBlock(p.T, heading, "haproxy")
	}
	if err := os.WriteFile(filepath.Join(p.dir, "socket-proxy.cfg"), []byte(before+after), 0o644); err != nil {
		p.Fatal(err)
	}
}

// proxyAddr is the proxy's address on the network that it shares with anchord.
func (p *project) proxyAddr() netip.Addr {
	p.Helper()
	networks := p.inspect("socket-proxy").NetworkSettings.Networks
	if n := networks[p.name+"_docker-api"]; n != nil && len(networks) == 1 {
		return netip.MustParseAddr(n.IPAddress)
	}
	p.Fatalf("the proxy is to be on the network docker-api alone, not on %v", networks)
	return netip.Addr{}
}

// refusedCalls are method and path of all that the proxy refused, without ids and
// versions, sorted.
func (p *project) refusedCalls() []string {
	p.Helper()
	logged := regexp.MustCompile(`"(GET|HEAD|POST|PUT|DELETE) ([^ ?"]+)`)
	vary := regexp.MustCompile(`/v1\.\d+|[0-9a-f]{64}`)
	var calls []string
	for line := range strings.Lines(p.docker("logs", p.container("socket-proxy"))) {
		if m := logged.FindStringSubmatch(line); m != nil {
			calls = append(calls, m[1]+" "+vary.ReplaceAllStringFunc(m[2], func(s string) string {
				if strings.HasPrefix(s, "/") {
					return ""
				}
				return "ID"
			}))
		}
	}
	slices.Sort(calls)
	return slices.Compact(calls)
}

// asksProxy sends one request from anchord's namespace.
func (p *project) asksProxy(method, path string, header http.Header) (status int, body string) {
	p.Helper()
	client := http.Client{
		Transport: &http.Transport{DialContext: p.enter("anchord").DialContext, DisableKeepAlives: true},
		Timeout:   5 * time.Second,
	}
	request, err := http.NewRequestWithContext(p.ctx, method, fmt.Sprintf("http://%s:%d%s", p.proxyAddr(), proxyPort, path), nil)
	if err != nil {
		p.Fatal(err)
	}
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := client.Do(request)
	if err != nil {
		p.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.Fatalf("%s %s: %v", method, path, err)
	}
	return response.StatusCode, string(text)
}

// loggedTimes is a look at whether anchord logged an event that often.
func (p *project) loggedTimes(event string, want int) func(context.Context) error {
	return p.loggedBy("anchord", event, want)
}

func (p *project) loggedBy(service, event string, want int) func(context.Context) error {
	return func(context.Context) error {
		var found []string
		log := p.docker("logs", p.container(service))
		if err := told.Log(log); err != nil {
			return err
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, `"event":"`+event+`"`) {
				found = append(found, line)
			}
		}
		if len(found) == want {
			return nil
		}
		return fmt.Errorf("%s logged %s %d times, want %d:\n%s", service, event, len(found), want, strings.Join(found, ""))
	}
}

// early is a container that was made before the one whose network it shares ran.
const early = `
services:
  web:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
  owner:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/81"}
    command: [serve, "tcp:8000"]
  early:
    image: peer:lab
    network_mode: "service:owner"
    command: [serve, "tcp:81"]
`

// managedSA wants a service-anchor beside the container target of a project.
func managedSA(project string) string {
	return `  anchord:
    environment:
      ANCHORD_MANAGED_SA_TARGET: ` + project + `-target-1
  target:
    image: peer:lab
    networks: [transit]
`
}

// Behind a proxy that allows reading, everything that the LAN sees works, and
// what does not is named once, with what is lost.
func proxyReadOnly(s *site) {
	p := s.guarded("readonly", early+managedSA("readonly"))
	start := p.up("socket-proxy", "anchord", "web")
	addr := p.reachable(80)
	s.within(patience, start, "the metric tells that Docker can be asked", p.metricIs("anchord_docker_connected", "1"))
	if len(p.inspect("anchord").Mounts) > 0 && strings.Contains(fmt.Sprint(p.inspect("anchord").Mounts), "docker.sock") {
		s.Fatalf("anchord has the socket itself: %v", p.inspect("anchord").Mounts)
	}
	p.restarts(addr, func() { p.compose("restart", "--timeout", "5", "web") })

	p.compose("create", "owner", "early", "target")
	p.docker("start", p.container("owner"), p.container("target"))
	s.within(patience, time.Now(), "both refusals are told", p.loggedTimes("docker.write_refused", 2))
	// It tries again every five seconds.
	s.stays(11*time.Second, "that each is told once", p.loggedTimes("docker.write_refused", 2))
	for _, lost := range []string{"have to be started by hand", "there is no managed service-anchor"} {
		if !slices.ContainsFunc(p.logged("docker.write_refused"), func(l logLine) bool { return strings.Contains(l.Msg, lost) }) {
			s.Errorf("no docker.write_refused says %q", lost)
		}
	}
	if got, want := p.refusedCalls(), []string{"POST /containers/ID/start", "POST /containers/create"}; !slices.Equal(got, want) {
		s.Errorf("the proxy refused %q, want %q: no reading, and nothing that is not told", got, want)
	}
	if lost := p.logged("docker.lost"); len(lost) > 1 { // the proxy may start later than anchord
		s.Errorf("Docker was lost: %v", lost)
	}
	if !p.status().Docker.Connected {
		s.Error("status says that Docker is not connected")
	}
	p.refusesTheRest()
	p.onlyAnchordReachesProxy(addr)
}

// refusesTheRest asks for what no feature needs, and for ways around the list.
func (p *project) refusesTheRest() {
	p.Helper()
	id := p.inspect("web").ID
	version := "/v" + p.engine.Client().ClientVersion()
	for _, c := range []struct{ method, path string }{
		{"DELETE", version + "/containers/" + id + "?force=1"},
		{"POST", version + "/containers/" + id + "/exec"},
		{"POST", version + "/containers/create"},
		{"POST", version + "/containers/" + id + "/start"},
		{"POST", version + "/containers/" + id + "/json"},
		{"POST", "/containers/" + id + "/kill"},
		{"GET", version + "/containers/" + id + "/export"},
		{"GET", version + "/containers/" + id + "/archive?path=/etc/passwd"},
		{"GET", version + "/containers/" + id + "/logs?stdout=1"},
		{"GET", version + "/containers/" + id + "%2Fexport%3F/json"},
		{"GET", version + "/images/json"},
		{"GET", version + "/secrets"},
		{"POST", version + "/networks/prune"},
		{"GET", "/info"},
		{"GET", "/v1.23/containers/json"},
	} {
		status, body := p.asksProxy(c.method, c.path, nil)
		if status != http.StatusForbidden || !strings.Contains(body, `{"message":"the socket proxy does not allow `+c.method+" ") {
			p.Errorf("%s %s: %d %s, want 403 and why", c.method, c.path, status, body)
		}
	}
	if status, body := p.asksProxy("GET", version+"/containers/json", nil); status != http.StatusOK || !strings.Contains(body, id) {
		p.Errorf("listing containers: %d %s", status, body)
	}
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"h2c"}}
	if status, body := p.asksProxy("GET", version+"/containers/json", upgrade); status != http.StatusForbidden {
		p.Errorf("another protocol on the connection: %d %s, want 403", status, body)
	}
	if !p.inspect("web").State.Running {
		p.Error("web does not run any more")
	}
}

// onlyAnchordReachesProxy dials it from the project's other network and from the
// LAN, the latter with a route to it by the project's address.
func (p *project) onlyAnchordReachesProxy(addr netip.Addr) {
	p.Helper()
	proxy := netip.AddrPortFrom(p.proxyAddr(), proxyPort)
	dials := func(from *lab.Host, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(p.ctx, limit)
		defer cancel()
		conn, err := from.DialContext(ctx, "tcp", proxy.String())
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dials(p.enter("anchord"), patience); err != nil {
		p.Errorf("anchord does not reach the proxy: %v", err)
	}
	if err := dials(p.enter("web"), time.Second); err == nil {
		p.Error("a service reaches the proxy")
	}
	stranger := p.host("stranger")
	p.must(stranger, "ip", "route", "replace", proxy.Addr().String(), "via", addr.String())
	if err := dials(stranger, time.Second); err == nil {
		p.Error("a host of the LAN reaches the proxy by the project's address")
	}
	refused(p.site, p.lan.Client, "tcp", addr, proxyPort)
}

// With the right to start, a container that came too early is started, and the
// proxy has refused nothing.
func proxyAutostart(s *site) {
	p := s.guarded("sibling", early, docAutostart)
	p.up("socket-proxy", "anchord", "web")
	addr := p.reachable(80)
	p.compose("create", "owner", "early")
	p.docker("start", p.container("owner"))
	s.within(patience, p.started("owner"), "what shares its network is started", answers(s.lan.Client, "tcp", addr, 81))
	s.within(patience, time.Now(), "that is logged", p.loggedTimes("netns.container_started", 1))
	p.nothingRefused()
	if status, _ := p.asksProxy("POST", "/v"+s.engine.Client().ClientVersion()+"/containers/"+p.inspect("web").ID+"/stop", nil); status != http.StatusForbidden {
		s.Errorf("stopping a container: %d, want 403", status)
	}
}

func (p *project) nothingRefused() {
	p.Helper()
	if calls := p.refusedCalls(); len(calls) > 0 {
		p.Errorf("the proxy refused %q", calls)
	}
	if err := p.loggedTimes("docker.write_refused", 0)(p.ctx); err != nil {
		p.Error(err)
	}
}

// With the right to make containers there is a managed service-anchor, and one
// more when its target was recreated; a container in its network is recreated
// with it only where that is allowed too.
func proxyManaged(s *site) {
	p := s.guarded("managed", `
services:
  web:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
`+managedSA("managed"), docManaged)
	const name = "managed-target-1-service-anchor"
	p.up("socket-proxy", "anchord", "web", "target")
	p.reachable(80)
	first := s.running(name, "")
	p.nothingRefused()

	p.allow(docManaged, docRecreate)
	p.compose("restart", "socket-proxy")
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		try(s.engine.Docker(ctx, "rm", "--force", "managed-rider"))
	})
	p.docker("run", "--detach", "--name", "managed-rider", "--label", "com.docker.compose.project=managed", "--network", "container:"+name, lab.ImagePeer, "serve", "tcp:82")
	rider := s.running("managed-rider", "")
	p.up("--force-recreate", "--no-deps", "target")
	second := s.running(name, first)
	s.running("managed-rider", rider)
	mode, err := s.engine.Client().ContainerInspect(s.ctx, "managed-rider")
	if err != nil || string(mode.HostConfig.NetworkMode) != "container:"+second {
		s.Errorf("the container is in %v, want that of %s: %v", mode.HostConfig.NetworkMode, second, err)
	}
	p.nothingRefused()
	for event, times := range map[string]int{"netns.service_anchor_made": 2, "netns.container_recreated": 1} {
		s.within(patience, time.Now(), "each write is logged", p.loggedTimes(event, times))
	}
	p.compose("stop", "target")
	s.stays(3*time.Second, "what is recreated once", p.loggedTimes("netns.container_recreated", 1))
}

// running waits until a container of a name runs that is not the one with the old
// id, and gives its id.
func (s *site) running(name, old string) (id string) {
	s.Helper()
	s.within(patience, time.Now(), name+" runs", func(ctx context.Context) error {
		c, err := s.engine.Client().ContainerInspect(ctx, name)
		switch {
		case err != nil:
			return err
		case c.ID == old:
			return errors.New("it is the old one")
		case !c.State.Running:
			return errors.New("it does not run")
		}
		id = c.ID
		return nil
	})
	return id
}

// While the proxy is away nothing changes; what happened meanwhile is seen when
// it is back, at another address perhaps.
func proxyRestarted(s *site) {
	p := s.guarded("restart", `
services:
  web:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80"}
  other:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/81:80"}
  late:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/82:80"}
`)
	p.withoutPoll("anchord")
	p.up("socket-proxy", "anchord", "web", "other")
	addr := p.reachable(80)
	s.within(patience, time.Now(), "the other answers", answers(s.lan.Client, "tcp", addr, 81))
	s.within(patience, time.Now(), "the metric tells that Docker can be asked", p.metricIs("anchord_docker_connected", "1"))
	lost, connected := len(p.logged("docker.lost")), len(p.logged("docker.connected"))
	rules := p.ruleset()

	p.stop("socket-proxy") // it would wait for the event stream
	stopped := time.Now()
	s.within(patience, stopped, "the metric tells it", p.metricIs("anchord_docker_connected", "0"))
	p.up("--no-deps", "late")
	p.compose("stop", "other")
	s.stays(time.Until(stopped.Add(8*time.Second)), "the service", answers(s.lan.Client, "tcp", addr, 80))
	if now := p.ruleset(); now != rules {
		s.Errorf("the ruleset changed, before\n%s\nnow\n%s", rules, now)
	}
	p.compose("start", "socket-proxy")
	s.within(patience, time.Now(), "what was started meanwhile answers", answers(s.lan.Client, "tcp", addr, 82))
	s.within(patience, time.Now(), "what was stopped meanwhile is closed", s.isRefused(addr, 81))
	s.within(patience, time.Now(), "the metric tells it", p.metricIs("anchord_docker_connected", "1"))
	for event, before := range map[string]int{"docker.lost": lost, "docker.connected": connected} {
		s.within(patience, time.Now(), event+" is logged once more", p.loggedTimes(event, before+1))
	}
	// Followed as events again.
	p.restarts(addr, func() { p.compose("restart", "--timeout", "5", "web") })
	p.nothingRefused()
}

// The modes that only change other containers have what they need: each right of
// theirs is used here, and the one that is missing at first is named once.
func proxyRebinders(s *site) {
	p := s.guarded("rebound", `
services:
  web:
    image: peer:lab
    networks: [transit]
  follower:
    image: anchord:lab
    command: [external-rebinder]
    environment:
      DOCKER_HOST: tcp://socket-proxy:2375
      ANCHORD_FOLLOW_NETWORK: rebound-outside
      ANCHORD_FOLLOW_TARGET: web
      ANCHORD_FOLLOW_RESTART: "true"
    networks: [docker-api]
  wrapper:
    image: anchord:lab
    command: [wrap-rebinder]
    environment: {DOCKER_HOST: "tcp://socket-proxy:2375"}
    networks: [docker-api]
  helper:
    image: anchord:lab
    command: [service-anchor]
    environment: {ANCHORD_GATEWAY_IP: 192.0.2.77}
    cap_add: [NET_ADMIN]
    network_mode: "container:rebound-target"
`, docExternal, docRestarts)
	s.docker("network", "create", "rebound-outside")
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		try(s.engine.Docker(ctx, "rm", "--force", "rebound-target"))
		try(s.engine.Docker(ctx, "network", "disconnect", "--force", "rebound-outside", p.container("web")))
		if _, err := try(s.engine.Docker(ctx, "network", "rm", "rebound-outside")); err != nil {
			s.Error(err)
		}
	})
	target := func() {
		s.Helper()
		s.docker("run", "--detach", "--name", "rebound-target", "--network", "rebound-outside", lab.ImagePeer)
	}
	target()
	p.up("socket-proxy", "web", "follower", "wrapper", "helper")
	s.within(patience, time.Now(), "web is on the other network", p.loggedBy("follower", "follow.joined", 1))
	s.within(patience, time.Now(), "web is restarted", p.loggedBy("follower", "follow.restarted", 1))
	helper := s.running(p.container("helper"), "")

	s.docker("rm", "--force", "rebound-target")
	s.within(patience, time.Now(), "web is taken off, as the last one there", p.loggedBy("follower", "follow.left", 1))
	target()
	s.within(patience, time.Now(), "web is there again", p.loggedBy("follower", "follow.restarted", 2))
	s.within(patience, time.Now(), "what the wrap-rebinder cannot do is told", p.loggedBy("wrapper", "docker.write_refused", 1))
	// It tries again every five seconds.
	s.stays(11*time.Second, "that it is told once", p.loggedBy("wrapper", "docker.write_refused", 1))
	if got, want := p.refusedCalls(), []string{"GET /images/anchord:lab/json", "POST /containers/create"}; !slices.Equal(got, want) {
		s.Errorf("the proxy refused %q, want %q", got, want)
	}

	p.allow(docExternal, docRestarts, docRecreate)
	p.compose("restart", "socket-proxy")
	s.running(p.container("helper"), helper)
	s.within(patience, time.Now(), "that is logged", p.loggedBy("wrapper", "netns.container_recreated", 1))
	if got := p.inspect("helper").Config.Image; got != lab.ImageAnchord {
		s.Errorf("the image is called %s now", got)
	}
}
