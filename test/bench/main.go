// Bench measures the figures that anchord promises: how soon a change is in
// the kernel, what is lost meanwhile, how fast packets pass, what it costs to
// do nothing. It sets everything up by itself in namespaces, removes it again,
// and prints one table. A missed figure is a finding, not a failure: it exits
// 1 only when something could not be measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
	"github.com/AlexCherrypi/anchord/test/tools"
)

// measurement is one group of rows of the table.
type measurement struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

// The ones without an engine come first: an idle engine is not quite idle.
var measurements = []measurement{
	{"reconcile", reconcileBySize},
	{"program", programBySize},
	{"throughput", throughput},
	{"loss", loss},
	{"event", eventToKernel},
	{"burst", burst},
	{"idle", idle},
	{"ready", ready},
}

// bench is what the measurements share.
type bench struct {
	release string
	table   table
	shared  *site // nil until one of them asks for it
}

func main() {
	only := flag.String("only", "", "measure only these, separated by commas: "+names())
	release := flag.String("engine", lab.DefaultRelease, "release of the Docker engine")
	flag.Parse()
	chosen, err := choose(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, &bench{release: *release}, chosen))
}

func names() string {
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return strings.Join(all, ",")
}

func choose(only string) ([]measurement, error) {
	if only == "" {
		return measurements, nil
	}
	var chosen []measurement
	for name := range strings.SplitSeq(only, ",") {
		found := false
		for _, m := range measurements {
			if m.name == strings.TrimSpace(name) {
				chosen, found = append(chosen, m), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no measurement %q, only %s", name, names())
		}
	}
	return chosen, nil
}

// run measures all that it can and says so when that was not everything.
func run(ctx context.Context, b *bench, chosen []measurement) int {
	began, code := time.Now(), 0
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: it makes namespaces: run it as root")
		return 1
	}
	if err := tools.Use("test"); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	fmt.Println(machine())
	for _, m := range chosen {
		progress("measuring %s", m.name)
		b.table.group = fmt.Sprintf("%s (load %s)", m.name, load())
		if err := m.run(ctx, b); err != nil && ctx.Err() == nil {
			b.table.add(m.name, "", fmt.Sprintf("could not be measured: %v", err), none)
			code = 1
		}
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "bench: interrupted")
			code = 1
			break
		}
	}
	if err := b.close(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cleaning up:", err)
		code = 1
	}
	b.table.print(os.Stdout)
	fmt.Printf("\n%d s in all\n", int(time.Since(began).Seconds()))
	return code
}

// close removes what the measurements shared.
func (b *bench) close() error {
	if b.shared == nil {
		return nil
	}
	return b.shared.close()
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// wait polls until ready says so or the time is up.
func wait(ctx context.Context, limit, every time.Duration, what string, ready func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	var last error
	for {
		ok, err := ready()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s: not within %v", what, limit), last)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}
