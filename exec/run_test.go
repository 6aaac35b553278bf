package exec

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestRunnerGivesAndTakes(t *testing.T) {
	out, err := Runner{}.Run(t.Context(), "given", "sh", "-c", "cat; echo aside >&2; echo taken")
	if err != nil || string(out) != "giventaken\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestRunnerKeepsWhatTheToolSaid(t *testing.T) {
	_, err := Runner{}.Run(t.Context(), "", "sh", "-c", "printf 'Error: no such\\n\\tthing\\n' >&2; exit 3")
	var failed *CommandError
	if !errors.As(err, &failed) || failed.ExitCode != 3 || !strings.Contains(failed.Stderr, "no such\n") {
		t.Fatalf("%#v", err)
	}
	if want := "Error: no such thing"; !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q does not end in %q, on one line", err, want)
	}
	_, err = Runner{}.Run(t.Context(), "", "sh", "-c", "exit 4")
	if !strings.HasSuffix(err.Error(), "exit status 4") {
		t.Errorf("a tool that says nothing: %v", err)
	}
}

func TestRunnerAdvises(t *testing.T) {
	_, err := Runner{}.Run(t.Context(), "", "no-such-program-of-anchord")
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "the program is missing") {
		t.Errorf("missing program: %v", err)
	}
	for _, said := range []string{
		"netlink: Error: cache initialization failed: Operation not permitted",
		"RTNETLINK answers: Operation not permitted",
		"conntrack v1.4.7 (conntrack-tools): Operation failed: sorry, you must be root or get CAP_NET_ADMIN capability to do this",
	} {
		_, err := Runner{}.Run(t.Context(), "", "sh", "-c", "echo '"+said+"' >&2; exit 1")
		if !strings.Contains(err.Error(), "cap_add: [NET_ADMIN]") {
			t.Errorf("no advice: %v", err)
		}
	}
	_, err = Runner{}.Run(t.Context(), "", "sh", "-c", "echo 'syntax error' >&2; exit 1")
	if strings.Contains(err.Error(), "cap_add") || strings.Contains(err.Error(), "missing") {
		t.Errorf("advice that does not fit: %v", err)
	}
	_, err = Runner{}.Run(t.Context(), "", t.TempDir())
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a directory as program: %v", err)
	}
}

func TestRunnerIsNotHeldUpByAFloodOfErrors(t *testing.T) {
	out, err := Runner{Timeout: 20 * time.Second}.Run(t.Context(), "", "sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo done; exit 1")
	var failed *CommandError
	if !errors.As(err, &failed) || failed.ExitCode != 1 || len(failed.Stderr) != 1000000 || string(out) != "done\n" {
		t.Fatalf("exit %v, %d bytes of it", failed, len(out))
	}
	if len(err.Error()) > 1000 {
		t.Errorf("the message has %d bytes", len(err.Error()))
	}
}

func TestRunnerEndsWhatHangs(t *testing.T) {
	for name, script := range map[string]string{
		"hangs":                                "exec sleep 100",
		"ignores TERM":                         "trap '' TERM; while :; do sleep 1; done",
		"leaves a child that holds its output": "sleep 100 & exit 0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := Runner{Timeout: 300 * time.Millisecond}.Run(t.Context(), "", "sh", "-c", script)
			if took := time.Since(began); err == nil || took > 10*time.Second {
				t.Errorf("%v after %v", err, took)
			}
			if name == "hangs" && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want a deadline", err)
			}
		})
	}
}

func TestRunnerEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Runner{}).Run(ctx, "", "sleep", "100"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
