package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
)

// source is the text of all Go files that become the program.
func source(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "test" || entry.Name() == ".git"):
			return filepath.SkipDir
		case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

var (
	dotted = regexp.MustCompile("`([a-z0-9]+\\.[a-z0-9_]+)`")
	// What else is written so: files, labels, hosts and what Docker calls things.
	otherNames = regexp.MustCompile(`\.(yaml|md|go|nft|script|lease|nak|cfg|conf|sock|txtar|json|service|log)$|^anchord\.(expose|identity)$|^eth0\.`)
)

func TestEventsThatTheDocsNameExist(t *testing.T) {
	for _, p := range pages(t) {
		for _, m := range dotted.FindAllStringSubmatch(p.text, -1) {
			name := m[1]
			if _, known := anchord.LookUpEvent(name); !known && !otherNames.MatchString(name) {
				t.Errorf("%s names %s, which is no event of events.go", p.path, name)
			}
		}
	}
}

// Symptoms that quote anchord quote what it says: each piece between the
// ellipses is in the program's source.
func TestTroubleshootingQuotesWhatAnchordSays(t *testing.T) {
	said := strings.ReplaceAll(source(t), `\"`, `"`)
	quotes := 0
	for _, h := range heading.FindAllStringSubmatch(read(t, "docs/troubleshooting.md").prose(), -1) {
		for _, quote := range code.FindAllString(h[1], -1) {
			quote = strings.Trim(quote, "`")
			if dotted.MatchString("`"+quote+"`") || strings.HasPrefix(quote, "docker network") {
				continue
			}
			quotes++
			for _, piece := range strings.Split(quote, "…") {
				for _, part := range strings.SplitAfter(strings.TrimSpace(piece), "no LAN interface: ") {
					if part = strings.TrimSpace(part); !strings.Contains(said, part) {
						t.Errorf("anchord does not say %q", part)
					}
				}
			}
		}
	}
	if quotes < 10 {
		t.Errorf("only %d quotes were found", quotes)
	}
}
