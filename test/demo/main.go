// Demo shows what anchord is for: a LAN, a Docker engine on it, and a Compose
// project that the LAN takes for one server. Everything that it says is checked
// on the way; it ends with "demo: ok" or "demo: failed: …".
//
// scripts/demo starts it, after it has said what is to be seen (intro.txt) and
// while its line of progress is still open.
package main

import (
	"context"
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

func main() {
	keep := flag.Bool("keep", false, "leave everything up, and say how to get into it")
	down := flag.Bool("down", false, "remove what an earlier -keep left up")
	since := flag.Int64("since", time.Now().Unix(), "when its preparation began, in seconds since 1970")
	log := flag.String("log", os.DevNull, "file for the details of it, which are added")
	flag.Parse()
	signal.Ignore(syscall.SIGPIPE) // a reader that went away must not keep us from cleaning up
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	details, err := os.OpenFile(*log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Println("demo: failed:", err)
		os.Exit(1)
	}
	s := newScreen(os.Stdout, details)
	s.began = time.Unix(*since, 0)
	os.Exit(run(ctx, *keep, *down, s))
}

// run shows the demo or removes it, and ends with one line that says how it
// went.
func run(ctx context.Context, keep, down bool, s *screen) int {
	err := tools.Use("demo")
	switch {
	case err != nil:
	case down:
		err = remove(s)
	default:
		err = show(ctx, s, keep)
	}
	if ctx.Err() != nil {
		s.last("demo: failed: interrupted; what was up is removed")
		return 1
	}
	if err != nil {
		s.last("demo: failed: " + strings.Join(strings.Fields(err.Error()), " "))
		return 1
	}
	s.last("demo: ok")
	return 0
}

// remove takes down every demo that was left up, and what is left of one that
// was killed.
func remove(s *screen) error {
	if err := lab.Reap(); err != nil {
		return err
	}
	demos, err := kept()
	if err != nil {
		return err
	}
	if len(demos) == 0 {
		s.note("No demo is up.")
	}
	for _, d := range demos {
		s.note("Removing the demo in lab %s.", d.ID)
		if err := d.Down(); err != nil {
			return fmt.Errorf("removing a demo: %w", err)
		}
	}
	return nil
}
