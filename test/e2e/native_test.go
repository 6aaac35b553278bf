package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// hexID is the client identifier of a name as the lease table shows it: type 0,
// then the name.
func hexID(name string) string {
	id := "00"
	for _, b := range []byte(name) {
		id += ":" + hex.EncodeToString([]byte{b})
	}
	return id
}

// A cold start of the file that the README shows: the DHCP server knows the
// project by its name, the LAN reaches both services, each sees its clients'
// own addresses, and everything that a person asks anchord is answered.
func nativeExample(s *site) {
	p := s.projectOf("myserver", readExample(s.T, "native/compose.yaml"), "")
	start := p.up()
	lease := p.lease("myserver")
	s.within(30*time.Second, start, "whoami answers the LAN", answers(s.lan.Client, "tcp", lease.Addr, 8080))
	s.within(30*time.Second, start, "nginx serves its page", showsNginx(s.lan.Client, lease.Addr))
	s.within(5*time.Second, time.Now(), "nginx logs the client's address", p.nginxLogs("web", s.lan.Client))
	if lease.ClientID != hexID("myserver") {
		s.Errorf("the lease table shows client identifier %s, want %s", lease.ClientID, hexID("myserver"))
	}
	if !s.lan.Pool.Contains(lease.Addr) {
		s.Errorf("the address %s is not of the DHCP server's pool", lease.Addr)
	}
	p.commandsAnswer(lease)
	s.within(2*patience, time.Now(), "Docker calls anchord healthy", func(context.Context) error {
		if h := p.inspect("anchord").State.Health; h == nil || h.Status != container.Healthy {
			return fmt.Errorf("its health is %+v", h)
		}
		return nil
	})
}

func showsNginx(from *lab.Host, addr netip.Addr) func(ctx context.Context) error {
	return showsNginxAt(from, netip.AddrPortFrom(addr, 80))
}

func showsNginxAt(from *lab.Host, at netip.AddrPort) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		page, err := fetch(ctx, from, "http://"+at.String()+"/")
		if err == nil && !strings.Contains(page, "nginx") {
			err = fmt.Errorf("got %q", page)
		}
		return err
	}
}

func (p *project) nginxLogs(service string, client *lab.Host) func(ctx context.Context) error {
	return func(context.Context) error {
		log := p.docker("logs", p.container(service))
		for line := range strings.Lines(log) {
			if strings.HasPrefix(line, client.Addr.String()+" ") {
				return nil
			}
		}
		return fmt.Errorf("nginx's log has no request of %s: %q", client.Addr, log)
	}
}

// commandsAnswer asks anchord in all the ways that there are.
func (p *project) commandsAnswer(lease lab.Lease) {
	p.Helper()
	seen := p.status()
	if !seen.Ready || seen.Project != p.name || seen.Hostname != p.name || !seen.Docker.Connected || len(seen.Problems) > 0 {
		p.Errorf("status --json is %+v", seen)
	}
	if seen.MAC != lease.MAC.String() || len(seen.Addresses) == 0 || !strings.HasPrefix(seen.Addresses[0], lease.Addr.String()+"/") {
		p.Errorf("status --json has MAC %s and addresses %v; the lease table has %v", seen.MAC, seen.Addresses, lease)
	}
	ports := map[string]string{}
	for _, e := range seen.Exposed {
		ports[e.Protocol+"/"+e.Ports] = e.Container
		if e.Connections == 0 {
			p.Errorf("status --json has no connections to %s/%s", e.Protocol, e.Ports)
		}
	}
	want := map[string]string{"tcp/80": p.container("web"), "tcp/8080": p.container("whoami")}
	if fmt.Sprint(ports) != fmt.Sprint(want) {
		p.Errorf("status --json has %v exposed, want %v", ports, want)
	}
	text := p.exec("anchord", "status")
	for _, want := range []string{lease.Addr.String(), lease.MAC.String(), p.container("web"), "tcp/8080"} {
		if !strings.Contains(text, want) {
			p.Errorf("status does not show %s:\n%s", want, text)
		}
	}
	if got := p.exec("anchord", "healthcheck"); !strings.Contains(got, "ready") {
		p.Errorf("healthcheck says %q", got)
	}
	if got := p.exec("anchord", "version"); !strings.HasPrefix(got, "anchord lab ") {
		p.Errorf("version says %q", got)
	}
	p.rendersWhatStands()
}

// rendersWhatStands checks that render prints a ruleset that nft accepts, with
// what is exposed in it, and leaves the kernel's alone.
func (p *project) rendersWhatStands() {
	p.Helper()
	before := p.ruleset()
	text := p.exec("anchord", "render")
	for _, want := range []string{"table ip anchord_v4 {", "table ip6 anchord_v6 {", p.transitAddr("web").String() + " . 80", p.name} {
		if !strings.Contains(text, want) {
			p.Errorf("render does not print %q:\n%s", want, text)
		}
	}
	p.exec("sh", "-c", "anchord render | nft --check --file -")
	if after := p.ruleset(); after != before {
		p.Errorf("render has changed the ruleset, before\n%s\nafter\n%s", before, after)
	}
}

// ruleset is anchord's own, without the counters.
func (p *project) ruleset() string {
	p.Helper()
	return p.exec("sh", "-c", "nft --stateless list table ip anchord_v4; nft --stateless list table ip6 anchord_v6")
}

// bridgedUnfiltered is that the native pattern does not depend on whether the
// Docker host filters bridged packets. All other scenarios of it run with the
// filter.
func bridgedUnfiltered(s *site) {
	p := s.project("unfiltered", `
services:
  web:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80,udp/80"}
`)
	p.up()
	addr := p.reachable(80)
	s.within(patience, time.Now(), "UDP answers too", answers(s.lan.Client, "udp", addr, 80))
	s.serve(s.lan.Client, "tcp:7000")
	s.within(patience, time.Now(), "the service reaches the LAN", leavesAs(addr, p.enter("web"), "tcp", s.lan.Client.Addr, 7000))
}
