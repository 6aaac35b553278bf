package netns_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAReleasedLeaseIsNotUsedUnasked(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	r.a.terminate()
	r.d.kill()
	r.a = r.anchord().ready()
	throughout(t, time.Second, func() error {
		if addr, err := r.extAddress(); err == nil {
			return fmt.Errorf("no server gave it, and yet lan0 has %s", addr)
		}
		return nil
	})
	if bound := r.a.entries("dhcp.bound"); len(bound) > 0 {
		t.Errorf("no server gave it, and yet it is told: %v", bound)
	}
}

// An address comes back with another container, and so another MAC; the kernel
// remembers the last one for a minute, whether or not that was exposed.
func TestABackendWithAnotherMACIsReachedAtOnce(t *testing.T) {
	t.Parallel()
	for name, label := range map[string]string{"of a service": "tcp/80", "of a container that is not exposed": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, setup{ipv6: true})
			ext6 := r.ext6()
			r.outside.serveTCP("outside", ":80")
			old := r.backend("old", 10, label)
			eventually(t, hang, old.answers("tcp", outsideIP+":80", "outside "+r.ext))
			eventually(t, hang, old.answers("tcp", on6(outsideIP6, 80), "outside "+ext6))
			old.vanish()
			r.docker.Remove(old.id)
			again := r.bare("again", 10)
			again.serveTCP("new", ":80")
			promise(t, func() { again.id = r.docker.AddContainer(again.container("tcp/80")) },
				r.client.answers("tcp", r.addr(80), "new "+clientIP), r.client.answers("tcp", on6(ext6, 80), "new "+clientIP6))
		})
	}
}

func TestStopAfterTheLANInterfaceIsGone(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	r.box.ip("link delete lan0\n")
	r.docker.Disconnect(r.boxID, lanNetwork)
	eventually(t, deadline, r.a.logs("network.ext_missing"))
	r.a.terminate()
	r.leftNothing(t)
}

// The MACs by which Docker knows the interfaces are changed by hand: they stay the
// same interfaces, and the LAN's gets its own MAC back.
func TestMACsThatSomebodyChangesAreNoOtherInterfaces(t *testing.T) {
	t.Parallel()
	r := start(t, setup{ipv6: true})
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	answers := r.client.answers("tcp", r.addr(80), "web "+clientIP)
	eventually(t, deadline, answers)
	r.box.ip("link set lan0 address 02:00:00:00:00:99\n")
	eventually(t, deadline, func() error {
		if out := r.box.run("ip", "link", "show", "dev", "lan0"); !strings.Contains(out, derivedMAC) {
			return errors.New(out)
		}
		return nil
	})
	eventually(t, deadline, answers)
	r.box.ip("link set transit0 address 02:00:00:00:00:98\n")
	late := r.backend("late", 11, "tcp/81")
	late.serveTCP("late", ":81")
	eventually(t, deadline, r.client.answers("tcp", r.addr(81), "late "+clientIP))
	eventually(t, deadline, answers)
	if missed := slices.Concat(r.a.entries("network.ext_missing"), r.a.entries("network.transit_missing")); len(missed) > 0 {
		t.Errorf("an interface was missed: %v", missed)
	}
}

// leaveTransit takes the box off the services' network, as docker does.
func (w *world) leaveTransit() {
	w.box.try("ip", "link", "delete", "transit0")
	w.docker.Disconnect(w.boxID, transitNet)
}

// rejoinTransit connects it again: with the same name and another MAC.
func (w *world) rejoinTransit(ip, ip6 string) {
	w.plug(w.box, "transit0", "br-transit", ip+"/24", ip6+"/64")
	w.docker.Connect(w.boxID, transitNet, w.transitEndpoint(w.box, ip, ip6, true, "anchord"))
}

func TestTheServicesNetworkIsLeftAndJoinedAgain(t *testing.T) {
	t.Parallel()
	r := start(t, setup{ipv6: true})
	ext6 := r.ext6()
	r.outside.serveTCP("outside", ":80")
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	inIPv4 := []func() error{r.client.answers("tcp", r.addr(80), "web "+clientIP), web.answers("tcp", outsideIP+":80", "outside "+r.ext)}
	inIPv6 := []func() error{r.client.answers("tcp", on6(ext6, 80), "web "+clientIP6), web.answers("tcp", on6(outsideIP6, 80), "outside "+ext6)}
	for _, c := range slices.Concat(inIPv4, inIPv6) {
		eventually(t, hang, c)
	}
	r.leaveTransit()
	eventually(t, deadline, r.a.logs("network.shared_missing"))
	promise(t, func() { r.rejoinTransit(boxIP, boxIP6) }, inIPv4...)
	for _, c := range inIPv6 { // once the kernel has found the new interface's own address free
		eventually(t, deadline, c)
	}
	if failed := r.a.entries("address.announce_failed"); len(failed) > 0 {
		t.Errorf("it could not say where it is: %v", failed)
	}
}

func TestARouteInTheShadowOfAnotherIsFreed(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	r.box.run("ip", "route", "prepend", "default", "via", "10.213.0.9", "dev", "transit0")
	eventually(t, deadline, func() error {
		if out := r.box.run("ip", "-4", "route", "show", "default"); !strings.HasPrefix(out, "default via "+routerIP) {
			return errors.New(out)
		}
		return nil
	})
	if n := len(r.a.entries("route.reasserted")); n > 3 {
		t.Errorf("told %d times", n)
	}
}

func TestAnOldConnectionDoesNotOutliveItsBackendAndAKill(t *testing.T) {
	t.Parallel()
	const ext = "198.51.100.77"
	w := newWorld(t, setup{bootstrap: ext})
	r := &running{world: w, ext: ext}
	r.a = w.anchord().ready()
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	s := r.client.session(r.addr(80))
	r.a.crash()
	r.docker.Remove(web.id)
	r.a = w.anchord().ready()
	eventually(t, deadline, func() error {
		if s.echo() == nil {
			return errors.New("the connection to a backend that is no more still answers")
		}
		return nil
	})
}

func TestAHookThatCannotWriteIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	leases := w.runDir() + "/leases"
	if err := os.MkdirAll(leases, 0o700); err != nil {
		t.Fatal(err)
	}
	w.sw.run("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "full", leases)
	t.Cleanup(func() { w.sw.run("umount", "-l", leases) })
	w.startDnsmasq(setup{}.dnsmasqArgs()...)
	a := w.anchord().ready()
	eventually(t, hang, a.logs("dhcp.hook_failed"))
}

func TestASecondAnchordInTheSamePlaceIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	second := r.launch(r.box, r.runDir(), r.command(r.boxID, nil))
	select {
	case <-second.exited:
	case <-time.After(hang):
		t.Fatal("it runs")
	}
	if status, _, err := r.a.get("/readyz"); err != nil || status != 200 {
		t.Errorf("the first one answers %d (%v)", status, err)
	}
}

func TestManyFlowsOfAGoneBackendDelayNobody(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	turn := r.bare("turn", 10)
	turn.serveUDP("turn", ":50000")
	turn.id = r.docker.AddContainer(turn.container("udp/49152-65535"))
	eventually(t, deadline, r.client.answers("udp", r.addr(50000), "turn "+clientIP))
	err := in(r.client, func() error {
		for port := 49152; port < 49152+1500; port++ {
			c, err := net.Dial("udp", r.addr(port))
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	turn.vanish()
	r.docker.Remove(turn.id)
	again := r.bare("again", 11)
	again.serveUDP("new", ":50000")
	again.serveTCP("new", ":80")
	again.id = r.docker.AddContainer(again.container("udp/49152-65535,tcp/80"))
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "new "+clientIP))
	eventually(t, deadline, r.client.answers("udp", r.addr(50000), "new "+clientIP))
	if n := len(r.a.entries("conntrack.flushed")); n > 5 {
		t.Errorf("told %d times", n)
	}
}
