package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
		{name: "doctor of a container without its rights", once: true, run: doctorPowerless},
		{name: "doctor of a rebinder", once: true, run: doctorRebinder},
		{name: "doctor of a wrapped project", once: true, run: doctorWrap},
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

// examination is one run of the doctor.
type examination func() diagnosis

// doctor examines a service in its running container.
func (p *project) doctor(service string) examination {
	return func() diagnosis {
		p.Helper()
		return p.read(p.engine.Docker(p.ctx, "exec", p.container(service), "anchord", "doctor", "--json").Output())
	}
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

// view is a look at what the doctor said.
type view func(d diagnosis) error

// finds asks the doctor until all views of what it says agree. It ends in a few
// seconds whatever happens, so what a busy machine answers too late is a finding.
func (p *project) finds(what string, examine examination, views ...view) diagnosis {
	p.Helper()
	var d diagnosis
	p.within(patience, time.Now(), "the doctor finds "+what, func(context.Context) error {
		d = examine()
		for _, agrees := range views {
			if err := agrees(d); err != nil {
				return err
			}
		}
		return nil
	})
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

// reports is a view that wants a finding.
func reports(check, result, seen string) view {
	return func(d diagnosis) error {
		_, err := d.says(check, result, seen)
		return err
	}
}

// content is the view that nothing is wrong.
func content(d diagnosis) error {
	var wrong []error
	for _, f := range d.Checks {
		if f.Result == "warn" || f.Result == "fail" {
			wrong = append(wrong, fmt.Errorf("%s %s: %s; %s", f.Result, f.Check, f.Seen, f.Fix))
		}
	}
	return errors.Join(wrong...)
}

// every is the view that each check is ok, but for some.
func every(but ...string) view {
	return func(d diagnosis) error {
		for _, f := range d.Checks {
			if f.Result != "ok" && !slices.Contains(but, f.Check) {
				return fmt.Errorf("%s is %s: %s", f.Check, f.Result, f.Seen)
			}
		}
		return nil
	}
}

// told gives a finding that there has to be.
func (p *project) told(d diagnosis, check, result, seen string) finding {
	p.Helper()
	f, err := d.says(check, result, seen)
	if err != nil {
		p.Fatal(err)
	}
	return f
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
	p.finds("nothing wrong before", p.doctorBefore, content,
		reports("dhcp", "ok", "offers "), reports("transit", "ok", "way out is anchord"))
	if l, err := s.findLease(p.name); err == nil {
		s.Errorf("the doctor took a lease: %v", l)
	}
	p.up()
	addr := p.reachable(80)
	lease := p.lease(p.name)
	p.finds("every check ok", p.doctor("anchord"), every("router"), // no IPv6 here
		reports("dhcp", "ok", "a lease of "+addr.String()),
		reports("rights", "ok", "ANCHORD_MANAGED_SA_TARGET, ANCHORD_AUTOFIX_DEAD_NETNS"),
		reports("way-back", "ok", p.container("web")))
	running := containers()
	// While it is up, another container can look too.
	p.finds("nothing wrong from another container", p.doctorBefore, content)
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
	p.finds("nothing wrong before", p.doctorBefore, content, reports("router", "ok", "managed: a DHCPv6 server will be asked"))
	p.up()
	p.lease6(p.name)
	p.finds("every check ok", p.doctor("anchord"), every(),
		reports("router", "ok", "managed; leased is"),
		reports("gateway", "ok", "fe80::"),
		reports("way-back", "ok", `fd5a:.* answers clients`))
}

// The lines that the doctor names give the container what it lacks.
func doctorPowerless(s *site) {
	s.answersDNS()
	p := s.project("weak", twoServices)
	p.write("broken.yaml", `services: {anchord: {cap_drop: [ALL], cap_add: !reset null, sysctls: !override {net.ipv4.ip_forward: "0"}}}`+"\n")
	d := p.finds("that forwarding is off", p.doctorBefore, reports("forwarding", "fail", "ip_forward is 0"))
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
	p.finds("nothing wrong any more", p.doctorBefore, content)
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
	p.finds("nothing wrong", p.doctor("anchord"), content, reports("rights", "ok", "external-rebinder, ANCHORD_FOLLOW_RESTART"))
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
	w.finds("whose gateway it is", w.doctorBefore, reports("transit", "warn", "the gateway of network patient_default is Docker's"))
	w.both()
	w.finds("nothing wrong", w.doctor("anchord"), content, reports("transit", "ok", "exposed containers' way out is anchord"))
}

// What a proxy refuses is named with what is lost, and the documentation's cure is
// one.
func doctorProxied(s *site) {
	s.answersDNS()
	p := s.guarded("proxied", twoServices)
	p.up()
	p.reachable(80)
	// The proxy does not listen at once when it was started anew.
	restarted := func() { p.compose("restart", "--timeout", "5", "socket-proxy") }
	const refused = `refuses POST /containers/\{id\}/start.*started by hand`
	d := p.finds("one right missing", p.doctor("anchord"), reports("docker", "ok", "may be read"), reports("rights", "warn", refused), func(d diagnosis) error {
		if d.Failures > 0 {
			return fmt.Errorf("it finds %d failures: %s", d.Failures, d.text)
		}
		return nil
	})
	if f := p.told(d, "rights", "warn", refused); !strings.Contains(f.Fix, "docs/socket-proxy.md, Autostart") {
		s.Errorf("the fix is %q", f.Fix)
	}
	p.allow(docAutostart)
	restarted()
	p.finds("nothing wrong any more", p.doctor("anchord"), content)

	config := filepath.Join(p.dir, "socket-proxy.cfg")
	text, err := os.ReadFile(config)
	if err != nil {
		s.Fatal(err)
	}
	without := regexp.MustCompile(`(?m)^.*(/networks/|/events).*\n`).ReplaceAll(text, nil)
	if err := os.WriteFile(config, without, 0o644); err != nil {
		s.Fatal(err)
	}
	restarted()
	p.finds("what cannot be read", p.doctor("anchord"),
		reports("docker", "fail", `refuses GET /networks/\{id\}, which reading needs`),
		reports("docker", "warn", `refuses GET /events`))
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
	const gateway, leaks = "the gateway of network hostgw_transit is Docker's", "network hostgw_transit has IPv6"
	d := p.finds("both faults", p.doctorBefore, reports("transit", "fail", gateway), reports("ipv6-leak", "fail", leaks))
	fix, leakFix := p.told(d, "transit", "fail", gateway).Fix, p.told(d, "ipv6-leak", "fail", leaks).Fix
	p.up()
	p.lease(p.name)
	p.finds("that clients get no answer", p.doctor("anchord"), reports("way-back", "fail", p.container("web")+".*not clients"))
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
	p.finds("that they are mended", p.doctor("anchord"), reports("transit", "ok", ""), reports("ipv6-leak", "ok", ""), reports("way-back", "ok", ""))
}

// On an internal network the host's firewall drops all clients.
func doctorFiltered(s *site) {
	p := s.projectOf("filtered", readExample(s.T, "service-anchor/compose.yaml"), "")
	p.finds("what can happen", p.doctorBefore, reports("transit", "warn", "internal: on a host with bridge-nf-call-iptables=1"))
	p.up()
	if s.engine.Release.Firewall == "nftables" { // whose rules are about routed packets alone
		s.within(patience, time.Now(), "nginx serves its page", showsNginx(s.lan.Client, p.addr()))
		return
	}
	p.lease(p.name)
	const dropped = "filtered_transit is internal, and no packet with a LAN client's address"
	d := p.finds("that clients are dropped", p.doctor("anchord"), reports("transit", "fail", dropped))
	if f := p.told(d, "transit", "fail", dropped); !strings.Contains(f.Fix, "sysctl net.bridge.bridge-nf-call-iptables=0") {
		s.Errorf("the fix is %q", f.Fix)
	}
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
		const old = "older than 28 and does not know enable_ipv4: false"
		d := p.finds("how old the engine is", p.doctorBefore, reports("lan-interface", "warn", old))
		if f := p.told(d, "lan-interface", "warn", old); !strings.Contains(f.Fix, "engine-before-28.yaml") {
			s.Errorf("the fix is %q", f.Fix)
		}
		p.compose("down")
		p.files = with
	}
	p.finds("where the address is from", p.doctorBefore, reports("lan-interface", "ok", "network own_lan .macvlan., address mode dhcp-refresh"))
}

// Service-anchors and their network-anchor are content, where packets get through;
// and a namespace that somebody broke is found with the command that cures it.
func doctorServiceAnchors(s *site) {
	s.answersDNS()
	p := s.projectOf("anchored", readExample(s.T, "service-anchor/compose.yaml"), "")
	p.up()
	lease := p.lease(p.name)
	s.within(patience, time.Now(), "nginx serves its page", showsNginx(s.lan.Client, lease.Addr))
	p.finds("nothing wrong", p.doctor("anchord"), content)
	p.finds("nothing wrong of the service-anchor", p.doctor("web-anchor"), content, reports("default-route", "ok", p.transitAddr("anchord").String()))
	if out := p.docker("exec", p.container("web-anchor"), "anchord", "status"); !strings.Contains(out, "ready") || !strings.Contains(out, p.transitAddr("anchord").String()) {
		s.Errorf("the service-anchor's status: %s", out)
	}
	p.up("--force-recreate", "--no-deps", "web-anchor")
	d := p.finds("who has no network", p.doctor("anchord"), reports("namespaces", "fail", p.container("web")))
	f := p.told(d, "namespaces", "fail", p.container("web"))
	if len(f.Commands) != 1 {
		s.Fatalf("the commands are %q", f.Commands)
	}
	p.cure(f.Commands[0])
	s.within(patience, time.Now(), "nginx serves its page again", showsNginx(s.lan.Client, lease.Addr))
	p.finds("nothing wrong any more", p.doctor("anchord"), reports("namespaces", "ok", ""))
}
