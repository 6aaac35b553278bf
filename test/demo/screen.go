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
	mu       sync.Mutex
	out      io.Writer
	details  *os.File // where what is not shown can be read
	terminal bool
	color    bool
	began    time.Time
	steps    int
}

func newScreen(out, details *os.File) *screen {
	s := &screen{out: out, details: details, began: time.Now()}
	if info, err := out.Stat(); err == nil && os.Getenv("TERM") != "dumb" {
		s.terminal = info.Mode()&os.ModeCharDevice != 0
	}
	s.color = s.terminal && os.Getenv("NO_COLOR") == ""
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

// progress shows one line while slow things happen: what is being done, as the
// lab says, and for how long. It moves on a terminal; elsewhere there is a line
// now and then.
type progress struct {
	*screen
	mu   sync.Mutex
	what string
	at   time.Time // since when it is that
	end  chan struct{}
	done sync.WaitGroup
}

func (s *screen) progress(what string) *progress {
	p := &progress{screen: s, what: what, at: time.Now(), end: make(chan struct{})}
	p.done.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			p.show()
			select {
			case <-p.end:
				return
			case <-ticker.C:
			}
		}
	})
	return p
}

func (p *progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	seconds := int(time.Since(p.began).Seconds())
	line := fmt.Sprintf("   Preparing: %s, %d s", p.what, seconds)
	switch {
	case p.terminal:
		// A line that wraps would not be written over.
		p.print("\r\x1b[K" + string([]rune(line)[:min(79, len([]rune(line)))]))
	case int(time.Since(p.at).Seconds()) == 5, seconds > 0 && seconds%30 == 0:
		p.print(line + "\n")
	}
}

// Write takes the lab's own messages, without the lab's name.
func (p *progress) Write(b []byte) (int, error) {
	fmt.Fprintf(p.details, "%s", b)
	for line := range strings.Lines(string(b)) {
		if _, said, found := strings.Cut(line, ": "); found {
			p.mu.Lock()
			// How long each takes alone is no help when several are made at once.
			said, _, _ = strings.Cut(strings.TrimSpace(said), " (")
			p.what, p.at = said, time.Now()
			p.mu.Unlock()
		}
	}
	return len(b), nil
}

// stop ends the line, and says that everything is there.
func (p *progress) stop(err error) {
	close(p.end)
	p.done.Wait()
	if p.terminal {
		p.print("\r\x1b[K")
	}
	if err == nil {
		p.print(fmt.Sprintf("   Ready after %d s.\n", int(time.Since(p.began).Seconds())))
	}
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
