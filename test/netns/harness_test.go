package netns_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A harness that is broken must not look like a program that is broken: this
// uses every part of it with plain commands in the place of anchord.
func TestHarness(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	d := w.startDnsmasq()
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	web.serveUDP("web", ":53")
	w.plain.serveTCP("plain", ":80")
	w.outside.serveTCP("outside", ":80")

	events := w.box.monitor("ip", "monitor", "address")
	rules := w.box.monitor("nft", "monitor")
	dhcp := w.client.capture("eth0", "port 67")
	hook := w.hook("[ \"$1\" = bound ] && ip addr add $ip/$mask dev lan0 && ip route add default via $router")
	w.box.run("udhcpc", "-f", "-q", "-i", "lan0", "-s", hook, "-x", "hostname:shop", "-x", "0x3d:0073686f70")
	ext, err := w.extAddress()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, deadline, dhcp.sees(`BOOTP/DHCP, Request`))
	if got, want := d.table(), []lease{{boxMAC, ext, "shop", "00:73:68:6f:70"}}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("lease table %v, want %v", got, want)
	}

	w.box.ip("addr add " + transitGW + "/24 dev transit0\n")
	if _, err := w.box.feed(`table ip t {
		chain pre { type nat hook prerouting priority dstnat; tcp dport 80 iifname lan0 dnat to 10.213.0.10; udp dport 53 iifname lan0 dnat to 10.213.0.10; }
		chain post { type nat hook postrouting priority srcnat; oifname lan0 masquerade; }
	}`+"\n", "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []func() error{
		w.client.answers("tcp", ext+":80", "web "+clientIP),
		w.client.answers("udp", ext+":53", "web "+clientIP),
		w.client.answers("tcp", plainIP+":80", "plain "+clientIP),
		w.outside.answers("tcp", ext+":80", "web "+outsideIP),
		web.answers("tcp", outsideIP+":80", "outside "+ext),
		w.client.session(ext + ":80").echo,
		w.client.refused("tcp", plainIP+":81"),
		w.client.silent("udp", plainIP+":81"),
	} {
		eventually(t, deadline, c)
	}
	if out := w.box.run("conntrack", "-L", "-p", "tcp", "--reply-src", web.ip); !strings.Contains(out, "dport=80") {
		t.Errorf("conntrack does not show the connection: %s", out)
	}
	for _, p := range []*proc{events, rules} {
		eventually(t, deadline, func() error {
			if len(p.out.list()) == 0 {
				return fmt.Errorf("%v saw nothing", p.cmd.Args)
			}
			return nil
		})
	}
	if !w.sw.sees(w.box.mac("lan0"), "br-lan") {
		t.Error("the switch has not learnt lan0's address")
	}
}

// sees says whether a bridge has learnt a MAC.
func (n *ns) sees(mac, bridge string) bool {
	return strings.Contains(n.run("bridge", "fdb", "show", "br", bridge), mac)
}

// hook is a script for udhcpc.
func (w *world) hook(script string) string {
	w.t.Helper()
	path := w.write("hook", "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(path, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return path
}
