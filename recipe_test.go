package anchord

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestObjectsOfStrings(t *testing.T) {
	for _, tt := range []struct {
		text string
		want map[string]string
		err  string // words of it
	}{
		{"", nil, ""},
		{" \n\t", nil, ""},
		{"{}", map[string]string{}, ""},
		{` {"a": "b", "c" : ""} ` + "\n", map[string]string{"a": "b", "c": ""}, ""},
		{`{"a": "=\"{}"}`, map[string]string{"a": `="{}`}, ""},
		{`{"é": "ü"}`, map[string]string{"é": "ü"}, ""},
		{"a=b", nil, "not a JSON object of strings"},
		{"null", nil, "not a JSON object"},
		{`"a"`, nil, "not a JSON object"},
		{`["a", "b"]`, nil, "not a JSON object"},
		{"{", nil, "not a JSON object"},
		{`{"a"}`, nil, "not a JSON object"},
		{`{"a": "b"`, nil, "not a JSON object"},
		{`{"a": "b",}`, nil, "not a JSON object"},
		{`{a: "b"}`, nil, "not a JSON object"},
		{`{"a": 1}`, nil, "not a JSON object of strings"},
		{`{"a": true}`, nil, "not a JSON object of strings"},
		{`{"a": null}`, nil, "not a JSON object of strings"},
		{`{"a": {"b": "c"}}`, nil, "not a JSON object of strings"},
		{`{"a": ["b"]}`, nil, "not a JSON object of strings"},
		{`{"a": "b"} {"c": "d"}`, nil, "not a JSON object"},
		{`{"a": "b"}x`, nil, "not a JSON object"},
		{`{"a": "b", "c": "d", "a": "e"}`, nil, `"a" is there twice`},
		{`{"a": "b", "\u0061": "e"}`, nil, `"a" is there twice`},
	} {
		for name, parse := range map[string]func(string) (map[string]string, error){"variables": ParseEnv, "labels": ParseLabels} {
			got, err := parse(tt.text)
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || tt.err == "" && (err != nil || !reflect.DeepEqual(got, tt.want)) {
				t.Errorf("%s %s: %v, %v; want %v, %q", name, tt.text, got, err, tt.want, tt.err)
			}
		}
	}
}

func TestNamesThatAreNotForTheRecipeToGive(t *testing.T) {
	for _, tt := range []struct {
		parse func(string) (map[string]string, error)
		text  string
		err   string
	}{
		{ParseEnv, `{"": "x"}`, `"" is no variable's name`},
		{ParseEnv, `{"a=b": "x"}`, `"a=b" is no variable's name`},
		{ParseEnv, `{"a\u0000": "x"}`, "is no variable's name"},
		{ParseEnv, `{"a": "x\u0000y"}`, "zero byte"},
		{ParseEnv, `{"ANCHORD_MODE": "network-anchor"}`, "ANCHORD_MODE is set by the network-anchor itself"},
		{ParseEnv, `{"ANCHORD_GATEWAY_IP": "10.0.0.2"}`, "ANCHORD_GATEWAY_IP is set by"},
		{ParseEnv, `{"ANCHORD_LOG_LEVEL": "debug", "anchord_mode": "x"}`, ""},
		{ParseLabels, `{"": "x"}`, "has no name"},
		{ParseLabels, `{"com.docker.compose.project": "other"}`, "com.docker.compose.project is reserved"},
		{ParseLabels, `{"anchord.managed-by": "me"}`, "anchord.managed-by is reserved"},
		{ParseLabels, `{"anchord.recipe": "0"}`, "anchord.recipe is reserved"},
		{ParseLabels, `{"anchord.replaces": "0"}`, "anchord.replaces is reserved"},
		{ParseLabels, `{"anchord.expose": "tcp/25", "anchord.identity": "x", "com.docker.composer": "x"}`, ""},
	} {
		_, err := tt.parse(tt.text)
		if (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.text, err, tt.err)
		}
	}
}

// The first of several faults is always the same one.
func TestFaultsInARecipeAreToldInOrder(t *testing.T) {
	for range 20 {
		if _, err := ParseEnv(`{"ANCHORD_MODE": "a", "b=": "c", "ANCHORD_GATEWAY_IP": "d"}`); err == nil || !strings.Contains(err.Error(), "ANCHORD_GATEWAY_IP") {
			t.Fatal(err)
		}
	}
}

// composed is a network-anchor as Compose makes it.
func composed() Member {
	return Member{ImageID: "sha256:aa", Container: Container{ID: strings.Repeat("a", 64), Name: "shop-anchord-1", Labels: map[string]string{
		labelProject: "shop", labelService: "anchord", labelConfigHash: "1", labelOneOff: "False",
	}}}
}

var bothGateways = PerFamily[netip.Addr]{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}

func TestServiceAnchorOfARecipe(t *testing.T) {
	r := Recipe{
		Target: "/mail", Env: map[string]string{"Z": "1", "A": "b=c"},
		Labels: map[string]string{"anchord.expose": "tcp/25"},
	}
	s := r.spec(composed(), bothGateways, []string{"old", "older"})
	if s.Name != "mail-service-anchor" || s.Image != "sha256:aa" || s.NamespaceOf != "mail" {
		t.Errorf("%+v", s)
	}
	if want := []string{"A=b=c", "ANCHORD_GATEWAY_IP=10.0.0.2,fd00::2", "ANCHORD_MODE=service-anchor", "Z=1"}; !slices.Equal(s.Env, want) {
		t.Errorf("%q, want %q", s.Env, want)
	}
	want := map[string]string{
		"anchord.expose":             "tcp/25",
		"anchord.managed-by":         strings.Repeat("a", 64),
		"anchord.replaces":           "old,older",
		"anchord.recipe":             s.digest(),
		"com.docker.compose.project": "shop", "com.docker.compose.service": "anchord", "com.docker.compose.oneoff": "True",
		"com.docker.compose.config-hash": "1",
	}
	if !maps.Equal(s.Labels, want) {
		t.Errorf("%q, want %q", s.Labels, want)
	}
	if len(r.Env) != 2 || len(r.Labels) != 1 {
		t.Errorf("the recipe itself became %+v", r)
	}
}

func TestServiceAnchorWithoutCompose(t *testing.T) {
	self := composed()
	self.Labels = nil
	r := Recipe{Target: "mail", Name: "router", Image: "anchord:1"}
	s := r.spec(self, PerFamily[netip.Addr]{V6: netip.MustParseAddr("fd00::2")}, nil)
	if s.Name != "router" || s.Image != "anchord:1" || len(s.Labels) != 2 || s.Labels[LabelManagedBy] != self.ID || s.Labels[labelRecipe] != s.digest() {
		t.Errorf("%+v", s)
	}
	if want := []string{"ANCHORD_GATEWAY_IP=fd00::2", "ANCHORD_MODE=service-anchor"}; !slices.Equal(s.Env, want) {
		t.Errorf("%q, want %q", s.Env, want)
	}
}

// The digest tells one recipe from another, and nothing but that: else each
// start of a network-anchor would make its service-anchors anew.
func TestDigestOfARecipe(t *testing.T) {
	recipe := func() Recipe {
		return Recipe{Target: "mail", Env: map[string]string{"A": "b", "C": "d"}, Labels: map[string]string{"anchord.expose": "tcp/25", "k": "v"}}
	}
	digest := func(r Recipe, self Member, gateways PerFamily[netip.Addr], replaces ...string) string {
		return r.spec(self, gateways, replaces).Labels[labelRecipe]
	}
	want := digest(recipe(), composed(), bothGateways)
	if len(want) != 16 {
		t.Errorf("%q", want)
	}
	for name, change := range map[string]func(*Recipe, *Member){
		"the same":               func(*Recipe, *Member) {},
		"another network-anchor": func(_ *Recipe, m *Member) { m.ID = strings.Repeat("b", 64) },
		"another image of it":    func(_ *Recipe, m *Member) { m.ImageID = "sha256:bb" },
		"a pinned image":         func(r *Recipe, _ *Member) { r.Image = "anchord:2" },
		"another name":           func(r *Recipe, _ *Member) { r.Name = "router" },
		"a slash":                func(r *Recipe, _ *Member) { r.Target = "/mail" },
		"another project":        func(_ *Recipe, m *Member) { m.Labels[labelProject] = "other" },
		"no project":             func(_ *Recipe, m *Member) { m.Labels = nil },
	} {
		for range 5 { // maps have no order
			r, self := recipe(), composed()
			change(&r, &self)
			if got := digest(r, self, bothGateways, "old"); got != want {
				t.Errorf("%s changes the digest", name)
			}
		}
	}
	seen := map[string]string{want: "the recipe itself"}
	for name, change := range map[string]func(*Recipe){
		"another target":      func(r *Recipe) { r.Target = "web" },
		"a variable more":     func(r *Recipe) { r.Env["E"] = "" },
		"a variable less":     func(r *Recipe) { delete(r.Env, "A") },
		"another value":       func(r *Recipe) { r.Env["A"] = "x" },
		"values exchanged":    func(r *Recipe) { r.Env["A"], r.Env["C"] = "d", "b" },
		"a label more":        func(r *Recipe) { r.Labels["x"] = "" },
		"another label":       func(r *Recipe) { r.Labels["k"] = "w" },
		"a label as variable": func(r *Recipe) { delete(r.Labels, "k"); r.Env["k"] = "v" },
	} {
		r := recipe()
		change(&r)
		got := digest(r, composed(), bothGateways)
		if other, taken := seen[got]; taken {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[got] = name
	}
	if digest(recipe(), composed(), PerFamily[netip.Addr]{bothGateways[V4]}) == want {
		t.Error("another gateway does not change the digest")
	}
}
