package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
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
			n.applied = &next
			return nil
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
		out, err := n.Runner.Run(ctx, "", append([]string{"nft", "-j", "list", "table"}, strings.Fields(anchord.Table(f))...)...)
		if err != nil {
			return nil, fmt.Errorf("reading counters: %w", err)
		}
		if err := readCounters(anchord.Table(f), out, counters); err != nil {
			return nil, fmt.Errorf("reading counters: %w", err)
		}
	}
	return counters, nil
}

// CounterKey is the key of an element in the result of Counters.
func CounterKey(table, set, element string) string { return table + " " + set + " " + element }

// readCounters reads libnftables' JSON (libnftables-json(5)): a map's elements
// are pairs whose first half carries value and counter.
func readCounters(table string, listing []byte, into map[string]uint64) error {
	var doc struct {
		Nftables []struct {
			Map *struct {
				Name string              `json:"name"`
				Elem [][]json.RawMessage `json:"elem"`
			} `json:"map"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(listing, &doc); err != nil {
		return err
	}
	for _, object := range doc.Nftables {
		if object.Map == nil {
			continue
		}
		for _, pair := range object.Map.Elem {
			var left struct {
				Elem struct {
					Val     portOrRange `json:"val"`
					Counter struct {
						Packets uint64 `json:"packets"`
					} `json:"counter"`
				} `json:"elem"`
			}
			if len(pair) == 0 || json.Unmarshal(pair[0], &left) != nil {
				continue
			}
			into[CounterKey(table, object.Map.Name, string(left.Elem.Val))] = left.Elem.Counter.Packets
		}
	}
	return nil
}

// portOrRange is 80 or {"range": [80, 90]} in JSON.
type portOrRange string

func (p *portOrRange) UnmarshalJSON(data []byte) error {
	var r struct{ Range []int }
	if json.Unmarshal(data, &r) == nil && len(r.Range) == 2 {
		*p = portOrRange(fmt.Sprintf("%d-%d", r.Range[0], r.Range[1]))
		return nil
	}
	var port int
	if err := json.Unmarshal(data, &port); err != nil {
		return err
	}
	*p = portOrRange(fmt.Sprint(port))
	return nil
}
