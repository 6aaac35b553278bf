package templates

import (
	"fmt"
	"net/netip"
	"strings"
	"text/template"
)

// Quoting is done here and nowhere else. nft's strings have no escape: a
// quote ends them, whatever stands before it, so that what cannot be written
// is replaced or refused.
var funcs = template.FuncMap{
	"iface":   iface,
	"ifaces":  ifaces,
	"comment": comment,
	"addr":    addr,
	"upto":    upto,
	"inc":     func(n int) int { return n + 1 },
}

// iface quotes an interface's name. At most 15 bytes (IFNAMSIZ); a star would
// be a wildcard.
func iface(name string) (string, error) {
	if name == "" || len(name) > 15 || strings.ContainsAny(name, "\"*\\/ ") || clean(name) != name {
		return "", fmt.Errorf("%q cannot be used as the name of an interface", name)
	}
	return `"` + name + `"`, nil
}

// addr is one of some addresses, the next for each connection: where one does
// not answer, a second try asks another.
func addr(addrs []netip.Addr) string {
	if len(addrs) == 1 {
		return addrs[0].String()
	}
	var elements []string
	for i, a := range addrs {
		elements = append(elements, fmt.Sprintf("%d : %s", i, a))
	}
	return fmt.Sprintf("numgen inc mod %d map { %s }", len(addrs), strings.Join(elements, ", "))
}

// ifaces is an anonymous set of interface names.
func ifaces(names []string) (string, error) {
	quoted := make([]string, len(names))
	for i, name := range names {
		q, err := iface(name)
		if err != nil {
			return "", err
		}
		quoted[i] = q
	}
	return "{ " + strings.Join(quoted, ", ") + " }", nil
}

// maxComment is less than nft's limit of 128 bytes for a comment, which
// counts the terminating NUL.
const maxComment = 120

// comment quotes a comment; bytes other than printable ASCII, and quotes,
// become underscores.
func comment(text string) string {
	text = clean(text)
	if len(text) > maxComment {
		text = text[:maxComment]
	}
	return `"` + text + `"`
}

func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '_'
		}
		return r
	}, s)
}

// upto is 1..n.
func upto(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i + 1
	}
	return list
}
