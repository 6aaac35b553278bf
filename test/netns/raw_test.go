package netns_test

import (
	"os/exec"
	"testing"
)

// withoutRaw starts a command as a container does that has no NET_RAW.
func withoutRaw(cmd *exec.Cmd) *exec.Cmd {
	less := exec.Command("setpriv", append([]string{"--bounding-set=-net_raw"}, cmd.Args...)...)
	less.Env = cmd.Env
	return less
}

func TestNetworkAnchorWithoutRawSockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{bootstrap: "198.51.100.77"})
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	a := w.launch(w.box, w.runDir(), withoutRaw(w.command(w.boxID, nil))).ready()
	eventually(t, hang, w.client.answers("tcp", "198.51.100.77:80", "web "+clientIP))
	eventually(t, hang, a.logs("route.routers_unheard", "NET_RAW"))
}

func TestServiceAnchorWithoutRawSockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{internal: true})
	app := w.internalApp("app", 10)
	runDir := w.dir + "/sa"
	cmd := w.command("sa", []string{"ANCHORD_GATEWAY_IP=" + boxIP, "ANCHORD_RUN_DIR=" + runDir}, "service-anchor")
	a := w.launch(app.ns, runDir, withoutRaw(cmd)).ready()
	eventually(t, hang, app.hasRoute(via(boxIP)))
	eventually(t, hang, a.logs("gateway.announcements_unheard", "NET_RAW"))
}
