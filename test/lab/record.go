package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	recordRoot    = "/run/anchord-lab" // one directory per lab
	dataRoot      = "/var/tmp"         // a file system on which overlay2 works
	cgroupRoot    = "/sys/fs/cgroup"
	namespaceRoot = "/run/netns"
)

// record is what has to be known to remove a lab without the process that made
// it. All other names follow from the id.
type record struct {
	ID      string
	Release string
	Keep    bool
	Owner   processID
	Created time.Time
}

// Info describes a lab that List found.
type Info struct {
	ID      string
	Release string
	Keep    bool // outlives its owner
	Owner   int  // process that made it
	Alive   bool // whether that process still runs
	Created time.Time
}

func newRecord(id, release string, keep bool) record {
	return record{ID: id, Release: release, Keep: keep, Owner: self(), Created: time.Now()}
}

func (r record) dir() string       { return filepath.Join(recordRoot, r.ID) }
func (r record) dataDir() string   { return filepath.Join(dataRoot, "anchord-lab-"+r.ID) }
func (r record) cliDir() string    { return filepath.Join(r.dir(), "cli") }
func (r record) cgroup() string    { return "anchord-lab-" + r.ID }
func (r record) namespace() string { return "anchord-" + r.ID }

// save writes the record, before anything else of the lab exists.
func (r record) save() error {
	if err := os.MkdirAll(r.dir(), 0o755); err != nil {
		return fmt.Errorf("recording the lab: %w", err)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("recording the lab: %w", err)
	}
	path := filepath.Join(r.dir(), "lab.json")
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return fmt.Errorf("recording the lab: %w", err)
	}
	return os.Rename(path+".new", path)
}

func loadRecord(id string) (record, error) {
	var r record
	text, err := os.ReadFile(filepath.Join(recordRoot, id, "lab.json"))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("reading its record: %w", err)
	}
	if r.ID != id {
		return r, fmt.Errorf("its record is about %q", r.ID)
	}
	return r, nil
}

// List finds every lab on the machine, oldest first.
func List() ([]Info, error) {
	records, err := allRecords()
	var labs []Info
	for _, r := range records {
		labs = append(labs, Info{
			ID: r.ID, Release: r.Release, Keep: r.Keep,
			Owner: r.Owner.PID, Alive: r.Owner.alive(), Created: r.Created,
		})
	}
	sort.Slice(labs, func(i, j int) bool { return labs[i].Created.Before(labs[j].Created) })
	return labs, err
}

func allRecords() ([]record, error) {
	entries, err := os.ReadDir(recordRoot)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing the labs: %w", err)
	}
	var records []record
	for _, entry := range entries {
		// One without a record is being made or removed at this moment.
		if r, err := loadRecord(entry.Name()); err == nil {
			records = append(records, r)
		}
	}
	return records, nil
}

// Reap removes the labs whose process died without Down. Kept labs stay.
func Reap() error {
	unlock, err := lockFile(recordRoot + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	records, err := allRecords()
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range records {
		if r.Keep || r.Owner.alive() {
			continue
		}
		if err := r.destroy(); err != nil {
			failed = append(failed, fmt.Errorf("removing dead lab %s: %w", r.ID, err))
		}
	}
	return errors.Join(failed...)
}

// destroy removes a lab. The record goes last, so that a failure can be
// repeated.
func (r record) destroy() error {
	err := errors.Join(
		r.killAll(),
		r.removeNamespaces(),
		r.removeCgroups(),
		os.RemoveAll(r.dataDir()),
	)
	if err != nil {
		return err
	}
	return os.RemoveAll(r.dir())
}

// namespaces are those of the lab that exist.
func (r record) namespaces() ([]string, error) {
	entries, err := os.ReadDir(namespaceRoot)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing network namespaces: %w", err)
	}
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		if name == r.namespace() || strings.HasPrefix(name, r.namespace()+"-") {
			names = append(names, name)
		}
	}
	return names, nil
}

// killAll ends every process in the lab's namespaces. The engine's first
// process is among them, and its end is the end of all containers.
func (r record) killAll() error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		names, err := r.namespaces()
		if err != nil {
			return err
		}
		pids := processesIn(names...)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v in the lab's namespaces do not end", pids)
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func (r record) removeNamespaces() error {
	names, err := r.namespaces()
	if err != nil {
		return err
	}
	var failed []error
	for _, name := range names {
		failed = append(failed, deleteNamespace(name))
	}
	return errors.Join(failed...)
}

// removeCgroups waits a moment for the kernel to let go of the dead.
func (r record) removeCgroups() error {
	tops, err := filepath.Glob(filepath.Join(cgroupRoot, "*", r.cgroup()))
	if err != nil {
		return err
	}
	tops = append(tops, filepath.Join(cgroupRoot, r.cgroup()))
	var failed []error
	for _, top := range tops {
		err := errors.New("")
		for i := 0; i < 250 && err != nil; i++ {
			if err = removeCgroup(top); err != nil {
				time.Sleep(20 * time.Millisecond)
			}
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// removeCgroup removes a control group and those below it; RemoveAll would try
// to remove the kernel's own files.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return fmt.Errorf("removing control group %s: %w", dir, err)
	}
	return nil
}

// enginePID is the first process of the engine's own process namespace.
func (r record) enginePID() (int, error) {
	text, err := os.ReadFile(filepath.Join(r.dir(), "engine.pid"))
	if err != nil {
		return 0, fmt.Errorf("finding the engine: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// processID is a process that cannot be mistaken for a later one with the same
// number.
type processID struct {
	PID   int
	Start string // in clock ticks since boot, as the kernel writes it
}

func self() processID {
	return processID{PID: os.Getpid(), Start: startTime(os.Getpid())}
}

func (p processID) alive() bool {
	start := startTime(p.PID)
	return start != "" && start == p.Start
}

// startTime is empty for a process that is not there or only a zombie.
func startTime(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name in parentheses may hold anything; fields count from its end.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// lockFile waits for the lock, which its process's death gives back.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
