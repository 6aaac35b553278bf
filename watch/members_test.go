package watch

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

func fake(t *testing.T) (*fakedocker.Server, *Docker) {
	t.Helper()
	srv, err := fakedocker.Start(filepath.Join(t.TempDir(), "d.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	d, err := NewDocker(srv.Host(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return srv, d
}

func compose(project, service string) map[string]string {
	return map[string]string{"com.docker.compose.project": project, "com.docker.compose.service": service}
}

// look lists the members by name.
func look(t *testing.T, d *Docker, names ...string) map[string]anchord.Member {
	t.Helper()
	list, err := d.Members(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]anchord.Member{}
	for _, m := range list {
		members[m.Name] = m
	}
	return members
}

func TestMembersWithTheirDetails(t *testing.T) {
	srv, d := fake(t)
	gw := srv.AddContainer(fakedocker.Container{Name: "gw", Image: "router:1", ImageID: "sha256:aa", Env: []string{"A=b"}, Cmd: []string{"service-anchor"}, Health: "healthy"})
	late := fakedocker.Container{Name: "late", NetworkMode: "container:" + gw, Labels: compose("shop", "late"), StartError: "no such namespace", ExitCode: 128}
	late.Labels["com.docker.compose.depends_on"] = "db:service_started:true"
	srv.Create(late)
	srv.AddContainer(fakedocker.Container{Name: "db", Labels: compose("shop", "db")})
	srv.AddContainer(fakedocker.Container{Name: "other-db", Labels: compose("other", "db")})
	named := srv.AddContainer(fakedocker.Container{Name: "named"})
	srv.AddContainer(fakedocker.Container{Name: "unrelated"})
	m := look(t, d, "/named")
	if len(m) != 4 || m["named"].ID != named || m["db"].ID == "" {
		t.Errorf("%v", m)
	}
	if o := m["gw"]; !o.Running || o.Started.Before(o.Created) || o.Image != "router:1" || o.ImageID != "sha256:aa" || o.Health != "healthy" ||
		!slices.Equal(o.Env, []string{"A=b"}) || !slices.Equal(o.Args, []string{"service-anchor"}) || o.StartFailed {
		t.Errorf("%+v", o)
	}
	if o := m["late"]; o.Running || !o.Started.IsZero() || o.Created.IsZero() || !o.StartFailed || o.ExitCode != 128 || o.NamespaceOf != gw || o.NamespaceName != "gw" {
		t.Errorf("%+v", o)
	}
	srv.Fail("/containers/"+gw, 500)
	if _, err := d.Members(t.Context()); err == nil || !strings.Contains(err.Error(), "inspecting a container") {
		t.Error(err)
	}
}

func TestFormerNameOfAnOwnerThatIsGone(t *testing.T) {
	srv, d := fake(t)
	gw := srv.AddContainer(fakedocker.Container{Name: "gw"})
	srv.AddContainer(fakedocker.Container{Name: "web", NetworkMode: "container:" + gw})
	unseen, err := NewDocker(srv.Host(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unseen.Close()
	look(t, d) // while it is there
	srv.Remove("gw")
	if name := look(t, unseen)["web"].NamespaceName; name != "gw" {
		t.Errorf("by Docker's events: %q", name)
	}
	srv.DropHistory()
	if name := look(t, d)["web"].NamespaceName; name != "gw" {
		t.Errorf("by memory: %q", name)
	}
	late, err := NewDocker(srv.Host(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	for range 3 {
		if name := look(t, late)["web"].NamespaceName; name != "" {
			t.Errorf("nobody knows, but %q", name)
		}
	}
	if n := srv.Requests()["GET /events"]; n != 2 {
		t.Errorf("events were asked for %d times, want once for each who did not know", n)
	}
	srv.Create(fakedocker.Container{Name: "x", NetworkMode: "container:/lost"})
	if name := look(t, late)["x"].NamespaceName; name != "lost" {
		t.Errorf("joined by name: %q", name)
	}
}

func TestMeetings(t *testing.T) {
	srv, d := fake(t)
	srv.SetNetwork(network.Inspect{Name: "shop"})
	srv.SetNetwork(network.Inspect{Name: "shop_2"}) // which the engine's filter matches too
	on := func(name, network string) map[string]endpoint {
		return map[string]endpoint{network: {IPAddress: name}}
	}
	a := srv.AddContainer(fakedocker.Container{Name: "a", Networks: on("10.0.0.1", "shop")})
	b := srv.AddContainer(fakedocker.Container{Name: "b", Networks: on("10.0.0.2", "shop")})
	srv.Create(fakedocker.Container{Name: "c", Networks: on("10.0.0.3", "shop")})
	srv.AddContainer(fakedocker.Container{Name: "d", Networks: on("10.0.0.4", "shop_2")})
	m, err := d.Meeting(t.Context(), "shop")
	want := []string{a, b}
	slices.Sort(want)
	if err != nil || m.ID == "" || !slices.Equal(m.Present, want) {
		t.Errorf("%+v, %v; want %q", m, err, want)
	}
	srv.RemoveNetwork("shop")
	if m, err := d.Meeting(t.Context(), "shop"); err != nil || m.ID != "" || m.Present != nil {
		t.Errorf("%+v, %v", m, err)
	}
}

type endpoint = network.EndpointSettings

func TestGuests(t *testing.T) {
	srv, d := fake(t)
	srv.SetNetwork(network.Inspect{ID: "n1", Name: "lan"})
	once := compose("shop", "mail")
	once["com.docker.compose.oneoff"] = "True"
	srv.AddContainer(fakedocker.Container{Name: "mail", Labels: compose("other", "mail")})
	srv.AddContainer(fakedocker.Container{Name: "shop-mail-run", Labels: once})
	srv.AddContainer(fakedocker.Container{Name: "shop-mail-1", Labels: compose("shop", "mail"), Networks: map[string]endpoint{
		"lan": {Aliases: []string{"mx"}, DriverOpts: map[string]string{"a": "b"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: "10.0.0.9"}},
	}})
	g, err := d.Guest(t.Context(), "shop", "mail")
	want := []anchord.Place{{NetworkID: "n1", Network: "lan", Aliases: []string{"mx"}, DriverOpts: map[string]string{"a": "b"}, Addrs: anchord.PerFamily[netip.Addr]{netip.MustParseAddr("10.0.0.9")}}}
	if err != nil || g == nil || g.Name != "shop-mail-1" || !g.Running || !reflect.DeepEqual(g.Places, want) {
		t.Fatalf("%+v, %v; want %+v", g, err, want)
	}
	for project, name := range map[string]string{"": "mail", "none": "/mail"} {
		if g, err := d.Guest(t.Context(), project, name); err != nil || g == nil || g.Name != "mail" {
			t.Errorf("by name: %+v, %v", g, err)
		}
	}
	if g, err := d.Guest(t.Context(), "shop", "nobody"); g != nil || err != nil {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestAliasesThatDockerMadeItself(t *testing.T) {
	id := "db" + strings.Repeat("0", 62)
	p := readPlace("lan", &endpoint{Aliases: []string{id[:12], "db", "d", id, "mail"}}, id)
	if want := []string{"db", "d", "mail"}; !slices.Equal(p.Aliases, want) {
		t.Errorf("%q, want %q", p.Aliases, want)
	}
}

// A recreated container has another id than the one that its guests joined, and
// only its name tells that it is the one to follow.
func TestWhoTookThePlaceOfAGoneOwner(t *testing.T) {
	member := func(id, name, joined, joinedName string) anchord.Member {
		return anchord.Member{Container: anchord.Container{ID: id, Name: name, NamespaceOf: joined}, NamespaceName: joinedName}
	}
	guest := member("g", "wrapper-web-anchor-1", "old", "shop-web-1")
	nameless := member("n", "shop-lost-1", "older", "")
	for _, tt := range []struct {
		name    string
		m       anchord.Member
		members []anchord.Member
		want    bool
	}{
		{"the owner's name", member("new", "shop-web-1", "", ""), []anchord.Member{guest}, true},
		{"another name", member("new", "shop-db-1", "", ""), []anchord.Member{guest}, false},
		{"known already", member("old", "shop-web-1", "", ""), []anchord.Member{guest, member("old", "shop-web-1", "", "")}, false},
		{"the gone owner's name is not known", member("new", "", "", ""), []anchord.Member{nameless}, false},
	} {
		if got := successor(tt.m, tt.members); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
