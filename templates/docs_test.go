package templates_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord/test/generated"
)

// docsFile is what is written by hand around what is written here.
const docsFile = "../docs/templates.md"

// The page names every field, method, function and block, in the words of the
// code.
func TestDocs(t *testing.T) {
	pkg := sources(t)
	generated.Parts(t, docsFile, map[string]string{"data": data(t, pkg), "functions": functions(t, pkg), "blocks": blocks(t)})
}

// What the page tells to write works.
func TestTemplatesInTheDocs(t *testing.T) {
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	indent := regexp.MustCompile(`(?m)^   `)
	found := 0
	for i, block := range strings.Split(string(text), "```") {
		if i%2 == 0 || !strings.Contains(block, "{{define") {
			continue
		}
		found++
		block = indent.ReplaceAllString(strings.TrimLeft(block, "\n"), "")
		for name, state := range states() {
			rs := mustRender(t, state, file("x.nft.tmpl", block))
			if told := nft(t, "nft -c -f -", whole(rs)); told != "" {
				t.Errorf("%s: %s", name, told)
			}
		}
	}
	if found != 2 {
		t.Errorf("the page has %d templates, not 2", found)
	}
}

type packageDocs struct {
	*doc.Package
	fset  *token.FileSet
	files []*ast.File
}

func sources(t *testing.T) packageDocs {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	p := packageDocs{fset: token.NewFileSet()}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(p.fset, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		p.files = append(p.files, f)
	}
	if p.Package, err = doc.NewFromFiles(p.fset, p.files, "github.com/AlexCherrypi/anchord/templates", doc.AllDecls|doc.PreserveAST); err != nil {
		t.Fatal(err)
	}
	return p
}

// data is a table for each type, of its fields and methods.
func data(t *testing.T, p packageDocs) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "The version of the data is %s.\n", constant(t, p, "DataVersion"))
	for _, name := range []string{"Table", "Port", "Name", "Iface", "Ifaces"} {
		typ := find(t, p, name)
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", name, flat(typ.Doc))
		fields, isStruct := typ.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType)
		if !isStruct {
			continue
		}
		b.WriteString("| name | type | meaning |\n|---|---|---|\n")
		for _, f := range fields.Fields.List {
			for _, n := range f.Names {
				if !n.IsExported() {
					continue
				}
				if f.Doc == nil {
					t.Errorf("%s.%s has no comment", name, n.Name)
				}
				fmt.Fprintf(&b, "| `.%s` | %s | %s |\n", n.Name, p.source(f.Type), cell(meaning(n.Name, f.Doc.Text())))
			}
		}
		for _, m := range typ.Methods {
			fmt.Fprintf(&b, "| `.%s` | %s | %s |\n", m.Name, p.source(m.Decl.Type.Results.List[0].Type), cell(meaning(m.Name, m.Doc)))
		}
	}
	return b.String() + "\n"
}

func find(t *testing.T, p packageDocs, name string) *doc.Type {
	t.Helper()
	for _, typ := range p.Types {
		if typ.Name == name {
			return typ
		}
	}
	t.Fatalf("no type %s", name)
	return nil
}

func constant(t *testing.T, p packageDocs, name string) string {
	t.Helper()
	for _, c := range p.Consts {
		for _, spec := range c.Decl.Specs {
			if v := spec.(*ast.ValueSpec); v.Names[0].Name == name {
				return p.source(v.Values[0])
			}
		}
	}
	t.Fatalf("no constant %s", name)
	return ""
}

func (p packageDocs) source(n ast.Node) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, p.fset, n); err != nil {
		return err.Error()
	}
	return strings.NewReplacer("anchord.", "", "netip.", "").Replace(b.String())
}

// meaning is a comment without the name that it begins with.
func meaning(name, text string) string {
	text = strings.TrimPrefix(flat(text), name+" ")
	for _, verb := range []string{"is ", "are "} {
		text = strings.TrimPrefix(text, verb)
	}
	return text
}

func flat(text string) string {
	var p comment.Parser
	pr := comment.Printer{TextWidth: -1}
	return strings.Join(strings.Fields(string(pr.Text(p.Parse(text)))), " ")
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// functions is what the FuncMap has, with the comments of what it leads to.
func functions(t *testing.T, p packageDocs) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| function | meaning |\n|---|---|\n")
	found := 0
	for _, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || spec.Names[0].Name != "funcs" {
				return true
			}
			for _, e := range spec.Values[0].(*ast.CompositeLit).Elts {
				pair := e.(*ast.KeyValueExpr)
				name, err := strconv.Unquote(pair.Key.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				found++
				fmt.Fprintf(&b, "| `%s` | %s |\n", name, cell(comments(t, p, pair.Value.(*ast.Ident).Name)))
			}
			return false
		})
	}
	if found == 0 {
		t.Fatal("no functions")
	}
	return b.String()
}

func comments(t *testing.T, p packageDocs, name string) string {
	t.Helper()
	for _, f := range p.Funcs {
		if f.Name == name && f.Doc != "" {
			return meaning(name, f.Doc)
		}
	}
	t.Fatalf("the function %s has no comment", name)
	return ""
}

var (
	chainLine = regexp.MustCompile(`^\tchain (\w+) \{`)
	hookLine  = regexp.MustCompile(`^\t\ttype (.+?); policy (\w+);`)
	blockLine = regexp.MustCompile(`\{\{-? ?block "(\w+)"`)
)

// blocks is where in the embedded template each block stands.
func blocks(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| block | stands in | hook | policy |\n|---|---|---|---|\n")
	chain, hook, policy := "", "", ""
	for line := range strings.Lines(embeddedText(t)) {
		switch {
		case strings.HasPrefix(line, "\t}"):
			chain, hook, policy = "", "", ""
		case chainLine.MatchString(line):
			chain = chainLine.FindStringSubmatch(line)[1]
		case hookLine.MatchString(line):
			m := hookLine.FindStringSubmatch(line)
			hook, policy = m[1], m[2]
		}
		m := blockLine.FindStringSubmatch(line)
		switch {
		case m != nil && chain == "":
			fmt.Fprintf(&b, "| `%s` | the table, behind all chains | | |\n", m[1])
		case m != nil:
			fmt.Fprintf(&b, "| `%s` | chain `%s` | %s | %s |\n", m[1], chain, hook, policy)
		}
	}
	return b.String()
}
