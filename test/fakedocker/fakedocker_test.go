package fakedocker_test

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

func start(t *testing.T) (*fakedocker.Server, *client.Client) {
	t.Helper()
	srv, err := fakedocker.Start(filepath.Join(t.TempDir(), "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	cli, err := client.NewClientWithOpts(client.WithHost(srv.Host()), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cli.Close() })
	srv.SetNetwork(network.Inspect{
		Name: "p_transit", Driver: "bridge", Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"},
		IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "10.213.0.0/24", Gateway: "10.213.0.1", AuxAddress: map[string]string{"DefaultGatewayIPv6": "fd5a:1::ffff"}}}},
	})
	return srv, cli
}

func web() fakedocker.Container {
	return fakedocker.Container{
		Name:   "p-web-1",
		Labels: map[string]string{"com.docker.compose.project": "p", "anchord.expose": "tcp/80"},
		Networks: map[string]network.EndpointSettings{
			"p_transit": {IPAddress: "10.213.0.10", IPPrefixLen: 24, MacAddress: "02:00:00:00:00:0a", Gateway: "10.213.0.1"},
		},
	}
}

func TestListShowsWhatTheEngineShows(t *testing.T) {
	srv, cli := start(t)
	id := srv.AddContainer(web())
	stopped := srv.Create(fakedocker.Container{Name: "p-cold-1", Labels: map[string]string{"com.docker.compose.project": "p"}})
	list := func(all bool, args ...filters.KeyValuePair) []string {
		t.Helper()
		got, err := cli.ContainerList(context.Background(), container.ListOptions{All: all, Filters: filters.NewArgs(args...)})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, c := range got {
			ids = append(ids, c.ID)
		}
		slices.Sort(ids)
		return ids
	}
	both := []string{id, stopped}
	slices.Sort(both)
	project := filters.Arg("label", "com.docker.compose.project=p")
	for name, c := range map[string]struct {
		all  bool
		args []filters.KeyValuePair
		want []string
	}{
		"running ones":            {false, nil, []string{id}},
		"all":                     {true, []filters.KeyValuePair{project}, both},
		"by label key":            {true, []filters.KeyValuePair{filters.Arg("label", "anchord.expose")}, []string{id}},
		"two labels must both be": {true, []filters.KeyValuePair{project, filters.Arg("label", "anchord.expose=no")}, nil},
		"by status":               {false, []filters.KeyValuePair{filters.Arg("status", "created")}, []string{stopped}},
		"by id":                   {false, []filters.KeyValuePair{filters.Arg("id", id[:12])}, []string{id}},
	} {
		if got := list(c.all, c.args...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if n := srv.Requests()["GET /containers/json"]; n != 6 {
		t.Errorf("counted %d list calls, want 6", n)
	}
}

func TestInspectByIDPrefixAndName(t *testing.T) {
	srv, cli := start(t)
	id := srv.AddContainer(web())
	for _, ref := range []string{id, id[:12], "p-web-1", "/p-web-1"} {
		got, err := cli.ContainerInspect(context.Background(), ref)
		if err != nil || got.ID != id || got.NetworkSettings.Networks["p_transit"].IPAddress != "10.213.0.10" {
			t.Errorf("inspect %q: %+v, %v", ref, got, err)
		}
	}
	n, err := cli.NetworkInspect(context.Background(), "p_transit", network.InspectOptions{})
	if err != nil || n.IPAM.Config[0].Gateway != "10.213.0.1" || n.Containers[id].Name != "p-web-1" {
		t.Errorf("network: %+v, %v", n, err)
	}
	if nets, err := cli.NetworkList(context.Background(), network.ListOptions{}); err != nil || len(nets) != 1 {
		t.Errorf("networks: %+v, %v", nets, err)
	}
	srv.Stop(id)
	got, err := cli.ContainerInspect(context.Background(), id)
	if err != nil || got.State.Running || got.NetworkSettings.Networks["p_transit"].IPAddress != "" {
		t.Errorf("a stopped container still has its address: %+v, %v", got, err)
	}
}

func actions(t *testing.T, msgs <-chan events.Message, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		select {
		case m := <-msgs:
			if m.TimeNano == 0 {
				t.Error("an event without timeNano")
			}
			got = append(got, string(m.Type)+" "+string(m.Action))
		case <-time.After(5 * time.Second):
			t.Fatalf("after %v no further event", got)
		}
	}
	return got
}

func TestEventsComeInTheOrderOfARealEngine(t *testing.T) {
	srv, cli := start(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	msgs, _ := cli.Events(ctx, events.ListOptions{})
	since := time.Now()
	id := srv.AddContainer(web())
	id = srv.Recreate(id, nil)
	srv.Die(id)
	want := []string{
		"container create", "network connect", "container start",
		"container kill", "network disconnect", "container die", "container destroy",
		"container create", "network connect", "container start",
		"network disconnect", "container die",
	}
	if got := actions(t, msgs, len(want)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	past, _ := cli.Events(ctx, events.ListOptions{
		Since:   strconv.FormatInt(since.Unix(), 10),
		Filters: filters.NewArgs(filters.Arg("type", "container"), filters.Arg("event", "die"), filters.Arg("event", "start")),
	})
	want = []string{"container start", "container die", "container start", "container die"}
	if got := actions(t, past, len(want)); !slices.Equal(got, want) {
		t.Errorf("since and filters: got %v, want %v", got, want)
	}
}

func TestTheEngineGoesAwayAndComesBack(t *testing.T) {
	srv, cli := start(t)
	_, errs := cli.Events(context.Background(), events.ListOptions{})
	srv.Down()
	select {
	case err := <-errs:
		if err == nil {
			t.Error("the stream ended without an error")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the stream outlived the engine")
	}
	if _, err := cli.Ping(context.Background()); err == nil {
		t.Error("an engine that is down answers")
	}
	if err := srv.Up(); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.ServerVersion(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	srv, cli := start(t)
	id := srv.AddContainer(web())
	srv.Fail("/containers", http.StatusForbidden)
	if _, err := cli.ContainerInspect(context.Background(), id); err == nil {
		t.Error("a refused call went through")
	}
	srv.Fail("/containers", 0)
	if _, err := cli.ContainerInspect(context.Background(), id); err != nil {
		t.Error(err)
	}
	if len(srv.Writes()) != 0 {
		t.Error("reads were counted as writes")
	}
	if err := cli.ContainerStart(context.Background(), id, container.StartOptions{}); err == nil || len(srv.Writes()) != 1 {
		t.Errorf("a write: %v, counted %d", err, len(srv.Writes()))
	}
}
