package watch

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

func TestContainerAsDockerListsIt(t *testing.T) {
	raw := container.Summary{
		ID: strings.Repeat("c", 64), Names: []string{"/shop-web-1", "/other/alias"}, Created: 1700000000,
		Labels: map[string]string{"anchord.expose": "tcp/80"},
		NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{
			"shop_transit": {NetworkID: "n1", MacAddress: "02:42:AC:1F:00:05", IPAddress: "10.213.0.5", GlobalIPv6Address: "fd5a:1::5"},
			"not-attached": {NetworkID: ""},
			"nothing":      nil,
		}},
	}
	raw.HostConfig.NetworkMode = "shop_transit"
	want := anchord.Container{
		ID: raw.ID, Name: "shop-web-1", Created: time.Unix(1700000000, 0), Labels: raw.Labels,
		Endpoints: []anchord.Endpoint{{
			NetworkID: "n1", Network: "shop_transit", MAC: "02:42:ac:1f:00:05",
			Addrs: anchord.PerFamily[netip.Addr]{netip.MustParseAddr("10.213.0.5"), netip.MustParseAddr("fd5a:1::5")},
		}},
	}
	if got := readContainer(raw); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

func TestPublishedPorts(t *testing.T) {
	at := func(ip string, public uint16, kind string) container.Port {
		return container.Port{IP: ip, PrivatePort: 80, PublicPort: public, Type: kind}
	}
	ports := []container.Port{
		at("::", 8080, "tcp"), at("0.0.0.0", 8080, "tcp"), at("192.0.2.7", 8082, "tcp"), at("0.0.0.0", 8081, "udp"),
		at("127.0.0.1", 81, "tcp"), at("::1", 81, "tcp"),
		{PrivatePort: 82, Type: "udp"},
		at("0.0.0.0", 65535, "udp"),
	}
	for port := uint16(100); port <= 200; port++ {
		ports = append(ports, at("0.0.0.0", port, "udp"), at("::", port, "udp"))
	}
	want := []string{"tcp/8080", "tcp/8082", "udp/100-200", "udp/8081", "udp/65535"}
	if got := published(ports); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := published(nil); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

func TestContainerInAnothersNamespace(t *testing.T) {
	for mode, want := range map[string]string{"container:abc": "abc", "container:shop-db-1": "shop-db-1", "bridge": "", "host": "", "service:x": ""} {
		var raw container.Summary
		raw.HostConfig.NetworkMode = mode
		if got := readContainer(raw).NamespaceOf; got != want {
			t.Errorf("network mode %q: %q, want %q", mode, got, want)
		}
	}
}

func TestEndpointWithoutAddresses(t *testing.T) {
	got := endpoints(map[string]*network.EndpointSettings{"lan": {NetworkID: "n", IPAddress: "", MacAddress: ""}})
	if len(got) != 1 || got[0].Addrs[anchord.V4].IsValid() || got[0].Addrs[anchord.V6].IsValid() {
		t.Errorf("%+v", got)
	}
}

func TestNetworkAsDockerShowsIt(t *testing.T) {
	raw := network.Inspect{
		ID: "n1", Name: "shop_transit", Driver: "bridge", Internal: true,
		Labels:  map[string]string{"com.docker.compose.network": "transit"},
		Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"},
		IPAM: network.IPAM{Config: []network.IPAMConfig{
			{Subnet: "10.213.0.0/24", Gateway: "10.213.0.1"},
			{Subnet: "fd5a:1::/64", Gateway: "fd5a:1::1/64", AuxAddress: map[string]string{"DefaultGatewayIPv6": "fd5a:1::ffff"}},
			{Subnet: "10.5.0.0/24", AuxAddress: map[string]string{"DefaultGatewayIPv4": "10.5.0.254", "DefaultGatewayIPv6": "fd00::1"}},
			{Subnet: "nonsense"},
		}},
	}
	want := anchord.Network{
		ID: "n1", Name: "shop_transit", Key: "transit", Driver: "bridge", Internal: true, InhibitIPv4: true,
		Pools: []anchord.Pool{
			{Subnet: netip.MustParsePrefix("10.213.0.0/24"), Gateway: netip.MustParseAddr("10.213.0.1")},
			{Subnet: netip.MustParsePrefix("fd5a:1::/64"), Gateway: netip.MustParseAddr("fd5a:1::1"), DefaultGateway: netip.MustParseAddr("fd5a:1::ffff")},
			{Subnet: netip.MustParsePrefix("10.5.0.0/24"), DefaultGateway: netip.MustParseAddr("10.5.0.254")},
		},
	}
	if got := readNetwork(raw, ""); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if bare := readNetwork(network.Inspect{ID: "n2", Name: "lan", Driver: "macvlan"}, "198.51.100.1"); bare.Pools != nil || bare.InhibitIPv4 || bare.Key != "" {
		t.Errorf("a network without anything: %+v", bare)
	}
}

// Docker reads the option as Go reads a boolean, and so do we.
func TestInhibitIPv4AsDockerReadsIt(t *testing.T) {
	for value, want := range map[string]bool{
		"1": true, "t": true, "T": true, "true": true, "TRUE": true, "True": true,
		"0": false, "f": false, "false": false, "False": false, "": false, "yes": false,
	} {
		n := readNetwork(network.Inspect{Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": value}}, "")
		if n.InhibitIPv4 != want {
			t.Errorf("inhibit_ipv4 %q: %v", value, n.InhibitIPv4)
		}
	}
}

// A subnet that was given without a gateway has one, which only the containers
// are told.
func TestGatewayThatDockerChose(t *testing.T) {
	for _, c := range []struct {
		inhibit, given, chosen, want string
	}{
		{inhibit: "true", chosen: "172.22.1.1", want: "172.22.1.1"},
		{inhibit: "true", chosen: "", want: ""},
		{inhibit: "true", chosen: "10.0.0.1", want: ""}, // of another subnet
		{inhibit: "true", given: "172.22.1.9", chosen: "172.22.1.1", want: "172.22.1.9"},
		{inhibit: "", chosen: "172.22.1.1", want: ""}, // the host has it
	} {
		n := readNetwork(network.Inspect{
			Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": c.inhibit},
			IPAM:    network.IPAM{Config: []network.IPAMConfig{{Subnet: "172.22.1.0/24", Gateway: c.given}}},
		}, c.chosen)
		want, _ := netip.ParseAddr(c.want)
		if got := n.Gateway(anchord.V4); got != want {
			t.Errorf("%+v: the gateway is %v", c, got)
		}
	}
}

func TestScopeAsDockersFilter(t *testing.T) {
	scope := anchord.Scope{Labels: []anchord.LabelPair{{Key: "app", Value: "mail"}, {Key: "tier"}}}
	for helpers, want := range map[string][][]string{
		"":        {{"app=mail", "tier="}},
		"wrapper": {{"app=mail", "tier="}, {"anchord.expose", "com.docker.compose.project=wrapper"}},
	} {
		scope.Helpers = helpers
		var got [][]string
		for _, f := range labelFilters(scope) {
			labels := f.Get("label")
			slices.Sort(labels)
			got = append(got, labels)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("helpers %q: %q, want %q", helpers, got, want)
		}
	}
}

func TestNamespaceOwnersOutsideTheScopeAreAskedFor(t *testing.T) {
	exposed := map[string]string{"anchord.expose": "tcp/80"}
	owner := anchord.Container{ID: strings.Repeat("0", 64), Name: "owner"}
	for _, tt := range []struct {
		name string
		list []anchord.Container
		want []string
	}{
		{"its own namespace", []anchord.Container{{ID: "a", Labels: exposed}}, nil},
		{"owner in the list", []anchord.Container{{ID: "a", Labels: exposed, NamespaceOf: owner.ID}, owner}, nil},
		{"owner elsewhere", []anchord.Container{{ID: "a", Labels: exposed, NamespaceOf: "far"}, owner}, []string{"far"}},
		{"not exposed", []anchord.Container{{ID: "a", NamespaceOf: "far"}}, nil},
	} {
		if got := missingOwners(tt.list).Get("id"); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestEventsThatConcernUs(t *testing.T) {
	d := &Docker{id: "self", listing: listing{scope: anchord.ProjectScope("shop")}}
	message := func(kind events.Type, attributes map[string]string) events.Message {
		return events.Message{Type: kind, Actor: events.Actor{Attributes: attributes}}
	}
	const label = "com.docker.compose.project"
	for _, tt := range []struct {
		name string
		m    events.Message
		want anchord.Source
	}{
		{"a container of the project", message(events.ContainerEventType, map[string]string{label: "shop"}), anchord.SourceContainers},
		{"a container of another project", message(events.ContainerEventType, map[string]string{label: "other"}), 0},
		{"a container without a project", message(events.ContainerEventType, nil), 0},
		{"we were connected", message(events.NetworkEventType, map[string]string{"container": "self"}), anchord.SourceContainers | anchord.SourceSelf | anchord.SourceKernel},
		{"another was connected", message(events.NetworkEventType, map[string]string{"container": "other"}), anchord.SourceContainers},
	} {
		if got := d.concerns(tt.m); got != tt.want {
			t.Errorf("%s: %b, want %b", tt.name, got, tt.want)
		}
	}
	unknown := &Docker{}
	if unknown.concerns(message(events.ContainerEventType, nil)) == 0 {
		t.Error("before the scope is known every container may be ours")
	}
	if unknown.concerns(message(events.NetworkEventType, nil))&anchord.SourceSelf != 0 {
		t.Error("an event without a container is about us")
	}
}

func TestDockersErrorsComeWithAdvice(t *testing.T) {
	for said, advice := range map[string]string{
		"dial unix /var/run/docker.sock: connect: permission denied":            "no permission for the docker socket",
		"request returned 403 Forbidden for API route":                          "the socket proxy refuses it",
		"Error response from daemon: <html><body><h1>403 Forbidden</h1></body>": "the socket proxy refuses it",
		"something else": "listing containers: something else",
	} {
		cause := errors.New(said)
		err := explain("listing containers", cause)
		if !strings.Contains(err.Error(), advice) || !errors.Is(err, cause) {
			t.Errorf("%v: want %q", err, advice)
		}
	}
}

func TestNoEngineAnswers(t *testing.T) {
	d, err := NewDocker("unix://"+t.TempDir()+"/none.sock", []string{"me"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Self(t.Context()); err == nil || !strings.Contains(err.Error(), "docker does not answer") {
		t.Errorf("%v", err)
	}
	if _, err := d.Containers(t.Context(), anchord.ProjectScope("shop")); err == nil || !strings.Contains(err.Error(), "docker does not answer") {
		t.Errorf("%v", err)
	}
	if _, err := NewDocker("nonsense", nil); err == nil || !strings.Contains(err.Error(), "DOCKER_HOST") {
		t.Errorf("%v", err)
	}
}

// A socket proxy that refuses events, or whose engine is down, must not look like
// a subscription that ended.
func TestRefusedEventsAreNoSubscription(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusServiceUnavailable} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/_ping" {
				w.Header().Set("Api-Version", "1.41")
				return
			}
			w.WriteHeader(status)
		}))
		defer proxy.Close()
		d, err := NewDocker("tcp://"+strings.TrimPrefix(proxy.URL, "http://"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for range 50 {
			err := d.followOnce(context.Background(), func() { t.Errorf("status %d: taken for a subscription", status) }, func(anchord.Source, time.Time) {})
			if err == nil || t.Failed() {
				t.Fatalf("status %d: %v", status, err)
			}
		}
	}
}

// An engine answers before it has subscribed whoever asks. What happens in between
// is told all the same.
func TestNothingHappensBeforeTheSubscription(t *testing.T) {
	srv, d := fake(t)
	srv.SubscribeAfter(200 * time.Millisecond)
	connected, told := make(chan bool, 1), make(chan anchord.Source, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go d.followOnce(ctx, func() { connected <- true }, func(s anchord.Source, _ time.Time) { told <- s }) //nolint:errcheck // it ends with ctx
	<-connected
	srv.AddContainer(fakedocker.Container{Name: "web", Labels: compose("shop", "web")})
	limit := time.After(20 * time.Second)
	for {
		select {
		case s := <-told:
			if s&anchord.SourceEngine != 0 {
				return
			}
		case <-limit:
			t.Fatal("its start was never told")
		}
	}
}
