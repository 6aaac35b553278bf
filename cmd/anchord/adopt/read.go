package adopt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// MaxInput is the size of the largest project that is read. The largest that
// people have are a hundredth of it.
const MaxInput = 8 << 20

// longestName is the longest name of a service or network; Docker makes host names
// and container names of them, which cannot be longer.
const longestName = 200

// project is what matters here of a normalised Compose project.
type project struct {
	Name     string             `json:"name"`
	Services map[string]service `json:"services"`
	Networks map[string]network `json:"networks"`
}

type service struct {
	Image       string                `json:"image"`
	Ports       []port                `json:"ports"`
	Networks    map[string]attachment `json:"networks"`
	NetworkMode string                `json:"network_mode"`
	Labels      keys                  `json:"labels"`
	ExtraHosts  values                `json:"extra_hosts"`
	Profiles    []string              `json:"profiles"`
	Scale       *int                  `json:"scale"`
	Deploy      struct {
		Replicas *int `json:"replicas"`
	} `json:"deploy"`
}

// attachment is a service's entry for a network.
type attachment struct {
	GatewayPriority int    `json:"gw_priority"`
	IPv4Address     string `json:"ipv4_address"`
	IPv6Address     string `json:"ipv6_address"`
}

type network struct {
	Name       string `json:"name"`
	Driver     string `json:"driver"`
	External   bool   `json:"external"`
	Internal   bool   `json:"internal"`
	EnableIPv4 *bool  `json:"enable_ipv4"`
	EnableIPv6 bool   `json:"enable_ipv6"`
	IPAM       struct {
		Config []subnet `json:"config"`
	} `json:"ipam"`
}

type subnet struct {
	Subnet  string            `json:"subnet"`
	Gateway string            `json:"gateway"`
	Range   string            `json:"ip_range"`
	Aux     map[string]string `json:"aux_addresses"`
}

// port is an entry of ports in its long syntax.
type port struct {
	HostIP    string `json:"host_ip"`
	Target    uint16 `json:"target"`
	Published text   `json:"published"`
	Protocol  string `json:"protocol"`
}

// kindError names a field whose value is of a kind that it cannot have.
type kindError string

func (e kindError) Error() string { return "another kind of value stands for " + string(e) }

// text is a string that may also be written as a number.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(t))
	}
	var n json.Number
	if json.Unmarshal(b, &n) != nil {
		return kindError("published")
	}
	*t = text(n)
	return nil
}

// keys are those of a map, which may also be written as a list of key=value.
type keys map[string]bool

func (k *keys) UnmarshalJSON(b []byte) error {
	*k = keys{}
	var object map[string]any
	if json.Unmarshal(b, &object) == nil {
		for key := range object {
			(*k)[key] = true
		}
		return nil
	}
	var entries []string
	if json.Unmarshal(b, &entries) != nil {
		return kindError("labels")
	}
	for _, entry := range entries {
		key, _, _ := strings.Cut(entry, "=")
		(*k)[key] = true
	}
	return nil
}

// values are those of hosts, which Compose writes as a list of host=value or as a
// map to one or more.
type values []string

func (v *values) UnmarshalJSON(b []byte) error {
	var entries []string
	if json.Unmarshal(b, &entries) == nil {
		for _, entry := range entries {
			if i := strings.IndexAny(entry, "=:"); i >= 0 {
				*v = append(*v, entry[i+1:])
			}
		}
		return nil
	}
	var object map[string]any
	if json.Unmarshal(b, &object) != nil {
		return kindError("extra_hosts")
	}
	for _, value := range object {
		switch value := value.(type) {
		case string:
			*v = append(*v, value)
		case []any:
			for _, one := range value {
				*v = append(*v, fmt.Sprint(one))
			}
		}
	}
	return nil
}

// The beginning of a Compose file in YAML, with or without comments above.
var likeYAML = regexp.MustCompile(`(?m)^(name|services|networks|volumes|version|configs|secrets|include|x-[a-z-]+):`)

// read reads a project, or says in Faults why it is none.
func read(input []byte) (*project, error) {
	input = bytes.TrimSpace(bytes.TrimPrefix(input, []byte("\xef\xbb\xbf")))
	switch {
	case len(input) == 0:
		return nil, Faults{"nothing came in on stdin: docker compose config --format json has said why, or is not what is piped in"}
	case len(input) > MaxInput:
		return nil, Faults{fmt.Sprintf("what came in on stdin is larger than %d MiB, so it is no Compose project", MaxInput>>20)}
	case input[0] != '{' && likeYAML.Match(input):
		return nil, Faults{"what came in on stdin is YAML: pipe in what docker compose config --format json writes"}
	}
	p := &project{}
	decoder := json.NewDecoder(bytes.NewReader(input))
	err := decoder.Decode(p)
	if err == nil {
		if _, after := decoder.Token(); !errors.Is(after, io.EOF) {
			return nil, Faults{"what came in on stdin goes on after the project's end: pipe in what docker compose config --format json writes, once"}
		}
		return p, p.check()
	}
	const other = "what came in on stdin is JSON, but not what docker compose config --format json writes: no %s can stand for %s"
	var kind *json.UnmarshalTypeError
	var odd kindError
	switch {
	case errors.As(err, &odd):
		return nil, Faults{fmt.Sprintf(other, "such value", shown(string(odd)))}
	case errors.As(err, &kind):
		return nil, Faults{fmt.Sprintf(other, kind.Value, field(kind.Field))}
	}
	return nil, Faults{"what came in on stdin is not JSON (" + shorten(printable(err.Error())) + "): pipe in what docker compose config --format json writes"}
}

func field(path string) string {
	if path == "" {
		return "the whole project"
	}
	return shown(path)
}

func (p *project) check() error {
	var faults Faults
	if len(p.Services) == 0 {
		return Faults{"what came in on stdin has no services: pipe in what docker compose config --format json writes, in the project's folder"}
	}
	if p.Name == "" {
		faults = append(faults, "what came in on stdin has no name, which docker compose config --format json always writes")
	}
	for _, name := range slices.Concat([]string{p.Name}, p.serviceNames(), p.networkNames()) {
		if len(name) > longestName {
			faults = append(faults, fmt.Sprintf("the name %s is longer than the %d letters that a name can have", shown(name), longestName))
		}
	}
	if faults == nil {
		return nil
	}
	return faults
}

func (p *project) serviceNames() []string { return slices.Sorted(maps.Keys(p.Services)) }

// networkNames are those of all networks, also of such as only services name.
func (p *project) networkNames() []string {
	all := map[string]bool{}
	for name := range p.Networks {
		all[name] = true
	}
	for name := range p.Services {
		for _, on := range p.networksOf(name) {
			all[on] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// networksOf are the networks that a service is on, sorted: default, if it says
// nothing.
func (p *project) networksOf(name string) []string {
	s := p.Services[name]
	switch {
	case s.NetworkMode != "":
		return nil
	case len(s.Networks) == 0:
		return []string{"default"}
	}
	return slices.Sorted(maps.Keys(s.Networks))
}

// byNetwork are the services that are on each network.
func (p *project) byNetwork() map[string][]string {
	members := map[string][]string{}
	for _, name := range p.serviceNames() {
		for _, network := range p.networksOf(name) {
			members[network] = append(members[network], name)
		}
	}
	return members
}

// own says whether anchord can be the network's gateway: it is the project's own
// bridge, and has IPv4 and a way out.
func (n network) own() bool {
	return !n.External && !n.Internal && n.bridge() && (n.EnableIPv4 == nil || *n.EnableIPv4)
}

func (n network) bridge() bool { return n.Driver == "" || n.Driver == "bridge" }

// leads says whether Docker may have containers' default route lead there.
func (n network) leads() bool { return !n.Internal }
