package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const recreations = 10

// ready recreates the network-anchor again and again, and looks when it is
// ready, when it has its address, and when the LAN reaches a service.
func ready(ctx context.Context, b *bench) error {
	s, err := b.site(ctx)
	if err != nil {
		return err
	}
	var toReady, toAddress, toAnswer, back sample
	for range recreations {
		r, err := s.recreate(ctx)
		if err != nil {
			return err
		}
		toReady = append(toReady, r.ready.Sub(r.start))
		toAddress = append(toAddress, r.address.Sub(r.start))
		toAnswer = append(toAnswer, r.answer.Sub(r.start))
		back = append(back, r.answer.Sub(r.ready))
	}
	b.table.add("ready after start", "<= 1 s", toReady.short(), verdictOf(toReady.max() <= time.Second))
	b.table.add("LAN address after start", "<= 3 s", toAddress.short(), verdictOf(toAddress.max() <= 3*time.Second))
	b.table.add("services answer the LAN again after ready", "<= 1 s", back.short(), verdictOf(back.max() <= time.Second))
	b.table.detail("the same after start", toAnswer.short())
	return nil
}

// rebirth is what was seen when.
type rebirth struct{ start, ready, address, answer time.Time }

func (s *site) recreate(ctx context.Context) (r rebirth, err error) {
	addr, err := s.leased()
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	starts := s.starts(ctx)
	done := make(chan error, 1)
	go func() { done <- s.up(ctx, "--force-recreate", "--no-deps", "anchord") }()
	defer func() { err = errors.Join(err, <-done) }()
	event, err := nextStart(ctx, starts, "anchord")
	if err != nil {
		return r, err
	}
	r.start = event.at
	box, err := s.enter(ctx, "anchord")
	if err != nil {
		return r, err
	}
	defer box.close()
	var group sync.WaitGroup
	var errs [3]error
	group.Go(func() {
		errs[0] = wait(ctx, 20*time.Second, 2*time.Millisecond, "ready", func() (bool, error) {
			code, _, err := get(box, "/readyz")
			r.ready = time.Now()
			return err == nil && code == http.StatusOK, nil
		})
	})
	group.Go(func() {
		errs[1] = wait(ctx, 20*time.Second, 2*time.Millisecond, "address", func() (bool, error) {
			has, err := s.hasAddress(box)
			r.address = time.Now()
			return has, err
		})
	})
	group.Go(func() {
		errs[2] = wait(ctx, 20*time.Second, time.Millisecond, "answer", func() (bool, error) {
			ok := s.answers(netip.AddrPortFrom(addr, publicPort))
			r.answer = time.Now()
			return ok, nil
		})
	})
	group.Wait()
	return r, errors.Join(errs[:]...)
}

// hasAddress says whether the namespace has an address of the DHCP pool.
func (s *site) hasAddress(box *space) (has bool, err error) {
	err = box.in(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && s.lan.Pool.Contains(p.Addr()) {
				has = true
			}
		}
		return err
	})
	return has, err
}

// answers asks a service from the LAN, with little patience: the kernel's own
// next try would come after a second.
func (s *site) answers(to netip.AddrPort) bool {
	err := s.lan.Client.Do(func() error {
		c, err := net.DialTimeout("tcp4", to.String(), 50*time.Millisecond)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(200 * time.Millisecond)) //nolint:errcheck // an open socket takes it
		if _, err := fmt.Fprintln(c, "hello"); err != nil {
			return err
		}
		_, err = bufio.NewReader(c).ReadString('\n')
		return err
	})
	return err == nil
}
