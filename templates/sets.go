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
		all = append(all, portSets(table, f, p, s.Entries)...)
	}
	return all
}

// portSets are those of one protocol. Ranges are apart: nft reads every set of
// intervals before each change.
func portSets(table string, f anchord.Family, p anchord.Protocol, entries []anchord.Entry) []anchord.Set {
	set := func(name string) anchord.Set { return anchord.Set{Table: table, Name: name} }
	single, ranges := set(anchord.DNATMap(p, false)), set(anchord.DNATMap(p, true))
	open, openRanges := set("open_"+string(p)), set("open_"+string(p)+"_ranges")
	own, ownRanges := set("own_"+string(p)), set("own_"+string(p)+"_ranges")
	shifted := set("shifted_" + string(p))
	public := publicSockets(f, p, entries)
	for _, e := range entries {
		if e.Family != f || e.Protocol != p {
			continue
		}
		opened, owned := &open, &own
		if e.First != e.Last {
			opened, owned = &openRanges, &ownRanges
		}
		opened.Elements = append(opened.Elements, plain(e.Ports()))
		owned.Elements = append(owned.Elements, plain(e.Backend.WithZone("").String()+" . "+e.Ports()))
		switch {
		case !e.Shifted() && e.First != e.Last:
			ranges.Elements = append(ranges.Elements, element(e.Ports(), e.Container, e.Backend.String()))
			continue
		case e.Shifted():
			shifted.Elements = append(shifted.Elements, backwards(e, public)...)
		}
		single.Elements = append(single.Elements, singles(e)...)
	}
	return []anchord.Set{single, ranges, open, openRanges, own, ownRanges, shifted}
}

// publicSockets are the backends' ports that are public under their own number, if
// that matters: if some port is shifted.
func publicSockets(f anchord.Family, p anchord.Protocol, entries []anchord.Entry) map[string]bool {
	public := map[string]bool{}
	if !slices.ContainsFunc(entries, func(e anchord.Entry) bool { return e.Family == f && e.Protocol == p && e.Shifted() }) {
		return public
	}
	for _, e := range entries {
		for port := int(e.First); port <= int(e.Last) && e.Family == f && e.Protocol == p && !e.Shifted(); port++ {
			public[socket(e.Backend, port)] = true
		}
	}
	return public
}

// socket is a backend's port as a key.
func socket(backend netip.Addr, port int) string {
	return backend.WithZone("").String() + " . " + strconv.Itoa(port)
}

func plain(key string) anchord.Element { return anchord.Element{Key: key, Text: key} }

// backwards are the public ports of a shifted entry by the backend's. One that is
// public already is left out, and noted if it was not.
func backwards(e anchord.Entry, public map[string]bool) []anchord.Element {
	var elements []anchord.Element
	for i := 0; i <= int(e.Last-e.First); i++ {
		key := socket(e.Backend, int(e.Port)+i)
		if !public[key] {
			public[key] = true
			elements = append(elements, anchord.Element{Key: key, Text: key + " : " + strconv.Itoa(int(e.First)+i)})
		}
	}
	return elements
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
