package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/AlexCherrypi/anchord"
)

// environment sets exactly these of our variables.
func environment(t *testing.T, pairs ...string) {
	t.Helper()
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "ANCHORD_") || name == "COMPOSE_PROJECT_NAME" || name == "DOCKER_HOST" {
			t.Setenv(name, "") // put back afterwards
			os.Unsetenv(name)
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		t.Setenv(pairs[i], pairs[i+1])
	}
	unsetEmpty()
}

// parsed is the command line's variables, as the program reads them.
func parsed(t *testing.T, mode string, pairs ...string) *commands {
	t.Helper()
	environment(t, pairs...)
	c := &commands{}
	parser, err := kong.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{mode}); err != nil {
		t.Fatal(err)
	}
	return c
}

// started runs the program to its end and returns exit code and output.
func started(args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	code = run(ctx, args, &out, &errOut)
	return code, out.String(), errOut.String()
}

// faults are the messages of the log's lines about the configuration.
func faults(t *testing.T, log string) []string {
	t.Helper()
	var list []string
	for _, line := range strings.Split(strings.TrimSpace(log), "\n") {
		var entry struct{ Time, Level, Msg, Event string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if entry.Event != anchord.EventConfigInvalid || entry.Level != "error" {
			t.Errorf("logged %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, entry.Time); err != nil {
			t.Error(err)
		}
		list = append(list, entry.Msg)
	}
	return list
}

func TestAllFaultsOfAConfigurationAreToldAtOnce(t *testing.T) {
	for _, tt := range []struct {
		mode string
		bad  []string
	}{
		{"network-anchor", []string{
			"ANCHORD_LOG_LEVEL", "loud", "ANCHORD_METRICS_ADDR", "9090", "ANCHORD_RUN_DIR", "run",
			"ANCHORD_LABEL_SELECTOR", "app", "ANCHORD_EXT_IFACE", "an interface", "ANCHORD_EXT_MAC", "ff:ff:ff:ff:ff:ff",
			"ANCHORD_ADDRESS_MODE", "dhcp", "ANCHORD_EXT_GATEWAY_IP", "192.0.2.1,192.0.2.2", "ANCHORD_DHCP_HOSTNAME", "my_app",
			"ANCHORD_DHCP_BACKOFF_MAX", "0", "ANCHORD_POLL_INTERVAL", "-5s", "DOCKER_HOST", "/var/run/docker.sock",
			"ANCHORD_AUTOSTART_SIBLINGS", "yes", "ANCHORD_AUTOFIX_DEAD_NETNS", "2", "ANCHORD_MANAGED_SA_TARGET", "a/b",
			"ANCHORD_MANAGED_SA_NAME", "-x", "ANCHORD_MANAGED_SA_GATEWAY_IP", "gw", "ANCHORD_MANAGED_SA_EXTRA_ENV", "A=b",
			"ANCHORD_MANAGED_SA_LABELS", `[1]`,
		}},
		{"wrap-rebinder", []string{"ANCHORD_LOG_LEVEL", "loud", "ANCHORD_POLL_INTERVAL", "0", "DOCKER_HOST", "socket"}},
		{"external-rebinder", []string{
			"ANCHORD_LOG_LEVEL", "loud", "ANCHORD_POLL_INTERVAL", "x", "DOCKER_HOST", "socket", "ANCHORD_FOLLOW_RESTART", "maybe",
			"ANCHORD_FOLLOW_NETWORK", "", "ANCHORD_FOLLOW_TARGET", "",
		}},
		{"service-anchor", []string{
			"ANCHORD_LOG_LEVEL", "INFO!", "ANCHORD_METRICS_ADDR", "localhost", "ANCHORD_RUN_DIR", "./run",
			"ANCHORD_GATEWAY_IP", "gateway", "ANCHORD_GATEWAY_HOSTNAME", "http://anchord", "ANCHORD_GATEWAY_RESOLVE_INTERVAL", "often",
		}},
	} {
		environment(t, tt.bad...)
		code, stdout, stderr := started(tt.mode)
		told := faults(t, stdout)
		if code != 2 || len(told) != len(tt.bad)/2 || stderr != "" {
			t.Fatalf("%s: exit %d, %d of %d faults, stderr %q:\n%s", tt.mode, code, len(told), len(tt.bad)/2, stderr, strings.Join(told, "\n"))
		}
		for i := 0; i < len(tt.bad); i += 2 {
			name, value := tt.bad[i], tt.bad[i+1]
			if !slices.ContainsFunc(told, func(s string) bool {
				return strings.HasPrefix(s, fmt.Sprintf("%s=%q: ", name, value)) && len(s) > len(name+value)+15
			}) {
				t.Errorf("no message names %s, its value and what is accepted: %q", name, told)
			}
		}
	}
}

func TestRenderTellsFaultsOnStandardError(t *testing.T) {
	environment(t, "ANCHORD_POLL_INTERVAL", "0", "ANCHORD_EXT_MAC", "x")
	code, stdout, stderr := started("render")
	if code != 2 || stdout != "" || strings.Count(stderr, "\n") != 2 || strings.Count(stderr, "anchord: ANCHORD_") != 2 {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
}

func TestDefaults(t *testing.T) {
	bad := &configError{}
	c := parsed(t, "network-anchor")
	n := c.NetworkAnchor
	n.check(bad)
	config, backoffMax, warnings := n.networkVars.config(bad)
	if bad.faults != nil || warnings != nil {
		t.Fatalf("without any variable: %q, %q", bad.faults, warnings)
	}
	if config.Mode != anchord.ModeAuto || config.PollInterval != 30*time.Second || backoffMax != 5*time.Minute ||
		n.MetricsAddr != "127.0.0.1:9090" || n.RunDir != "/run/anchord" || n.DockerHost != "unix:///var/run/docker.sock" || n.LogLevel != "info" ||
		config.ExtIface != "" || config.MAC != (anchord.MACPolicy{}) {
		t.Errorf("%+v, %+v", config, n)
	}
	f, warnings := parsed(t, "service-anchor").ServiceAnchor.config(bad)
	if bad.faults != nil || warnings != nil || f.Host != "anchord" || f.Interval != 5*time.Second || f.Pinned[anchord.V4].IsValid() {
		t.Errorf("%+v, %q, %q", f, bad.faults, warnings)
	}
}

func TestEmptyMeansUnset(t *testing.T) {
	n := parsed(t, "network-anchor",
		"ANCHORD_LOG_LEVEL", "", "ANCHORD_RUN_DIR", "", "ANCHORD_POLL_INTERVAL", "", "ANCHORD_ADDRESS_MODE", "", "ANCHORD_DHCP_BACKOFF_MAX", "",
		"ANCHORD_LABEL_SELECTOR", "", "ANCHORD_EXT_MAC", "", "ANCHORD_EXT_GATEWAY_IP", "", "DOCKER_HOST", "", "COMPOSE_PROJECT_NAME", "", "ANCHORD_METRICS_ADDR", "").NetworkAnchor
	bad := &configError{}
	n.check(bad)
	config, _, warnings := n.networkVars.config(bad)
	if bad.faults != nil || warnings != nil || config.PollInterval != 30*time.Second || n.RunDir != "/run/anchord" || n.DockerHost == "" {
		t.Errorf("%q, %q, %+v", bad.faults, warnings, n)
	}
	if n.MetricsAddr != "" {
		t.Errorf("an empty ANCHORD_METRICS_ADDR disables it, but is %q", n.MetricsAddr)
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
		want string
	}{
		{"selector and project", []string{"ANCHORD_PROJECT", "a", "ANCHORD_LABEL_SELECTOR", "b=c"}, "ANCHORD_PROJECT and ANCHORD_LABEL_SELECTOR are both set: the selector"},
		{"selector and Compose's own variable", []string{"COMPOSE_PROJECT_NAME", "a", "ANCHORD_LABEL_SELECTOR", "b=c"}, ""},
		{"network and interface", []string{"ANCHORD_EXT_NETWORK", "lan", "ANCHORD_EXT_IFACE", "eth1"}, "ANCHORD_EXT_NETWORK and ANCHORD_EXT_IFACE are both set: the network"},
		{"network alone", []string{"ANCHORD_EXT_NETWORK", "lan"}, ""},
	} {
		bad := &configError{}
		_, _, warnings := parsed(t, "network-anchor", tt.env...).NetworkAnchor.networkVars.config(bad)
		wantWarning(t, tt.name, warnings, tt.want, bad)
	}
	for _, tt := range []struct {
		name string
		env  []string
		want string
	}{
		{"address and name", []string{"ANCHORD_GATEWAY_IP", "10.0.0.2", "ANCHORD_GATEWAY_HOSTNAME", "anchord"}, "the address wins"},
		{"address alone", []string{"ANCHORD_GATEWAY_IP", "10.0.0.2,fd00::2"}, ""},
		{"name alone", []string{"ANCHORD_GATEWAY_HOSTNAME", "gw"}, ""},
	} {
		bad := &configError{}
		_, warnings := parsed(t, "service-anchor", tt.env...).ServiceAnchor.config(bad)
		wantWarning(t, tt.name, warnings, tt.want, bad)
	}
}

func wantWarning(t *testing.T, name string, warnings []string, want string, bad *configError) {
	t.Helper()
	if bad.faults != nil || (want == "" && warnings != nil) || (want != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], want))) {
		t.Errorf("%s: warnings %q, faults %q; want a warning with %q", name, warnings, bad.faults, want)
	}
}

func TestAcceptedValues(t *testing.T) {
	for name, values := range map[string][]string{
		"ANCHORD_METRICS_ADDR":   {":9090", "0.0.0.0:9090", "[::1]:9090", "localhost:9090", "[::]:1"},
		"ANCHORD_LOG_LEVEL":      {"debug", "info", "warn", "error"},
		"DOCKER_HOST":            {"unix:///run/docker.sock", "tcp://proxy:2375"},
		"ANCHORD_ADDRESS_MODE":   {"auto", "bootstrap", "dhcp-refresh"},
		"ANCHORD_POLL_INTERVAL":  {"30", "1m", "500ms"},
		"ANCHORD_EXT_IFACE":      {"eth0", "anchord-ext", "lan.42"},
		"ANCHORD_EXT_GATEWAY_IP": {"2001:db8::1, 192.0.2.1"},
	} {
		for _, value := range values {
			bad := &configError{}
			n := parsed(t, "network-anchor", name, value).NetworkAnchor
			n.check(bad)
			n.networkVars.config(bad)
			if bad.faults != nil {
				t.Errorf("%s=%s: %q", name, value, bad.faults)
			}
		}
	}
}

func TestDefaultsOfTheRepairs(t *testing.T) {
	bad := &configError{}
	c, warnings := parsed(t, "network-anchor").NetworkAnchor.repairVars.config(bad)
	if bad.faults != nil || warnings != nil || !c.Autostart || !c.Autofix || c.Rebind || c.Managed != nil {
		t.Errorf("%+v, %q, %q", c, warnings, bad.faults)
	}
	for _, off := range []string{"false", "0", "FALSE", "False"} {
		c, _ := parsed(t, "network-anchor", "ANCHORD_AUTOSTART_SIBLINGS", off, "ANCHORD_AUTOFIX_DEAD_NETNS", off).NetworkAnchor.repairVars.config(bad)
		if c.Autostart || c.Autofix || bad.faults != nil {
			t.Errorf("%s: %+v, %q", off, c, bad.faults)
		}
	}
	w := parsed(t, "wrap-rebinder").WrapRebinder
	if d := w.rebindVars.check(bad); d != 30*time.Second || bad.faults != nil || w.DockerHost != "unix:///var/run/docker.sock" {
		t.Errorf("%s, %q, %+v", d, bad.faults, w)
	}
	if x := parsed(t, "external-rebinder").ExternalRebinder; boolean(bad, "", x.Restart) || x.PollInterval != "30s" || x.Network+x.Target != "" || bad.faults != nil {
		t.Errorf("%+v, %q", x, bad.faults)
	}
}

func TestManagedServiceAnchorsVariables(t *testing.T) {
	all := []string{
		"ANCHORD_MANAGED_SA_NAME", "router", "ANCHORD_MANAGED_SA_IMAGE", "anchord:1", "ANCHORD_MANAGED_SA_GATEWAY_IP", "10.0.0.2",
		"ANCHORD_MANAGED_SA_EXTRA_ENV", `{"A":"b"}`, "ANCHORD_MANAGED_SA_LABELS", `{"k":"v"}`,
	}
	bad := &configError{}
	c, warnings := parsed(t, "network-anchor", append([]string{"ANCHORD_MANAGED_SA_TARGET", "/mail"}, all...)...).NetworkAnchor.repairVars.config(bad)
	m := c.Managed
	if bad.faults != nil || warnings != nil || m == nil || m.Target != "/mail" || m.Name != "router" || m.Image != "anchord:1" ||
		m.Gateways[anchord.V4].String() != "10.0.0.2" || m.Env["A"] != "b" || m.Labels["k"] != "v" {
		t.Errorf("%+v, %q, %q", m, warnings, bad.faults)
	}
	c, warnings = parsed(t, "network-anchor", all...).NetworkAnchor.repairVars.config(bad)
	if c.Managed != nil {
		t.Errorf("without a target: %+v", c.Managed)
	}
	wantWarning(t, "without a target", warnings, "without ANCHORD_MANAGED_SA_TARGET", bad)
}
