package anchord_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/generated"
)

// docs/events.md is written by hand up to its first section.
func TestDocsOfEvents(t *testing.T) {
	generated.Parts(t, "docs/events.md", map[string]string{"events": eventTables()})
}

func eventTables() string {
	var b strings.Builder
	for _, g := range anchord.EventGroups {
		fmt.Fprintf(&b, "\n## %s\n\n| event | level | meaning | what to do |\n|---|---|---|---|\n", g.Title)
		for _, e := range g.Events {
			var levels []string
			for _, l := range e.Levels {
				levels = append(levels, l.String())
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.Name, strings.Join(levels, ", "), e.Meaning, e.Todo)
		}
	}
	return strings.ReplaceAll(b.String(), "|  |", "| |")
}

func TestEveryEventHasOneRow(t *testing.T) {
	constants := eventConstants(t)
	var rows []string
	for _, g := range anchord.EventGroups {
		for _, e := range g.Events {
			rows = append(rows, e.Name)
			if len(e.Levels) == 0 || e.Meaning == "" || strings.ContainsAny(e.Meaning+e.Todo, "|\n") {
				t.Errorf("the row of %s: %+v", e.Name, e)
			}
		}
	}
	slices.Sort(rows)
	if want := slices.Sorted(maps.Values(constants)); !slices.Equal(rows, want) {
		t.Errorf("the rows are of\n%q\nand the constants\n%q", rows, want)
	}
}

// eventConstants are the names in events.go and what they stand for.
func eventConstants(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "events.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constants := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Event") && len(spec.Values) == 1 {
			if text, ok := spec.Values[0].(*ast.BasicLit); ok {
				constants[spec.Names[0].Name], err = strconv.Unquote(text.Value)
			}
		}
		return err == nil
	})
	if err != nil || len(constants) == 0 {
		t.Fatalf("events.go has %d constants, %v", len(constants), err)
	}
	return constants
}

// logging are the functions that are given an event's name, as their second
// argument.
var logging = []string{"Event", "Observe", "notice", "addressEvent"}

// handedOn are the expressions, other than a constant, that may stand for an
// event's name: what one of the functions above was given itself, or took from
// a notice or a table, both of which are looked at too.
var handedOn = []string{"event", "n.Event", "repaired.event"}

// Nothing is logged under a name that is made up where it is logged.
func TestOnlyListedEventsAreLogged(t *testing.T) {
	constants := eventConstants(t)
	seen := map[string]bool{}
	files := token.NewFileSet()
	check := func(e ast.Expr) {
		name := expression(e)
		if c := strings.TrimPrefix(name, "anchord."); constants[c] != "" {
			seen[c] = true
		} else if !slices.Contains(handedOn, name) {
			t.Errorf("%s: %s is no constant of events.go", files.Position(e.Pos()), name)
		}
	}
	for _, path := range sources(t) {
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				_, method, _ := cutLast(expression(n.Fun))
				if slices.Contains(logging, method) && len(n.Args) >= 2 {
					check(n.Args[1])
				}
			case *ast.CompositeLit:
				for _, e := range named(n) {
					check(e)
				}
			}
			return true
		})
	}
	for c := range constants {
		if !seen[c] {
			t.Errorf("%s is never logged", c)
		}
	}
}

// named gives the event's name in a notice, or in a table of events and
// messages.
func named(c *ast.CompositeLit) (names []ast.Expr) {
	for i, e := range c.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if ok && expression(kv.Key) == "Event" {
			names = append(names, kv.Value)
		}
		if !ok && i == 0 && strings.HasPrefix(strings.TrimPrefix(expression(e), "anchord."), "Event") && c.Type == nil {
			names = append(names, e)
		}
	}
	return names
}

// expression is the text of a name, with its package or receiver.
func expression(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return expression(e.X) + "." + e.Sel.Name
	case *ast.IndexExpr:
		return expression(e.X)
	case *ast.BasicLit:
		return e.Value
	}
	return fmt.Sprintf("%T", e)
}

func cutLast(name string) (before, after string, found bool) {
	i := strings.LastIndexByte(name, '.')
	return name[:max(i, 0)], name[i+1:], i >= 0
}

// sources are the program's files.
func sources(t *testing.T) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if d.IsDir() && (path == "test" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") && path != "events.go" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d source files, %v", len(paths), err)
	}
	return paths
}
