package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is a network namespace: a machine on the LAN, the Docker host or the
// inside of a container.
type Host struct {
	Name  string
	Addr  netip.Addr // its address on the LAN, if the lab gave it one
	Addr6 netip.Addr // the same of IPv6
	Iface string     // its interface on the LAN

	path string
}

// newHost makes a namespace.
func newHost(ctx context.Context, name string) (*Host, error) {
	h := openHost(name)
	if err := run(exec.CommandContext(ctx, "ip", "netns", "add", name)); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	if err := h.ip(ctx, "link set lo up"); err != nil {
		return nil, err
	}
	return h, nil
}

// openHost refers to a namespace that exists.
func openHost(name string) *Host {
	return &Host{Name: name, path: filepath.Join(namespaceRoot, name)}
}

// Netns is the path of the namespace.
func (h *Host) Netns() string { return h.path }

// Command runs in the host's network namespace, and in the machine's own file
// system and process table.
func (h *Host) Command(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.path, "--"}, argv...)...)
}

// Do calls f in the host's network namespace. Sockets that it makes stay there,
// goroutines that it starts do not.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		restored, err := h.doLocked(f)
		if restored {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine: nobody may run in it
		result <- err
	}()
	return <-result
}

func (h *Host) doLocked(f func() error) (restored bool, err error) {
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("entering %s: %w", h.Name, err)
	}
	defer before.Close()
	there, err := os.Open(h.path)
	if err != nil {
		return true, fmt.Errorf("entering %s: %w", h.Name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("entering %s: %w", h.Name, err)
	}
	err = f()
	if back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); back != nil {
		return false, errors.Join(err, fmt.Errorf("leaving %s: %w", h.Name, back))
	}
	return true, err
}

// DialContext dials from the host. The address is a literal one: a name would
// be looked up outside of it.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.Do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on the host.
func (h *Host) Listen(network, address string) (listener net.Listener, err error) {
	err = h.Do(func() error {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

// ListenPacket opens a datagram socket on the host.
func (h *Host) ListenPacket(network, address string) (conn net.PacketConn, err error) {
	err = h.Do(func() error {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

// ip runs ip(8) commands in the namespace, all in one process.
func (h *Host) ip(ctx context.Context, commands ...string) error {
	cmd := h.Command(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if err := run(cmd); err != nil {
		return fmt.Errorf("configuring %s: %w", h.Name, err)
	}
	return nil
}

// Sysctl sets a kernel parameter of the namespace.
func (h *Host) Sysctl(name, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	return h.Do(func() error { return os.WriteFile(path, []byte(value), 0o644) })
}

// close ends what runs in the namespace and removes it.
func (h *Host) close() error {
	for _, pid := range processesIn(filepath.Base(h.path)) {
		unix.Kill(pid, unix.SIGKILL)
	}
	return deleteNamespace(filepath.Base(h.path))
}

// deleteNamespace removes a named namespace; none by that name is fine.
func deleteNamespace(name string) error {
	path := filepath.Join(namespaceRoot, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmounting namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing namespace %s: %w", name, err)
	}
	return nil
}

// processesIn are the processes in the named namespaces, never this one.
func processesIn(names ...string) []int {
	type inode struct{ dev, ino uint64 }
	wanted := map[inode]bool{}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(namespaceRoot, name), &st) == nil {
			wanted[inode{st.Dev, st.Ino}] = true
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil || len(wanted) == 0 {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) == nil && wanted[inode{st.Dev, st.Ino}] {
			pids = append(pids, pid)
		}
	}
	return pids
}
