package templates

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/AlexCherrypi/anchord"
)

// sets are the elements of one family's table. Only canonical numbers and
// addresses are written: nft would read others as octal or ask DNS.
func sets(f anchord.Family, s anchord.State) []anchord.Set {
	table := anchord.Table(f)
	all := []anchord.Set{{Table: table, Name: "transit_subnets", Elements: subnets(f, s)}}
	for _, p := range anchord.Protocols {
		single := anchord.Set{Table: table, Name: anchord.DNATMap(p, false)}
		ranges := anchord.Set{Table: table, Name: anchord.DNATMap(p, true)}
		openSingle := anchord.Set{Table: table, Name: "open_" + string(p)}
		openRanges := anchord.Set{Table: table, Name: "open_" + string(p) + "_ranges"}
		for _, e := range s.Entries {
			if e.Family != f || e.Protocol != p {
				continue
			}
			// Ranges apart: nft reads every set of intervals before each change.
			open := &openSingle
			if e.First != e.Last {
				open = &openRanges
			}
			open.Elements = append(open.Elements, anchord.Element{Key: e.Ports(), Text: e.Ports()})
			if e.First != e.Last && !e.Shifted() {
				ranges.Elements = append(ranges.Elements, element(e.Ports(), e.Container, e.Backend.String()))
				continue
			}
			single.Elements = append(single.Elements, singles(e)...)
		}
		all = append(all, single, ranges)
		if p == anchord.TCP {
			all = append(all, openSingle, openRanges)
		}
	}
	return all
}

// singles spells an entry out port by port: no map of nft's can shift a
// range.
func singles(e anchord.Entry) []anchord.Element {
	var elements []anchord.Element
	for i := 0; i <= int(e.Last-e.First); i++ {
		target := e.Backend.String() + " . " + strconv.Itoa(int(e.Port)+i)
		elements = append(elements, element(strconv.Itoa(int(e.First)+i), e.Container, target))
	}
	return elements
}

func element(key, container, target string) anchord.Element {
	return anchord.Element{Key: key, Text: fmt.Sprintf("%s comment %s : %s", key, comment(container), target)}
}

// subnets lists the transit subnets without overlaps, which nft refuses.
func subnets(f anchord.Family, s anchord.State) []anchord.Element {
	var prefixes []netip.Prefix
	for _, t := range s.Transits {
		for _, p := range t.Subnets {
			if p.IsValid() && anchord.FamilyOf(p.Addr()) == f {
				prefixes = append(prefixes, p.Masked())
			}
		}
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	var elements []anchord.Element
	for i, p := range prefixes {
		if !slices.ContainsFunc(prefixes[:i], func(wider netip.Prefix) bool { return wider.Overlaps(p) }) {
			elements = append(elements, anchord.Element{Key: p.String(), Text: p.String()})
		}
	}
	slices.SortFunc(elements, func(a, b anchord.Element) int { return strings.Compare(a.Key, b.Key) })
	return elements
}
