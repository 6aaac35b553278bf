package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/AlexCherrypi/anchord/exec"
)

const (
	rounds      = 5
	copyFor     = 3 * time.Second
	connectFor  = 1500 * time.Millisecond
	floodPort   = servicePort
	copyPort    = servicePort + 1
	publicCopy  = publicPort + 1
	ruleEntries = 50
)

// throughput compares the way through anchord's rules with plain routing over
// the same interfaces, in turn, so that the machine's moods meet both.
func throughput(ctx context.Context, b *bench) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.serveBoth(); err != nil {
		return err
	}
	var copies, connects pairs
	var bare []float64
	for range rounds {
		if err := w.round(ctx, &copies, &connects, &bare); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	b.table.add("throughput through DNAT / plain routing", ">= 0.95", copies.ratios().String(), verdictOf(copies.ratios().median() >= 0.95))
	b.table.detail("median of each", fmt.Sprintf("%.1f / %.1f Gbit/s", median(copies.through)*8/1e9, median(copies.plain)*8/1e9))
	b.table.add("new connections through DNAT / plain routing", ">= 0.9", connects.ratios().String(), verdictOf(connects.ratios().median() >= 0.9))
	b.table.detail("median of each", fmt.Sprintf("%.0f / %.0f per second", median(connects.through), median(connects.plain)))
	b.table.detail("for comparison: one DNAT rule and nothing else / plain routing", pairs{connects.plain, bare}.ratios().String())
	return nil
}

// pairs are the figures of the two ways, round by round.
type pairs struct{ plain, through []float64 }

func (p pairs) ratios() ratios {
	var r ratios
	for i := range p.plain {
		r = append(r, p.through[i]/p.plain[i])
	}
	return r
}

func (w *world) serveBoth() error {
	l, err := w.listen(0)
	if err != nil {
		return err
	}
	greet(l)
	return w.services[0].in(func() error {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", copyPort))
		if err == nil {
			go discard(l)
		}
		return err
	})
}

// discarded counts the bytes that arrived.
var discarded atomic.Int64

func discard(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 256<<10)
			for {
				n, err := c.Read(buf)
				discarded.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
}

// round measures plain routing, then with anchord's rules.
func (w *world) round(ctx context.Context, copies, connects *pairs, bare *[]float64) error {
	service := serviceAddr(0)
	for _, way := range []struct {
		rules         bool
		flood, copy   netip.AddrPort
		copies, conns *[]float64
	}{
		{false, netip.AddrPortFrom(service, floodPort), netip.AddrPortFrom(service, copyPort), &copies.plain, &connects.plain},
		{
			true, netip.AddrPortFrom(netip.MustParseAddr(extAddr), publicPort), netip.AddrPortFrom(netip.MustParseAddr(extAddr), publicCopy),
			&copies.through, &connects.through,
		},
	} {
		var nft exec.NFT
		if way.rules {
			s := w.state(ruleEntries, 0)
			for i := range s.Entries {
				if s.Entries[i].First == publicCopy {
					s.Entries[i].Port = copyPort
				}
			}
			if err := w.apply(ctx, &nft, s); err != nil {
				return err
			}
		}
		if err := w.reachable(ctx, way.flood.String()); err != nil {
			return err
		}
		rate, err := w.copy(way.copy)
		if err != nil {
			return err
		}
		*way.copies = append(*way.copies, rate)
		perSecond, err := floodFor(w.client, way.flood, connectFor)
		if err != nil {
			return err
		}
		*way.conns = append(*way.conns, perSecond)
		if way.rules {
			if err := w.box.in(func() error { return nft.Remove(ctx) }); err != nil {
				return err
			}
		}
	}
	perSecond, err := w.bareConnects(ctx)
	*bare = append(*bare, perSecond)
	return err
}

// bareTable is the least that leads a port to a service: what of the cost is
// the kernel's own translation, whoever asks for it.
const bareTable = `table ip bare {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		iifname lan0 tcp dport 8000 dnat to 10.213.1.1:80
	}
}
`

func (w *world) bareConnects(ctx context.Context) (float64, error) {
	if _, err := w.box.run(bareTable, "nft", "-f", "-"); err != nil {
		return 0, err
	}
	to := netip.AddrPortFrom(netip.MustParseAddr(extAddr), publicPort)
	err := w.reachable(ctx, to.String())
	var perSecond float64
	if err == nil {
		perSecond, err = floodFor(w.client, to, connectFor)
	}
	_, gone := w.box.run("delete table ip bare\n", "nft", "-f", "-")
	return perSecond, errors.Join(err, gone)
}

// copy sends for a while on one connection and gives bytes per second as they
// arrived.
func (w *world) copy(to netip.AddrPort) (float64, error) {
	var c net.Conn
	err := w.client.in(func() (err error) {
		c, err = net.DialTimeout("tcp4", to.String(), time.Second)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	before, began := discarded.Load(), time.Now()
	c.SetDeadline(began.Add(copyFor + 5*time.Second)) //nolint:errcheck // an open socket takes it
	for time.Since(began) < copyFor {
		if _, err := c.Write(buf); err != nil && err != io.ErrShortWrite {
			return 0, err
		}
	}
	return float64(discarded.Load()-before) / time.Since(began).Seconds(), nil
}
