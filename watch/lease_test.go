package watch

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// write puts a file in place as the hook does: beside it, then by a rename.
func write(t *testing.T, dir, name, content string) {
	t.Helper()
	tmp := filepath.Join(dir, "."+name+".123")
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func hook(event, uptime, boot, address string) string {
	return strings.Join([]string{"event=" + event, "uptime=" + uptime + " 1", "ANCHORD_BOOT=" + boot, "ip=" + address, "mask=24", "lease=3600", ""}, "\x00")
}

func TestLeaseDirectory(t *testing.T) {
	dir := t.TempDir()
	leases := LeaseDir{Path: dir}
	want := func(what, address string) {
		t.Helper()
		l, err := leases.Lease(anchord.V4)
		got := ""
		if l.Address.IsValid() {
			got = l.Address.String()
		}
		if err != nil || got != address {
			t.Errorf("%s: %q, %v; want %q", what, got, err, address)
		}
	}
	want("nothing there", "")
	write(t, dir, "udhcpc.lease", hook("bound", "100.00", "b", "192.0.2.7"))
	want("bound", "192.0.2.7/24")
	write(t, dir, "udhcpc.nak", hook("nak", "99.99", "b", ""))
	want("an older refusal", "192.0.2.7/24")
	write(t, dir, "udhcpc.nak", hook("nak", "100.00", "b", ""))
	want("a refusal at the same moment: the lease came after it", "192.0.2.7/24")
	write(t, dir, "udhcpc.nak", hook("nak", "200.00", "b", ""))
	want("a newer refusal", "")
	write(t, dir, "udhcpc.lease", hook("renew", "300.00", "b", "192.0.2.8"))
	want("bound again", "192.0.2.8/24")
	write(t, dir, "udhcpc.nak", "cut short")
	want("a refusal that cannot be read", "192.0.2.8/24")
}

func TestRefusalOfAnotherBootSaysNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "udhcpc.nak", hook("nak", "90000.00", "boot-1", ""))
	write(t, dir, "udhcpc.lease", hook("bound", "30.00", "boot-2", "192.0.2.7"))
	if l, err := (LeaseDir{Path: dir}).Lease(anchord.V4); err != nil || !l.Address.IsValid() {
		t.Errorf("a refusal of before the reboot hides the new lease: %+v, %v", l, err)
	}
}

func TestLeaseFilesThatAreRefused(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"cut short":        func(p string) error { return os.WriteFile(p, []byte("event=bound\x00ip=1"), 0o600) },
		"far too big":      func(p string) error { return os.WriteFile(p, make([]byte, 300<<10), 0o600) },
		"a directory":      func(p string) error { return os.Mkdir(p, 0o700) },
		"hostile address":  func(p string) error { return os.WriteFile(p, []byte(hook("bound", "1", "b", "224.0.0.1")), 0o600) },
		"a device to hang": func(p string) error { return os.Symlink("/dev/zero", p) },
	} {
		dir := t.TempDir()
		if err := put(filepath.Join(dir, "udhcpc.lease")); err != nil {
			t.Fatal(err)
		}
		if l, err := (LeaseDir{Path: dir}).Lease(anchord.V4); err == nil || l.Address.IsValid() {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

func TestLeaseDirectoryIsFollowed(t *testing.T) {
	dir := t.TempDir()
	fires := make(chan anchord.Source, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- (LeaseDir{Path: dir}).Follow(ctx, func(s anchord.Source, _ time.Time) { fires <- s }) }()
	// Until the watch stands, a write may go unseen; each is repeated.
	next := func(write func()) {
		t.Helper()
		limit := time.After(20 * time.Second)
		for {
			write()
			select {
			case s := <-fires:
				if s != anchord.SourceLease {
					t.Errorf("fired %b", s)
				}
				return
			case <-time.After(100 * time.Millisecond):
			case <-limit:
				t.Fatal("never fired")
			}
		}
	}
	for _, name := range []string{"udhcpc.lease", "udhcpc.nak", "udhcpc.lease"} { // more than one rename
		next(func() { write(t, dir, name, hook("bound", "1", "b", "192.0.2.7")) })
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
	if err := (LeaseDir{Path: filepath.Join(dir, "none")}).Follow(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a directory that is not there: %v", err)
	}
}
