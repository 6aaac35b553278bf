package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// namespaces are what becomes of containers that share a network namespace when
// its owner comes late, is restarted or recreated.
var namespaces = []scenario{
	{name: "a container that had to wait for its namespace is started", run: strandedAreStarted},
	{name: "a service-anchor is made for a container that others spawn", run: managedServiceAnchor},
	{name: "a container whose address on another project's network is taken", run: addressTaken},
	{name: "containers in the namespace of a made service-anchor follow it", run: dependentsFollow},
}

// run makes a container of no Compose project, as programs do that spawn them.
func (s *site) run(name string, args ...string) string {
	s.Helper()
	id := strings.TrimSpace(s.docker(append([]string{"run", "--detach", "--name", name}, args...)...))
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		try(s.engine.Docker(ctx, "rm", "--force", "--volumes", name))
	})
	return id
}

func (s *site) inspectNamed(name string) (container.InspectResponse, error) {
	return s.engine.Client().ContainerInspect(s.ctx, name)
}

// isRunning is a look at whether a container runs, and is another one than before
// where that is given.
func (s *site) isRunning(name, before string) func(context.Context) error {
	return func(context.Context) error {
		c, err := s.inspectNamed(name)
		switch {
		case err != nil:
			return err
		case c.ID == before:
			return fmt.Errorf("%s is still the old container", name)
		case !c.State.Running:
			return fmt.Errorf("%s is %s %s", name, c.State.Status, c.State.Error)
		}
		return nil
	}
}

func strandedAreStarted(s *site) {
	p := s.project("waiting", `
services:
  sibling:
    image: peer:lab
    command: [serve, "tcp:81"]
    network_mode: "container:waiting-target"
  patient:
    image: peer:lab
    command: [serve, "tcp:82"]
    network_mode: "container:waiting-target"
    depends_on: {slow: {condition: service_healthy}}
  slow:
    image: peer:lab
    networks: [transit]
    healthcheck: {test: ["CMD", "/peer", "healthy"], interval: 1s, retries: 1000}
`)
	p.withoutPoll("anchord")
	p.up("anchord")
	p.ready(time.Time{})
	// Compose cannot start what joins a container that is not there.
	if out, err := try(s.engine.Compose(s.ctx, p.dir, p.name, p.files, "up", "--detach", "--no-deps", "sibling")); err == nil {
		s.Fatalf("the sibling was to fail: %s", out)
	}
	s.run("waiting-target", "peer:lab")
	s.within(patience, time.Now(), "the sibling runs", s.isRunning(p.container("sibling"), ""))

	p.compose("stop", "anchord")
	s.docker("rm", "--force", "waiting-target")
	p.compose("rm", "--stop", "--force", "sibling")
	if out, err := try(s.engine.Compose(s.ctx, p.dir, p.name, p.files, "up", "--detach", "--no-deps", "sibling")); err == nil {
		s.Fatalf("the sibling was to fail: %s", out)
	}
	p.compose("create", "patient") // with what it depends on; --no-deps would not write that down
	s.run("waiting-target", "peer:lab")
	p.compose("start", "slow")
	p.up("anchord")
	s.within(patience, time.Now(), "the sibling that was stranded before anchord started runs", s.isRunning(p.container("sibling"), ""))
	s.stays(3*time.Second, "that waits for a service's health", func(context.Context) error {
		c, err := s.inspectNamed(p.container("patient"))
		if err == nil && c.State.Running {
			err = fmt.Errorf("it was started before what it depends on is healthy")
		}
		return err
	})
}

// withTarget is a project whose anchord makes a service-anchor for a container
// that is not of the project.
func (s *site) withTarget(name string) (*project, string) {
	s.Helper()
	target := name + "-outpost"
	p := s.project(name, fmt.Sprintf(`
networks:
  apps: {}
services:
  anchord:
    networks: [apps]
    environment:
      ANCHORD_MANAGED_SA_TARGET: %s
      ANCHORD_MANAGED_SA_LABELS: '{"anchord.expose": "tcp/80,tcp/81"}'
      ANCHORD_SHARED_NETWORK: apps
`, target))
	p.withoutPoll("anchord")
	return p, target
}

func (p *project) spawn(target string) {
	p.Helper()
	p.run(target, "--network", p.name+"_apps", lab.ImagePeer, "serve", "tcp:80")
}

func managedServiceAnchor(s *site) {
	p, target := s.withTarget("outposts")
	p.up()
	p.ready(time.Time{})
	sa := target + "-service-anchor"
	s.serve(s.lan.Client, "tcp:7000")
	works := func(what string) {
		s.Helper()
		addr := p.addr()
		s.within(patience, time.Now(), "reached from the LAN, "+what, answers(s.lan.Client, "tcp", addr, 80))
		host, err := s.engine.Enter(s.ctx, target)
		if err != nil {
			s.Fatal(err)
		}
		s.within(patience, time.Now(), "leaves as the project, "+what, leavesAs(addr, host, "tcp", s.lan.Client.Addr, 7000))
	}
	if _, err := s.inspectNamed(sa); err == nil {
		s.Error("there is a service-anchor though its target does not run")
	}

	p.spawn(target)
	works("spawned later")
	made, err := s.inspectNamed(sa)
	if err != nil {
		s.Fatal(err)
	}
	if l := made.Config.Labels; l["anchord.managed-by"] != p.inspect("anchord").ID || l["com.docker.compose.project"] != p.name || made.HostConfig.RestartPolicy.Name != "unless-stopped" || made.Image != p.inspect("anchord").Image {
		s.Errorf("made as %+v %+v of %s", l, made.HostConfig.RestartPolicy, made.Image)
	}

	s.docker("restart", "--time", "1", target)
	works("restarted")
	s.docker("rm", "--force", target)
	p.spawn(target)
	works("recreated")
	destroyed := s.identity(sa)
	s.docker("rm", "--force", sa)
	s.within(patience, time.Now(), "its destroyed service-anchor is made again", s.isRunning(sa, destroyed))
	works("its service-anchor destroyed")

	id := p.identity(sa)
	p.compose("restart", "anchord")
	p.ready(p.started("anchord"))
	s.stays(2*time.Second, "the service-anchor after a restart of anchord", s.isThe(sa, id))
	p.write("image.yaml", "services: {anchord: {image: "+s.otherImage()+"}}\n")
	p.up("anchord")
	s.within(patience, time.Now(), "of the new image", func(context.Context) error {
		c, err := s.inspectNamed(sa)
		if err == nil && c.Image != p.inspect("anchord").Image {
			err = fmt.Errorf("it is of %s", c.Image)
		}
		return err
	})
	works("with another image")

	// What was deleted with its target is not made again.
	s.docker("rm", "--force", target)
	s.docker("rm", "--force", sa)
	s.stays(2*time.Second, "without a service-anchor", func(context.Context) error {
		if _, err := s.inspectNamed(sa); err == nil {
			return fmt.Errorf("there is one again")
		}
		return nil
	})
	p.spawn(target)
	works("spawned again")
	// Without this option Compose leaves what its files do not name.
	said := p.compose("down", "--remove-orphans", "--timeout", "10")
	p.down = true
	if c, err := s.inspectNamed(sa); err == nil {
		s.Errorf("the service-anchor, with the labels %v, is there after down: %s", c.Config.Labels, said)
	}
}

func (s *site) identity(name string) string {
	s.Helper()
	c, err := s.inspectNamed(name)
	if err != nil {
		s.Fatal(err)
	}
	return c.ID
}

// isThe is a look at whether a name means one container still.
func (s *site) isThe(name, id string) func(context.Context) error {
	return func(context.Context) error {
		c, err := s.inspectNamed(name)
		if err == nil && c.ID != id {
			err = fmt.Errorf("it is another container now")
		}
		return err
	}
}

// otherImage is anchord's image with another id.
func (s *site) otherImage() string {
	s.Helper()
	const name = "anchord:other"
	id := strings.TrimSpace(s.docker("create", "--label", "made=later", lab.ImageAnchord))
	s.docker("commit", id, name)
	s.docker("rm", id)
	return name
}

// dependentsFollow recreates a target; a container with every setting there is,
// in the namespace of its service-anchor, is in the new one afterwards, and its
// settings are the same.
func dependentsFollow(s *site) {
	p, target := s.withTarget("followers")
	p.up()
	p.ready(time.Time{})
	sa := target + "-service-anchor"
	p.spawn(target)
	s.within(patience, time.Now(), "the service-anchor runs", s.isRunning(sa, ""))
	dir, err := s.engine.TempDir()
	if err != nil {
		s.Fatal(err)
	}
	doomed := filepath.Join(dir, "doomed")
	for _, d := range []string{doomed, filepath.Join(dir, "secret")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			s.Fatal(err)
		}
	}
	// Its settings cannot be had any more when it is to be recreated.
	s.run("followers-broken", "--network", "container:"+sa, "--mount", "type=bind,source="+doomed+",target=/doomed", lab.ImagePeer, "serve", "tcp:82")
	if err := os.Remove(doomed); err != nil {
		s.Fatal(err)
	}
	s.run("followers-rich", "--network", "container:"+sa,
		"--volume", "/anonymous", "--volume", "named-by-followers:/named", "--volume", filepath.Join(dir, "secret")+":/run/secrets/one:ro",
		"--mount", "type=volume,target=/second", "--tmpfs", "/scratch:size=1m", "--env", "GREETING=it's \"$HOME\"\nand more", "--label", "some=label",
		"--cap-drop", "ALL", "--cap-add", "CHOWN", "--sysctl", "kernel.shm_rmid_forced=1", "--ulimit", "nofile=1000:2000",
		"--restart", "on-failure:3", "--health-cmd", "exit 0", "--health-interval", "7s", "--log-driver", "json-file", "--log-opt", "max-size=1m",
		"--device", "/dev/null:/dev/nothing:r", "--user", "1:1", "--workdir", "/named", "--read-only", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50",
		"--security-opt", "no-new-privileges", "--init", "--shm-size", "8m", "--stop-signal", "KILL", "--stop-timeout", "3", "--oom-score-adj", "100",
		"--group-add", "7", "--entrypoint", "/peer", lab.ImagePeer, "serve", "tcp:81")
	before, err := s.inspectNamed("followers-rich")
	if err != nil {
		s.Fatal(err)
	}
	s.within(patience, time.Now(), "it is reached from the LAN", answers(s.lan.Client, "tcp", p.addr(), 81))

	s.docker("rm", "--force", target)
	p.spawn(target)
	s.within(patience, time.Now(), "it was recreated", s.isRunning("followers-rich", before.ID))
	s.within(patience, time.Now(), "it is reached again", answers(s.lan.Client, "tcp", p.addr(), 81))
	after, err := s.inspectNamed("followers-rich")
	if err != nil {
		s.Fatal(err)
	}
	s.sameSettings(before, after)
	s.within(patience, time.Now(), "the log tells of the one that could not be recreated", func(context.Context) error {
		for _, l := range p.logged("netns.repair_failed") {
			if strings.Contains(l.Msg, "followers-broken") {
				return nil
			}
		}
		return fmt.Errorf("it does not")
	})
	if c, err := s.inspectNamed("followers-broken"); err != nil || !c.State.Running {
		s.Errorf("what could not be recreated was touched: %v", err)
	}

	// A kill in the middle of it all leaves nothing half done.
	id := s.identity("followers-rich")
	s.docker("rm", "--force", target)
	p.spawn(target)
	s.within(patience, time.Now(), "anchord is at it", func(context.Context) error {
		if now, err := s.inspectNamed("followers-rich"); err != nil || now.ID != id {
			return nil
		}
		all, err := s.engine.Client().ContainerList(s.ctx, container.ListOptions{All: true})
		if slices.ContainsFunc(all, func(c container.Summary) bool { return strings.Contains(c.Names[0], ".by-") }) {
			return nil
		}
		return fmt.Errorf("not yet (%v)", err)
	})
	p.docker("kill", "--signal", "KILL", p.container("anchord"))
	p.docker("start", p.container("anchord"))
	s.within(patience, time.Now(), "it is reached after a kill", answers(s.lan.Client, "tcp", p.addr(), 81))
	s.within(patience, time.Now(), "nothing half done is left", func(context.Context) error {
		all, err := s.engine.Client().ContainerList(s.ctx, container.ListOptions{All: true})
		for _, c := range all {
			if strings.Contains(c.Names[0], ".by-"+p.name) && !strings.Contains(c.Names[0], "broken") {
				return fmt.Errorf("there is %s", c.Names[0])
			}
		}
		return err
	})
}

// sameSettings compares field by field what two containers were made with.
func (s *site) sameSettings(before, after container.InspectResponse) {
	s.Helper()
	fields := func(c container.InspectResponse) map[string]any {
		all := map[string]any{}
		for name, part := range map[string]any{"Config": c.Config, "HostConfig": c.HostConfig} {
			text, err := json.Marshal(part)
			if err != nil {
				s.Fatal(err)
			}
			var values map[string]any
			if err := json.Unmarshal(text, &values); err != nil {
				s.Fatal(err)
			}
			for key, value := range values {
				all[name+"."+key] = value
			}
		}
		// Anonymous volumes are named from now on; what is mounted is compared.
		delete(all, "HostConfig.Binds")
		delete(all, "HostConfig.Mounts")
		// The namespace's, which is another one now.
		delete(all, "HostConfig.NetworkMode")
		delete(all, "Config.Hostname")
		for _, m := range c.Mounts {
			all["mount "+m.Destination] = fmt.Sprint(m.Type, m.Name, m.Source, m.RW)
		}
		all["Path"], all["Args"] = c.Path, c.Args
		return all
	}
	old, now := fields(before), fields(after)
	if len(old) < 80 {
		s.Errorf("only %d fields were compared", len(old))
	}
	for key, value := range old {
		if !reflect.DeepEqual(value, now[key]) {
			s.Errorf("%s was %v, now it is %v", key, value, now[key])
		}
	}
	for key := range now {
		if _, known := old[key]; !known {
			s.Errorf("%s is new", key)
		}
	}
}

// recreatedByHand is what an operator does without thinking of the containers
// behind: they are told of once, with the command that cures them.
func recreatedByHand(s *site) {
	p := s.projectOf("byhand", readExample(s.T, "service-anchor/compose.yaml"), "")
	p.up()
	lease := p.lease(p.name)
	s.within(patience, time.Now(), "nginx serves its page", showsNginx(s.lan.Client, lease.Addr))
	doctor := func() (string, error) {
		return try(s.engine.Docker(s.ctx, "exec", p.container("anchord"), "anchord", "doctor", "stale-netns"))
	}
	// It looks at the whole engine, on which other scenarios break theirs.
	if out, _ := doctor(); strings.Contains(out, p.name) {
		s.Errorf("the doctor finds something where nothing is: %s", out)
	}
	for round := 1; round <= 2; round++ {
		p.up("--force-recreate", "--no-deps", "web-anchor")
		broken := time.Now()
		s.within(patience, broken, "the metric tells it", p.metricIs("anchord_netns_dependents_dead", "1"))
		var found string
		s.within(patience, time.Now(), "the log tells it", func(context.Context) error {
			dead := p.logged("netns.dead")
			if len(dead) != round {
				return fmt.Errorf("it has it %d times, want %d", len(dead), round)
			}
			found = dead[round-1].Msg
			return nil
		})
		s.within(patience, time.Now(), "the status tells it", func(context.Context) error {
			problems := p.status().Problems
			if !slices.ContainsFunc(problems, func(problem struct{ Event, Container, Message string }) bool { return problem.Message == found }) {
				return fmt.Errorf("its problems are %+v", problems)
			}
			return nil
		})
		var out string
		s.within(patience, time.Now(), "the doctor finds it", func(context.Context) (err error) {
			if out, err = doctor(); err == nil || !strings.Contains(out, "  "+p.container("web")+"\n") {
				return fmt.Errorf("it says (%v): %s", err, out)
			}
			return nil
		})
		if round == 1 {
			_, fix, _ := strings.Cut(found, "fix: ")
			p.cure(fix)
		} else {
			_, fix, _ := strings.Cut(out, "  docker compose -p "+p.name+" ")
			fix, _, _ = strings.Cut(fix, "\n")
			p.cure("docker compose -p " + p.name + " " + fix)
		}
		s.within(patience, time.Now(), "nginx serves its page again", showsNginx(s.lan.Client, lease.Addr))
		s.within(patience, time.Now(), "the metric is back", p.metricIs("anchord_netns_dependents_dead", "0"))
	}
	if out, _ := doctor(); strings.Contains(out, p.name) {
		s.Errorf("the doctor is not content: %s", out)
	}
}

// cure runs a command that anchord printed, as an operator would.
func (p *project) cure(command string) {
	p.Helper()
	command = strings.TrimSpace(command)
	if !strings.HasPrefix(command, "docker compose -p "+p.name+" ") {
		p.Fatalf("this is no command for the project: %q", command)
	}
	cmd := exec.CommandContext(p.ctx, "sh", "-c", command)
	cmd.Env, cmd.Dir = p.engine.Environ(), "/"
	if out, err := try(cmd); err != nil {
		p.Fatal(err, out)
	}
}

// externalRebinder keeps a service on the network of a database that is another
// project: through its recreations, and without standing in the way of its down.
func externalRebinder(s *site) {
	other := s.bare("database", `
networks:
  db: {}
services:
  db:
    image: anchord:lab
    # Like a database it needs a while to end; here for as long as its guest is on
    # the network.
    entrypoint: [sh, -c, "trap 'while getent ahostsv4 app; do sleep 0.1; done; exit' TERM; sleep infinity & wait"]
    networks: [db]
`)
	own := s.bare("tenant", `
services:
  app:
    image: peer:lab
  rebinder:
    image: anchord:lab
    volumes: ["`+strings.TrimPrefix(s.engine.Host(), "unix://")+`:/var/run/docker.sock"]
    environment:
      ANCHORD_MODE: external-rebinder
      ANCHORD_FOLLOW_NETWORK: database_db
      ANCHORD_FOLLOW_TARGET: app
      ANCHORD_METRICS_ADDR: ""
`)
	own.up()
	start := other.up()
	attached := func(context.Context) error {
		if n := own.inspect("app").NetworkSettings.Networks["database_db"]; n == nil || n.IPAddress == "" {
			return fmt.Errorf("it is not on the network")
		}
		return nil
	}
	s.within(patience, start, "the app is on the other project's network", attached)
	began := own.started("app")
	for round := range 3 {
		out := other.compose("down", "--timeout", "30")
		if strings.Contains(out, "in use") {
			s.Errorf("it stood in the way of down: %s", out)
		}
		if _, err := try(s.engine.Docker(s.ctx, "network", "inspect", "database_db")); err == nil {
			s.Errorf("round %d: the network is there after down: %s", round, out)
		}
		start = other.up()
		s.within(patience, start, "the app is on the new network", attached)
	}
	other.compose("restart", "--timeout", "1", "db")
	s.within(patience, time.Now(), "the app is on the network after a restart of the only other", attached)
	id := own.inspect("app").ID
	own.up("--force-recreate", "app")
	if own.inspect("app").ID == id {
		s.Fatal("the app was to be another container")
	}
	s.within(patience, time.Now(), "the recreated app is on the network", attached)
	names := own.inspect("app").NetworkSettings.Networks["database_db"].Aliases
	if !slices.Contains(names, "app") {
		s.Errorf("it is called %q there", names)
	}
	if now := own.started("app"); now.Before(began) {
		s.Errorf("started %v, then %v", began, now)
	}
}

// addressTaken has a guest with a fixed address find it taken when it comes back:
// it gets it as soon as it is free.
func addressTaken(s *site) {
	const address = "10.231.7.9"
	s.docker("network", "create", "--subnet", "10.231.7.0/24", "meeting")
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := try(s.engine.Docker(ctx, "network", "rm", "meeting")); err != nil {
			s.Error(err)
		}
	})
	host := func(name string, args ...string) {
		s.run(name, append(append([]string{"--network", "meeting"}, args...), lab.ImagePeer)...)
	}
	own := s.bare("lodger", `
networks:
  meeting: {external: true}
services:
  app:
    image: peer:lab
    networks:
      default: {}
      meeting: {ipv4_address: `+address+`, aliases: [lodging]}
  rebinder:
    image: anchord:lab
    volumes: ["`+strings.TrimPrefix(s.engine.Host(), "unix://")+`:/var/run/docker.sock"]
    environment:
      ANCHORD_MODE: external-rebinder
      ANCHORD_FOLLOW_NETWORK: meeting
      ANCHORD_FOLLOW_TARGET: app
      ANCHORD_FOLLOW_RESTART: "true"
      ANCHORD_METRICS_ADDR: ""
`)
	host("first")
	own.up()
	at := func() string {
		if n := own.inspect("app").NetworkSettings.Networks["meeting"]; n != nil {
			return n.IPAddress
		}
		return ""
	}
	is := func(want string) func(context.Context) error {
		return func(context.Context) error {
			if got := at(); got != want {
				return fmt.Errorf("it is at %q, want %q", got, want)
			}
			return nil
		}
	}
	s.within(patience, time.Now(), "the app has its address", is(address))
	began := own.started("app")
	s.stays(2*time.Second, "while there is another", is(address))
	s.docker("rm", "--force", "first")
	s.within(patience, time.Now(), "the app has left as the last one", is(""))
	host("squatter", "--ip", address)
	s.stays(6*time.Second, "while its address is taken", is(""))
	host("second")
	s.docker("rm", "--force", "squatter")
	s.within(time.Minute, time.Now(), "the app has its address again", is(address))
	if names := own.inspect("app").NetworkSettings.Networks["meeting"].Aliases; !slices.Contains(names, "lodging") {
		s.Errorf("it is called %q there", names)
	}
	s.within(patience, time.Now(), "the app was restarted", func(context.Context) error {
		if !own.started("app").After(began) {
			return fmt.Errorf("it was not")
		}
		return nil
	})
}

// bare is a Compose project without anchord as its network.
func (s *site) bare(name, text string) *project {
	s.Helper()
	p := &project{site: s, name: name}
	var err error
	if p.dir, err = s.engine.TempDir(); err != nil {
		s.Fatal(err)
	}
	p.write("compose.yaml", text)
	s.Cleanup(p.cleanUp)
	return p
}
