// Package netns_test runs the real anchord with the real nft, ip, conntrack,
// udhcpc and dnsmasq on a LAN made of network namespaces. Only Docker is a
// fake.
//
// The whole test process lives in its own PID, mount and network namespace:
// whatever happens to it, the kernel ends every child, and with the last one
// go the namespaces, links and mounts. Nothing has a name that another run
// could meet.
package netns_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord/test/tools"
)

const (
	insideVar     = "ANCHORD_NETNS_TEST_INSIDE"
	buildErrorVar = "ANCHORD_NETNS_TEST_BUILD_ERROR"
	scratch       = "/run" // private to the test process: a tmpfs
	binaryPath    = scratch + "/bin/anchord"
)

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) == "" {
		os.Exit(runInside())
	}
	beParallel()
	if err := arrange(); err != nil {
		fmt.Fprintln(os.Stderr, "arranging the test's own namespaces:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// beParallel lets more tests wait at the same time than there are processors,
// unless the caller says otherwise: most of their time is a lease's or a
// kernel timer's.
func beParallel() {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		flag.Set("test.parallel", "8") //nolint:errcheck // a flag of testing, and a number
	}
}

// runInside builds the program and runs this test again in namespaces of its
// own. The thread is locked because the kernel sends the death signal when the
// thread ends that made the child.
func runInside() int {
	runtime.LockOSThread()
	if err := tools.Use("test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin, err := build()
	if err != nil {
		bin, _ = os.Open(os.DevNull)
		os.Setenv(buildErrorVar, err.Error())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{bin}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root and network namespaces:", err)
		return 1
	}
	passSignals(cmd.Process)
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	return 0
}

// passSignals hands on what go test sends, so that a hung test shows its
// goroutines.
func passSignals(p *os.Process) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range c {
			p.Signal(s) //nolint:errcheck // a child that has ended needs none
		}
	}()
}

// build compiles the program into a file that has no name any more when this
// returns, so that nothing can be left behind.
func build() (*os.File, error) {
	dir, err := os.MkdirTemp("", "anchord-netns-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "anchord")
	cmd := exec.Command("go", "build", "-o", out, "./cmd/anchord")
	cmd.Dir = "../.."
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build ./cmd/anchord: %w\n%s", err, bytes.TrimSpace(msg))
	}
	return os.Open(out)
}

// arrange makes the mounts that the tests share: a scratch tmpfs, /proc of the
// PID namespace, and the image's hook scripts where the image has them.
func arrange() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mounting the scratch directory: %w", err)
	}
	for _, d := range []string{"bin", "tmp", "share", "work", "lib", "libwork"} {
		if err := os.Mkdir(filepath.Join(scratch, d), 0o777); err != nil {
			return err
		}
	}
	os.Setenv("TMPDIR", scratch+"/tmp")
	if err := installHooks(); err != nil {
		return err
	}
	if err := showNames(); err != nil {
		return err
	}
	if err := hideUsers(); err != nil {
		return err
	}
	return installBinary()
}

// installHooks puts rootfs/usr/share/anchord where the program looks for it.
// The overlay makes the mount point without touching the machine's /usr/share.
func installHooks() error {
	// ip has its names of protocols here or in /etc.
	lower := "/usr/share"
	for _, dir := range tools.Dirs() {
		lower += ":" + dir + "/tree/usr/share"
	}
	opts := "lowerdir=" + lower + ",upperdir=" + scratch + "/share,workdir=" + scratch + "/work"
	if err := unix.Mount("overlay", "/usr/share", "overlay", 0, opts); err != nil {
		return fmt.Errorf("overlaying /usr/share: %w", err)
	}
	if err := os.MkdirAll("/usr/share/anchord", 0o755); err != nil {
		return err
	}
	source, err := filepath.Abs("../../rootfs/usr/share/anchord")
	if err != nil {
		return err
	}
	if _, err := os.Stat(source); err != nil {
		os.Setenv(buildErrorVar, os.Getenv(buildErrorVar)+"\n"+err.Error())
		return nil
	}
	return unix.Mount(source, "/usr/share/anchord", "", unix.MS_BIND, "")
}

// showNames puts ip's names of protocols where it looks for them, on a machine
// without iproute2.
func showNames() error {
	if _, err := os.Stat("/etc/iproute2"); err == nil {
		return nil
	}
	for _, dir := range tools.Dirs() {
		if _, err := os.Stat(dir + "/tree/etc/iproute2"); err == nil {
			if err := unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc:"+dir+"/tree/etc"); err != nil {
				return fmt.Errorf("overlaying /etc: %w", err)
			}
			return nil
		}
	}
	return nil
}

// hideUsers takes away the users for whom dhcpcd would give up its rights, as
// the image has none: it is given next to none to begin with.
func hideUsers() error {
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	users := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "dhcpcd:") || strings.HasPrefix(line, "_dhcpcd:")
	})
	if err := os.WriteFile(scratch+"/passwd", []byte(strings.Join(users, "")), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(scratch+"/passwd", "/etc/passwd", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("hiding dhcpcd's user: %w", err)
	}
	// It is written to, which no container's is. A machine without dhcpcd does not
	// have the directory.
	if _, err := os.Stat("/var/lib/dhcpcd"); err != nil {
		opts := "lowerdir=/var/lib,upperdir=" + scratch + "/lib,workdir=" + scratch + "/libwork"
		if err := unix.Mount("overlay", "/var/lib", "overlay", 0, opts); err != nil {
			return fmt.Errorf("overlaying /var/lib: %w", err)
		}
		if err := os.Mkdir("/var/lib/dhcpcd", 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("tmpfs", "/var/lib/dhcpcd", "tmpfs", 0, "")
}

// installBinary copies the program from the descriptor of the outer process.
func installBinary() error {
	from := os.NewFile(3, "anchord")
	defer from.Close()
	to, err := os.OpenFile(binaryPath, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// program is the one under test.
func program(t testing.TB) string {
	t.Helper()
	if msg := os.Getenv(buildErrorVar); msg != "" {
		t.Fatal(msg)
	}
	return binaryPath
}
