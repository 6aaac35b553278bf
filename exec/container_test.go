package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord"
)

// engine is Docker as far as Containers goes: it writes down what it is asked to
// change, and answers as it is told; else it says that all is well.
type engine struct {
	*Containers

	mu      sync.Mutex
	writes  []string                     // METHOD /path?query
	bodies  []string                     // of the writes
	answers map[string]func() (int, any) // by METHOD /path
}

type answer func() (int, any)

func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{answers: map[string]func() (int, any){}}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	var err error
	if e.Containers, err = NewContainers("tcp://" + server.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

var apiVersion = regexp.MustCompile(`^/v1\.\d+/`)

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.51")
	path := apiVersion.ReplaceAllString(r.URL.Path, "/")
	if path == "/_ping" {
		return
	}
	body, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Method != http.MethodGet {
		write := r.Method + " " + path
		if r.URL.RawQuery != "" {
			write += "?" + r.URL.RawQuery
		}
		e.writes, e.bodies = append(e.writes, write), append(e.bodies, string(body))
	}
	status, content := http.StatusNoContent, any(nil)
	switch answer, told := e.answers[r.Method+" "+path]; {
	case told:
		status, content = answer()
	case path == "/containers/create":
		status, content = http.StatusCreated, container.CreateResponse{ID: "made"}
	case r.Method == http.MethodGet:
		status, content = http.StatusNotFound, saying("no such thing: "+path)
	}
	if html, is := content.(string); is {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		fmt.Fprint(w, html)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if content != nil {
		json.NewEncoder(w).Encode(content) //nolint:errcheck // the test sees what is missing
	}
}

func saying(text string) map[string]string { return map[string]string{"message": text} }

// says makes the engine answer so from now on.
func (e *engine) says(request string, status int, content any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answers[request] = func() (int, any) { return status, content }
}

// sequence makes the engine give these answers in turn; the last one stays.
func (e *engine) sequence(request string, answers ...answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answers[request] = func() (int, any) {
		a := answers[0]
		answers = answers[min(1, len(answers)-1):]
		return a()
	}
}

func (e *engine) wantWrites(t *testing.T, want ...string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Equal(e.writes, want) {
		t.Errorf("asked for:\n  %s\nwant:\n  %s", strings.Join(e.writes, "\n  "), strings.Join(want, "\n  "))
	}
	e.writes = nil
}

// created is what the last request to make a container holds.
type created struct {
	container.Config
	HostConfig       *container.HostConfig
	NetworkingConfig *network.NetworkingConfig
}

func (e *engine) created(t *testing.T) created {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.writes, func(s string) bool { return strings.HasPrefix(s, "POST /containers/create") })
	if i < 0 {
		t.Fatalf("no container was made: %q", e.writes)
	}
	var c created
	if err := json.Unmarshal([]byte(e.bodies[i]), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// fill sets everything that v holds to something other than nothing.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString(fmt.Sprintf("text%d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n%100 + 1))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n%100 + 1))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(*n))
	}
}

// settings is what Docker is told of v, by the names in JSON.
func settings(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// everything is a container with every setting that Docker's API has.
func everything() container.InspectResponse {
	n := 0
	old := container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: "old", Image: "sha256:aa", HostConfig: &container.HostConfig{}},
		Config:            &container.Config{},
	}
	fill(reflect.ValueOf(old.Config).Elem(), &n)
	fill(reflect.ValueOf(old.HostConfig).Elem(), &n)
	old.HostConfig.NetworkMode = "container:gone"
	old.HostConfig.Binds = []string{"/srv:/srv:ro"}
	old.HostConfig.CapAdd, old.HostConfig.CapDrop = []string{"CAP_NET_RAW"}, []string{"ALL"}
	return old
}

func TestCopyKeepsEverySetting(t *testing.T) {
	e, old := newEngine(t), everything()
	e.says("GET /containers/old/json", 200, old)
	id, err := e.Copy(t.Context(), "old", "web.by-anchord", "owner")
	if err != nil || id != "made" {
		t.Fatal(id, err)
	}
	got := e.created(t)
	e.wantWrites(t, "POST /containers/create?name=web.by-anchord")
	want := settings(t, old.Config)
	// Docker refuses these in another container's namespace, and filled in the
	// first by itself.
	want["Hostname"], want["Domainname"] = "", ""
	delete(want, "ExposedPorts")
	delete(want, "MacAddress")
	want["Image"] = "sha256:aa"
	compare(t, "Config", settings(t, got.Config), want)
	wantHost := settings(t, old.HostConfig)
	wantHost["NetworkMode"] = "container:owner"
	delete(wantHost, "KernelMemory") // no longer known to Docker's API
	compare(t, "HostConfig", settings(t, got.HostConfig), wantHost)
	if got.NetworkingConfig != nil && len(got.NetworkingConfig.EndpointsConfig) > 0 {
		t.Errorf("networks of its own: %+v", got.NetworkingConfig)
	}
}

func compare(t *testing.T, what string, got, want map[string]any) {
	t.Helper()
	if len(want) < 20 {
		t.Errorf("%s: only %d settings were looked at", what, len(want))
	}
	for name, value := range want {
		if !reflect.DeepEqual(got[name], value) {
			t.Errorf("%s.%s is %v, want %v", what, name, got[name], value)
		}
	}
	for name := range got {
		if _, known := want[name]; !known {
			t.Errorf("%s.%s was made up", what, name)
		}
	}
}

// A list that is empty means something else than none: paths that are not
// masked, say.
func TestCopyKeepsEmptyLists(t *testing.T) {
	e, old := newEngine(t), everything()
	old.HostConfig.MaskedPaths, old.HostConfig.ReadonlyPaths = []string{}, nil
	old.Config.Entrypoint, old.Config.Cmd = []string{}, nil
	e.says("GET /containers/old/json", 200, old)
	if _, err := e.Copy(t.Context(), "old", "new", "owner"); err != nil {
		t.Fatal(err)
	}
	got := e.created(t)
	if got.HostConfig.MaskedPaths == nil || got.HostConfig.ReadonlyPaths != nil || got.Entrypoint == nil || got.Cmd != nil {
		t.Errorf("%#v, %#v, %#v, %#v", got.HostConfig.MaskedPaths, got.HostConfig.ReadonlyPaths, got.Entrypoint, got.Cmd)
	}
}

func TestCopyKeepsTheVolumes(t *testing.T) {
	anonymous := func(name, at string, rw bool) container.MountPoint {
		return container.MountPoint{Type: mount.TypeVolume, Name: name, Destination: at, RW: rw}
	}
	for _, tt := range []struct {
		name      string
		binds     []string
		mounts    []mount.Mount
		have      []container.MountPoint
		wantBinds []string
		wantMount []mount.Mount
	}{
		{name: "of the image", have: []container.MountPoint{anonymous("v1", "/data", true)}, wantBinds: []string{"v1:/data"}},
		{name: "read-only", have: []container.MountPoint{anonymous("v1", "/data", false)}, wantBinds: []string{"v1:/data:ro"}},
		{name: "beside others", binds: []string{"/srv:/srv"}, have: []container.MountPoint{
			{Type: mount.TypeBind, Source: "/srv", Destination: "/srv", RW: true}, anonymous("v1", "/data", true), {Type: mount.TypeTmpfs, Destination: "/tmp"},
		}, wantBinds: []string{"/srv:/srv", "v1:/data"}},
		{name: "named already", binds: []string{"shop:/data:ro,z"}, have: []container.MountPoint{anonymous("shop", "/data", false)}, wantBinds: []string{"shop:/data:ro,z"}},
		{name: "named already, with a slash at the end", binds: []string{"shop:/data/"}, have: []container.MountPoint{anonymous("shop", "/data", true)}, wantBinds: []string{"shop:/data/"}},
		{
			name: "by a mount without a source", mounts: []mount.Mount{{Type: mount.TypeVolume, Target: "/data", ReadOnly: true}, {Type: mount.TypeTmpfs, Target: "/t"}},
			have: []container.MountPoint{anonymous("v1", "/data", false)}, wantMount: []mount.Mount{{Type: mount.TypeVolume, Source: "v1", Target: "/data", ReadOnly: true}, {Type: mount.TypeTmpfs, Target: "/t"}},
		},
		{
			name: "by a mount with a slash at the end", mounts: []mount.Mount{{Type: mount.TypeVolume, Target: "/data/"}},
			have: []container.MountPoint{anonymous("v1", "/data", true)}, wantMount: []mount.Mount{{Type: mount.TypeVolume, Source: "v1", Target: "/data/"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEngine(t)
			e.says("GET /containers/old/json", 200, container.InspectResponse{
				ContainerJSONBase: &container.ContainerJSONBase{ID: "old", HostConfig: &container.HostConfig{Binds: tt.binds, Mounts: tt.mounts}},
				Config:            &container.Config{}, Mounts: tt.have,
			})
			if _, err := e.Copy(t.Context(), "old", "new", "owner"); err != nil {
				t.Fatal(err)
			}
			host := e.created(t).HostConfig
			if !slices.Equal(host.Binds, tt.wantBinds) || !reflect.DeepEqual(host.Mounts, tt.wantMount) {
				t.Errorf("%q, %+v; want %q, %+v", host.Binds, host.Mounts, tt.wantBinds, tt.wantMount)
			}
		})
	}
}

func TestCopyRunsTheSameImage(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		image  any
		want   string
	}{
		"by its name":             {200, map[string]string{"Id": "sha256:aa"}, "shop:1"},
		"whose name moved":        {200, map[string]string{"Id": "sha256:bb"}, "sha256:aa"},
		"whose name is gone":      {404, saying("no such image"), "sha256:aa"},
		"that nobody may look at": {403, "Forbidden", "sha256:aa"},
	} {
		e := newEngine(t)
		e.says("GET /containers/old/json", 200, container.InspectResponse{
			ContainerJSONBase: &container.ContainerJSONBase{ID: "old", Image: "sha256:aa", HostConfig: &container.HostConfig{}},
			Config:            &container.Config{Image: "shop:1"},
		})
		e.says("GET /images/shop:1/json", tt.status, tt.image)
		if _, err := e.Copy(t.Context(), "old", "new", "owner"); err != nil {
			t.Fatal(err)
		}
		if got := e.created(t).Image; got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestWhatCannotBeCopied(t *testing.T) {
	e := newEngine(t)
	if _, err := e.Copy(t.Context(), "gone", "new", "owner"); err == nil || !strings.Contains(err.Error(), "inspecting a container") {
		t.Errorf("one that is gone: %v", err)
	}
	e.says("GET /containers/old/json", 200, map[string]string{"Id": "old"})
	if _, err := e.Copy(t.Context(), "old", "new", "owner"); err == nil || !strings.Contains(err.Error(), "nothing of its settings") {
		t.Errorf("one without settings: %v", err)
	}
	e.wantWrites(t)
	e.says("GET /containers/old/json", 200, everything())
	e.says("POST /containers/create", 409, saying("the name is in use"))
	if id, err := e.Copy(t.Context(), "old", "new", "owner"); id != "" || err == nil || errors.Is(err, anchord.ErrRefused) || !strings.Contains(err.Error(), "making container new: ") {
		t.Errorf("%q, %v", id, err)
	}
}

func TestServiceAnchorAsDockerIsToldOfIt(t *testing.T) {
	e := newEngine(t)
	id, err := e.Create(t.Context(), anchord.ContainerSpec{
		Name: "mail-service-anchor", Image: "sha256:aa", NamespaceOf: "mail", Env: []string{"A=b"}, Labels: map[string]string{"k": "v"},
	})
	if err != nil || id != "made" {
		t.Fatal(id, err)
	}
	got := e.created(t)
	e.wantWrites(t, "POST /containers/create?name=mail-service-anchor")
	if got.Image != "sha256:aa" || !slices.Equal(got.Env, []string{"A=b"}) || got.Labels["k"] != "v" || len(got.Labels) != 1 ||
		got.HostConfig.NetworkMode != "container:mail" || !slices.Equal(got.HostConfig.CapAdd, []string{"CAP_NET_ADMIN"}) ||
		got.HostConfig.RestartPolicy.Name != "unless-stopped" || got.HostConfig.Privileged || got.HostConfig.AutoRemove {
		t.Errorf("%+v, %+v", got.Config, got.HostConfig)
	}
}

var steps = []string{
	"POST /containers/old/stop",
	"DELETE /containers/old?force=1",
	"POST /containers/new/rename?name=web",
	"POST /containers/new/start",
}

func TestOneContainerTakesThePlaceOfAnother(t *testing.T) {
	for _, tt := range []struct {
		name  string
		old   string
		start bool
		want  []string
	}{
		{"a running one", "old", true, steps},
		{"one that does not run", "old", false, steps[:3]},
		{"none", "", true, steps[2:]},
	} {
		e := newEngine(t)
		if err := e.Replace(t.Context(), tt.old, "new", "web", tt.start); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		e.wantWrites(t, tt.want...)
	}
}

// Whatever step fails, nothing after it is done, and a second call brings it to
// the end.
func TestReplaceGoesOnWhereItFailed(t *testing.T) {
	for i, step := range steps {
		e := newEngine(t)
		request, _, _ := strings.Cut(step, "?")
		e.says(request, 500, saying("broken"))
		if err := e.Replace(t.Context(), "old", "new", "web", true); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Fatalf("%s fails: %v", step, err)
		}
		e.wantWrites(t, steps[:i+1]...)
		e.says(request, 204, nil)
		if i > 1 { // as Docker says it of a container that is gone
			e.says("POST /containers/old/stop", 404, saying("no such container"))
			e.says("DELETE /containers/old", 404, saying("no such container"))
		}
		if i > 2 { // nor does it let a container take the name that it has
			e.says("POST /containers/new/rename", 400, saying("Renaming a container with the same name as its current name"))
			e.says("GET /containers/new/json", 200, container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{ID: "new", Name: "/web"}})
		}
		if err := e.Replace(t.Context(), "old", "new", "web", true); err != nil {
			t.Errorf("after %s failed: %v", step, err)
		}
		e.wantWrites(t, steps...)
	}
}

func TestANameThatIsTaken(t *testing.T) {
	e := newEngine(t)
	e.says("POST /containers/new/rename", 409, saying("the name is in use"))
	e.says("GET /containers/new/json", 200, container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{ID: "new", Name: "/web.by-anchord"}})
	if err := e.Replace(t.Context(), "", "new", "web", true); err == nil || !strings.Contains(err.Error(), "renaming a container") {
		t.Error(err)
	}
	e.wantWrites(t, steps[2])
}

// What was run with --rm goes by itself when it is stopped, and may be there a
// moment longer.
func TestRemovalThatIsUnderWay(t *testing.T) {
	e := newEngine(t)
	there := func() (int, any) { return 200, everything() }
	gone := func() (int, any) { return 404, saying("no such container") }
	e.says("DELETE /containers/old", 409, saying("removal of container old is already in progress"))
	e.sequence("GET /containers/old/json", there, there, gone)
	if err := e.Replace(t.Context(), "old", "new", "web", true); err != nil {
		t.Error(err)
	}
	e.wantWrites(t, steps...)

	e.says("GET /containers/old/json", 500, saying("broken"))
	if err := e.Remove(t.Context(), "old"); err == nil || !strings.Contains(err.Error(), "waiting for a container's removal") {
		t.Error(err)
	}
	e.says("GET /containers/old/json", 200, everything())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := e.Remove(ctx, "old"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestRemovalLeavesTheVolumes(t *testing.T) {
	e := newEngine(t)
	if err := e.Remove(t.Context(), "old"); err != nil {
		t.Error(err)
	}
	e.wantWrites(t, steps[1])
	e.says("DELETE /containers/old", 404, saying("no such container"))
	if err := e.Remove(t.Context(), "old"); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
}

func TestARefusalIsToldFromAFailure(t *testing.T) {
	for _, tt := range []struct {
		name    string
		status  int
		content any
		refused bool
	}{
		{"a proxy's page", 403, "<html><body><h1>403 Forbidden</h1></body></html>", true},
		{"a proxy's word", 403, "Forbidden", true},
		{"a proxy that says nothing", 403, nil, true},
		{"an authorization plugin", 403, saying("authorization denied by plugin"), true},
		{"an address that another container has", 403, saying("Address already in use"), false},
		{"a name that another container has there", 403, saying("endpoint with name web already exists in network shop"), false},
		{"an error with the number in it", 500, saying("no container 4030aa"), false},
		{"a failure", 500, saying("broken"), false},
	} {
		e := newEngine(t)
		for request, call := range map[string]func() error{
			"POST /containers/new/start":     func() error { return e.Start(t.Context(), "new") },
			"POST /containers/new/restart":   func() error { return e.Restart(t.Context(), "new") },
			"POST /containers/create":        func() error { _, err := e.Create(t.Context(), anchord.ContainerSpec{}); return err },
			"POST /containers/old/stop":      func() error { return e.Replace(t.Context(), "old", "new", "web", true) },
			"POST /containers/new/rename":    func() error { return e.Replace(t.Context(), "", "new", "web", true) },
			"DELETE /containers/old":         func() error { return e.Remove(t.Context(), "old") },
			"POST /networks/net/connect":     func() error { return e.Connect(t.Context(), anchord.Place{NetworkID: "net"}, "new") },
			"POST /networks/net/disconnect":  func() error { return e.Disconnect(t.Context(), "net", "new") },
			"GET /containers/inspected/json": func() error { _, err := e.Copy(t.Context(), "inspected", "new", "owner"); return err },
		} {
			e.says(request, tt.status, tt.content)
			if err := call(); err == nil || errors.Is(err, anchord.ErrRefused) != tt.refused {
				t.Errorf("%s, to %s: %v", tt.name, request, err)
			}
		}
	}
}

func TestPlacesOnNetworks(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")
	for name, tt := range map[string]struct {
		place anchord.Place
		want  network.EndpointSettings
	}{
		"nothing asked for": {anchord.Place{}, network.EndpointSettings{}},
		"all of it": {
			anchord.Place{Aliases: []string{"mail", "mx"}, Addrs: anchord.PerFamily[netip.Addr]{v4, v6}, DriverOpts: map[string]string{"a": "b"}},
			network.EndpointSettings{Aliases: []string{"mail", "mx"}, DriverOpts: map[string]string{"a": "b"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: "10.0.0.9", IPv6Address: "fd00::9"}},
		},
		"one family": {
			anchord.Place{Addrs: anchord.PerFamily[netip.Addr]{anchord.V6: v6}},
			network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv6Address: "fd00::9"}},
		},
	} {
		e := newEngine(t)
		tt.place.NetworkID = "net"
		if err := e.Connect(t.Context(), tt.place, "guest"); err != nil {
			t.Fatal(err)
		}
		var got network.ConnectOptions
		if err := json.Unmarshal([]byte(e.bodies[0]), &got); err != nil {
			t.Fatal(err)
		}
		e.wantWrites(t, "POST /networks/net/connect")
		if got.Container != "guest" || !reflect.DeepEqual(*got.EndpointConfig, tt.want) {
			t.Errorf("%s: %+v, want %+v", name, got.EndpointConfig, tt.want)
		}
	}
}

func TestLeavingANetwork(t *testing.T) {
	e := newEngine(t)
	for name, tt := range map[string]struct {
		status  int
		content any
		fails   bool
	}{
		"done":                     {200, nil, false},
		"the network is gone":      {404, saying("network net not found"), false},
		"it was not there":         {500, saying("container guest is not connected to network shop"), false},
		"something else is broken": {500, saying("broken"), true},
	} {
		e.says("POST /networks/net/disconnect", tt.status, tt.content)
		if err := e.Disconnect(t.Context(), "net", "guest"); (err != nil) != tt.fails {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABadDockerHost(t *testing.T) {
	if _, err := NewContainers("nonsense"); err == nil || !strings.Contains(err.Error(), "DOCKER_HOST") {
		t.Error(err)
	}
}
