package contrib_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord/test/told"
)

// What the rules find in recorded lines is seen in contrib/loki/check.
func TestLogAlertsAreMadeOfEventsThatThereAre(t *testing.T) {
	named := regexp.MustCompile(`event=~?"([^"]+)"(?: \| level="(\w+)")?`)
	for _, r := range rules(t, "contrib/loki/rules.yml") {
		wellSaid(t, r)
		m := named.FindStringSubmatch(r.Expr)
		if m == nil {
			t.Fatalf("%s names no event: %s", r.Alert, r.Expr)
		}
		for event := range strings.SplitSeq(m[1], "|") {
			if err := told.Listed(m[2], event); err != nil {
				t.Errorf("%s: %v", r.Alert, err)
			}
		}
	}
}

// The lines on which the rules are tried are such as anchord logs today.
func TestRecordedLinesAreOfToday(t *testing.T) {
	for _, path := range []string{"contrib/loki/check/testdata/well.log", "contrib/loki/check/testdata/trouble.log"} {
		for line := range strings.Lines(text(t, path)) {
			var l struct{ Level, Event string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%s: %v: %s", path, err, line)
			}
			if err := told.Listed(l.Level, l.Event); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}
