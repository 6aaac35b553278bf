package main

import (
	"regexp"
	"slices"
	"strings"
)

var (
	smallTTL = regexp.MustCompile(`^\s*ip ttl [0-9]+ ip ttl set [0-9]+ return$`)
	object   = regexp.MustCompile(`^\t(?:map|set|chain) (\S+) \{$`)
)

// trimRuleset leaves of "nft list ruleset" anchord's IPv4 table, without what
// only repeats: empty maps, blank lines, all but one of the small TTLs. Each
// element gets a line of its own.
func trimRuleset(listing string) string {
	var shown, empty []string
	for _, block := range blocks(listing, "table ip anchord_v4 {") {
		name := object.FindStringSubmatch(block[0])
		if name != nil && strings.HasPrefix(block[0], "\tmap ") && !slices.ContainsFunc(block, hasElements) {
			empty = append(empty, name[1])
			continue
		}
		if len(empty) > 0 && !strings.HasPrefix(block[0], "\tmap ") {
			shown = append(shown, "\t… empty here: "+strings.Join(empty, ", "))
			empty = nil
		}
		shown = append(shown, withoutRepeats(block)...)
	}
	shown = append(shown, `… table ip6 anchord_v6: the same for IPv6`)
	return strings.ReplaceAll(strings.Join(shown, "\n"), "\t", "    ")
}

// blocks are one table's maps, sets and chains, each with its lines; what is
// between them is a block of one line.
func blocks(listing, table string) [][]string {
	var all [][]string
	var current []string
	inside := false
	for line := range strings.Lines(listing) {
		line = strings.TrimRight(line, "\n")
		inside = inside && !strings.HasPrefix(line, "table ") || line == table
		switch {
		case !inside || strings.TrimSpace(line) == "":
		case object.MatchString(line):
			current = []string{line}
		case current == nil:
			all = append(all, []string{line})
		case line == "\t}":
			all = append(all, append(current, line))
			current = nil
		default:
			current = append(current, line)
		}
	}
	return all
}

func hasElements(line string) bool { return strings.HasPrefix(line, "\t\telements = ") }

func withoutRepeats(block []string) []string {
	var shown []string
	repeats := 0
	for _, line := range block {
		if smallTTL.MatchString(line) {
			if repeats++; repeats > 1 {
				continue
			}
			line += "\n\t\t…"
		}
		if strings.HasPrefix(block[0], "\tmap ") && hasElements(line) {
			line = strings.ReplaceAll(line, ", ", ",\n\t\t\t     ")
		}
		shown = append(shown, line)
	}
	return shown
}
