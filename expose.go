package anchord

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Labels that a container can carry.
const (
	LabelPrefix   = "anchord."
	LabelExpose   = "anchord.expose"
	LabelExposeV6 = "anchord.expose.v6"
	LabelIdentity = "anchord.identity"
)

var (
	knownLabels = []string{LabelExpose, LabelExposeV6, LabelIdentity}
	ownLabels   = []string{LabelManagedBy, labelRecipe, labelReplaces}
)

// Exposure is one entry of an anchord.expose label: the public ports
// First..Last (1..65535, First <= Last) of a protocol, and the backend port
// that First is mapped to. The other ports of a range follow in step.
type Exposure struct {
	Protocol    Protocol
	First, Last uint16
	Backend     uint16
}

// Ports is the number of ports of the exposure.
func (e Exposure) Ports() int { return int(e.Last) - int(e.First) + 1 }

// Shifted says whether the backend's ports differ from the public ones.
func (e Exposure) Shifted() bool { return e.Backend != e.First }

// elements is how many the kernel's maps need of it in one family: no map of nft's
// can shift a range, so that one is spelled out port by port.
func (e Exposure) elements() int {
	if e.Shifted() {
		return e.Ports()
	}
	return 1
}

// String is the entry in the label's own grammar.
func (e Exposure) String() string {
	s := fmt.Sprintf("%s/%s", e.Protocol, portsString(e.First, e.Last))
	if e.Shifted() {
		s += ":" + strconv.Itoa(int(e.Backend))
	}
	return s
}

func portsString(first, last uint16) string {
	if first == last {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// LabelError says which entry of a label is wrong and why.
type LabelError struct {
	Label, Entry, Reason string
}

func (e *LabelError) Error() string {
	return fmt.Sprintf("label %s: entry %s: %s", e.Label, quoted(e.Entry), e.Reason)
}

// maxEntries of one label is more than anybody writes by hand, and keeps a label of a
// megabyte from being read to its end with every look.
const maxEntries = 1024

// ParseExpose reads an anchord.expose label: comma-separated entries of
// proto/port, proto/port:backend, proto/first-last or
// proto/first-last:backend-first. An empty label is no exposure. One bad
// entry refuses the whole label with a *LabelError, so that a typing error
// never leaves a service half reachable without notice.
func ParseExpose(label string) ([]Exposure, error) {
	if strings.TrimSpace(label) == "" {
		return nil, nil
	}
	var exposures []Exposure
	taken := map[Protocol]*claims{TCP: {}, UDP: {}}
	for entry := range strings.SplitSeq(label, ",") {
		entry = strings.TrimSpace(entry)
		e, reason := parseEntry(entry)
		if len(exposures) == maxEntries {
			reason = fmt.Sprintf("is one too many: a label has at most %d entries; write neighbouring ports as a range, such as tcp/8000-8999", maxEntries)
		}
		if reason == "" {
			if holder, free := taken[e.Protocol].add(claim{exposure: e}); !free {
				reason = fmt.Sprintf("overlaps the entry %q of the same label", holder.exposure)
			}
		}
		if reason != "" {
			return nil, &LabelError{Label: LabelExpose, Entry: entry, Reason: reason}
		}
		exposures = append(exposures, e)
	}
	return exposures, nil
}

// parseEntry returns the entry, or the reason why it is none.
func parseEntry(entry string) (Exposure, string) {
	if entry == "" {
		return Exposure{}, "is empty; remove the extra comma"
	}
	proto, rest, found := strings.Cut(entry, "/")
	if !found {
		return Exposure{}, "has no protocol; write tcp/PORT or udp/PORT"
	}
	protocol := Protocol(strings.ToLower(strings.TrimSpace(proto)))
	if protocol != TCP && protocol != UDP {
		if p := strings.ToLower(strings.TrimSpace(rest)); (p == "tcp" || p == "udp") && strings.Trim(proto, "0123456789:-") == "" {
			return Exposure{}, fmt.Sprintf("the protocol comes first; write %s/%s", p, Short(proto))
		}
		return Exposure{}, fmt.Sprintf("protocol %s is neither tcp nor udp", quoted(strings.TrimSpace(proto)))
	}
	public, backend, mapped := strings.Cut(rest, ":")
	first, last, reason := parsePorts(public)
	if reason != "" {
		return Exposure{}, reason
	}
	e := Exposure{Protocol: protocol, First: first, Last: last, Backend: first}
	if !mapped {
		return e, ""
	}
	if e.Backend, reason = parsePort(backend); reason != "" {
		return Exposure{}, "backend " + reason
	}
	if int(e.Backend)+e.Ports()-1 > 65535 {
		return Exposure{}, fmt.Sprintf("the backend range would end at port %d, beyond 65535", int(e.Backend)+e.Ports()-1)
	}
	return e, ""
}

func parsePorts(s string) (first, last uint16, reason string) {
	lo, hi, isRange := strings.Cut(s, "-")
	if first, reason = parsePort(lo); reason != "" {
		return 0, 0, reason
	}
	if !isRange {
		return first, first, ""
	}
	if last, reason = parsePort(hi); reason != "" {
		return 0, 0, reason
	}
	if last < first {
		return 0, 0, fmt.Sprintf("range %d-%d ends before it begins", first, last)
	}
	return first, last, ""
}

// parsePort accepts plain decimal digits only: no sign, no leading zero,
// since other readers take 010 for eight.
func parsePort(s string) (uint16, string) {
	s = strings.TrimSpace(s)
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' {
		return 0, fmt.Sprintf("port %s is not a number from 1 to 65535", quoted(s))
	}
	return uint16(n), ""
}

func parseExposeV6(value string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "", "auto":
		return true, nil
	case "off":
		return false, nil
	}
	return false, &LabelError{Label: LabelExposeV6, Entry: value, Reason: "is neither auto nor off"}
}

// meant asks whether a name is the one that was meant, if there is one.
func meant(name string) string {
	if name == "" {
		return ""
	}
	return ": is it meant to be " + name + "?"
}

// likeOurs is the label that this one is most likely meant to be, if it is off by
// no more than its separators, its case and two letters, but for the first.
func likeOurs(label string) string {
	if label == "" || len(label) > len(LabelExposeV6)+2 || label[0] != 'a' && label[0] != 'A' {
		return "" // most labels, and each is looked at again and again
	}
	plain := strings.Map(func(r rune) rune {
		if strings.ContainsRune("_-/ ", r) {
			return '.'
		}
		return unicode.ToLower(r)
	}, label)
	return Nearest(plain, knownLabels)
}
