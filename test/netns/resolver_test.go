package netns_test

import (
	"testing"
)

// Containers ask anchord for names of the outside; it sends them on to the LAN's
// own name servers.
func TestDNSForTheProject(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		env  []string
		want string // "" for nobody
	}{
		{"from the lease", nil, "lease"},
		{"from ANCHORD_DNS", []string{"ANCHORD_DNS=" + outsideIP}, "variable"},
		{"off", []string{"ANCHORD_DNS=off"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			w.startDHCPD(firstIP, shortLease)
			const resolver = "198.51.100.53" // as the server's leases name it
			w.router.ip("addr add " + resolver + "/32 dev eth0\n")
			for _, at := range []string{resolver + ":53"} {
				w.router.serveUDP("lease", at)
				w.router.serveTCP("lease", at)
			}
			w.outside.serveUDP("variable", ":53")
			w.outside.serveTCP("variable", ":53")
			app := w.backend("app", 10, "tcp/80")
			app.serveTCP("app", ":80")
			w.anchord(c.env...).ready()
			eventually(t, hang, w.client.answers("tcp", firstIP+":80", "app "+clientIP))
			if c.want == "" {
				eventually(t, deadline, app.refused("tcp", transitGW+":53"))
				return
			}
			for _, at := range []string{transitGW, boxIP} {
				eventually(t, deadline, app.answers("udp", at+":53", c.want+" "+firstIP))
				eventually(t, deadline, app.answers("tcp", at+":53", c.want+" "+firstIP))
			}
			if err := w.client.refused("tcp", firstIP+":53")(); err != nil {
				t.Errorf("the LAN is served too: %v", err)
			}
		})
	}
}

// A project that serves names on the LAN goes on doing so, also for its own
// containers.
func TestDNSForTheProjectAndAnExposedNameServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.startDHCPD(firstIP, shortLease)
	w.outside.serveUDP("outside", ":53")
	names := w.backend("names", 10, "udp/53")
	names.serveUDP("own", ":53")
	app := w.backend("app", 11, "")
	w.anchord("ANCHORD_DNS=" + outsideIP).ready()
	eventually(t, hang, w.client.answers("udp", firstIP+":53", "own "+clientIP))
	eventually(t, deadline, app.answers("udp", firstIP+":53", "own "+firstIP))
	eventually(t, deadline, app.answers("udp", transitGW+":53", "outside "+firstIP))
}
