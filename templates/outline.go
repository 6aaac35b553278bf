package templates

import (
	"fmt"
	"slices"
	"strings"

	"github.com/AlexCherrypi/anchord"
)

// statement is a piece of nft's language: words, and what follows them in
// braces, if anything does.
type statement struct {
	head, body string
	block      bool
	at         int // offset of its first word
}

// statements splits text without comments at its own level. Newlines and
// semicolons end a statement; braces and quotes are skipped as a whole.
func statements(text string) []statement {
	var all []statement
	start, open, depth := 0, 0, 0
	end := func(i int, s statement) {
		s.at = i - len(strings.TrimLeft(text[start:i], " \t\n"))
		if s.head != "" || s.block {
			all = append(all, s)
		}
		start = i + 1
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			i += 1 + max(0, strings.IndexByte(text[i+1:], '"'))
		case c == '{':
			if depth++; depth == 1 {
				open = i
			}
		case c == '}' && depth == 0:
			end(i, statement{head: words(text[start : i+1])})
		case c == '}':
			if depth--; depth == 0 {
				end(i, statement{head: words(text[start:open]), body: text[open+1 : i], block: true})
			}
		case depth == 0 && (c == '\n' || c == ';'):
			end(i, statement{head: words(text[start:i])})
		}
	}
	end(len(text), statement{head: words(text[start:])})
	return all
}

func words(s string) string { return strings.Join(strings.Fields(s), " ") }

// uncommented blanks comments, and joins lines that a backslash continues.
func uncommented(text string) string {
	b := []byte(text)
	quoted, comment := false, false
	for i, c := range b {
		switch {
		case c == '\n':
			quoted, comment = false, false
		case comment:
			b[i] = ' '
		case c == '"':
			quoted = !quoted
		case c == '#' && !quoted:
			comment = true
			b[i] = ' '
		}
	}
	return strings.ReplaceAll(string(b), "\\\n", "  ")
}

// frame takes from the body what is no rule, and sees that it has what
// anchord itself works with.
func frame(rs *anchord.Ruleset) error {
	text := uncommented(rs.Body)
	var b strings.Builder
	declared := map[string]bool{}
	tables := []string{"table " + anchord.TableV4, "table " + anchord.TableV6}
	for _, table := range statements(text) {
		if !table.block || !slices.Contains(tables, table.head) {
			line := strings.Count(text[:table.at], "\n")
			return &anchord.TemplateError{
				File: origin(rs, line).File, Line: origin(rs, line).Line, Rendered: fmt.Sprintf("%.80s", table.head),
				Message: "nothing may stand outside of " + strings.Join(tables, " and ") + "; is a brace wrong?",
			}
		}
		fmt.Fprintln(&b, table.head)
		for _, s := range statements(table.body) {
			if kind, name, _ := strings.Cut(s.head, " "); kind == "set" || kind == "map" {
				declared[table.head+" "+name] = true
			}
			writeFrame(&b, s)
		}
	}
	rs.Frame = b.String()
	wanted := slices.Clone(rs.Sets)
	for _, f := range anchord.Families {
		wanted = append(wanted, anchord.Set{Table: anchord.Table(f), Name: anchord.SerialSet})
	}
	for _, s := range wanted {
		if !declared["table "+s.Table+" "+s.Name] {
			return &anchord.TemplateError{File: main, Message: fmt.Sprintf("table %s has no set or map %s, which anchord fills", s.Table, s.Name)}
		}
	}
	return nil
}

// writeFrame writes what a table declares: of chains all but their rules.
func writeFrame(b *strings.Builder, s statement) {
	fmt.Fprintln(b, s.head)
	if !strings.HasPrefix(s.head, "chain ") {
		fmt.Fprintln(b, s.body)
		return
	}
	for _, rule := range statements(s.body) {
		switch first, _, _ := strings.Cut(rule.head, " "); first {
		case "type", "policy", "flags", "comment":
			fmt.Fprintln(b, rule.head, rule.body)
		}
	}
}

func origin(rs *anchord.Ruleset, line int) anchord.Origin {
	if line < len(rs.Origins) {
		return rs.Origins[line]
	}
	return anchord.Origin{File: main}
}
