package netns_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

// The LAN, and behind its router a piece of the Internet.
const (
	lanPrefix  = "198.51.100.0/24"
	routerIP   = "198.51.100.1"
	clientIP   = "198.51.100.20"
	plainIP    = "198.51.100.30"
	lanPrefix6 = "2001:db8:1::/64"
	routerIP6  = "2001:db8:1::1"
	clientIP6  = "2001:db8:1::20"
	plainIP6   = "2001:db8:1::30"
	outsideIP  = "203.0.113.80"
	outsideIP6 = "2001:db8:2::80"
)

// The project's transit network. Nobody has the gateway address until anchord
// takes it.
const (
	transitPrefix = "10.213.0.0/24"
	transitGW     = "10.213.0.1"
	boxIP         = "10.213.0.2"
	transitGW6    = "fd5a:1::ffff"
	boxIP6        = "fd5a:1::2"
	project       = "shop"
	lanNetwork    = project + "_lan"
	transitNet    = project + "_transit"
	boxMAC        = "02:42:aa:00:00:01"
	inhibit       = "com.docker.network.bridge.inhibit_ipv4"
)

// world is one test's LAN: a switch with two bridges, a router, a client, an
// ordinary host to compare with, a host beyond the router, and the namespace
// of the network-anchor.
type world struct {
	t       testing.TB
	dir     string
	sw      *ns
	router  *ns
	client  *ns
	plain   *ns
	outside *ns
	box     *ns
	docker  *fakedocker.Server
	boxID   string
	lan     string // the box's interface there
	dns     string // resolv.conf of the network-anchor
}

// setup changes how a world is made.
type setup struct {
	bootstrap    string // address that Docker gives to lan0, "" for none
	bootstrap6   string // the same in IPv6
	internal     bool   // no inhibit_ipv4: an internal transit
	ipv6         bool
	lanMTU       int
	routerOnLAN  bool   // IPv6 as before Engine 28: lan0 is a router's
	transitFirst bool   // Docker makes transit0 before lan0
	parent       string // a VLAN's interface in the box, in place of lan0
}

func newWorld(t testing.TB, s setup) *world {
	t.Helper()
	// The unix sockets' paths must stay short, so no t.TempDir.
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{
		t: t, dir: dir, lan: "lan0",
		sw: newNS(t, "switch"), router: newNS(t, "router"), client: newNS(t, "client"),
		plain: newNS(t, "plain"), outside: newNS(t, "outside"), box: newNS(t, "box"),
	}
	occupy(1)
	defer leave(1)
	w.cable(s)
	w.startDocker(s)
	return w
}

func (w *world) cable(s setup) {
	w.t.Helper()
	w.sw.ip("link add br-lan type bridge mcast_snooping 0\nlink set br-lan up\nlink add br-transit type bridge mcast_snooping 0\nlink set br-transit up\n")
	w.router.sysctl("net.ipv6.conf.default.accept_dad", "0") // it can speak at once
	w.plug(w.router, "eth0", "br-lan", routerIP+"/24", routerIP6+"/64")
	w.plug(w.client, "eth0", "br-lan", clientIP+"/24", clientIP6+"/64")
	w.plug(w.plain, "eth0", "br-lan", plainIP+"/24", plainIP6+"/64")
	w.outside.ip("link add eth0 type veth peer name wan0 netns " + w.router.path())
	w.outside.ip("addr add " + outsideIP + "/24 dev eth0\naddr add " + outsideIP6 + "/64 dev eth0 nodad\nlink set eth0 up\n")
	w.router.ip("addr add 203.0.113.1/24 dev wan0\naddr add 2001:db8:2::1/64 dev wan0 nodad\nlink set wan0 up\n")
	w.router.sysctl("net.ipv4.ip_forward", "1")
	w.router.sysctl("net.ipv6.conf.all.forwarding", "1")
	w.outside.ip("route add default via 203.0.113.1\nroute add default via 2001:db8:2::1\n")
	for _, n := range []*ns{w.client, w.plain} {
		n.sysctl("net.ipv6.conf.eth0.accept_ra", "0") // their own address is the one they send from
		n.ip("route add default via " + routerIP + "\nroute add default via " + routerIP6 + "\n")
	}
	w.cableBox(s)
}

// plug joins a namespace to one of the switch's bridges.
func (w *world) plug(n *ns, iface, bridge string, addrs ...string) {
	w.t.Helper()
	port := fmt.Sprintf("%.9s-%.5s", n.name, iface)
	w.sw.ip(fmt.Sprintf("link add %s type veth peer name %s netns %s\nlink set %s master %s up\n", port, iface, n.path(), port, bridge))
	for _, a := range addrs {
		nodad := ""
		if strings.Contains(a, ":") {
			nodad = " nodad"
		}
		n.ip("addr add " + a + " dev " + iface + nodad + "\n")
	}
	n.ip("link set " + iface + " up\n")
}

// cableBox gives the network-anchor what Docker gives it: a macvlan on the LAN
// and a port of the transit bridge.
func (w *world) cableBox(s setup) {
	w.t.Helper()
	w.box.sysctl("net.ipv4.ip_forward", "1")
	if s.ipv6 {
		w.box.sysctl("net.ipv6.conf.all.forwarding", "1")
		w.box.sysctl("net.ipv6.conf.default.accept_ra", "2")
	} else {
		w.box.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	}
	if s.transitFirst {
		w.plug(w.box, "transit0", "br-transit", boxIP+"/24")
	}
	w.cableLAN(s)
	if !s.transitFirst {
		w.plug(w.box, "transit0", "br-transit", boxIP+"/24")
	}
	if s.ipv6 {
		w.box.ip("addr add " + boxIP6 + "/64 dev transit0 nodad\n")
	}
	if s.bootstrap != "" {
		w.box.ip("addr add " + s.bootstrap + "/24 dev lan0\nroute add default via " + routerIP + "\n")
	}
	if s.bootstrap6 != "" {
		w.box.ip("addr add " + s.bootstrap6 + "/64 dev lan0 nodad\nroute add default via " + routerIP6 + "\n")
	}
}

// cableLAN makes lan0, or moves a VLAN's interface into the box, where it is
// down until somebody needs it.
func (w *world) cableLAN(s setup) {
	w.t.Helper()
	if s.parent != "" {
		w.lan = "anchord-ext"
		w.giveParent(s.parent)
		return
	}
	mtu := 1500
	if s.lanMTU != 0 {
		mtu = s.lanMTU
	}
	w.sw.ip("link add p-lan type veth peer name p-macvlan\nlink set p-lan master br-lan up\nlink set p-macvlan up promisc on\n")
	w.joinLAN(mtu, s.ipv6 && !s.routerOnLAN)
}

// joinLAN gives the box its lan0.
func (w *world) joinLAN(mtu int, host6 bool) {
	w.t.Helper()
	w.sw.ip(fmt.Sprintf("link add link p-macvlan name lan0 netns %s address %s mtu %d type macvlan mode bridge\n", w.box.path(), boxMAC, mtu))
	if host6 {
		w.box.sysctl("net.ipv6.conf.lan0.forwarding", "0")
	}
	w.box.ip("link set lan0 up\n")
}

// giveParent moves an interface of the LAN into the box. Whether it is a VLAN's
// makes no difference in there.
func (w *world) giveParent(name string) {
	w.t.Helper()
	w.sw.ip(fmt.Sprintf("link add p-lan type veth peer name %s netns %s\nlink set p-lan master br-lan up\n", name, w.box.path()))
}

func (w *world) startDocker(s setup) {
	w.t.Helper()
	srv, err := fakedocker.Start(filepath.Join(w.dir, "d.sock"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(srv.Close)
	w.docker = srv
	srv.SetNetwork(transitNetwork(s))
	transit := w.transitEndpoint(w.box, boxIP, boxIP6, s.ipv6, "anchord")
	attached := map[string]network.EndpointSettings{transitNet: transit}
	if s.parent == "" {
		lan, ep := lanAttachment(s)
		srv.SetNetwork(lan)
		attached[lanNetwork] = ep
	}
	w.boxID = fakedocker.NewID()
	srv.AddContainer(fakedocker.Container{
		ID: w.boxID, Name: project + "-anchord-1", Image: "anchord",
		Labels:   map[string]string{"com.docker.compose.project": project, "com.docker.compose.service": "anchord"},
		Networks: attached,
	})
}

// madeByCompose are the labels of a network of the project.
func madeByCompose(name string) map[string]string {
	return map[string]string{"com.docker.compose.project": project, "com.docker.compose.network": name}
}

// lanAttachment is the network that is the LAN, and the box's endpoint there.
func lanAttachment(s setup) (network.Inspect, network.EndpointSettings) {
	lan := network.Inspect{
		Name: lanNetwork, Driver: "macvlan", EnableIPv4: s.bootstrap != "", EnableIPv6: s.ipv6,
		Options: map[string]string{"parent": "p-macvlan"}, Labels: madeByCompose("lan"),
	}
	ep := network.EndpointSettings{MacAddress: boxMAC, Aliases: []string{"anchord"}}
	if s.bootstrap != "" {
		lan.IPAM.Config = append(lan.IPAM.Config, network.IPAMConfig{Subnet: lanPrefix, Gateway: routerIP})
		ep.IPAddress, ep.IPPrefixLen, ep.Gateway = s.bootstrap, 24, routerIP
	}
	if s.bootstrap6 != "" {
		lan.IPAM.Config = append(lan.IPAM.Config, network.IPAMConfig{Subnet: lanPrefix6, Gateway: routerIP6})
		ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway = s.bootstrap6, 64, routerIP6
	}
	return lan, ep
}

func transitNetwork(s setup) network.Inspect {
	n := network.Inspect{
		Name: transitNet, Driver: "bridge", EnableIPv4: true, EnableIPv6: s.ipv6, Internal: s.internal, Labels: madeByCompose("transit"),
		IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: transitPrefix, Gateway: transitGW}}},
	}
	if !s.internal {
		n.Options = map[string]string{inhibit: "true"}
	}
	if s.ipv6 {
		n.IPAM.Config = append(n.IPAM.Config, network.IPAMConfig{Subnet: "fd5a:1::/64", Gateway: "fd5a:1::1", AuxAddress: map[string]string{"DefaultGatewayIPv6": transitGW6}})
	}
	return n
}

// transitEndpoint is a container's place inside, with the names that Compose gives it.
func (w *world) transitEndpoint(n *ns, ip, ip6 string, ipv6 bool, names ...string) network.EndpointSettings {
	ep := network.EndpointSettings{IPAddress: ip, IPPrefixLen: 24, Gateway: transitGW, MacAddress: n.mac("transit0"), Aliases: names}
	if ipv6 {
		ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway = ip6, 64, transitGW6
	}
	return ep
}

func (n *ns) mac(iface string) string {
	n.t.Helper()
	fields := strings.Fields(n.run("ip", "-o", "link", "show", "dev", iface))
	for i, f := range fields {
		if f == "link/ether" {
			return fields[i+1]
		}
	}
	n.t.Fatalf("%s: %s has no MAC", n.name, iface)
	return ""
}

// backend is a container of the project: a namespace on the transit network
// and what Docker knows of it.
type backend struct {
	*ns
	w    *world
	id   string
	name string
	ip   string
	ip6  string
}

// backend starts a container of the project with this label. The last number
// of its addresses is host.
func (w *world) backend(name string, host int, expose string) *backend {
	w.t.Helper()
	b := w.bare(name, host)
	b.id = w.docker.AddContainer(b.container(expose))
	return b
}

// bare is the container's namespace before Docker tells of the container.
func (w *world) bare(name string, host int) *backend {
	w.t.Helper()
	b := &backend{ns: newNS(w.t, name), w: w, name: project + "-" + name + "-1", ip: fmt.Sprintf("10.213.0.%d", host), ip6: fmt.Sprintf("fd5a:1::%x", host)}
	w.plug(b.ns, "transit0", "br-transit", b.ip+"/24", b.ip6+"/64")
	b.ip4(transitGW)
	b.ns.ip("route add default via " + transitGW6 + "\n")
	return b
}

func (b *backend) ip4(gateway string) { b.ns.ip("route add default via " + gateway + "\n") }

// vanish takes the container's interface away, as Docker does before it tells.
func (b *backend) vanish() { b.run("ip", "link", "delete", "transit0") }

// container is what Docker says of b.
func (b *backend) container(expose string) fakedocker.Container {
	service := strings.TrimSuffix(strings.TrimPrefix(b.name, project+"-"), "-1")
	labels := map[string]string{"com.docker.compose.project": project, "com.docker.compose.service": service}
	if expose != "" {
		labels["anchord.expose"] = expose
	}
	transit := b.w.transitEndpoint(b.ns, b.ip, b.ip6, true, b.name, service)
	return fakedocker.Container{Name: b.name, Image: b.name, Labels: labels, Networks: map[string]network.EndpointSettings{transitNet: transit}}
}

// command runs an anchord command in a container: own resolv.conf, nothing of
// the test's environment.
func (w *world) command(hostname string, env []string, args ...string) *exec.Cmd {
	w.t.Helper()
	// As in a container: a /run/dhcpcd of its own, and a /proc/sys to read only.
	script := `mount --bind "$0" /etc/resolv.conf && mkdir -p /run/dhcpcd && mount -t tmpfs dhcpcd /run/dhcpcd &&
		mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"`
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", script, w.resolvConf(), program(w.t)}, args...)...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOSTNAME=" + hostname,
		"DOCKER_HOST=" + w.docker.Host(), "ANCHORD_RUN_DIR=" + w.runDir(),
	}, env...)
	return cmd
}

func (w *world) runDir() string { return filepath.Join(w.dir, "run") }

func (w *world) resolvConf() string {
	if w.dns == "" {
		w.dns = filepath.Join(w.dir, "resolv.conf")
		w.write("resolv.conf", "nameserver 127.0.0.11\n")
	}
	return w.dns
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// dnsmasq is the LAN's DHCP server.
type dnsmasq struct {
	*proc
	leases string
}

// startDnsmasq serves addresses from 198.51.100.100 on.
func (w *world) startDnsmasq(args ...string) *dnsmasq {
	w.t.Helper()
	d := &dnsmasq{leases: filepath.Join(w.dir, "leases")}
	base := []string{
		"dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts", "--no-ping",
		"--pid-file=", "--log-dhcp", "--log-facility=-", "--dhcp-authoritative", "--dhcp-leasefile=" + d.leases,
		"--interface=eth0", "--bind-interfaces", "--except-interface=lo",
	}
	if args == nil {
		args = []string{"--dhcp-range=198.51.100.100,198.51.100.150,255.255.255.0,1h"}
	}
	d.proc = w.router.start(append(base, args...)...)
	eventually(w.t, hang, func() error {
		if !d.errOut.contains("DHCP, ") {
			return fmt.Errorf("dnsmasq is not ready: %s", d.errOut)
		}
		return nil
	})
	return d
}

// lease is one line of dnsmasq's lease table.
type lease struct{ mac, ip, name, clientID string }

func (d *dnsmasq) table() []lease {
	text, _ := os.ReadFile(d.leases)
	var all []lease
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.Fields(line); len(f) == 5 {
			all = append(all, lease{f[1], f[2], f[3], f[4]})
		}
	}
	return all
}

// deadline is the limit for what takes a few packets.
const deadline = 5 * time.Second
