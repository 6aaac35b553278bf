package netns_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// problems says whether the status tells of exactly these events.
func (a *anchord) problems(events ...string) func() error {
	return func() error {
		var s struct {
			Problems []struct{ Event, Message string }
		}
		if err := json.Unmarshal([]byte(a.status()), &s); err != nil {
			return err
		}
		var told []string
		for _, p := range s.Problems {
			told = append(told, p.Event)
		}
		slices.Sort(told)
		if !slices.Equal(told, events) {
			return fmt.Errorf("the problems are %+v, want %q", s.Problems, events)
		}
		return nil
	}
}

// What keeps the LAN from the services, although anchord has done all that is its
// own to do, stands in the log and in the status as long as it lasts.
func TestStatusTellsWhatKeepsClientsOut(t *testing.T) {
	t.Parallel()
	r := start(t, setup{ipv6: true}, "ANCHORD_POLL_INTERVAL=1")
	web := r.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	eventually(t, deadline, r.a.problems())

	r.box.sysctl("net.ipv4.ip_forward", "0")
	eventually(t, deadline, r.a.problems("network.forwarding_off"))
	eventually(t, deadline, r.a.logs("network.forwarding_off", `"level":"error"`, `sysctls: {net.ipv4.ip_forward: \"1\"}`))
	r.box.sysctl("net.ipv4.ip_forward", "1")
	eventually(t, deadline, r.a.logs("notice.cleared", "network.forwarding_off"))
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))

	r.box.sysctl("net.ipv6.conf.all.forwarding", "0")
	eventually(t, deadline, r.a.problems("network.forwarding_off"))
	r.box.sysctl("net.ipv6.conf.all.forwarding", "1")
	eventually(t, deadline, r.a.problems())

	// Its way back leads elsewhere, as where Docker keeps the gateway.
	web.run("ip", "route", "delete", "default")
	answered := make(chan error)
	go func() { answered <- r.client.answers("tcp", r.addr(80), "web "+clientIP)() }()
	eventually(t, deadline, r.a.problems("expose.backend_unreachable"))
	if s := r.a.status(); !strings.Contains(s, web.name+" does not answer what is sent on to it (tcp/80 at 10.213.0.10:80)") {
		t.Errorf("the status says\n%s", s)
	}
	web.run("ip", "route", "add", "default", "via", transitGW)
	<-answered // it may have given up before
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "web "+clientIP))
	eventually(t, hang, r.a.problems())
}

// Without a lease the status says for how long none is given, and why.
func TestStatusWithoutALease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.backend("web", 10, "tcp/80") // without any, the status has a word for that too
	a := w.anchord().ready()
	table := func() string {
		return w.box.run("env", "ANCHORD_RUN_DIR="+w.runDir(), program(t), "status")
	}
	if s := table(); !strings.Contains(s, "none yet, asking for ") || strings.Contains(s, "PROBLEM") {
		t.Errorf("right after the start:\n%s", s)
	}
	eventually(t, hang, a.problems("dhcp.failed"))
	if s := table(); !strings.Contains(s, "NONE: asking for ") || !strings.Contains(s, "1 try in vain") || !strings.Contains(s, "PROBLEM (dhcp.failed): no DHCP server answered") {
		t.Errorf("after a try in vain:\n%s", s)
	}
	w.startDnsmasq(setup{}.dnsmasqArgs()...)
	eventually(t, hang, a.problems())
	if s := table(); strings.Contains(s, "asking") || !strings.Contains(s, "lease v4") {
		t.Errorf("with a lease:\n%s", s)
	}
}
