package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alecthomas/kong"
)

func TestASecondAnchordInTheSameRunDirIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(first.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := takeRunDir(dir); err == nil || !strings.Contains(err.Error(), "another anchord") {
		t.Errorf("a second one got %v", err)
	}
	first.Close()
	if err := takeRunDir(dir); err != nil {
		t.Errorf("after the first one's end: %v", err)
	}
	held.Close()
}

func TestAMistypedVariableIsToldOf(t *testing.T) {
	parser, err := kong.New(&commands{})
	if err != nil {
		t.Fatal(err)
	}
	got := strays(parser.Model, []string{"ANCHORD_POL=3", "ANCHORD_POLL_INTERVAL=3", "ANCHORD_GATEWAY_IP=x", "PATH=/"})
	if len(got) != 1 || !strings.HasPrefix(got[0], "ANCHORD_POL ") {
		t.Errorf("told %q", got)
	}
}
