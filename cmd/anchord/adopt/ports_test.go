package adopt

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
)

// ports writes entries of Compose's long syntax from short ones: [ADDRESS ]PUBLISHED:TARGET[/PROTOCOL].
func portsJSON(short ...string) string {
	var entries []string
	for _, s := range short {
		host, s, fixed := cutLast(s, " ")
		if !fixed {
			host = ""
		}
		s, protocol, _ := strings.Cut(s, "/")
		published, target, found := strings.Cut(s, ":")
		if !found {
			published, target = "", published
		}
		entry := fmt.Sprintf(`{"mode":"ingress","target":%s`, target)
		for key, value := range map[string]string{"published": published, "protocol": protocol, "host_ip": host} {
			if value != "" {
				entry += fmt.Sprintf(`,%q:%q`, key, value)
			}
		}
		entries = append(entries, entry+"}")
	}
	return "[" + strings.Join(entries, ",") + "]"
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

func TestPortsBecomeLabels(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ports []string
		label string
		note  string // a part of it; empty: no note of the service
	}{
		{"one", []string{"80:80/tcp"}, "tcp/80", ""},
		{"no protocol is tcp", []string{"80:80"}, "tcp/80", ""},
		{"shifted", []string{"8080:80"}, "tcp/8080:80", ""},
		{"udp", []string{"53:53/udp", "53:53/tcp"}, "tcp/53, udp/53", ""},
		{"a range", []string{"8001:8001", "8000:8000", "8002:8002"}, "tcp/8000-8002", ""},
		{"a shifted range", []string{"5000:6000/udp", "5001:6001/udp"}, "udp/5000-5001:6000", ""},
		{"neighbours that are shifted differently", []string{"80:80", "81:8081"}, "tcp/80, tcp/81:8081", ""},
		{"both families of any address", []string{"0.0.0.0 80:80", ":: 80:80"}, "tcp/80", ""},
		{"in brackets", []string{"[::] 80:80"}, "tcp/80", ""},
		{"two ports lead to one", []string{"80:80", "8080:80"}, "tcp/80, tcp/8080:80", ""},
		{"any port of the host", []string{"80"}, "tcp/80", "Docker chose the host's port for tcp/80"},
		{"port 0 is any", []string{"0:80"}, "tcp/80", "Docker chose the host's port for tcp/80"},
		{"one of a range", []string{"8000-8010:80"}, "tcp/8000:80", `exposed is tcp/8000 of "8000-8010"`},
		{"one of a range that is in use", []string{"8000-8010:81", "8000:80"}, "tcp/8000-8001:80", `exposed is tcp/8001 of "8000-8010"`},
		{"at one address", []string{"192.0.2.5 80:80"}, "tcp/80", "tcp/80 of 192.0.2.5 is exposed at the project's address"},
		{"for the host too", []string{"127.0.0.1 5432:5432", "80:80"}, "tcp/80", "tcp/5432 was open to the Docker host alone"},
		{"for the host in IPv6", []string{"::1 5432:5432", "80:80"}, "tcp/80", "tcp/5432 was open to the Docker host alone"},
		{"another address of 127.0.0.0/8", []string{"127.8.8.8 5432:5432", "80:80"}, "tcp/80", "tcp/5432 was open"},
		{"mapped", []string{"::ffff:127.0.0.1 5432:5432", "80:80"}, "tcp/80", "tcp/5432 was open"},
		{"for the host and for all", []string{"127.0.0.1 80:80", "80:80"}, "tcp/80", ""},
		{"sctp", []string{"132:132/sctp", "80:80"}, "tcp/80", "sctp/132 is not exposed"},
		{"the last port", []string{"65535:65535", "65534:65534"}, "tcp/65534-65535", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			result := made(t, `{"name":"p","services":{"web":{"ports":`+portsJSON(tt.ports...)+`}}}`, usual)
			web := parsed(t, result.Override).Services["web"]
			if got := web.Labels["anchord.expose"]; got != tt.label {
				t.Errorf("%q, want %q", got, tt.label)
			}
			if _, err := anchord.ParseExpose(web.Labels["anchord.expose"]); err != nil {
				t.Error(err)
			}
			if !strings.Contains(result.Override, "  web:\n    ports: !reset []\n") || web.Ports == nil {
				t.Errorf("the ports stay:\n%s", result.Override)
			}
			notes := result.Notes[:len(result.Notes)-1] // the last is everybody's
			if tt.note == "" && len(notes) > 0 || tt.note != "" && !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, tt.note) }) {
				t.Errorf("said %q, want %q", notes, tt.note)
			}
		})
	}
}

func TestPublishedMayBeANumber(t *testing.T) {
	for published, label := range map[string]string{"8080": "tcp/8080:80", "0": "tcp/80", "null": "tcp/80", `"8080"`: "tcp/8080:80"} {
		result := made(t, `{"name":"p","services":{"web":{"ports":[{"target":80,"published":`+published+`}]}}}`, usual)
		if got := parsed(t, result.Override).Services["web"].Labels["anchord.expose"]; got != label {
			t.Errorf("published %s became %q, want %q", published, got, label)
		}
	}
}

// A service with many ports has all of them in its label, and a person is told of
// some.
func TestManyPorts(t *testing.T) {
	var ports []string
	for n := 1; n < 200; n += 2 {
		ports = append(ports, fmt.Sprint(n))
	}
	result := made(t, `{"name":"p","services":{"web":{"ports":`+portsJSON(ports...)+`}}}`, usual)
	if label := parsed(t, result.Override).Services["web"].Labels["anchord.expose"]; strings.Count(label, "tcp/") != 100 {
		t.Errorf("the label is %q", label)
	}
	for _, line := range append(result.Exposed, result.Notes[0]) {
		if !strings.Contains(line, "tcp/19 and 90 more") {
			t.Errorf("told %q", line)
		}
	}
}
