package netns_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80,udp/53")
	web.serveTCP("web", ":80")
	old := r.backend("old", 11, "tcp/81")
	old.serveTCP("old", ":81")
	r.outside.serveTCP("outside", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	in, out := r.client.session(r.addr(80)), web.session(outsideIP+":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(81), "old "+clientIP))
	r.a.crash()
	r.docker.Remove(old.id)
	if err := in.echo(); err != nil {
		t.Errorf("a connection did not survive the kill: %v", err)
	}
	r.a = r.anchord().ready()
	for _, s := range []*session{in, out} {
		if err := s.echo(); err != nil {
			t.Errorf("a connection did not survive the new start: %v", err)
		}
	}
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	eventually(t, deadline, r.client.refused("tcp", r.addr(81)))
	if got := r.a.leased(); got != r.ext {
		t.Errorf("the address is now %s, was %s", got, r.ext)
	}
	eventually(t, deadline, func() error {
		if n := strings.Count(r.box.run("nft", "list", "ruleset"), "\ntable "); n > 2 {
			return fmt.Errorf("%d tables", n)
		}
		out, _ := r.box.try("sh", "-c", "ip -4 -o addr show | grep -c -e lan0 -e transit0")
		if strings.TrimSpace(out) != "3" {
			return fmt.Errorf("%s addresses, want one on lan0 and two on transit0", out)
		}
		return nil
	})
	r.oneClient(t)
	r.a.terminate()
	r.leftNothing(t)
}

// oneClient checks that one DHCP client runs in the box, and no stale one.
func (r *running) oneClient(t *testing.T) {
	t.Helper()
	eventually(t, deadline, func() error {
		if n := r.box.processes("udhcpc"); n != 1 {
			return fmt.Errorf("%d DHCP clients run", n)
		}
		return nil
	})
}

// leftNothing checks that what anchord added is gone.
func (r *running) leftNothing(t *testing.T) {
	t.Helper()
	if out := r.box.run("nft", "list", "tables"); strings.Contains(out, "anchord") {
		t.Errorf("tables are left: %q", out)
	}
	if out := r.box.run("ip", "-4", "route", "show", "default"); out != "" {
		t.Errorf("a default route is left: %q", out)
	}
	out := r.box.run("ip", "-4", "-o", "addr", "show")
	if strings.Contains(out, "lan0") || strings.Contains(out, transitGW+"/") || !strings.Contains(out, boxIP+"/") {
		t.Errorf("addresses are left:\n%s", out)
	}
	if n := r.box.processes(""); n != 0 {
		t.Errorf("%d processes are left", n)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	if took := r.a.terminate(); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	eventually(t, deadline, func() error {
		if !r.d.errOut.contains("DHCPRELEASE(eth0) " + r.ext) {
			return fmt.Errorf("dnsmasq got no release:\n%s", r.d.errOut)
		}
		if len(r.d.table()) != 0 {
			return fmt.Errorf("the lease table still has %v", r.d.table())
		}
		return nil
	})
	r.leftNothing(t)
	for _, event := range []string{"anchord.stopping", "anchord.stopped"} {
		if len(r.a.entries(event)) == 0 {
			t.Errorf("no log entry %s", event)
		}
	}
	if err := r.client.silent("tcp", r.addr(80))(); err != nil {
		t.Error(err)
	}
}

func TestStopWhileDockerAndTheDHCPServerAreSilent(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	r.docker.Down()
	r.d.kill()
	if took := r.a.terminate(); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	r.leftNothing(t)
}

func TestStopBeforeAnythingWorked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.docker.Down()
	a := w.anchord()
	eventually(t, hang, a.logs("docker.lost"))
	if took := a.terminate(); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	(&running{world: w, a: a}).leftNothing(t)
}

// processes counts the processes inside whose name begins so.
func (n *ns) processes(name string) int {
	count := 0
	for _, pid := range n.pids() {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.HasPrefix(string(comm), name) {
			count++
		}
	}
	return count
}

// lasting is processes without those that are about to become something else.
func (n *ns) lasting(name string) int {
	n.t.Helper()
	count, before := 0, -1
	eventually(n.t, hang, func() error {
		if count, before = n.processes(name), count; count != before {
			return fmt.Errorf("%d processes called %q, a moment ago %d", count, name, before)
		}
		return nil
	})
	return count
}

func TestAnchordIsReadyWithinASecond(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.startDnsmasq()
	var a *anchord
	promise(t, func() { a = w.anchord() }, func() error {
		status, _, err := a.get("/readyz")
		if err == nil && status != 200 {
			err = fmt.Errorf("/readyz says %d", status)
		}
		return err
	})
	a.leased()
	if took := time.Since(a.started); took > 3*time.Second {
		t.Errorf("an address on the LAN after %v, want at most 3 s", took)
	}
}
