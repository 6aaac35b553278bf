package docs

import (
	"regexp"
	"strings"
	"testing"
)

// Commands that any page names exist: anchord's, by the table that is made of
// the program, and make's, by the Makefile.
func TestCommandsThatTheDocsNameExist(t *testing.T) {
	table, makefile := read(t, "docs/configuration.md").section(t, "## Commands"), read(t, "Makefile").text
	anchord, targets := regexp.MustCompile(`anchord anchord ([a-z]+)`), regexp.MustCompile("(?:`|\n *)make ([a-z][a-z0-9-]*)")
	seen := 0
	for _, p := range pages(t) {
		for _, m := range anchord.FindAllStringSubmatch(p.text, -1) {
			seen++
			if !strings.Contains(table, "| `anchord "+m[1]) {
				t.Errorf("%s names the command anchord %s, which there is not", p.path, m[1])
			}
		}
		for _, m := range targets.FindAllStringSubmatch(p.text, -1) {
			seen++
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s names make %s, which the Makefile does not have", p.path, m[1])
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d commands were found", seen)
	}
}

// Variables that any page names are read by some mode.
func TestVariablesThatTheDocsNameExist(t *testing.T) {
	known := read(t, "docs/configuration.md").text
	names := regexp.MustCompile("`(ANCHORD_[A-Z_]*[A-Z])\\b")
	for _, p := range pages(t) {
		for _, m := range names.FindAllStringSubmatch(p.text, -1) {
			if !strings.Contains(known, "\n| `"+m[1]+"` |") && !ofDevelopers[m[1]] {
				t.Errorf("%s names %s, which nothing reads", p.path, m[1])
			}
		}
	}
}

// ofDevelopers are variables of the tests and scripts.
var ofDevelopers = map[string]bool{"ANCHORD_CACHE": true}
