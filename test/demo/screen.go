package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// screen writes for a person; on a terminal, titles and commands stand out.
type screen struct {
	mu    sync.Mutex
	out   io.Writer
	color bool
	steps int
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		s.color = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return s
}

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

func (s *screen) paint(style, text string) string {
	if !s.color {
		return text
	}
	return style + text + plain
}

func (s *screen) print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	io.WriteString(s.out, text)
}

// step begins a new fact, with what it means in words.
func (s *screen) step(title, meaning string) {
	s.steps++
	s.print(fmt.Sprintf("\n%s\n%s\n", s.paint(bold, fmt.Sprintf("%d. %s", s.steps, title)), indent(meaning)))
}

// note is a sentence of its own.
func (s *screen) note(format string, args ...any) {
	s.print(fmt.Sprintf(format, args...) + "\n")
}

// command shows what is typed on which host, before it runs.
func (s *screen) command(host, line string) {
	s.print("\n" + indent(s.paint(dim, host+"$ ")+s.paint(bold, line)) + "\n")
}

// output shows what came back.
func (s *screen) output(text string) {
	if text = strings.TrimRight(text, "\n"); text != "" {
		s.print(indent(text) + "\n")
	}
}

// checked says what was verified.
func (s *screen) checked(format string, args ...any) {
	s.print("\n" + indent(s.paint(green, "✓ "+fmt.Sprintf(format, args...))) + "\n")
}

func (s *screen) last(line string) { s.print("\n" + line + "\n") }

// progress is what happens while slow things happen: what is being done, what
// the lab says, and a sign of life now and then.
func (s *screen) progress(what string) (done func()) {
	s.print(indent(what) + "\n")
	start, end := time.Now(), make(chan struct{})
	go func() {
		ticker := time.NewTicker(15 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-end:
				return
			case <-ticker.C:
				s.print(indent(s.paint(dim, fmt.Sprintf("  … %.0f s", time.Since(start).Seconds()))) + "\n")
			}
		}
	}()
	return func() { close(end) }
}

// labLog takes the lab's own messages, without the lab's name.
func (s *screen) labLog() io.Writer { return labLog{s} }

type labLog struct{ *screen }

func (l labLog) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, said, found := strings.Cut(line, ": "); found {
			l.print(indent("  "+strings.TrimSpace(said)) + "\n")
		}
	}
	return len(p), nil
}

func indent(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = "   " + line
		}
	}
	return strings.Join(lines, "\n")
}
