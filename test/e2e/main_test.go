package e2e

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
	"github.com/AlexCherrypi/anchord/test/tools"
)

// reaperFor makes this program a process that removes what the tests left.
const reaperFor = "ANCHORD_E2E_REAPER"

func TestMain(m *testing.M) {
	if os.Getenv(reaperFor) != "" {
		reap()
		return
	}
	if err := tools.Use("test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go machine.watch()
	flag.Parse()
	if err := startReaper(); err != nil {
		fmt.Fprintln(os.Stderr, "starting the process that cleans up after a crash:", err)
		os.Exit(1)
	}
	parallel := false
	flag.Visit(func(f *flag.Flag) { parallel = parallel || f.Name == "test.parallel" })
	if !parallel {
		// More would make the promised times those of a busy machine.
		flag.Set("test.parallel", "3")
	}
	os.Exit(m.Run())
}

// startReaper starts a process that outlives this one whatever ends it: a
// panic of any goroutine, the time limit of the tests, a signal. It knows by
// the end of its input.
func startReaper() error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), reaperFor+"="+strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	return cmd.Start()
}

func reap() {
	io.Copy(io.Discard, os.Stdin)
	for strconv.Itoa(os.Getppid()) == os.Getenv(reaperFor) {
		time.Sleep(10 * time.Millisecond)
	}
	// Its end and its being seen as dead are not one moment.
	for range 3 {
		lab.Reap()
		time.Sleep(100 * time.Millisecond)
	}
}
