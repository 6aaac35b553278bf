package docs

import (
	"regexp"
	"strings"
	"testing"
)

// The lines that turn IPv6 on are those of the examples, which are run.
func TestAddressingShowsTheExamplesLines(t *testing.T) {
	run := map[string]bool{}
	for _, path := range []string{"examples/native/ipv6.yaml", "examples/native/ipv6-before-28.yaml"} {
		for line := range strings.Lines(read(t, path).text) {
			run[setting(line)] = true
		}
	}
	section := read(t, "docs/addressing.md").section(t, "## The lines for Compose")
	section, _, _ = strings.Cut(section, "**Own interface on a parent.**")
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(section, -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/addressing.md shows %d blocks for IPv6, want 2: for new engines and for old ones", len(blocks))
	}
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			if !run[setting(line)] {
				t.Errorf("docs/addressing.md shows %q, which is in no example", strings.TrimSpace(line))
			}
		}
	}
}

// setting is a line of YAML without comment and indentation.
func setting(line string) string {
	line, _, _ = strings.Cut(line, " #")
	return strings.TrimSpace(line)
}
