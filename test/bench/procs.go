package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running one, as /proc shows it.
type process struct {
	pid, parent int
	name        string
	args        []string
	ticks       int // of its own and of the children that it has waited for
}

// clockTick is how long a tick of /proc/PID/stat is (proc(5)); it is 10 ms on
// every Linux.
const clockTick = 10 * time.Millisecond

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The name in parentheses may hold anything; fields count from its end.
	end := strings.LastIndexByte(string(text), ')')
	fields := strings.Fields(string(text[end+1:]))
	p := process{pid: pid, name: string(text[strings.IndexByte(string(text), '(')+1 : end])}
	p.parent, _ = strconv.Atoi(fields[1])
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, _ := strconv.Atoi(field)
		p.ticks += n
	}
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	p.args = strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")
	return p, nil
}

// memory is one of the sizes in /proc/PID/status, in bytes.
func (p process) memory(key string) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n << 10
		}
	}
	return 0
}

// inside are the processes in a network namespace.
func (s *space) inside() ([]process, error) {
	var here, there unix.Stat_t
	if err := unix.Fstat(int(s.fd.Fd()), &here); err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, dir := range dirs {
		if unix.Stat(dir+"/ns/net", &there) != nil || there.Ino != here.Ino || there.Dev != here.Dev {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if p, err := readProcess(pid); err == nil {
			found = append(found, p)
		}
	}
	return found, nil
}

// anchord finds the program in its namespace, and its children. A health check
// that happens to run is another one of that name.
func (s *space) anchord() (self process, children []process, err error) {
	all, err := s.inside()
	if err != nil {
		return self, nil, err
	}
	for _, p := range all {
		if p.name == "anchord" && !slices.Contains(p.args, "healthcheck") {
			self = p
		}
	}
	if self.pid == 0 {
		return self, nil, fmt.Errorf("no anchord runs in %s", s.name)
	}
	for _, p := range all {
		if p.parent == self.pid {
			children = append(children, p)
		}
	}
	return self, children, nil
}

// forks counts what processes start, as the kernel tells it (the process
// events connector, cn_proc.h); nothing is too short-lived to be seen.
type forks struct {
	fd int

	mu      sync.Mutex
	parents map[int]bool           // whose children are counted
	child   map[int]int            // child, parent
	count   map[int]map[string]int // by parent, by command
	births  map[int][]birth        // by parent
}

// birth is when a process was forked, and when it ran its program.
type birth struct {
	pid          int
	forked, exec time.Time
}

// Of cn_proc.h and connector.h.
const (
	cnIdxProc     = 1
	cnValProc     = 1
	procListen    = 1
	procEventFork = 1
	procEventExec = 2
	cnHeader      = 20 // struct cn_msg
	eventHeader   = 16 // struct proc_event up to its union
)

func countForks(parents ...int) (*forks, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("asking the kernel for process events: %w", err)
	}
	f := &forks{fd: fd, parents: map[int]bool{}, child: map[int]int{}, count: map[int]map[string]int{}, births: map[int][]birth{}}
	for _, p := range parents {
		f.parents[p], f.count[p] = true, map[string]int{}
	}
	if err := f.listen(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("asking the kernel for process events: %w", err)
	}
	go f.read()
	return f, nil
}

func (f *forks) listen() error {
	if err := unix.Bind(f.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc}); err != nil {
		return err
	}
	b := make([]byte, unix.NLMSG_HDRLEN+cnHeader+4)
	o := binary.NativeEndian
	o.PutUint32(b[0:], uint32(len(b)))
	o.PutUint16(b[4:], unix.NLMSG_DONE)
	o.PutUint32(b[12:], uint32(os.Getpid()))
	o.PutUint32(b[16:], cnIdxProc)
	o.PutUint32(b[20:], cnValProc)
	o.PutUint16(b[32:], 4)
	o.PutUint32(b[36:], procListen)
	return unix.Sendto(f.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (f *forks) read() {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(f.fd, buf, 0)
		if err == unix.EINTR || err == unix.ENOBUFS {
			continue
		}
		if err != nil {
			return
		}
		f.event(buf[:n])
	}
}

// event takes one message: fork tells parent and child, exec tells what the
// child has become.
func (f *forks) event(b []byte) {
	if len(b) < unix.NLMSG_HDRLEN+cnHeader+eventHeader+16 {
		return
	}
	e := b[unix.NLMSG_HDRLEN+cnHeader:]
	field := func(i int) int { return int(binary.NativeEndian.Uint32(e[eventHeader+4*i:])) }
	at := sinceBoot(binary.NativeEndian.Uint64(e[8:]))
	f.mu.Lock()
	defer f.mu.Unlock()
	switch binary.NativeEndian.Uint32(e) {
	case procEventFork:
		parent, pid, group := field(1), field(2), field(3)
		if f.parents[parent] && pid == group { // else a thread
			f.child[pid] = parent
			f.count[parent][""]++
			f.births[parent] = append(f.births[parent], birth{pid: pid, forked: at})
		}
	case procEventExec:
		pid := field(1)
		if parent, ours := f.child[pid]; ours {
			f.count[parent][""]--
			f.count[parent][command(pid)]++
			delete(f.child, pid)
			for i := range f.births[parent] {
				if b := &f.births[parent][i]; b.pid == pid && b.exec.IsZero() {
					b.exec = at
				}
			}
		}
	}
}

// sinceBoot turns the kernel's monotonic clock into a time.
func sinceBoot(ns uint64) time.Time {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) //nolint:errcheck // it cannot fail
	return time.Now().Add(time.Duration(int64(ns) - now.Nano())).Round(0)
}

// before is the last birth from one parent before a time.
func (f *forks) before(parent int, t time.Time) (birth, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.births[parent]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].forked.Before(t) && !list[i].exec.IsZero() {
			return list[i], true
		}
	}
	return birth{}, false
}

// command is how a process was called, cut to what tells it from others.
func command(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if len(text) == 0 {
		return "that ended before it could be named"
	}
	args := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	return strings.Join(args[:min(len(args), 4)], " ")
}

func (f *forks) stop() { unix.Close(f.fd) }

// of is how many processes one has started, and which.
func (f *forks) of(parent int) (int, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	total := 0
	var kinds []string
	for _, name := range slices.Sorted(maps.Keys(f.count[parent])) {
		n := f.count[parent][name]
		total += n
		if name == "" {
			name = "without a program of its own"
		}
		if n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, name))
		}
	}
	return total, strings.Join(kinds, ", ")
}
