package exec

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
)

// As conntrack 1.4.7 prints them, both families.
var flowSamples = []struct{ line, want string }{
	{"tcp      6 431999 ESTABLISHED src=198.51.100.7 dst=192.0.2.5 sport=35546 dport=25 src=10.0.0.2 dst=198.51.100.7 sport=2525 dport=35546 [ASSURED] mark=0 use=1", "192.0.2.5:25 10.0.0.2:2525"},
	{"udp      17 29 src=192.0.2.5 dst=192.0.2.5 sport=47774 dport=53 [UNREPLIED] src=10.0.0.2 dst=192.0.2.5 sport=5353 dport=47774 mark=0 use=1", "192.0.2.5:53 10.0.0.2:5353"},
	{"udp      17 29 src=192.0.2.5 dst=192.0.2.5 sport=54762 dport=5060 [UNREPLIED] src=192.0.2.5 dst=192.0.2.5 sport=5060 dport=54762 mark=0 use=1", "192.0.2.5:5060 192.0.2.5:5060"},
	{"tcp      6 431999 ESTABLISHED src=fd00::5 dst=fd00::5 sport=44002 dport=25 src=fd00::6 dst=fd00::5 sport=2525 dport=44002 [ASSURED] mark=0 use=1", "[fd00::5]:25 [fd00::6]:2525"},
	{"udp      17 29 src=fd00::5 dst=fd00::5 sport=41016 dport=53 [UNREPLIED] src=fd00::6 dst=fd00::5 sport=5353 dport=41016 mark=0 use=1", "[fd00::5]:53 [fd00::6]:5353"},
	{"tcp      6 117 SYN_SENT src=198.51.100.7 dst=192.0.2.5 sport=1 dport=443 packets=1 bytes=60 [UNREPLIED] src=10.0.0.2 dst=198.51.100.7 sport=443 dport=1 packets=0 bytes=0 mark=0 secctx=system_u:object_r:unlabeled_t:s0 use=1", "192.0.2.5:443 10.0.0.2:443"},
	{"icmp     1 29 src=192.0.2.5 dst=192.0.2.1 type=8 code=0 id=7 src=192.0.2.1 dst=192.0.2.5 type=0 code=0 id=7 mark=0 use=1", "192.0.2.1:0 192.0.2.1:0"},
	{"conntrack v1.4.7 (conntrack-tools): 1 flow entries have been shown.", ""},
	{"udp 17 29 src=192.0.2.5 dst=192.0.2.5 sport=1 dport=2", ""},
	{"", ""},
}

func worded(f anchord.Flow) string {
	return netip.AddrPortFrom(f.OrigDst, f.OrigPort).String() + " " + netip.AddrPortFrom(f.ReplySrc, f.ReplyPort).String()
}

func TestFlowLine(t *testing.T) {
	for _, s := range flowSamples {
		f, ok := parseFlow(s.line)
		if ok != (s.want != "") || (ok && worded(f) != s.want) {
			t.Errorf("%q: %s, %v; want %q", s.line, worded(f), ok, s.want)
		}
	}
}

func TestFlowsAreReadAsTheyCome(t *testing.T) {
	var all strings.Builder
	var want []string
	for _, s := range flowSamples {
		all.WriteString(s.line + "\n")
		if s.want != "" {
			want = append(want, s.want)
		}
	}
	for _, size := range []int{1, 7, 100, 1 << 20} {
		var lines flowLines
		for text := all.String(); text != ""; {
			n := min(size, len(text))
			if written, err := lines.Write([]byte(text[:n])); written != n || err != nil {
				t.Fatal(written, err)
			}
			text = text[n:]
		}
		var got []string
		for _, f := range lines.flows {
			got = append(got, worded(f))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("in pieces of %d: %q, want %q", size, got, want)
		}
	}
}

func TestWhatConntrackIsAskedToDo(t *testing.T) {
	none := `echo "conntrack v1.4.7 (conntrack-tools): 0 flow entries have been deleted." >&2; exit 1`
	recorded := tools(t, map[string]string{"conntrack": none})
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		match anchord.FlowMatch
		want  string
	}{
		{anchord.FlowMatch{OrigDst: addr("192.0.2.9")}, "conntrack -D -f ipv4 --orig-dst 192.0.2.9"},
		{anchord.FlowMatch{ReplyDst: addr("192.0.2.9")}, "conntrack -D -f ipv4 --reply-dst 192.0.2.9"},
		{anchord.FlowMatch{Family: anchord.V6, Protocol: anchord.UDP, OrigDst: addr("fd00::5"), ReplySrc: addr("fd00::6"), Port: 53}, "conntrack -D -f ipv6 -p udp --orig-dst fd00::5 --reply-src fd00::6 --orig-port-dst 53"},
	} {
		if err := (Conntrack{}).End(t.Context(), tt.match); err != nil {
			t.Errorf("no flows to end is no error: %v", err)
		}
		wantText(t, "ending", recorded(), tt.want)
	}
	tools(t, map[string]string{"conntrack": "cat <<'E'\n" + flowSamples[0].line + "\n" + flowSamples[1].line + "\nE\necho 'conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown.' >&2"})
	flows, err := Conntrack{}.Flows(t.Context(), anchord.V4, anchord.TCP)
	if err != nil || len(flows) != 2 {
		t.Errorf("%v, %v", flows, err)
	}
	tools(t, map[string]string{"conntrack": "echo 'Operation failed: Operation not permitted' >&2; exit 1"})
	if _, err := (Conntrack{}).Flows(t.Context(), anchord.V4, anchord.TCP); err == nil {
		t.Error("listing that fails is no error")
	}
	if err := (Conntrack{}).End(t.Context(), anchord.FlowMatch{}); err == nil {
		t.Error("ending that fails is no error")
	}
}

// FuzzParseFlow: nothing panics, what is accepted has both addresses, and
// reads the same when it is written as a line again.
func FuzzParseFlow(f *testing.F) {
	f.Fuzz(func(t *testing.T, line string) {
		flow, ok := parseFlow(line)
		if !ok {
			return
		}
		if !flow.OrigDst.IsValid() || !flow.ReplySrc.IsValid() {
			t.Fatalf("%q: %+v", line, flow)
		}
		if !flow.OrigSrc.IsValid() || !flow.ReplyDst.IsValid() {
			return
		}
		again, ok := parseFlow(fmt.Sprintf("udp 17 29 src=%s dst=%s sport=%d dport=%d [UNREPLIED] src=%s dst=%s sport=%d dport=%d mark=0 use=1",
			flow.OrigSrc, flow.OrigDst, flow.OrigSrcPort, flow.OrigPort, flow.ReplySrc, flow.ReplyDst, flow.ReplyPort, flow.ReplyDestPort))
		if !ok || again != flow {
			t.Fatalf("%q: %+v, written and read again %+v", line, flow, again)
		}
	})
}

func TestUnansweredConnections(t *testing.T) {
	const to = "src=198.51.100.20 dst=198.51.100.17 sport=40001 dport=80"
	lines := "tcp      6 119 SYN_SENT " + to + " [UNREPLIED] src=10.213.0.5 dst=198.51.100.20 sport=8080 dport=40001 mark=0 use=1\n" +
		"tcp      6 9 SYN_SENT " + to + " [UNREPLIED] src=10.213.0.5 dst=198.51.100.20 sport=8080 dport=40003 mark=0 use=1\n" +
		"tcp      6 119 SYN_SENT " + to + " src=10.213.0.6 dst=198.51.100.20 sport=8080 dport=40002 mark=0 use=1\n" +
		"tcp      6 119 SYN_SENT nonsense [UNREPLIED]\n"
	tools(t, map[string]string{"conntrack": "cat <<'E'\n" + lines + "E"})
	got, err := Conntrack{}.Unanswered(t.Context(), anchord.V4)
	if err != nil || len(got) != 1 || got[0].String() != "10.213.0.5:8080" {
		t.Errorf("%v, %v", got, err)
	}
	tools(t, map[string]string{"conntrack": `echo "conntrack v1.4.7 (conntrack-tools): 0 flow entries have been shown." >&2; exit 1`})
	if got, err := (Conntrack{}).Unanswered(t.Context(), anchord.V6); err != nil || len(got) > 0 {
		t.Errorf("of none: %v, %v", got, err)
	}
	tools(t, map[string]string{"conntrack": "echo 'Operation failed: Operation not permitted' >&2; exit 1"})
	if _, err := (Conntrack{}).Unanswered(t.Context(), anchord.V4); err == nil {
		t.Error("a refusal is no answer")
	}
}
