// Peer is a server and a client for looking at a network from both its ends. It
// is the only program in the image of that name, and runs on lab hosts too.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/AlexCherrypi/anchord/test/peer/probe"
)

const usage = `usage:
  peer serve tcp:PORT|udp:PORT|udp:FIRST-LAST ...   tell everyone who they are
  peer tcp ADDR                                     ask once over TCP
  peer udp ADDR                                     ask once over UDP
  peer udpflow ADDR [--interval 10ms] [--for 5s]    never pause, report gaps
  peer connflood ADDR [--for 5s] [--workers 8]      connect as fast as possible
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) < 2 {
		return fmt.Errorf("what to do?\n%s", usage)
	}
	switch command, target := args[0], args[1]; command {
	case "serve":
		return serve(ctx, args[1:], out)
	case "tcp", "udp":
		return ask(ctx, command, target, out)
	case "udpflow":
		return udpFlow(ctx, target, args[2:], out)
	case "connflood":
		return connFlood(ctx, target, args[2:], out)
	default:
		return fmt.Errorf("there is no command %q\n%s", command, usage)
	}
}

func serve(ctx context.Context, args []string, out io.Writer) error {
	var endpoints []probe.Endpoint
	for _, arg := range args {
		more, err := probe.ParseEndpoints(arg)
		if err != nil {
			return err
		}
		endpoints = append(endpoints, more...)
	}
	return probe.Main(ctx, endpoints, out)
}

func ask(ctx context.Context, network, address string, out io.Writer) error {
	answer, err := probe.Ask(ctx, &net.Dialer{}, network, address)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s from=%s\n", answer.Identity, answer.From)
	return nil
}

func udpFlow(ctx context.Context, address string, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("udpflow", flag.ContinueOnError)
	interval := flags.Duration("interval", 10*time.Millisecond, "time between two datagrams")
	length := flags.Duration("for", 5*time.Second, "how long to send")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r, err := probe.UDPFlow(ctx, &net.Dialer{}, address, *interval, *length, out)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "from=%s sent=%d answered=%d errors=%d first=%v gap=%v hosts=%s\n",
		r.From, r.Sent, r.Answered, r.Errors, r.FirstAfter, r.LongestGap, strings.Join(r.Hosts, ","))
	return nil
}

func connFlood(ctx context.Context, address string, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("connflood", flag.ContinueOnError)
	length := flags.Duration("for", 5*time.Second, "how long to connect")
	workers := flags.Int("workers", 8, "connections at a time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r := probe.ConnFlood(ctx, &net.Dialer{}, address, *workers, *length, nil)
	fmt.Fprintf(out, "connections=%d failures=%d slowest=%v per_second=%.0f\n",
		r.Connections, r.Failures, r.Slowest, float64(r.Connections)/r.Elapsed.Seconds())
	if r.Failures > 0 {
		return fmt.Errorf("%d connections failed, the first with: %s", r.Failures, r.FirstError)
	}
	return nil
}
