package netns_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

func TestClientsReachExposedPortsAndAreSeenAsThemselves(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80, UDP/53:5353,tcp/8000-8002, udp/9000-9001:9100")
	for _, port := range []string{":80", ":8000", ":8001", ":8002"} {
		web.serveTCP("web"+port, port)
	}
	for _, port := range []string{":5353", ":9100", ":9101"} {
		web.serveUDP("web"+port, port)
	}
	for _, c := range []struct {
		name, network string
		port          int
		server        string
	}{
		{"a port", "tcp", 80, "web:80"},
		{"another port at the backend", "udp", 53, "web:5353"},
		{"the first of a range", "tcp", 8000, "web:8000"},
		{"the last of a range", "tcp", 8002, "web:8002"},
		{"the first of a shifted range", "udp", 9000, "web:9100"},
		{"the last of a shifted range", "udp", 9001, "web:9101"},
	} {
		t.Run(c.name, func(t *testing.T) {
			eventually(t, deadline, r.client.answers(c.network, r.addr(c.port), c.server+" "+clientIP))
			eventually(t, deadline, r.outside.answers(c.network, r.addr(c.port), c.server+" "+outsideIP))
		})
	}
	t.Run("a port that is not exposed", func(t *testing.T) {
		web.serveTCP("secret", ":81")
		eventually(t, deadline, r.client.refused("tcp", r.addr(81)))
		eventually(t, deadline, r.client.refused("tcp", r.addr(8003)))
	})
}

func TestTheLeaseTableShowsTheProject(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	mac := r.box.mac("lan0")
	want := []lease{{mac, r.ext, project, "00:" + hexOf(project)}}
	eventually(t, deadline, func() error {
		if got := r.d.table(); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("the lease table has %v, want %v", got, want)
		}
		return nil
	})
	if !strings.HasPrefix(mac, "02:42:") || mac == boxMAC {
		t.Errorf("MAC %s is not derived from the project's name", mac)
	}
}

func hexOf(s string) string {
	var parts []string
	for _, b := range []byte(s) {
		parts = append(parts, fmt.Sprintf("%02x", b))
	}
	return strings.Join(parts, ":")
}

func TestTheHostnameVariableNamesTheLease(t *testing.T) {
	t.Parallel()
	r := start(t, setup{}, "ANCHORD_DHCP_HOSTNAME=mail-relay")
	eventually(t, deadline, func() error {
		if got := r.d.table(); len(got) != 1 || got[0].name != "mail-relay" || got[0].clientID != "00:"+hexOf("mail-relay") {
			return fmt.Errorf("the lease table has %v", got)
		}
		return nil
	})
}

func TestEgressLeavesFromTheProjectsAddress(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	app := r.backend("app", 10, "")
	for _, n := range []*ns{r.outside, r.plain} {
		n.serveTCP(n.name, ":80")
		n.serveUDP(n.name, ":53")
	}
	eventually(t, deadline, app.answers("tcp", outsideIP+":80", "outside "+r.ext))
	eventually(t, deadline, app.answers("udp", outsideIP+":53", "outside "+r.ext))
	eventually(t, deadline, app.answers("tcp", plainIP+":80", "plain "+r.ext))
	pings := r.outside.capture("eth0", "icmp")
	app.run("busybox", "ping", "-c", "1", "-W", "2", outsideIP)
	eventually(t, deadline, pings.sees(r.ext+` > `+outsideIP+`: ICMP echo request`))
}

func TestHairpin(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80,udp/53,tcp/8000-8001:9000")
	app := r.backend("app", 11, "")
	web.serveTCP("web", ":80")
	web.serveTCP("range", ":9001")
	web.serveUDP("web", ":53")
	redirects := app.capture("transit0", "icmp[icmptype] == icmp-redirect")
	defer func() {
		if redirects.text() != "" {
			t.Errorf("a server does not redirect:\n%s", redirects.text())
		}
	}()
	for _, from := range []*backend{app, web} {
		t.Run("from "+from.ns.name, func(t *testing.T) {
			eventually(t, deadline, from.answers("tcp", r.addr(80), "web "+r.ext))
			eventually(t, deadline, from.answers("udp", r.addr(53), "web "+r.ext))
			eventually(t, deadline, from.answers("tcp", r.addr(8001), "range "+r.ext))
			eventually(t, deadline, from.refused("tcp", r.addr(22)))
		})
	}
}

// route sends a namespace's packets for the transit network to an address.
func (n *ns) routeTransit(via string) {
	n.ip("route replace " + transitPrefix + " via " + via + "\n")
}

func TestALANHostThatRoutesToTheTransitNetworkGetsNothing(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80,udp/53")
	web.serveTCP("web", ":80")
	received := web.serveUDP("web", ":53")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	atBackend := web.capture("transit0", "ip and host "+clientIP)
	// Everything that comes back, refusals included: an ordinary server that is
	// asked to route says nothing.
	back := r.client.capture("eth0", "ip and not src host "+clientIP)
	// The end of the connection above may come late.
	atBackend.settle(200 * time.Millisecond)
	back.settle(200 * time.Millisecond)
	before := map[*capture]string{atBackend: atBackend.text(), back: back.text()}
	r.client.routeTransit(r.ext)
	for _, target := range []string{web.ip, transitGW, boxIP} {
		r.client.try("busybox", "ping", "-c", "1", "-W", "1", target) //nolint:errcheck // it must fail
		for _, c := range []func() error{
			r.client.silent("tcp", target+":80"), r.client.silent("udp", target+":53"),
			r.client.silent("tcp", target+":9090"), r.client.silent("udp", target+":999"),
		} {
			if err := c(); err != nil {
				t.Error(err)
			}
		}
	}
	if received.count() != 0 {
		t.Errorf("the backend got %d datagrams", received.count())
	}
	for name, c := range map[string]*capture{"the backend saw": atBackend, "the client was answered": back} {
		if more := strings.TrimPrefix(c.text(), before[c]); more != "" {
			t.Errorf("%s:\n%s", name, more)
		}
	}
}

func TestTheProjectDoesNotRouteForTheLAN(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	r.outside.serveUDP("outside", ":53")
	seen := r.outside.capture("eth0", "udp port 53")
	eventually(t, deadline, r.client.answers("udp", outsideIP+":53", "outside "+clientIP))
	eventually(t, hang, seen.sees(clientIP+`\.\d+ > `+outsideIP+`\.53`))
	eventually(t, hang, seen.sees(outsideIP+`\.53 > `+clientIP))
	seen.settle(200 * time.Millisecond)
	before := seen.text()
	r.client.ip("route add " + outsideIP + " via " + r.ext + "\n")
	if err := r.client.silent("udp", outsideIP+":53")(); err != nil {
		t.Error(err)
	}
	if seen.settle(200 * time.Millisecond); seen.text() != before {
		t.Errorf("the packet was routed:\n%s", seen.text())
	}
}

func TestASpoofedTransitSourceIsDropped(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80,udp/53")
	received := web.serveUDP("web", ":53")
	eventually(t, deadline, r.client.answers("udp", r.addr(53), "web "+clientIP))
	before := received.count()
	atBackend := web.capture("transit0", "udp port 53")
	r.client.ip("route add " + r.ext + " dev eth0\n")
	for _, source := range []string{"10.213.0.77", "10.213.0.11", transitGW, boxIP} {
		r.client.ip("addr add " + source + "/32 dev eth0\n")
		r.client.sendFrom(source, r.addr(53))
		r.client.ip("addr del " + source + "/32 dev eth0\n")
	}
	atBackend.settle(300 * time.Millisecond)
	if received.count() != before {
		t.Errorf("the backend got %d spoofed datagrams:\n%s", received.count()-before, atBackend.text())
	}
}

// sendFrom sends one datagram with a chosen source address.
func (n *ns) sendFrom(source, addr string) {
	n.t.Helper()
	var c net.Conn
	err := in(n, func() (err error) {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}
		c, err = d.Dial("udp", addr)
		return err
	})
	if err == nil {
		defer c.Close()
		_, err = c.Write([]byte("?\n"))
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestTheMetricsPortIsClosedToTheLAN(t *testing.T) {
	t.Parallel()
	r := start(t, setup{}, "ANCHORD_METRICS_ADDR=:9090")
	if out, err := r.box.try("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9090/healthz"); err != nil || !strings.Contains(out, "ok") {
		t.Fatalf("the listener does not answer inside: %q, %v", out, err)
	}
	eventually(t, deadline, r.client.refused("tcp", r.addr(9090)))
	r.client.routeTransit(r.ext)
	for _, addr := range []string{transitGW, boxIP} {
		if err := r.client.silent("tcp", addr+":9090")(); err != nil {
			t.Error(err)
		}
	}
}

func TestMSSIsClampedToTheRoute(t *testing.T) {
	t.Parallel()
	r := start(t, setup{lanMTU: 1400})
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	r.plain.serveTCP("plain", ":80")
	syns := r.client.capture("eth0", "tcp[tcpflags] & tcp-syn != 0 and src host "+r.ext)
	out := r.plain.capture("eth0", "tcp[tcpflags] & tcp-syn != 0 and src host "+r.ext)
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	eventually(t, deadline, web.answers("tcp", plainIP+":80", "plain "+r.ext))
	eventually(t, deadline, syns.sees(`mss 1360`))
	eventually(t, deadline, out.sees(`mss 1360`))
}

func TestIPv6(t *testing.T) {
	t.Parallel()
	r := start(t, setup{ipv6: true})
	web := r.backend("web", 10, "tcp/80,udp/53:5353")
	off := r.bare("off", 11)
	c := off.container("tcp/81")
	c.Labels["anchord.expose.v6"] = "off"
	r.docker.AddContainer(c)
	web.serveTCP("web", ":80")
	web.serveUDP("web", ":5353")
	off.serveTCP("off", ":81")
	r.outside.serveTCP("outside", ":80")
	ext6 := r.ext6()
	at := func(port int) string { return fmt.Sprintf("[%s]:%d", ext6, port) }
	eventually(t, deadline, r.client.answers("tcp", at(80), "web "+clientIP6))
	eventually(t, deadline, r.client.answers("udp", at(53), "web "+clientIP6))
	eventually(t, deadline, r.outside.answers("tcp", at(80), "web "+outsideIP6))
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	eventually(t, deadline, r.client.answers("tcp", r.addr(81), "off "+clientIP))
	eventually(t, deadline, r.client.refused("tcp", at(81)))
	eventually(t, deadline, web.answers("tcp", "["+outsideIP6+"]:80", "outside "+ext6))
	eventually(t, deadline, off.answers("tcp", at(80), "web "+ext6))
	t.Run("a LAN host that routes to the transit network gets nothing", func(t *testing.T) {
		r.client.ip("route add fd5a:1::/64 via " + ext6 + "\n")
		back := r.client.capture("eth0", "ip6 and src net fd5a:1::/64 or (icmp6 and ip6[40] < 5 and src host "+ext6+")")
		for _, target := range []string{web.ip6, transitGW6, boxIP6} {
			r.client.try("busybox", "ping6", "-c", "1", "-W", "1", target) //nolint:errcheck // it must fail
			if err := r.client.silent("tcp", "["+target+"]:80")(); err != nil {
				t.Error(err)
			}
		}
		if back.text() != "" {
			t.Errorf("the client was answered:\n%s", back.text())
		}
	})
}

// ext6 waits for the address that the router's advertisement leads to.
func (r *running) ext6() string {
	r.t.Helper()
	var addr string
	eventually(r.t, hang, func() (err error) {
		addr, err = r.box.address6(r.lan)
		return err
	})
	return addr
}

// address6 is an interface's one global IPv6 address that is no longer tentative.
func (n *ns) address6(iface string) (string, error) {
	out, err := n.try("ip", "-6", "-j", "addr", "show", "dev", iface, "scope", "global", "-tentative")
	if err != nil {
		return "", err
	}
	var links []struct {
		Addrs []struct {
			Local string `json:"local"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return "", err
	}
	for _, l := range links {
		for _, a := range l.Addrs {
			if a.Local != "" {
				return a.Local, nil
			}
		}
	}
	return "", fmt.Errorf("%s has no global IPv6 address: %s", iface, out)
}

func TestABackendOnASecondTransitNetworkOnly(t *testing.T) {
	t.Parallel()
	const second, gateway = project + "_backend", "10.213.9.1"
	w := newWorld(t, setup{})
	w.startDnsmasq()
	w.sw.ip("link add br-second type bridge mcast_snooping 0\nlink set br-second up\n")
	w.plug(w.box, "second0", "br-second", "10.213.9.2/24")
	w.docker.SetNetwork(network.Inspect{
		Name: second, Driver: "bridge", EnableIPv4: true, Options: map[string]string{inhibit: "true"},
		IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "10.213.9.0/24", Gateway: gateway}}},
	})
	endpoint := func(n *ns, iface, ip string) network.EndpointSettings {
		return network.EndpointSettings{IPAddress: ip, IPPrefixLen: 24, Gateway: gateway, MacAddress: n.mac(iface)}
	}
	w.docker.Connect(w.boxID, second, endpoint(w.box, "second0", "10.213.9.2"))
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	db := &backend{ns: newNS(t, "db"), w: w, name: project + "-db-1"}
	w.plug(db.ns, "second0", "br-second", "10.213.9.10/24")
	db.ip4(gateway)
	db.serveTCP("db", ":81")
	w.outside.serveTCP("outside", ":80")
	w.docker.AddContainer(fakedocker.Container{
		Name: db.name, Labels: map[string]string{"com.docker.compose.project": project, "anchord.expose": "tcp/81"},
		Networks: map[string]network.EndpointSettings{second: endpoint(db.ns, "second0", "10.213.9.10")},
	})
	a := w.anchord().ready()
	ext := a.leased()
	eventually(t, deadline, w.client.answers("tcp", ext+":80", "web "+clientIP))
	eventually(t, deadline, w.client.answers("tcp", ext+":81", "db "+clientIP))
	eventually(t, deadline, db.answers("tcp", outsideIP+":80", "outside "+ext))
	t.Run("nothing goes between the two", func(t *testing.T) {
		for _, c := range []func() error{web.silent("tcp", "10.213.9.10:81"), db.silent("tcp", web.ip+":80")} {
			if err := c(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("but by the project's address, as on a server", func(t *testing.T) {
		eventually(t, deadline, db.answers("tcp", ext+":80", "web "+ext))
		eventually(t, deadline, web.answers("tcp", ext+":81", "db "+ext))
	})
}
