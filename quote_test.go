package anchord_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/AlexCherrypi/anchord"
)

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		text string
		most int
		want string
	}{
		{"", 4, ""},
		{"abcd", 4, "abcd"},
		{"abcde", 4, "abcd… (cut, of 5 bytes)"},
		{"abcädef", 4, "abc… (cut, of 8 bytes)"}, // no half letter
		{"\x80\x80\x80\x80", 2, "… (cut, of 4 bytes)"},
	} {
		if got := anchord.Cut(tt.text, tt.most); got != tt.want || (utf8.ValidString(tt.text) && !utf8.ValidString(got)) {
			t.Errorf("Cut(%q, %d) = %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}

// Whatever others wrote, what is said of it can be read: its beginning, that it was
// cut, and the reason behind it.
func TestNoticesOfLongWordsStayShort(t *testing.T) {
	const start, much = "beginning", 1 << 20
	long := start + strings.Repeat("x", much)
	for name, tt := range map[string]struct {
		set  func(w *world)
		says string
	}{
		"an entry":            {func(w *world) { w.run("web", long, "shop_transit=10.213.0.5") }, "has no protocol"},
		"a protocol":          {func(w *world) { w.run("web", long+"/80", "shop_transit=10.213.0.5") }, "neither tcp nor udp"},
		"a port":              {func(w *world) { w.run("web", "tcp/"+long, "shop_transit=10.213.0.5") }, "is not a number"},
		"a port before a tcp": {func(w *world) { w.run("web", strings.Repeat("1", much)+"/tcp", "shop_transit=10.213.0.5") }, "the protocol comes first"},
		"a backend port":      {func(w *world) { w.run("web", "tcp/80:"+long, "shop_transit=10.213.0.5") }, "is not a number"},
		"IPv6 or not": {func(w *world) {
			w.run("web", "tcp/80", "shop_transit=10.213.0.5").Labels["anchord.expose.v6"] = long
		}, "neither auto nor off"},
		"a label's name": {func(w *world) {
			w.run("web", "tcp/80", "shop_transit=10.213.0.5").Labels["anchord."+long] = ""
		}, "means nothing to anchord"},
		"a container's name": {func(w *world) { w.run(long, "tcp/80:x", "shop_transit=10.213.0.5") }, "is not a number"},
		"two containers' names": {func(w *world) {
			w.run(long+"1", "tcp/80", "shop_transit=10.213.0.5")
			w.run(long+"2", "tcp/80", "shop_transit=10.213.0.6")
		}, "which is older, has it as tcp/80"},
		"one nowhere": {func(w *world) { w.run(long, "tcp/80", "elsewhere=10.9.0.5") }, "attach it to one of: shop_transit"},
		"one whose owner is gone": {func(w *world) {
			w.run(long, "tcp/80").NamespaceOf = "gone" + long
		}, "is not running: recreate"},
		"a network's name": {func(w *world) {
			for i := range w.Self.Networks {
				if w.Self.Networks[i].Name == "shop_transit" {
					w.Self.Networks[i].Name = long
				}
			}
			w.run("web", "tcp/80", "elsewhere=10.9.0.5")
		}, "(cut, of "},
	} {
		t.Run(name, func(t *testing.T) {
			w := usual()
			tt.set(w)
			s, _ := w.decide(t, auto(), anchord.Memory{})
			if len(s.Notices) == 0 {
				t.Fatal("nothing is said")
			}
			for _, n := range s.Notices {
				short := 2000
				if name == "a network's name" {
					short = anchord.LongestText + 100
				}
				if len(n.Message) > short || len(n.Container) > 200 {
					t.Errorf("says %d bytes of a container whose name has %d", len(n.Message), len(n.Container))
				}
				if !strings.Contains(n.Message, tt.says) || !strings.Contains(n.Message, "(cut, of 1048") {
					t.Errorf("says %.400q, without %q", n.Message, tt.says)
				}
			}
		})
	}
}

func TestLeaseErrorsOfLongOptionsStayShort(t *testing.T) {
	long := strings.Repeat("7", 60000)
	for _, bad := range []string{"ip", "mask", "subnet", "lease", "router", "dns", "staticroutes", "serverid"} {
		other := "mask"
		if bad == "mask" {
			other = "subnet"
		}
		l, err := parseLease(with(other, "", bad, long))
		said := strings.Join(l.Ignored, " ")
		if err != nil {
			said += err.Error()
		}
		if len(said) > 500 || !strings.Contains(said, "cut, of 60000 bytes") {
			t.Errorf("%s: says %.300q (%d bytes)", bad, said, len(said))
		}
	}
}
