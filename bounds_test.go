package anchord_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// ports is a label of n single ports.
func ports(n int) string {
	entries := make([]string, n)
	for i := range entries {
		entries[i] = fmt.Sprintf("tcp/%d", 1+i)
	}
	return strings.Join(entries, ",")
}

// A shifted range is one element of the kernel's maps for each port and family. Who
// asks for more than there may be is refused, and told what would do; all others go
// on, also younger ones that fit.
func TestElementsOfAProjectAreBounded(t *testing.T) {
	both := func(last string) []string {
		return []string{"shop_transit=10.213.0." + last, "shop_transit=fd5a:1::" + last}
	}
	for name, tt := range map[string]struct {
		label   string
		refused string
		fix     string
	}{
		"a kept range of all ports":           {"udp/1-65535", "", ""},
		"a shifted range that just fits":      {"udp/1000-5095:2000", "", ""},
		"one port more":                       {"udp/1000-5096:2000", "udp/1000-5096:2000", "udp/1000-5096"},
		"60,000 elements":                     {"udp/1000-30999:1001", "udp/1000-30999:1001", "udp/1000-30999"},
		"all ports but one":                   {"tcp/80,udp/1-65534:2", "udp/1-65534:2", "udp/1-65534"},
		"two ranges that are too much by two": {"tcp/1000-3047:1001,udp/1000-3048:1001", "udp/1000-3048:1001", "udp/1000-3048"},
	} {
		t.Run(name, func(t *testing.T) {
			w := usual()
			w.run("dns", "tcp/53", both("5")...)
			w.run("big", tt.label, both("6")...)
			w.run("web", "tcp/443:8443", "shop_transit=10.213.0.7")
			s, _ := w.decide(t, auto(), anchord.Memory{})
			for _, entry := range []string{"v4 tcp/53 > 10.213.0.5 53 dns by transit0", "v4 tcp/443 > 10.213.0.7 8443 web by transit0"} {
				if !slices.Contains(entries(s), entry) {
					t.Errorf("another service is not exposed: %q", entries(s))
				}
			}
			if tt.refused == "" {
				wantNotices(t, s)
				return
			}
			wantNotices(t, s, []string{
				anchord.EventLabelRejected, "container big is not exposed", fmt.Sprintf("entry %q", tt.refused), "8192", "write " + tt.fix + ",",
			})
			if s.Rejected != 1 {
				t.Errorf("rejected %d", s.Rejected)
			}
		})
	}
}

// Together too many, each of them few: the youngest is refused.
func TestElementsOfManyContainersAreBounded(t *testing.T) {
	w := usual()
	for i := range 17 {
		label := make([]string, 1000)
		for port := range label {
			label[port] = fmt.Sprintf("tcp/%d", 1+1000*i+port)
		}
		w.run(fmt.Sprintf("s%02d", i), strings.Join(label, ","), fmt.Sprintf("shop_transit=10.213.0.%d", 10+i))
	}
	s, _ := w.decide(t, auto(), anchord.Memory{})
	wantNotices(t, s, []string{anchord.EventLabelRejected, "container s16", `entry "tcp/16385"`, "16384", "as a range"})
	if len(s.Entries) != 16000 {
		t.Errorf("%d entries", len(s.Entries))
	}

	w = usual()
	for i := range 9 {
		w.run(fmt.Sprintf("s%02d", i), fmt.Sprintf("tcp/%d-%d:50000", 1+1000*i, 1000+1000*i), fmt.Sprintf("shop_transit=10.213.0.%d", 10+i))
	}
	s, _ = w.decide(t, auto(), anchord.Memory{})
	wantNotices(t, s, []string{anchord.EventLabelRejected, "container s08", `entry "tcp/8001-9000:50000"`, "9000", "8192", "write tcp/8001-9000,"})
	if len(s.Entries) != 8 {
		t.Errorf("%d entries", len(s.Entries))
	}
}

func TestEntriesOfALabelAreBounded(t *testing.T) {
	if e, err := anchord.ParseExpose(ports(1024)); err != nil || len(e) != 1024 {
		t.Errorf("1024 entries: %d, %v", len(e), err)
	}
	for _, label := range []string{ports(1025), ports(65535), strings.Repeat(",", 1<<20)} {
		_, err := anchord.ParseExpose(label)
		if err == nil || len(err.Error()) > 500 || !strings.Contains(err.Error(), "1024") && !strings.Contains(err.Error(), "is empty") {
			t.Errorf("%d entries: %.500v", strings.Count(label, ",")+1, err)
		}
	}
}

// A container with thousands of labels that mean nothing is told of a few times.
func TestUnknownLabelsAreToldUpToABound(t *testing.T) {
	w := usual()
	c := w.run("web", "tcp/80", "shop_transit=10.213.0.5")
	for i := range 3000 {
		c.Labels[fmt.Sprintf("anchord.x%04d", i)] = "x"
	}
	s, _ := w.decide(t, auto(), anchord.Memory{})
	if n := len(s.Notices); n != 6 || !strings.Contains(s.Notices[5].Message, "2995 more") {
		t.Errorf("%d notices, the last %q", n, s.Notices[n-1].Message)
	}
}

// A doubt is looked into before anybody is accused.
func TestADoubtIsNoDrift(t *testing.T) {
	g := working(t)
	g.wantEffects(t, anchord.SourceDoubt, "compare")
	if told := g.told(anchord.EventRulesetDrift); len(told) > 0 {
		t.Errorf("the tables are intact, but told: %q", told)
	}
	g.touched = true
	g.wantEffects(t, anchord.SourceDoubt, "compare", "rules lan0")
	if told := g.told(anchord.EventRulesetDrift); len(told) != 1 || !g.last().Drift {
		t.Errorf("told %q", told)
	}
}

func TestADoubtThatCannotBeLookedIntoStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := working(t)
		g.fails["compare"] = errBroken
		g.wantEffects(t, anchord.SourceDoubt, "compare !")
		g.wantEffects(t, anchord.SourceContainers)
		g.fails["compare"], g.touched = nil, true
		time.Sleep(2 * time.Second) // the time of the next try
		g.wantEffects(t, anchord.SourceContainers, "compare", "rules lan0")
	})
}
