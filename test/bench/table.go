package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// verdict compares a figure with what is promised of it.
type verdict string

const (
	met    verdict = "met"
	missed verdict = "MISSED"
	unsure verdict = "not shown" // too little was done for a promise of zero
	none   verdict = ""          // nothing is promised: it explains another row
)

func verdictOf(ok bool) verdict {
	if ok {
		return met
	}
	return missed
}

// table is the outcome of a run.
type table struct {
	group string
	rows  []row
}

type row struct {
	group, what, target, measured string
	verdict                       verdict
}

func (t *table) add(what, target, measured string, v verdict) {
	t.rows = append(t.rows, row{t.group, what, target, measured, v})
	progress("  %s: %s  %s", what, measured, v)
}

// detail adds a row that explains the one before it.
func (t *table) detail(what, measured string) { t.add("  "+what, "", measured, none) }

func (t *table) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nWHAT\tPROMISED\tMEASURED\t")
	group := ""
	for _, r := range t.rows {
		if r.group != group {
			fmt.Fprintf(w, "\t\t\t\n%s:\t\t\t\n", r.group)
			group = r.group
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", r.what, r.target, r.measured, r.verdict)
	}
	w.Flush() //nolint:errcheck // as for any print to standard output
}

// machine says on what the figures were measured.
func machine() string {
	var u unix.Utsname
	release := "?"
	if unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	if parts := strings.SplitN(release, ".", 3); len(parts) == 3 {
		release = parts[0] + "." + parts[1]
	}
	return fmt.Sprintf("%d cores, Linux %s", runtime.NumCPU(), release)
}

// load is what else the machine has to do: figures under load are not the
// program's own.
func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	average, _, _ := strings.Cut(string(text), " ")
	return average
}
