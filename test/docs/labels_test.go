package docs

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
)

func unquoted(t *testing.T, cell string) string {
	t.Helper()
	if len(cell) < 2 || cell[0] != '`' || cell[len(cell)-1] != '`' {
		t.Fatalf("the label %s is not in backticks", cell)
	}
	return cell[1 : len(cell)-1]
}

func TestValidLabelsOfTheDocsLeadWhereTheySay(t *testing.T) {
	for _, row := range rows(t, read(t, "docs/labels.md").section(t, "### Valid")) {
		exposures, err := anchord.ParseExpose(unquoted(t, row[0]))
		if err != nil || inWords(exposures) != row[1] {
			t.Errorf("%s leads %s (%v); docs/labels.md says %s", row[0], inWords(exposures), err, row[1])
		}
	}
}

func inWords(exposures []anchord.Exposure) string {
	if len(exposures) == 0 {
		return "nothing"
	}
	var words []string
	for _, e := range exposures {
		last := int(e.Backend) + e.Ports() - 1
		words = append(words, fmt.Sprintf("%s %s to %s", e.Protocol, ports(int(e.First), int(e.Last)), ports(int(e.Backend), last)))
	}
	return strings.Join(words, "; ")
}

func ports(first, last int) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

func TestInvalidLabelsOfTheDocsAreRefusedAsTheySay(t *testing.T) {
	for _, row := range rows(t, read(t, "docs/labels.md").section(t, "### Invalid")) {
		_, err := anchord.ParseExpose(unquoted(t, row[0]))
		var refused *anchord.LabelError
		if !errors.As(err, &refused) || refused.Reason != row[1] {
			t.Errorf("%s: %v; docs/labels.md says %s", row[0], err, row[1])
		}
	}
}
