package exec

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tended runs a child until the test ends it.
type tended struct {
	mu     sync.Mutex
	lines  []string
	starts int
	exits  []time.Duration
	more   chan struct{}
	end    func() // ends the child and waits for it
}

func tend(t *testing.T, c Child) *tended {
	t.Helper()
	k := &tended{more: make(chan struct{}, 100)}
	note := func(f func()) {
		k.mu.Lock()
		f()
		k.mu.Unlock()
		k.more <- struct{}{}
	}
	c.Line = func(l string) { note(func() { k.lines = append(k.lines, l) }) }
	c.Started = func() { note(func() { k.starts++ }) }
	c.Exited = func(_ error, again time.Duration) { note(func() { k.exits = append(k.exits, again) }) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	k.end = func() { cancel(); <-done }
	t.Cleanup(k.end)
	return k
}

// until waits for a condition; the limit only catches what never comes.
func (k *tended) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		k.mu.Lock()
		ok := is()
		k.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-k.more:
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}

// said is all that the child has written so far.
func (k *tended) said() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.lines)
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// gone waits until no process of the group is left.
func gone(pgid int) bool {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if syscall.Kill(-pgid, 0) == syscall.ESRCH {
			return true
		}
	}
	return false
}

func number(t *testing.T, s string) (n int) {
	t.Helper()
	for _, r := range s {
		if r < '0' || r > '9' {
			t.Fatalf("%q is no number", s)
		}
		n = 10*n + int(r-'0')
	}
	return n
}

// A child that listens is told of as started when it does; one that ends before
// is not.
func TestChildListens(t *testing.T) {
	begun := filepath.Join(t.TempDir(), "begun")
	early := false
	k := tend(t, Child{Listens: true, Args: []string{"sh", "-c", "sleep 0.3; touch " + begun + "; exec ip monitor link"}})
	k.until(t, "a start", func() bool {
		_, err := os.Stat(begun)
		early = early || (k.starts > 0 && err != nil)
		return k.starts == 1
	})
	if early {
		t.Error("told of before it listened")
	}
	k = tend(t, Child{Listens: true, Args: []string{"sh", "-c", "exit 1"}, BackoffMax: time.Millisecond})
	k.until(t, "three ends", func() bool { return len(k.exits) >= 3 })
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.starts != 0 {
		t.Errorf("told of %d starts of a child that never listened", k.starts)
	}
}

func TestChildIsStartedAgain(t *testing.T) {
	k := tend(t, Child{Args: []string{"sh", "-c", "echo out; echo err >&2; exit 1"}, BackoffMax: time.Millisecond})
	k.until(t, "three starts", func() bool { return k.starts >= 3 && len(k.lines) >= 6 })
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Contains(k.lines, "out") || !slices.Contains(k.lines, "err") {
		t.Errorf("lines %q", k.lines)
	}
	for _, again := range k.exits {
		if again > time.Millisecond {
			t.Errorf("a pause of %v is beyond the cap", again)
		}
	}
}

func TestChildThatCannotBeStartedIsTriedAgain(t *testing.T) {
	k := tend(t, Child{Args: []string{"no-such-program-of-anchord"}, BackoffMax: time.Millisecond})
	k.until(t, "three tries", func() bool { return len(k.exits) >= 3 })
	if k.starts != 0 {
		t.Error("it counts as started")
	}
}

func TestChildsFirstPauseIsJitteredAroundASecond(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 5 {
		k := tend(t, Child{Args: []string{"false"}})
		k.until(t, "an exit", func() bool { return len(k.exits) == 1 })
		if again := k.exits[0]; again < 500*time.Millisecond || again > 1500*time.Millisecond {
			t.Errorf("first pause %v", again)
		}
		seen[k.exits[0]] = true
		k.end() // during the pause
	}
	if len(seen) < 2 {
		t.Errorf("no jitter: %v", seen)
	}
}

func TestChildGetsACleanEnvironment(t *testing.T) {
	t.Setenv("ip", "6.6.6.6") // what a hook would take for an option
	t.Setenv("ANCHORD_PROJECT", "shop")
	k := tend(t, Child{Args: []string{"sh", "-c", "env; echo END; exec sleep 100"}, Env: []string{"ANCHORD_BOOT=b"}})
	k.until(t, "its environment", func() bool { return slices.Contains(k.lines, "END") })
	for _, line := range k.said() {
		name, _, _ := strings.Cut(line, "=")
		if !slices.Contains([]string{"PATH", "ANCHORD_BOOT", "PWD", "OLDPWD", "SHLVL", "_", "END"}, name) {
			t.Errorf("the child sees %q", line)
		}
	}
	if !slices.Contains(k.said(), "ANCHORD_BOOT=b") {
		t.Errorf("its own variables are missing: %q", k.said())
	}
}

func TestChildIsEndedWithItsGroup(t *testing.T) {
	for name, script := range map[string]string{
		"ends by itself on TERM":           "trap 'echo bye; exit 0' TERM; echo $$; while :; do sleep 0.05; done",
		"ignores TERM":                     "trap '' TERM; echo $$; while :; do sleep 0.05; done",
		"has a child that ignores TERM":    "(trap '' TERM; while :; do sleep 0.05; done) & echo $$; wait",
		"its child holds the output open":  "(trap '' TERM; exec sleep 100) & echo $$; exit 0",
		"its child ignores TERM, detached": "(trap '' TERM; exec >/dev/null 2>&1; exec sleep 100) & echo $$; exec sleep 100",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := tend(t, Child{Args: []string{"sh", "-c", script}, Grace: 500 * time.Millisecond})
			k.until(t, "its first line", func() bool { return len(k.lines) > 0 })
			pid := number(t, k.said()[0])
			began := time.Now()
			k.end()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if !gone(pid) {
				t.Error("something of its group lives on")
			}
			if name == "ends by itself on TERM" && !slices.Contains(k.lines, "bye") {
				t.Errorf("it was not asked to end first: %q", k.lines)
			}
		})
	}
}

func TestChildWhoseGrandchildHoldsTheOutputIsStartedAgain(t *testing.T) {
	k := tend(t, Child{Args: []string{"sh", "-c", "sleep 100 & echo $$"}, Grace: 100 * time.Millisecond, BackoffMax: time.Millisecond})
	k.until(t, "a second start", func() bool { return k.starts >= 2 && len(k.lines) >= 1 })
	if !gone(number(t, k.said()[0])) {
		t.Error("the grandchild lives on")
	}
}

func TestChildStoppedWhileItStarts(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	for range 20 {
		k := tend(t, Child{Args: []string{"sh", "-c", "echo $$ >" + pidFile + "; exec sleep 100"}, Grace: time.Second})
		k.end()
		if text, err := os.ReadFile(pidFile); err == nil && len(text) > 1 {
			if pid := number(t, strings.TrimSpace(string(text))); alive(pid) {
				t.Fatalf("process %d lives on", pid)
			}
		}
	}
}

func TestChildWithAnEndlessLineIsNotHeldUp(t *testing.T) {
	k := tend(t, Child{Args: []string{"sh", "-c", "echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last; exit 1"}, BackoffMax: time.Millisecond})
	k.until(t, "a second start", func() bool { return k.starts >= 2 })
	if said := k.said(); len(said) < 3 || said[0] != "first" || len(said[1]) > 64<<10 || said[2] != "last" {
		t.Errorf("%d lines came", len(said))
	}
}

func TestChildHasOnlyItsCapabilities(t *testing.T) {
	k := tend(t, Child{
		Args:         []string{"sh", "-c", "grep -e CapEff -e CapPrm -e NoNewPrivs /proc/self/status; exec sleep 100"},
		Capabilities: []int{unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE},
	})
	k.until(t, "three lines", func() bool { return len(k.lines) == 3 })
	want := []string{"CapPrm:\t0000000000002400", "CapEff:\t0000000000002400", "NoNewPrivs:\t1"}
	if !slices.Equal(k.lines, want) {
		t.Errorf("%q, want %q", k.lines, want)
	}
	for range 20 { // on whatever thread: nobody else lost any
		ours, err := os.ReadFile("/proc/thread-self/status")
		if err != nil || strings.Contains(string(ours), "NoNewPrivs:\t1") {
			t.Fatalf("our own thread has none any more (%v)", err)
		}
	}
}

func TestStuckChildIsEndedAndStartedAgain(t *testing.T) {
	stuck := make(chan struct{}, 1)
	k := tend(t, Child{Args: []string{"sleep", "100"}, Stuck: stuck, BackoffMax: 10 * time.Millisecond})
	k.until(t, "start", func() bool { return k.starts == 1 })
	stuck <- struct{}{}
	k.until(t, "another start", func() bool { return k.starts == 2 })
}
