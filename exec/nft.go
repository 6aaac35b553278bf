package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// NFT applies rulesets and remembers what it applied last. Its zero value is
// ready to use.
//
// The tables are deleted and created once, with the first apply; from then on
// they stand, rules are flushed and refilled when they differ, and of the maps
// only the elements that differ are replaced. A transaction is atomic either
// way, but registering a base chain anew lets single packets through
// untranslated, and an element that stays keeps its counter. Another frame,
// which only another template makes, needs the tables anew all the same: what
// it does not declare any more would stay.
type NFT struct {
	Runner Runner

	mu      sync.Mutex
	applied *anchord.Ruleset // nil: unknown, the next apply starts afresh
	serial  uint32
	listed  string // how the kernel lists the tables without their elements; empty: unknown
}

// Apply makes the kernel's tables equal to next in one transaction. On error
// the kernel keeps what it had.
func (n *NFT) Apply(ctx context.Context, next anchord.Ruleset) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.serial++
	if n.applied != nil && n.applied.Frame == next.Frame {
		err := n.run(ctx, updateScript(*n.applied, next, n.serial))
		if err == nil {
			return n.stands(ctx, next)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			n.applied = nil
			return fmt.Errorf("applying ruleset: %w", err)
		}
		// The tables are not what we left: begin afresh, in the same call.
	}
	script := Script(next, n.serial)
	if err := n.run(ctx, script); err != nil {
		if !refused(err) {
			n.applied = nil
		}
		return fmt.Errorf("applying ruleset: %w", inTemplate(err, next, script))
	}
	n.applied = nil // of another listing
	return n.stands(ctx, next)
}

// stands notes what the kernel has by now, and how it lists it.
func (n *NFT) stands(ctx context.Context, next anchord.Ruleset) error {
	if n.applied == nil || n.applied.Body != next.Body {
		// Where it cannot be listed, rules cannot be compared later.
		n.listed, _ = n.list(ctx)
	}
	n.applied = &next
	return nil
}

// Check says what is wrong with a ruleset, as far as nft can tell without the
// kernel. Nothing is changed.
func (n *NFT) Check(ctx context.Context, rs anchord.Ruleset) error {
	script := Script(rs, 0)
	runner := n.Runner
	runner.Timeout = checkTimeout
	_, err := runner.Run(ctx, script, "nft", "-c", "-f", "-")
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("checking ruleset: nft was not ready after %v; does a name stand where an address belongs? %w", checkTimeout, err)
	}
	if err != nil {
		return fmt.Errorf("checking ruleset: %w", inTemplate(err, rs, script))
	}
	return nil
}

// checkTimeout is enough for 65,535 elements. A name in place of an address
// has nft ask a DNS server that may not be there.
const checkTimeout = 2 * time.Second

func (n *NFT) run(ctx context.Context, script string) error {
	_, err := n.Runner.Run(ctx, script, "nft", "-f", "-")
	return err
}

// refused says whether nft itself ended with an error, after which the kernel
// has what it had. If it was ended from outside, one cannot know.
func refused(err error) bool {
	var command *CommandError
	return errors.As(err, &command) && command.ExitCode > 0
}

// complaint is how nft begins its errors: file, line, columns.
var complaint = regexp.MustCompile(`(?m)^/dev/stdin:(\d+):\d+(?:-\d+)?: Error: (.*)$`)

// inTemplate turns what nft says of a script into what is wrong with the
// template that the line comes from, if one of the operator's had a part in it.
func inTemplate(err error, rs anchord.Ruleset, script string) error {
	var command *CommandError
	if rs.Origins == nil || !errors.As(err, &command) {
		return err
	}
	m := complaint.FindStringSubmatch(command.Stderr)
	if m == nil {
		return err
	}
	number, _ := strconv.Atoi(m[1])
	line := number - 1 - strings.Count(script[:strings.Index(script, rs.Body)], "\n")
	if line < 0 || line >= len(rs.Origins) {
		return err
	}
	text := strings.Split(rs.Body, "\n")[line]
	return &anchord.TemplateError{
		File: rs.Origins[line].File, Line: rs.Origins[line].Line,
		Message: "nft: " + oneLine(m[2]), Rendered: oneLine(text),
	}
}

// Forget makes the next apply start afresh, after somebody else changed the
// tables.
func (n *NFT) Forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applied = nil
}

// Remove deletes anchord's tables; missing ones are no error.
func (n *NFT) Remove(ctx context.Context) error {
	n.Forget()
	if err := n.run(ctx, removal); err != nil {
		return fmt.Errorf("removing ruleset: %w", err)
	}
	return nil
}

// Standing says whether both tables exist.
func (n *NFT) Standing(ctx context.Context) (bool, error) {
	out, err := n.Runner.Run(ctx, "", "nft", "list", "tables")
	if err != nil {
		return false, fmt.Errorf("looking for tables: %w", err)
	}
	for _, f := range anchord.Families {
		if !strings.Contains(string(out), "table "+anchord.Table(f)+"\n") {
			return false, nil
		}
	}
	return true, nil
}

// list is how the kernel lists anchord's tables, without the elements of sets and
// without counters.
func (n *NFT) list(ctx context.Context) (string, error) {
	out, err := n.Runner.Run(ctx, "", "nft", "--stateless", "--terse", "list", "ruleset")
	if err != nil {
		return "", fmt.Errorf("listing tables: %w", err)
	}
	var ours strings.Builder
	inside := false
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "table ") {
			inside = slices.ContainsFunc(anchord.Families[:], func(f anchord.Family) bool { return line == "table "+anchord.Table(f)+" {\n" })
		}
		if inside {
			ours.WriteString(line)
		}
	}
	return ours.String(), nil
}

// Intact says whether the kernel has what was applied last: the rules as they were
// listed then, and the elements of the ruleset's sets.
func (n *NFT) Intact(ctx context.Context) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.applied == nil {
		return true, nil // nothing is claimed
	}
	listed, err := n.list(ctx)
	if err != nil || n.listed != "" && listed != n.listed {
		return false, err
	}
	has := map[string][]string{}
	for _, f := range anchord.Families {
		if err := n.each(ctx, anchord.Table(f), func(set string, e jsonElement) {
			key := anchord.Table(f) + " " + set
			has[key] = append(has[key], e.String())
		}); err != nil {
			return false, err
		}
	}
	for _, s := range n.applied.Sets {
		if !slices.Equal(canonical(written(s.Elements)), canonical(has[s.Table+" "+s.Name])) {
			return false, nil
		}
	}
	return true, nil
}

// written are elements without their comments, as "key" or "key : data".
func written(elements []anchord.Element) []string {
	list := make([]string, len(elements))
	for i, e := range elements {
		list[i] = e.Key
		if at := strings.LastIndex(e.Text, " : "); at >= 0 {
			list[i] += e.Text[at:]
		}
	}
	return list
}

// canonical sorts elements, and writes prefixes of one address as nft lists them.
func canonical(elements []string) []string {
	for i, e := range elements {
		if p, err := netip.ParsePrefix(e); err == nil && p.IsSingleIP() {
			elements[i] = p.Addr().String()
		}
	}
	slices.Sort(elements)
	return elements
}

// Deleting needs the table to exist, adding it does not mind.
const removal = "add table " + anchord.TableV4 + "\ndelete table " + anchord.TableV4 +
	"\nadd table " + anchord.TableV6 + "\ndelete table " + anchord.TableV6 + "\n"

// Script is the transaction that replaces whatever stands by rs.
func Script(rs anchord.Ruleset, serial uint32) string {
	var b strings.Builder
	b.WriteString(removal)
	b.WriteString(rs.Body)
	for _, s := range rs.Sets {
		writeElements(&b, "add", s, texts(s.Elements))
	}
	writeSerial(&b, serial)
	return b.String()
}

// updateScript is the transaction that turns old, as it stands, into next.
func updateScript(old, next anchord.Ruleset, serial uint32) string {
	var b strings.Builder
	if old.Body != next.Body {
		for _, f := range anchord.Families {
			b.WriteString("flush table " + anchord.Table(f) + "\n")
		}
		b.WriteString(next.Body)
	}
	for i, s := range next.Sets {
		gone, added := difference(old.Sets[i].Elements, s.Elements)
		writeElements(&b, "delete", s, keys(gone))
		writeElements(&b, "add", s, texts(added))
	}
	for _, f := range anchord.Families {
		b.WriteString("flush set " + anchord.Table(f) + " " + anchord.SerialSet + "\n")
	}
	writeSerial(&b, serial)
	return b.String()
}

func writeSerial(b *strings.Builder, serial uint32) {
	for _, f := range anchord.Families {
		fmt.Fprintf(b, "add element %s %s { %d }\n", anchord.Table(f), anchord.SerialSet, serial)
	}
}

func writeElements(b *strings.Builder, verb string, s anchord.Set, elements []string) {
	if len(elements) == 0 {
		return
	}
	fmt.Fprintf(b, "%s element %s %s {\n\t%s\n}\n", verb, s.Table, s.Name, strings.Join(elements, ",\n\t"))
}

func texts(elements []anchord.Element) []string {
	list := make([]string, len(elements))
	for i, e := range elements {
		list[i] = e.Text
	}
	return list
}

func keys(elements []anchord.Element) []string {
	list := make([]string, len(elements))
	for i, e := range elements {
		list[i] = e.Key
	}
	return list
}

// difference returns what of old is gone or different in next, and what of
// next is new or different from old.
func difference(old, next []anchord.Element) (gone, added []anchord.Element) {
	was := make(map[string]string, len(old))
	for _, e := range old {
		was[e.Key] = e.Text
	}
	is := make(map[string]string, len(next))
	for _, e := range next {
		is[e.Key] = e.Text
		if was[e.Key] != e.Text {
			added = append(added, e)
		}
	}
	for _, e := range old {
		if is[e.Key] != e.Text {
			gone = append(gone, e)
		}
	}
	return gone, added
}

// Counters returns how many connections each entry of the maps has seen, by
// table, map and key as they are in a Set's elements.
func (n *NFT) Counters(ctx context.Context) (map[string]uint64, error) {
	counters := map[string]uint64{}
	for _, f := range anchord.Families {
		err := n.each(ctx, anchord.Table(f), func(set string, e jsonElement) {
			if e.data != "" {
				counters[CounterKey(anchord.Table(f), set, e.key)] = e.packets
			}
		})
		if err != nil {
			return nil, fmt.Errorf("reading counters: %w", err)
		}
	}
	return counters, nil
}

// CounterKey is the key of an element in the result of Counters.
func CounterKey(table, set, element string) string { return table + " " + set + " " + element }

// each tells of each element of a table's sets and maps.
func (n *NFT) each(ctx context.Context, table string, tell func(set string, e jsonElement)) error {
	out, err := n.Runner.Run(ctx, "", append([]string{"nft", "-j", "list", "table"}, strings.Fields(table)...)...)
	if err != nil {
		return err
	}
	return readElements(out, tell)
}

// jsonElement is one element of a set or map, key and data as nft's own language has
// them; a set's has no data.
type jsonElement struct {
	key, data string
	packets   uint64
}

// String is "key" or "key : data".
func (e jsonElement) String() string {
	if e.data == "" {
		return e.key
	}
	return e.key + " : " + e.data
}

// readElements reads libnftables' JSON (libnftables-json(5)): a map's elements are
// pairs of key and data, a set's are keys; a key with a comment or a counter is
// wrapped.
func readElements(listing []byte, tell func(set string, e jsonElement)) error {
	type named struct {
		Name string            `json:"name"`
		Elem []json.RawMessage `json:"elem"`
	}
	var doc struct{ Nftables []struct{ Map, Set *named } }
	if err := json.Unmarshal(listing, &doc); err != nil {
		return err
	}
	for _, object := range doc.Nftables {
		if object.Set != nil {
			for _, key := range object.Set.Elem {
				tell(object.Set.Name, readKey(key))
			}
		}
		if object.Map == nil {
			continue
		}
		for _, raw := range object.Map.Elem {
			var pair []json.RawMessage
			if json.Unmarshal(raw, &pair) == nil && len(pair) == 2 {
				e := readKey(pair[0])
				e.data = expression(pair[1])
				tell(object.Map.Name, e)
			}
		}
	}
	return nil
}

func readKey(raw json.RawMessage) jsonElement {
	var wrapped struct {
		Elem struct {
			Val     json.RawMessage `json:"val"`
			Counter struct {
				Packets uint64 `json:"packets"`
			} `json:"counter"`
		} `json:"elem"`
	}
	if json.Unmarshal(raw, &wrapped) == nil && wrapped.Elem.Val != nil {
		return jsonElement{key: expression(wrapped.Elem.Val), packets: wrapped.Elem.Counter.Packets}
	}
	return jsonElement{key: expression(raw)}
}

// expression writes a number, an address, a prefix, a range or a concatenation as
// nft's language has it.
func expression(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var of struct {
		Range, Concat []json.RawMessage
		Prefix        *struct {
			Addr string
			Len  int
		}
	}
	switch {
	case json.Unmarshal(raw, &of) != nil:
		return string(raw) // a number
	case of.Prefix != nil:
		return fmt.Sprintf("%s/%d", of.Prefix.Addr, of.Prefix.Len)
	case len(of.Range) == 2:
		return expression(of.Range[0]) + "-" + expression(of.Range[1])
	}
	var parts []string
	for _, part := range of.Concat {
		parts = append(parts, expression(part))
	}
	return strings.Join(parts, " . ")
}
