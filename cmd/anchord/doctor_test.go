package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/test/generated"
)

// wantFinding checks a judgement's only finding.
func wantFinding(t *testing.T, name string, got []finding, result verdict, words ...string) {
	t.Helper()
	if len(got) != 1 || got[0].Result != result {
		t.Errorf("%s: %+v, want one finding: %s", name, got, result)
		return
	}
	for _, w := range words {
		if text := got[0].Seen + " fix: " + got[0].Fix; !strings.Contains(text, w) {
			t.Errorf("%s: %q does not say %q", name, text, w)
		}
	}
	if (got[0].Fix == "") != (result == isOK || result == isSkipped) {
		t.Errorf("%s is %s with the fix %q", name, result, got[0].Fix)
	}
}

func TestDoctorJudgesCapabilities(t *testing.T) {
	const all = 1<<capNetAdmin | 1<<capNetRaw | 1<<capNetBind
	for _, c := range []struct {
		name      string
		has       uint64
		mode      string
		addresses anchord.AddressMode
		result    verdict
		word      string
	}{
		{"all", all, "network-anchor", "", isOK, "NET_ADMIN, NET_RAW, NET_BIND_SERVICE"},
		{"no admin", all &^ (1 << capNetAdmin), "network-anchor", "", isFailure, "NET_ADMIN is missing"},
		{"no raw", all &^ (1 << capNetRaw), "network-anchor", anchord.ModeDHCPRefresh, isFailure, "cap_add: [NET_RAW]"},
		{"no raw, no client", all &^ (1 << capNetRaw), "network-anchor", anchord.ModeBootstrap, isWarning, "router advertisements"},
		{"no bind", all &^ (1 << capNetBind), "network-anchor", "", isFailure, "renew"},
		{"no bind, no client", all &^ (1 << capNetBind), "network-anchor", anchord.ModeSLAACRAOnly, isOK, "NET_RAW"},
		{"service-anchor, no raw", 1 << capNetAdmin, "service-anchor", "", isWarning, "seconds later"},
		{"service-anchor, no bind", 1<<capNetAdmin | 1<<capNetRaw, "service-anchor", "", isOK, "NET_ADMIN"},
	} {
		wantFinding(t, c.name, judgeCapabilities(c.has, c.mode, c.addresses), c.result, c.word)
	}
}

func TestDoctorJudgesSysctls(t *testing.T) {
	wantFinding(t, "forwarding off", judgeForwarding(0), isFailure, `sysctls: {net.ipv4.ip_forward: "1"}`)
	wantFinding(t, "forwarding on", judgeForwarding(1), isOK)
	for _, c := range []struct {
		name   string
		facts  ipv6Facts
		result verdict
		word   string
	}{
		{"none", ipv6Facts{ext: "lan0"}, isOK, "not used"},
		{"both", ipv6Facts{ext: "lan0", inside: true, enabled: true, forwardingAll: 1, acceptRA: 1}, isOK, "accept_ra is 1"},
		{"a router on the LAN", ipv6Facts{ext: "lan0", inside: true, enabled: true, forwardingAll: 1, forwardingExt: 1, acceptRA: 2}, isOK, "accept_ra is 2"},
		{"not forwarded", ipv6Facts{ext: "lan0", inside: true, enabled: true, acceptRA: 1}, isFailure, "net.ipv6.conf.all.forwarding"},
		{"off on the LAN", ipv6Facts{ext: "lan0", inside: true, forwardingAll: 1}, isWarning, "off on lan0"},
		{"deaf", ipv6Facts{ext: "lan0", inside: true, enabled: true, forwardingAll: 1, forwardingExt: 1, acceptRA: 1}, isFailure, "no router advertisements"},
		{"deaf with an address", ipv6Facts{ext: "lan0", inside: true, enabled: true, global: true, forwardingAll: 1, acceptRA: 0}, isWarning, "do not follow"},
	} {
		wantFinding(t, c.name, judgeIPv6(c.facts), c.result, c.word)
	}
	wantFinding(t, "loose", judgeReversePath(2, "lan0", "eth1", true), isOK)
	wantFinding(t, "strict, by the LAN", judgeReversePath(1, "lan0", "lan0", true), isOK)
	wantFinding(t, "strict, before the start", judgeReversePath(1, "lan0", "eth1", false), isOK)
	wantFinding(t, "strict, elsewhere", judgeReversePath(1, "lan0", "eth1", true), isWarning, "eth1", "ANCHORD_EXT_GATEWAY_IP")
	wantFinding(t, "strict, nowhere", judgeReversePath(1, "lan0", "", true), isWarning, "no default route")
}

func TestDoctorJudgesPrograms(t *testing.T) {
	nft := programsOf("network-anchor", "")[1]
	_, missing := exec.Version(t.Context(), "a-program-that-nobody-has")
	for _, c := range []struct {
		name    string
		version string
		err     error
		result  verdict
		word    string
	}{
		{"as tested", "1.0.6", nil, isOK, "nft 1.0.6"},
		{"newer", "1.1", nil, isOK, "nft 1.1"},
		{"ten is more than nine", "1.0.10", nil, isOK, "1.0.10"},
		{"older", "1.0.5", nil, isWarning, "older"},
		{"much older", "0.9.8", nil, isWarning, "older"},
		{"missing", "", missing, isFailure, "nft is missing: there is no ruleset"},
		{"silent", "", errors.New("tells no version"), isWarning, "does not tell"},
		{"slow", "", fmt.Errorf("nft: %w", context.DeadlineExceeded), isSkipped, "in time"},
	} {
		wantFinding(t, c.name, []finding{nft.judge(c.version, c.err)}, c.result, c.word)
	}
}

func TestDoctorJudgesRights(t *testing.T) {
	const none, refused = http.StatusNotFound, http.StatusForbidden
	start := call{"POST", "/containers/{id}/start"}
	rights := writeRights("network-anchor", anchord.RepairConfig{Autostart: true, Autofix: true, Managed: &anchord.Recipe{}}, false)
	statuses := map[call]int{}
	for _, c := range recreateCalls {
		statuses[c] = none
	}
	if got := judgeRights(rights, statuses); got != nil {
		t.Errorf("nothing is refused, but: %+v", got)
	}
	statuses[start] = refused
	if got := judgeRights(rights, statuses); len(got) != 3 || got[0].Result != isWarning || !strings.Contains(got[0].Seen, "POST /containers/{id}/start, which ANCHORD_AUTOSTART_SIBLINGS needs") {
		t.Errorf("three features need the right to start; the doctor says %+v", got)
	}
	if rights := writeRights("network-anchor", anchord.RepairConfig{Autofix: true}, false); len(rights) != 0 {
		t.Errorf("nothing writes, but %+v", rights)
	}
	for mode, want := range map[string]int{"wrap-rebinder": 1, "external-rebinder": 2} {
		if got := writeRights(mode, anchord.RepairConfig{}, true); len(got) != want {
			t.Errorf("%s needs %+v", mode, got)
		}
	}
	wantFinding(t, "no socket", judgeDocker("unix:///x", "", nil, os.ErrNotExist), isFailure, "docker.sock")
	wantFinding(t, "no permission", judgeDocker("unix:///x", "", nil, os.ErrPermission), isFailure, "no permission")
	for _, c := range append(slices.Clone(manageCalls), call{"POST", "/networks/{id}/connect"}) {
		if path := c.harmless(); c.path != "/containers/create" && !strings.Contains(path, exec.Nobody) {
			t.Errorf("%s is tried as %s, which may be somebody", c, path)
		}
	}
}

func TestDoctorJudgesTheLAN(t *testing.T) {
	lan := anchord.Network{ID: "1", Name: "shop_lan", Driver: "macvlan"}
	good := lanFacts{iface: "lan0", network: lan, carrier: true, up: true, made: true, api: "1.51", asked: anchord.ModeAuto, mode: anchord.ModeDHCPRefresh}
	change := func(f func(*lanFacts)) lanFacts { c := good; f(&c); return c }
	for _, c := range []struct {
		name   string
		facts  lanFacts
		result verdict
		word   string
	}{
		{"good", good, isOK, "network shop_lan (macvlan)"},
		{"none", change(func(f *lanFacts) { f.notFound = "no LAN interface: set ANCHORD_EXT_NETWORK" }), isFailure, "ANCHORD_EXT_NETWORK"},
		{"l3", change(func(f *lanFacts) { f.network.Driver, f.network.IPVLANMode = "ipvlan", "l3s" }), isFailure, "mode l3s"},
		{"no link", change(func(f *lanFacts) { f.carrier = false }), isFailure, "no link"},
		{"taken down", change(func(f *lanFacts) { f.carrier, f.up, f.running = false, false, true }), isFailure, "lan0 is down"},
		{"down, before the start", change(func(f *lanFacts) { f.carrier, f.up = false, false }), isSkipped, "could not be taken up"},
		{"own child to be", change(func(f *lanFacts) { f.parent, f.made = "eth0.42", false }), isOK, "made on eth0.42 when"},
		{"own child", change(func(f *lanFacts) { f.parent = "eth0.42" }), isOK, "made by anchord on eth0.42"},
		{"old engine", change(func(f *lanFacts) { f.api, f.mode = "1.41", anchord.ModeBootstrap }), isWarning, "engine-before-28.yaml"},
		{"old engine, as asked for", change(func(f *lanFacts) { f.api, f.asked, f.mode = "1.41", anchord.ModeBootstrap, anchord.ModeBootstrap }), isOK, "bootstrap"},
		{"new engine", change(func(f *lanFacts) { f.mode = anchord.ModeBootstrap }), isOK, "bootstrap"},
	} {
		wantFinding(t, c.name, judgeLAN(c.facts), c.result, c.word)
	}
}

func TestDoctorJudgesTransits(t *testing.T) {
	subnet := netip.MustParsePrefix("10.213.0.0/24")
	docker := anchord.Network{Name: "transit", Driver: "bridge", Pools: []anchord.Pool{{Subnet: subnet, Gateway: netip.MustParseAddr("10.213.0.1")}}}
	inhibited, internal := docker, docker
	inhibited.InhibitIPv4, internal.Internal = true, true
	for _, c := range []struct {
		name   string
		facts  transitFacts
		result verdict
		word   string
	}{
		{"inhibited", transitFacts{network: inhibited}, isOK, "way out is anchord"},
		{"Docker's", transitFacts{network: docker}, isFailure, "inhibit_ipv4"},
		{"Docker's, wrapped", transitFacts{network: docker, wrapped: true}, isWarning, "service-anchor"},
		{"Docker's, and all answer", transitFacts{network: docker, answers: []bool{true, true}}, isOK, "Docker's, but"},
		{"Docker's, and one does not", transitFacts{network: docker, wrapped: true, answers: []bool{true, false}}, isFailure, "by the Docker host"},
		{"internal, unproven", transitFacts{network: internal}, isWarning, "bridge-nf-call-iptables"},
		{"internal, and all answer", transitFacts{network: internal, answers: []bool{true}}, isOK, "way out is anchord"},
		{"internal, and dropped", transitFacts{network: internal, answers: []bool{false}}, isFailure, "sysctl net.bridge.bridge-nf-call-iptables=0"},
	} {
		wantFinding(t, c.name, []finding{judgeTransit(c.facts)}, c.result, c.word)
	}
	leaky := docker
	leaky.Pools = append(slices.Clone(docker.Pools), anchord.Pool{Subnet: netip.MustParsePrefix("fd5a:1::/64"), Gateway: netip.MustParseAddr("fd5a:1::1")})
	wantFinding(t, "leaky", judgeLeak(leaky, false), isFailure, `aux_addresses: {DefaultGatewayIPv6: "fd5a:1::ffff"}`)
	wantFinding(t, "leaky, wrapped", judgeLeak(leaky, true), isWarning, "service-anchor")
	tight := leaky
	tight.Pools = []anchord.Pool{leaky.Pools[0], {Subnet: leaky.Pools[1].Subnet, DefaultGateway: netip.MustParseAddr("fd5a:1::ffff")}}
	inside := leaky
	inside.Internal = true
	for name, n := range map[string]anchord.Network{"tight": tight, "internal": inside, "without IPv6": docker} {
		if got := judgeLeak(n, false); got != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestDoctorJudgesTheLANsAnswers(t *testing.T) {
	left := int64(60)
	lease := &leaseStatus{Family: "v4", Address: "192.0.2.7/24", Server: "192.0.2.2", Remaining: &left}
	offer := reply{Offer: exec.Offer{Server: netip.MustParseAddr("192.0.2.2"), Address: netip.MustParseAddr("192.0.2.7")}}
	wantFinding(t, "lease", judgeDHCP(dhcpFacts{lease: lease}), isOK, "192.0.2.7/24 from 192.0.2.2, 1m0s left")
	wantFinding(t, "endless lease", judgeDHCP(dhcpFacts{lease: &leaseStatus{Address: "192.0.2.7/24"}}), isOK, "without end")
	wantFinding(t, "offer", judgeDHCP(dhcpFacts{reply: offer}), isOK, "offers 192.0.2.7")
	wantFinding(t, "silence", judgeDHCP(dhcpFacts{iface: "lan0", reply: reply{waited: 3900 * time.Millisecond}}), isWarning, "lan0 within 3 s", "run it again", "tcpdump")
	wantFinding(t, "silence towards anchord", judgeDHCP(dhcpFacts{iface: "lan0", running: true}), isFailure, "tcpdump -ni PARENT")
	wantFinding(t, "silence on a known parent", judgeDHCP(dhcpFacts{iface: "lan0", running: true, parent: "eth0.42"}), isFailure, "tcpdump -ni eth0.42")
	wantFinding(t, "IPv6 only", judgeDHCP(dhcpFacts{iface: "lan0", running: true, other: true}), isWarning, "IPv6 address only")
	wantFinding(t, "not asked", judgeDHCP(dhcpFacts{err: errors.New("no packets")}), isSkipped, "no packets")

	router := anchord.Advert{At: time.Second, Router: netip.MustParseAddr("fe80::1")}
	managed := router
	managed.Managed = true
	wantFinding(t, "router", judgeRouter(router, nil, "lan0", anchord.ModeDHCPRefresh, nil, true), isOK, "fe80::1")
	wantFinding(t, "no router", judgeRouter(anchord.Advert{}, nil, "lan0", anchord.ModeDHCPRefresh, nil, true), isWarning, "no router")
	wantFinding(t, "managed, leased", judgeRouter(managed, nil, "lan0", anchord.ModeDHCPRefresh, lease, true), isOK, "leased is")
	wantFinding(t, "managed, not leased", judgeRouter(managed, nil, "lan0", anchord.ModeDHCPRefresh, nil, true), isWarning, "no DHCPv6 server")
	wantFinding(t, "managed, before the start", judgeRouter(managed, nil, "lan0", anchord.ModeDHCPRefresh, nil, false), isOK, "will be asked")

	addr := netip.MustParseAddr("192.0.2.1")
	wantFinding(t, "gateway", []finding{judgeGateway(gatewayFacts{gateway: addr, answers: true})}, isOK, "192.0.2.1 answers")
	wantFinding(t, "silent gateway", []finding{judgeGateway(gatewayFacts{gateway: addr})}, isFailure, "does not answer")
	answers, silent := dnsAnswer{addr, "RCodeNameError", nil}, dnsAnswer{addr, "", errors.New("no answer")}
	wantFinding(t, "name server", judgeDNS([]dnsAnswer{answers}, true), isOK)
	wantFinding(t, "helpless name server", judgeDNS([]dnsAnswer{{addr, "RCodeServerFailure", nil}}, true), isWarning, "ServerFailure")
	wantFinding(t, "silent name server", judgeDNS([]dnsAnswer{silent}, true), isFailure, "no answer")
	wantFinding(t, "silent name server that is not needed", judgeDNS([]dnsAnswer{silent}, false), isWarning, "no answer")
	wantFinding(t, "one of two is silent", judgeDNS([]dnsAnswer{silent, answers}, true)[:1], isWarning, "no answer")
	wantFinding(t, "no name server", judgeNoDNS(false), isOK)
	wantFinding(t, "no name server, internal", judgeNoDNS(true), isWarning, "ANCHORD_DNS")
	wantFinding(t, "taken", []finding{judgeDuplicate(addr, []string{"02:00:00:00:00:01"}, nil)}, isFailure, "02:00:00:00:00:01")
	link := anchord.Link{Name: "lan0", MAC: "02:42:8d:90:01:d3"}
	prefix := anchord.Route{Family: anchord.V6, Iface: "lan0", Dst: netip.MustParsePrefix("2001:db8:1::/64")}
	elsewhere, via := prefix, prefix
	elsewhere.Iface, via.Gateway = "eth1", netip.MustParseAddr("fe80::1")
	if got := unmadeAddresses(link, []anchord.Route{elsewhere, via, prefix, {Family: anchord.V6, Iface: "lan0", Dst: netip.MustParsePrefix("fe80::/64")}}); len(got) != 1 || got[0].String() != "2001:db8:1:0:42:8dff:fe90:1d3" {
		t.Errorf("the addresses that are missing: %v", got)
	}
	link.Addrs = []anchord.LinkAddr{{Prefix: netip.MustParsePrefix("2001:db8:1::7/128")}}
	if got := unmadeAddresses(link, []anchord.Route{prefix}); got != nil {
		t.Errorf("it has one of that prefix, but misses %v", got)
	}
	wantFinding(t, "given up", []finding{judgeUnmade(addr, true, nil)}, isFailure, "gave it up")
	wantFinding(t, "taken in IPv6", []finding{judgeDuplicate6(anchord.LinkAddr{Prefix: netip.MustParsePrefix("2001:db8::7/64"), Duplicate: true})}, isFailure, "2001:db8::7")
}

func TestDoctorJudgesServices(t *testing.T) {
	at := netip.MustParseAddr("10.213.0.10")
	wantFinding(t, "answers", []finding{judgeWayBack("web", at, answer{near: true, far: true})}, isOK, "web (10.213.0.10)")
	wantFinding(t, "no way back", []finding{judgeWayBack("web", at, answer{near: true})}, isFailure, "not clients")
	wantFinding(t, "silent", []finding{judgeWayBack("web", at, answer{})}, isWarning, "not answer at all")
	state := anchord.State{Entries: []anchord.Entry{
		{Protocol: "tcp", First: 80, Last: 80, Container: "web"}, {Family: anchord.V6, Protocol: "tcp", First: 80, Last: 80, Container: "web"},
	}}
	wantFinding(t, "exposed", judgeExposed(state, true), isOK, "1 port or range of 1 container")
	wantFinding(t, "nothing", judgeExposed(anchord.State{}, true), isWarning, anchord.LabelExpose)
	wantFinding(t, "nothing yet", judgeExposed(anchord.State{}, false), isSkipped)
	port := func(container string, f anchord.Family, n uint16) anchord.Entry {
		return anchord.Entry{Family: f, Protocol: "tcp", First: n, Last: n, Container: container, Backend: at, Port: n + 8000}
	}
	web := []anchord.Entry{port("web", anchord.V4, 443)}
	refuses := fmt.Errorf("dialing: %w", syscall.ECONNREFUSED)
	wantFinding(t, "listens", judgeListening(web, []error{nil}), isOK, "1 connection accepted")
	wantFinding(t, "refuses", judgeListening(web, []error{refuses}), isWarning, "container web refuses connections, as nothing listens: 10.213.0.10:8443", "127.0.0.1")
	wantFinding(t, "hears nothing", judgeListening(web, []error{os.ErrDeadlineExceeded}), isWarning, "accepts no connections: 10.213.0.10:8443 (i/o timeout)")
	var many []anchord.Entry
	var errs []error
	for n := range uint16(9) {
		many, errs = append(many, port("web", anchord.V4, 1+n)), append(errs, refuses)
	}
	wantFinding(t, "refuses them all", judgeListening(many, errs), isWarning, "10.213.0.10:8001,", "10.213.0.10:8005, and 4 more")
	if found := judgeListening(append(many, port("other", anchord.V4, 1), port("other", anchord.V4, 2)), append(errs, refuses, os.ErrDeadlineExceeded)); len(found) != 3 {
		t.Errorf("two containers, one of them refusing and silent: %+v", found)
	}
	ports := map[string][]string{"web": {"tcp/443"}, "owner": {"tcp/443"}}
	wantFinding(t, "on the host too", judgePublished([]anchord.Container{{Name: "web"}}, web, ports), isWarning, "container web", "tcp/443", "remove ports:")
	wantFinding(t, "only on the host", judgePublished([]anchord.Container{{Name: "web"}}, nil, ports), isOK)
	owner := anchord.Container{Name: "owner", Endpoints: []anchord.Endpoint{{Addrs: anchord.PerFamily[netip.Addr]{at}}}}
	wantFinding(t, "by another's namespace", judgePublished([]anchord.Container{owner}, web, ports), isWarning, "container owner")
	wantFinding(t, "no templates", judgeTemplates(nil, nil, nil, nil), isOK, "anchord's own")
	wantFinding(t, "templates", judgeTemplates([]string{"a.nft.tmpl"}, nil, nil, nil), isOK, "a.nft.tmpl can be used")
	if found := judgeTemplates([]string{"a.nft.tmpl"}, nil, map[string]string{"prerouting": "a.nft.tmpl"}, nil); len(found) != 2 || found[1].Result != isWarning || !strings.Contains(found[1].Fix, `{{template "previous.prerouting" .}}`) {
		t.Errorf("a block without anchord's own rules: %+v", found)
	}
	wantFinding(t, "a stray file", judgeTemplates(nil, []string{"a.tmpl"}, nil, nil), isWarning, `"a.tmpl"`, ".nft.tmpl")
	wantFinding(t, "refused", judgeTemplates([]string{"a.nft.tmpl"}, nil, nil, &anchord.TemplateError{File: "a.nft.tmpl", Line: 3, Message: "unexpected EOF"}), isFailure, "a.nft.tmpl:3: unexpected EOF")
	now := time.Now()
	looked, long := now.Add(-time.Second), now.Add(-time.Hour)
	docker := &dockerStatus{Connected: true}
	const mode = "network-anchor"
	wantFinding(t, "runs", judgeRunning(&statusReport{Anchord: mode, Ready: true, Docker: docker, Looked: &looked, PollSeconds: 30}, nil, mode, now), isOK, "1s ago")
	wantFinding(t, "hangs", judgeRunning(&statusReport{Ready: true, Docker: docker, Looked: &long, PollSeconds: 30}, nil, mode, now), isFailure, "1h0m0s")
	wantFinding(t, "waits", judgeRunning(&statusReport{Unmet: []string{"the ruleset"}, Docker: docker}, nil, mode, now), isFailure, "the ruleset")
	wantFinding(t, "lost Docker", judgeRunning(&statusReport{Ready: true, Docker: &dockerStatus{Error: "gone"}}, nil, mode, now), isFailure, "gone")
	wantFinding(t, "dead", judgeRunning(nil, errors.New("refused"), mode, now), isFailure, "refused")
	wantFinding(t, "another mode", judgeRunning(&statusReport{Anchord: "service-anchor", Ready: true}, nil, mode, now), isFailure, "docker compose exec -e ANCHORD_MODE=service-anchor SERVICE anchord doctor")
}

func TestDoctorNeverHangs(t *testing.T) {
	if most := wholeTime + grace; most >= 5*time.Second || askTime+gatherTime >= wholeTime {
		t.Errorf("the doctor may take %v, %v of it for looking around", most, askTime+gatherTime)
	}
	slow := check{name: "slow", group: "g", run: func(context.Context, *patient) []finding { select {} }}
	quick := check{name: "quick", group: "g", run: func(context.Context, *patient) []finding { return []finding{fine("seen")} }}
	began := time.Now()
	got := examine(t.Context(), began, []check{slow, slow, quick}, &patient{})
	if took := time.Since(began); took > 4*wholeTime {
		t.Errorf("it took %v", took)
	}
	if len(got) != 3 || got[0].Result != isSkipped || got[2].Result != isOK {
		t.Errorf("the outcome is %+v", got)
	}
}

func TestDoctorsReport(t *testing.T) {
	d := diagnosis{Mode: "network-anchor", Project: "evil\x1b[31m"}
	for _, o := range []checkOutcome{
		{groupContainer, "capabilities", fine("NET_ADMIN")},
		{groupContainer, "programs", fine("ip 6.1.0, nft 1.0.6")},
		{groupContainer, "programs", warning("use the anchord image, or a newer release of yours", "conntrack 1.4.2 is older than any version that anchord was tried with (1.4.7)")},
		{groupServices, "namespaces", finding{isFailure, "a container \x1b[31mwith\nhostile\x00 names", "recreate them", []string{"docker compose -p shop --project-directory /srv/a-long-name/of-a-directory -f /srv/compose.yaml up -d --no-deps --force-recreate web"}}},
		{groupServices, "anchord", skipped("no anchord runs in this container")},
	} {
		d.add(o)
	}
	generated.Golden(t, "doctor", d.String())
	var out bytes.Buffer
	if err := (&examineCmd{JSON: true}).tell(&out, d); err != nil {
		t.Fatal(err)
	}
	generated.Golden(t, "doctor-json", out.String())
}

// docs/doctor.md and the program cannot differ.
func TestDoctorsReference(t *testing.T) {
	generated.Parts(t, filepath.Join(docs, "doctor.md"), map[string]string{"checks": reference()})
}

func TestDoctorOfNoMode(t *testing.T) {
	environment(t, "ANCHORD_MODE", "router")
	if code, _, stderr := started("doctor"); code != exitUsage || !strings.Contains(stderr, "modes are network-anchor, service-anchor") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// What an argument made of a running anchord is not in the doctor's environment.
func TestDoctorAsksTheModeOfWhatRuns(t *testing.T) {
	dir := t.TempDir()
	if w := askRunning(t.Context(), dir); w.started || w.isRunning() || w.mode("network-anchor") != "network-anchor" {
		t.Errorf("nothing runs, but %+v", w)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	says := `{"anchord": "service-anchor", "ready": true}`
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, says) }))
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()
	if w := askRunning(t.Context(), dir); !w.isRunning() || w.mode("network-anchor") != "service-anchor" {
		t.Errorf("a service-anchor runs, but %+v", w)
	}
	for _, says = range []string{`{"anchord": "router"}`, "nonsense"} {
		if mode := askRunning(t.Context(), dir).mode("network-anchor"); mode != "network-anchor" {
			t.Errorf("%s means the mode %q", says, mode)
		}
	}
}

// The interface of an anchord that runs is not the doctor's to take up or down.
func TestDoctorLeavesARunningAnchordsInterface(t *testing.T) {
	for _, running := range []bool{true, false} {
		p := &patient{vars: &examineCmd{}, caps: 1 << capNetAdmin, links: []anchord.Link{{Name: "lo"}}, witness: witness{started: running}}
		p.state.Ext = "lo" // which is up: nothing is done to it
		p.raise(t.Context())
		if got := len(p.undo) > 0; got == running {
			t.Errorf("anchord runs: %v; the doctor has something to undo: %v", running, got)
		}
	}
}

func TestDoctorJudgesTheKernel(t *testing.T) {
	var runs int
	kernel := func(refuses func(anchord.Family, []exec.Feature) error) func(anchord.Family, ...exec.Feature) error {
		runs = 0
		return func(f anchord.Family, features ...exec.Feature) error {
			runs++
			return refuses(f, features)
		}
	}
	whole := kernel(func(anchord.Family, []exec.Feature) error { return nil })
	wantFinding(t, "whole", judgeKernel(t.Context(), whole), isOK)
	if runs != len(anchord.Families) {
		t.Errorf("nft ran %d times", runs)
	}
	noFib := kernel(func(f anchord.Family, features []exec.Feature) error {
		if f == anchord.V6 && slices.ContainsFunc(features, func(f exec.Feature) bool { return f.Name == "fib" }) {
			return errors.New("no such file")
		}
		return nil
	})
	wantFinding(t, "no fib", judgeKernel(t.Context(), noFib), isFailure, "refuses fib (IPv6)", "modprobe -a nft_fib nft_fib_ipv6")
	ctx, cancel := context.WithCancel(t.Context())
	slow := kernel(func(anchord.Family, []exec.Feature) error { cancel(); return ctx.Err() })
	wantFinding(t, "slow", judgeKernel(ctx, slow), isSkipped, "too slow")
	_, missing := exec.Version(t.Context(), "a-program-that-nobody-has")
	wantFinding(t, "no nft", judgeKernel(t.Context(), kernel(func(anchord.Family, []exec.Feature) error { return missing })), isSkipped, "nft is missing")
}

// A proxy without an engine behind it allows nothing.
func TestDoctorOfAProxyWithoutAnEngine(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer server.Close()
	calls, err := exec.NewContainers("tcp://" + server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := &patient{vars: &examineCmd{}, mode: "wrap-rebinder", calls: calls}
	defer p.close()
	wantFinding(t, "docker", checkDocker(t.Context(), p), isFailure, "the proxy answers 503: it does not reach the engine")
	wantFinding(t, "rights", checkRights(t.Context(), p), isSkipped, "the proxy answers 503")
}

func TestDoctorWithoutNetAdmin(t *testing.T) {
	for _, mode := range []string{"network-anchor", "service-anchor"} {
		p := &patient{vars: &examineCmd{}, mode: mode, witness: witness{started: true}}
		p.state.Ext = "lan0"
		p.routes[anchord.V4] = []anchord.Route{{Iface: "lan0", Gateway: netip.MustParseAddr("192.0.2.1")}}
		wantFinding(t, mode, checkGateway(t.Context(), p), isSkipped, "gateway 192.0.2.1: without NET_ADMIN it cannot be asked")
	}
}

// Settings of an interface that anchord has yet to make are nobody's.
func TestDoctorBeforeTheInterfaceIsMade(t *testing.T) {
	p := &patient{vars: &examineCmd{}, caps: 1 << capNetRaw, links: []anchord.Link{{Name: "lo"}}}
	p.state.Ext, p.state.Child = "anchord-ext", &anchord.Child{Name: "anchord-ext", Parent: "lo"}
	p.state.Transits = []anchord.Transit{{Subnets: []netip.Prefix{netip.MustParsePrefix("fd5a:1::/64")}}}
	wantFinding(t, "ipv6", checkIPv6(t.Context(), p), isSkipped, "not made yet")
	wantFinding(t, "router", checkRouter(t.Context(), p), isSkipped, "anchord-ext is not made yet")
}

func TestDoctorsLastLine(t *testing.T) {
	d := diagnosis{}
	for _, want := range []string{"Nothing is wrong.", "Nothing wrong was found; 1 check could not", "Nothing wrong was found; 2 checks could not"} {
		if got := d.summary(); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		d.add(checkOutcome{finding: skipped("")})
	}
}
