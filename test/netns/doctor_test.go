package netns_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

// diagnosis is what the doctor says in JSON.
type diagnosis struct {
	Failures, Warnings int
	Checks             []struct{ Check, Result, Seen, Fix string }
	text               string
}

// noAutostart keeps anchord from what the fake engine refuses.
const noAutostart = "ANCHORD_AUTOSTART_SIBLINGS=false"

// doctor examines the box.
func (w *world) doctor(env ...string) diagnosis {
	w.t.Helper()
	return w.examined(w.box, w.command(w.boxID, append(env, noAutostart), "doctor", "--json"))
}

// examined runs a doctor, whose word and exit code must agree.
func (w *world) examined(n *ns, cmd *exec.Cmd) diagnosis {
	w.t.Helper()
	began := time.Now()
	p := n.startCmd(cmd)
	<-p.exited
	if took := time.Since(began); took > hang/2 { // five seconds are promised, on a machine that has time
		w.t.Errorf("the doctor took %v", took)
	}
	d := diagnosis{text: p.out.String()}
	if err := json.Unmarshal([]byte(d.text), &d); err != nil {
		w.t.Fatalf("the doctor's JSON: %v: %s\n%s", err, d.text, p.errOut)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != min(d.Failures, 1) {
		w.t.Errorf("the doctor ended with %d, having found %d failures", code, d.Failures)
	}
	return d
}

// says checks one finding: of this check and result, with what was seen and the
// fix matching these.
func (d diagnosis) says(check, result, seen, fix string) error {
	matches := func(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }
	for _, c := range d.Checks {
		if c.Check == check && matches("^("+result+")$", c.Result) && matches(seen, c.Seen) && matches(fix, c.Fix) {
			return nil
		}
	}
	return fmt.Errorf("the doctor does not say %s of %s, with %q and the fix %q:\n%s", result, check, seen, fix, d.text)
}

// bad lists the checks that are not content, but for those named.
func (d diagnosis) bad(but ...string) (names []string) {
	for _, c := range d.Checks {
		if (c.Result == "fail" || c.Result == "warn") && !slices.Contains(but, c.Check) {
			names = append(names, c.Check+": "+c.Seen)
		}
	}
	return names
}

// healthy says which checks are not ok; those named may be skipped.
func (d diagnosis) healthy(but ...string) error {
	var errs []error
	for _, c := range d.Checks {
		if c.Result != "ok" && !(c.Result == "skipped" && slices.Contains(but, c.Check)) {
			errs = append(errs, fmt.Errorf("%s is %s: %s", c.Check, c.Result, c.Seen))
		}
	}
	return errors.Join(errs...)
}

// without drops a capability of the command.
func without(cmd *exec.Cmd, capability string) *exec.Cmd {
	at := slices.Index(cmd.Args, binaryPath)
	cmd.Args = slices.Insert(cmd.Args, at, "setpriv", "--bounding-set", "-"+capability, "--inh-caps", "-"+capability)
	return cmd
}

// programs makes a PATH of what anchord calls, with some in other versions of
// their own, or not at all ("").
func (w *world) programs(other map[string]string) string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "bin")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{"sh", "mount", "mkdir", "cat", "ip", "nft", "conntrack", "udhcpc", "dhcpcd", "busybox", "setpriv"} {
		path, err := exec.LookPath(name)
		if err != nil {
			w.t.Fatal(err)
		}
		script, changed := other[name]
		switch {
		case changed && script == "":
			continue
		case changed:
			err = os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+strings.ReplaceAll(script, "REAL", path)+"\n"), 0o755)
		default:
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return "PATH=" + dir
}

// local makes dnsmasq answer that it knows no names of the outside.
const local = "--local=/#/"

func (s setup) doctorsDnsmasq(more ...string) []string {
	args := []string{"--dhcp-range=198.51.100.100,198.51.100.150,255.255.255.0,1h", local}
	if s.ipv6 {
		args = append(s.dnsmasqArgs(), local)
	}
	return append(args, more...)
}

func TestDoctorIsContentWithAHealthyProject(t *testing.T) {
	t.Parallel()
	s := setup{ipv6: true}
	w := newWorld(t, s)
	server := w.startDnsmasq(s.doctorsDnsmasq()...)

	// Before anchord runs it asks, and takes nothing.
	eventually(t, hang, func() error {
		before := w.doctor()
		var errs []error
		for _, bad := range before.bad() {
			errs = append(errs, errors.New("before the start: "+bad))
		}
		for _, want := range [][2]string{{"dhcp", "offers 198.51.100.1"}, {"router", "router fe80::"}, {"gateway", routerIP + " answers"}} {
			errs = append(errs, before.says(want[0], "ok", want[1], "^$"))
		}
		return errors.Join(errs...)
	})
	if table := server.table(); len(table) > 0 {
		t.Errorf("the doctor took a lease: %v", table)
	}

	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	a := w.anchord(noAutostart).ready()
	ext := a.leased()
	eventually(t, hang, w.hasOnly6(slaac(firstPrefix, derivedMAC)))
	eventually(t, deadline, web.ns.pinged(ext))
	routes, leases := w.box.run("ip", "route"), fmt.Sprint(server.table())
	eventually(t, hang, func() error {
		d := w.doctor()
		errs := []error{d.healthy("rights")}
		for _, want := range [][2]string{{"dhcp", "a lease of " + ext + "/24 from " + routerIP + ", .* left"}, {"way-back", "web.* answers clients"}, {"duplicate", ext + " is nobody else's"}} {
			errs = append(errs, d.says(want[0], "ok", want[1], "^$"))
		}
		return errors.Join(errs...)
	})
	if now := w.box.run("ip", "route"); now != routes {
		t.Errorf("the routes were\n%s, and are\n%s", routes, now)
	}
	if now := fmt.Sprint(server.table()); now != leases {
		t.Errorf("the leases were %s, and are %s", leases, now)
	}
	if drift := a.entries("ruleset.drift"); len(drift) > 0 {
		t.Errorf("anchord took the doctor's question for drift: %v", drift)
	}
	for line := range strings.Lines(w.examinedText(nil)) {
		if len(strings.TrimSuffix(line, "\n")) > 80 {
			t.Errorf("longer than a terminal is wide: %s", line)
		}
	}
}

// pinged says whether a namespace reaches an address.
func (n *ns) pinged(addr string) func() error {
	return func() error {
		_, err := n.try("busybox", "ping", "-c", "1", "-W", "1", addr)
		return err
	}
}

// examinedText is the doctor's word for people.
func (w *world) examinedText(env []string) string {
	w.t.Helper()
	p := w.box.startCmd(w.command(w.boxID, append(env, noAutostart), "doctor"))
	<-p.exited
	return p.out.String()
}

// ailment is one thing that is broken, and what the doctor says of it.
type ailment struct {
	name      string
	setup     setup
	server    []string // more arguments of dnsmasq
	noServer  bool
	first     func(w *world) // before anything starts
	templates bool           // there is a directory of templates
	running   bool           // anchord runs
	ill       func(w *world)
	env       []string
	command   func(w *world, cmd *exec.Cmd) // what else is changed
	check     string
	result    string
	seen      string
	fix       string
	besides   []string // checks that it breaks too
	cure      func(w *world)
	cured     []string // environment
}

func TestDoctorFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	bridge := func(s setup, change func(*network.Inspect)) func(*world) {
		return func(w *world) {
			n := transitNetwork(s)
			change(&n)
			w.docker.SetNetwork(n)
		}
	}
	for _, c := range []ailment{
		{
			name:    "NET_ADMIN dropped",
			command: func(_ *world, cmd *exec.Cmd) { without(cmd, "net_admin") },
			check:   "capabilities", result: "fail", seen: "NET_ADMIN is missing", fix: `cap_add: \[NET_ADMIN\]`,
		},
		{
			name:    "NET_RAW dropped",
			command: func(_ *world, cmd *exec.Cmd) { without(cmd, "net_raw") },
			check:   "capabilities", result: "fail", seen: "NET_RAW is missing: the DHCP client cannot send", fix: `cap_add: \[NET_RAW\]`,
		},
		{
			name:    "NET_BIND_SERVICE dropped",
			command: func(_ *world, cmd *exec.Cmd) { without(cmd, "net_bind_service") },
			check:   "capabilities", result: "fail", seen: "cannot renew", fix: `cap_add: \[NET_BIND_SERVICE\]`,
		},
		{
			name:  "no forwarding",
			ill:   func(w *world) { w.box.sysctl("net.ipv4.ip_forward", "0") },
			check: "forwarding", result: "fail", seen: "ip_forward is 0", fix: `net.ipv4.ip_forward: "1"`,
			cure: func(w *world) { w.box.sysctl("net.ipv4.ip_forward", "1") },
		},
		{
			name: "no forwarding of IPv6", setup: setup{ipv6: true},
			ill: func(w *world) {
				w.box.sysctl("net.ipv6.conf.all.forwarding", "0")
			},
			check: "ipv6", result: "fail", seen: "forwarding is 0", fix: `net.ipv6.conf.all.forwarding: "1"`,
			cure: func(w *world) {
				w.box.sysctl("net.ipv6.conf.all.forwarding", "1")
				w.box.sysctl("net.ipv6.conf.lan0.forwarding", "0")
			},
		},
		{
			name: "router advertisements unheeded", setup: setup{ipv6: true},
			ill:   func(w *world) { w.box.sysctl("net.ipv6.conf.lan0.accept_ra", "0") },
			check: "ipv6", result: "fail|warn", seen: "heeds no router advertisements", fix: "disable_ipv6=0",
			cure: func(w *world) { w.box.sysctl("net.ipv6.conf.lan0.accept_ra", "2") },
		},
		{
			name: "IPv6 off on the LAN", setup: setup{ipv6: true},
			ill:   func(w *world) { w.box.sysctl("net.ipv6.conf.lan0.disable_ipv6", "1") },
			check: "ipv6", result: "warn", seen: "it is off on lan0", fix: "disable_ipv6=0",
			cure: func(w *world) { w.box.sysctl("net.ipv6.conf.lan0.disable_ipv6", "0") },
		},
		{
			name: "strict, and the default route leads elsewhere", server: []string{"--dhcp-option=3"}, running: true,
			ill: func(w *world) {
				w.box.sysctl("net.ipv4.conf.lan0.rp_filter", "1")
				w.box.ip("route replace default via 10.213.0.9\n")
			},
			check: "rp-filter", result: "warn", seen: "default route leads by transit0", fix: "ANCHORD_EXT_GATEWAY_IP",
			besides: []string{"gateway"},
			cure:    func(w *world) { w.box.sysctl("net.ipv4.conf.lan0.rp_filter", "2") },
		},
		{
			name: "a program is missing",
			command: func(w *world, cmd *exec.Cmd) {
				cmd.Env = append(cmd.Env, w.programs(map[string]string{"conntrack": ""}))
			},
			check: "programs", result: "fail", seen: "conntrack is missing: old connections", fix: "anchord image",
		},
		{
			name: "a program is old",
			command: func(w *world, cmd *exec.Cmd) {
				cmd.Env = append(cmd.Env, w.programs(map[string]string{"conntrack": "echo conntrack v1.4.2"}))
			},
			check: "programs", result: "warn", seen: `conntrack 1.4.2 is older .*\(1.4.7\)`, fix: "anchord image",
		},
		{
			name: "the kernel has no fib",
			command: func(w *world, cmd *exec.Cmd) {
				cmd.Env = append(cmd.Env, w.programs(map[string]string{"nft": `[ "$1" = --version ] && exec REAL --version
case $(cat) in *" fib "*) echo 'Error: Could not process rule: No such file or directory' >&2; exit 1;; esac`}))
			},
			check: "kernel", result: "fail", seen: `refuses fib \(IPv4\).*No such file`, fix: "modprobe -a nft_fib nft_fib_ipv4",
		},
		{
			name: "no DHCP server", noServer: true,
			check: "dhcp", result: "warn", seen: "no DHCP server answered on lan0 within [34] s", fix: "run it again.*tcpdump",
			cure: func(w *world) { w.startDnsmasq(setup{}.doctorsDnsmasq()...) },
		},
		{
			name: "no DHCP server answers anchord", noServer: true, running: true,
			check: "dhcp", result: "fail", seen: "no DHCP server answers on lan0", fix: "tcpdump",
			besides: []string{"gateway"},
			cure:    func(w *world) { w.startDnsmasq(setup{}.doctorsDnsmasq()...) },
		},
		{
			name: "the IPv6 address is another host's", setup: setup{ipv6: true}, running: true,
			first: func(w *world) {
				w.plain.ip("addr add " + slaac(firstPrefix, derivedMAC) + "/64 dev eth0 nodad\n")
			},
			check: "duplicate", result: "fail", seen: slaac(firstPrefix, derivedMAC) + " is used by another host", fix: "another address",
		},
		{
			name: "the gateway that DHCP offers is silent", server: []string{"--dhcp-option=3,198.51.100.99"},
			check: "gateway", result: "fail", seen: `gateway 198.51.100.99 does not answer \(offered by DHCP\)`, fix: "DHCP server",
			cure: func(w *world) { w.plain.ip("addr add 198.51.100.99/24 dev eth0\n") },
		},
		{
			name: "the gateway is silent", running: true, setup: setup{ipv6: true}, server: []string{"--dhcp-option=3,198.51.100.99"},
			check: "gateway", result: "fail", seen: `gateway 198.51.100.99 does not answer \(default route by lan0\)`, fix: "DHCP server",
			cure: func(w *world) { w.plain.ip("addr add 198.51.100.99/24 dev eth0\n") },
		},
		{
			name: "no gateway is known", running: true, server: []string{"--dhcp-option=3"},
			check: "gateway", result: "fail", seen: "no gateway is known", fix: "ANCHORD_EXT_GATEWAY_IP",
		},
		{
			name: "a name server is silent", running: true, env: []string{"ANCHORD_DNS=" + plainIP + ",198.51.100.98"},
			check: "dns", result: "warn", seen: "198.51.100.98 does not answer", fix: "ANCHORD_DNS",
			cured: []string{"ANCHORD_DNS=" + routerIP},
		},
		{
			name: "the address is another host's too", running: true,
			ill: func(w *world) {
				ext, err := w.extAddress()
				if err != nil {
					w.t.Fatal(err)
				}
				w.plain.ip("addr add " + ext + "/32 dev eth0\n")
			},
			check: "duplicate", result: "fail", seen: "198.51.100.* is used by another host too, with the MAC ", fix: "another address",
			cure: func(w *world) {
				ext, _ := w.extAddress()
				w.plain.ip("addr delete " + ext + "/32 dev eth0\n")
			},
		},
		{
			name: "no such LAN network", env: []string{"ANCHORD_EXT_NETWORK=nowhere"},
			check: "lan-interface", result: "fail", seen: `not attached to ANCHORD_EXT_NETWORK "nowhere", only to: shop_lan, shop_transit`, fix: "macvlan",
			cured: []string{"ANCHORD_EXT_NETWORK=lan"},
		},
		{
			name: "no such parent", env: []string{"ANCHORD_VLAN_PARENT=eth0.42"},
			check: "lan-interface", result: "fail", seen: `ANCHORD_VLAN_PARENT "eth0.42" is no interface`, fix: "macvlan",
		},
		{
			name: "two networks that could be the LAN",
			ill: func(w *world) {
				w.docker.SetNetwork(network.Inspect{Name: "shop_second", Driver: "macvlan"})
				w.docker.Connect(w.boxID, "shop_second", network.EndpointSettings{MacAddress: "02:42:aa:00:00:99"})
			},
			check: "lan-interface", result: "fail", seen: `several networks that could be the LAN \(shop_lan, shop_second\)`, fix: "name it",
			cured: []string{"ANCHORD_EXT_NETWORK=lan"},
		},
		{
			name: "ipvlan in mode l3",
			ill: func(w *world) {
				lan, _ := lanAttachment(setup{})
				lan.Driver, lan.Options = "ipvlan", map[string]string{"ipvlan_mode": "l3"}
				w.docker.SetNetwork(lan)
			},
			check: "lan-interface", result: "fail", seen: "passes neither ARP nor DHCP", fix: "ipvlan_mode: l2",
		},
		{
			name:  "the parent is down",
			ill:   func(w *world) { w.sw.ip("link set p-macvlan down\n") },
			check: "lan-interface", result: "fail", seen: "lan0 has no link", fix: "take the network's parent up",
			besides: []string{"dhcp"},
			cure:    func(w *world) { w.sw.ip("link set p-macvlan up\n") },
		},
		{
			// anchord brings it up again, unless another has its MAC by then.
			name: "the LAN interface was taken down", running: true,
			ill: func(w *world) {
				w.sw.ip("link add link p-macvlan name other address " + derivedMAC + " type macvlan mode bridge\n")
				eventually(w.t, hang, func() error {
					w.box.ip("link set lan0 down\n")
					_, err := w.sw.try("ip", "link", "set", "other", "up")
					return err
				})
			},
			check: "lan-interface", result: "fail", seen: "lan0 is down", fix: "docker compose logs anchord",
			besides: []string{"dhcp", "router", "gateway", "dns", "duplicate", "way-back", "transit", "rp-filter", "anchord", "exposed"},
			cure:    func(w *world) { w.sw.ip("link delete other\n"); w.box.ip("link set lan0 up\n") },
		},
		{
			name:  "Docker is the gateway",
			ill:   bridge(setup{}, func(n *network.Inspect) { n.Options = nil }),
			check: "transit", result: "fail", seen: "the gateway of network shop_transit is Docker's", fix: `inhibit_ipv4: "true"`,
			cure: bridge(setup{}, func(*network.Inspect) {}),
		},
		{
			name: "an internal network, before anything runs", setup: setup{internal: true},
			check: "transit", result: "warn", seen: "is internal: on a host with bridge-nf", fix: "bridge-nf-call-iptables",
		},
		{
			name: "IPv6 by the Docker host", setup: setup{ipv6: true},
			ill:   bridge(setup{ipv6: true}, func(n *network.Inspect) { n.IPAM.Config[1].AuxAddress = nil }),
			check: "ipv6-leak", result: "fail", seen: "its gateway is the Docker host", fix: `DefaultGatewayIPv6: "fd5a:1::ffff"`,
			cure: bridge(setup{ipv6: true}, func(*network.Inspect) {}),
		},
		{
			name:  "Docker is gone",
			ill:   func(w *world) { w.docker.Down() },
			check: "docker", result: "fail", seen: "docker does not answer at unix:", fix: "docker.sock",
			cure: func(w *world) { w.docker.Up() },
		},
		{
			name:  "Docker does not answer",
			ill:   func(w *world) { w.docker.Delay("/containers", hang) },
			check: "docker", result: "fail", seen: "docker does not answer at unix:", fix: "docker.sock",
			cure: func(w *world) { w.docker.Delay("/containers", 0) },
		},
		{
			name:  "reading is refused",
			ill:   func(w *world) { w.docker.Fail("/networks", 403) },
			check: "docker", result: "fail", seen: "refuses GET /networks/{id}, which reading needs", fix: "docs/socket-proxy.md, Reading",
			cure: func(w *world) { w.docker.Fail("/networks", 0) },
		},
		{
			name:  "events are refused",
			ill:   func(w *world) { w.docker.Fail("/events", 403) },
			check: "docker", result: "warn", seen: "refuses GET /events.*only on the poll", fix: "docs/socket-proxy.md, Reading",
			cure: func(w *world) { w.docker.Fail("/events", 0) },
		},
		{
			name: "a container has no way back", running: true,
			ill: func(w *world) {
				lost := w.backend("lost", 11, "tcp/81")
				lost.serveTCP("lost", ":81")
				lost.run("ip", "route", "delete", "default")
			},
			check: "way-back", result: "fail", seen: `shop-lost-1 \(10.213.0.11\) answers its neighbours, but not clients`, fix: "default route lead to anchord",
		},
		{
			name:  "a label has a mistake",
			ill:   func(w *world) { w.backend("evil", 11, "tcp/\x1b[31m") },
			check: "exposed", result: "fail", seen: "shop-evil-1 is not exposed", fix: "correct the label",
		},
		{
			name: "two containers want one port",
			ill: func(w *world) {
				w.backend("new", 11, "tcp/80").serveTCP("new", ":80")
			},
			check: "exposed", result: "fail", seen: "shop-(new|web)-1 does not get tcp/80", fix: "another port",
		},
		{
			name: "nothing is exposed", running: true,
			ill:   func(w *world) { w.docker.Remove("shop-web-1") },
			check: "exposed", result: "warn", seen: "no container is exposed.*project shop", fix: "anchord.expose",
		},
		{
			name: "a container is stuck in a dead namespace", running: true,
			ill: func(w *world) {
				owner := w.docker.AddContainer(w.bare("owner", 12).container(""))
				w.docker.AddContainer(fakedocker.Container{
					Name: "shop-stuck-1", NetworkMode: "container:" + owner,
					Labels: map[string]string{"com.docker.compose.project": project, "com.docker.compose.service": "stuck"},
				})
				w.docker.Remove(owner)
			},
			check: "namespaces", result: "fail", seen: "is gone; .*shop-stuck-1", fix: "recreate",
		},
		{
			name:  "nothing listens",
			ill:   func(w *world) { w.backend("deaf", 11, "tcp/8443:443") },
			check: "listening", result: "warn", seen: `container shop-deaf-1 refuses connections, as nothing listens: 10.213.0.11:443$`, fix: "0.0.0.0.*127.0.0.1",
			cure: func(w *world) { w.docker.Remove("shop-deaf-1") },
		},
		{
			name: "a service drops what it is asked", running: true,
			ill: func(w *world) {
				w.backend("mute", 11, "tcp/81").run("nft", "add table ip f; add chain ip f in { type filter hook input priority 0; }; add rule ip f in tcp dport 81 drop")
			},
			check: "listening", result: "warn", seen: "container shop-mute-1 accepts no connections: 10.213.0.11:81", fix: "docker compose ps",
			cure: func(w *world) { w.docker.Remove("shop-mute-1") },
		},
		{
			name: "ports beside the label",
			ill: func(w *world) {
				both := w.bare("both", 11)
				both.serveTCP("both", ":81")
				c := both.container("tcp/81")
				c.Ports = []container.Port{{IP: "0.0.0.0", PublicPort: 8081, PrivatePort: 81, Type: "tcp"}}
				w.docker.AddContainer(c)
			},
			check: "published", result: "warn", seen: "shop-both-1 has ports on the Docker host too: tcp/8081$", fix: "remove ports:",
			cure: func(w *world) { w.docker.Remove("shop-both-1") },
		},
		{
			name: "a template of which nft complains", templates: true,
			first: func(w *world) {
				w.override("a.nft.tmpl", "{{define \"input\"}}\n\t\tmeter nonsense\n{{end}}")
			},
			check: "templates", result: "fail", seen: "the template directory is refused: .*a.nft.tmpl:2: .*meter nonsense", fix: "docs/templates.md",
			cure: func(w *world) { w.withdraw("a.nft.tmpl") },
		},
		{
			name: "a template that was broken while anchord runs", templates: true, running: true,
			ill:   func(w *world) { w.override("a.nft.tmpl", `{{define "input"}}`) },
			check: "templates", result: "fail", seen: "the template directory is refused: a.nft.tmpl:1: ", fix: "reads the directory again by itself",
			cure: func(w *world) { w.withdraw("a.nft.tmpl") },
		},
		{
			name: "a template that drops anchord's own rules", templates: true, running: true,
			ill:   func(w *world) { w.override("a.nft.tmpl", "{{define \"prerouting\"}}\n\t\t# mine\n{{end}}") },
			check: "templates", result: "warn", seen: "a.nft.tmpl redefines the block prerouting without what anchord has in it", fix: `template "previous.prerouting"`,
			cure: func(w *world) { w.withdraw("a.nft.tmpl") },
		},
		{
			name: "a file that is no template", templates: true,
			first: func(w *world) { w.override("a.tmpl\x1b[31m", "x") },
			check: "templates", result: "warn", seen: `the file "a.tmpl.*" in the template directory does nothing`, fix: ".nft.tmpl",
			cure: func(w *world) { w.withdraw("a.tmpl\x1b[31m") },
		},
		{
			name: "a label that is nearly anchord's",
			ill: func(w *world) {
				c := w.bare("shy", 11).container("")
				c.Labels["anchrod.expose"] = "tcp/81"
				w.docker.AddContainer(c)
			},
			check: "exposed", result: "warn", seen: `shop-shy-1 has the label "anchrod.expose".*is it meant to be anchord.expose`, fix: "correct the label's name",
			cure: func(w *world) { w.docker.Remove("shop-shy-1") },
		},
		{
			name: "a mistyped variable", env: []string{"ANCHORD_POL_INTERVAL=10"},
			check: "configuration", result: "warn", seen: "ANCHORD_POL_INTERVAL means nothing.*is it meant to be ANCHORD_POLL_INTERVAL", fix: "remove the variable, or correct it",
			cured: []string{"ANCHORD_POLL_INTERVAL=10"},
		},
		{
			name: "a bad variable", env: []string{"ANCHORD_POLL_INTERVAL=often"},
			check: "configuration", result: "fail", seen: `ANCHORD_POLL_INTERVAL="often"`, fix: "correct",
			cured: []string{"ANCHORD_POLL_INTERVAL=10"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t)
		})
	}
}

func (c ailment) test(t *testing.T) {
	w := newWorld(t, c.setup)
	if c.templates {
		dir := "ANCHORD_TEMPLATE_DIR=" + w.templates()
		c.env, c.cured = append(c.env, dir), append(c.cured, dir)
	}
	w.plain.start("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--pid-file=", "--interface=eth0", "--bind-interfaces", local)
	if c.first != nil {
		c.first(w)
	}
	if !c.noServer {
		w.startDnsmasq(c.setup.doctorsDnsmasq(c.server...)...)
	}
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	if c.running {
		a := w.anchord(append(c.env, noAutostart)...).ready()
		if !c.noServer {
			ext := a.leased()
			if !slices.Contains(c.server, "--dhcp-option=3") {
				eventually(t, hang, web.pinged(ext))
			}
		}
	}
	if c.ill != nil {
		c.ill(w)
	}
	// The kernel may be busy with its first packets, and the doctor's own limits
	// are for a machine that runs.
	eventually(t, hang, func() error {
		cmd := w.command(w.boxID, append(slices.Clone(c.env), noAutostart), "doctor", "--json")
		if c.command != nil {
			c.command(w, cmd)
		}
		d := w.examined(w.box, cmd)
		if more := d.bad(append(slices.Clone(c.besides), c.check)...); len(more) > 0 {
			return fmt.Errorf("the doctor complains of more than is broken: %q", more)
		}
		return d.says(c.check, c.result, c.seen, c.fix)
	})
	if text := w.examinedText(c.env); strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' }) {
		t.Errorf("a control character is shown: %q", text)
	}
	if c.cure == nil && c.cured == nil {
		return
	}
	if c.cure != nil {
		c.cure(w)
	}
	eventually(t, hang, func() error {
		if bad := w.doctor(c.cured...).bad(c.besides...); len(bad) > 0 {
			return fmt.Errorf("cured, but the doctor is not content: %q", bad)
		}
		return nil
	})
}

// Before anchord makes its interface on a parent, that one is asked, and left as it
// was.
func TestDoctorAsksByAParentThatIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{parent: "eth0.42"})
	w.startDnsmasq(setup{}.doctorsDnsmasq()...)
	before := w.box.run("ip", "-o", "link", "show", "dev", "eth0.42")
	d := w.doctor("ANCHORD_VLAN_PARENT=eth0.42")
	if err := d.says("dhcp", "ok", "offers 198.51.100.1", ""); err != nil {
		t.Error(err)
	}
	if bad := d.bad(); len(bad) > 0 {
		t.Errorf("the doctor is not content: %q", bad)
	}
	if after := w.box.run("ip", "-o", "link", "show", "dev", "eth0.42"); strings.Contains(after, "UP") || strings.Contains(before, "UP") {
		t.Errorf("the parent was\n%sand is\n%s", before, after)
	}
}

func TestDoctorOfAServiceAnchor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	w.startNames("anchord", boxIP)
	app := w.internalApp("app", 10)
	doctor := func(env ...string) diagnosis {
		env = append(env, "ANCHORD_RUN_DIR="+filepath.Join(w.dir, "sa-app"), "DOCKER_HOST=unix:///nonexistent")
		return w.examined(app.ns, w.command("sa", env, "doctor", "--json"))
	}
	eventually(t, hang, func() error {
		before := doctor("ANCHORD_MODE=service-anchor")
		if before.Failures > 0 {
			return errors.New("before the start: " + before.text)
		}
		return before.says("name", "ok", "anchord is "+boxIP, "")
	})
	h := w.serviceAnchor(app)
	eventually(t, hang, app.hasRoute(via(boxIP)))
	eventually(t, hang, func() error {
		d := doctor()
		return errors.Join(d.healthy(), d.says("name", "ok", "anchord is "+boxIP, ""))
	})
	if err := doctor("ANCHORD_MODE=network-anchor").says("anchord", "fail", "runs here is service-anchor", "exec -e ANCHORD_MODE=service-anchor"); err != nil {
		t.Error(err)
	}
	text := app.run("env", "ANCHORD_RUN_DIR="+h.runDir, program(t), "status")
	for _, want := range []string{"ready", "network-anchor    anchord\n", "address           10.213.0.10/24 on transit0\n", "default route v4  " + boxIP + " by transit0\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the service-anchor's status has no %q:\n%s", want, text)
		}
	}
	w.box.ip("link set transit0 down\n")
	eventually(t, hang, func() error {
		return doctor().says("gateway", "fail", boxIP+" does not answer", "whether it runs")
	})
}
