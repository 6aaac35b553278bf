package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// scopeScenarios are about which containers are managed, and on which network
// they are reached.
var scopeScenarios = []scenario{
	{name: "two scopes in one project", once: true, run: twoScopes},
	{name: "three transit networks and a late service", run: threeTransits},
}

// Two network-anchors in one project, each with the containers of one selector,
// are two servers; and a container that Compose knows nothing of belongs to one
// of them, by its label.
func twoScopes(s *site) {
	p := s.project("scopes", `
networks:
  transit-red:
    driver_opts: {com.docker.network.bridge.inhibit_ipv4: "true"}
services:
  anchord:
    environment: {ANCHORD_LABEL_SELECTOR: "anchord.identity=blue"}
  second:
    image: anchord:lab
    cap_add: [NET_ADMIN]
    sysctls: {net.ipv4.ip_forward: "1"}
    environment: {ANCHORD_LABEL_SELECTOR: "anchord.identity=red", ANCHORD_ADDRESS_MODE: dhcp-refresh}
    networks: [lan, transit-red]
    volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]
  app:
    image: peer:lab
    networks: [transit]
    labels: {anchord.expose: "tcp/80", anchord.identity: blue}
  web:
    image: peer:lab
    networks: [transit-red]
    labels: {anchord.expose: "tcp/80,tcp/81:80", anchord.identity: red}
  neither:
    image: peer:lab
    networks: [transit, transit-red]
    labels: {anchord.expose: "tcp/83:80"}
`)
	p.up()
	loner := p.name + "-loner"
	p.docker("run", "--detach", "--name", loner, "--network", p.name+"_transit",
		"--label", "anchord.identity=blue", "--label", "anchord.expose=tcp/82:80", "peer:lab")
	s.Cleanup(func() {
		if _, err := try(s.engine.Docker(context.Background(), "rm", "--force", loner)); err != nil {
			s.Error(err)
		}
	})
	s.serve(s.lan.Client, "tcp:7000")
	for _, scope := range []struct {
		name, anchord, service string
		open                   map[uint16]string
		closed                 []uint16
	}{
		{"blue", "anchord", "app", map[uint16]string{80: p.container("app"), 82: loner}, []uint16{81, 83}},
		{"red", "second", "web", map[uint16]string{80: p.container("web"), 81: p.container("web")}, []uint16{82, 83}},
	} {
		addr := s.lease(scope.name).Addr
		for port, name := range scope.open {
			s.within(patience, time.Now(), fmt.Sprintf("%s answers on port %d", scope.name, port), func(ctx context.Context) error {
				answer, err := asks(ctx, s.lan.Client, "tcp", addr, port)
				if c, bad := s.engine.Client().ContainerInspect(ctx, name); err == nil && (bad != nil || answer.Host != c.ID[:12]) {
					err = fmt.Errorf("it is answered by %v, and not by %s", answer, name)
				}
				return err
			})
		}
		for _, port := range scope.closed {
			refused(s, s.lan.Client, "tcp", addr, port)
		}
		s.within(patience, time.Now(), scope.service+" leaves as "+scope.name, leavesAs(addr, p.enter(scope.service), "tcp", s.lan.Client.Addr, 7000))
		s.within(patience, time.Now(), "the status of "+scope.name, func(context.Context) error {
			var seen status
			if err := json.Unmarshal([]byte(p.docker("exec", p.container(scope.anchord), "anchord", "status", "--json")), &seen); err != nil {
				return err
			}
			if len(seen.Exposed) != len(scope.open) || len(seen.Problems) > 0 || seen.Hostname != scope.name {
				return fmt.Errorf("it has %+v", seen)
			}
			return nil
		})
	}
	if s.lease("blue").Addr == s.lease("red").Addr {
		s.Error("both scopes have one address")
	}
}

// Three networks have "transit" in their names. Without a service one of them is
// taken for the time being; the first service decides, and it stays so. A start
// with all of them there takes the one with the most.
func threeTransits(s *site) {
	p := s.project("transits", `
networks:
  transit-b:
    driver_opts: {com.docker.network.bridge.inhibit_ipv4: "true"}
  transit-c:
    driver_opts: {com.docker.network.bridge.inhibit_ipv4: "true"}
services:
  anchord:
    networks: [transit-b, transit-c]
  late:
    image: peer:lab
    networks: [transit-c]
    labels: {anchord.expose: "tcp/80"}
  more:
    image: peer:lab
    networks: [transit-b]
    labels: {anchord.expose: "tcp/81:80"}
  most:
    image: peer:lab
    networks: [transit-b]
    labels: {anchord.expose: "tcp/82:80"}
`)
	a, b, c := p.name+"_transit", p.name+"_transit-b", p.name+"_transit-c"
	p.up("anchord")
	addr := p.addr()
	s.within(patience, time.Now(), "the first by name is taken", p.shares(a))
	if lines := p.logged("network.shared_picked"); len(lines) > 0 {
		s.Errorf("the first choice is told of as another one: %v", lines)
	}

	late := s.looks(answers(s.lan.Client, "tcp", addr, 80))
	p.up("late")
	start := p.started("late")
	s.back(5*time.Second, start, start, map[string]*looks{"the late service answers": late})
	late.stop()
	s.within(patience, time.Now(), "its network is taken", p.shares(c))
	s.within(patience, time.Now(), "the log tells it once", p.loggedTimes("network.shared_picked", 1))
	picked := p.logged("network.shared_picked")
	if len(picked) != 1 || picked[0].Level != "info" || !slices.Equal(networksIn(picked[0].Msg, a, b, c), []string{a, c}) {
		s.Errorf("the log does not tell once of the old and the new network: %v", picked)
	}

	p.up("more", "most")
	for _, port := range []uint16{80, 81, 82} {
		s.within(patience, time.Now(), fmt.Sprintf("port %d answers", port), answers(s.lan.Client, "tcp", addr, port))
	}
	p.compose("restart", "--timeout", "5", "late")
	s.within(patience, time.Now(), "the late service answers again", answers(s.lan.Client, "tcp", addr, 80))
	if err := p.shares(c)(s.ctx); err != nil || len(p.logged("network.shared_picked")) != 1 {
		s.Errorf("the choice is not kept: %v, %v", err, p.logged("network.shared_picked"))
	}

	p.up("--force-recreate", "--no-deps", "anchord")
	for _, port := range []uint16{80, 81, 82} {
		s.within(patience, time.Now(), fmt.Sprintf("port %d answers", port), answers(s.lan.Client, "tcp", addr, port))
	}
	s.within(patience, time.Now(), "the network with the most services is taken", p.shares(b))
}

// shares is a look at which network the services are reached on.
func (p *project) shares(network string) func(context.Context) error {
	return func(context.Context) error {
		if got := p.status().Shared; got != network {
			return fmt.Errorf("it is %q, want %q", got, network)
		}
		return nil
	}
}

// networksIn are those of the networks that a text names, as whole words.
func networksIn(text string, networks ...string) (found []string) {
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' })
	for _, n := range networks {
		if slices.Contains(words, n) {
			found = append(found, n)
		}
	}
	return found
}
