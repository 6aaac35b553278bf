package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/AlexCherrypi/anchord"
)

// Conntrack lists and ends tracked flows with conntrack(8). Its zero value is
// ready to use.
type Conntrack struct{ Runner Runner }

// Flows lists the tracked flows of a protocol.
func (c Conntrack) Flows(ctx context.Context, f anchord.Family, p anchord.Protocol) ([]anchord.Flow, error) {
	var lines flowLines
	err := c.Runner.stream(ctx, nil, &lines, "conntrack", "-L", "-f", conntrackFamily(f), "-p", string(p))
	if err != nil && !isNotFound(err) {
		return nil, fmt.Errorf("listing tracked flows: %w", err)
	}
	return lines.flows, nil
}

// Unanswered lists who was sent a TCP connection and has not answered it; the kernel
// remembers such a try for two minutes.
func (c Conntrack) Unanswered(ctx context.Context, f anchord.Family) ([]netip.AddrPort, error) {
	out, err := c.Runner.Run(ctx, "", "conntrack", "-L", "-f", conntrackFamily(f), "-p", "tcp", "--state", "SYN_SENT")
	if err != nil && !isNotFound(err) {
		return nil, fmt.Errorf("listing unanswered connections: %w", err)
	}
	var silent []netip.AddrPort
	for line := range strings.Lines(string(out)) {
		flow, ok := parseFlow(line)
		who := netip.AddrPortFrom(flow.ReplySrc, flow.ReplyPort)
		if ok && strings.Contains(line, "[UNREPLIED]") && !slices.Contains(silent, who) {
			silent = append(silent, who)
		}
	}
	return silent, nil
}

// End deletes the flows that match; none is no error.
func (c Conntrack) End(ctx context.Context, m anchord.FlowMatch) error {
	args := []string{"conntrack", "-D", "-f", conntrackFamily(m.Family)}
	if m.Protocol != "" {
		args = append(args, "-p", string(m.Protocol))
	}
	for _, a := range []struct {
		flag string
		addr netip.Addr
	}{{"--orig-src", m.OrigSrc}, {"--orig-dst", m.OrigDst}, {"--reply-src", m.ReplySrc}, {"--reply-dst", m.ReplyDst}} {
		if a.addr.IsValid() {
			args = append(args, a.flag, a.addr.String())
		}
	}
	for _, p := range []struct {
		flag string
		port uint16
	}{{"--orig-port-dst", m.Port}, {"--reply-port-src", m.ReplyPort}, {"--reply-port-dst", m.ReplyDestPort}} {
		if p.port != 0 {
			args = append(args, p.flag, strconv.Itoa(int(p.port)))
		}
	}
	if _, err := c.Runner.Run(ctx, "", args...); err != nil && !isNotFound(err) {
		return fmt.Errorf("ending tracked flows: %w", err)
	}
	return nil
}

func conntrackFamily(f anchord.Family) string {
	if f == anchord.V6 {
		return "ipv6"
	}
	return "ipv4"
}

// isNotFound says whether a tool failed only because what it was to act on is
// not there.
func isNotFound(err error) bool {
	var e *CommandError
	return errors.As(err, &e) && e.saysAny("0 flow entries", "No such process", "ddress not found", "Cannot assign requested address", "Cannot find device")
}

// flowLines parses conntrack's output as it comes, so that a table of a
// hundred thousand flows is never held as text.
type flowLines struct {
	flows []anchord.Flow
	rest  []byte
}

func (l *flowLines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte{'\n'})
		if !found {
			l.rest = append([]byte(nil), l.rest...)
			return len(p), nil
		}
		if f, ok := parseFlow(string(line)); ok {
			l.flows = append(l.flows, f)
		}
		l.rest = rest
	}
}

// parseFlow reads a line like
//
//	udp 17 29 src=A dst=B sport=1 dport=2 [UNREPLIED] src=C dst=A sport=2 dport=1 …
//
// whose first src, dst, sport and dport are the original direction's and whose
// second are the reply's.
func parseFlow(line string) (anchord.Flow, bool) {
	var f anchord.Flow
	direction := 0
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		if key == "src" {
			direction++
		}
		reply := direction == 2
		switch key {
		case "src":
			setAddr(&f.OrigSrc, &f.ReplySrc, reply, value)
		case "dst":
			setAddr(&f.OrigDst, &f.ReplyDst, reply, value)
		case "sport":
			setPort(&f.OrigSrcPort, &f.ReplyPort, reply, value)
		case "dport":
			setPort(&f.OrigPort, &f.ReplyDestPort, reply, value)
		}
	}
	return f, direction == 2 && f.OrigDst.IsValid() && f.ReplySrc.IsValid()
}

// setAddr takes a value into the field of its direction.
func setAddr(orig, answer *netip.Addr, reply bool, value string) {
	if reply {
		orig = answer
	}
	*orig, _ = netip.ParseAddr(value)
}

func setPort(orig, answer *uint16, reply bool, value string) {
	if reply {
		orig = answer
	}
	if n, err := strconv.ParseUint(value, 10, 16); err == nil {
		*orig = uint16(n)
	}
}
