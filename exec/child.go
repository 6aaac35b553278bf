package exec

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"
)

// Child keeps a long-running program running: started again after a capped,
// jittered backoff when it ends, ended with TERM, then KILL, to its whole
// process group. Fields may not be changed once Run was called.
type Child struct {
	Args []string
	Env  []string // besides PATH
	// Line is given each line of standard output and error, from one
	// goroutine at a time.
	Line func(line string)
	// Started and Exited, if set, are told of each start and unexpected end; of
	// a start that Listens, when the child listens, so that whoever looks then
	// misses nothing.
	Started func()
	Listens bool // to multicast groups of netlink(7)
	Exited  func(err error, again time.Duration)
	// BackoffMax caps the pause between tries, which starts at 1 s; 0 means
	// 30 s.
	BackoffMax time.Duration
	// Grace is how long the child may take to end after TERM; 0 means 2 s.
	Grace time.Duration
	// Delay is waited before the first start.
	Delay time.Duration
	// Capabilities, if set, are the only ones that the child, and whatever it
	// runs, can have (capabilities(7)).
	Capabilities []int
	// Next, if set, gives the arguments of each start in place of Args, of
	// which only the first is then used; none: it cannot be started now.
	Next func() []string
	// Signals, if set, are handed on to the child.
	Signals <-chan syscall.Signal
	// Stuck, if set, ends a run that leads nowhere when it can be received
	// from; the next one follows after the usual pause.
	Stuck <-chan struct{}
}

// goodRun is the time after which a child counts as having worked, so that
// its next failure is a new one.
const goodRun = 30 * time.Second

// Run returns when ctx has ended and the child with it.
func (c *Child) Run(ctx context.Context) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.Multiplier, pauses.MaxInterval = time.Second, 2, c.backoffMax()
	if !sleep(ctx, c.Delay) {
		return
	}
	for {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= goodRun {
			pauses.Reset()
		}
		again := min(pauses.NextBackOff(), c.backoffMax())
		if c.Exited != nil {
			c.Exited(err, again)
		}
		if !sleep(ctx, again) {
			return
		}
	}
}

func (c *Child) backoffMax() time.Duration {
	if c.BackoffMax == 0 {
		return 30 * time.Second
	}
	return c.BackoffMax
}

// once runs the child to its end.
func (c *Child) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.forget()
	args := c.Args
	if c.Next != nil {
		args = c.Next()
	}
	if len(args) == 0 {
		return fmt.Errorf("%s cannot be started", c.Args[0])
	}
	cmd := osexec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(cleanEnv(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = c.Grace
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = 2 * time.Second
	}
	ended := make(chan struct{})
	cmd.Cancel = func() error { return terminate(cmd.Process.Pid, ended) }
	output, done := c.lines()
	cmd.Stdout, cmd.Stderr = output, output
	if err := c.begin(cmd); err != nil {
		output.Close()
		return &CommandError{Args: c.Args, ExitCode: -1, Err: err}
	}
	var telling sync.WaitGroup
	telling.Go(func() { c.tellStarted(ctx, cmd.Process.Pid, ended) })
	go c.listen(ctx, cancel, cmd.Process.Pid)
	err := cmd.Wait()
	close(ended)
	telling.Wait()
	// Whatever of the group is left after the grace is ended for good.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	output.Close()
	<-done
	if errors.Is(context.Cause(ctx), errStuck) {
		return fmt.Errorf("%s %w", c.Args[0], errStuck)
	}
	var exit *osexec.ExitError
	if err == nil || errors.As(err, &exit) {
		return fmt.Errorf("%s ended: %s", c.Args[0], cmd.ProcessState)
	}
	return &CommandError{Args: c.Args, ExitCode: exitCode(cmd), Err: err}
}

// listenTime is given up waiting after: who looks too early sees more than who
// never looks.
const listenTime = time.Second

// tellStarted tells of a start, in its own time.
func (c *Child) tellStarted(ctx context.Context, pid int, ended <-chan struct{}) {
	if c.Started == nil {
		return
	}
	for began := time.Now(); c.Listens && !listens(pid) && time.Since(began) < listenTime; {
		select {
		case <-ended:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
	if ctx.Err() == nil {
		c.Started()
	}
}

// listens says whether a process has joined a group. The kernel names sockets
// that chose no address after their process.
func listens(pid int) bool {
	table, err := os.ReadFile("/proc/self/net/netlink")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(table)) {
		// sk Eth Pid Groups ...
		f := strings.Fields(line)
		if len(f) > 3 && f[2] == strconv.Itoa(pid) && strings.Trim(f[3], "0") != "" {
			return true
		}
	}
	return false
}

// forget drops what was meant for the run before.
func (c *Child) forget() {
	for {
		select {
		case <-c.Stuck:
		case <-c.Signals:
		default:
			return
		}
	}
}

// errStuck is why a run was ended.
var errStuck = errors.New("was ended because it led nowhere")

// listen hands signals on, and ends the run when it is stuck.
func (c *Child) listen(ctx context.Context, cancel context.CancelCauseFunc, pid int) {
	for {
		select {
		case s := <-c.Signals:
			_ = syscall.Kill(pid, s)
		case <-c.Stuck:
			cancel(errStuck)
			return
		case <-ctx.Done():
			return
		}
	}
}

// terminate asks a process group to end, until it has: dhcpcd can sleep through
// a signal that comes while it handles a message.
func terminate(group int, ended <-chan struct{}) error {
	go func() {
		again := time.NewTicker(200 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-ended:
				return
			case <-again.C:
				_ = syscall.Kill(-group, syscall.SIGTERM)
			}
		}
	}()
	return syscall.Kill(-group, syscall.SIGTERM)
}

// begin starts the child. Capabilities belong to a thread, and a child has
// those of the thread that starts it; so it is one that ends right after.
func (c *Child) begin(cmd *osexec.Cmd) error {
	if c.Capabilities == nil {
		return cmd.Start()
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := keepOnly(c.Capabilities); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}

// keepOnly takes all other capabilities from the calling thread, and the means
// to get any.
func keepOnly(capabilities []int) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	var keep uint32
	for _, capability := range capabilities {
		keep |= 1 << capability
	}
	sets[0].Effective, sets[0].Permitted, sets[0].Inheritable = sets[0].Effective&keep, sets[0].Permitted&keep, 0
	sets[1] = unix.CapUserData{}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}

// longestLine is longer than any that a monitor has a reason to write.
const longestLine = 16 << 10

// lines hands what is written to Line, line by line; done is closed when all
// of it is handed over.
func (c *Child) lines() (io.WriteCloser, <-chan struct{}) {
	reader, writer := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewReaderSize(reader, longestLine)
		for {
			text, more, err := lines.ReadLine()
			if err != nil {
				return
			}
			if c.Line != nil {
				c.Line(string(text))
			}
			for more && err == nil { // of what is longer, the beginning will do
				_, more, err = lines.ReadLine()
			}
		}
	}()
	return writer, done
}

// supervised is one child that can be ended and waited for.
type supervised struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (s *supervised) start(child *Child) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { child.Run(ctx) })
}

// stop ends the child and waits until it is gone.
func (s *supervised) stop() {
	if s.cancel != nil {
		s.cancel()
		s.wg.Wait()
		s.cancel = nil
	}
}
