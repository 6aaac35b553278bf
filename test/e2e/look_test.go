package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
	"github.com/AlexCherrypi/anchord/test/peer/probe"
)

// patience is the limit where nothing is promised but that it happens.
const patience = 30 * time.Second

// within repeats a look until it succeeds. The look has to have succeeded when
// limit has passed since the cause.
func (s *site) within(limit time.Duration, cause time.Time, what string, look func(ctx context.Context) error) time.Duration {
	s.Helper()
	ctx, cancel := context.WithDeadline(s.ctx, cause.Add(limit))
	defer cancel()
	for tries := 1; ; tries++ {
		err := attempt(ctx, look)
		took := time.Since(cause)
		if err == nil && took <= limit {
			s.Logf("%s: after %v", what, took.Round(time.Millisecond))
			return took
		}
		if took > limit {
			s.Fatalf("%s: not within %v (%d looks); the last: %v", what, limit, tries, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// attempt gives one look so little time that a packet that was lost, and which
// TCP would repeat after a second, does not count as a second.
func attempt(ctx context.Context, look func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
	defer cancel()
	return look(ctx)
}

// lease waits until the DHCP server's lease table shows the name.
func (s *site) lease(name string) lab.Lease {
	s.Helper()
	var found lab.Lease
	s.within(patience, time.Now(), "a lease for "+name, func(context.Context) (err error) {
		found, err = s.findLease(name)
		return err
	})
	return found
}

func (s *site) findLease(name string) (lab.Lease, error) {
	leases, err := s.lan.Leases()
	for _, l := range leases {
		if l.Hostname == name {
			return l, nil
		}
	}
	return lab.Lease{}, fmt.Errorf("the lease table has no %s, only %v (%v)", name, leases, err)
}

// released waits until the lease table shows the name no more. What it waits
// for is a release: every lease lasts longer than the patience.
func (s *site) released(name string) {
	s.Helper()
	s.within(patience, time.Now(), "the lease of "+name+" is given back", func(context.Context) error {
		leases, err := s.lan.Leases()
		for _, l := range leases {
			if l.Hostname == name {
				return fmt.Errorf("the table has %v", l)
			}
		}
		return err
	})
}

// addr is the project's address as the DHCP server's lease table has it.
func (p *project) addr() netip.Addr {
	p.Helper()
	return p.lease(p.name).Addr
}

// answers is a look at whether a service answers a host, and sees it as itself.
func answers(from *lab.Host, network string, addr netip.Addr, port uint16) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := asks(ctx, from, network, addr, port)
		return err
	}
}

func asks(ctx context.Context, from *lab.Host, network string, addr netip.Addr, port uint16) (probe.Answer, error) {
	answer, err := probe.Ask(ctx, from, network, netip.AddrPortFrom(addr, port).String())
	if err == nil && answer.Peer != answer.From {
		err = fmt.Errorf("the service sees %s, but the client is %s", answer.Peer, answer.From)
	}
	return answer, err
}

// reachable starts nothing: it waits until a port of the project answers the
// LAN's client, and gives the project's address.
func (p *project) reachable(port uint16) netip.Addr {
	p.Helper()
	addr := p.addr()
	p.within(patience, time.Now(), fmt.Sprintf("%s answers on port %d", addr, port), answers(p.lan.Client, "tcp", addr, port))
	return addr
}

// host puts another host on the LAN.
func (s *site) host(name string) *lab.Host {
	s.Helper()
	h, err := s.lan.AddHost(s.ctx, name)
	if err != nil {
		s.Fatal(err)
	}
	return h
}

// serve lets a host tell everyone who they are.
func (s *site) serve(h *lab.Host, endpoints ...string) {
	s.Helper()
	var all []probe.Endpoint
	for _, text := range endpoints {
		more, err := probe.ParseEndpoints(text)
		if err != nil {
			s.Fatal(err)
		}
		all = append(all, more...)
	}
	var server *probe.Server
	err := h.Do(func() (err error) {
		server, err = probe.Serve(all, discard{})
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { server.Close() })
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// seenFrom is the address from which a host is reached by who dials it.
func seenFrom(ctx context.Context, from *lab.Host, network string, to netip.Addr, port uint16) (netip.Addr, error) {
	answer, err := probe.Ask(ctx, from, network, netip.AddrPortFrom(to, port).String())
	if err != nil {
		return netip.Addr{}, err
	}
	peer, err := netip.ParseAddrPort(answer.Peer)
	return peer.Addr(), err
}

// leavesAs is a look at whether what a namespace sends is seen as coming from
// an address.
func leavesAs(want netip.Addr, from *lab.Host, network string, to netip.Addr, port uint16) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		got, err := seenFrom(ctx, from, network, to, port)
		if err == nil && got != want {
			err = fmt.Errorf("%s of %s is seen as %s, want %s", network, from.Name, got, want)
		}
		return err
	}
}

// command runs a command on a host and gives its output, also if it fails.
func (s *site) command(h *lab.Host, args ...string) (string, error) {
	out, err := try(h.Command(s.ctx, args...))
	return strings.TrimSpace(out), err
}

// must runs a command on a host.
func (s *site) must(h *lab.Host, args ...string) string {
	s.Helper()
	out, err := s.command(h, args...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// fetch gets a page from a host.
func fetch(ctx context.Context, from *lab.Host, url string) (string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, response.Status)
	}
	return string(body), err
}

// askOn asks on a connection that is open.
func askOn(ctx context.Context, conn net.Conn) (probe.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return probe.AskOn(ctx, conn)
}

// slow gives a look the time that it takes by itself: for what none of the
// promises is about, and for what must never fail.
func slow(look func(context.Context) error) func(context.Context) error {
	return func(context.Context) error { return look(context.Background()) }
}

// looks is a look that is repeated all the time, beside the test.
type looks struct {
	mu        sync.Mutex
	succeeded []success
	failed    []error
	stop      func() []error // lets the last one end and gives the failures
}

type success struct{ began, ended time.Time }

func (s *site) looks(look func(ctx context.Context) error) *looks {
	l := &looks{}
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			began := time.Now()
			l.note(began, attempt(s.ctx, look))
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	l.stop = func() []error {
		cancel()
		<-done
		return l.failed
	}
	s.Cleanup(func() { l.stop() })
	return l
}

func (l *looks) note(began time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.succeeded = append(l.succeeded, success{began, time.Now()})
	} else {
		l.failed = append(l.failed, fmt.Errorf("%s: %w", time.Now().Format(time.StampMilli), err))
	}
}

// firstAfter waits for a success that began after a moment and gives the time of
// its end.
func (l *looks) firstAfter(s *site, moment time.Time, what string) time.Time {
	s.Helper()
	var first time.Time
	s.within(patience, time.Now(), what, func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, one := range l.succeeded {
			if one.began.After(moment) {
				first = one.ended
				return nil
			}
		}
		return fmt.Errorf("%d failures, the last: %v", len(l.failed), l.failed[max(0, len(l.failed)-1):])
	})
	return first
}

// back checks how long after its cause each look succeeds, none of which began
// before a moment, the end of what was there before.
func (s *site) back(limit time.Duration, ended, cause time.Time, all map[string]*looks) {
	s.Helper()
	for what, l := range all {
		took := running(cause, l.firstAfter(s, ended, what))
		s.Logf("%s: after %v", what, took)
		if took > limit {
			s.Errorf("%s: after %v, want at most %v", what, took, limit)
		}
	}
}

// refused checks that a port is closed in the way of an ordinary server, which
// says so.
func refused(s *site, from *lab.Host, network string, addr netip.Addr, port uint16) {
	s.Helper()
	answer, err := probe.Ask(s.ctx, from, network, netip.AddrPortFrom(addr, port).String())
	if !errors.Is(err, syscall.ECONNREFUSED) {
		s.Errorf("%s %s:%d is not refused: %v, %v", network, addr, port, answer, err)
	}
}

// lockedBuffer takes what a running command says.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
