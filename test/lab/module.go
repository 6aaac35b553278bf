package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// module is a program that Debian does not have, built from its Go module by the
// machine's Go, which fetches the toolchain that the module asks for.
type module struct {
	name    string // of the program
	path    string // of the module
	version string
	pkg     string // the program's package in it
	tags    string
	stamp   string // what the linker sets, as -X takes it
}

// The current engine calls itself after its API's client where nobody says its
// version; this is the release of that module's version.
var (
	engine29 = module{
		name: "dockerd", path: "github.com/moby/moby/v2", version: "v2.0.0-beta.24", pkg: "./cmd/dockerd",
		tags: "exclude_graphdriver_btrfs", stamp: "github.com/moby/moby/v2/dockerversion.Version=29.0.0+v2.0.0-beta.24",
	}
	compose5 = module{
		name: "docker-compose", path: "github.com/docker/compose/v5", version: "v5.5.1", pkg: "./cmd",
		stamp: "github.com/docker/compose/v5/internal.Version=v5.5.1",
	}
)

// built gives the path of a module's program, compiled now if need be.
func (l *Lab) built(ctx context.Context, m module) (string, error) {
	dir, err := l.cached(ctx, m.name+"-"+m.version+"-"+fingerprint(m.path, m.pkg, m.tags, m.stamp), cacheItem{
		what: fmt.Sprintf("%s from its module %s (some minutes)", m.name, m.version), build: m.build, check: m.runs,
	})
	return filepath.Join(dir, m.name), err
}

func (m module) runs(dir string) error {
	return run(exec.Command(filepath.Join(dir, m.name), "--version"))
}

// build compiles in a copy of the module: what is downloaded is read-only, and "go
// install" refuses modules that replace or exclude others.
func (m module) build(ctx context.Context, partial string) error {
	work, err := os.MkdirTemp("", "anchord-module-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	download := exec.CommandContext(ctx, "go", "mod", "download", "-json", m.path+"@"+m.version)
	download.Dir, download.Env = work, goEnv()
	out, err := download.Output()
	if err != nil {
		return fmt.Errorf("downloading %s: %w: %s", m.path, err, out)
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return fmt.Errorf("downloading %s: %w", m.path, err)
	}
	source := filepath.Join(work, "source")
	if err := run(exec.CommandContext(ctx, "cp", "--recursive", "--no-preserve=mode", downloaded.Dir, source)); err != nil {
		return err
	}
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", m.tags,
		"-ldflags", "-s -w -X "+m.stamp, "-o", filepath.Join(partial, m.name), m.pkg)
	build.Dir, build.Env = source, goEnv()
	return runQuiet(build, partial+".log")
}

// goEnv is the environment for compiling what is not ours.
func goEnv() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=auto", "GOFLAGS=", "GOWORK=off")
}
