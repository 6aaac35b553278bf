// Package hooks_test runs the hook of the DHCP clients under the shells that it
// meets: busybox's ash in the image, dash on Debian. Whatever happens to it, the
// lease file is complete or the one that was there before.
package hooks_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/tools"
)

var shells = map[string][]string{"ash": {"busybox", "ash"}, "dash": {"dash"}}

func TestMain(m *testing.M) {
	if err := tools.Use("demo"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// place is a run directory and where the hook is started.
type place struct {
	t      *testing.T
	shell  []string
	script string
	dir    string // the hook's current directory: nothing may appear in it
	leases string
}

// each runs a test with each of the shells.
func each(t *testing.T, test func(*testing.T, *place)) {
	t.Parallel()
	script, err := filepath.Abs("../../rootfs/usr/share/anchord/dhcp.script")
	if err != nil {
		t.Fatal(err)
	}
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The directory's name is no friend of shells either.
			p := &place{t: t, shell: shell, script: script, dir: t.TempDir(), leases: filepath.Join(t.TempDir(), "-n le ases $(>own)*")}
			if err := os.Mkdir(p.leases, 0o700); err != nil {
				t.Fatal(err)
			}
			test(t, p)
		})
	}
}

// command is the hook's start for an event, by the client's program.
func (p *place) command(event string, env ...string) *exec.Cmd {
	cmd := exec.Command(p.shell[0], append(slices.Clone(p.shell[1:]), p.script)...)
	cmd.Dir = p.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "ANCHORD_LEASE_DIR=" + p.leases, "ANCHORD_BOOT=b"}, env...)
	if strings.ToUpper(event) == event {
		cmd.Env = append(cmd.Env, "reason="+event) // dhcpcd
	} else {
		cmd.Args = append(cmd.Args, event) // udhcpc
	}
	return cmd
}

// run is a start that succeeds without a word.
func (p *place) run(event string, env ...string) {
	p.t.Helper()
	if out, err := p.command(event, env...).CombinedOutput(); err != nil || len(out) > 0 {
		p.t.Errorf("%s: %v, %s", event, err, out)
	}
}

// files are those of the lease directory; anything elsewhere fails the test.
func (p *place) files() []string {
	p.t.Helper()
	for _, dir := range []string{p.dir, filepath.Dir(p.leases)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != filepath.Base(p.leases) {
				p.t.Errorf("%s was made in %s", e.Name(), dir)
			}
		}
	}
	var names []string
	entries, err := os.ReadDir(p.leases)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// told is the file without what the hook adds of its own.
func (p *place) told(file, event string) string {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.leases, file))
	if err != nil {
		p.t.Fatal(err)
	}
	own, rest, _ := strings.Cut(string(data), "\x00uptime=")
	_, rest, found := strings.Cut(rest, "\x00")
	if own != "event="+event || !found {
		p.t.Errorf("%s begins with %q", file, own)
	}
	return rest
}

const lease4 = "interface=lan0\x00ip=198.51.100.77\x00mask=24\x00lease=3600"

func fields(s string) []string { return strings.Split(s, "\x00") }

func TestEachEventHasItsFile(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		for event, file := range map[string]string{
			"bound": "udhcpc.lease", "renew": "udhcpc.lease", "nak": "udhcpc.nak", "deconfig": "", "leasefail": "",
			"BOUND6": "dhcpcd.lease", "RENEW6": "dhcpcd.lease", "REBIND6": "dhcpcd.lease", "EXPIRE6": "dhcpcd.nak",
			"CARRIER": "", "STOPPED": "", "ROUTERADVERT": "", "PREINIT": "",
			"": "", "bound ": "", "bound;>x": "", "$(>x)": "", "*": "", "../x": "", "-x": "",
		} {
			p.run(event, fields(lease4)...)
			want := []string{}
			if file != "" {
				want = append(want, file)
			}
			if got := p.files(); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("%q made %q, want %q", event, got, want)
			}
			if file != "" {
				os.Remove(filepath.Join(p.leases, file))
			}
		}
	})
}

func TestTheFileHoldsExactlyWhatTheClientTold(t *testing.T) {
	const canary = "x\nip=198.51.100.66\nevent=nak\n'\"`>c1`$(>c2);>c3 &|| >c4\\0\\n%s%n\r\x1b[31m\xff\xfe"
	env := fields(lease4)
	for _, name := range []string{"search", "rootpath", "message", "vendor", "bootfile", "wpad", "pxepathprefix", "boot_file", "sname", "domain", "hostname", "opt224", "new_dhcp6_domain_search", "new_dhcp6_bootfile_url"} {
		env = append(env, name+"="+canary)
	}
	// What means something to a shell.
	for _, name := range []string{"ENV", "BASH_ENV", "PS1", "PS4", "CDPATH", "uptime", "event", "file", "tmp", "umask", "IFS", "HOME"} {
		env = append(env, name+"="+canary)
	}
	env = append(env, "long="+strings.Repeat("$(>c5)", 20_000), "empty=", "subnet=255.255.255.0 255.0.0.0")
	each(t, func(t *testing.T, p *place) {
		for event, file := range map[string]string{"bound": "udhcpc.lease", "nak": "udhcpc.nak", "BOUND6": "dhcpcd.lease", "EXPIRE6": "dhcpcd.nak"} {
			p.run(event, env...)
			want := strings.Join(p.command(event, env...).Env, "\x00") + "\x00"
			if got := p.told(file, event); got != want {
				t.Errorf("%s: the file holds %.300q, want %.300q", event, got, want)
			}
			info, err := os.Stat(filepath.Join(p.leases, file))
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("%v, %v; it is nobody else's business", info.Mode(), err)
			}
		}
		if names := p.files(); len(names) != 4 {
			t.Errorf("there are %q", names)
		}
		lease := p.lease()
		if lease.Address.String() != "198.51.100.77/24" || lease.Duration != time.Hour {
			t.Errorf("%+v", lease)
		}
	})
}

// lease is what anchord reads in the file.
func (p *place) lease() anchord.Lease {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.leases, "udhcpc.lease"))
	if err != nil {
		p.t.Fatal(err)
	}
	file, err := anchord.ParseLeaseFile(data)
	if err != nil {
		p.t.Fatalf("%v: %.300q", err, data)
	}
	lease, err := file.Lease()
	if err != nil {
		p.t.Fatal(err)
	}
	return lease
}

func TestAPlaceThatCannotBeWrittenToIsTold(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"it is gone":           os.Remove,
		"it is a file":         func(dir string) error { return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) },
		"its parent is a file": func(dir string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, p *place) {
				if err := spoil(p.leases); err != nil {
					t.Fatal(err)
				}
				cmd := p.command("bound", fields(lease4)...)
				if strings.Contains(name, "parent") {
					cmd.Env = append(cmd.Env, "ANCHORD_LEASE_DIR=/dev/null/x")
				}
				if out, _ := cmd.CombinedOutput(); len(out) == 0 {
					t.Error("not a word")
				}
				if info, err := os.Stat(p.leases); err == nil && !info.IsDir() {
					return
				}
				if names := p.files(); len(names) > 0 {
					t.Errorf("there are %q", names)
				}
			})
		})
	}
}

// full fills a file system of n pages, in which an older lease is, and runs the
// hook there.
const full = `mount -t tmpfs -o "size=$((4096 * $1))" full "$ANCHORD_LEASE_DIR" || exit 77
cp old "$ANCHORD_LEASE_DIR/udhcpc.lease" || exit 77
shift
"$@" >said 2>&1
cat "$ANCHORD_LEASE_DIR/udhcpc.lease" >new
ls -A "$ANCHORD_LEASE_DIR" >names`

func TestOnAFullDiskTheOldLeaseStays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	old := "event=bound\x00uptime=1.00 1\x00" + strings.ReplaceAll(lease4, "77", "66") + "\x00"
	each(t, func(t *testing.T, p *place) {
		for pages := 1; pages <= 3; pages++ { // the last leaves room enough
			for name, text := range map[string]string{"old": old, "said": "", "new": "", "names": ""} {
				if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			hook := p.command("bound", append(fields(lease4), "message="+strings.Repeat("x", 6000))...)
			cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", full, "full", fmt.Sprint(pages)}, hook.Args...)...)
			cmd.Dir, cmd.Env = hook.Dir, hook.Env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			read := func(name string) string {
				data, err := os.ReadFile(filepath.Join(p.dir, name))
				if err != nil {
					t.Fatal(err)
				}
				return string(data)
			}
			if names := read("names"); names != "udhcpc.lease\n" {
				t.Errorf("%d pages: there are %q", pages, names)
			}
			switch enough := pages > 2; {
			case !enough && (read("new") != old || read("said") == ""):
				t.Errorf("%d pages: it said %q, and the lease is %.200q", pages, read("said"), read("new"))
			case enough && (!strings.Contains(read("new"), "ip=198.51.100.77\x00") || read("said") != ""):
				t.Errorf("%d pages: it said %q, and the lease is %.200q", pages, read("said"), read("new"))
			}
		}
	})
}

// A limit of the file's size stands for any fault in the middle of writing.
func TestAHalfWrittenLeaseIsNone(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		for _, blocks := range []int{0, 1, 2, 4} {
			for _, prepare := range []string{"", "trap '' XFSZ; "} {
				hook := p.command("bound", append(fields(lease4), "message="+strings.Repeat("x", 100_000))...)
				cmd := exec.Command("dash", append([]string{"-c", prepare + `ulimit -f "$0"; exec "$@"`, fmt.Sprint(blocks)}, hook.Args...)...)
				cmd.Dir, cmd.Env = hook.Dir, hook.Env
				if out, err := cmd.CombinedOutput(); err == nil && len(out) == 0 {
					t.Errorf("limit %d: not a word", blocks)
				}
				if names := p.files(); slices.Contains(names, "udhcpc.lease") {
					t.Errorf("limit %d: there are %q", blocks, names)
				}
			}
		}
	})
}

// watch reads the file over and over, as anchord may at any moment, and returns
// what stops it; the test fails if it was ever incomplete.
func (p *place) watch(whole func(data []byte) bool) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			if data, err := os.ReadFile(filepath.Join(p.leases, "udhcpc.lease")); err == nil && !whole(data) {
				p.t.Errorf("the lease file is incomplete: %.100q…, %d bytes", data, len(data))
				return
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	return func() { close(done); <-ended }
}

// long is the environment of lease n; its last field says that it is whole.
func long(n int) []string {
	return append(fields(lease4), fmt.Sprintf("message=%s", strings.Repeat(fmt.Sprint(n%10), 50_000)), fmt.Sprintf("end=%d", n))
}

func wholeOf(leases int) func([]byte) bool {
	return func(data []byte) bool {
		for n := range leases {
			if bytes.HasSuffix(data, fmt.Appendf(nil, "\x00end=%d\x00", n)) {
				return bytes.Count(data, []byte(fmt.Sprint(n%10))) >= 50_000
			}
		}
		return false
	}
}

func TestTwoAtTheSameTime(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		const many = 20
		stop := p.watch(wholeOf(many))
		var wg sync.WaitGroup
		for n := range many {
			wg.Go(func() { p.run("renew", long(n)...) })
		}
		wg.Wait()
		stop()
		if names := p.files(); len(names) != 1 || names[0] != "udhcpc.lease" {
			t.Errorf("there are %q", names)
		}
		p.lease()
	})
}

func TestKilledInTheMiddle(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		const many = 60
		stop := p.watch(wholeOf(many))
		for n := range many {
			cmd := p.command("renew", long(n)...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(n) * 100 * time.Microsecond) // not to wait for something, but to hit anything
			cmd.Process.Kill()                                    //nolint:errcheck // it may have ended
			cmd.Wait()                                            //nolint:errcheck // as it was told
		}
		stop()
		p.run("renew", long(0)...)
		p.lease()
	})
}
