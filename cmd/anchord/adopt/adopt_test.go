package adopt

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/AlexCherrypi/anchord/test/generated"
)

const (
	examples = "../../../examples/adopt"
	docs     = "../../../docs"
)

// usual are the options that nobody has to say, and the one that everybody has to.
var usual = Options{Parent: "eth0", Image: "ghcr.io/alexcherrypi/anchord"}

var before28 = Options{
	Parent: "eth0", Image: "ghcr.io/alexcherrypi/anchord", Engine: "20.10",
	LAN: LAN{Subnet: "192.0.2.0/24", Gateway: "192.0.2.1", Range: "192.0.2.240/29"},
}

func made(t *testing.T, input string, o Options) Result {
	t.Helper()
	result, err := Override([]byte(input), o)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// override is what the tests look for in one, as Compose would read it.
type override struct {
	Name     string
	Networks map[string]struct {
		Driver     string
		EnableIPv4 *bool             `yaml:"enable_ipv4"`
		EnableIPv6 bool              `yaml:"enable_ipv6"`
		DriverOpts map[string]string `yaml:"driver_opts"`
		IPAM       struct{ Config []map[string]any }
	}
	Services map[string]struct {
		Image       string
		Ports       []any
		Labels      map[string]string
		Networks    yaml.Node
		Environment map[string]string
		Sysctls     map[string]string
	}
}

func parsed(t *testing.T, text string) override {
	t.Helper()
	var o override
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(false)
	if err := decoder.Decode(&o); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return o
}

// transits are the networks that get anchord as their gateway.
func (o override) transits() []string {
	var names []string
	for name, n := range o.Networks {
		if n.DriverOpts["com.docker.network.bridge.inhibit_ipv4"] == "true" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Each example's project, as Compose 5.5.1 wrote it with config --format json.
func exampleConfigs(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.config.json")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	configs := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		configs[strings.TrimSuffix(filepath.Base(file), ".config.json")] = string(text)
	}
	return configs
}

func TestExamplesBecomeServers(t *testing.T) {
	for name, config := range exampleConfigs(t) {
		t.Run(name, func(t *testing.T) {
			result := made(t, config, usual)
			generated.Golden(t, name+".yaml", result.Override)
			generated.Golden(t, name+".said", result.Told())
		})
	}
}

func TestEveryFormOfAnExample(t *testing.T) {
	config := exampleConfigs(t)["gitea"]
	old := before28
	old.IPv6, old.Proxy = true, true
	for name, o := range map[string]Options{
		"ipv6":      {Parent: "eth0.42", Image: usual.Image, IPv6: true},
		"proxy":     {Parent: "eth0", Image: usual.Image, Proxy: true, Files: []string{"compose.yaml", "compose.override.yaml"}},
		"before-28": before28,
		"all-old":   old,
	} {
		t.Run(name, func(t *testing.T) {
			result := made(t, config, o)
			generated.Golden(t, "gitea-"+name+".yaml", result.Override)
			generated.Golden(t, "gitea-"+name+".said", result.Told())
		})
	}
}

// What the tests adopt is what the folder has: the same services, but for those of a
// profile, and the same networks.
func TestExamplesAreWhatIsTested(t *testing.T) {
	configs := exampleConfigs(t)
	folders, err := filepath.Glob(filepath.Join(examples, "*", "compose.yaml"))
	if err != nil || len(folders) != len(configs) {
		t.Fatal(folders, err)
	}
	for _, file := range folders {
		name := filepath.Base(filepath.Dir(file))
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var theirs struct {
			Services map[string]struct {
				Image    string
				Profiles []string
			}
			Networks map[string]any
		}
		if err := yaml.Unmarshal(text, &theirs); err != nil {
			t.Fatal(err)
		}
		var ours project
		if err := json.Unmarshal([]byte(configs[name]), &ours); err != nil {
			t.Fatal(err)
		}
		want, got := map[string]string{}, map[string]string{}
		for s, v := range theirs.Services {
			if len(v.Profiles) == 0 {
				want[s] = v.Image
			}
		}
		for s, v := range ours.Services {
			got[s] = v.Image
		}
		if !maps.Equal(want, got) {
			t.Errorf("%s has %v, testdata/%s.config.json %v: make that anew with docker compose config --format json", file, want, name, got)
		}
		for n := range theirs.Networks {
			if _, there := ours.Networks[n]; !there {
				t.Errorf("testdata/%s.config.json has no network %s", name, n)
			}
		}
	}
}

func TestTheSameInputGivesTheSameBytes(t *testing.T) {
	o := usual
	o.IPv6, o.Proxy = true, true
	for name, config := range exampleConfigs(t) {
		first := made(t, config, o)
		for range 20 {
			if again := made(t, config, o); again.Override != first.Override || again.Told() != first.Told() {
				t.Fatalf("%s differs:\n%s\n%s", name, first.Override, again.Override)
			}
		}
	}
}

// The socket proxy is that of the documentation, which is run by the tests.
func TestProxyIsThatOfTheDocs(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "socket-proxy.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```haproxy\n")
	block, _, _ = strings.Cut(block, "```")
	want := strings.Replace(block, "    # Blocks of further rights go here.\n\n", "", 1)
	if proxyConfig != want {
		t.Errorf("socket-proxy.cfg is\n%s\ndocs/socket-proxy.md has\n%s", proxyConfig, want)
	}
	o := usual
	o.Proxy = true
	result := made(t, `{"name":"p","services":{"web":{"ports":[{"target":80,"published":"80"}]}}}`, o)
	proxy := parsed(t, result.Override).Services["socket-proxy"]
	if got := strings.ReplaceAll(proxy.Environment["SOCKET_PROXY_CFG"], "$$", "$"); got != want {
		t.Errorf("the proxy is given\n%s", got)
	}
	if strings.Count(result.Override, "docker.sock:") != 1 || strings.Contains(result.Override, "docker.sock:ro") {
		t.Errorf("anchord has the socket beside the proxy:\n%s", result.Override)
	}
}

func TestAnchordHasTheLeastPrivilegeOfTheDocs(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	result := made(t, exampleConfigs(t)["paperless"], usual)
	if !strings.Contains(block, "cap_drop: [ALL]") {
		t.Fatalf("docs/security.md begins with\n%s", block)
	}
	for line := range strings.Lines(block) {
		if !strings.Contains(result.Override, line) {
			t.Errorf("the override lacks %q of docs/security.md", line)
		}
	}
}

// Without them Compose leaves what runs of a profile on the old network, which
// therefore cannot be made anew, and fails when it has stopped all else.
func TestTheCommandStartsProfilesToo(t *testing.T) {
	for profiles, want := range map[string]string{
		`"debug"`:              " --profile debug",
		`"tools","debug"`:      " --profile tools",
		`"x y","-d","it's",""`: "",
	} {
		config := `{"name":"p","services":{"web":{"ports":[{"target":80,"published":"80"}]},"a":{"profiles":[` + profiles + `]},"b":{"profiles":[` + profiles + `]}}}`
		if got := made(t, config, usual).Start; got != "docker compose"+want+" -f compose.yaml -f compose.anchord.yaml up -d --force-recreate" {
			t.Errorf("%s: %s", profiles, got)
		}
	}
}

// Compose takes an override by itself only as long as no file is named.
func TestFilesThatWereNotNamedAreMentioned(t *testing.T) {
	const config, hint = `{"name":"p","services":{"web":{"ports":[{"target":80,"published":"80"}]}}}`, "note: the commands below use compose.yaml alone: "
	o := usual
	if said := made(t, config, o).Told(); !strings.Contains(said, hint) {
		t.Error(said)
	}
	o.Files = []string{"compose.yaml", "more.yaml"}
	if said := made(t, config, o).Told(); strings.Contains(said, " alone: ") {
		t.Error(said)
	}
}

func TestTheLastLinesAreTheCommands(t *testing.T) {
	o := usual
	o.Files = []string{"compose.yaml", "it is mine.yaml"}
	said := made(t, `{"name":"p","services":{"web":{"ports":[{"target":80,"published":"80"}]}}}`, o).Told()
	lines := strings.Split(strings.TrimSuffix(said, "\n"), "\n")
	if got, want := lines[len(lines)-3], "  docker compose -f compose.yaml -f 'it is mine.yaml' -f compose.anchord.yaml up -d --force-recreate"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := lines[len(lines)-1], "  COMPOSE_FILE='compose.yaml:it is mine.yaml:compose.anchord.yaml'"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
