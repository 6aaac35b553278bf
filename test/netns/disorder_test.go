package netns_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	disorders = flag.Int("disorders", 4, "how many disorders there are, each of its own seed")
	firstSeed = flag.Uint64("seed", 1, "the first disorder's seed")
)

// disorder is a project to which things happen that nobody foresaw together.
// Whatever they were, it is itself again soon afterwards, without the poll.
type disorder struct {
	*running
	rand     *rand.Rand
	dhcp     *dhcpd
	router6  *advertiser
	ext6     string
	dhcp6    *dhcpd6 // of a managed LAN, whose addresses are leased in IPv6 too; else nil
	clients6 int     // processes of the DHCPv6 client
	vlan     bool    // the LAN interface is anchord's own, on a parent
	names    *names  // of an internal network, whose services have service-anchors; else nil
	services [4]service
	addrs    int    // that the DHCP server has given
	inside   string // the box's own addresses on the services' network
	inside6  string
	extras   int
	override string // the comment that the operator's template writes
	settled  func() // ends what lasts until the next check
	asked    time.Time
	done     []string
}

// service is one that the project has at times.
type service struct {
	*backend // nil: it is down
	port     int
	moves    int
}

// happening is one of the things, and how often among the others.
type happening struct {
	what string
	do   func(*disorder)
}

var happenings = []happening{
	{"a service comes, or comes anew elsewhere", (*disorder).serviceElsewhere},
	{"a service comes, or comes anew elsewhere", (*disorder).serviceElsewhere},
	{"a service comes anew at its old address", (*disorder).serviceAgain},
	{"a service comes anew at another port", (*disorder).servicePort},
	{"a service goes", (*disorder).serviceGone},
	{"a service dies and is started", (*disorder).serviceRestarted},
	{"the ruleset is flushed", func(d *disorder) { d.box.try("nft", "flush", "ruleset") }},
	{"a table is deleted", func(d *disorder) { d.box.try("nft", "delete", "table", "ip", "anchord_v4") }},
	{"a translation is deleted", func(d *disorder) {
		d.listenedTo()
		d.box.try("nft", "delete", "element", "ip6", "anchord_v6", "dnat_tcp", fmt.Sprintf("{ %d }", d.any().port))
	}},
	{"a translation is added", func(d *disorder) {
		d.listenedTo()
		d.box.try("nft", "add", "element", "ip", "anchord_v4", "dnat_tcp", "{ 8888 : 10.213.0.10 . 80 }")
	}},
	{"the connections are forgotten", func(d *disorder) { d.box.try("conntrack", "-F") }},
	{"the default route is deleted", func(d *disorder) { d.box.try("ip", "route", "delete", "default") }},
	{"the default route leads elsewhere", func(d *disorder) {
		d.box.try("ip", "route", "replace", "default", "via", "10.213.0.9", "dev", "transit0")
	}},
	{"the IPv6 default route is deleted", func(d *disorder) { d.box.try("ip", "-6", "route", "delete", "default") }},
	{"the gateway's address is taken away", func(d *disorder) { d.box.try("ip", "addr", "del", transitGW+"/24", "dev", "transit0") }},
	{"the gateway's IPv6 address is taken away", func(d *disorder) { d.box.try("ip", "addr", "del", transitGW6+"/64", "dev", "transit0") }},
	{"the leased address is taken away", func(d *disorder) { d.box.try("ip", "-4", "addr", "flush", "dev", d.lan) }},
	{"the leased IPv6 address is taken away", (*disorder).takeLease6},
	{"a foreign address is added", func(d *disorder) { d.box.try("ip", "addr", "add", "198.51.100.222/24", "dev", d.lan) }},
	{"the LAN interface goes down and up", func(d *disorder) { d.flap(d.lan) }},
	{"the LAN interface's parent goes down and up", (*disorder).flapParent},
	{"the LAN interface's parent goes and comes back", (*disorder).replugParent},
	{"the inner interface goes down and up", func(d *disorder) { d.flap("transit0") }},
	{"the LAN interface gets another MAC", (*disorder).otherMAC},
	{"the DHCP client is killed", func(d *disorder) { d.kill("udhcpc") }},
	{"the DHCPv6 client is killed", func(d *disorder) { d.kill("dhcpcd") }},
	{"ip monitor is killed", func(d *disorder) { d.kill("ip") }},
	{"nft monitor is killed", func(d *disorder) { d.kill("nft") }},
	{"the DHCP server gives another address", (*disorder).otherAddress},
	{"the DHCPv6 server gives another address", (*disorder).otherAddress6},
	{"the DHCP server is silent", (*disorder).silence},
	{"the DHCPv6 server is silent", (*disorder).silence6},
	{"leases are short for a while", (*disorder).shortLeases},
	{"the router resigns for a while", (*disorder).routerResigns},
	{"the project leaves the LAN and comes back", (*disorder).replugLAN},
	{"the project leaves its services' network and comes back", (*disorder).replugTransit},
	{"another container claims a service's port for a while", (*disorder).rival},
	{"a label is wrong for a while", (*disorder).wrongLabel},
	{"anchord stands still", (*disorder).standStill},
	{"a service-anchor is killed and started again", (*disorder).restartServiceAnchor},
	{"a service's default route is deleted", (*disorder).deleteServiceRoute},
	{"no name is told for a while", (*disorder).noNames},
	{"docker is away", (*disorder).dockerAway},
	{"docker is restarted", func(d *disorder) { d.docker.Down(); d.docker.DropHistory(); d.pause(); d.must(d.docker.Up()) }},
	{"the event stream is cut", func(d *disorder) { d.docker.CutStreams() }},
	{"docker is slow", (*disorder).dockerSlow},
	{"docker fails", (*disorder).dockerFails},
	{"anchord is killed and started again", func(d *disorder) { d.a.crash(); d.pause(); d.launchAnchord() }},
	{"anchord is stopped and started again", (*disorder).restart},
	{"a template is overridden", (*disorder).overrideTemplate},
	{"a broken template comes", (*disorder).breakTemplate},
	{"templates are withdrawn", (*disorder).withdrawTemplates},
	{"the lease file is garbage", func(d *disorder) {
		os.WriteFile(filepath.Join(d.runDir(), "leases", "udhcpc.lease"), []byte("reason=bound\nip=$(reboot)\n"), 0o644) //nolint:errcheck // it may be away
	}},
}

func (d *disorder) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// pause is none, short or long.
func (d *disorder) pause() {
	longest := []time.Duration{0, 5 * time.Millisecond, 100 * time.Millisecond, 700 * time.Millisecond}[d.rand.IntN(4)]
	time.Sleep(time.Duration(d.rand.Int64N(int64(longest) + 1)))
}

// until has something ended before the next check.
func (d *disorder) until(end func()) {
	before := d.settled
	d.settled = func() { before(); end() }
}

func (d *disorder) any() *service { return &d.services[d.rand.IntN(len(d.services))] }

// flap has the kernel forget the interface's IPv6 addresses, of which Docker's own
// is nobody's to restore.
func (d *disorder) flap(iface string) {
	d.box.try("ip", "link", "set", iface, "down")
	d.pause()
	d.box.try("ip", "link", "set", iface, "up")
	if iface == "transit0" {
		d.box.try("ip", "addr", "replace", d.inside6+"/64", "dev", iface, "nodad")
	}
}

// kill ends the processes of this name, if there are any.
func (d *disorder) kill(name string) { d.box.tell(name, syscall.SIGKILL) }

// listenedTo waits until nft monitor listens, if it does soon. What happens to a
// single rule before its first time is not seen; of a table, it is.
func (d *disorder) listenedTo() {
	for began := time.Now(); time.Since(began) < deadline; time.Sleep(10 * time.Millisecond) {
		if sockets, _ := d.box.try("cat", "/proc/net/netlink"); netfilterGroups.MatchString(sockets) {
			return
		}
	}
}

// netfilterGroups are those that a socket of NETLINK_NETFILTER (12) has joined, as
// /proc/net/netlink lists them.
var netfilterGroups = regexp.MustCompile(`(?m)^\S+\s+12\s+\d+\s+0*[1-9a-f]`)

func (s *service) name() string { return fmt.Sprintf("service%d", s.port) }

// host is the last number of an address that no service has or had last.
func (d *disorder) host(s *service) int {
	s.moves++
	return 120 + 20*slices.IndexFunc(d.services[:], func(o service) bool { return o.port == s.port }) + s.moves%20
}

// comes starts a service, in place of the one that there was.
func (d *disorder) comes(s *service, host int) {
	if s.backend != nil {
		d.serviceGoes(s)
	}
	name := fmt.Sprintf("s%d-%d", s.port, s.moves)
	if d.names == nil {
		s.backend = d.bare(name, host)
	} else {
		s.backend = d.internalApp(name, host)
		d.serviceAnchor(s.backend)
	}
	s.backend.name = project + "-" + s.name() + "-1"
	s.serveTCP(s.name(), fmt.Sprintf(":%d", s.port))
	s.serveUDP(s.name(), fmt.Sprintf(":%d", s.port))
	s.id = d.docker.AddContainer(s.container(fmt.Sprintf("tcp/%d,udp/%d", s.port, s.port)))
}

func (d *disorder) serviceElsewhere() {
	s := d.any()
	d.comes(s, d.host(s))
}

func (d *disorder) serviceAgain() {
	s := d.any()
	if s.backend == nil {
		return
	}
	var host int
	fmt.Sscanf(s.ip, "10.213.0.%d", &host) //nolint:errcheck // bare wrote it
	s.moves++
	d.comes(s, host)
}

func (d *disorder) servicePort() {
	s := d.any()
	if s.backend != nil {
		d.serviceGoes(s)
	}
	host := d.host(s)
	s.port ^= 16
	d.comes(s, host)
}

// serviceGone leaves one: without any, the status rightly has a word for it.
func (d *disorder) serviceGone() {
	up := 0
	for _, s := range d.services {
		if s.backend != nil {
			up++
		}
	}
	if up > 1 {
		d.serviceGoes(d.any())
	}
}

func (d *disorder) serviceGoes(s *service) {
	if s.backend == nil {
		return
	}
	s.vanish()
	s.killAll()
	d.docker.Remove(s.id)
	s.backend = nil
}

func (d *disorder) serviceRestarted() {
	s := d.any()
	if s.backend == nil {
		return
	}
	d.docker.Die(s.id)
	d.pause()
	d.docker.Start(s.id)
}

func (d *disorder) otherAddress() {
	d.addrs++
	d.ext = fmt.Sprintf("198.51.100.%d", 100+d.addrs)
	d.dhcp.change(func(s *dhcpd) { s.addr = netip.MustParseAddr(d.ext) })
	d.box.tell("udhcpc", syscall.SIGUSR1)
}

func (d *disorder) silence() {
	d.dhcp.change(func(s *dhcpd) { s.silent = true })
	d.until(func() { d.dhcp.change(func(s *dhcpd) { s.silent = false }) })
}

// takeLease6 leaves alone what the kernel makes of a router's word.
func (d *disorder) takeLease6() {
	if d.dhcp6 != nil {
		d.box.try("ip", "-6", "addr", "flush", "dev", d.lan, "scope", "global")
	}
}

// otherAddress6 has the client started anew: it would ask in half an hour.
func (d *disorder) otherAddress6() {
	if d.dhcp6 == nil {
		return
	}
	d.addrs++
	d.ext6 = fmt.Sprintf("2001:db8:1::7:%x", 0x100+d.addrs)
	d.dhcp6.change(func(s *dhcpd6) { s.addr = netip.MustParseAddr(d.ext6) })
	d.kill("dhcpcd")
}

func (d *disorder) silence6() {
	if d.dhcp6 != nil {
		d.dhcp6.hush(true)
		d.until(func() { d.dhcp6.hush(false) })
	}
}

func (d *disorder) shortLeases() {
	d.dhcp.change(func(s *dhcpd) { s.lease = 4 * time.Second })
	d.box.tell("udhcpc", syscall.SIGUSR1)
	d.until(func() { d.dhcp.change(func(s *dhcpd) { s.lease = time.Hour }) })
}

func (d *disorder) routerResigns() {
	d.router6.say(func(a *advert) { a.lifetime = 0 })
	d.until(func() { d.router6.say(func(a *advert) { a.lifetime = 1800 }) })
}

func (d *disorder) flapParent() {
	if d.vlan {
		d.flap(vlanParent)
	}
}

func (d *disorder) replugParent() {
	if d.vlan {
		d.box.try("ip", "link", "delete", vlanParent)
		d.pause()
		d.giveParent(vlanParent)
	}
}

// replugLAN takes away what docker, or anchord itself, makes anew.
func (d *disorder) replugLAN() {
	d.box.try("ip", "link", "delete", d.lan)
	if d.vlan {
		return
	}
	d.docker.Disconnect(d.boxID, lanNetwork)
	d.pause()
	d.joinLAN(1500, true)
	_, ep := lanAttachment(setup{ipv6: true})
	d.docker.Connect(d.boxID, lanNetwork, ep)
}

func (d *disorder) replugTransit() {
	d.leaveTransit()
	d.pause()
	if d.names != nil {
		d.inside, d.inside6 = "10.213.0.3", "fd5a:1::3"
		if d.rand.IntN(2) == 0 {
			d.inside, d.inside6 = boxIP, boxIP6
		}
		d.nameAnchord()
	}
	d.rejoinTransit(d.inside, d.inside6)
}

func (d *disorder) nameAnchord() {
	d.names.signal(syscall.SIGCONT)
	d.names.set(d.inside + " anchord\n" + d.inside6 + " anchord\n")
}

func (d *disorder) restartServiceAnchor() {
	s := d.any()
	if s.backend == nil || d.names == nil {
		return
	}
	s.killAll()
	d.pause()
	d.serviceAnchor(s.backend)
}

func (d *disorder) deleteServiceRoute() {
	s := d.any()
	if s.backend != nil && d.names != nil {
		s.try("ip", "route", "delete", "default")
		s.try("ip", "-6", "route", "delete", "default")
	}
}

func (d *disorder) noNames() {
	if d.names == nil {
		return
	}
	d.names.signal(syscall.SIGSTOP)
	d.until(func() { d.names.signal(syscall.SIGCONT) })
}

func (d *disorder) rival() {
	s := d.any()
	if s.backend == nil {
		return
	}
	d.extra(fmt.Sprintf("tcp/%d", s.port))
}

func (d *disorder) wrongLabel() { d.extra("tcp/80,nonsense") }

// extra is a container that goes before the next check.
func (d *disorder) extra(label string) {
	d.extras++
	b := d.bare(fmt.Sprintf("extra%d", d.extras), 100+d.extras%20)
	b.serveTCP("extra", ":80")
	id := d.docker.AddContainer(b.container(label))
	d.until(func() {
		b.vanish()
		d.docker.Remove(id)
	})
}

func (d *disorder) standStill() {
	d.box.tell("anchord", syscall.SIGSTOP)
	d.until(func() { d.box.tell("anchord", syscall.SIGCONT) })
}

func (d *disorder) dockerAway() {
	d.docker.Down()
	d.until(func() { d.must(d.docker.Up()) })
}

func (d *disorder) dockerSlow() {
	d.docker.Delay("/", 150*time.Millisecond)
	d.until(func() { d.docker.Delay("/", 0) })
}

func (d *disorder) dockerFails() {
	d.docker.Fail("/containers", 500)
	d.until(func() { d.docker.Fail("/containers", 0) })
}

func (d *disorder) overrideTemplate() {
	d.override = fmt.Sprintf("override %d", d.rand.IntN(1000))
	d.world.override("10-a.nft.tmpl", forward(d.override))
}

func (d *disorder) breakTemplate() {
	d.world.override("20-b.nft.tmpl", "{{define \"input\"}}\n\t\ttcp dport nonsense accept\n{{end}}")
	d.until(func() { os.Remove(filepath.Join(d.templates(), "20-b.nft.tmpl")) })
}

func (d *disorder) withdrawTemplates() {
	d.override = ""
	os.RemoveAll(d.templates())
}

// otherMAC is for an interface that anchord has seen, and to its end: whose
// interface it is, nobody could know otherwise.
func (d *disorder) otherMAC() {
	d.box.tell("anchord", syscall.SIGCONT)
	own := func() error {
		out, err := d.box.try("ip", "-o", "link", "show", "dev", d.lan)
		if err == nil && !strings.Contains(out, "ether "+derivedMAC) {
			err = errors.New("the interface is " + out)
		}
		return err
	}
	if status, _, err := d.a.get("/readyz"); err != nil || status != 200 || own() != nil {
		return
	}
	d.box.try("ip", "link", "set", d.lan, "address", "02:00:00:00:00:99")
	eventually(d.t, deadline, own)
}

func (d *disorder) restart() {
	d.box.tell("anchord", syscall.SIGCONT)
	eventually(d.t, hang, d.a.logs("anchord.starting")) // before that, no signal is caught
	d.a.terminate()
	d.launchAnchord()
}

// launchAnchord starts anchord without waiting for anything.
func (d *disorder) launchAnchord() {
	env := []string{"ANCHORD_POLL_INTERVAL=1h", "ANCHORD_DHCP_BACKOFF_MAX=2s", "ANCHORD_TEMPLATE_DIR=" + d.templates()}
	if d.vlan {
		env = append(env, "ANCHORD_VLAN_PARENT="+vlanParent)
	}
	d.a = d.world.anchord(env...)
}

// askNow has the client ask for its lease now: it does not know that the server
// changed its mind, or that somebody else wrote its file, for half an hour.
func (d *disorder) askNow() {
	if time.Since(d.asked) > 2*time.Second {
		d.asked = time.Now()
		d.box.tell("udhcpc", syscall.SIGUSR1)
	}
}

// itself is a condition: the project is as a server would be.
func (d *disorder) itself() error {
	if err := errors.Join(d.hasOnly(d.ext)(), d.a.problems()()); err != nil {
		d.askNow()
		return err
	}
	conds := []func() error{
		d.box.hasRoute("default via " + routerIP + " dev " + d.lan),
		d.hasOnly6(d.ext6),
		d.client.refused("tcp", d.addr(81)),
		d.says(d.override, d.override != ""),
	}
	for _, s := range d.services {
		at, at6 := d.addr(s.port), on6(d.ext6, s.port)
		if s.backend == nil {
			conds = append(conds, d.client.refused("tcp", at), d.client.refused("tcp", at6))
			continue
		}
		conds = append(conds,
			d.client.answers("tcp", at, s.name()+" "+clientIP), d.client.answers("udp", at, s.name()+" "+clientIP),
			d.client.answers("tcp", at6, s.name()+" "+clientIP6), d.client.answers("udp", at6, s.name()+" "+clientIP6),
			d.client.refused("tcp", d.addr(s.port^16)),
			s.answers("tcp", outsideIP+":80", "outside "+d.ext), s.answers("tcp", on6(outsideIP6, 80), "outside "+d.ext6),
			s.answers("tcp", at, s.name()+" "+d.ext), s.answers("tcp", at6, s.name()+" "+d.ext6),
		)
	}
	for _, c := range conds {
		if err := c(); err != nil {
			return err
		}
	}
	return nil
}

// children is a condition: anchord's are all there, and, between two looks, no
// others.
func (d *disorder) children() error {
	for name, want := range map[string]int{"anchord": 1, "udhcpc": 1, "dhcpcd": d.clients6, "ip": 1, "nft": 1, "": 4 + d.clients6} {
		if n := d.box.processes(name); n != want {
			return fmt.Errorf("%d processes called %q, want %d", n, name, want)
		}
	}
	return nil
}

// round has some things happen and checks that nothing of them is left.
func (d *disorder) round() {
	d.settled = func() {}
	for range 1 + d.rand.IntN(4) {
		h := happenings[d.rand.IntN(len(happenings))]
		d.done = append(d.done, time.Now().Format("05.000 ")+h.what)
		h.do(d)
		d.pause()
	}
	d.settled()
	d.asked = time.Now()
	d.done = append(d.done, time.Now().Format("05.000 ")+"that is all")
	took := eventually(d.t, 30*time.Second, d.itself)
	d.done = append(d.done, fmt.Sprintf("  itself again after %v", took.Round(time.Millisecond)))
	eventually(d.t, hang, d.children) // a monitor that is killed twice waits for seconds
	d.quiet()
}

// quiet checks that the project stays itself and that nobody is told of
// anything more.
func (d *disorder) quiet() {
	eventually(d.t, hang, func() error {
		before := len(d.a.log())
		time.Sleep(1500 * time.Millisecond)
		if more := d.a.log()[before:]; len(more) > 0 {
			return fmt.Errorf("anchord tells more: %v", more)
		}
		return nil
	})
	eventually(d.t, deadline, d.itself)
}

// newDisorder is a project with one service before anything happens to it. Every
// other seed's network is internal; of the rest, every other seed's LAN interface
// is on a parent; of the internal ones, every other's LAN has DHCPv6.
func newDisorder(t *testing.T, seed uint64) *disorder {
	t.Helper()
	s := setup{ipv6: true, internal: seed%2 == 0}
	if seed%4 == 3 {
		s.parent = vlanParent
	}
	w := newWorld(t, s)
	d := &disorder{
		running: &running{world: w, ext: "198.51.100.100"}, rand: rand.New(rand.NewPCG(seed, 0)),
		ext6: firstIP6, vlan: s.parent != "", inside: boxIP, inside6: boxIP6, settled: func() {},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what happened:\n%s", strings.Join(d.done, "\n"))
		}
	})
	if s.internal {
		d.names = w.startNames("anchord", boxIP)
		d.nameAnchord()
	}
	d.dhcp = w.startDHCPD(d.ext, time.Hour)
	d.dhcp.change(func(s *dhcpd) { s.strict = true })
	says := ordinary(firstPrefix)
	if seed%4 == 0 {
		says, d.ext6 = managed(), leasedIP6
		d.dhcp6 = w.startDHCPD6(d.ext6)
		d.dhcp6.change(func(s *dhcpd6) { s.strict, s.t1, s.t2, s.preferred, s.valid = true, 1800, 2880, 3600, 3600 })
	}
	d.router6 = w.advertise(w.router, says)
	w.outside.serveTCP("outside", ":80")
	for i := range d.services {
		d.services[i].port = 1000 + i
	}
	d.comes(&d.services[0], d.host(&d.services[0]))
	d.launchAnchord()
	eventually(t, hang, d.itself)
	d.clients6 = d.box.lasting("dhcpcd")
	return d
}

// It runs by itself: it keeps the machine busy all the time.
func TestAfterAnyDisorderTheProjectIsItself(t *testing.T) {
	for seed := *firstSeed; seed < *firstSeed+uint64(*disorders); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			d := newDisorder(t, seed)
			for range 12 {
				d.round()
			}
			d.asAfresh()
		})
	}
}

// asAfresh checks that what is in the kernel is what a new start makes of it.
func (d *disorder) asAfresh() {
	rules := d.rules()
	d.restart()
	eventually(d.t, hang, d.itself)
	eventually(d.t, deadline, func() error { return same(d.rules(), rules) })
}
