package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed engine.sh
var engineScript string

// process is a child that runs until it is killed.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the child has ended
}

// startProcess starts a child in a session of its own, so that an interrupt
// typed at a terminal does not end it and a kept lab outlives its maker. What
// it says goes to a file for the same reason.
func startProcess(cmd *exec.Cmd, host *Host, log string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := host.Do(cmd.Start); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// startEngine starts dockerd in a tree and waits until it answers.
func (l *Lab) startEngine(ctx context.Context, p parts, binds []string) error {
	visible, err := visibleDirs(binds)
	if err != nil {
		return err
	}
	if err := l.forward(); err != nil {
		return err
	}
	cmd := exec.Command("sh", "-c", engineScript, "engine")
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"TREE=" + p.tree, "DOCKERD=" + p.engine, "FIREWALL=" + l.Release.Firewall, "DATA=" + l.record.dataDir(), "RUN=" + l.record.dir(),
		"CGROUP=" + l.record.cgroup(), "VISIBLE=" + strings.Join(visible, "\n"),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if l.engine, err = startProcess(cmd, l.root, l.EngineLog()); err != nil {
		return fmt.Errorf("starting the engine: %w", err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	if err := os.WriteFile(filepath.Join(l.record.dir(), "engine.pid"), []byte(pid+"\n"), 0o644); err != nil {
		return fmt.Errorf("recording the engine: %w", err)
	}
	if l.docker, err = newClient(l.Host()); err != nil {
		return err
	}
	if err := l.waitEngine(ctx); err != nil {
		return fmt.Errorf("waiting for the engine: %w; its last words:\n%s", err, tail(l.EngineLog(), 15))
	}
	return nil
}

// forward has the Docker host's kernel send packets on, as an administrator has to
// for the one firewall that does not do it by itself.
func (l *Lab) forward() error {
	if l.Release.Firewall != "nftables" {
		return nil
	}
	return errors.Join(l.root.Sysctl("net.ipv4.ip_forward", "1"), l.root.Sysctl("net.ipv6.conf.all.forwarding", "1"))
}

func (l *Lab) waitEngine(ctx context.Context) error {
	return waitFor(ctx, time.Minute, func() (bool, error) {
		if l.engine.ended() {
			return false, fmt.Errorf("it ended: %v", l.engine.cmd.ProcessState)
		}
		_, err := l.docker.Ping(ctx)
		return err == nil, nil
	})
}

// visibleDirs are the host's directories from which a container can mount
// something: the repository, where the examples are, and the temporary one.
func visibleDirs(more []string) ([]string, error) {
	repository, err := repositoryDir()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var dirs []string
	for _, dir := range append([]string{repository, os.TempDir()}, more...) {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(dir, "\n") {
			return nil, fmt.Errorf("directory %q cannot be shown to the engine: it has a newline in its name", dir)
		}
		if !seen[dir] {
			seen[dir] = true
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// repositoryDir is found from the working directory, because the lab runs from
// go test and from go run.
func repositoryDir() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/AlexCherrypi/anchord\n") {
			return dir, nil
		}
		if dir == "/" {
			return "", fmt.Errorf("%s is not inside anchord's repository, run it from there", start)
		}
	}
}

// tail gives the end of a log file for an error message.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// run runs a command and puts what it said into the error.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
