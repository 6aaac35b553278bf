package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/watch"
)

// doctorCmd holds the one-shot checks.
type doctorCmd struct {
	Setup      examineCmd    `cmd:"" name:"setup" default:"withargs" help:"Check everything that breaks setups, and tell the fix of each fault. Exit 1 if anything fails. This is the default."`
	StaleNetns staleNetnsCmd `cmd:"" name:"stale-netns" help:"Find containers of the whole engine that are stuck in a network namespace that no longer exists. Exit 1 if there are any."`
}

// examineCmd reads the variables of every mode, so that the doctor sees the
// configuration that the mode would.
type examineCmd struct {
	commonVars
	networkVars
	repairVars
	followVars
	externalRebinderVars
	JSON bool `name:"json" help:"For machines."`
}

// verdict is what a check comes to.
type verdict string

const (
	isOK      verdict = "ok"
	isWarning verdict = "warn"
	isFailure verdict = "fail"
	isSkipped verdict = "skipped" // the check could not be made, or does not concern this setup
)

// finding is one line of the doctor's report.
type finding struct {
	Result verdict `json:"result"`
	Seen   string  `json:"seen"`
	Fix    string  `json:"fix,omitempty"`
	// Commands are to be run as they are.
	Commands []string `json:"commands,omitempty"`
}

func fine(format string, args ...any) finding {
	return finding{Result: isOK, Seen: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) finding {
	return finding{Result: isSkipped, Seen: fmt.Sprintf(format, args...)}
}

func warning(fix, format string, args ...any) finding { return fault(isWarning, fix, format, args...) }

func failure(fix, format string, args ...any) finding { return fault(isFailure, fix, format, args...) }

func fault(how verdict, fix, format string, args ...any) finding {
	return finding{Result: how, Seen: fmt.Sprintf(format, args...), Fix: fix}
}

// diagnosis is the doctor's report and its JSON.
type diagnosis struct {
	Mode     string         `json:"mode"`
	Project  string         `json:"project,omitempty"`
	Failures int            `json:"failures"`
	Warnings int            `json:"warnings"`
	Skipped  int            `json:"skipped"`
	Checks   []checkOutcome `json:"checks"`
}

// checkOutcome is one finding of one check.
type checkOutcome struct {
	Group string `json:"group"`
	Check string `json:"check"`
	finding
}

// Times. What looking around leaves is for the checks, which are made at the same
// time: a DHCP server that pings an address before it offers it takes three seconds.
const (
	askTime    = 1500 * time.Millisecond // for the running anchord to answer
	gatherTime = 2 * time.Second         // for looking around after that
	wholeTime  = 4500 * time.Millisecond // from the start to the end of all checks
	grace      = 400 * time.Millisecond  // for a check to tell that its time is over
)

func (c *examineCmd) Run(ctx context.Context, stdout io.Writer, strays strayVars) error {
	if !slices.Contains(modes, c.Mode) {
		return &configError{faults: []string{fmt.Sprintf("ANCHORD_MODE=%q: unknown mode; modes are %s", c.Mode, strings.Join(modes, ", "))}}
	}
	ends := time.Now().Add(wholeTime)
	running := askRunning(ctx, c.RunDir)
	if os.Getenv("ANCHORD_MODE") == "" {
		c.Mode = running.mode(c.Mode)
	}
	p := c.patient(running)
	p.warnings = append(p.warnings, strays...)
	defer p.close()
	looking, cancel := context.WithTimeout(ctx, gatherTime)
	p.look(looking)
	cancel()
	d := diagnosis{Mode: c.Mode, Project: p.state.Identity.Project, Checks: []checkOutcome{}}
	for _, outcome := range examine(ctx, ends, checksOf(c.Mode), p) {
		d.add(outcome)
	}
	if err := c.tell(stdout, d); err != nil {
		return err
	}
	if d.Failures > 0 {
		return errFound
	}
	return nil
}

func (d *diagnosis) add(o checkOutcome) {
	switch o.Result {
	case isFailure:
		d.Failures++
	case isWarning:
		d.Warnings++
	case isSkipped:
		d.Skipped++
	}
	d.Checks = append(d.Checks, o)
}

// examine makes all checks at once, until ends, and gives their findings in the
// checks' order.
func examine(ctx context.Context, ends time.Time, list []check, p *patient) []checkOutcome {
	answers := make([]chan []finding, len(list))
	limited, cancel := context.WithDeadline(ctx, ends)
	defer cancel()
	p.askOnce(limited)
	for i, c := range list {
		answers[i] = make(chan []finding, 1)
		go func() { answers[i] <- c.run(limited, p) }()
	}
	var outcomes []checkOutcome
	late, stop := context.WithDeadline(ctx, ends.Add(grace))
	defer stop()
	for i, c := range list {
		for _, f := range answered(late, answers[i]) {
			outcomes = append(outcomes, checkOutcome{c.group, c.name, f})
		}
	}
	return outcomes
}

// answered waits for a check until late ends.
func answered(late context.Context, answer <-chan []finding) []finding {
	select {
	case found := <-answer:
		return found
	case <-late.Done():
	}
	select {
	case found := <-answer: // it came while others were waited for
		return found
	default:
		return []finding{skipped("the check did not come to an end in time")}
	}
}

func (c *examineCmd) tell(w io.Writer, d diagnosis) error {
	d = bounded(d).(diagnosis)
	if c.JSON {
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		return out.Encode(d)
	}
	_, err := io.WriteString(w, d.String())
	return err
}

// The report's columns: the result, the check's name, what was seen.
const (
	reportWidth = 80
	seenColumn  = 22
)

// String is for people, at a terminal of 80 columns.
func (d diagnosis) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "anchord doctor: %s", d.Mode)
	if d.Project != "" {
		fmt.Fprintf(&b, " of project %s", printable(d.Project))
	}
	b.WriteString("\n")
	margin := strings.Repeat(" ", seenColumn)
	for i, o := range d.Checks {
		if i == 0 || d.Checks[i-1].Group != o.Group {
			fmt.Fprintf(&b, "\n%s\n", o.Group)
		}
		name := o.Check
		if i > 0 && d.Checks[i-1].Check == o.Check {
			name = ""
		}
		for line, text := range wrap(clean(o.Seen), reportWidth-seenColumn) {
			if line == 0 {
				fmt.Fprintf(&b, "  %-4s  %-*s%s\n", o.Result.word(), seenColumn-8, name, text)
				continue
			}
			b.WriteString(margin + text + "\n")
		}
		if o.Fix != "" {
			b.WriteString(margin + strings.Join(wrap("fix: "+clean(o.Fix), reportWidth-seenColumn), "\n"+margin) + "\n")
		}
		for _, command := range o.Commands { // whole, so that it can be copied
			b.WriteString("    " + clean(command) + "\n")
		}
	}
	fmt.Fprintf(&b, "\n%s\n", d.summary())
	return b.String()
}

func (r verdict) word() string {
	switch r {
	case isFailure:
		return "FAIL"
	case isSkipped:
		return "skip"
	}
	return string(r)
}

func (d diagnosis) summary() string {
	switch {
	case d.Failures+d.Warnings == 0 && d.Skipped == 0:
		return "Nothing is wrong."
	case d.Failures+d.Warnings == 0 && d.Skipped == 1:
		return "Nothing wrong was found; 1 check could not be made or does not apply."
	case d.Failures+d.Warnings == 0:
		return fmt.Sprintf("Nothing wrong was found; %d checks could not be made or do not apply.", d.Skipped)
	}
	return fmt.Sprintf("%s, %s. What each check means: %sdoctor.md", plural(d.Failures, "failure", "failures"), plural(d.Warnings, "warning", "warnings"), anchord.DocsURL)
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

// clean writes out what could play with a terminal: names are others' to give.
func clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case strconv.IsPrint(r):
			b.WriteRune(r)
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// wrap breaks a text at spaces. What has none is left as long as it is.
func wrap(text string, width int) []string {
	lines := []string{""}
	for _, word := range strings.Fields(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case len(*last)+1+len(word) > width:
			lines = append(lines, word)
		default:
			*last += " " + word
		}
	}
	return lines
}

type staleNetnsCmd struct{ dockerVars }

func (c *staleNetnsCmd) Run(ctx context.Context, stdout io.Writer) error {
	bad := &configError{}
	checkDockerHost(bad, c.DockerHost)
	if err := bad.orNil(); err != nil {
		return err
	}
	docker, err := watch.NewDocker(c.DockerHost, nil)
	if err != nil {
		return err
	}
	defer docker.Close()
	members, err := docker.Members(ctx)
	if err != nil {
		return err
	}
	dead := anchord.DeadNamespaces(members)
	printDead(stdout, dead)
	if len(dead) > 0 {
		return errFound
	}
	return nil
}

// errFound ends a check that found something, and has told it.
var errFound = errLogged

func printDead(w io.Writer, dead []anchord.DeadNamespace) {
	if len(dead) == 0 {
		fmt.Fprintln(w, "ok: no container is stuck in a network namespace that no longer exists")
		return
	}
	for _, d := range dead {
		fmt.Fprintf(w, "FAIL: %s %s; stuck in its old network namespace, and without a network:\n", printable(d.Target), d.Reason)
		for _, v := range d.Victims {
			fmt.Fprintf(w, "  %s\n", printable(v.Name))
		}
		cures := d.Cures()
		if len(cures) > 0 {
			fmt.Fprintf(w, "fix:\n  %s\n", strings.Join(cures, "\n  "))
		}
		if len(cures) == 0 {
			fmt.Fprintln(w, "fix: recreate them as they were made; Compose did not make them")
		}
	}
}

// runs says whether an anchord has ever made its socket in a run directory.
func runs(runDir string) bool {
	_, err := os.Stat(runDir + "/" + socketName)
	return err == nil
}
