package probe

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Dialer opens connections; a lab host is one, and so is net.Dialer.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Answer is what came back, and over what.
type Answer struct {
	Identity
	From string // the client's own end of the connection
}

// Ask sends one line and waits for the answer to it, for TCP on a connection of
// its own. The context limits the time, else five seconds.
func Ask(ctx context.Context, dialer Dialer, network, address string) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	return AskOn(ctx, conn)
}

// AskOn asks on a connection that is open already and leaves it open.
func AskOn(ctx context.Context, conn net.Conn) (Answer, error) {
	answer := Answer{From: conn.LocalAddr().String()}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
		defer conn.SetDeadline(time.Time{})
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return answer, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return answer, fmt.Errorf("waiting for the answer of %s: %w", conn.RemoteAddr(), err)
	}
	answer.Identity, err = ParseIdentity(line)
	return answer, err
}

// FlowReport says how one UDP flow that never paused was answered.
type FlowReport struct {
	From       string // the one socket that all was sent from
	Sent       int
	Answered   int
	Errors     int           // ICMP errors that came back, as for a closed port
	FirstAfter time.Duration // from the first datagram to the first answer; zero if there was none
	LongestGap time.Duration // without an answer, both ends of the flow included
	Hosts      []string      // who answered, in the order in which they took over
}

// UDPFlow sends from one socket, one datagram every interval, whatever comes
// back, until the time is up or the context ends. Each answer's host that differs
// from the one before, and each gap of more than ten intervals, goes to log.
func UDPFlow(ctx context.Context, dialer Dialer, address string, interval, length time.Duration, log io.Writer) (FlowReport, error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "udp", address)
	if err != nil {
		return FlowReport{}, err
	}
	f := &flow{conn: conn, log: log, start: time.Now(), interval: interval}
	f.last = f.start
	f.report.From = conn.LocalAddr().String()
	received := make(chan struct{})
	go func() {
		defer close(received)
		f.receive()
	}()
	f.send(ctx)
	f.end.Store(int64(time.Since(f.start)))
	conn.SetReadDeadline(time.Now())
	<-received
	conn.Close()
	f.noteGap(f.start.Add(time.Duration(f.end.Load())))
	f.report.Errors = int(f.errors.Load())
	return f.report, nil
}

type flow struct {
	conn     net.Conn
	log      io.Writer
	start    time.Time
	interval time.Duration
	last     time.Time
	end      atomic.Int64 // of sending, nanoseconds from start; 0: not yet
	errors   atomic.Int64 // the kernel tells them to whichever call comes next
	report   FlowReport
}

// lastAnswers is how long those are waited for that are under way at the end.
const lastAnswers = time.Second

func (f *flow) send(ctx context.Context) {
	ticker := time.NewTicker(f.interval)
	defer ticker.Stop()
	for {
		f.report.Sent++
		if _, err := fmt.Fprintf(f.conn, "%d\n", f.report.Sent); err != nil {
			f.errors.Add(1)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// receive ends when all is sent and answered, or not answered for too long.
// Errors are about a datagram sent earlier, and the flow goes on.
func (f *flow) receive() {
	buf := make([]byte, 65536)
	for {
		n, err := f.conn.Read(buf)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			late := time.Since(f.start) - time.Duration(f.end.Load())
			if f.report.Answered >= f.report.Sent || late > lastAnswers {
				return
			}
			f.conn.SetReadDeadline(time.Now().Add(f.interval))
			continue
		}
		if err != nil {
			f.errors.Add(1)
			continue
		}
		f.note(string(buf[:n]), time.Now())
	}
}

func (f *flow) note(answer string, now time.Time) {
	id, err := ParseIdentity(answer)
	if err != nil {
		return
	}
	f.report.Answered++
	if f.report.Answered == 1 {
		f.report.FirstAfter = now.Sub(f.start)
	}
	f.noteGap(now)
	f.last = now
	if n := len(f.report.Hosts); n == 0 || f.report.Hosts[n-1] != id.Host {
		f.report.Hosts = append(f.report.Hosts, id.Host)
		f.logf("%s", strings.TrimSpace(answer))
	}
}

func (f *flow) noteGap(now time.Time) {
	gap := now.Sub(f.last)
	f.report.LongestGap = max(f.report.LongestGap, gap)
	if gap > 10*f.interval {
		f.logf("no answer for %v", gap.Round(time.Millisecond))
	}
}

func (f *flow) logf(format string, args ...any) {
	fmt.Fprintf(f.log, "%8.3f "+format+"\n", append([]any{time.Since(f.start).Seconds()}, args...)...)
}

// FloodReport says how many connections were made and how well.
type FloodReport struct {
	Connections int64
	Failures    int64
	Slowest     time.Duration
	FirstError  string
	Elapsed     time.Duration
}

// ConnFlood opens connections as fast as the workers can, one question and
// answer on each, until the time is up. An answer counts only if verify, when
// given, accepts it.
func ConnFlood(ctx context.Context, dialer Dialer, address string, workers int, length time.Duration, verify func(Answer) error) FloodReport {
	start := time.Now()
	stop := start.Add(length)
	var (
		report FloodReport
		count  atomic.Int64
		failed atomic.Int64
		mu     sync.Mutex
		group  sync.WaitGroup
	)
	for range workers {
		group.Go(func() {
			var slowest time.Duration
			for time.Now().Before(stop) && ctx.Err() == nil {
				begin := time.Now()
				answer, err := Ask(ctx, dialer, "tcp", address)
				slowest = max(slowest, time.Since(begin))
				if err == nil && verify != nil {
					err = verify(answer)
				}
				count.Add(1)
				if err != nil && ctx.Err() == nil {
					failed.Add(1)
					mu.Lock()
					if report.FirstError == "" {
						report.FirstError = err.Error()
					}
					mu.Unlock()
				}
			}
			mu.Lock()
			report.Slowest = max(report.Slowest, slowest)
			mu.Unlock()
		})
	}
	group.Wait()
	report.Connections, report.Failures, report.Elapsed = count.Load(), failed.Load(), time.Since(start)
	return report
}
