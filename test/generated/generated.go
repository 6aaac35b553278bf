// Package generated holds committed files to what the code says: golden files,
// and those parts of the docs that are made from the code. `make golden` (the
// flag -update) writes them anew.
package generated

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write golden files, and what docs/ has from the code, anew")

// Golden compares with testdata/NAME.golden.
func Golden(t *testing.T, name, got string) {
	t.Helper()
	file(t, filepath.Join("testdata", name+".golden"), func(string) string { return got })
}

var marked = regexp.MustCompile(`(?s)(<!-- generated: ([a-z -]+) -->\n).*?(<!-- end -->\n)`)

// Parts compares a page's parts, each of which stands between the lines
// <!-- generated: NAME --> and <!-- end -->. A part without a place, and a place
// without a part, are faults.
func Parts(t *testing.T, path string, parts map[string]string) {
	t.Helper()
	placed := map[string]bool{}
	file(t, path, func(page string) string {
		return marked.ReplaceAllStringFunc(page, func(block string) string {
			m := marked.FindStringSubmatch(block)
			text, known := parts[m[2]]
			if !known || placed[m[2]] {
				t.Errorf("%s: the place %q is there twice, or nothing is made for it", path, m[2])
				return block
			}
			placed[m[2]] = true
			return m[1] + "\n" + strings.Trim(text, "\n") + "\n\n" + m[3]
		})
	})
	for name := range parts {
		if !placed[name] {
			t.Errorf("%s has no place %q", path, name)
		}
	}
}

// file compares a file with what it should be, or makes it so.
func file(t *testing.T, path string, should func(is string) string) {
	t.Helper()
	is, err := os.ReadFile(path)
	if err != nil && !(*update && os.IsNotExist(err)) {
		t.Fatal(err)
	}
	want := should(string(is))
	if want == string(is) {
		return
	}
	if !*update {
		t.Errorf("%s is not what the code says (make golden, then look at the difference):\n%s", path, difference(string(is), want))
		return
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// difference is the first line that differs.
func difference(is, want string) string {
	lines, wanted := strings.Split(is, "\n"), strings.Split(want, "\n")
	i := 0
	for i < min(len(lines), len(wanted))-1 && lines[i] == wanted[i] {
		i++
	}
	return fmt.Sprintf("line %d is\n%s\nand should be\n%s", i+1, lines[i], wanted[i])
}
