package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// space is a network namespace. The bench's own have no name: they end with
// this descriptor and the processes inside, whatever ends the bench.
type space struct {
	name string
	fd   *os.File
}

func newSpace(name string) (*space, error) {
	s := &space{name: name}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		s.fd, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making namespace %s: %w", name, err)
	}
	return s, s.ip("link set lo up")
}

// openSpace refers to one that exists, such as a container's.
func openSpace(name, path string) (*space, error) {
	fd, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the namespace of %s: %w", name, err)
	}
	return &space{name, fd}, nil
}

func (s *space) close() { s.fd.Close() }

// path is how ip(8) is told of it.
func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.fd.Fd()) }

// onThread runs f on a thread that ends with it: it is never unlocked, so no
// other goroutine ever runs in the wrong namespace.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

func (s *space) enter() error {
	if err := unix.Setns(int(s.fd.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering %s: %w", s.name, err)
	}
	return nil
}

// in runs f inside. Sockets and processes that it makes stay there.
func (s *space) in(f func() error) error {
	return onThread(func() error {
		if err := s.enter(); err != nil {
			return err
		}
		return f()
	})
}

// run runs a command inside and gives what it prints.
func (s *space) run(stdin string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := s.in(cmd.Run); err != nil {
		return "", fmt.Errorf("%s: %s: %w: %s", s.name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// ip runs ip(8) commands, all in one process.
func (s *space) ip(commands ...string) error {
	_, err := s.run(strings.Join(commands, "\n")+"\n", "ip", "-batch", "-")
	return err
}

func (s *space) sysctl(name, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	return s.in(func() error { return os.WriteFile(path, []byte(value), 0) })
}

// child is a process that runs beside the bench, and never longer.
type child struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// start starts a process inside. Each line of its output is given to line with
// the time at which it was read.
func (s *space) start(cmd *exec.Cmd, line func(text string, at time.Time)) (*child, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = writer
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal comes when the thread ends that made the child:
		// this one waits for it.
		runtime.LockOSThread()
		defer close(c.done)
		err := errors.Join(s.enter(), cmd.Start())
		writer.Close()
		started <- err
		if err == nil {
			cmd.Wait() //nolint:errcheck // it is killed
		}
	}()
	if err := <-started; err != nil {
		reader.Close()
		return nil, fmt.Errorf("%s: starting %s: %w", s.name, cmd.Path, err)
	}
	go func() {
		defer reader.Close()
		lines := bufio.NewScanner(reader)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			line(lines.Text(), time.Now())
		}
	}()
	return c, nil
}

func (c *child) stop() {
	c.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	select {
	case <-c.done:
	case <-time.After(6 * time.Second):
		c.cmd.Process.Kill() //nolint:errcheck // as above
		<-c.done
	}
}
