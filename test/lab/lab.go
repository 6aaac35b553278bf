// Package lab makes a small LAN and a private Docker engine of a chosen
// release, both real, inside network namespaces of their own.
//
// The end-to-end tests, the demo and the benchmark use it, so that they run the
// program against what its users have: an engine, a switch, a router with a
// DHCP server and hosts that know nothing of Docker. Nothing of it touches the
// machine's own network, engine or Docker configuration, several labs may be up
// at once, and Down leaves the machine as it was. It needs root.
package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/client"
)

// Release is one engine that the lab can run, with the Compose that comes to it.
type Release struct {
	Name     string // what Options.Release takes
	Version  string // what the engine's own version begins with
	Suite    string // the Debian suite in whose tree it runs
	Engine   module // built in place of that suite's own engine; zero: it is that one
	Firewall string // its --firewall-backend; empty before there were two
	Compose  module // zero: Debian's, 2.40
	Base     string // the image on which ImageAnchord is built
}

// Before28 says whether the engine does not know networks without IPv4.
func (r Release) Before28() bool { return r.Version == "20.10" }

// Releases are the oldest supported engine, the newest that Debian has, and the
// current one with both of its firewalls. Debian has neither that nor Compose 5:
// the first lab that wants them compiles them, which takes some minutes.
var Releases = []Release{
	{Name: "20.10", Version: "20.10", Suite: "bookworm", Base: ImageBase},
	{Name: DefaultRelease, Version: "28", Suite: "forky", Base: ImageBase},
	{Name: "29-nftables", Version: "29", Suite: "forky", Engine: engine29, Firewall: "nftables", Compose: compose5, Base: ImageForky},
	{Name: "29", Version: "29", Suite: "forky", Engine: engine29, Firewall: "iptables", Compose: compose5, Base: ImageBase},
}

// DefaultRelease is the newest that needs no compiling.
const DefaultRelease = "28"

// Options say what Up makes. The zero value is an engine without images.
type Options struct {
	Release string    // name of one of Releases; DefaultRelease when empty
	Images  []string  // images to have in the engine, of the Image constants
	Binary  string    // anchord binary for ImageAnchord; built from the repository when empty
	Binds   []string  // more host directories that the engine sees under the same path
	Keep    bool      // outlive this process; only Down removes the lab
	Log     io.Writer // progress for a person to read; may be nil
}

// Lab is one running lab.
type Lab struct {
	ID      string
	Release Release

	record record
	root   *Host
	docker *client.Client
	log    io.Writer
	binary string

	mu       sync.Mutex
	lans     int
	prefixes prefixPool
	engine   *process
}

// Up removes what dead labs left, then starts a new one. When it fails it has
// removed whatever it had already made.
func Up(ctx context.Context, options Options) (_ *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("starting a lab: it makes network namespaces and mounts, run it as root")
	}
	release, err := findRelease(options.Release)
	if err != nil {
		return nil, err
	}
	if err := Reap(); err != nil {
		return nil, fmt.Errorf("removing the labs of dead processes: %w", err)
	}
	l := &Lab{ID: newID(), Release: release, log: options.Log, binary: options.Binary}
	if l.log == nil {
		l.log = io.Discard
	}
	l.record = newRecord(l.ID, release.Name, options.Keep)
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Down())
		}
	}()
	if err := l.record.save(); err != nil {
		return nil, err
	}
	if err := l.start(ctx, options); err != nil {
		return nil, fmt.Errorf("starting lab %s with engine %s: %w", l.ID, release.Name, err)
	}
	return l, nil
}

// start makes everything that Down takes away.
func (l *Lab) start(ctx context.Context, options Options) error {
	parts, err := l.prepare(ctx, options.Images)
	if err != nil {
		return err
	}
	if l.root, err = newHost(ctx, l.record.namespace()); err != nil {
		return err
	}
	if err := l.configureCLI(parts); err != nil {
		return err
	}
	if err := l.startEngine(ctx, parts, options.Binds); err != nil {
		return err
	}
	return l.LoadImages(ctx, options.Images...)
}

// Open returns the running lab with this id, made by any process.
func Open(id string) (*Lab, error) {
	r, err := loadRecord(id)
	if err != nil {
		return nil, fmt.Errorf("opening lab %s: %w", id, err)
	}
	release, err := findRelease(r.Release)
	if err != nil {
		return nil, fmt.Errorf("opening lab %s: %w", id, err)
	}
	l := &Lab{ID: r.ID, Release: release, record: r, log: io.Discard}
	l.root = openHost(r.namespace())
	if l.docker, err = newClient(l.Host()); err != nil {
		return nil, err
	}
	return l, nil
}

// Down ends the lab's processes and removes everything that Up and the LANs
// made. It may be called again and on a lab that is only half there.
func (l *Lab) Down() error {
	if l.docker != nil {
		l.docker.Close()
	}
	err := l.record.destroy()
	if l.engine != nil {
		<-l.engine.done
	}
	if err != nil {
		return fmt.Errorf("removing lab %s: %w", l.ID, err)
	}
	return nil
}

// Host is the engine's address, as DOCKER_HOST takes it.
func (l *Lab) Host() string { return "unix://" + filepath.Join(l.record.dir(), "docker.sock") }

// Client is a Docker client for the lab's engine.
func (l *Lab) Client() *client.Client { return l.docker }

// Root is the namespace in which the engine and its bridges are: what a
// user's Docker host is.
func (l *Lab) Root() *Host { return l.root }

// EngineLog is the path of what dockerd has logged.
func (l *Lab) EngineLog() string { return filepath.Join(l.record.dir(), "engine.log") }

// TempDir makes a directory that goes with the lab. The engine sees it under the
// same path, so containers can mount it.
func (l *Lab) TempDir() (string, error) {
	dir, err := os.MkdirTemp(l.record.dir(), "tmp")
	if err != nil {
		return "", fmt.Errorf("making a directory of the lab: %w", err)
	}
	return dir, nil
}

// Environ is what a program needs in its environment to use the lab's engine
// through the lab's own docker CLI and plugins. What the caller has set for
// Docker is left out.
func (l *Lab) Environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "DOCKER_") || strings.HasPrefix(v, "COMPOSE_") || strings.HasPrefix(v, "BUILDX_")
	})
	return append(env,
		"DOCKER_HOST="+l.Host(),
		"DOCKER_CONFIG="+l.record.cliDir(),
		"PATH="+l.record.cliDir()+":"+os.Getenv("PATH"))
}

// Docker is a docker command line against the lab's engine.
func (l *Lab) Docker(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(l.record.cliDir(), "docker"), args...)
	cmd.Env = l.Environ()
	return cmd
}

// Compose is a docker compose command line for one project. The files are
// relative to dir; without files compose finds its own.
func (l *Lab) Compose(ctx context.Context, dir, project string, files []string, args ...string) *exec.Cmd {
	argv := []string{"compose", "--project-name", project, "--project-directory", dir}
	for _, file := range files {
		argv = append(argv, "--file", file)
	}
	cmd := l.Docker(ctx, append(argv, args...)...)
	cmd.Dir = dir
	return cmd
}

// Enter gives the network namespace of a running container, so that a test can
// look at it with tools that its image does not have. It is that of the
// container's current process: after a restart it has to be entered anew.
func (l *Lab) Enter(ctx context.Context, container string) (*Host, error) {
	c, err := l.docker.ContainerInspect(ctx, container)
	if err != nil {
		return nil, fmt.Errorf("entering container %s: %w", container, err)
	}
	pid, err := l.record.enginePID()
	if err != nil {
		return nil, fmt.Errorf("entering container %s: %w", container, err)
	}
	if c.State.Pid == 0 {
		return nil, fmt.Errorf("entering container %s: it does not run", container)
	}
	// The engine counts processes in a namespace of its own, hence the way
	// through what it sees as /proc.
	path := fmt.Sprintf("/proc/%d/root/proc/%d/ns/net", pid, c.State.Pid)
	return &Host{Name: container, path: path}, nil
}

// logf tells the person who waits what is being waited for.
func (l *Lab) logf(format string, args ...any) {
	fmt.Fprintf(l.log, "lab %s: "+format+"\n", append([]any{l.ID}, args...)...)
}

// configureCLI makes a private Docker configuration, whose plugins and docker
// binary are Debian's newest, but for the release's own Compose.
func (l *Lab) configureCLI(p parts) error {
	dir := l.record.cliDir()
	if err := os.MkdirAll(filepath.Join(dir, "cli-plugins"), 0o755); err != nil {
		return fmt.Errorf("making the docker configuration: %w", err)
	}
	links := map[string]string{
		"docker":                     filepath.Join(p.cli, "usr/bin/docker"),
		"cli-plugins/docker-compose": cmp.Or(p.compose, filepath.Join(p.cli, "usr/libexec/docker/cli-plugins/docker-compose")),
		"cli-plugins/docker-buildx":  filepath.Join(p.cli, "usr/libexec/docker/cli-plugins/docker-buildx"),
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("making the docker configuration: %w", err)
		}
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}\n"), 0o600)
}

func findRelease(name string) (Release, error) {
	name = cmp.Or(name, DefaultRelease)
	var known []string
	for _, release := range Releases {
		if release.Name == name {
			return release, nil
		}
		known = append(known, release.Name)
	}
	return Release{}, fmt.Errorf("there is no engine release %q in the lab, only %q", name, known)
}

func newID() string {
	b := make([]byte, 4)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func newClient(host string) (*client.Client, error) {
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation(), client.WithTimeout(0))
	if err != nil {
		return nil, fmt.Errorf("making a Docker client: %w", err)
	}
	return c, nil
}

// waitFor polls until ready says so, the context ends or the time is up.
func waitFor(ctx context.Context, limit time.Duration, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if ok, err := ready(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
