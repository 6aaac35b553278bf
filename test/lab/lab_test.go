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
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord/test/peer/probe"
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
	os.Exit(m.Run())
}

// orphan makes a lab, says its id and never takes it down.
func orphan() error {
	l, err := Up(context.Background(), Options{Release: "28"})
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
			if !strings.Contains(version, " "+release.Name+".") {
				t.Errorf("the engine is not a %s", release.Name)
			}
			lan := newLAN(t, l, LANOptions{Remote: true})
			addr := macvlanPeer(t, l, lan)
			for _, client := range []*Host{lan.Client, lan.Remote} {
				answer, err := probe.Ask(t.Context(), client, "tcp", netip.AddrPortFrom(addr, 80).String())
				if err != nil {
					t.Fatalf("asking from %s: %v", client.Name, err)
				}
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
	answer, err := probe.Ask(t.Context(), host, "udp", "127.0.0.1:80")
	if err != nil || answer.Local != "127.0.0.1:80" {
		t.Errorf("asked the container from inside: %v, %v", answer, err)
	}
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
// Not parallel: it compares the whole machine.
func TestNothingIsLeft(t *testing.T) {
	before := machine(t)
	l, err := Up(t.Context(), Options{Release: "20.10", Images: []string{ImagePeer}})
	if err != nil {
		t.Fatal(err)
	}
	lan, err := l.LAN(t.Context(), LANOptions{})
	if err != nil {
		t.Fatal(err)
	}
	macvlanPeer(t, l, lan)
	id := killedOwner(t)
	if err := Reap(); err != nil {
		t.Error(err)
	}
	if err := l.Down(); err != nil {
		t.Error(err)
	}
	for kind, was := range before {
		if now := machine(t)[kind]; !slices.Equal(was, now) {
			t.Errorf("%s were\n%s\nand are now, after labs %s and %s,\n%s",
				kind, strings.Join(was, "\n"), l.ID, id, strings.Join(now, "\n"))
		}
	}
}

// killedOwner makes a lab in another process and kills that process.
func killedOwner(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ANCHORD_LAB_ORPHAN=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var id string
	if _, err := fmt.Fscan(out, &id); err != nil {
		t.Fatal("the other process made no lab: ", err)
	}
	cmd.Process.Signal(unix.SIGKILL)
	cmd.Wait()
	labs, err := List()
	if err != nil || !slices.ContainsFunc(labs, func(l Info) bool { return l.ID == id && !l.Alive }) {
		t.Fatalf("lab %s is not listed as dead: %v, %v", id, labs, err)
	}
	return id
}

// A kept lab survives Reap and its process, and can be opened and removed.
func TestKeep(t *testing.T) {
	t.Parallel()
	l, err := Up(t.Context(), Options{Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Open(l.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opened.Client().Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := opened.Down(); err != nil {
		t.Error(err)
	}
	if _, err := Open(l.ID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lab can still be opened: %v", err)
	}
}

// machine is what a lab could leave behind.
func machine(t *testing.T) map[string][]string {
	t.Helper()
	state := map[string][]string{"processes": ourProcesses(t)}
	for kind, command := range map[string]string{
		"namespaces":     "ls /run/netns 2>/dev/null || true",
		"mounts":         "cut -d' ' -f5,9- /proc/self/mountinfo",
		"control groups": "find /sys/fs/cgroup -type d -name 'anchord-lab-*' 2>/dev/null || true",
		"directories":    "ls -d /run/anchord-lab/* /var/tmp/anchord-lab-* 2>/dev/null || true",
		"interfaces":     "ls /sys/class/net",
	} {
		lines := strings.Split(output(t, exec.Command("sh", "-c", command)), "\n")
		slices.Sort(lines)
		state[kind] = lines
	}
	return state
}

// ourProcesses are those that a lab starts.
func ourProcesses(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		line, _ := os.ReadFile(path)
		for _, name := range []string{"dockerd", "containerd", "dnsmasq", "/peer\x00", "tini"} {
			if strings.Contains(string(line), name) {
				found = append(found, path+" "+string(line))
				break
			}
		}
	}
	return found
}

func TestParseLeases(t *testing.T) {
	leases, err := parseLeases("1700000000 02:42:00:00:00:01 198.51.100.16 mail 00:6d\n" +
		"1700000001 02:42:00:00:00:02 198.51.100.17 * *\nduid 00:01\n1 2 3 4 5\n")
	if err != nil || len(leases) != 2 {
		t.Fatalf("%v, %v", leases, err)
	}
	want := Lease{Expiry: time.Unix(1700000000, 0), MAC: net.HardwareAddr{2, 0x42, 0, 0, 0, 1},
		Addr: netip.MustParseAddr("198.51.100.16"), Hostname: "mail", ClientID: "00:6d"}
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
