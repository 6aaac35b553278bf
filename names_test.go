package anchord_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// serviceOf is a running container of a service of the Compose project shop.
func serviceOf(service string) anchord.Container {
	return anchord.Container{
		ID: "id-of-" + service, Name: "shop-" + service + "-1",
		Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": service, "com.docker.compose.oneoff": "False"},
	}
}

func TestServicesWhoseNameIsMissing(t *testing.T) {
	db, web := serviceOf("db"), serviceOf("web")
	lost := func(c anchord.Container, network string) anchord.Naming {
		return anchord.Naming{Container: c, Network: network, Names: []string{c.Name, "0123456789ab"}}
	}
	named := func(c anchord.Container, network string, names ...string) anchord.Naming {
		return anchord.Naming{Container: c, Network: network, Names: names}
	}
	relabelled := func(c anchord.Container, label, value string) anchord.Container {
		labels := map[string]string{}
		for k, v := range c.Labels {
			labels[k] = v
		}
		labels[label] = value
		c.Labels = labels
		return c
	}
	for name, c := range map[string]struct {
		namings []anchord.Naming
		want    []string // project: where
	}{
		"nothing to look at":         {nil, nil},
		"it is there":                {[]anchord.Naming{named(db, "shop_default", "shop-db-1", "db", "0123456789ab")}, nil},
		"in other letters":           {[]anchord.Naming{named(relabelled(db, "com.docker.compose.service", "DB"), "shop_default", "db")}, nil},
		"container_name beside it":   {[]anchord.Naming{named(db, "shop_default", "postgres", "db")}, nil},
		"the engine tells no names":  {[]anchord.Naming{named(db, "shop_default")}, nil},
		"the container is called so": {[]anchord.Naming{named(func() anchord.Container { c := db; c.Name = "db"; return c }(), "shop_default", "0123456789ab")}, nil},
		"a one-off":                  {[]anchord.Naming{lost(relabelled(db, "com.docker.compose.oneoff", "True"), "shop_default")}, nil},
		"no service of Compose's":    {[]anchord.Naming{lost(relabelled(db, "com.docker.compose.service", ""), "shop_default")}, nil},
		"in another's namespace":     {[]anchord.Naming{lost(func() anchord.Container { c := db; c.NamespaceOf = "web"; return c }(), "shop_default")}, nil},
		"one":                        {[]anchord.Naming{lost(db, "shop_default")}, []string{"shop: db on shop_default"}},
		"several, sorted": {
			[]anchord.Naming{lost(web, "shop_transit"), lost(db, "shop_transit"), named(web, "shop_default", "web"), lost(db, "shop_default")},
			[]string{"shop: db on shop_default and shop_transit; web on shop_transit"},
		},
		"two containers of one service": {
			[]anchord.Naming{lost(db, "shop_default"), lost(func() anchord.Container { c := db; c.ID, c.Name = "2", "shop-db-2"; return c }(), "shop_default")},
			[]string{"shop: db on shop_default"},
		},
		"on no network": {
			[]anchord.Naming{{Container: web}, lost(db, "shop_default")}, []string{"shop: db on shop_default; web on no network"},
		},
		"two projects": {
			[]anchord.Naming{lost(relabelled(web, "com.docker.compose.project", "zoo"), "zoo_default"), lost(db, "shop_default")},
			[]string{"shop: db on shop_default", "zoo: web on zoo_default"},
		},
		"a label that anybody wrote": {
			[]anchord.Naming{lost(relabelled(db, "com.docker.compose.service", "a\nb"), "shop_default")},
			[]string{`shop: "a\nb" on shop_default`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, u := range anchord.Unnamed(c.namings, nil) {
				got = append(got, u.Containers[0].Project()+": "+u.Where())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestAMissingNameIsANoticeWithOneCommand(t *testing.T) {
	w := usual()
	db, web := serviceOf("db"), serviceOf("web")
	w.Namings = []anchord.Naming{
		{Container: web, Network: "shop_default", Names: []string{web.Name}},
		{Container: db, Network: "shop_default", Names: []string{db.Name}},
	}
	state := decided(t, w)
	i := slices.IndexFunc(state.Notices, func(n anchord.Notice) bool { return n.Event == "network.name_missing" })
	if i < 0 {
		t.Fatalf("%+v", state.Notices)
	}
	n := state.Notices[i]
	if n.Level != anchord.Warn || n.Container != "" || !strings.Contains(n.Message, "db on shop_default; web on shop_default") ||
		!strings.HasSuffix(n.Message, "; fix: docker compose -p shop up -d --no-deps --force-recreate db web") {
		t.Errorf("%+v", n)
	}
	w.Namings = w.Namings[:1]
	state = decided(t, w)
	if n := state.Notices[len(state.Notices)-1]; n.Event != "network.name_missing" || n.Container != "shop-web-1" {
		t.Errorf("one container: %+v", n)
	}
	w.Namings[0].Names = []string{web.Name, "web"}
	for _, n := range decided(t, w).Notices {
		if n.Event == "network.name_missing" {
			t.Errorf("though it is there: %+v", n)
		}
	}
}

// Those that Compose kept carry the files of before; anchord was made with those of
// now.
func TestAMissingNameIsCuredWithTheFilesOfTheLastStart(t *testing.T) {
	w := usual()
	db, web := serviceOf("db"), serviceOf("web")
	db.Labels["com.docker.compose.project.config_files"] = "/srv/compose.yaml"
	web.Labels["com.docker.compose.project.config_files"] = "/srv/compose.yaml,/srv/compose.anchord.yaml"
	web.Created = db.Created.Add(time.Hour)
	w.Containers = append(w.Containers, web)
	w.Namings = []anchord.Naming{{Container: db, Network: "shop_default", Names: []string{db.Name}}}
	notices := decided(t, w).Notices
	if n := notices[len(notices)-1]; !strings.HasSuffix(n.Message, " -p shop -f /srv/compose.yaml -f /srv/compose.anchord.yaml up -d --no-deps --force-recreate db") {
		t.Errorf("%+v", n)
	}
}

// When Compose cannot make a network anew, it leaves what was on it without one,
// and starts it so the next time.
func TestAServiceOnNoNetworkIsToldOf(t *testing.T) {
	w := usual()
	w.Namings = []anchord.Naming{{Container: serviceOf("db")}}
	notices := decided(t, w).Notices
	i := slices.IndexFunc(notices, func(n anchord.Notice) bool { return n.Event == "network.name_missing" })
	if i < 0 || !strings.Contains(notices[i].Message, "db on no network") || !strings.HasSuffix(notices[i].Message, " --force-recreate db") {
		t.Errorf("%+v", notices)
	}
}

func TestAnExposedServiceOnNoNetworkIsToBeRecreated(t *testing.T) {
	w := usual()
	web := serviceOf("web")
	web.Labels["anchord.expose"], web.CutOff = "tcp/80", true
	w.Containers = append(w.Containers, web)
	notices := decided(t, w).Notices
	if !slices.ContainsFunc(notices, func(n anchord.Notice) bool {
		return n.Event == "expose.backend_unreachable" && n.Message == "container shop-web-1 exposes ports but is on no network: recreate it"
	}) {
		t.Errorf("%+v", notices)
	}
}

func decided(t *testing.T, w *world) anchord.State {
	t.Helper()
	state, _ := w.decide(t, auto(), anchord.Memory{})
	return state
}

// Another engine in Docker's place is no outage that passes: the loop ends, and
// whoever runs it says so once.
func TestAnotherEngineInDockersPlaceEndsTheLoop(t *testing.T) {
	g := newRig(usual(), auto())
	g.dockerErr = &anchord.NotDockerError{Host: "unix:///run/podman.sock", Version: "4.3.1\x1b[2J"}
	err := g.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), `DOCKER_HOST="unix:///run/podman.sock": Podman answers there (version "4.3.1\x1b[2J")`) {
		t.Errorf("%v", err)
	}
	if told := g.told("docker.lost"); told != nil {
		t.Errorf("told %q", told)
	}
}
