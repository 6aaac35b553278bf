package templates

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"text/template"
)

// What templates can call beside what text/template has. nft's strings have no
// escape: a quote ends them, whatever stands before it, so that what cannot be
// written is replaced or refused, here and in the types of the data.
var funcs = template.FuncMap{
	"comment": comment,
	"addr":    addr,
	"upto":    upto,
	"inc":     inc,

	"print":   shortPrint,
	"printf":  shortPrintf,
	"println": shortPrintln,

	"html":     otherLanguage,
	"js":       otherLanguage,
	"urlquery": otherLanguage,
}

// addr writes one of some addresses, the next for each connection: where one does
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

// maxComment is less than nft's limit of 128 bytes for a comment, which
// counts the terminating NUL.
const maxComment = 120

// comment quotes any text for nft's comments; bytes other than printable ASCII,
// and quotes, become underscores, and what is too long is cut off.
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

// upto is the numbers from 1 to n, at most 65535, to range over.
func upto(n int) ([]int, error) {
	if n < 0 || n > 65535 {
		return nil, fmt.Errorf("upto %d: at most 65535 can be counted", n)
	}
	list := make([]int, n)
	for i := range list {
		list[i] = i + 1
	}
	return list, nil
}

// inc is n + 1.
func inc(n int) int { return n + 1 }

// shortPrint is text/template's print, for at most 64 KiB.
func shortPrint(args ...any) (string, error) { return short(fmt.Sprint(args...)) }

var wide = regexp.MustCompile(`[0-9]{5}`)

// shortPrintf is text/template's printf, for at most 64 KiB, which a width of five
// digits would already be.
func shortPrintf(format string, args ...any) (string, error) {
	if wide.MatchString(format) {
		return "", errors.New("a text of more than 64 KiB")
	}
	return short(fmt.Sprintf(format, args...))
}

// shortPrintln is text/template's println, for at most 64 KiB.
func shortPrintln(args ...any) (string, error) { return short(fmt.Sprintln(args...)) }

// short keeps a template from doubling a text until memory is full.
func short(s string) (string, error) {
	if len(s) > 64<<10 {
		return "", errors.New("a text of more than 64 KiB")
	}
	return s, nil
}

// otherLanguage refuses: it would quote for another language than nft's.
func otherLanguage(...any) (string, error) {
	return "", errors.New("quotes for another language than nft's")
}
