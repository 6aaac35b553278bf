package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestWhichModeRuns(t *testing.T) {
	for _, tt := range []struct {
		name, args, variable string
		want                 string // arguments, or
		fault                string
	}{
		{"nothing said", "", "", "", ""},
		{"by argument", "service-anchor", "", "service-anchor", ""},
		{"by variable", "", "service-anchor", "service-anchor", ""},
		{"argument wins over the variable", "network-anchor", "service-anchor", "network-anchor", ""},
		{"command wins over the variable", "status --json", "service-anchor", "status --json", ""},
		{"flags without a mode", "--something", "", "--something", ""},
		{"flags and the variable", "--something", "service-anchor", "service-anchor --something", ""},
		{"help is the program's own", "--help", "service-anchor", "--help", ""},
		{"help for short", "-h", "service-anchor", "-h", ""},
		{"unknown by argument", "sidecar", "", "", `unknown mode or command "sidecar"`},
		{"unknown by variable", "", "sidecar", "", `ANCHORD_MODE="sidecar": unknown mode`},
		{"a command is no mode", "", "status", "", `ANCHORD_MODE="status": unknown mode`},
		{"an argument saves from a bad variable", "version", "sidecar", "version", ""},
		{"in capitals", "Service-Anchor", "", "", "unknown mode or command"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := withMode(strings.Fields(tt.args), tt.variable)
			if tt.fault == "" && (err != nil || strings.Join(got, " ") != tt.want) {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) || !strings.Contains(err.Error(), "network-anchor, service-anchor") {
					t.Errorf("%v; want %q and the valid modes", err, tt.fault)
				}
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		name           string
		env            []string
		args           string
		code           int
		stdout, stderr string
	}{
		{"version", nil, "version", 0, "anchord " + version, ""},
		{"help", nil, "--help", 0, "Modes (also by ANCHORD_MODE)", ""},
		{"help of a mode", nil, "service-anchor --help", 0, "ANCHORD_GATEWAY_HOSTNAME", ""},
		{"unknown mode", nil, "sidecar", 2, "", "modes are network-anchor, service-anchor, wrap-rebinder, external-rebinder"},
		{"unknown mode by variable", []string{"ANCHORD_MODE", "sidecar"}, "", 2, "", "modes are network-anchor, service-anchor, wrap-rebinder, external-rebinder"},
		{"unknown flag", nil, "status --yaml", 2, "", "--yaml"},
		{"unknown argument", nil, "version please", 2, "", "please"},
		{"bad variable", []string{"ANCHORD_POLL_INTERVAL", "0"}, "network-anchor", 2, `\"0\": must be more than zero`, ""},
		{"no anchord runs", []string{"ANCHORD_RUN_DIR", "/nonexistent"}, "status", 1, "", "no anchord answers on /nonexistent/anchord.sock (is it running"},
		{"no anchord to be healthy", []string{"ANCHORD_RUN_DIR", "/nonexistent"}, "healthcheck", 1, "", "no anchord answers"},
		{"nothing to adopt", nil, "adopt --parent eth0", 2, "", "anchord: adopt reads a project on stdin, and nothing is piped into it: docker compose config --format json | docker run --rm -i ghcr.io/alexcherrypi/anchord adopt --parent eth0 > compose.anchord.yaml\n"},
		{"no interface to adopt for", nil, "adopt", 2, "", "missing flags: --parent"},
		{"no docker to render for", []string{"DOCKER_HOST", "unix:///nonexistent/docker.sock"}, "render", 1, "", "docker does not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			environment(t, tt.env...)
			code, stdout, stderr := started(strings.Fields(tt.args)...)
			if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) || (tt.stderr == "") != (stderr == "") {
				t.Errorf("exit %d, want %d\nstdout: %s\nstderr: %s", code, tt.code, stdout, stderr)
			}
		})
	}
}

func TestHelpListsEachVariable(t *testing.T) {
	common := []string{"ANCHORD_MODE", "ANCHORD_LOG_LEVEL", "ANCHORD_METRICS_ADDR", "ANCHORD_RUN_DIR"}
	decision := []string{
		"ANCHORD_PROJECT", "ANCHORD_LABEL_SELECTOR", "ANCHORD_EXT_NETWORK", "ANCHORD_EXT_IFACE", "ANCHORD_EXT_MAC", "ANCHORD_ADDRESS_MODE",
		"ANCHORD_EXT_GATEWAY_IP", "ANCHORD_DHCP_HOSTNAME", "ANCHORD_DHCP_BACKOFF_MAX", "ANCHORD_SHARED_NETWORK", "ANCHORD_POLL_INTERVAL", "DOCKER_HOST",
	}
	environment(t)
	for command, want := range map[string][]string{
		"network-anchor": append(append(slices.Clone(common), decision...), "ANCHORD_AUTOSTART_SIBLINGS", "ANCHORD_AUTOFIX_DEAD_NETNS",
			"ANCHORD_MANAGED_SA_TARGET", "ANCHORD_MANAGED_SA_NAME", "ANCHORD_MANAGED_SA_IMAGE", "ANCHORD_MANAGED_SA_GATEWAY_IP",
			"ANCHORD_MANAGED_SA_EXTRA_ENV", "ANCHORD_MANAGED_SA_LABELS"),
		"wrap-rebinder": append(slices.Clone(common), "ANCHORD_POLL_INTERVAL", "DOCKER_HOST"),
		"external-rebinder": append(slices.Clone(common), "ANCHORD_POLL_INTERVAL", "DOCKER_HOST",
			"ANCHORD_FOLLOW_NETWORK", "ANCHORD_FOLLOW_TARGET", "ANCHORD_FOLLOW_RESTART"),
		"service-anchor": append(slices.Clone(common), "ANCHORD_GATEWAY_HOSTNAME", "ANCHORD_GATEWAY_IP", "ANCHORD_GATEWAY_RESOLVE_INTERVAL"),
		"render":         append([]string{"ANCHORD_RUN_DIR"}, decision...),
		"status":         {"ANCHORD_RUN_DIR"},
		"healthcheck":    {"ANCHORD_RUN_DIR"},
	} {
		_, help, _ := started(command, "--help")
		for _, name := range want {
			if !regexp.MustCompile(`(?m)^  ` + name + `( \(default .+\))?\n      \S.*\S$`).MatchString(help) {
				t.Errorf("%s --help does not list %s with its meaning", command, name)
			}
		}
		for _, line := range strings.Split(help, "\n") {
			if len(line) > 80 && !strings.HasPrefix(line, "Usage") && strings.HasPrefix(line, " ") {
				t.Errorf("%s --help is too wide for a terminal: %q", command, line)
			}
		}
	}
	_, help, _ := started("network-anchor", "--help")
	for _, line := range []string{"ANCHORD_POLL_INTERVAL (default 30s)", "DOCKER_HOST (default unix:///var/run/docker.sock)", "ANCHORD_METRICS_ADDR (default 127.0.0.1:9090)"} {
		if !strings.Contains(help, line) {
			t.Errorf("the default is missing: %s", line)
		}
	}
}

func TestOverviewListsEachCommand(t *testing.T) {
	environment(t)
	_, help, _ := started("--help")
	for _, name := range []string{"network-anchor", "service-anchor", "status", "render", "healthcheck", "adopt", "version"} {
		if !regexp.MustCompile(`(?m)^  ` + name + ` +\S`).MatchString(help) {
			t.Errorf("%s is missing:\n%s", name, help)
		}
	}
}
