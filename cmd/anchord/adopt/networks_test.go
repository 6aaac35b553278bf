package adopt

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// world writes a project: services as "name[!]: network network", where ! says that
// it publishes a port, and networks as "name: JSON" for all that are not plain.
func world(services, networks []string) string {
	var s, n []string
	for i, line := range services {
		name, on, _ := strings.Cut(line, ": ")
		ports := ""
		if strings.HasSuffix(name, "!") {
			name = strings.TrimSuffix(name, "!")
			ports = fmt.Sprintf(`"ports":[{"target":80,"published":"%d"}],`, 8000+i*10)
		}
		var attached []string
		for _, network := range strings.Fields(on) {
			network, priority, given := strings.Cut(network, "=")
			entry := "null"
			if given {
				entry = `{"gw_priority":` + priority + `}`
			}
			attached = append(attached, fmt.Sprintf("%q:%s", network, entry))
		}
		s = append(s, fmt.Sprintf(`%q:{%s"networks":{%s}}`, name, ports, strings.Join(attached, ",")))
	}
	for _, line := range networks {
		name, config, _ := strings.Cut(line, ": ")
		n = append(n, fmt.Sprintf(`%q:%s`, name, config))
	}
	return fmt.Sprintf(`{"name":"p","services":{%s},"networks":{%s}}`, strings.Join(s, ","), strings.Join(n, ","))
}

func TestWhichNetworksAnchordIsTheGatewayOf(t *testing.T) {
	for _, tt := range []struct {
		name               string
		services, networks []string
		old                bool
		transits           string
		ways               string // service=network:priority
	}{
		{"the default network", []string{"web!: ", "db: "}, nil, false, "default", ""},
		{"the one with the ports", []string{"web!: front", "db: back"}, []string{`back: {"internal":true}`}, false, "front", ""},
		{"most services with ports", []string{"a!: x", "b!: y", "c!: x y"}, nil, false, "x y", ""},
		{"a second one that has a way out", []string{"web!: front back", "db: back", "job: front"}, nil, false, "back front", ""},
		{"the one on which all are is enough", []string{"web!: front back", "db: back"}, nil, false, "back", "web=back:1"},
		{"a tie goes to the most services", []string{"web!: a b", "one: b", "two: b"}, nil, false, "b", "web=b:1"},
		{"then to default", []string{"web!: a default", "x: a default"}, nil, false, "default", "web=default:1 x=default:1"},
		{"then to the name", []string{"web!: b a"}, nil, false, "a", "web=a:1"},
		{"before 28 there is no priority", []string{"web!: front back", "db: back"}, nil, true, "back front", ""},
		{"one network covers two services", []string{"web!: front", "a: x", "b: x y", "c: x"}, nil, false, "front x", "b=x:1"},
		{"the network that covers most comes first", []string{"web!: front", "a: a z", "b: b z", "c: z"}, nil, false, "front z", "a=z:1 b=z:1"},
		{"a higher priority than the project's own", []string{"web!: front back=7", "db: front"}, nil, false, "front", "web=front:8"},
		{"a priority that is there already", []string{"web!: front=5 back", "db: front"}, nil, false, "front", ""},
		{"an internal network takes no route", []string{"web!: front back", "db: back"}, []string{`back: {"internal":true}`}, false, "front", ""},
		{"another project's network", []string{"web!: front proxy"}, []string{`proxy: {"external":true,"name":"proxy"}`}, false, "front", "web=front:1"},
		{"a macvlan network", []string{"web!: front lan2", "tv: lan2"}, []string{`lan2: {"driver":"macvlan"}`}, false, "front", "web=front:1"},
		{"a network with IPv6 has its way before the priority", []string{"web!: front back", "db: front", "x: front"}, []string{`back: {"enable_ipv6":true}`}, false, "back front", ""},
		{"one without IPv4 cannot be it", []string{"web!: six front"}, []string{`six: {"enable_ipv4":false,"enable_ipv6":true}`}, false, "front", "web=front:1"},
		{"also by its driver's name", []string{"web!: front"}, []string{`front: {"driver":"bridge","driver_opts":{"a":"b"}}`}, false, "front", ""},
		{"unused networks are left alone", []string{"web!: front"}, []string{`idle: {}`}, false, "front", ""},
		{"unused ones before 28 too", []string{"web!: front"}, []string{`idle: {}`}, true, "front", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := usual
			if tt.old {
				o = before28
			}
			got := parsed(t, made(t, world(tt.services, tt.networks), o).Override)
			if transits := strings.Join(got.transits(), " "); transits != tt.transits {
				t.Errorf("transits %q, want %q", transits, tt.transits)
			}
			if ways := got.ways(t); ways != tt.ways {
				t.Errorf("ways out %q, want %q", ways, tt.ways)
			}
		})
	}
}

// A project with many networks is no matter of minutes.
func TestManyNetworks(t *testing.T) {
	var services []string
	for i := range 300 {
		services = append(services, fmt.Sprintf("web%d!: net%d", i, i))
	}
	began := time.Now()
	if got := len(parsed(t, made(t, world(services, nil), usual).Override).transits()); got != len(services) {
		t.Errorf("%d transits", got)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// ways are the gateway priorities, by service.
func (o override) ways(t *testing.T) string {
	t.Helper()
	var ways []string
	for _, name := range slices.Sorted(maps.Keys(o.Services)) {
		var networks map[string]struct {
			Priority int `yaml:"gw_priority"`
		}
		if name == "anchord" {
			continue
		}
		node := o.Services[name].Networks
		if node.IsZero() {
			continue
		}
		if err := node.Decode(&networks); err != nil {
			t.Fatal(err)
		}
		for network, entry := range networks {
			ways = append(ways, fmt.Sprintf("%s=%s:%d", name, network, entry.Priority))
		}
	}
	return strings.Join(ways, " ")
}

func TestNamesThatAreTaken(t *testing.T) {
	for _, tt := range []struct {
		name               string
		services, networks []string
		anchord, lan       string
	}{
		{"none", []string{"web!: "}, nil, "anchord", "lan"},
		{"both", []string{"web!: lan", "anchord: lan"}, nil, "anchord-lan", "anchord-lan"},
		{"the others as well", []string{"web!: lan anchord-lan", "anchord: lan", "anchord-lan: lan", "anchord-lan2: lan"}, nil, "anchord-lan3", "anchord-lan2"},
		{"what Docker calls it", []string{"web!: front"}, []string{`front: {"name":"p_lan"}`}, "anchord", "anchord-lan"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := usual
			o.Image = "example.org/gateway"
			got := parsed(t, made(t, world(tt.services, tt.networks), o).Override)
			if got.Services[tt.anchord].Image != o.Image {
				t.Errorf("anchord is not %s, of %v", tt.anchord, slices.Sorted(maps.Keys(got.Services)))
			}
			if got.Networks[tt.lan].Driver != "macvlan" {
				t.Errorf("the LAN is not %s, of %v", tt.lan, slices.Sorted(maps.Keys(got.Networks)))
			}
		})
	}
}

func TestIPv6(t *testing.T) {
	o := usual
	o.IPv6 = true
	for _, tt := range []struct {
		name, network, services string
		want                    string // the network's subnets and gateways
	}{
		{"none yet", `{}`, `{}`, "- @ @::ffff"},
		{"turned on, and Docker chooses", `{"enable_ipv6":true}`, `{}`, "- @ @::ffff"},
		{"an IPv4 subnet", `{"ipam":{"config":[{"subnet":"10.9.0.0/24","gateway":"10.9.0.1"}]}}`, `{}`, "!override 10.9.0.0/24  @ @::ffff"},
		{"a subnet of its own", `{"enable_ipv6":true,"ipam":{"config":[{"subnet":"2001:db8:7::/64"}]}}`, `{}`, "!override 2001:db8:7::/64 2001:db8:7::ffff"},
		{"a small one", `{"enable_ipv6":true,"ipam":{"config":[{"subnet":"fd00:7::10/124"}]}}`, `{}`, "!override fd00:7::10/124 fd00:7::1f"},
		{"an address that is taken", `{"enable_ipv6":true,"ipam":{"config":[{"subnet":"fd00:7::/64","gateway":"fd00:7::ffff","aux_addresses":{"x":"fd00:7::fffd"}}]}}`, `{"ipv6_address":"fd00:7::fffe"}`, "!override fd00:7::/64 fd00:7::fffc"},
		{"a gateway that is said already", `{"enable_ipv6":true,"ipam":{"config":[{"subnet":"fd00:7::/64","aux_addresses":{"DefaultGatewayIPv6":"fd00:7::1234"}}]}}`, `{}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			input := fmt.Sprintf(`{"name":"p","services":{"web":{"ports":[{"target":80,"published":"80"}],"networks":{"front":%s}}},"networks":{"front":%s}}`, tt.services, tt.network)
			result := made(t, input, o)
			front := parsed(t, result.Override).Networks["front"]
			if !front.EnableIPv6 {
				t.Error("IPv6 is off")
			}
			mark := "-"
			if strings.Contains(result.Override, "config: !override") {
				mark = "!override"
			}
			var got []string
			for _, s := range front.IPAM.Config {
				aux, _ := s["aux_addresses"].(map[string]any)
				gateway, _ := aux[gatewayKey].(string)
				got = append(got, fmt.Sprint(s["subnet"])+" "+gateway)
			}
			all := strings.Join(got, " ")
			if len(got) > 0 {
				all = mark + " " + all
			}
			own := uniqueLocal("p", "front").Addr().String()
			want := strings.ReplaceAll(strings.ReplaceAll(tt.want, "@::", own), "@", own+"/64")
			if all != want {
				t.Errorf("%q, want %q\n%s", all, want, result.Override)
			}
		})
	}
}

// Docker gives a container without an address the first that nobody has at the time,
// be it that of a service that starts later and does not start then.
func TestAnchordTakesNoAddressOfAService(t *testing.T) {
	six := usual
	six.IPv6 = true
	const ten = `{"ipam":{"config":[{"subnet":"10.9.0.0/24"}]}}`
	for _, tt := range []struct {
		name, network, service string
		o                      Options
		want                   map[string]string
	}{
		{"Docker chooses", ten, `{}`, usual, nil},
		{"a service has one", ten, `{"ipv4_address":"10.9.0.2"}`, usual, map[string]string{"ipv4_address": "10.9.0.254"}},
		{"before Engine 28", ten, `{"ipv4_address":"10.9.0.2"}`, before28, map[string]string{"ipv4_address": "10.9.0.254"}},
		{"the last are taken", `{"ipam":{"config":[{"subnet":"10.9.0.0/24","gateway":"10.9.0.254","aux_addresses":{"x":"10.9.0.252"}}]}}`, `{"ipv4_address":"10.9.0.253"}`, usual, map[string]string{"ipv4_address": "10.9.0.251"}},
		{"a large subnet", `{"ipam":{"config":[{"subnet":"10.9.3.0/8"}]}}`, `{"ipv4_address":"10.9.0.253"}`, usual, map[string]string{"ipv4_address": "10.0.255.254"}},
		{"none is left", `{"ipam":{"config":[{"subnet":"10.9.0.0/30"}]}}`, `{"ipv4_address":"10.9.0.2"}`, usual, nil},
		{"of another subnet", ten, `{"ipv4_address":"10.8.0.2"}`, usual, nil},
		{"no subnet", `{}`, `{"ipv4_address":"10.9.0.2"}`, usual, nil},
		{"IPv6 beside it", ten, `{"ipv4_address":"10.9.0.2"}`, six, map[string]string{"ipv4_address": "10.9.0.254"}},
		{
			"both families", `{"enable_ipv6":true,"ipam":{"config":[{"subnet":"10.9.0.0/24"},{"subnet":"fd00:7::/64"}]}}`, `{"ipv4_address":"10.9.0.2","ipv6_address":"fd00:7::2"}`, six,
			map[string]string{"ipv4_address": "10.9.0.254", "ipv6_address": "fd00:7::fffe"}, // its gateway's has the last
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			input := fmt.Sprintf(`{"name":"p","services":{"web":{"ports":[{"target":80,"published":"80"}],"networks":{"front":%s}}},"networks":{"front":%s}}`, tt.service, tt.network)
			result := made(t, input, tt.o)
			var networks map[string]struct {
				Addresses map[string]string `yaml:",inline"`
			}
			if node := parsed(t, result.Override).Services["anchord"].Networks; node.Kind == yaml.MappingNode {
				if lan := node.Content[1]; lan.Kind == yaml.MappingNode {
					lan.Content = nil
				}
				if err := node.Decode(&networks); err != nil {
					t.Fatal(err)
				}
			}
			if got := networks["front"].Addresses; !maps.Equal(got, tt.want) {
				t.Errorf("%v, want %v\n%s", got, tt.want, result.Override)
			}
		})
	}
}

func TestEachNetworkHasAnIPv6SubnetOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, project := range []string{"a", "b", "a\x00b"} {
		for _, network := range []string{"a", "b", "default"} {
			prefix := uniqueLocal(project, network)
			if prefix.Bits() != 64 || prefix.Addr().As16()[0] != 0xfd || prefix != prefix.Masked() || seen[prefix.String()] {
				t.Errorf("%s for %s of %q", prefix, network, project)
			}
			seen[prefix.String()] = true
		}
	}
}
