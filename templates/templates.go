// Package templates words the state: it renders the nftables ruleset from
// the embedded templates, or from the operator's in their place.
package templates

import (
	"embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/AlexCherrypi/anchord"
)

//go:embed *.nft.tmpl
var files embed.FS

// main is the template that is executed for each family.
const main = "anchord.nft.tmpl"

// Renderer renders rulesets. Make one with New.
type Renderer struct {
	trees     map[string]*parse.Tree
	templates *template.Template
	sources   []string // files, by their number in marks; nil: there are no marks
	dropped   map[string]string
}

// New parses the embedded templates.
func New() (*Renderer, error) {
	r := &Renderer{trees: map[string]*parse.Tree{}}
	text, err := files.ReadFile(main)
	if err != nil {
		return nil, fmt.Errorf("reading ruleset templates: %w", err)
	}
	parsed, err := template.New(main).Funcs(funcs).Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("parsing ruleset templates: %w", err)
	}
	for _, t := range parsed.Templates() {
		r.trees[t.Name()] = t.Tree
	}
	if r.templates, err = assemble(r.trees); err != nil {
		return nil, fmt.Errorf("parsing ruleset templates: %w", err)
	}
	return r, nil
}

// assemble makes templates of trees. Adding to ready ones would not do: an
// empty template does not replace another there.
func assemble(trees map[string]*parse.Tree) (*template.Template, error) {
	t := template.New("").Funcs(funcs)
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		if _, err := t.AddParseTree(name, trees[name]); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Render words the state. The state's zero value renders a closed ruleset.
func (r *Renderer) Render(s anchord.State) (anchord.Ruleset, error) {
	rs := anchord.Ruleset{}
	out := &bounded{left: maxOutput, until: time.Now().Add(maxTime)}
	for _, f := range anchord.Families {
		table, err := newTable(f, s)
		if err != nil {
			return rs, fmt.Errorf("rendering ruleset: %w", err)
		}
		if r.sources != nil { // the embedded ones do not ask, and 10,000 take milliseconds
			table.Exposed = exposed(f, s)
		}
		switch err := r.templates.ExecuteTemplate(out, main, table); {
		case errors.Is(err, errEndless):
			return rs, r.endless(out)
		case err != nil:
			return rs, located(err)
		}
		rs.Sets = append(rs.Sets, sets(f, s)...)
	}
	rs.Body = out.String()
	if r.sources != nil {
		rs.Body, rs.Origins = r.unmark(rs.Body)
	}
	return rs, frame(&rs)
}

// maxOutput is how much an execution may write, in bytes, marks included. The
// embedded templates need 10,000.
const maxOutput = 8 << 20

var errEndless = fmt.Errorf("the output is too long, or a loop has no end: it was cut off at %d MiB or after %v", maxOutput>>20, maxTime)

// maxTime is for words that take milliseconds; a loop round with nothing to say
// writes a mark, so that it counts.
const maxTime = 2 * time.Second

// bounded is a buffer with an end.
type bounded struct {
	strings.Builder
	left  int
	until time.Time
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 || time.Now().After(b.until) {
		return 0, errEndless
	}
	return b.Builder.Write(p)
}
