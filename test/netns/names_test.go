package netns_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

const backendNet = project + "_backend"

// backendNetwork makes a network of the project (anew) on which anchord is not.
func (w *world) backendNetwork(created time.Time) {
	w.docker.SetNetwork(network.Inspect{
		Name: backendNet, Driver: "bridge", Created: created, Labels: madeByCompose("backend"),
	})
}

// named is a service on that network, as Compose makes it.
func named(service string) fakedocker.Container {
	return fakedocker.Container{
		Name: project + "-" + service + "-1", Created: time.Now().Add(-time.Minute),
		Labels: map[string]string{
			"com.docker.compose.project": project, "com.docker.compose.service": service, "com.docker.compose.oneoff": "False",
			"com.docker.compose.project.working_dir": "/srv/my shop", "com.docker.compose.project.config_files": "/srv/my shop/compose.yaml",
		},
		Networks: map[string]network.EndpointSettings{backendNet: {IPAddress: "10.214.0.10", Aliases: []string{project + "-" + service + "-1", service}}},
	}
}

// A network that Compose makes anew, because its definition changed, has the
// running containers without the names of their services.
func TestServicesThatLostTheirNames(t *testing.T) {
	t.Parallel()
	r := start(t, setup{}, "ANCHORD_POLL_INTERVAL=1h")
	web := r.backend("www", 10, "tcp/80")
	web.serveTCP("www", ":80")
	r.backendNetwork(time.Now().Add(-time.Hour))
	services := []string{project + "-db-1", project + "-web-1"}
	r.docker.AddContainer(named("db"))
	r.docker.AddContainer(named("web"))
	eventually(t, deadline, r.client.answers("tcp", r.addr(80), "www "+clientIP))
	if err := r.doctor().says("names", "ok", "each service is known by its name", ""); err != nil {
		t.Error(err)
	}

	for _, c := range services {
		r.docker.Stop(c)
		r.docker.Disconnect(c, backendNet)
	}
	r.backendNetwork(time.Now())
	for _, c := range services {
		r.docker.Connect(c, backendNet, network.EndpointSettings{IPAddress: "10.214.0.10"})
		r.docker.Start(c)
	}
	const command = "docker compose -p shop --project-directory '/srv/my shop' -f '/srv/my shop/compose.yaml' up -d --no-deps --force-recreate db web"
	where := "db on shop_backend; web on shop_backend"
	eventually(t, hang, r.a.logs("network.name_missing", `"level":"warning"`, where, command))
	eventually(t, deadline, r.a.problems("network.name_missing"))
	p := r.box.startCmd(r.command(r.boxID, nil, "status"))
	<-p.exited
	if s := p.out.String(); !strings.Contains(s, "PROBLEM (network.name_missing)") || !strings.Contains(s, "\n  "+command) {
		t.Errorf("the status has not the whole command:\n%s", s)
	}
	d := r.doctor()
	if err := d.says("names", "fail", where, "recreate them"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(d.text, command) {
		t.Errorf("no command in %s", d.text)
	}

	r.docker.Restart(services[0])
	time.Sleep(6 * time.Second) // longer than names are waited for
	if n := len(r.a.entries("network.name_missing")); n != 1 {
		t.Errorf("told %d times", n)
	}
	for _, c := range services {
		r.docker.Recreate(c, func(c *fakedocker.Container) {
			*c = named(strings.TrimSuffix(strings.TrimPrefix(c.Name, project+"-"), "-1"))
			c.Created = time.Now().Add(time.Second)
		})
	}
	eventually(t, hang, r.a.logs("notice.cleared", "network.name_missing", where))
	eventually(t, deadline, r.a.problems())
	if err := r.doctor().says("names", "ok", "", ""); err != nil {
		t.Error(err)
	}
	if n := len(r.a.entries("network.name_missing")); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// What a restart of one container costs Docker does not grow by the names.
func TestARestartAsksForNoNames(t *testing.T) {
	t.Parallel()
	r := start(t, setup{}, "ANCHORD_POLL_INTERVAL=1h")
	r.backendNetwork(time.Now().Add(-time.Hour))
	r.docker.AddContainer(named("db"))
	time.Sleep(6 * time.Second)
	before := len(r.docker.RequestLog())
	r.docker.Restart(project + "-db-1")
	time.Sleep(6 * time.Second)
	var asked []string
	for _, c := range r.docker.RequestLog()[before:] {
		asked = append(asked, c.Method+" "+c.Path)
	}
	if slices.ContainsFunc(asked, func(c string) bool { return c != "GET /containers/json" && c != "GET /containers/"+r.boxID+"/json" }) {
		t.Errorf("a restart asks for %v", asked)
	}
	t.Logf("%d requests for one restart: %s", len(asked), strings.Join(asked, ", "))
}
