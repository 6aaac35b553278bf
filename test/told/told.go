// Package told holds what tests see of anchord's log against the list of
// events: nothing is logged that the list does not have, with no other level,
// and nothing is in the list that no test has seen.
//
// For the second, the tests write down what they see, in the file that Variable
// names; `make test` does that, and at its end lets untold compare. A suite that
// is run alone has no such file and is not bothered.
package told

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/AlexCherrypi/anchord"
)

// Variable names the file in which tests write down what they have seen.
const Variable = "ANCHORD_EVENTS_SEEN"

// Log notes all lines of a log.
func Log(text string) error {
	for line := range strings.Lines(text) {
		var l struct{ Level, Event string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return fmt.Errorf("the log has a line that is no JSON object: %q: %w", line, err)
		}
		if err := Event(l.Level, l.Event); err != nil {
			return fmt.Errorf("%w: %s", err, line)
		}
	}
	return nil
}

// Event notes that an event was logged; an error means that it must not be.
func Event(level, name string) error {
	info, ok := anchord.LookUpEvent(name)
	if !ok {
		return fmt.Errorf("%q is not in anchord.EventGroups", name)
	}
	if !slices.ContainsFunc(info.Levels, func(l anchord.Level) bool { return l.String() == level }) {
		return fmt.Errorf("%s is logged as %s, which anchord.EventGroups does not say", name, level)
	}
	return write(level + " " + name + "\n")
}

// Must is Event for a recorder that has no test to fail.
func Must(level anchord.Level, name string) {
	if err := Event(level.String(), name); err != nil {
		panic(err)
	}
}

// written is what this process has noted already.
var written sync.Map

// write appends with one call, as several tests have the file open.
func write(line string) error {
	path := os.Getenv(Variable)
	if _, already := written.LoadOrStore(line, true); already || path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(line)
	return err
}

// Untold are the events, with each of their levels, that a file does not have.
func Untold(seen string) []string {
	lines := strings.Split(seen, "\n")
	var missing []string
	for _, g := range anchord.EventGroups {
		for _, e := range g.Events {
			for _, l := range e.Levels {
				if line := l.String() + " " + e.Name; !slices.Contains(lines, line) {
					missing = append(missing, line)
				}
			}
		}
	}
	return missing
}
