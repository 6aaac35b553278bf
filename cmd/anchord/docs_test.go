package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord/cmd/anchord/adopt"
	"github.com/AlexCherrypi/anchord/test/generated"
	"github.com/alecthomas/kong"
)

// docs is where the pages are that show what this package declares.
const docs = "../../docs"

// tables are what docs/configuration.md shows between its markers, made of what
// the program itself reads and prints.
func tables(t *testing.T) map[string]string {
	t.Helper()
	parser, err := kong.New(&commands{}, kong.Name("anchord"))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"commands":          commandTable(parser.Model.Children),
		"all modes":         variableTable(commonVars{}),
		"network-anchor":    variableTable(networkVars{}),
		"shared namespaces": variableTable(repairVars{}),
		"service-anchor":    variableTable(followVars{}),
		"rebinders":         variableTable(rebindVars{}),
		"external-rebinder": variableTable(externalRebinderVars{}),
	}
}

func commandTable(commands []*kong.Node) string {
	rows := []string{"| command | what it does |", "|---|---|"}
	for _, c := range commands {
		leaves := []*kong.Node{c}
		if len(c.Children) > 0 {
			leaves = c.Children
		}
		for _, leaf := range leaves {
			path := leaf.FullPath()
			if leaf == c.DefaultCmd {
				path = c.FullPath() // nobody writes its name
			}
			rows = append(rows, fmt.Sprintf("| `%s` | %s |", path, leaf.Help))
		}
	}
	return strings.Join(rows, "\n")
}

// A default that is found out at run time is told at the end of the meaning.
var foundOut = regexp.MustCompile(`^(.*?) ?Default: (.*)\.$`)

func variableTable(vars any) string {
	rows := []string{"| variable | default | meaning |", "|---|---|---|"}
	for _, f := range reflect.VisibleFields(reflect.TypeOf(vars)) {
		name, meaning := f.Tag.Get("env"), f.Tag.Get("help")
		if _, hidden := f.Tag.Lookup("hidden"); name == "" || hidden {
			continue
		}
		byDefault := f.Tag.Get("default")
		if byDefault != "" {
			byDefault = "`" + byDefault + "`"
		}
		if m := foundOut.FindStringSubmatch(meaning); m != nil {
			meaning, byDefault = m[1], m[2]
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", name, byDefault, strings.ReplaceAll(meaning, "|", `\|`)))
	}
	return strings.Join(rows, "\n")
}

func TestDocsShowTheVariablesAndCommandsThatThereAre(t *testing.T) {
	generated.Parts(t, filepath.Join(docs, "configuration.md"), tables(t))
}

// Whatever any command reads is in a table, also what is added in a struct that
// no table is made of yet.
func TestDocsNameEveryVariable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&commands{})
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range parser.Model.Leaves(true) {
		for _, f := range leaf.Flags {
			for _, name := range f.Envs {
				if !f.Hidden && !strings.Contains(string(page), "\n| `"+name+"` |") {
					t.Errorf("%s reads %s, which docs/configuration.md has in no table", leaf.FullPath(), name)
				}
			}
		}
	}
}

// The commands that are shown for adopting are those that the program prints.
func TestDocsShowHowToAdopt(t *testing.T) {
	result, err := adopt.Override([]byte(`{"name":"p","services":{"web":{"ports":[{"target":80,"published":"80"}]}}}`), adopt.Options{Parent: "eth0", Image: "anchord"})
	if err != nil {
		t.Fatal(err)
	}
	for page, commands := range map[string][]string{
		"../README.md":                {adoptUsage, result.Start},
		"../examples/adopt/README.md": {adoptUsage, result.Start},
		"adopt.md":                    {adoptUsage, result.Start, result.Env},
	} {
		text, err := os.ReadFile(filepath.Join(docs, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range commands {
			if !strings.Contains(string(text), "\n"+command+"\n") {
				t.Errorf("docs/%s does not have the line %q", page, command)
			}
		}
	}
}

// The options of docs/adopt.md are those that there are.
func TestDocsShowTheOptionsOfAdopt(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "adopt.md"))
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&commands{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, leaf := range parser.Model.Leaves(true) {
		if leaf.Name != "adopt" {
			continue
		}
		for _, f := range leaf.Flags {
			there[f.Name] = true
			if !regexp.MustCompile("\n\\| `--" + f.Name + "[ `]").Match(page) {
				t.Errorf("docs/adopt.md does not have --%s", f.Name)
			}
		}
	}
	for _, m := range regexp.MustCompile("\n\\| `--([a-z0-9-]+)").FindAllStringSubmatch(string(page), -1) {
		if !there[m[1]] {
			t.Errorf("docs/adopt.md has --%s, which there is not", m[1])
		}
	}
	if len(there) < 5 {
		t.Errorf("only the options %v were found", there)
	}
}
