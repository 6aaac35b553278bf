package watch

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

// shop is an engine with a Compose project of that name, and a program that
// watches it.
type shop struct {
	t   *testing.T
	srv *fakedocker.Server
	d   *Docker
}

func newShop(t *testing.T) *shop {
	t.Helper()
	srv, err := fakedocker.Start(filepath.Join(t.TempDir(), "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	s := &shop{t: t, srv: srv}
	s.watch()
	s.network("shop_default", "shop", -time.Hour)
	return s
}

func (s *shop) watch() {
	s.t.Helper()
	d, err := NewDocker(s.srv.Host(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { d.Close() })
	s.d = d
}

// network makes a network (anew) some time from now.
func (s *shop) network(name, project string, from time.Duration) {
	labels := map[string]string{}
	if project != "" {
		labels = map[string]string{"com.docker.compose.project": project, "com.docker.compose.network": "n"}
	}
	s.srv.SetNetwork(network.Inspect{Name: name, Driver: "bridge", Labels: labels, Created: time.Now().Add(from)})
}

func (s *shop) service(name string, networks ...string) string {
	c := fakedocker.Container{
		Name: "shop-" + name + "-1", Created: time.Now().Add(-time.Minute), NetworkMode: "shop_default",
		Labels:   map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": name},
		Networks: map[string]network.EndpointSettings{},
	}
	for _, n := range networks {
		c.Networks[n] = network.EndpointSettings{Aliases: []string{c.Name, name}, IPAddress: "10.0.0.2"}
	}
	return s.srv.AddContainer(c)
}

// remake is what Compose does to a network whose definition changed, and to the
// containers that it keeps.
func (s *shop) remake(name string, containers ...string) {
	for _, c := range containers {
		s.srv.Stop(c)
		s.srv.Disconnect(c, name)
	}
	s.network(name, "shop", 0)
	for _, c := range containers {
		s.srv.Connect(c, name, network.EndpointSettings{IPAddress: "10.0.0.2"})
		s.srv.Start(c)
	}
}

// list looks as the reconciler does.
func (s *shop) list() {
	s.t.Helper()
	s.d.listing.void()
	if _, err := s.d.Containers(context.Background(), anchord.ProjectScope("shop")); err != nil {
		s.t.Fatal(err)
	}
}

// look lists and then looks at names, and tells what is missing and what it cost
// beside the listing.
func (s *shop) look() (missing []string, cost map[string]int) {
	s.t.Helper()
	s.list()
	before := s.srv.Requests()
	if err := s.d.LookAtNames(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	cost = map[string]int{}
	for call, n := range s.srv.Requests() {
		if n > before[call] {
			cost[call[:len("GET /net")]] += n - before[call]
		}
	}
	for _, u := range anchord.Unnamed(s.d.Namings(), nil) {
		missing = append(missing, u.Where())
	}
	return missing, cost
}

func (s *shop) finds(why string, want ...string) {
	s.t.Helper()
	if got, _ := s.look(); !slices.Equal(got, want) {
		s.t.Errorf("%s: %q, want %q", why, got, want)
	}
}

func (s *shop) costs(why string, containers, networks int) {
	s.t.Helper()
	want := map[string]int{}
	if containers > 0 {
		want["GET /con"] = containers
	}
	if networks > 0 {
		want["GET /net"] = networks
	}
	if _, got := s.look(); !maps.Equal(got, want) {
		s.t.Errorf("%s: %v requests, want %v", why, got, want)
	}
}

func (s *shop) due() bool {
	select {
	case <-s.d.naming.due:
		return true
	default:
		return false
	}
}

func TestNamesAreLostWithANetworkMadeAnew(t *testing.T) {
	s := newShop(t)
	db, web := s.service("db", "shop_default"), s.service("web", "shop_default")
	s.finds("as Compose made them")
	s.remake("shop_default", db, web)
	s.finds("made anew", "db on shop_default; web on shop_default")
	s.srv.Restart(db)
	s.finds("a restart", "db on shop_default; web on shop_default")
	s.watch()
	s.finds("seen by another anchord first", "db on shop_default; web on shop_default")
	withNames := func(c *fakedocker.Container) {
		ep := c.Networks["shop_default"]
		ep.Aliases = []string{c.Labels["com.docker.compose.service"]}
		c.Networks["shop_default"] = ep
	}
	s.srv.Recreate(db, withNames)
	s.finds("one cured", "web on shop_default")
	s.srv.Disconnect(web, "shop_default")
	s.srv.Connect(web, "shop_default", network.EndpointSettings{Aliases: []string{"web"}, IPAddress: "10.0.0.2"})
	s.finds("the other by hand")
}

// As Compose leaves containers when it could not make their network anew.
func TestServicesOnNoNetwork(t *testing.T) {
	s := newShop(t)
	s.network("bridge", "", -time.Hour)
	db := s.service("db", "shop_default")
	s.finds("as Compose made it")
	s.due()
	s.srv.Disconnect(db, "shop_default")
	if s.list(); !s.due() {
		t.Error("not due though it is on no network")
	}
	s.finds("on none", "db on no network")
	s.costs("told once", 0, 0)
	s.due()
	s.srv.Connect(db, "shop_default", network.EndpointSettings{Aliases: []string{"db"}, IPAddress: "10.0.0.2"})
	if s.list(); !s.due() {
		t.Error("not due though it is on one again")
	}
	s.finds("on one again")
	s.service("new")
	s.finds("a new one on none", "new on no network")
}

func TestNamesThatNobodyMisses(t *testing.T) {
	s := newShop(t)
	s.network("bridge", "", -time.Hour)
	s.network("by_hand", "", 0)
	s.network("other_default", "other", 0)
	db := s.service("db", "shop_default")
	for _, n := range []string{"bridge", "by_hand", "other_default"} {
		s.srv.Connect(db, n, network.EndpointSettings{IPAddress: "10.0.0.3"})
	}
	for _, mode := range []string{"host", "none", "container:" + db} {
		s.srv.AddContainer(fakedocker.Container{Name: "shop-" + mode[:4] + "-1", NetworkMode: mode, Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "x"}})
	}
	s.finds("networks of others")
	s.costs("all was looked at", 0, 0)
}

func TestNamesByTheirCost(t *testing.T) {
	s := newShop(t)
	db, web := s.service("db", "shop_default"), s.service("web", "shop_default")
	s.costs("at first, all that run", 2, 1)
	s.srv.Restart(web)
	s.costs("a restart", 0, 0)
	s.srv.Recreate(web, func(c *fakedocker.Container) { c.Created = time.Now() })
	s.costs("a recreation", 0, 0)
	s.service("new", "shop_default")
	s.costs("one more", 0, 0)
	s.network("shop_more", "shop", -time.Hour)
	s.srv.Connect(db, "shop_more", network.EndpointSettings{IPAddress: "10.0.0.3"})
	s.costs("connected while it runs", 1, 1)
	s.costs("nothing moved", 0, 0)
	s.remake("shop_default", "shop-db-1", "shop-web-1", "shop-new-1")
	s.costs("a network made anew", 3, 1)
}

func TestNamesAreDueOnlyWhenSomethingMoved(t *testing.T) {
	s := newShop(t)
	db := s.service("db", "shop_default")
	s.look()
	s.due()
	s.srv.Restart(db)
	if s.list(); s.due() {
		t.Error("due after a restart")
	}
	s.remake("shop_default", db)
	if s.list(); !s.due() {
		t.Error("not due though a network was made anew")
	}
	s.look()
	s.due()
	if s.list(); s.due() {
		t.Error("due though nothing moved")
	}
	s.srv.Remove(db)
	if s.list(); !s.due() {
		t.Error("not due though one without a name is gone")
	}
	s.finds("gone")
}

func TestNamesThatCannotBeAskedFor(t *testing.T) {
	s := newShop(t)
	db := s.service("db", "shop_default")
	s.list()
	s.srv.Fail("/networks/", 403)
	if err := s.d.LookAtNames(context.Background()); err == nil {
		t.Error("no error")
	}
	s.srv.Fail("/networks/", 0)
	s.srv.Fail("/containers/"+db, 403)
	if err := s.d.LookAtNames(context.Background()); err == nil {
		t.Error("no error")
	}
	s.srv.Fail("/containers/"+db, 404)
	if err := s.d.LookAtNames(context.Background()); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
	if s.list(); !s.due() {
		t.Error("what was not asked is not due again")
	}
}

// Engine 20.10 tells aliases only, with the short id among them; an endpoint of
// which nothing is told says nothing.
func TestNamesAsEnginesTellThem(t *testing.T) {
	for _, c := range []struct {
		at   network.EndpointSettings
		want []string
	}{
		{network.EndpointSettings{Aliases: []string{"db", "0123456789ab"}}, []string{"db", "0123456789ab"}},
		{network.EndpointSettings{Aliases: []string{"db"}, DNSNames: []string{"shop-db-1", "db"}}, []string{"shop-db-1", "db", "db"}},
		{network.EndpointSettings{}, nil},
	} {
		if got := namesAt(&c.at); !slices.Equal(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
