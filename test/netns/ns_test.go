package netns_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// ns is a network namespace without a name: it lives as long as this
// descriptor or a process inside.
type ns struct {
	t    testing.TB
	name string
	fd   *os.File
}

func newNS(t testing.TB, name string) *ns {
	t.Helper()
	n := &ns{t: t, name: name}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		fd, err := os.Open("/proc/thread-self/ns/net")
		n.fd = fd
		return err
	})
	if err != nil {
		t.Fatalf("making namespace %s: %v", name, err)
	}
	t.Cleanup(n.close)
	n.run("ip", "link", "set", "lo", "up")
	return n
}

// close ends every process inside, whoever started it, and lets go of the
// namespace.
func (n *ns) close() {
	n.killAll()
	n.fd.Close()
}

// killAll ends every process inside and returns when they are gone.
func (n *ns) killAll() {
	for began := time.Now(); time.Since(began) < hang; time.Sleep(time.Millisecond) {
		pids := n.pids()
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may just have ended
		}
		if len(pids) == 0 {
			return
		}
	}
}

// pids is every process inside but this one, which only visits.
func (n *ns) pids() []int {
	var mine, other unix.Stat_t
	if unix.Fstat(int(n.fd.Fd()), &mine) != nil {
		return nil
	}
	var inside []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid != os.Getpid() && unix.Stat(dir+"/ns/net", &other) == nil && other.Ino == mine.Ino {
			inside = append(inside, pid)
		}
	}
	return inside
}

// onThread runs f on a thread of its own which ends with it (it is never
// unlocked), so that no other goroutine ever runs in the wrong namespace.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errors.New("the goroutine ended early")
		defer func() { result <- err }()
		err = f()
	}()
	return <-result
}

// in runs f inside n. Sockets made and processes started there stay there.
func in(n *ns, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.fd.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// path is how ip(8) is told of a namespace without a name.
func (n *ns) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd.Fd()) }

// try runs a command inside and returns its standard output.
func (n *ns) try(args ...string) (string, error) { return n.feed("", args...) }

func (n *ns) feed(stdin string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := in(n, cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", n.name, strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), nil
}

// run is try for commands that must succeed.
func (n *ns) run(args ...string) string {
	n.t.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// ip runs lines of ip(8) commands.
func (n *ns) ip(lines string) {
	n.t.Helper()
	if _, err := n.feed(lines, "ip", "-batch", "-"); err != nil {
		n.t.Fatal(err)
	}
}

// ip6 is ip where nothing else in a line says which family is meant.
func (n *ns) ip6(lines string) {
	n.t.Helper()
	if _, err := n.feed(lines, "ip", "-6", "-batch", "-"); err != nil {
		n.t.Fatal(err)
	}
}

func (n *ns) sysctl(key, value string) {
	n.t.Helper()
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	err := in(n, func() error { return os.WriteFile(path, []byte(value), 0) })
	if err != nil {
		n.t.Fatalf("%s: setting %s: %v", n.name, key, err)
	}
}

// proc is a process that runs beside the test.
type proc struct {
	cmd    *exec.Cmd
	out    *lines // standard output
	errOut *lines // standard error
	exited chan struct{}
	err    error
}

// start runs a command inside until the test ends.
func (n *ns) start(args ...string) *proc {
	n.t.Helper()
	return n.startCmd(exec.Command(args[0], args[1:]...))
}

func (n *ns) startCmd(cmd *exec.Cmd) *proc {
	n.t.Helper()
	p := &proc{cmd: cmd, out: newLines(), errOut: newLines(), exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.errOut
	// A grandchild that keeps the pipe must not hang the test.
	cmd.WaitDelay = 3 * time.Second
	if err := in(n, cmd.Start); err != nil {
		n.t.Fatalf("%s: starting %s: %v", n.name, cmd.Path, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	n.t.Cleanup(p.kill)
	return p
}

func (p *proc) kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.exited
}

func (p *proc) signal(s syscall.Signal) { p.cmd.Process.Signal(s) } //nolint:errcheck // as in kill

// lines collects output by lines while a process writes it.
type lines struct {
	mu   sync.Mutex
	rest []byte
	all  []string
	when []time.Time
}

func newLines() *lines { return &lines{} }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		l.all = append(l.all, string(l.rest[:i]))
		l.when = append(l.when, time.Now())
		l.rest = l.rest[i+1:]
	}
}

// list is what was written so far.
func (l *lines) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.all...)
}

// raw is all that was written.
func (l *lines) raw() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(append(l.all[:len(l.all):len(l.all)], string(l.rest)), "\n")
}

func (l *lines) String() string { return strings.Join(l.list(), "\n") }

func (l *lines) contains(s string) bool { return strings.Contains(l.String(), s) }

// hang is a limit that only catches what never comes.
const hang = 20 * time.Second

// eventually polls cond until it returns nil and returns how long that took.
func eventually(t testing.TB, limit time.Duration, cond func() error) time.Duration {
	t.Helper()
	began := time.Now()
	return within(t, limit, func() time.Duration { return time.Since(began) }, cond)
}

// within polls cond by a clock that shows how long that takes.
func within(t testing.TB, limit time.Duration, clock func() time.Duration, cond func() error) time.Duration {
	t.Helper()
	for {
		err := cond()
		took := clock()
		if err == nil && took <= limit {
			return took
		}
		if err == nil {
			err = fmt.Errorf("came only after %v", took)
		}
		if took > limit {
			t.Fatalf("not within %v: %v", limit, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// promised is the bound of everything that must be put right at once.
const promised = time.Second

// promise does something and checks that each condition holds within a second
// from then on. No other test starts a world meanwhile: the promise is not for
// a machine that is busy with eight of them.
func promise(t testing.TB, cause func(), conds ...func() error) {
	t.Helper()
	occupy(seats)
	defer leave(seats)
	cause()
	began := awake()
	for _, cond := range conds {
		within(t, promised, func() time.Duration { return awake() - began }, cond)
	}
}

// awake is how long this process has been running. Time in which the machine
// stood still, as a virtual one does now and then, is left out.
func awake() time.Duration { return time.Duration(awakeFor.Load()) }

var awakeFor atomic.Int64

func init() {
	const tick = 10 * time.Millisecond
	go func() {
		last := time.Now()
		for now := range time.Tick(tick) {
			awakeFor.Add(int64(min(now.Sub(last), 2*tick)))
			last = now
		}
	}()
}

// seats is how many tests may be at something that keeps the machine busy.
const seats = 2

var room = semaphore.NewWeighted(seats)

func occupy(n int64) { room.Acquire(context.Background(), n) } //nolint:errcheck // it fails only with its context
func leave(n int64)  { room.Release(n) }

// throughout checks that cond holds for the whole of d.
func throughout(t testing.TB, d time.Duration, cond func() error) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := cond(); err != nil {
			t.Fatalf("did not last for %v: %v", d, err)
		}
	}
}
