// Package check holds the alert rules for Loki against Loki's own LogQL: it
// parses them, and finds with them in recorded lines of anchord's log what it
// shall. It is a module of its own, so that anchord does not depend on Loki.
package check

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/grafana/loki/v3/pkg/logql/syntax"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"go.yaml.in/yaml/v3"
)

const (
	rulesFile = "../rules.yml"
	wellFile  = "testdata/well.log"    // a project's day, all of it as it should be
	illFile   = "testdata/trouble.log" // at least one line for each rule
)

func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var file rulefmt.RuleGroups
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	return file.Groups[0].Rules
}

// ask gives the labels of what a rule finds in one container's log.
func ask(t *testing.T, expr, logFile string) (found []labels.Labels) {
	t.Helper()
	parsed, err := syntax.ParseSampleExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	extractors, err := parsed.Extractors()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	own := labels.FromStrings("job", "anchord", "instance", "shop")
	selector, err := parsed.Selector()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range selector.Matchers() {
		if !m.Matches(own.Get(m.Name)) {
			return nil
		}
	}
	for line := range strings.Lines(string(text)) {
		for _, e := range extractors {
			samples, _ := e.ForStream(own).ProcessString(0, strings.TrimSuffix(line, "\n"), labels.EmptyLabels())
			for _, s := range samples {
				found = append(found, s.Labels.Labels())
			}
		}
	}
	return found
}

func TestEachRuleFindsItsTrouble(t *testing.T) {
	for _, r := range rules(t) {
		found := ask(t, r.Expr, illFile)
		if len(found) == 0 {
			t.Errorf("%s finds nothing in %s", r.Alert, illFile)
		}
		for _, sample := range found {
			wantLabels(t, r, sample)
		}
		if found := ask(t, r.Expr, wellFile); len(found) > 0 {
			t.Errorf("%s finds trouble where all is well: %v", r.Alert, found)
		}
	}
}

// wantLabels checks that an alert has what its texts name.
func wantLabels(t *testing.T, r rulefmt.Rule, has labels.Labels) {
	t.Helper()
	for _, text := range []string{r.Annotations["summary"], r.Annotations["description"]} {
		for _, part := range strings.Split(text, "$labels.")[1:] {
			name := strings.TrimRight(strings.Fields(part)[0], "}")
			if has.Get(name) == "" {
				t.Errorf("%s names the label %s, and has only %s", r.Alert, name, has)
			}
		}
	}
}
