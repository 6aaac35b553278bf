package templates

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/AlexCherrypi/anchord"
)

// previous is the prefix by which a block calls what it replaces.
const previous = "previous."

// override is the work in progress of one With.
type override struct {
	blocks  map[string]bool        // that can be replaced
	trees   map[string]*parse.Tree // by the templates' names
	sources []string               // files, by their number in marks
	// embedded are the templates before any single block is replaced.
	embedded map[string]*parse.Tree
}

// With is a renderer whose templates are overridden: by a file of an embedded
// one's name as a whole, by any other in the blocks that it defines. Files count
// in the order of their names, those for the whole first.
func (r *Renderer) With(overrides []anchord.TemplateFile) (anchord.Renderer, error) {
	o := &override{blocks: map[string]bool{}, trees: map[string]*parse.Tree{}}
	text, err := files.ReadFile(main)
	if err != nil {
		return nil, err
	}
	// Once more, since marks tell where embedded lines come from, too.
	if err := o.add(main, main+" (embedded)", string(text)); err != nil {
		return nil, err
	}
	o.embedded = maps.Clone(o.trees)
	for name := range r.trees {
		o.blocks[name] = name != main
	}
	sorted := slices.Clone(overrides)
	slices.SortStableFunc(sorted, func(a, b anchord.TemplateFile) int {
		switch {
		case a.Name == main:
			return -1
		case b.Name == main:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, f := range sorted {
		if f.Fault != "" {
			return nil, &anchord.TemplateError{File: f.Name, Message: f.Fault}
		}
		if err := o.add(f.Name, f.Name, f.Text); err != nil {
			return nil, err
		}
		if f.Name == main {
			o.embedded = maps.Clone(o.trees)
		}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	t, err := assemble(o.trees)
	if err != nil {
		return nil, err
	}
	return &Renderer{trees: o.trees, templates: t, sources: o.sources, dropped: o.dropped(r.trees)}, nil
}

// Dropped are the blocks whose embedded contents are called by nobody any more,
// each with the file that defines it.
func (r *Renderer) Dropped() map[string]string { return r.dropped }

// dropped looks for the blocks that are not empty before.
func (o *override) dropped(embedded map[string]*parse.Tree) map[string]string {
	dropped := map[string]string{}
	for _, block := range o.names() {
		tree := o.trees[block]
		if before := embedded[block]; before != nil && !parse.IsEmptyTree(before.Root) && !o.reaches(tree, o.embedded[block], map[*parse.Tree]bool{}) {
			dropped[block] = tree.ParseName
		}
	}
	return dropped
}

// reaches says whether a template is the other one, or calls it; seen are those that
// were looked at already.
func (o *override) reaches(tree, other *parse.Tree, seen map[*parse.Tree]bool) bool {
	if tree == other || seen[tree] {
		return tree == other
	}
	seen[tree] = true
	reached := false
	_ = calls(tree.Root, func(n *parse.TemplateNode) error {
		reached = reached || o.reaches(o.trees[n.Name], other, seen)
		return nil
	})
	return reached
}

// add parses a file and has its definitions replace those before.
func (o *override) add(name, source, text string) error {
	parsed, err := template.New(name).Funcs(funcs).Parse(text)
	if err != nil {
		return located(err)
	}
	m := marker{file: len(o.sources), source: source, text: text, blocks: o.blocks}
	o.sources = append(o.sources, source)
	var trees []*parse.Tree
	for _, t := range parsed.Templates() {
		tree := t.Tree
		if len(o.blocks) > 0 {
			if err := o.allowed(m, name, t.Name(), tree, len(parsed.Templates())); err != nil {
				return err
			}
			if t.Name() == name && name != main {
				continue // what stands around the definitions
			}
		}
		m.list(tree.Root)
		tree.Root.Nodes = append([]parse.Node{m.node(tree.Root.Pos)}, tree.Root.Nodes...)
		trees = append(trees, tree)
	}
	before := maps.Clone(o.trees)
	for _, tree := range trees {
		o.trees[tree.Name] = tree
	}
	for _, block := range m.called {
		o.trees[block+m.before()] = before[block]
	}
	return nil
}

// allowed says whether a file may define a template of this name.
func (o *override) allowed(m marker, file, name string, tree *parse.Tree, defined int) error {
	blocks := strings.Join(o.names(), ", ")
	switch {
	case name == file && file == main:
		return nil
	case name == file && !parse.IsEmptyTree(tree.Root):
		return &anchord.TemplateError{File: file, Line: m.line(firstPos(tree.Root, m.text)), Message: "stands outside of every {{define}}, and does nothing there"}
	case name == file && defined == 1:
		return &anchord.TemplateError{File: file, Message: "defines no block and has the name of no embedded template: blocks are " + blocks + "; the template is " + main}
	case name != file && !o.blocks[name]:
		return &anchord.TemplateError{File: file, Line: m.line(tree.Root.Pos), Message: fmt.Sprintf("defines %q, which is no block: blocks are %s", name, blocks)}
	}
	return nil
}

// names are the blocks' names.
func (o *override) names() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(o.blocks)) {
		if o.blocks[name] {
			names = append(names, name)
		}
	}
	return names
}

// firstPos is where the first thing in a list is that is not space.
func firstPos(list *parse.ListNode, text string) parse.Pos {
	for _, n := range list.Nodes {
		if t, ok := n.(*parse.TextNode); !ok || strings.TrimSpace(string(t.Text)) != "" {
			pos := int(n.Position())
			return parse.Pos(pos + len(text[pos:]) - len(strings.TrimLeft(text[pos:], " \t\r\n")))
		}
	}
	return list.Pos
}

// check follows all calls: each must lead somewhere and none in a circle, and
// what an override defines must be called.
func (o *override) check() error {
	seen := map[string]bool{}
	var follow func(name string, path []string) error
	follow = func(name string, path []string) error {
		seen[name] = true
		path = append(path, name)
		return calls(o.trees[name].Root, func(n *parse.TemplateNode) error {
			complain := func(format string, args ...any) error {
				place, _ := o.trees[name].ErrorContext(n)
				return located(fmt.Errorf("template: %s: "+format, append([]any{place}, args...)...))
			}
			if o.trees[n.Name] == nil {
				return complain("there is no template %q to call", n.Name)
			}
			if slices.Contains(path, n.Name) {
				return complain("the template %q calls itself; %s%s is what it replaces", n.Name, previous, n.Name)
			}
			if seen[n.Name] {
				return nil
			}
			return follow(n.Name, path)
		})
	}
	if err := follow(main, nil); err != nil {
		return err
	}
	for _, block := range o.names() {
		if tree := o.trees[block]; tree != nil && !seen[block] && tree.ParseName != main {
			return &anchord.TemplateError{File: tree.ParseName, Message: fmt.Sprintf("defines the block %q, which %s does not have any more", block, main)}
		}
	}
	return nil
}

// calls does f with each call of another template.
func calls(list *parse.ListNode, f func(*parse.TemplateNode) error) error {
	var errs []error
	walk(list, func(n parse.Node) {
		if call, ok := n.(*parse.TemplateNode); ok {
			errs = append(errs, f(call))
		}
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// walk does f with each node of a list, those within others included.
func walk(list *parse.ListNode, f func(parse.Node)) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		f(n)
		switch n := n.(type) {
		case *parse.IfNode:
			walk(n.List, f)
			walk(n.ElseList, f)
		case *parse.WithNode:
			walk(n.List, f)
			walk(n.ElseList, f)
		case *parse.RangeNode:
			walk(n.List, f)
			walk(n.ElseList, f)
		}
	}
}

// marker writes into templates where their lines come from, between bytes
// that no template may have. Since each round of a loop and each call writes a
// mark, the bound of the output is one of the time, too.
type marker struct {
	file   int
	source string
	text   string
	blocks map[string]bool // that can be replaced
	called []string        // blocks whose previous contents are called
}

const (
	markBegin = "\x01"
	markEnd   = "\x02"
)

func (m *marker) line(at parse.Pos) int {
	return 1 + strings.Count(m.text[:min(int(at), len(m.text))], "\n")
}

func (m *marker) mark(line int) string { return fmt.Sprint(markBegin, m.file, ":", line, markEnd) }

func (m *marker) node(at parse.Pos) parse.Node {
	return &parse.TextNode{NodeType: parse.NodeText, Pos: at, Text: []byte(m.mark(m.line(at)))}
}

// before is what the name of a block's previous contents ends in.
func (m *marker) before() string { return " before " + m.source }

// list marks all texts, and names the calls of previous contents for what
// they lead to.
func (m *marker) list(list *parse.ListNode) {
	walk(list, func(n parse.Node) {
		switch n := n.(type) {
		case *parse.TextNode:
			line := m.line(n.Pos)
			marked := m.mark(line)
			for part := range strings.Lines(string(n.Text)) {
				marked += part
				if strings.HasSuffix(part, "\n") {
					line++
					marked += m.mark(line)
				}
			}
			n.Text = []byte(marked)
		case *parse.TemplateNode:
			if block, found := strings.CutPrefix(n.Name, previous); found && m.blocks[block] {
				m.called = append(m.called, block)
				n.Name = block + m.before()
			}
		}
	})
	// After the walk, which would mark the marks.
	walk(list, func(n parse.Node) {
		if loop, ok := n.(*parse.RangeNode); ok {
			loop.List.Nodes = append([]parse.Node{m.node(loop.Pos)}, loop.List.Nodes...)
		}
	})
}

// unmark takes the marks from a text and tells for each line where it comes
// from.
func (r *Renderer) unmark(text string) (string, []anchord.Origin) {
	var b strings.Builder
	var origins []anchord.Origin
	var last anchord.Origin
	for line := range strings.Lines(text) {
		first, blank, begin := last, true, b.Len()
		for {
			before, rest, found := strings.Cut(line, markBegin)
			b.WriteString(before)
			blank = blank && strings.TrimSpace(before) == ""
			if !found {
				break
			}
			var mark string
			mark, line, _ = strings.Cut(rest, markEnd)
			last = r.origin(mark)
			if blank {
				first = last
			}
		}
		if b.Len() > begin { // not only marks, behind the last line
			origins = append(origins, first)
		}
	}
	return b.String(), origins
}

func (r *Renderer) origin(mark string) anchord.Origin {
	file, line, _ := strings.Cut(mark, ":")
	f, _ := strconv.Atoi(file)
	l, _ := strconv.Atoi(line)
	return anchord.Origin{File: r.sources[max(0, min(f, len(r.sources)-1))], Line: l}
}

// endless is the error of an output that was cut off, where it was.
func (r *Renderer) endless(out *bounded) error {
	where := anchord.Origin{File: main}
	if text := out.String(); r.sources != nil && strings.Contains(text, markEnd) {
		text = text[:strings.LastIndex(text, markEnd)]
		where = r.origin(text[strings.LastIndex(text, markBegin)+1:])
	}
	return &anchord.TemplateError{File: where.File, Line: where.Line, Message: errEndless.Error()}
}

// place is how text/template begins its errors.
var place = regexp.MustCompile(`(?s)^template: (.+?):(\d+)(?::\d+)?: (.+)$`)

// located reads from an error of text/template where it is.
func located(err error) error {
	m := place.FindStringSubmatch(err.Error())
	if m == nil {
		var known *anchord.TemplateError
		if errors.As(err, &known) {
			return err
		}
		return fmt.Errorf("rendering ruleset: %w", err)
	}
	line, _ := strconv.Atoi(m[2])
	return &anchord.TemplateError{File: m[1], Line: line, Message: words(m[3])}
}
