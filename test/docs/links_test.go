package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	// What a heading's anchor leaves out: all but letters, digits, spaces, - and _.
	unanchored = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// links are a page's links, without those that lead out of the repository.
func (p page) links() []string {
	var targets []string
	for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(p.prose(), ""), -1) {
		if !strings.Contains(m[1], "://") {
			targets = append(targets, m[1])
		}
	}
	return targets
}

// anchors are made of a page's headings in the way of GitHub.
func (p page) anchors() map[string]bool {
	anchors := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(p.prose(), -1) {
		text := link.ReplaceAllString(strings.ToLower(m[1]), "")
		anchors[strings.ReplaceAll(unanchored.ReplaceAllString(text, ""), " ", "-")] = true
	}
	return anchors
}

// follow gives the path in the repository that a link leads to, and the anchor.
func (p page) follow(target string) (path, anchor string) {
	path, anchor, _ = strings.Cut(target, "#")
	if path == "" {
		return p.path, anchor
	}
	return filepath.Join(filepath.Dir(p.path), path), anchor
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, p := range pages(t) {
		for _, target := range p.links() {
			path, anchor := p.follow(target)
			if strings.HasPrefix(path, "..") {
				t.Errorf("%s: %s leads out of the repository", p.path, target)
			} else if _, err := os.Stat(filepath.Join(repository, path)); err != nil {
				t.Errorf("%s: %s leads nowhere", p.path, target)
			} else if anchor != "" && !read(t, path).anchors()[anchor] {
				t.Errorf("%s: %s has no heading for %s", p.path, path, target)
			}
		}
	}
}

func TestEveryPageIsInTheTableOfContents(t *testing.T) {
	readme := read(t, "README.md")
	listed := map[string]bool{}
	for _, target := range (page{path: readme.path, text: readme.section(t, "## Documentation")}).links() {
		path, _ := readme.follow(target)
		listed[path] = true
	}
	for _, p := range pages(t) {
		if filepath.Dir(p.path) == "docs" && !listed[p.path] {
			t.Errorf("%s is not in the README's table of contents", p.path)
		}
	}
}

func TestPagesAreFinished(t *testing.T) {
	unfinished := regexp.MustCompile(`\b(TODO|FIXME|XXX|TBD)\b`)
	for _, p := range pages(t) {
		if left := unfinished.FindString(p.text); left != "" {
			t.Errorf("%s has a %s", p.path, left)
		}
	}
}
