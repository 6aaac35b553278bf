package adopt

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

const feed = "pipe in what docker compose config --format json writes"

// Each line of each error, as a person reads it.
func TestWhatCannotBeAdopted(t *testing.T) {
	const patterns = "https://github.com/AlexCherrypi/anchord/blob/main/docs/patterns.md#"
	ports := `"ports":[{"target":80,"published":"80"}]`
	one := func(service string) string { return `{"name":"p","services":{"web":{` + service + `}}}` }
	for _, tt := range []struct {
		name, input string
		want        string
	}{
		{"nothing", "", "nothing came in on stdin: docker compose config --format json has said why, or is not what is piped in"},
		{"white space", " \n\t", "nothing came in on stdin: docker compose config --format json has said why, or is not what is piped in"},
		{"too much", strings.Repeat("x", MaxInput+1), "what came in on stdin is larger than 8 MiB, so it is no Compose project"},
		{"YAML", "# mine\nservices:\n  web:\n", "what came in on stdin is YAML: " + feed},
		{"words", "hello", "what came in on stdin is not JSON (invalid character 'h' looking for beginning of value): " + feed},
		{"words of a terminal", "\x1b[31mno\x1b[0m", `what came in on stdin is not JSON (invalid character '\\x1b' looking for beginning of value): ` + feed},
		{"half of it", `{"name":"p","services":{`, "what came in on stdin is not JSON (unexpected EOF): " + feed},
		{"a list", `[]`, "what came in on stdin is JSON, but not what docker compose config --format json writes: no array can stand for the whole project"},
		{"two projects", one(ports) + one(ports), "what came in on stdin goes on after the project's end: " + feed + ", once"},
		{"other JSON", `{"services":{"web":{"ports":["80:80"]}}}`, `what came in on stdin is JSON, but not what docker compose config --format json writes: no string can stand for "services.ports"`},
		{"other JSON for a port", one(`"ports":[{"published":true}]`), `what came in on stdin is JSON, but not what docker compose config --format json writes: no such value can stand for "published"`},
		{"other JSON for labels", one(`"labels":7`), `what came in on stdin is JSON, but not what docker compose config --format json writes: no such value can stand for "labels"`},
		{"other JSON for hosts", one(`"extra_hosts":7`), `what came in on stdin is JSON, but not what docker compose config --format json writes: no such value can stand for "extra_hosts"`},
		{"a port beyond the last", one(`"ports":[{"target":70000}]`), `what came in on stdin is JSON, but not what docker compose config --format json writes: no number 70000 can stand for "services.ports.target"`},
		{"no services", `{"name":"p"}`, "what came in on stdin has no services: " + feed + ", in the project's folder"},
		{"no name", `{"services":{"web":{` + ports + `}}}`, "what came in on stdin has no name, which docker compose config --format json always writes"},
		{"a name that is too long", `{"name":"p","services":{"` + strings.Repeat("w", 201) + `":{` + ports + `}}}`, `the name "` + strings.Repeat("w", 60) + `…" is longer than the 200 letters that a name can have`},
		{"no ports", one(`"image":"nginx"`), "no service of the project publishes a port, so there is nothing to expose (services of a profile count when it is on: docker compose --profile NAME config …)"},
		{"for the host alone", one(`"ports":[{"host_ip":"127.0.0.1","target":80,"published":"80"}]`), `service "web" publishes tcp/80 for the Docker host alone (127.0.0.1 or ::1), so nothing of it is exposed; publish it without that address`},
		{"sctp alone", one(`"ports":[{"target":80,"published":"80","protocol":"sctp"}]`), `service "web" publishes sctp alone, and anchord knows tcp and udp only`},
		{"a strange protocol", one(`"ports":[{"target":80,"published":"80","protocol":"dccp"}]`), `service "web" has a port that has the protocol "dccp", which is neither tcp nor udp`},
		{"a strange port", one(`"ports":[{"target":80,"published":"http"}]`), `service "web" has a port that is published at "http", which is no port`},
		{"a range that ends before it begins", one(`"ports":[{"target":80,"published":"90-80"}]`), `service "web" has a port that is published at "90-80", which is no port`},
		{"a strange address", one(`"ports":[{"host_ip":"eth0","target":80,"published":"80"}]`), `service "web" has a port that is bound to "eth0", which is no address`},
		{"no target", one(`"ports":[{"published":"80"}]`), `service "web" has a port that has no target, the port of the service`},
		{"one port twice in a service", one(`"ports":[{"host_ip":"192.0.2.1","target":80,"published":"80"},{"host_ip":"192.0.2.2","target":81,"published":"80"}]`), `service "web" publishes tcp/80 twice, for its ports 80 and 81, and the project has one address: publish one of them at another port`},
		{"one port in two services", `{"name":"p","services":{"a":{` + ports + `},"b":{"ports":[{"host_ip":"192.0.2.2","target":8080,"published":"80"}]}}}`, `services "a" and "b" both publish tcp/80, and the project has one address: publish one of them at another port`},
		{
			"several ports in three", `{"name":"p","services":{"a":{"ports":[{"target":1,"published":"1"},{"target":2,"published":"2"}]},"b":{"ports":[{"target":7,"published":"1"},{"target":2,"published":"2"}]},"c":{"ports":[{"target":2,"published":"2"}]}}}`,
			"services \"a\" and \"b\" both publish tcp/1-2, and the project has one address: publish one of them at another port\nservices \"a\" and \"c\" both publish tcp/2, and the project has one address: publish one of them at another port",
		},
		{"adopted by the label", one(ports + `,"labels":{"anchord.expose":"tcp/80"}`), `service "web" carries the label anchord.expose: the project is adopted already; give in the project's own files alone: docker compose -f compose.yaml config --format json`},
		{"adopted by the label in a list", one(ports + `,"labels":["anchord.expose=tcp/80"]`), `service "web" carries the label anchord.expose: the project is adopted already; give in the project's own files alone: docker compose -f compose.yaml config --format json`},
		{"adopted by the image", one(ports + `,"image":"registry.example.org:5000/anchord:1@sha256:00"`), `service "web" is an anchord: the project is adopted already; give in the project's own files alone: docker compose -f compose.yaml config --format json`},
		{"host", one(ports + `,"network_mode":"host"`), `service "web" cannot be adopted: network_mode: host makes it a part of the Docker host; give it a network of the project in place of that (` + patterns + `native)`},
		{"Docker's bridge", one(ports + `,"network_mode":"bridge"`), `service "web" cannot be adopted: network_mode: bridge puts it on a network of the whole engine; give it one of the project in place of that (` + patterns + `native)`},
		{"no network", one(ports + `,"network_mode":"none"`), `service "web" cannot be adopted: network_mode: none leaves it without a network; give it one of the project in place of that (` + patterns + `native)`},
		{"a container's", one(ports + `,"network_mode":"container:other"`), `service "web" cannot be adopted: it shares the network of the container "other", which is not of this project (` + patterns + `wrap)`},
		{"a service's", one(ports + `,"network_mode":"service:vpn"`), `service "web" cannot be adopted: it shares the network of "vpn", so its ports have to stand there`},
		{"an unknown one", one(ports + `,"network_mode":"ns"`), `service "web" cannot be adopted: network_mode: "ns" is no network of the project (` + patterns + `wrap)`},
		{"external networks", world([]string{"web!: x y"}, []string{`x: {"external":true}`, `y: {"internal":true}`}), `service "web" cannot be adopted: its way out is another project's network, "x"; give it one of its own too, or wrap it (` + patterns + `wrap)`},
		{"internal networks", world([]string{"web!: x"}, []string{`x: {"internal":true}`}), `service "web" cannot be adopted: its networks are internal: true, on which Docker gives no way out; give it another one, or a service-anchor (` + patterns + `service-anchor)`},
		{"another driver", world([]string{"web!: x"}, []string{`x: {"driver":"macvlan"}`}), `service "web" cannot be adopted: its network "x" is no bridge with IPv4, so anchord cannot be its gateway; give it one that is (` + patterns + `native)`},
		{
			"several", `{"name":"p","services":{"a":{` + ports + `,"network_mode":"host"},"b":{"ports":[{"host_ip":"::1","target":1,"published":"1"}]}}}`,
			"service \"a\" cannot be adopted: network_mode: host makes it a part of the Docker host; give it a network of the project in place of that (" + patterns + "native)\nservice \"b\" publishes tcp/1 for the Docker host alone (127.0.0.1 or ::1), so nothing of it is exposed; publish it without that address",
		},
		{
			"a bad port beside what cannot be adopted", `{"name":"p","services":{"a":{` + ports + `,"network_mode":"none"},"b":{"ports":[{"published":"1"}]}}}`,
			"service \"b\" has a port that has no target, the port of the service\nservice \"a\" cannot be adopted: network_mode: none leaves it without a network; give it one of the project in place of that (" + patterns + "native)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			result, err := Override([]byte(tt.input), usual)
			var faults Faults
			if !errors.As(err, &faults) || err.Error() != tt.want {
				t.Errorf("%v\nwant\n%s", err, tt.want)
			}
			if result.Override != "" {
				t.Error("there is an override all the same")
			}
		})
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	const project = `{"name":"p","services":{"web":{"ports":[{"target":80,"published":"80"}]}}}`
	old := func(change func(*Options)) Options {
		o := before28
		change(&o)
		return o
	}
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"no interface", Options{Parent: "eth 0", Image: "a"}, `--parent "eth 0" is not the name of an interface: at most 15 letters, digits, dots, hyphens and underscores`},
		{"no image", Options{Parent: "eth0", Image: "a b"}, `--image "a b" is not the name of an image`},
		{"all at once", Options{Parent: "-x", Image: "$A"}, "--parent \"-x\" is not the name of an interface: at most 15 letters, digits, dots, hyphens and underscores\n--image \"$A\" is not the name of an image"},
		{"no version", Options{Parent: "eth0", Image: "a", Engine: "new"}, `--engine "new" is not a version of Docker Engine, such as 20.10 or 28`},
		{"no file", Options{Parent: "eth0", Image: "a", Files: []string{"a'\nb"}}, `--file "a'\nb" is not the name of a file that a command line and COMPOSE_FILE can hold: no quotes, colons, dollars, backslashes, and no hyphen in front`},
		{"the LAN's numbers for a new engine", Options{Parent: "eth0", Image: "a", LAN: before28.LAN}, "--lan-subnet, --lan-gateway and --lan-range are for engines before 28 only: leave them out, or say --engine 20.10"},
		{"none for an old one", old(func(o *Options) { o.LAN.Range = "" }), "an engine before 28 needs the LAN's numbers: --lan-subnet 192.0.2.0/24 --lan-gateway 192.0.2.1 (the router) --lan-range 192.0.2.240/29 (addresses that the DHCP server gives to nobody)"},
		{"a strange subnet", old(func(o *Options) { o.LAN.Subnet = "192.0.2.1/24" }), `--lan-subnet "192.0.2.1/24" is not an IPv4 subnet such as 192.0.2.0/24`},
		{"a router elsewhere", old(func(o *Options) { o.LAN.Gateway = "198.51.100.1" }), `--lan-gateway "198.51.100.1" is not an address of 192.0.2.0/24`},
		{"a range elsewhere", old(func(o *Options) { o.LAN.Range = "192.0.0.0/16" }), `--lan-range "192.0.0.0/16" is not a part of 192.0.2.0/24 such as 192.0.2.240/29 is of 192.0.2.0/24`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Override([]byte(project), tt.o); err == nil || err.Error() != tt.want {
				t.Errorf("%v\nwant\n%s", err, tt.want)
			}
		})
	}
	if _, err := Override([]byte("x"), Options{}); len(err.(Faults)) != 3 {
		t.Errorf("faults of options and input are not told together: %v", err)
	}
	for engine, old := range map[string]bool{"20.10": true, "27.5.1": true, "v19.03": true, "28": false, "28.0.0-rc.1": false, "29.1": false, "": false} {
		if checked, _ := (Options{Engine: engine}).check(); checked.old != old {
			t.Errorf("engine %q: old %v", engine, checked.old)
		}
	}
}

// A service that cannot be adopted keeps its ports, where others can.
func TestNotesOfServices(t *testing.T) {
	ports := `"ports":[{"target":80,"published":"80"}]`
	for _, tt := range []struct{ name, services, note string }{
		{"refused", `"x":{"network_mode":"host","ports":[{"target":1}]}`, `service "x" cannot be adopted: network_mode: host makes it a part of the Docker host; give it a network of the project in place of that (https://github.com/AlexCherrypi/anchord/blob/main/docs/patterns.md#native); its ports stay those of the Docker host`},
		{"shares one without ports", `"x":{"network_mode":"service:y"},"y":{}`, `service "x" shares the network of "y", which publishes no port: nothing of it is exposed; if it shall be, give "y" its ports`},
		{"shares one that shares", `"x":{"network_mode":"service:y"},"y":{"network_mode":"service:web"}`, ""},
		{"shares in a ring", `"x":{"network_mode":"service:y"},"y":{"network_mode":"service:x"}`, `service "x" shares the network of "y", which publishes no port: nothing of it is exposed; if it shall be, give "y" its ports`},
		{"shares one with ports", `"x":{"network_mode":"service:web"}`, ""},
		{"several containers", `"x":{"scale":3,"ports":[{"target":1,"published":"1"}]}`, `service "x" has 3 containers: the oldest that runs serves the ports, the others do not`},
		{"replicas", `"x":{"deploy":{"replicas":2},"ports":[{"target":1,"published":"1"}]}`, `service "x" has 2 containers: the oldest that runs serves the ports, the others do not`},
		{"replicas without ports", `"x":{"deploy":{"replicas":2}}`, ""},
		{"host-gateway", `"x":{"extra_hosts":["host.docker.internal=host-gateway"]}`, `service "x" has a name for host-gateway: the Docker host cannot be reached from the project, at that name or at its LAN address; what it runs for the project has to move into the project or to another machine`},
		{"host-gateway in a map", `"x":{"extra_hosts":{"host.docker.internal":["host-gateway"]}}`, `service "x" has a name for host-gateway: the Docker host cannot be reached from the project, at that name or at its LAN address; what it runs for the project has to move into the project or to another machine`},
		{"another host", `"x":{"extra_hosts":["other:192.0.2.7"]}`, ""},
		{"leaves by the host", `"x":{"network_mode":"host"},"y":{"network_mode":"none"}`, `on no network of which anchord can be the gateway, so they send out as before and not as the project: "x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			result := made(t, `{"name":"p","services":{"web":{`+ports+`},`+tt.services+`}}`, usual)
			said := strings.Join(result.Notes[:len(result.Notes)-1], "\n")
			if strings.Contains(said, "Docker chose") {
				t.Errorf("it is said what becomes of ports that stay: %s", said)
			}
			if tt.note == "" && said != "" || !strings.Contains("\n"+said+"\n", "\n"+tt.note+"\n") && tt.note != "" {
				t.Errorf("said %q, want %q", said, tt.note)
			}
		})
	}
	result := made(t, `{"name":"p","services":{"web":{`+ports+`},"x":{"network_mode":"host","ports":[{"target":1,"published":"1"}]}}}`, usual)
	if _, changed := parsed(t, result.Override).Services["x"]; changed {
		t.Errorf("a service that cannot be adopted is changed:\n%s", result.Override)
	}
	for network, want := range map[string]string{
		`{"external":true}`: `service "web" stays on another project's network too, "x"; what it sends out goes by anchord`,
	} {
		said := made(t, world([]string{"web!: front x"}, []string{"x: " + network}), usual).Notes
		if said[0] != want {
			t.Errorf("said %q, want %q", said, want)
		}
		said = made(t, world([]string{"web!: front x"}, []string{"x: " + network}), before28).Notes
		if want := `service "web" is on "x" too, whose gateway is not anchord, and before Engine 28 nobody can say which way it takes: take it off there, or answers may be lost`; said[0] != want {
			t.Errorf("said %q, want %q", said, want)
		}
	}
	said := made(t, world([]string{"web!: six"}, []string{`six: {"enable_ipv6":true}`}), usual).Notes
	if want := `network "six" has IPv6, in which its services would leave by the Docker host, with the host's address: make the file with --ipv6`; said[0] != want {
		t.Errorf("said %q, want %q", said, want)
	}
}

var hostile = []string{
	"web\n  privileged: true\n", "a\r\nb", `"`, `'`, `\`, "a: b", "a #b", "- x", "!reset", "!!binary x", "&a", "*a", "{a}", "[a]", "%TAG", "@x", "`x`",
	"$HOME", "${X:-y}", "$$", "$$$", "yes", "NULL", "~", "1e3", "0x10", "12:30:45", "=", "<<", "?", "a:", ":", " a", "a ", "", ".", "...", "---",
	"\x1b[31m", "\x00", "\u0085", "\u2028x", "\u202eevil", "\ufeff", "é", "日本", "\U0001f600", "\x7f", "%s%d%!", strings.Repeat("long", 50),
}

// Whatever the input calls its services and networks, the override says the same
// name, and nobody is told more than a line.
func TestHostileNames(t *testing.T) {
	o := usual
	o.IPv6 = true
	for _, name := range hostile {
		key, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		input := fmt.Sprintf(`{"name":%[1]s,"services":{%[1]s:{"ports":[{"target":80,"published":"80"},{"host_ip":"127.0.0.1","target":1,"published":"1"}],"networks":{%[1]s:null,"away":{}},
			"extra_hosts":{%[1]s:"host-gateway"},"scale":2,"labels":{%[1]s:%[1]s}},"host":{"network_mode":%[1]s,"image":%[1]s}},
			"networks":{%[1]s:{"name":%[1]s,"ipam":{"config":[{"subnet":%[1]s,"gateway":%[1]s,"aux_addresses":{%[1]s:%[1]s}}]}},"away":{"external":true,"name":%[1]s}}}`, key)
		for _, o := range []Options{usual, o, before28} {
			result, err := Override([]byte(input), o)
			if err != nil {
				if name != "" || !strings.HasPrefix(err.Error(), "what came in on stdin has no name") {
					t.Errorf("%q: %v", name, err)
				}
				continue
			}
			checkHostile(t, name, result, o)
		}
	}
}

func checkHostile(t *testing.T, name string, result Result, o Options) {
	t.Helper()
	got := parsed(t, result.Override)
	if len(got.Services) != 2 || len(got.Networks) != 2 || got.Services[name].Labels["anchord.expose"] != "tcp/80" {
		t.Errorf("%q became\n%s", name, result.Override)
	}
	if got.Name != strings.ReplaceAll(name, "$", "$$") {
		t.Errorf("%q became the project %q", name, got.Name)
	}
	if _, there := got.Networks[name]; !there || strings.Join(got.transits(), "|") != name {
		t.Errorf("%q became the network %q", name, got.transits())
	}
	if o.IPv6 {
		restated := got.Networks[name].IPAM.Config[0]
		aux, _ := restated["aux_addresses"].(map[string]any)
		if restated["subnet"] != name || restated["gateway"] != name || aux[name] != name {
			t.Errorf("%q became the subnet %q", name, restated)
		}
	}
	networks := got.Services["anchord"].Networks
	if !o.IPv6 && networks.Content[1].Value != strings.ReplaceAll(name, "$", "$$") {
		t.Errorf("%q: anchord is on %q", name, networks.Content[1].Value)
	}
	said := result.Told()
	lines := strings.Split(strings.TrimSuffix(said, "\n"), "\n")
	if want := 1 + len(result.Exposed) + len(result.Notes) + 5; len(lines) != want {
		t.Errorf("%q: %d lines, want %d:\n%s", name, len(lines), want, said)
	}
	for _, line := range append(lines, strings.Split(result.Override, "\n")...) {
		if !utf8.ValidString(line) || strings.ContainsFunc(line, unicode.IsControl) || strings.ContainsAny(line, "\u2028\u202e\ufeff") {
			t.Errorf("%q: the line %q", name, line)
		}
	}
	for _, note := range result.Notes {
		if len(name) > 100 && strings.Contains(note, name) {
			t.Errorf("a long name is told in full: %s", note)
		}
	}
}

func FuzzOverride(f *testing.F) {
	for _, name := range hostile {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		key, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		result, err := Override([]byte(fmt.Sprintf(`{"name":"p","services":{%s:{"ports":[{"target":80,"published":"80"}]}}}`, key)), usual)
		if err != nil {
			return
		}
		if err := json.Unmarshal(key, &name); err != nil { // invalid bytes are replaced
			t.Fatal(err)
		}
		if got := parsed(t, result.Override); got.Services[name].Labels["anchord.expose"] != "tcp/80" {
			t.Errorf("%q became\n%s", name, result.Override)
		}
	})
}
