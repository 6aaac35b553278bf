package netns_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helper is a service-anchor in an application's namespace.
type helper struct {
	*anchord
	app    *backend
	resolv string
}

// internalApp is a container on an internal network: no default route.
func (w *world) internalApp(name string, host int) *backend {
	w.t.Helper()
	b := w.bare(name, host)
	b.run("ip", "route", "delete", "default")
	b.run("ip", "-6", "route", "delete", "default")
	return b
}

// serviceAnchor starts one. It must not need Docker.
func (w *world) serviceAnchor(b *backend, env ...string) *helper {
	w.t.Helper()
	h := &helper{app: b, resolv: w.resolvConf()}
	runDir := filepath.Join(w.dir, "sa-"+b.ns.name)
	env = append([]string{"ANCHORD_RUN_DIR=" + runDir, "DOCKER_HOST=unix:///nonexistent"}, env...)
	h.anchord = w.launch(b.ns, runDir, w.command("sa", env, "service-anchor"))
	return h
}

// names is a DNS server on the transit network.
type names struct {
	*proc
	w    *world
	file string
}

const namesIP = "10.213.0.53"

// startNames answers for one name and makes it the containers' resolver.
func (w *world) startNames(host, ip string) *names {
	w.t.Helper()
	n := newNS(w.t, "names")
	w.plug(n, "transit0", "br-transit", namesIP+"/24")
	s := &names{w: w, file: w.write("hosts", ip+" "+host+"\n")}
	w.write("resolv.conf", "nameserver "+namesIP+"\noptions timeout:1 attempts:1\n")
	w.dns = filepath.Join(w.dir, "resolv.conf")
	s.proc = n.start("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts",
		"--pid-file=", "--addn-hosts="+s.file, "--local-ttl=0", "--log-facility=-", "--log-queries", "--local=/#/")
	eventually(w.t, hang, func() error {
		if !s.errOut.contains("read " + s.file) {
			return fmt.Errorf("dnsmasq is not ready: %s", s.errOut)
		}
		return nil
	})
	return s
}

// set changes what the name means.
func (s *names) set(text string) {
	s.w.write("hosts", text)
	before := strings.Count(s.errOut.String(), "read "+s.file)
	s.signal(syscall.SIGHUP)
	eventually(s.w.t, hang, func() error {
		if strings.Count(s.errOut.String(), "read "+s.file) == before {
			return fmt.Errorf("dnsmasq has not read the new names")
		}
		return nil
	})
}

func via(gateway string) string { return "default via " + gateway + " dev transit0" }

func TestServiceAnchorPinnedGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	app := w.internalApp("app", 10)
	app.ns.ip("route add 203.0.113.0/25 via 10.213.0.9\n")
	h := w.serviceAnchor(app, "ANCHORD_GATEWAY_IP=fd5a:1::2,"+boxIP)
	eventually(t, hang, app.hasRoute(via(boxIP)))
	eventually(t, deadline, func() error {
		if out := app.run("ip", "-6", "route", "show", "default"); !strings.Contains(out, "via fd5a:1::2 dev transit0") {
			return fmt.Errorf("the IPv6 default route is %q", out)
		}
		return nil
	})
	h.ready()
	eventually(t, deadline, h.metricIs(`anchord_default_route_present{family="v4"}`, 1))
	for name, line := range map[string]string{
		"replaced": "route replace default via 10.213.0.9 dev transit0",
		"deleted":  "route delete default",
	} {
		t.Run(name, func(t *testing.T) {
			replaces := h.count(`anchord_gateway_route_replaces_total{family="v4"}`)
			promise(t, func() { app.ns.ip(line + "\n") }, app.hasRoute(via(boxIP)))
			eventually(t, deadline, func() error {
				if got := h.count(`anchord_gateway_route_replaces_total{family="v4"}`); got <= replaces {
					return fmt.Errorf("anchord_gateway_route_replaces_total is %v, was %v", got, replaces)
				}
				return nil
			})
		})
	}
	if took := h.terminate(); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if out := app.run("ip", "route", "show", "default"); out != "" {
		t.Errorf("the default route is left: %q", out)
	}
	if out := app.run("ip", "-6", "route", "show", "default"); out != "" {
		t.Errorf("the IPv6 default route is left: %q", out)
	}
	if out := app.run("ip", "route", "show", "203.0.113.0/25"); !strings.Contains(out, "10.213.0.9") {
		t.Errorf("another route was touched: %q", out)
	}
}

func TestServiceAnchorFollowsTheName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	dns := w.startNames("anchord", boxIP)
	app := w.internalApp("app", 10)
	h := w.serviceAnchor(app, "ANCHORD_GATEWAY_RESOLVE_INTERVAL=500ms")
	eventually(t, hang, app.hasRoute(via(boxIP)))
	dns.set("10.213.0.3 anchord\n")
	eventually(t, 3*time.Second, app.hasRoute(via("10.213.0.3")))
	// The name is gone, then the whole server: the last good one stays.
	dns.set("10.213.0.9 nobody\n")
	throughout(t, 1500*time.Millisecond, app.hasRoute(via("10.213.0.3")))
	dns.kill()
	throughout(t, 1500*time.Millisecond, app.hasRoute(via("10.213.0.3")))
	eventually(t, deadline, func() error {
		if h.count(`anchord_gateway_resolve_total{family="v4",outcome="error"}`) == 0 {
			return fmt.Errorf("failed lookups are not counted")
		}
		return nil
	})
	if n := len(h.entries("gateway.unresolved")); n > 2 {
		t.Errorf("the failure was logged %d times", n)
	}
}

func TestServiceAnchorAnotherName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	w.startNames("mail-gw", boxIP)
	app := w.internalApp("app", 10)
	w.serviceAnchor(app, "ANCHORD_GATEWAY_HOSTNAME=mail-gw").ready()
	eventually(t, deadline, app.hasRoute(via(boxIP)))
}

func TestServiceAnchorWaitsForTheName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	dns := w.startNames("nobody", boxIP)
	app := w.internalApp("app", 10)
	h := w.serviceAnchor(app)
	eventually(t, hang, h.logs("gateway.unresolved"))
	if status, _, err := h.get("/readyz"); err != nil || status != 503 {
		t.Errorf("/readyz says %d, %v without a route", status, err)
	}
	dns.set(boxIP + " anchord\n")
	eventually(t, hang, app.hasRoute(via(boxIP)))
	h.ready()
}

func TestServiceAnchorAsksAgainAtOnceWhenTheGatewayFalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	dns := w.startNames("anchord", boxIP)
	app := w.internalApp("app", 10)
	// The kernel finds a dead neighbour out in seconds, not in a minute.
	for key, ms := range map[string]string{"base_reachable_time_ms": "1000", "retrans_time_ms": "200", "delay_first_probe_time": "1"} {
		app.sysctl("net.ipv4.neigh.transit0."+key, ms)
	}
	w.serviceAnchor(app, "ANCHORD_GATEWAY_RESOLVE_INTERVAL=1h")
	eventually(t, hang, app.hasRoute(via(boxIP)))
	app.run("busybox", "ping", "-c", "1", "-W", "1", boxIP)
	dns.set("10.213.0.3 anchord\n")
	w.box.run("ip", "link", "set", "transit0", "down")
	app.stream("203.0.113.9:9") // wants the gateway all the time
	promise(t, func() {
		eventually(t, hang, func() error {
			out, _ := app.try("ip", "neigh", "show", boxIP)
			if r, _ := app.try("ip", "route", "show", "default"); strings.Contains(out, "FAILED") || strings.Contains(r, "10.213.0.3") {
				return nil
			}
			return fmt.Errorf("the neighbour is %q", out)
		})
	}, app.hasRoute(via("10.213.0.3")))
}

// An interval of an hour: only the announcement can tell in time.
func TestServiceAnchorFollowsANetworkAnchorThatCameBackElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	dns := w.startNames("anchord", boxIP)
	app := w.internalApp("app", 10)
	w.serviceAnchor(app, "ANCHORD_GATEWAY_RESOLVE_INTERVAL=1h")
	eventually(t, hang, app.hasRoute(via(boxIP)))
	dns.set("10.213.0.3 anchord\n")
	promise(t, func() { w.box.run("busybox", "arping", "-U", "-c", "1", "-I", "transit0", boxIP) }, app.hasRoute(via("10.213.0.3")))
}

func TestServiceAnchorRestoresWhatItFound(t *testing.T) {
	t.Parallel()
	for name, routes := range map[string]string{
		"as Docker sets them": "route add default via " + transitGW + " dev transit0\nroute add default via fd5a:1::1 dev transit0 metric 1024\n",
		"with attributes":     "route add default via " + transitGW + " dev transit0 proto static metric 7 mtu 1400 src 10.213.0.10\nroute add default via fd5a:1::1 dev transit0 proto static metric 9 mtu 1400\n",
		"none":                "",
	} {
		for how, kill := range map[string]bool{"": false, ", after a kill": true} {
			t.Run(name+how, func(t *testing.T) {
				t.Parallel()
				restores(t, routes, kill)
			})
		}
	}
}

func restores(t *testing.T, routes string, kill bool) {
	w := newWorld(t, setup{})
	app := w.internalApp("app", 10)
	if routes != "" {
		app.ns.ip(routes)
	}
	shown := func() string { return app.run("ip", "route", "show") + app.run("ip", "-6", "route", "show") }
	original := shown()
	leads := func() error {
		out4, _ := app.try("ip", "route", "get", outsideIP)
		out6, _ := app.try("ip", "-6", "route", "get", outsideIP6)
		if out := out4 + out6; !strings.Contains(out, "via "+boxIP+" ") || !strings.Contains(out, "via "+boxIP6+" ") {
			return fmt.Errorf("routes: %q", out)
		}
		return nil
	}
	h := w.serviceAnchor(app, "ANCHORD_GATEWAY_IP="+boxIP+","+boxIP6)
	eventually(t, hang, leads)
	if kill {
		h.proc.kill()
		h = w.serviceAnchor(app, "ANCHORD_GATEWAY_IP="+boxIP+","+boxIP6)
	}
	h.ready()
	eventually(t, hang, leads)
	if warned := len(h.entries("gateway.nothing_to_restore")); (warned == 1) != (routes == "") {
		t.Errorf("warned %d times that there is nothing to restore", warned)
	}
	h.terminate()
	if got := shown(); got != original {
		t.Errorf("the routes are\n%swere\n%s", got, original)
	}
}

func TestServiceAnchorIsASecondNameserver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	app := w.internalApp("app", 10)
	original, _ := os.ReadFile(w.resolvConf())
	h := w.serviceAnchor(app, "ANCHORD_GATEWAY_IP="+boxIP)
	eventually(t, hang, app.hasRoute(via(boxIP)))
	eventually(t, deadline, func() error {
		text, _ := os.ReadFile(h.resolv)
		first, second := strings.Index(string(text), "nameserver 127.0.0.11"), strings.Index(string(text), "nameserver "+boxIP)
		if first < 0 || second < first {
			return fmt.Errorf("resolv.conf is\n%s", text)
		}
		return nil
	})
	h.terminate()
	if text, _ := os.ReadFile(h.resolv); string(text) != string(original) {
		t.Errorf("resolv.conf is\n%swas\n%s", text, original)
	}
}

// The whole of the second pattern: an internal transit, a network-anchor, and a
// service-anchor that owns the application's namespace.
func TestServiceAnchorPattern(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	r := &running{world: w, d: w.startDnsmasq()}
	r.a = w.anchord().ready()
	r.ext = r.a.leased()
	app := w.internalApp("app", 10)
	app.serveTCP("app", ":25")
	r.outside.serveTCP("outside", ":80")
	w.serviceAnchor(app, "ANCHORD_GATEWAY_IP="+boxIP).ready()
	app.id = w.docker.AddContainer(app.container("tcp/25"))
	eventually(t, deadline, r.client.answers("tcp", r.addr(25), "app "+clientIP))
	eventually(t, deadline, r.outside.answers("tcp", r.addr(25), "app "+outsideIP))
	eventually(t, deadline, app.answers("tcp", outsideIP+":80", "outside "+r.ext))
}
