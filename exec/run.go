// Package exec is the only one that changes anything outside the process, and
// the only one that starts other programs: nft, ip, conntrack, arping and the
// DHCP clients.
package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// Runner runs one command to its end. Its zero value is ready to use.
type Runner struct {
	// Timeout ends a command that hangs; 0 means 10 s.
	Timeout time.Duration
}

// CommandError is a command that could not be run or did not succeed.
type CommandError struct {
	Args     []string
	ExitCode int // -1 if it did not run to its end
	Stderr   string
	Err      error
}

func (e *CommandError) Error() string {
	detail := oneLine(e.Stderr)
	switch {
	case detail == "":
		detail = e.Err.Error()
	case errors.Is(e.Err, context.DeadlineExceeded):
		detail += " (and did not end in time)"
	}
	return fmt.Sprintf("%s: %s%s", strings.Join(e.Args, " "), detail, e.advice())
}

// Verdict says whether the command itself ended with an error.
func (e *CommandError) Verdict() bool { return e.ExitCode > 0 }

func (e *CommandError) Unwrap() error { return e.Err }

// advice tells what to do where the tool's own message does not.
func (e *CommandError) advice() string {
	switch {
	case errors.Is(e.Err, osexec.ErrNotFound):
		return " (the program is missing: use the anchord image, or install it)"
	case e.saysAny("Operation not permitted", "Permission denied", "you must be root"):
		return " (the container lacks a permission: add cap_add: [NET_ADMIN])"
	}
	return ""
}

func (e *CommandError) saysAny(phrases ...string) bool {
	for _, p := range phrases {
		if strings.Contains(e.Stderr, p) {
			return true
		}
	}
	return false
}

// maxMessage keeps a tool's outburst from flooding the log.
const maxMessage = 600

func oneLine(s string) string {
	return anchord.Cut(strings.Join(strings.Fields(s), " "), maxMessage)
}

// Run runs a command with stdin and returns its standard output.
func (r Runner) Run(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	var stdout bytes.Buffer
	err := r.stream(ctx, strings.NewReader(stdin), &stdout, args...)
	return stdout.Bytes(), err
}

// stream runs a command whose output goes to stdout as it comes.
func (r Runner) stream(ctx context.Context, stdin io.Reader, stdout io.Writer, args ...string) error {
	timeout := r.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var stderr bytes.Buffer
	cmd := osexec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &stderr
	// A grandchild that keeps the pipe open must not hold us up.
	cmd.WaitDelay = 300 * time.Millisecond
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Run(); err != nil {
		return &CommandError{Args: args, ExitCode: exitCode(cmd), Stderr: stderr.String(), Err: cause(ctx, err)}
	}
	return nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func exitCode(cmd *osexec.Cmd) int {
	if cmd.ProcessState == nil {
		return -1
	}
	return cmd.ProcessState.ExitCode()
}

// cleanEnv is what a child gets of our environment: enough to find programs,
// nothing that a DHCP hook could mistake for an option.
func cleanEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH")}
}
