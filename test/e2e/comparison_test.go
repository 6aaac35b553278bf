package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// The README compares anchord with other ways to put services on a LAN. Here
// each of them is set up, looked at from the LAN, and what is seen is put into the
// README's words, which then have to be those of its table. Cells that link to
// somebody's documentation are left to that.

// ways are the columns of the table that are set up here, and how.
var ways = []struct {
	column string
	start  func(c *contest) rival
}{
	{"`ports:`", (*contest).ports},
	{"host mode", (*contest).hostMode},
	{"macvlan", (*contest).macvlan},
	{"reverse proxy", (*contest).reverseProxy},
	{"anchord", (*contest).anchord},
}

// aspects are the rows.
var aspects = []struct {
	row  string
	look func(c *contest, r rival) string
}{
	{"address on the LAN", (*contest).address},
	{"leased from the LAN's DHCP server", (*contest).leased},
	{"several services at one address", (*contest).several},
	{"two projects both on port 25", func(c *contest, r rival) string { return c.twice(r, 25) }},
	{"two projects both on port 80", func(c *contest, r rival) string { return c.twice(r, 80) }},
	{"services see the client's address", (*contest).clients},
	{"services send from", (*contest).source},
	{"only named ports are open to the LAN", (*contest).named},
	{"reachable from the Docker host", (*contest).fromHost},
}

// contest is the LAN on which the ways are compared.
type contest struct {
	*site
	parent string
	host   netip.Addr // the Docker host's
	host6  netip.Addr
}

// rival is one of the ways, as it runs: two services of a project, of which a
// listens on ports 25, 80 and, without anybody having named it, 8081, and b on 26.
type rival struct {
	a, b   netip.Addr // where the LAN has to ask for them
	a6     netip.Addr
	inside *lab.Host // a's namespace
	// other is where the second project's a is asked for, if it could be started.
	other  netip.Addr
	byName func() error // whether port 80 leads to both, where it does by name
}

// services are a project's two services, with more lines for each.
func services(forA, forB string) string {
	return `
services:
  a:
    image: peer:lab
    command: [serve, "tcp:25", "tcp:80", "tcp:8081"]
` + forA + `
  b:
    image: peer:lab
    command: [serve, "tcp:26"]
` + forB + "\n"
}

func comparison(s *site) {
	c := &contest{site: s}
	var err error
	if c.parent, err = s.lan.Parent(s.ctx); err != nil {
		s.Fatal(err)
	}
	c.host = s.hostOnLAN(c.parent)
	c.host6 = inPrefix6(s.lan, 0xf)
	if err := s.engine.Root().Sysctl("net.ipv6.conf."+c.parent+".disable_ipv6", "0"); err != nil {
		s.Fatal(err)
	}
	s.must(s.engine.Root(), "ip", "address", "add", c.host6.String()+"/64", "dev", c.parent, "nodad")
	s.serve(s.lan.Client, "tcp:7000")
	table := comparisonTable(s.T)
	for _, way := range ways {
		s.Run(way.column, func(t *testing.T) {
			here := *c
			here.site = &site{T: t, engine: s.engine, lan: s.lan, ctx: t.Context()}
			r := way.start(&here)
			here.isThere(r)
			for _, aspect := range aspects {
				claim := table[aspect.row][way.column]
				if seen := aspect.look(&here, r); !sourced(claim) && seen != claim {
					t.Errorf("%s, %s: the README says %q, but it is %q", way.column, aspect.row, claim, seen)
				}
			}
		})
	}
}

// inPrefix6 is an address of the LAN's IPv6 prefix by its last number.
func inPrefix6(lan *lab.LAN, n byte) netip.Addr {
	a := lan.Prefix6.Addr().As16()
	a[15] = n
	return netip.AddrFrom16(a)
}

// isThere waits until a way works.
func (c *contest) isThere(r rival) {
	c.Helper()
	c.within(patience, time.Now(), "a answers", c.reaches(c.lan.Client, r.a, 25))
	c.within(patience, time.Now(), "b answers", c.reaches(c.lan.Client, r.b, 26))
	c.within(patience, time.Now(), "a answers in IPv6", c.reaches(c.lan.Client, r.a6, 25))
	if r.other.IsValid() {
		c.within(patience, time.Now(), "the second project's a answers", c.reaches(c.lan.Client, r.other, 25))
	}
	if r.byName != nil {
		c.within(patience, time.Now(), "both answer by name", func(context.Context) error { return r.byName() })
	}
}

// reaches is a look at whether a host gets any answer.
func (c *contest) reaches(from *lab.Host, addr netip.Addr, port uint16) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := seenFrom(ctx, from, "tcp", addr, port)
		return err
	}
}

// yes looks once.
func (c *contest) yes(look func(context.Context) error) bool { return look(c.ctx) == nil }

func word(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func (c *contest) address(r rival) string {
	switch {
	case r.a == c.host && r.b == c.host:
		return "the host's"
	case r.a == r.b && r.other != r.a:
		return "one for each project"
	}
	return "one for each container"
}

func (c *contest) leased(r rival) string {
	leases, err := c.lan.Leases()
	if err != nil {
		c.Fatal(err)
	}
	return word(slices.ContainsFunc(leases, func(l lab.Lease) bool { return l.Addr == r.a }))
}

func (c *contest) several(r rival) string {
	return word(c.yes(c.reaches(c.lan.Client, r.a, 26)))
}

func (c *contest) twice(r rival, port uint16) string {
	if port == 80 && r.byName != nil {
		return "yes, by name"
	}
	return word(r.other.IsValid() && r.other != r.a &&
		c.yes(c.reaches(c.lan.Client, r.a, port)) && c.yes(c.reaches(c.lan.Client, r.other, port)))
}

func (c *contest) clients(r rival) string {
	sees := func(addr, client netip.Addr) bool {
		seen, err := seenFrom(c.ctx, c.lan.Client, "tcp", addr, 25)
		if err != nil {
			c.Error(err)
		}
		return seen == client
	}
	v4, v6 := sees(r.a, c.lan.Client.Addr), sees(r.a6, c.lan.Client.Addr6)
	switch {
	case v4 && v6:
		return "yes"
	case v4:
		return "in IPv4 ¹"
	}
	return "no ²"
}

func (c *contest) source(r rival) string {
	seen, err := seenFrom(c.ctx, r.inside, "tcp", c.lan.Client.Addr, 7000)
	switch {
	case err != nil:
		return err.Error()
	case seen == c.host:
		return "the host's address"
	case seen == r.a && r.a == r.b:
		return "the project's address"
	case seen == r.a:
		return "their own address"
	}
	return seen.String()
}

func (c *contest) named(r rival) string {
	return word(!c.yes(c.reaches(c.lan.Client, r.a, 8081)))
}

func (c *contest) fromHost(r rival) string {
	return word(c.yes(c.reaches(c.engine.Root(), r.a, 25)))
}

// plain prepares a project without anchord.
func (c *contest) plain(name, text string) *project {
	c.Helper()
	dir, err := c.engine.TempDir()
	if err != nil {
		c.Fatal(err)
	}
	p := &project{site: c.site, name: name, dir: dir}
	p.write("compose.yaml", text)
	c.Cleanup(p.takeDown)
	return p
}

func (c *contest) ports() rival {
	publish := services(`    ports: ["25:25", "80:80"]`, `    ports: ["26:26"]`)
	one := c.plain("ports-one", publish)
	one.up()
	c.isRefused(c.plain("ports-two", publish))
	return rival{a: c.host, b: c.host, a6: c.host6, inside: one.enter("a")}
}

// isRefused checks that a second project cannot have the first one's ports.
func (c *contest) isRefused(p *project) {
	c.Helper()
	out, err := try(c.engine.Compose(c.ctx, p.dir, p.name, p.files, "up", "--detach"))
	if err == nil || !strings.Contains(out, "port is already allocated") {
		c.Errorf("the second project has the same ports: %v: %s", err, out)
	}
}

func (c *contest) hostMode() rival {
	text := services("    network_mode: host", "    network_mode: host")
	one := c.plain("hostmode-one", text)
	one.up()
	// Which of them comes first decides who has the ports.
	c.within(patience, time.Now(), "a answers", c.reaches(c.lan.Client, c.host, 80))
	two := c.plain("hostmode-two", text)
	two.up("a")
	c.within(patience, time.Now(), "the second project's a has ended", func(context.Context) error {
		if state := two.inspect("a").State; state.Running {
			return fmt.Errorf("it is %+v", state)
		}
		return nil
	})
	if log := c.docker("logs", two.container("a")); !strings.Contains(log, "address already in use") {
		c.Errorf("the second project's a ended with %q", log)
	}
	return rival{a: c.host, b: c.host, a6: c.host6, inside: c.engine.Root()}
}

func (c *contest) macvlan() rival {
	both := "    networks: [lan]"
	one := c.plain("macvlan-one", services(both, both)+fmt.Sprintf(`
networks:
  lan:
    driver: macvlan
    driver_opts: {parent: %s}
    enable_ipv6: true
    ipam:
      config:
        - {subnet: %s, gateway: %s, ip_range: %s, aux_addresses: {host: %s}}
        - {subnet: "%s", gateway: "%s", ip_range: "%s/120"}
`, c.parent, c.lan.Prefix, c.lan.Router.Addr, c.lan.BootstrapRange, c.host,
		c.lan.Prefix6, c.lan.Router.Addr6, strings.TrimSuffix(c.lan.Prefix6.Addr().String(), "::")+"::a:0"))
	one.up()
	two := c.plain("macvlan-two", services(both, both)+`
networks:
  lan: {external: true, name: macvlan-one_lan}
`)
	two.up("a")
	a := one.inspect("a").NetworkSettings.Networks["macvlan-one_lan"]
	return rival{
		a: netip.MustParseAddr(a.IPAddress), a6: netip.MustParseAddr(a.GlobalIPv6Address),
		b: one.addrOn("b", "macvlan-one_lan"), other: two.addrOn("a", "macvlan-one_lan"), inside: one.enter("a"),
	}
}

func (c *contest) reverseProxy() rival {
	one, two := c.plain("proxied-one", services("", "")), c.plain("proxied-two", services("", ""))
	one.up()
	two.up("a")
	proxy := c.plain("reverse-proxy", `
services:
  proxy:
    image: haproxy:lab
    ports: ["25:25", "26:26", "80:80"]
    networks: [one, two]
    volumes: ["./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"]
  second:
    image: haproxy:lab
    ports: ["25:25"]
    profiles: [twice]
networks:
  one: {external: true, name: proxied-one_default}
  two: {external: true, name: proxied-two_default}
`)
	config := `
defaults
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend web
  mode http
  bind :::80 v4v6
  use_backend two if { hdr(host) two.example }
  default_backend one
backend one
  mode http
  server a proxied-one-a-1:80
backend two
  mode http
  server a proxied-two-a-1:80
listen mail
  mode tcp
  bind :::25 v4v6
  server a proxied-one-a-1:25
listen more
  mode tcp
  bind :::26 v4v6
  server b proxied-one-b-1:26
`
	if err := os.WriteFile(filepath.Join(proxy.dir, "haproxy.cfg"), []byte(config), 0o644); err != nil {
		c.Fatal(err)
	}
	proxy.up("proxy")
	if out, err := try(c.engine.Compose(c.ctx, proxy.dir, proxy.name, proxy.files, "up", "--detach", "second")); err == nil || !strings.Contains(out, "port is already allocated") {
		c.Errorf("a second proxy has the same port: %v: %s", err, out)
	}
	return rival{
		a: c.host, b: c.host, a6: c.host6, inside: one.enter("a"),
		byName: func() error {
			for name, p := range map[string]*project{"one.example": one, "two.example": two} {
				page, err := c.page(name)
				if err != nil || !strings.Contains(page, "hostname: "+p.inspect("a").ID[:12]+"\n") {
					return fmt.Errorf("%s shows %q, %w", name, page, err)
				}
			}
			return nil
		},
	}
}

// page asks the Docker host's port 80 for a site by name.
func (c *contest) page(name string) (string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: c.lan.Client.DialContext, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	request, err := http.NewRequestWithContext(c.ctx, http.MethodGet, "http://"+c.host.String()+"/", nil)
	if err != nil {
		return "", err
	}
	request.Host = name
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func (c *contest) anchord() rival {
	labelled := services("    networks: [transit]\n    labels: {anchord.expose: \"tcp/25,tcp/80\"}", "    networks: [transit]\n    labels: {anchord.expose: \"tcp/26\"}")
	one := c.project("anchord-one", labelled)
	text, err := os.ReadFile(filepath.Join(one.dir, "compose.yaml"))
	if err != nil {
		c.Fatal(err)
	}
	// On the very interface that the Docker host has its address on.
	before, after, _ := strings.Cut(string(text), "parent: ")
	_, after, _ = strings.Cut(after, " ")
	one.write("compose.yaml", before+"parent: "+c.parent+" "+after)
	one.write("ipv6.yaml", withULA(c.site, readExample(c.T, "native/ipv6.yaml")))
	if c.engine.old {
		one.write("ipv6-before-28.yaml", readExample(c.T, "native/ipv6-before-28.yaml"))
	}
	one.up()
	two := c.project("anchord-two", labelled)
	if c.engine.old {
		two.write("shared.yaml", "networks:\n  lan: !override\n    external: true\n    name: anchord-one_lan\n")
	}
	two.up("anchord", "a")
	r := rival{other: two.reachable(25), inside: one.enter("a")}
	r.a = one.addr()
	r.b = r.a
	c.within(patience, time.Now(), "an IPv6 address", func(context.Context) error {
		for _, a := range one.status().Addresses {
			if p, err := netip.ParsePrefix(a); err == nil && c.lan.Prefix6.Contains(p.Addr()) {
				r.a6 = p.Addr()
				return nil
			}
		}
		return fmt.Errorf("there is none in %v", one.status().Addresses)
	})
	return r
}

// sourced says whether a cell of the table leaves it to a link.
func sourced(cell string) bool { return strings.Contains(cell, "](") || strings.Contains(cell, "][") }

// comparisonTable is the README's: cells by row and column.
func comparisonTable(t *testing.T) map[string]map[string]string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "\n## How it compares\n")
	if !found {
		t.Fatal("the README does not compare any more")
	}
	var lines [][]string
	for line := range strings.Lines(strings.TrimSpace(text)) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		lines = append(lines, cells)
	}
	if len(lines) < 3 {
		t.Fatal("the README's comparison has no table")
	}
	table := map[string]map[string]string{}
	for _, cells := range lines[2:] {
		table[cells[0]] = map[string]string{}
		for i, column := range lines[0][1:] {
			table[cells[0]][column] = cells[i+1]
		}
	}
	return table
}

// Each cell of the comparison is either looked at or has a link.
func TestComparisonIsProvenOrSourced(t *testing.T) {
	table := comparisonTable(t)
	looked := map[string]bool{}
	for _, aspect := range aspects {
		looked[aspect.row] = true
		if table[aspect.row] == nil {
			t.Errorf("the README does not compare %q any more", aspect.row)
		}
	}
	set := map[string]bool{}
	for _, way := range ways {
		set[way.column] = true
	}
	for row, cells := range table {
		for column, cell := range cells {
			if !sourced(cell) && !(looked[row] && set[column]) {
				t.Errorf("%s, %s: %q is neither tested nor has it a link", column, row, cell)
			}
		}
	}
}
