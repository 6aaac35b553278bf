package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord/exec"
)

// takeRunDir makes the run directory and takes it for this process: a second
// anchord in the same container would undo the first one's work. The lock ends
// with the process, however that ends.
func takeRunDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("ANCHORD_RUN_DIR: %w (mount a tmpfs there if the root file system is read-only)", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("ANCHORD_RUN_DIR: %w (mount a tmpfs there if the root file system is read-only)", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("another anchord works with %s already; to look at it use: anchord status", dir)
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	held = lock
	// What hooks of a killed predecessor did not finish.
	halves, _ := filepath.Glob(filepath.Join(exec.LeaseDir(dir), ".*"))
	for _, half := range halves {
		_ = os.Remove(half)
	}
	return nil
}

// held keeps the lock's file open until the process ends.
var held *os.File
