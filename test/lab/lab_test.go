package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/peer/probe"
	"github.com/AlexCherrypi/anchord/test/tools"
)

// TestMain serves as the process whose lab is orphaned, too.
func TestMain(m *testing.M) {
	if os.Getenv("ANCHORD_LAB_ORPHAN") != "" {
		if err := orphan(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := tools.Use("test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// orphan makes a lab, says its id and never takes it down.
func orphan() error {
	l, err := Up(context.Background(), Options{Keep: os.Getenv("ANCHORD_LAB_ORPHAN") == "keep"})
	if err != nil {
		return err
	}
	if _, err := l.LAN(context.Background(), LANOptions{}); err != nil {
		return err
	}
	fmt.Println(l.ID)
	select {}
}

// Each release runs a container that a LAN host reaches, both at once.
func TestReleases(t *testing.T) {
	for _, release := range Releases {
		t.Run(release.Name, func(t *testing.T) {
			t.Parallel()
			l := up(t, Options{Release: release.Name, Images: []string{ImagePeer}})
			version := output(t, l.Docker(t.Context(), "version"))
			t.Logf("%s", version)
			if !strings.Contains(version, " "+release.Version+".") {
				t.Errorf("the engine is not a %s", release.Version)
			}
			lan := newLAN(t, l, LANOptions{Remote: true})
			addr := macvlanPeer(t, l, lan)
			for _, client := range []*Host{lan.Client, lan.Remote} {
				answer := asked(t, client, "tcp", netip.AddrPortFrom(addr, 80).String())
				if answer.Peer != answer.From {
					t.Errorf("the service saw %s, the client was %s", answer.Peer, answer.From)
				}
			}
			inside(t, l)
		})
	}
}

// macvlanPeer runs a peer on the LAN with an address that Docker assigns.
func macvlanPeer(t *testing.T, l *Lab, lan *LAN) netip.Addr {
	t.Helper()
	parent, err := lan.Parent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	output(t, l.Docker(t.Context(), "network", "create", "--driver", "macvlan", "--opt", "parent="+parent,
		"--subnet", lan.Prefix.String(), "--gateway", lan.Router.Addr.String(),
		"--ip-range", lan.BootstrapRange.String(), "lan"))
	output(t, l.Docker(t.Context(), "run", "--detach", "--name", "web", "--network", "lan", ImagePeer))
	addr := output(t, l.Docker(t.Context(), "inspect", "--format", "{{.NetworkSettings.Networks.lan.IPAddress}}", "web"))
	return netip.MustParseAddr(strings.TrimSpace(addr))
}

// inside checks that a container's namespace can be entered.
func inside(t *testing.T, l *Lab) {
	t.Helper()
	host, err := l.Enter(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if answer := asked(t, host, "udp", "127.0.0.1:80"); answer.Local != "127.0.0.1:80" {
		t.Errorf("asked the container from inside: %v", answer)
	}
}

// asked is a peer's answer, which may have to begin first.
func asked(t *testing.T, from *Host, network, address string) (answer probe.Answer) {
	t.Helper()
	var err error
	if limit := waitFor(t.Context(), 20*time.Second, func() (bool, error) {
		answer, err = probe.Ask(t.Context(), from, network, address)
		return err == nil, nil
	}); limit != nil {
		t.Fatalf("asking %s from %s: %v", address, from.Name, err)
	}
	return answer
}

// A client gets an address, sees the lease time asked for and follows the
// server to another address.
func TestDHCP(t *testing.T) {
	t.Parallel()
	l := up(t, Options{})
	lan := newLAN(t, l, LANOptions{LeaseTime: 20 * time.Second})
	host, err := lan.AddHost(t.Context(), "laptop")
	if err != nil {
		t.Fatal(err)
	}
	lease := func() string {
		return output(t, host.Command(t.Context(), "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "3", "-T", "1",
			"-x", "hostname:laptop", "-s", script(t)))
	}
	got := lease()
	if !strings.Contains(got, "lease=20\n") || !strings.Contains(got, "router="+lan.Router.Addr.String()+"\n") {
		t.Errorf("the client was told:\n%s", got)
	}
	leases, err := lan.Leases()
	if err != nil || len(leases) != 1 || leases[0].Hostname != "laptop" || !lan.Pool.Contains(leases[0].Addr) {
		t.Fatalf("leases are %v, %v", leases, err)
	}
	want := lan.Pool.Last
	err = lan.ConfigureDHCP(t.Context(), func(c *DHCPConfig) {
		c.Reservations = []Reservation{{Hostname: "laptop", Addr: want}}
		c.Router = netip.Addr{}
		c.ForgetLeases = true
	})
	if err != nil {
		t.Fatal(err)
	}
	got = lease()
	if !strings.Contains(got, "ip="+want.String()+"\n") || strings.Contains(got, "router=") {
		t.Errorf("after the change the client was told:\n%s", got)
	}
}

// A LAN that is closed has left the Docker host at once, although a namespace
// ends only when nobody holds it any more, and the next LAN can have its routes.
func TestClosedLAN(t *testing.T) {
	t.Parallel()
	l := up(t, Options{})
	route := func(lan *LAN) {
		parent, err := lan.Parent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		output(t, l.Root().Command(t.Context(), "ip", "route", "add", "default", "dev", parent))
	}
	first, err := l.LAN(t.Context(), LANOptions{NoDHCP: true})
	if err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(first.Switch.path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	route(first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	route(newLAN(t, l, LANOptions{NoDHCP: true}))
}

// script is an udhcpc hook that says what it was told.
func script(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "hook")
	text := "#!/bin/sh\n[ \"$1\" != bound ] || env\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// The image builds on a base without a registry, and its tools are there.
func TestImage(t *testing.T) {
	t.Parallel()
	for _, release := range Releases {
		t.Run(release.Name, func(t *testing.T) {
			t.Parallel()
			l := up(t, Options{Release: release.Name, Images: []string{ImageAnchord, ImageNginx}})
			output(t, l.Docker(t.Context(), "run", "--rm", "--entrypoint", "nft", ImageAnchord, "--version"))
			output(t, l.Docker(t.Context(), "run", "--rm", ImageAnchord, "version"))
			output(t, l.Docker(t.Context(), "run", "--detach", "--name", "web", ImageNginx))
			web, err := l.Enter(t.Context(), "web")
			if err != nil {
				t.Fatal(err)
			}
			if err := get(t.Context(), web, "127.0.0.1:80"); err != nil {
				t.Error(err)
			}
		})
	}
}

// get fetches a page once the server is there.
func get(ctx context.Context, host *Host, address string) error {
	return waitFor(ctx, 10*time.Second, func() (bool, error) {
		conn, err := host.DialContext(ctx, "tcp", address)
		if err != nil {
			return false, nil
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		page, err := io.ReadAll(conn)
		return strings.Contains(string(page), "200 OK"), err
	})
}

// Down removes everything, and so does Reap for a lab whose process was killed.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	l, err := Up(t.Context(), Options{Release: "20.10", Images: []string{ImagePeer}})
	if err != nil {
		t.Fatal(err)
	}
	lan, err := l.LAN(t.Context(), LANOptions{})
	if err != nil {
		t.Fatal(err)
	}
	macvlanPeer(t, l, lan)
	mine := members(t, l.record)
	dead, theirs := killedOwner(t, "reap")
	if len(mine) < 6 || len(theirs) < 4 { // init, dockerd, containerd, dnsmasq; shim, peer
		t.Errorf("the labs' processes are only %v and %v", mine, theirs)
	}
	if err := Reap(); err != nil {
		t.Error(err)
	}
	if err := l.Down(); err != nil {
		t.Error(err)
	}
	for _, process := range append(mine, theirs...) {
		if process.alive() {
			t.Errorf("process %d still runs", process.PID)
		}
	}
	checkGone(t, l.ID)
	checkGone(t, dead.ID)
}

// An Up that is interrupted cleans up by itself, wherever it was.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, limit := range []time.Duration{1, 20 * time.Millisecond, 60 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(limit.String(), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			l, err := Up(ctx, Options{Images: []string{ImageNginx}})
			if err == nil {
				l.Down()
				t.Fatal("the lab came up all the same")
			}
			t.Log(err)
			id := regexp.MustCompile(`lab ([0-9a-f]{8})`).FindStringSubmatch(err.Error())
			if id == nil {
				t.Fatal("the error does not name the lab")
			}
			checkGone(t, id[1])
		})
	}
}

// killedOwner makes a lab in another process and kills that process. What ran
// in the lab is looked up before, because after it any other test's Up may
// remove the lab.
func killedOwner(t *testing.T, mode string) (record, []processID) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ANCHORD_LAB_ORPHAN="+mode)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var id string
	if _, err := fmt.Fscan(out, &id); err != nil {
		t.Fatal("the other process made no lab: ", err)
	}
	r, err := loadRecord(id)
	if err != nil {
		t.Fatal(err)
	}
	processes := members(t, r)
	cmd.Process.Kill()
	cmd.Wait()
	return r, processes
}

// A kept lab survives Reap and its process, and can be opened and removed.
func TestKeep(t *testing.T) {
	t.Parallel()
	kept, processes := killedOwner(t, "keep")
	if err := Reap(); err != nil {
		t.Error(err)
	}
	labs, err := List()
	if err != nil || !slices.ContainsFunc(labs, func(l Info) bool { return l.ID == kept.ID && l.Keep && !l.Alive }) {
		t.Errorf("lab %s is not listed as kept and without its owner: %v, %v", kept.ID, labs, err)
	}
	l, err := Open(kept.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Client().Ping(t.Context()); err != nil {
		t.Error(err)
	}
	running := slices.DeleteFunc(slices.Clone(processes), func(p processID) bool { return !p.alive() })
	if len(running) < 4 { // init, dockerd, containerd, dnsmasq
		t.Errorf("of the kept lab's %v only %v outlived its owner", processes, running)
	}
	if err := l.Down(); err != nil {
		t.Error(err)
	}
	for _, process := range processes {
		if process.alive() {
			t.Errorf("process %d still runs", process.PID)
		}
	}
	checkGone(t, kept.ID)
	if _, err := Open(kept.ID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lab can still be opened: %v", err)
	}
}

// members are the processes in a lab's namespaces and all below the engine,
// which are those of containers.
func members(t *testing.T, r record) []processID {
	t.Helper()
	names, err := r.namespaces()
	if err != nil {
		t.Fatal(err)
	}
	pids := processesIn(names...)
	for i := 0; i < len(pids); i++ {
		children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		for _, path := range children {
			text, _ := os.ReadFile(path)
			for _, field := range strings.Fields(string(text)) {
				if pid, _ := strconv.Atoi(field); !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
		}
	}
	var processes []processID
	for _, pid := range pids {
		processes = append(processes, processID{PID: pid, Start: startTime(pid)})
	}
	return processes
}

// checkGone looks in all the places where a lab leaves its id.
func checkGone(t *testing.T, id string) {
	t.Helper()
	for kind, command := range map[string]string{
		"namespaces":     "ls /run/netns",
		"mounts":         "cat /proc/self/mountinfo",
		"control groups": "find /sys/fs/cgroup -type d",
		"directories":    "ls /run/anchord-lab /var/tmp",
		"processes":      "cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
	} {
		out, _ := exec.Command("sh", "-c", command).Output()
		if strings.Contains(string(out), id) {
			t.Errorf("lab %s has left some of its %s", id, kind)
		}
	}
}

func TestParseLeases(t *testing.T) {
	leases, err := parseLeases("1700000000 02:42:00:00:00:01 198.51.100.16 mail 00:6d\n" +
		"1700000001 02:42:00:00:00:02 198.51.100.17 * *\nduid 00:01\n1 2 3 4 5\n")
	if err != nil || len(leases) != 2 {
		t.Fatalf("%v, %v", leases, err)
	}
	want := Lease{
		Expiry: time.Unix(1700000000, 0), MAC: net.HardwareAddr{2, 0x42, 0, 0, 0, 1},
		Addr: netip.MustParseAddr("198.51.100.16"), Hostname: "mail", ClientID: "00:6d",
	}
	if fmt.Sprint(leases[0]) != fmt.Sprint(want) || leases[1].Hostname != "" || leases[1].ClientID != "" {
		t.Errorf("%v", leases)
	}
	if _, err := parseLeases("nonsense\n"); err == nil {
		t.Error("nonsense was taken for a lease")
	}
}

func up(t *testing.T, options Options) *Lab {
	t.Helper()
	options.Log = os.Stderr
	l, err := Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func newLAN(t *testing.T, l *Lab, options LANOptions) *LAN {
	t.Helper()
	lan, err := l.LAN(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lan.Close(); err != nil {
			t.Error(err)
		}
	})
	return lan
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return string(out)
}
