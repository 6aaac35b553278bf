package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/AlexCherrypi/anchord"
)

// LeaseDir reads what the DHCP hooks write into a directory.
type LeaseDir struct{ Path string }

// clients are the programs of each family, after which the hooks name their
// files.
var clients = anchord.PerFamily[string]{"udhcpc", "dhcpcd"}

// Files that the hooks write, each by a rename, without the client's name.
const (
	leaseFile = ".lease" // the last lease
	nakFile   = ".nak"   // that it was refused or lost
	// That the last lease was given back; written by anchord, not by a hook.
	releasedFile = ".released"
)

// maxLeaseFile is far beyond what the kernel lets an environment be useful
// for.
const maxLeaseFile = 256 << 10

// Lease returns the last lease, or none if there is none or a later refusal
// ended it.
func (d LeaseDir) Lease(f anchord.Family) (anchord.Lease, error) {
	file, err := d.read(clients[f] + leaseFile)
	if errors.Is(err, fs.ErrNotExist) {
		return anchord.Lease{}, nil
	}
	if err != nil {
		return anchord.Lease{}, err
	}
	nak, err := d.read(clients[f] + nakFile)
	if err == nil && nak.Boot == file.Boot && nak.At > file.At {
		return anchord.Lease{}, nil
	}
	parse := file.Lease
	if f == anchord.V6 {
		parse = file.Lease6
	}
	lease, err := parse()
	if err != nil {
		return anchord.Lease{Obtained: file.At, Boot: file.Boot}, err // which one it is
	}
	released, missing := d.read(clients[f] + releasedFile)
	lease.Released = missing == nil && released.Boot == file.Boot && released.At >= file.At
	return lease, nil
}

// MarkReleased notes at uptime that a family's last lease was given back, so
// that a next start may ask for its address but not use it unasked.
func (d LeaseDir) MarkReleased(f anchord.Family, uptime time.Duration, boot string) error {
	return d.mark(f, releasedFile, uptime, boot)
}

// MarkLost notes at uptime that a family's last lease does not hold any more, of
// which no hook is told.
func (d LeaseDir) MarkLost(f anchord.Family, uptime time.Duration, boot string) error {
	return d.mark(f, nakFile, uptime, boot)
}

func (d LeaseDir) mark(f anchord.Family, file string, uptime time.Duration, boot string) error {
	if _, err := os.Stat(filepath.Join(d.Path, clients[f]+leaseFile)); err != nil {
		return nil // there is none
	}
	text := fmt.Sprintf("event=%s\x00uptime=%.2f\x00ANCHORD_BOOT=%s\x00", file[1:], uptime.Seconds(), boot)
	name := clients[f] + file
	tmp := filepath.Join(d.Path, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return fmt.Errorf("noting what became of the lease: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(d.Path, name)); err != nil {
		return fmt.Errorf("noting what became of the lease: %w", err)
	}
	return nil
}

func (d LeaseDir) read(name string) (anchord.LeaseFile, error) {
	path := filepath.Join(d.Path, name)
	info, err := os.Stat(path)
	if err != nil {
		return anchord.LeaseFile{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxLeaseFile {
		return anchord.LeaseFile{}, fmt.Errorf("lease file %s is not a regular file of at most %d bytes", path, maxLeaseFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return anchord.LeaseFile{}, err
	}
	file, err := anchord.ParseLeaseFile(data)
	if err != nil {
		return file, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}

// Follow fires whenever a file in the directory is replaced. It watches the
// directory, because a watched file is lost with its first rename.
func (d LeaseDir) Follow(ctx context.Context, fire func(anchord.Source, time.Time)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching %s: %w", d.Path, err)
	}
	defer w.Close()
	if err := w.Add(d.Path); err != nil {
		return fmt.Errorf("watching %s: %w", d.Path, err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, open := <-w.Events:
			if !open {
				return fmt.Errorf("watching %s: the watch ended", d.Path)
			}
			if base := filepath.Base(e.Name); !strings.HasPrefix(base, ".") && strings.Contains(leaseFile+nakFile+releasedFile, filepath.Ext(base)) {
				fire(anchord.SourceLease, time.Time{})
			}
		case <-w.Errors:
			// The queue overflowed: what was missed is in the directory.
			fire(anchord.SourceLease, time.Time{})
		}
	}
}
