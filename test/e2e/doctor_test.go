package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// doctors are what `anchord doctor` says of real projects; on a host where bridged
// packets are filtered, and on one where they are not.
var (
	doctors = []scenario{
		{name: "doctor of a healthy project", run: doctorHealthy},
		{name: "doctor of a healthy project with IPv6", run: doctorDualStack, lan: lab.LANOptions{IPv6: lab.DHCPv6}},
		{name: "doctor of a container without its rights", run: doctorPowerless},
		{name: "doctor of a rebinder", run: doctorRebinder},
		{name: "doctor of a wrapped project", run: doctorWrap},
		{name: "doctor behind a socket proxy", run: doctorProxied},
		{name: "doctor of a transit that is Docker's", run: doctorTransit},
		{name: "doctor of an internal transit, filtered", run: doctorFiltered},
		{name: "doctor of an engine's own address", run: doctorBootstrap},
	}
	doctorsUnfiltered = []scenario{
		{name: "doctor of service-anchors", run: doctorServiceAnchors},
	}
)

// diagnosis is what tests look at of the doctor's JSON.
type diagnosis struct {
	Failures, Warnings int
	Checks             []finding
	text               string
}

type finding struct {
	Check, Result, Seen, Fix string
	Commands                 []string
}

// doctor examines a service in its running container.
func (p *project) doctor(service string) diagnosis {
	p.Helper()
	return p.read(p.engine.Docker(p.ctx, "exec", p.container(service), "anchord", "doctor", "--json").Output())
}

// doctorBefore examines it in a container of its own.
func (p *project) doctorBefore() diagnosis {
	p.Helper()
	return p.read(p.engine.Compose(p.ctx, p.dir, p.name, p.files, "run", "--rm", "-T", "anchord", "doctor", "--json").Output())
}

// read takes what the doctor said: it ends with 1 if something fails.
func (p *project) read(text []byte, err error) diagnosis {
	p.Helper()
	d := diagnosis{text: string(text)}
	if json.Unmarshal(text, &d) != nil {
		p.Fatalf("the doctor says %q (%v)", text, err)
	}
	if (err != nil) != (d.Failures > 0) {
		p.Errorf("the doctor's command ended with %v, and it found %d failures", err, d.Failures)
	}
	return d
}

// says gives the finding of this check and result in which this was seen.
func (d diagnosis) says(check, result, seen string) (finding, error) {
	for _, f := range d.Checks {
		if f.Check == check && f.Result == result && regexp.MustCompile(seen).MatchString(f.Seen) {
			return f, nil
		}
	}
	return finding{}, fmt.Errorf("the doctor does not say %s of %s, with %q:\n%s", result, check, seen, d.text)
}

func (p *project) told(d diagnosis, check, result, seen string) finding {
	p.Helper()
	f, err := d.says(check, result, seen)
	if err != nil {
		p.Fatal(err)
	}
	return f
}

// content checks that nothing is wrong.
func (p *project) content(d diagnosis) {
	p.Helper()
	for _, f := range d.Checks {
		if f.Result == "warn" || f.Result == "fail" {
			p.Errorf("%s %s: %s; %s", f.Result, f.Check, f.Seen, f.Fix)
		}
	}
}

// answersDNS has the LAN's name server say that names of the outside do not exist:
// it has nobody to ask.
func (s *site) answersDNS() {
	s.Helper()
	if err := s.lan.ConfigureDHCP(s.ctx, func(c *lab.DHCPConfig) { c.Extra = append(c.Extra, "local=/#/") }); err != nil {
		s.Fatal(err)
	}
}

// A healthy project has nothing but ok, before and while it is up, and no lease is
// touched by looking.
func doctorHealthy(s *site) {
	s.answersDNS()
	// The feature needs the most rights, though there is nobody to make anything for.
	p := s.project("healthy", twoServices+`
  anchord:
    environment:
      ANCHORD_MANAGED_SA_TARGET: healthy-nobody-1
`)
	containers := func() string { return p.docker("ps", "--all", "--quiet", "--filter", "name=healthy") }
	before := p.doctorBefore()
	p.content(before)
	p.told(before, "dhcp", "ok", "offers ")
	p.told(before, "transit", "ok", "way out is anchord")
	if l, err := s.findLease(p.name); err == nil {
		s.Errorf("the doctor took a lease: %v", l)
	}
	p.up()
	addr := p.reachable(80)
	lease := p.lease(p.name)
	var d diagnosis
	s.within(patience, time.Now(), "the doctor finds every check ok", func(context.Context) error {
		d = p.doctor("anchord")
		for _, f := range d.Checks {
			if f.Result != "ok" && f.Check != "router" { // no IPv6 here
				return fmt.Errorf("%s is %s: %s", f.Check, f.Result, f.Seen)
			}
		}
		return nil
	})
	p.told(d, "dhcp", "ok", "a lease of "+addr.String())
	p.told(d, "rights", "ok", "ANCHORD_MANAGED_SA_TARGET, ANCHORD_AUTOFIX_DEAD_NETNS")
	p.told(d, "way-back", "ok", p.container("web"))
	running := containers()
	// While it is up, another container can look too.
	p.content(p.doctorBefore())
	if now := p.lease(p.name); now.Addr != lease.Addr {
		s.Errorf("the lease was %v, and is %v", lease, now)
	}
	if now := containers(); now != running {
		s.Errorf("the containers were\n%s, and are\n%s", running, now)
	}
	answersNow := answers(s.lan.Client, "tcp", addr, 80)
	if err := answersNow(s.ctx); err != nil {
		s.Errorf("the doctor broke something: %v", err)
	}
}

// The same in both families, with a DHCPv6 server.
func doctorDualStack(s *site) {
	s.answersDNS()
	p := s.dualStack("native", "doctor6")
	before := p.doctorBefore()
	p.content(before)
	p.told(before, "router", "ok", "managed: a DHCPv6 server will be asked")
	p.up()
	p.lease6(p.name)
	var d diagnosis
	s.within(patience, time.Now(), "the doctor finds every check ok", func(context.Context) error {
		d = p.doctor("anchord")
		for _, f := range d.Checks {
			if f.Result != "ok" {
				return fmt.Errorf("%s is %s: %s", f.Check, f.Result, f.Seen)
			}
		}
		return nil
	})
	p.told(d, "router", "ok", "managed; leased is")
	p.told(d, "gateway", "ok", "fe80::")
	p.told(d, "way-back", "ok", `fd5a:.* answers clients`)
}

// The lines that the doctor names give the container what it lacks.
func doctorPowerless(s *site) {
	s.answersDNS()
	p := s.project("weak", twoServices)
	p.write("broken.yaml", `services: {anchord: {cap_drop: [ALL], cap_add: !reset null, sysctls: !override {net.ipv4.ip_forward: "0"}}}`+"\n")
	d := p.doctorBefore()
	for _, lost := range []string{"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"} {
		f := p.told(d, "capabilities", "fail", lost+" is missing")
		line, found := strings.CutPrefix(f.Fix, "in the service of anchord, ")
		if !found {
			s.Fatalf("the fix is no line for Compose: %s", f.Fix)
		}
		p.write("cure-"+lost+".yaml", "services: {anchord: {"+line+"}}\n")
	}
	f := p.told(d, "forwarding", "fail", "ip_forward is 0")
	cure, found := strings.CutPrefix(f.Fix, "in the service of anchord, ")
	if !found {
		s.Fatalf("the fix is no line for Compose: %s", f.Fix)
	}
	p.write("cure-forwarding.yaml", "services: {anchord: {"+cure+"}}\n")
	p.content(p.doctorBefore())
}

// A rebinder has Docker only, and a doctor and a status of its own.
func doctorRebinder(s *site) {
	p := s.bare("keeper", `
services:
  app:
    image: peer:lab
  anchord:
    image: anchord:lab
    volumes: ["`+strings.TrimPrefix(s.engine.Host(), "unix://")+`:/var/run/docker.sock"]
    environment:
      ANCHORD_MODE: external-rebinder
      ANCHORD_FOLLOW_NETWORK: nobody_net
      ANCHORD_FOLLOW_TARGET: app
      ANCHORD_FOLLOW_RESTART: "true"
      ANCHORD_METRICS_ADDR: ""
`)
	p.up()
	s.within(patience, time.Now(), "the rebinder asks Docker", p.healthy)
	d := p.doctor("anchord")
	p.content(d)
	p.told(d, "rights", "ok", "external-rebinder, ANCHORD_FOLLOW_RESTART")
	if out := p.docker("exec", p.container("anchord"), "anchord", "status"); !strings.Contains(out, "app on network nobody_net") {
		s.Errorf("the rebinder's status: %s", out)
	}
	broken := p.engine.Docker(p.ctx, "exec", "-e", "ANCHORD_FOLLOW_NETWORK=", p.container("anchord"), "anchord", "doctor", "--json")
	p.told(p.read(broken.Output()), "configuration", "fail", "ANCHORD_FOLLOW_NETWORK")
}

// A wrapped project keeps its gateway, and service-anchors make up for it.
func doctorWrap(s *site) {
	s.answersDNS()
	w := s.wrap("patient", false)
	w.wrapped.up()
	w.told(w.doctorBefore(), "transit", "warn", "the gateway of network patient_default is Docker's")
	w.both()
	s.within(patience, time.Now(), "the doctor is content", func(context.Context) error {
		d := w.doctor("anchord")
		if d.Failures+d.Warnings > 0 {
			return fmt.Errorf("it is not: %s", d.text)
		}
		_, err := d.says("transit", "ok", "exposed containers' way out is anchord")
		return err
	})
}

// What a proxy refuses is named with what is lost, and the documentation's cure is
// one.
func doctorProxied(s *site) {
	s.answersDNS()
	p := s.guarded("proxied", twoServices)
	p.up()
	p.reachable(80)
	restarted := func() {
		p.compose("restart", "--timeout", "5", "socket-proxy")
		s.within(patience, time.Now(), "Docker is connected", func(context.Context) error {
			if !p.status().Docker.Connected {
				return fmt.Errorf("it is not")
			}
			return nil
		})
	}
	d := p.doctor("anchord")
	p.told(d, "docker", "ok", "may be read")
	f := p.told(d, "rights", "warn", `refuses POST /containers/\{id\}/start.*started by hand`)
	if d.Failures > 0 || !strings.Contains(f.Fix, "docs/socket-proxy.md, Autostart") {
		s.Errorf("the fix is %q, failures: %d", f.Fix, d.Failures)
	}
	p.allow(docAutostart)
	restarted()
	p.content(p.doctor("anchord"))

	config := filepath.Join(p.dir, "socket-proxy.cfg")
	text, err := os.ReadFile(config)
	if err != nil {
		s.Fatal(err)
	}
	without := regexp.MustCompile(`(?m)^.*(/networks/|/events).*\n`).ReplaceAll(text, nil)
	if err := os.WriteFile(config, without, 0o644); err != nil {
		s.Fatal(err)
	}
	p.compose("restart", "--timeout", "5", "socket-proxy")
	d = p.doctor("anchord")
	p.told(d, "docker", "fail", `refuses GET /networks/\{id\}, which reading needs`)
	p.told(d, "docker", "warn", `refuses GET /events`)
}

// A transit whose gateway Docker keeps, in both families: what the doctor says is
// what cures it.
func doctorTransit(s *site) {
	s.answersDNS()
	p := s.project("hostgw", twoServices)
	subnet := withULA(s, readExample(s.T, "native/ipv6.yaml"))
	ula := regexp.MustCompile(`subnet: (\S+)`).FindStringSubmatch(subnet)[1]
	leak := "networks: {transit: {enable_ipv6: true, ipam: {config: [{subnet: \"" + ula + "\"}]}}}\n"
	p.write("broken.yaml", "networks: {transit: {driver_opts: !reset null}}\n")
	p.write("leak.yaml", leak)
	d := p.doctorBefore()
	fix := p.told(d, "transit", "fail", "the gateway of network hostgw_transit is Docker's").Fix
	leakFix := p.told(d, "ipv6-leak", "fail", "network hostgw_transit has IPv6").Fix
	p.up()
	p.lease(p.name)
	s.within(patience, time.Now(), "the doctor sees that clients get no answer", func(context.Context) error {
		_, err := p.doctor("anchord").says("way-back", "fail", p.container("web")+".*not clients")
		return err
	})
	p.compose("down")

	// The cures are Compose lines.
	line := regexp.MustCompile(`networks: \{.*?\}\}\}`).FindString(fix)
	aux := regexp.MustCompile(`aux_addresses: \{.*?\}`).FindString(leakFix)
	if line == "" || aux == "" {
		s.Fatalf("the fixes have no lines for Compose: %q, %q", fix, leakFix)
	}
	p.write("broken.yaml", line+"\n")
	p.write("leak.yaml", strings.Replace(leak, "\"}]", "\", "+aux+"}]", 1))
	p.up()
	p.reachable(80)
	d = p.doctor("anchord")
	for _, check := range []string{"transit", "ipv6-leak", "way-back"} {
		p.told(d, check, "ok", "")
	}
}

// On an internal network the host's firewall drops all clients.
func doctorFiltered(s *site) {
	p := s.projectOf("filtered", readExample(s.T, "service-anchor/compose.yaml"), "")
	p.told(p.doctorBefore(), "transit", "warn", "internal: on a host with bridge-nf-call-iptables=1")
	p.up()
	p.lease(p.name)
	s.within(patience, time.Now(), "the doctor sees that clients are dropped", func(context.Context) error {
		f, err := p.doctor("anchord").says("transit", "fail", "filtered_transit is internal, and no packet with a LAN client's address")
		if err == nil && !strings.Contains(f.Fix, "sysctl net.bridge.bridge-nf-call-iptables=0") {
			err = fmt.Errorf("the fix is %q", f.Fix)
		}
		return err
	})
}

// An engine before 28 gives the LAN interface an address that is not the LAN's,
// unless it is told one.
func doctorBootstrap(s *site) {
	s.answersDNS()
	p := s.project("own", twoServices)
	if s.engine.old {
		with := p.files
		p.files = nil
		for _, file := range with {
			if filepath.Base(file) != "engine-before-28.yaml" {
				p.files = append(p.files, file)
			}
		}
		f := p.told(p.doctorBefore(), "lan-interface", "warn", "older than 28 and does not know enable_ipv4: false")
		if !strings.Contains(f.Fix, "engine-before-28.yaml") {
			s.Errorf("the fix is %q", f.Fix)
		}
		p.compose("down")
		p.files = with
	}
	p.told(p.doctorBefore(), "lan-interface", "ok", "network own_lan .macvlan., address mode dhcp-refresh")
}

// Service-anchors and their network-anchor are content, where packets get through;
// and a namespace that somebody broke is found with the command that cures it.
func doctorServiceAnchors(s *site) {
	s.answersDNS()
	p := s.projectOf("anchored", readExample(s.T, "service-anchor/compose.yaml"), "")
	p.up()
	lease := p.lease(p.name)
	s.within(patience, time.Now(), "nginx serves its page", showsNginx(s.lan.Client, lease.Addr))
	p.content(p.doctor("anchord"))
	d := p.doctor("web-anchor")
	p.content(d)
	p.told(d, "default-route", "ok", p.transitAddr("anchord").String())
	if out := p.docker("exec", p.container("web-anchor"), "anchord", "status"); !strings.Contains(out, "ready") || !strings.Contains(out, p.transitAddr("anchord").String()) {
		s.Errorf("the service-anchor's status: %s", out)
	}
	p.up("--force-recreate", "--no-deps", "web-anchor")
	f := p.told(p.doctor("anchord"), "namespaces", "fail", p.container("web"))
	if len(f.Commands) != 1 {
		s.Fatalf("the commands are %q", f.Commands)
	}
	p.cure(f.Commands[0])
	s.within(patience, time.Now(), "nginx serves its page again", showsNginx(s.lan.Client, lease.Addr))
	p.told(p.doctor("anchord"), "namespaces", "ok", "")
}
