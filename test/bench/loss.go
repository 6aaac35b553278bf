package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
)

const (
	changes      = 2000
	changesFor   = 70 * time.Second // on a busy machine there are fewer
	bodyEvery    = 100
	datagramTick = time.Millisecond
)

// watchTable counts, ahead of anchord's rules, what reaches the box itself
// although its port is exposed: packets that were not translated.
const watchTable = `table ip bench {
	counter syns { }
	counter datagrams { }
	counter resets { }
	chain input {
		type filter hook input priority -400;
		iifname lan0 tcp dport 8000 tcp flags & (syn | ack) == syn counter name syns
		iifname lan0 udp dport 8000 counter name datagrams
	}
	chain output {
		type filter hook output priority -400;
		oifname lan0 tcp flags & rst == rst counter name resets
	}
}
`

// loss changes the ruleset all the time while connections are opened as fast
// as two cores allow, and looks for one that noticed.
func loss(ctx context.Context, b *bench) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer w.close()
	if _, err := w.box.run(watchTable, "nft", "-f", "-"); err != nil {
		return err
	}
	// A flood that closes with resets fills the table of closed flows.
	if err := w.box.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "2"); err != nil {
		return err
	}
	for n := range w.services {
		if err := w.serveEcho(n); err != nil {
			return err
		}
	}
	nft := &exec.NFT{}
	if err := w.apply(ctx, nft, w.state(ruleEntries, 0)); err != nil {
		return err
	}
	target := netip.AddrPortFrom(netip.MustParseAddr(extAddr), publicPort)
	if err := w.reachable(ctx, target.String()); err != nil {
		return err
	}
	return w.lossUnder(ctx, b, nft, target)
}

// lossUnder runs the flood, the stream and the changes at the same time.
func (w *world) lossUnder(ctx context.Context, b *bench, nft *exec.NFT, target netip.AddrPort) error {
	var group sync.WaitGroup
	var f flood
	var stream datagrams
	var floodErr, streamErr error
	stop := make(chan struct{})
	group.Go(func() { floodErr = f.run(w.client, target, stop) })
	group.Go(func() { streamErr = stream.run(w.client, target, stop) })
	time.Sleep(200 * time.Millisecond)
	took, changeErr := w.change(ctx, nft)
	close(stop)
	group.Wait()
	if err := errors.Join(floodErr, streamErr, changeErr); err != nil {
		return err
	}
	var counts [3]int
	for i, name := range []string{"syns", "datagrams", "resets"} {
		n, err := w.counter(name)
		if err != nil {
			return err
		}
		counts[i] = n
	}
	reportLoss(b, &f, &stream, took, counts[0], counts[1], counts[2])
	return nil
}

func reportLoss(b *bench, f *flood, stream *datagrams, took sample, syn, untranslated, resets int) {
	failed := f.refused.Load() + f.other.Load()
	slowest := time.Duration(f.slowest.Load())
	lost := stream.sent.Load() - stream.answered.Load()
	// A promise of "not one in so many changes" is not kept by fewer.
	judge := func(ok bool) verdict {
		if ok && len(took) < changes {
			return unsure
		}
		return verdictOf(ok)
	}
	b.table.add(fmt.Sprintf("un-NATed SYNs in %d ruleset changes of %d", len(took), changes), "0",
		fmt.Sprintf("%d of %d (%.0f connections/s)", syn, f.connections.Load(), f.perSecond()), judge(syn == 0))
	b.table.add("connects that failed", "0", fmt.Sprintf("%d %s", failed, f.firstError()), judge(failed == 0))
	b.table.add("slowest connect and answer", "< 900 ms", ms(slowest), judge(slowest < 900*time.Millisecond))
	b.table.add("connections reset", "0", fmt.Sprintf("%d (box sent %d resets)", f.reset.Load(), resets), judge(f.reset.Load() == 0 && resets == 0))
	b.table.add("UDP datagrams lost", "0", fmt.Sprintf("%d of %d, %d not translated", lost, stream.sent.Load(), untranslated), judge(lost == 0 && untranslated == 0))
	b.table.detail("one change under that load", took.String())
}

// change sends the ports to one service and the other in turn; every so often
// the rules too are replaced.
func (w *world) change(ctx context.Context, nft *exec.NFT) (sample, error) {
	var rulesets [2][2]anchord.Ruleset
	for body := range 2 {
		for n := range w.services {
			s := w.state(ruleEntries, n)
			for i := range s.Entries { // only the first port of each protocol moves
				if s.Entries[i].First != publicPort {
					s.Entries[i].Backend = serviceAddr(0)
				}
			}
			s.Identity.Project = fmt.Sprintf("%s%d", project, body)
			rs, err := w.renderer.Render(s)
			if err != nil {
				return nil, err
			}
			rulesets[body][n] = rs
		}
	}
	var took sample
	started := time.Now()
	for i := 1; i <= changes && ctx.Err() == nil && time.Since(started) < changesFor; i++ {
		next := rulesets[i/bodyEvery%2][i%2]
		began := time.Now()
		if err := w.box.in(func() error { return nft.Apply(ctx, next) }); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, ctx.Err()
}

// serveEcho makes a service answer TCP with a byte and UDP with the same.
func (w *world) serveEcho(n int) error {
	l, err := w.listen(n)
	if err != nil {
		return err
	}
	greet(l)
	return w.services[n].in(func() error {
		c, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", servicePort))
		if err != nil {
			return err
		}
		go func() {
			buf := make([]byte, 64)
			for {
				k, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				c.WriteTo(buf[:k], from) //nolint:errcheck // the client misses it
			}
		}()
		return nil
	})
}

// datagrams is a numbered stream from one socket: a call that goes on while
// the rules change.
type datagrams struct{ sent, answered atomic.Int64 }

func (d *datagrams) run(from *space, to netip.AddrPort, stop <-chan struct{}) error {
	var c net.Conn
	err := from.in(func() (err error) {
		c, err = net.Dial("udp4", to.String())
		return err
	})
	if err != nil {
		return err
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		d.receive(c)
	}()
	tick := time.NewTicker(datagramTick)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			time.Sleep(300 * time.Millisecond) // for the last answers
			c.Close()
			<-received
			return nil
		case <-tick.C:
			c.Write(binary.BigEndian.AppendUint64(nil, uint64(d.sent.Add(1)))) //nolint:errcheck // counted as lost
		}
	}
}

// receive counts each datagram once.
func (d *datagrams) receive(c net.Conn) {
	seen := map[uint64]bool{}
	buf := make([]byte, 64)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue // an ICMP error for an earlier one
		}
		if id := binary.BigEndian.Uint64(buf); !seen[id] {
			seen[id] = true
			d.answered.Add(1)
		}
	}
}
