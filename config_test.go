package anchord_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

func TestSelector(t *testing.T) {
	for _, tt := range []struct{ name, text, want, fault string }{
		{"one pair", "app=mail", "app=mail", ""},
		{"several, sorted by key", "tier=front,app=mail", "app=mail tier=front", ""},
		{"spaces tolerated", " app = mail , tier=front ", "app=mail tier=front", ""},
		{"empty value", "app=", "app=", ""},
		{"value with an equals sign", "app=a=b", "app=a=b", ""},
		{"same pair twice is one", "app=mail,app=mail", "app=mail", ""},
		{"missing equals sign", "app", "", `"app" has no '='`},
		{"empty key", "=mail", "", `"=mail" has no key`},
		{"one key, two values", "app=mail,app=web", "", `key "app" has two values`},
		{"comma at the end", "app=mail,", "", "has no '='"},
		{"nothing", "", "", "has no '='"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scope, err := anchord.ParseSelector(tt.text)
			var got []string
			for _, p := range scope.Labels {
				got = append(got, p.Key+"="+p.Value)
			}
			if strings.Join(got, " ") != tt.want || fault(err, tt.fault) {
				t.Errorf("ParseSelector(%q) = %q, %v; want %q, error with %q", tt.text, got, err, tt.want, tt.fault)
			}
		})
	}
}

// fault says whether err is other than wanted: none, or one that says want.
func fault(err error, want string) bool {
	if want == "" {
		return err != nil
	}
	return err == nil || !strings.Contains(err.Error(), want)
}

func TestScopeMatches(t *testing.T) {
	labels := map[string]string{"app": "mail", "tier": "", "extra": "x"}
	for selector, want := range map[string]bool{
		"app=mail": true, "app=mail,tier=": true, "app=web": false, "app=mail,zone=a": false,
		"zone=": false, // the empty value, not the missing label
		"app=":  false,
	} {
		scope, err := anchord.ParseSelector(selector)
		if err != nil || scope.Matches(labels) != want {
			t.Errorf("%s matches: %v (%v), want %v", selector, !want, err, want)
		}
	}
	if (anchord.Scope{}).Matches(labels) {
		t.Error("a scope without conditions matches everything")
	}
}

func TestMACPolicyText(t *testing.T) {
	for _, tt := range []struct {
		text  string
		want  anchord.MACPolicy
		fault string
	}{
		{"", anchord.MACPolicy{}, ""},
		{"keep", anchord.MACPolicy{Keep: true}, ""},
		{"KEEP", anchord.MACPolicy{Keep: true}, ""},
		{"derived", anchord.MACPolicy{Derived: true}, ""},
		{"02:42:AC:00:00:01", anchord.MACPolicy{Address: "02:42:ac:00:00:01"}, ""},
		{"02-42-ac-00-00-01", anchord.MACPolicy{Address: "02:42:ac:00:00:01"}, ""},
		{"01:00:5e:00:00:01", anchord.MACPolicy{}, "multicast"},
		{"ff:ff:ff:ff:ff:ff", anchord.MACPolicy{}, "multicast"},
		{"00:00:00:00:00:00", anchord.MACPolicy{}, "zero"},
		{"02:42:ac:00:00", anchord.MACPolicy{}, "neither keep, derived nor a MAC"},
		{"02:42:ac:00:00:01:02:03", anchord.MACPolicy{}, "neither keep, derived nor a MAC"},
		{"random", anchord.MACPolicy{}, "neither keep, derived nor a MAC"},
	} {
		if got, err := anchord.ParseMACPolicy(tt.text); got != tt.want || fault(err, tt.fault) {
			t.Errorf("ParseMACPolicy(%q) = %+v, %v; want %+v, error with %q", tt.text, got, err, tt.want, tt.fault)
		}
	}
}

func TestMACOfTheLANInterface(t *testing.T) {
	const project = "mailcow"
	derived := anchord.DerivedMAC(project)
	// printf %s mailcow | sha256sum
	if derived != "02:42:ab:da:a2:a4" {
		t.Errorf("DerivedMAC(%q) = %s", project, derived)
	}
	bare := anchord.Attachment{Network: anchord.Network{Driver: "macvlan"}}
	bootstrapped := bare
	bootstrapped.Endpoint.Addrs[anchord.V4] = netip.MustParseAddr("192.0.2.9")
	onlyV6 := bare
	onlyV6.Endpoint.Addrs[anchord.V6] = netip.MustParseAddr("2001:db8::9")
	ipvlan := anchord.Attachment{Network: anchord.Network{Driver: "ipvlan"}}
	for _, tt := range []struct {
		name, policy string
		ext          anchord.Attachment
		want         string
	}{
		{"no address from Docker", "", bare, derived},
		{"address from Docker", "", bootstrapped, ""},
		{"only an IPv6 address from Docker", "", onlyV6, derived},
		{"derived by wish", "derived", bootstrapped, derived},
		{"kept by wish", "keep", bare, ""},
		{"given", "02:00:00:00:00:07", bootstrapped, "02:00:00:00:00:07"},
		{"ipvlan shares its parent's", "", ipvlan, ""},
		{"ipvlan, whatever is wished", "02:00:00:00:00:07", ipvlan, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			policy, err := anchord.ParseMACPolicy(tt.policy)
			if got := policy.For(tt.ext, project); err != nil || got != tt.want {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestGateways(t *testing.T) {
	for _, tt := range []struct{ text, v4, v6, fault string }{
		{"", "", "", ""},
		{"  ", "", "", ""},
		{"192.0.2.1", "192.0.2.1", "", ""},
		{"2001:db8::1", "", "2001:db8::1", ""},
		{"192.0.2.1,2001:db8::1", "192.0.2.1", "2001:db8::1", ""},
		{" 2001:db8::1 , 192.0.2.1 ", "192.0.2.1", "2001:db8::1", ""},
		{"fe80::1", "", "fe80::1", ""},
		{"::ffff:192.0.2.1", "192.0.2.1", "", ""},
		{"192.0.2.1,192.0.2.2", "", "", "two addresses of one family, 192.0.2.1 and 192.0.2.2"},
		{"::ffff:192.0.2.1,192.0.2.2", "", "", "two addresses of one family"},
		{"192.0.2.1,", "", "", `"" is not the address of a router`},
		{"router", "", "", `"router" is not`},
		{"192.0.2.1/24", "", "", "is not the address of a router"},
		{"010.0.0.1", "", "", "is not the address of a router"},
		{"fe80::1%eth0", "", "", "is not the address of a router"},
		{"0.0.0.0", "", "", "is not the address of a router"},
		{"::", "", "", "is not the address of a router"},
		{"224.0.0.1", "", "", "is not the address of a router"},
		{"ff02::1", "", "", "is not the address of a router"},
		{"127.0.0.1", "", "", "is not the address of a router"},
		{"255.255.255.255", "", "", "is not the address of a router"},
		{"1.2.3.4.5", "", "", "is not the address of a router"},
	} {
		got, err := anchord.ParseGateways(tt.text)
		if fault(err, tt.fault) {
			t.Errorf("ParseGateways(%q): %v, want error with %q", tt.text, err, tt.fault)
		}
		if err == nil && (text(got[anchord.V4]) != tt.v4 || text(got[anchord.V6]) != tt.v6) {
			t.Errorf("ParseGateways(%q) = %v, want %q and %q", tt.text, got, tt.v4, tt.v6)
		}
	}
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func TestInterval(t *testing.T) {
	for _, tt := range []struct {
		text  string
		want  time.Duration
		fault string
	}{
		{"30", 30 * time.Second, ""},
		{"30s", 30 * time.Second, ""},
		{"5m", 5 * time.Minute, ""},
		{"1h30m", 90 * time.Minute, ""},
		{"1.5s", 1500 * time.Millisecond, ""},
		{"250ms", 250 * time.Millisecond, ""},
		{"0", 0, "more than zero"},
		{"0s", 0, "more than zero"},
		{"-5s", 0, "more than zero"},
		{"-5", 0, "more than zero"},
		{"", 0, "not a duration"},
		{"1.5", 0, "not a duration"},
		{"soon", 0, "not a duration"},
		{"5 m", 0, "not a duration"},
		{"1h30", 0, "not a duration"}, // half an hour or half a minute?
		{"1d", 0, "not a duration"},
		{"99999999999999999999", 0, "not a duration"},
	} {
		if got, err := anchord.ParseInterval(tt.text); (err == nil && got != tt.want) || fault(err, tt.fault) {
			t.Errorf("ParseInterval(%q) = %v, %v; want %v, error with %q", tt.text, got, err, tt.want, tt.fault)
		}
	}
}

func TestHostnameIsChecked(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	for name, valid := range map[string]bool{
		"mail": true, "Mail-1": true, "mail.example.org": true, "mail.example.org.": true, "3com": true,
		label63: true, label63 + "a": false, strings.Repeat("a.", 127) + "bcd": false, strings.Repeat("a.", 126) + "b": true,
		"my_app": false, "-mail": false, "mail-": false, "ma il": false, "mail..org": false, ".mail": false, ".": false, "": false,
		"mäil": false, "mail\n": false, "a;b": false, "$(id)": false,
	} {
		if err := anchord.ValidateHostname(name); (err == nil) != valid {
			t.Errorf("ValidateHostname(%q) = %v, want valid: %v", name, err, valid)
		}
	}
}

func TestIdentity(t *testing.T) {
	selector := func(s string) anchord.Scope {
		scope, err := anchord.ParseSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		return scope
	}
	const label = "com.docker.compose.project="
	for _, tt := range []struct {
		name                     string
		config                   anchord.Config
		own                      string
		project, scope, hostname string
	}{
		{"own container's project", anchord.Config{}, "shop", "shop", label + "shop", "shop"},
		{"own project before COMPOSE_PROJECT_NAME", anchord.Config{FallbackProject: "other"}, "shop", "shop", label + "shop", "shop"},
		{"COMPOSE_PROJECT_NAME without a label", anchord.Config{FallbackProject: "other"}, "", "other", label + "other", "other"},
		{"named project before all", anchord.Config{Project: "wrapped", FallbackProject: "other"}, "shop", "wrapped", label + "wrapped", "wrapped"},
		{"underscore cannot be in a host name", anchord.Config{}, "my_app", "my_app", label + "my_app", "my-app"},
		{"underscore at the edge", anchord.Config{}, "_app_", "_app_", label + "_app_", "app"},
		{"nothing left of the name", anchord.Config{}, "___", "___", label + "___", "anchord"},
		{"long name is cut to a label", anchord.Config{}, strings.Repeat("a", 62) + "-b", strings.Repeat("a", 62) + "-b", label + strings.Repeat("a", 62) + "-b", strings.Repeat("a", 62)},
		{"host name by wish", anchord.Config{Hostname: "mail.example.org"}, "shop", "shop", label + "shop", "mail.example.org"},
		{"selector alone: its first value by key", anchord.Config{Selector: selector("b=Two Words,a=One!")}, "shop", "One!", "a=One! b=Two Words", "one"},
		{"selector and project: scope of the one, name of the other", anchord.Config{Project: "mail", Selector: selector("a=x")}, "shop", "mail", "a=x", "mail"},
		{"selector needs no project", anchord.Config{Selector: selector("a=x")}, "", "x", "a=x", "x"},
		{"hostile name", anchord.Config{}, "a;\n$(id)\"", "a;\n$(id)\"", label + "a;\n$(id)\"", "a----id"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.config.Identify(self(tt.own))
			var scope []string
			for _, p := range got.Scope.Labels {
				scope = append(scope, p.Key+"="+p.Value)
			}
			if err != nil || got.Project != tt.project || strings.Join(scope, " ") != tt.scope || got.Hostname != tt.hostname {
				t.Errorf("%+v, %v; want project %q, scope %q, host name %q", got, err, tt.project, tt.scope, tt.hostname)
			}
			if err := anchord.ValidateHostname(got.Hostname); err != nil {
				t.Errorf("host name %q: %v", got.Hostname, err)
			}
		})
	}
	if _, err := (anchord.Config{}).Identify(self("")); !errors.Is(err, anchord.ErrNoProject) {
		t.Errorf("without any name: %v, want ErrNoProject", err)
	}
}

// self is anchord's own container, of a project or of none.
func self(project string) anchord.Self {
	var s anchord.Self
	if project != "" {
		s.Labels = map[string]string{"com.docker.compose.project": project}
	}
	return s
}

func TestHelpersOfAnotherProject(t *testing.T) {
	in := func(project, joins string) anchord.Container {
		c := anchord.Container{ID: "c", NamespaceOf: joins, Labels: map[string]string{}}
		if project != "" {
			c.Labels["com.docker.compose.project"] = project
		}
		return c
	}
	wrapping := anchord.ProjectScope("app")
	wrapping.Helpers = "wrapper"
	for _, tt := range []struct {
		name     string
		scope    anchord.Scope
		c, owner anchord.Container
		want     bool
	}{
		{"a container of the project", wrapping, in("app", ""), in("app", ""), true},
		{"one in any namespace", wrapping, in("app", "x"), in("other", ""), true},
		{"a helper in the project's namespace", wrapping, in("wrapper", "x"), in("app", ""), true},
		{"a helper in one of no project", wrapping, in("wrapper", "x"), in("", ""), true},
		{"a helper in another project's", wrapping, in("wrapper", "x"), in("other", ""), false},
		{"a helper in its own", wrapping, in("wrapper", ""), in("wrapper", ""), false},
		{"another project's in the project's", wrapping, in("other", "x"), in("app", ""), false},
		{"of no project in the project's", wrapping, in("", "x"), in("app", ""), false},
		{"without helpers", anchord.ProjectScope("app"), in("wrapper", "x"), in("app", ""), false},
		{"without helpers, of no project", anchord.ProjectScope("app"), in("", "x"), in("app", ""), false},
	} {
		if got := tt.scope.Manages(tt.c, tt.owner); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
	if wrapping.Equal(anchord.ProjectScope("app")) || !wrapping.Equal(wrapping) {
		t.Error("scopes with other helpers are the same")
	}
}

func TestWhoHasHelpers(t *testing.T) {
	selector := anchord.Scope{Labels: []anchord.LabelPair{{Key: "app", Value: "x"}}}
	for name, tt := range map[string]struct {
		config  anchord.Config
		own     string
		helpers string
	}{
		"its own project":                {anchord.Config{}, "shop", ""},
		"its own project by name":        {anchord.Config{Project: "shop"}, "shop", ""},
		"another project":                {anchord.Config{Project: "app"}, "wrapper", "wrapper"},
		"another project, without own":   {anchord.Config{Project: "app"}, "", ""},
		"the fallback, without own":      {anchord.Config{FallbackProject: "app"}, "", ""},
		"own before the fallback":        {anchord.Config{FallbackProject: "app"}, "shop", ""},
		"a selector stands for no other": {anchord.Config{Selector: selector, Project: "app"}, "wrapper", ""},
	} {
		i, err := tt.config.Identify(self(tt.own))
		if err != nil || i.Scope.Helpers != tt.helpers {
			t.Errorf("%s: %+v, %v; want helpers %q", name, i, err, tt.helpers)
		}
	}
}

func TestAHelpersLabelCounts(t *testing.T) {
	w := usual()
	owner := w.run("app-mail-1", "", "shop_transit=10.213.0.5")
	owner.Labels["com.docker.compose.project"] = "app"
	w.run("shop-mail-1", "tcp/25").NamespaceOf = "app-mail-1" // of anchord's own project
	w.run("shop-db-1", "tcp/80", "shop_transit=10.213.0.6")   // in its own namespace
	w.run("x", "tcp/81").NamespaceOf = "app-mail-1"           // of another project
	w.Containers[3].Labels = map[string]string{"com.docker.compose.project": "x", "anchord.expose": "tcp/81"}
	c := auto()
	c.Project = "app"
	s, _ := w.decide(t, c, anchord.Memory{})
	wantEntries(t, s, "v4 tcp/25 > 10.213.0.5 25 shop-mail-1 by transit0")
	wantNotices(t, s)
}
