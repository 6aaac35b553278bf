// Package script_test runs the real anchord with fakes of every tool that it
// starts. Each fake writes what it was asked into one file, so that a script
// can compare the order of effects across tools, and answers from a file, so
// that each can be made to fail. Docker is fakedocker.
package script_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/network"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
	"github.com/AlexCherrypi/anchord/test/told"
)

func TestMain(m *testing.M) {
	tools := map[string]func(){}
	for _, name := range []string{"nft", "ip", "conntrack", "udhcpc", "busybox", "dhcpcd"} {
		tools[name] = func() { os.Exit(fakeTool(name)) }
	}
	testscript.Main(m, tools)
}

func TestScripts(t *testing.T) {
	bin := build(t)
	rootfs, err := filepath.Abs("../../rootfs")
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir, whose long names are too long for a socket's.
	work, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(work) })
	t.Setenv("GOTMPDIR", work)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			return errors.Join(setUp(env, rootfs), setPath(env, bin))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"docker":   cmdDocker,
			"anchord":  cmdAnchord,
			"await":    cmdAwait,
			"order":    cmdOrder,
			"mentions": cmdMentions,
			"times":    cmdTimes,
			"events":   cmdEvents,
			"json":     cmdJSON,
		},
	})
}

// build compiles the program once and returns its directory.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "anchord"), "./cmd/anchord")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/anchord: %v\n%s", err, out)
	}
	return dir
}

// The project that every script begins with.
const (
	anchordID  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	lanMAC     = "02:42:aa:00:00:01"
	transitMAC = "02:42:aa:00:00:02"
)

// fakeDir is where the fakes of a script write and find their answers.
func fakeDir(work string) string { return filepath.Join(work, "fake") }

// setPath finds the fakes first. The program gives its children little of its
// environment, but PATH it must: so the fakes' directory stands there, in front.
func setPath(env *testscript.Env, bin string) error {
	path := []string{fakeDir(env.WorkDir), env.Getenv("PATH"), bin}
	env.Setenv("BIN", bin)
	env.Setenv("PATH", strings.Join(path, string(filepath.ListSeparator)))
	return nil
}

// state is what a script's commands share.
type state struct {
	docker *fakedocker.Server
	mu     sync.Mutex
	run    *running
}

type stateKey struct{}

// setUp gives a script its engine with anchord's own container, its
// environment and the tools' usual answers, where it brings none of its own.
func setUp(env *testscript.Env, rootfs string) error {
	fake := fakeDir(env.WorkDir)
	if err := os.MkdirAll(fake, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(fake, "rootfs"), []byte(rootfs), 0o644); err != nil {
		return err
	}
	for name, text := range usualAnswers {
		path := filepath.Join(fake, name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	// A unix socket's path must be short.
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		return err
	}
	srv, err := fakedocker.Start(filepath.Join(dir, "sock"))
	if err != nil {
		return err
	}
	st := &state{docker: srv}
	env.Defer(func() {
		st.end()
		checkEvents(env)
		srv.Close()
		os.RemoveAll(dir)
	})
	env.Values[stateKey{}] = st
	st.populate()
	for k, v := range map[string]string{
		"DOCKER_HOST": srv.Host(), "HOSTNAME": anchordID,
		"ANCHORD_RUN_DIR": filepath.Join(dir, "run"), "ANCHORD_METRICS_ADDR": "",
	} {
		env.Setenv(k, v)
	}
	return nil
}

// checkEvents holds the log of a finished script against the list of events.
func checkEvents(env *testscript.Env) {
	log, err := os.ReadFile(filepath.Join(env.WorkDir, "log"))
	if errors.Is(err, os.ErrNotExist) {
		return // nothing was started
	}
	if err := errors.Join(err, told.Log(string(log))); err != nil {
		env.T().Fatal(err)
	}
}

func (st *state) populate() {
	st.docker.SetNetwork(network.Inspect{Name: "shop_lan", Driver: "macvlan"})
	st.docker.SetNetwork(network.Inspect{
		Name: "shop_transit", Driver: "bridge", EnableIPv4: true,
		Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"},
		IPAM:    network.IPAM{Config: []network.IPAMConfig{{Subnet: "10.213.0.0/24", Gateway: "10.213.0.1"}}},
	})
	st.docker.AddContainer(fakedocker.Container{
		ID: anchordID, Name: "shop-anchord-1", Image: "anchord",
		Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "anchord"},
		Networks: map[string]network.EndpointSettings{
			"shop_lan":     {MacAddress: lanMAC},
			"shop_transit": {MacAddress: transitMAC, IPAddress: "10.213.0.2", IPPrefixLen: 24, Gateway: "10.213.0.1"},
		},
	})
}

// usualAnswers is what the tools say in a container that has just started.
// ip-links is without an address on lan0, as Docker leaves it with
// enable_ipv4: false.
var usualAnswers = map[string]string{
	"ip": `address show => stdout=ip-links
link show => stdout=ip-links
route show => stdout=ip-routes
neigh => stdout=ip-routes
`,
	"ip-links": fmt.Sprintf(`[
{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"operstate":"UNKNOWN","link_type":"loopback","address":"00:00:00:00:00:00","addr_info":[]},
{"ifindex":2,"ifname":"lan0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"operstate":"UP","link_type":"ether","address":"%s","broadcast":"ff:ff:ff:ff:ff:ff","addr_info":[]},
{"ifindex":3,"ifname":"transit0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"operstate":"UP","link_type":"ether","address":"%s","broadcast":"ff:ff:ff:ff:ff:ff","addr_info":[{"family":"inet","local":"10.213.0.2","prefixlen":24,"scope":"global","label":"transit0","valid_life_time":4294967295,"preferred_life_time":4294967295}]}
]
`, lanMAC, transitMAC),
	"ip-routes": "[]\n",
	"nft": `list tables => stdout=nft-tables
-j => stdout=nft-json
`,
	"nft-tables": "", // until a transaction makes some
	"nft-json":   `{"nftables":[{"metainfo":{"version":"1.0.6","release_name":"Lester Gooch","json_schema_version":1}}]}` + "\n",
	"conntrack":  "-D => exit=1 stderr=conntrack-none\n", "conntrack-none": "conntrack v1.4.7 (conntrack-tools): 0 flow entries have been deleted.\n",
	"udhcpc": "", "busybox": "", "dhcpcd": "",
}
