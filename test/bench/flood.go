package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// flood opens TCP connections from the client as fast as it can, reads the one
// byte that the service sends, and closes. It closes with a reset, so that no
// port stays occupied.
type flood struct {
	connections atomic.Int64
	refused     atomic.Int64 // answered with a reset instead of a connection
	reset       atomic.Int64 // cut after they were open
	other       atomic.Int64
	slowest     atomic.Int64
	first       atomic.Value // string: the first failure
	elapsed     time.Duration
}

// floodWorkers are more than there are cores, because each sometimes waits.
const floodWorkers = 8

func (f *flood) perSecond() float64 { return float64(f.connections.Load()) / f.elapsed.Seconds() }

// run floods until stop is closed.
func (f *flood) run(from *space, to netip.AddrPort, stop <-chan struct{}) error {
	// A worker that waits in the kernel holds its processor for a moment.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2 * floodWorkers))
	began := time.Now()
	var group sync.WaitGroup
	errs := make([]error, floodWorkers)
	for i := range floodWorkers {
		group.Go(func() {
			errs[i] = from.in(func() error { return f.work(netip.MustParseAddr(clientAddr(i%clientAddrs)), to, stop) })
		})
	}
	group.Wait()
	f.elapsed = time.Since(began)
	return errors.Join(errs...)
}

func (f *flood) work(from netip.Addr, to netip.AddrPort, stop <-chan struct{}) error {
	source := &unix.SockaddrInet4{Addr: from.As4()}
	target := &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		began := time.Now()
		stage, err := connectOnce(source, target)
		f.note(stage, err, time.Since(began))
	}
}

func (f *flood) note(stage string, err error, took time.Duration) {
	f.connections.Add(1)
	for {
		old := f.slowest.Load()
		if int64(took) <= old || f.slowest.CompareAndSwap(old, int64(took)) {
			break
		}
	}
	switch {
	case err == nil:
		return
	case errors.Is(err, unix.ECONNREFUSED):
		f.refused.Add(1)
	case errors.Is(err, unix.ECONNRESET):
		f.reset.Add(1)
	default:
		f.other.Add(1)
	}
	f.first.CompareAndSwap(nil, stage+": "+err.Error())
}

func (f *flood) firstError() string {
	text, _ := f.first.Load().(string)
	return text
}

func connectOnce(source, target *unix.SockaddrInet4) (stage string, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "socket", err
	}
	defer unix.Close(fd)
	limit := unix.Timeval{Sec: 5}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.Bind(fd, source))
	if err != nil {
		return "preparing", err
	}
	if err := connect(fd, target); err != nil {
		return "connect", err
	}
	var answer [1]byte
	n, err := unix.Read(fd, answer[:])
	for err == unix.EINTR {
		n, err = unix.Read(fd, answer[:])
	}
	if err == nil && n == 0 {
		err = errors.New("closed without an answer")
	}
	return "read", err
}

// connect goes on where a signal of the Go runtime interrupts it.
func connect(fd int, target *unix.SockaddrInet4) error {
	err := unix.Connect(fd, target)
	if err != unix.EINTR {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return err
	}
}

// greet answers every connection with one byte and closes it.
func greet(l net.Listener) {
	for range 2 {
		go func() {
			for {
				c, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					continue // it is gone already
				}
				c.Write([]byte{'k'}) //nolint:errcheck // the client sees it
				c.Close()
			}
		}()
	}
}

// floodFor floods for a while and fails if a connection fails: it is for
// speed, not for loss.
func floodFor(from *space, to netip.AddrPort, length time.Duration) (perSecond float64, err error) {
	var f flood
	stop := make(chan struct{})
	time.AfterFunc(length, func() { close(stop) })
	if err := f.run(from, to, stop); err != nil {
		return 0, err
	}
	if failed := f.refused.Load() + f.reset.Load() + f.other.Load(); failed > 0 {
		return 0, fmt.Errorf("%d of %d connections failed, the first at %s", failed, f.connections.Load(), f.firstError())
	}
	return f.perSecond(), nil
}
