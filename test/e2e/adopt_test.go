package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// adoptions have a project run from its own file, with its ports on the Docker host,
// and adopt it by the commands that are printed.
var adoptions = []scenario{
	{name: "adopt: a database on an internal network", run: func(s *site) { s.adopted(nextcloudAdopted) }},
	{name: "adopt: a database on a network that leads out", run: func(s *site) { s.adopted(giteaAdopted) }},
	{name: "adopt: programs behind a VPN's container", once: true, run: func(s *site) { s.adopted(mediaAdopted) }},
	{name: "adopt: one network, behind a socket proxy, with IPv6", once: true, lan: lab.LANOptions{IPv6: lab.SLAAC}, run: func(s *site) { s.adopted(paperlessAdopted) }},
}

// adoption is an example of a project, and what is to become of it.
type adoption struct {
	example string   // folder below examples/adopt
	project string   // the project's name
	options []string // more of them for anchord adopt
	// standIns is a Compose file that has the lab's images serve what the real
	// ones do. It counts as one of the project's own.
	standIns string
	serves   []endpoint // by stand-ins that tell whom they see
	nginx    uint16     // a port of nginx, if there is one, of the service web
	closed   []endpoint // were on the host alone
	names    []string   // that containers know each other by, other than those of services
	v6       bool
}

type endpoint struct {
	network string
	port    uint16
}

var (
	nextcloudAdopted = adoption{
		example: "nextcloud", project: "cloud", nginx: 8081,
		closed: []endpoint{{"tcp", 5432}, {"tcp", 80}}, names: []string{"database"},
	}
	giteaAdopted = adoption{
		example: "gitea", project: "git", names: []string{"gitea"},
		standIns: `
services:
  server: {command: [serve, "tcp:3000", "tcp:22"]}
`,
		serves: []endpoint{{"tcp", 3000}, {"tcp", 2222}}, closed: []endpoint{{"tcp", 22}, {"tcp", 5432}},
	}
	mediaAdopted = adoption{
		example: "media", project: "media",
		standIns: `
services:
  vpn: {command: [serve, "tcp:8080", "tcp:6881-6889", "udp:6881-6889"]}
  qbittorrent: {command: [serve, "tcp:9999"]}
  prowlarr: {command: [serve, "tcp:9696"]}
  sonarr: {command: [serve, "tcp:8989"]}
  jellyfin: {command: [serve, "tcp:8096", "udp:7359"]}
`,
		serves: []endpoint{{"tcp", 8080}, {"tcp", 9696}, {"tcp", 6885}, {"udp", 6889}, {"tcp", 8989}, {"tcp", 80}, {"udp", 7359}},
		closed: []endpoint{{"tcp", 9999}, {"tcp", 8096}},
	}
	paperlessAdopted = adoption{
		example: "paperless", project: "paperless", options: []string{"--proxy", "--ipv6"}, v6: true,
		standIns: `
name: paperless
services:
  webserver: {command: [serve, "tcp:8000"]}
`,
		serves: []endpoint{{"tcp", 8000}}, closed: []endpoint{{"tcp", 5432}, {"tcp", 6379}},
	}
)

// adopted runs the project, adopts it as it runs, and holds what there is afterwards
// against what there was.
func (s *site) adopted(a adoption) {
	s.answersDNS()
	parent, err := s.lan.Parent(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	// So that the project reaches the LAN by its host, as it is.
	s.must(s.engine.Root(), "ip", "address", "add", fmt.Sprintf("%s/%d", s.lan.BootstrapRange.Addr(), s.lan.Prefix.Bits()), "dev", parent)
	s.serve(s.lan.Client, "tcp:7000")
	p := &project{site: s, name: a.project}
	if p.dir, err = s.engine.TempDir(); err != nil {
		s.Fatal(err)
	}
	p.write("compose.yaml", imageInLab.Replace(readExample(s.T, "adopt/"+a.example+"/compose.yaml")))
	if a.standIns != "" {
		p.write("stand-ins.yaml", a.standIns)
	}
	s.Cleanup(p.cleanUp)
	p.up()
	before := p.life(a.names)
	if before.reachesNobody() {
		s.Fatalf("no service reaches the LAN, so what becomes of that cannot be seen: %v", before)
	}

	p.adopt(parent, a.options...)
	addr := p.addr()
	if a.nginx != 0 {
		s.within(patience, time.Now(), "the web site is served", showsNginxAt(s.lan.Client, netip.AddrPortFrom(addr, a.nginx)))
		s.within(patience, time.Now(), "its log names the client", p.nginxLogs("web", s.lan.Client))
	}
	for _, e := range a.serves {
		s.within(patience, time.Now(), fmt.Sprintf("%s/%d answers, and sees its client", e.network, e.port), answers(s.lan.Client, e.network, addr, e.port))
	}
	for _, e := range a.closed {
		refused(s, s.lan.Client, e.network, addr, e.port)
	}
	if a.v6 {
		p.adoptedV6(a)
	}
	s.within(patience, time.Now(), "everything is as before, but for whom the LAN sees", func(context.Context) error {
		return before.asProject(addr).differs(p.life(a.names))
	})
	p.finds("nothing wrong", p.doctor("anchord"), content)
	if seen := p.status(); !seen.Ready || seen.Hostname != a.project || len(seen.Problems) > 0 {
		s.Errorf("the status is %+v", seen)
	}
	p.goesBack(before, a.names)
}

// adopt has anchord adopt the project, and starts it by the command that is printed.
func (p *project) adopt(parent string, options ...string) {
	p.Helper()
	options = append(options, "--image", lab.ImageAnchord)
	options = append(options, p.adoptOptions(parent)...)
	for _, file := range p.files {
		options = append(options, "--file", filepath.Base(file))
	}
	config, err := p.engine.Compose(p.ctx, p.dir, p.name, p.files, "config", "--format", "json").Output()
	if err != nil {
		p.Fatal(err)
	}
	cmd := p.engine.Docker(p.ctx, append([]string{"run", "--rm", "--interactive", lab.ImageAnchord, "adopt"}, options...)...)
	var said strings.Builder
	cmd.Stdin, cmd.Stderr = bytes.NewReader(config), &said
	override, err := cmd.Output()
	if err != nil {
		p.Fatalf("anchord adopt: %v: %s", err, said.String())
	}
	p.Logf("anchord adopt says:\n%s", said.String())
	p.write("compose.anchord.yaml", haproxyInLab.Replace(string(override)))
	start, found := "", false
	for line := range strings.Lines(said.String()) {
		if start = strings.TrimSpace(line); strings.HasPrefix(start, "docker compose ") {
			found = true
			break
		}
	}
	if !found {
		p.Fatal("it prints no command that starts the project")
	}
	p.Log(p.onHost(start))
}

// adoptOptions are those that follow from where the project is.
func (s *site) adoptOptions(parent string) []string {
	options := []string{"--parent", parent}
	if s.engine.old {
		options = append(options, "--engine", "20.10", "--lan-subnet", s.lan.Prefix.String(),
			"--lan-gateway", s.lan.Router.Addr.String(), "--lan-range", s.lan.BootstrapRange.String())
	}
	return options
}

// haproxyInLab names the lab's image of the socket proxy.
var haproxyInLab = strings.NewReplacer("image: haproxy:lts-alpine\n", "image: "+lab.ImageHAProxy+"\n")

// onHost runs a command line on the Docker host, in the project's folder.
func (p *project) onHost(line string) string {
	p.Helper()
	cmd := p.engine.Root().Command(p.ctx, "sh", "-c", line)
	cmd.Dir, cmd.Env = p.dir, p.engine.Environ()
	return output(p.site, cmd)
}

// adoptedV6 looks at both directions in IPv6.
func (p *project) adoptedV6(a adoption) {
	p.Helper()
	var addr netip.Addr
	p.within(patience, time.Now(), "an address of the advertised prefix", func(context.Context) error {
		if addr = p.madeAddr(); !addr.IsValid() {
			return errors.New("there is none")
		}
		return nil
	})
	for _, e := range a.serves {
		p.within(patience, time.Now(), "IPv6 clients are answered", answers(p.lan.Client, e.network, addr, e.port))
	}
	p.within(patience, time.Now(), "IPv6 leaves as the project", leavesAs(addr, p.enter("webserver"), "tcp", p.lan.Client.Addr6, 7000))
}

// life is what a project's containers have of their network, by service.
type life map[string]circumstances

type circumstances struct {
	knows   string // the names that it resolves
	volumes string
	seenAs  string // by a host of the LAN; empty: it has no way out
}

// life looks at all containers that run. More names than those of the services are
// asked for.
func (p *project) life(more []string) life {
	p.Helper()
	all, err := p.engine.Client().ContainerList(p.ctx, container.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "com.docker.compose.project="+p.name))})
	if err != nil {
		p.Fatal(err)
	}
	services := map[string]container.Summary{}
	for _, c := range all {
		if name := c.Labels["com.docker.compose.service"]; name != "anchord" && name != "socket-proxy" {
			services[name] = c
		}
	}
	names := slices.Sorted(slices.Values(slices.AppendSeq(slices.Clone(more), maps.Keys(services))))
	l := life{}
	for service, c := range services {
		var volumes []string
		for _, m := range c.Mounts {
			volumes = append(volumes, m.Name+" at "+m.Destination)
		}
		slices.Sort(volumes)
		host, err := p.engine.Enter(p.ctx, c.ID)
		if err != nil {
			p.Fatal(err)
		}
		l[service] = circumstances{knows: p.resolves(host, names), volumes: strings.Join(volumes, ", "), seenAs: p.seenAs(host)}
	}
	return l
}

// resolves gives those of the names that Docker's resolver has for a container.
func (p *project) resolves(from *lab.Host, names []string) string {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return from.DialContext(ctx, network, "127.0.0.11:53")
	}}
	var known []string
	for _, name := range names {
		if _, err := resolver.LookupNetIP(ctx, "ip4", name+"."); err == nil {
			known = append(known, name)
		}
	}
	if ctx.Err() != nil {
		p.Errorf("the resolver of %s does not answer", from.Name)
	}
	return strings.Join(known, " ")
}

// seenAs is the address that a host of the LAN sees of a namespace.
func (p *project) seenAs(from *lab.Host) string {
	ctx, cancel := context.WithTimeout(p.ctx, 3*time.Second)
	defer cancel()
	addr, err := seenFrom(ctx, from, "tcp", p.lan.Client.Addr, 7000)
	if err != nil {
		return ""
	}
	return addr.String()
}

// asProject is the same life at another address.
func (l life) asProject(addr netip.Addr) life {
	moved := life{}
	for service, c := range l {
		if c.seenAs != "" {
			c.seenAs = addr.String()
		}
		moved[service] = c
	}
	return moved
}

func (l life) differs(now life) error {
	var wrong []error
	for service, want := range l {
		if got := now[service]; got != want {
			wrong = append(wrong, fmt.Errorf("%s has %+v, want %+v", service, got, want))
		}
	}
	if len(now) != len(l) {
		wrong = append(wrong, fmt.Errorf("%d services run, want %d", len(now), len(l)))
	}
	return errors.Join(wrong...)
}

// goesBack takes the project down and starts it as it was, as docs/adopt.md says.
func (p *project) goesBack(before life, names []string) {
	p.Helper()
	p.compose("down", "--timeout", "5")
	p.files = slices.DeleteFunc(p.files, func(f string) bool { return filepath.Base(f) == "compose.anchord.yaml" })
	p.up()
	p.within(patience, time.Now(), "everything is as it was", func(context.Context) error { return before.differs(p.life(names)) })
	p.takeDown()
	p.down = true
}

func (l life) reachesNobody() bool {
	return !slices.ContainsFunc(slices.Collect(maps.Values(l)), func(c circumstances) bool { return c.seenAs != "" })
}
