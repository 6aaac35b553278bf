package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// tree is a Debian system made by debootstrap.
type tree struct {
	name     string
	suite    string
	packages []string
	prepare  string   // shell script that runs in the finished tree
	check    []string // command in the tree that only works in a whole one
}

// newestSuite is where the docker command line and its plugins come from, too.
const newestSuite = "forky"

func engineTree(suite string) tree {
	t := tree{
		name:     "engine-" + suite,
		suite:    suite,
		packages: []string{"docker.io", "iptables", "iproute2", "procps", "ca-certificates"},
		prepare:  slim,
		check:    []string{"dockerd", "--version"},
	}
	if suite == newestSuite {
		t.packages = append(t.packages, "docker-cli", "docker-compose", "docker-buildx", "nftables")
	}
	return t
}

// slim takes away what no container needs; it makes loading an image quicker.
const slim = `rm -rf /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /var/cache/apt /var/lib/apt/lists /var/cache/debconf /var/log/*.log`

// parts are what a lab is made of, in the cache.
type parts struct {
	tree    string // the system in which the engine runs
	cli     string // the tree with docker and its plugins
	engine  string // a program in place of the tree's engine; empty: none
	compose string // the same of the plugin
}

// prepare makes sure of what the cache has to hold for one lab, all at the same
// time: much of building a tree is waiting.
func (l *Lab) prepare(ctx context.Context, images []string) (parts, error) {
	var p parts
	group, ctx := errgroup.WithContext(ctx)
	want := func(path *string, get func(context.Context) (string, error)) {
		group.Go(func() (err error) {
			*path, err = get(ctx)
			return err
		})
	}
	tree := func(suite string) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) { return l.tree(ctx, engineTree(suite)) }
	}
	want(&p.cli, tree(newestSuite))
	want(&p.tree, tree(l.Release.Suite))
	for path, m := range map[*string]module{&p.engine: l.Release.Engine, &p.compose: l.Release.Compose} {
		if m.path != "" {
			want(path, func(ctx context.Context) (string, error) { return l.built(ctx, m) })
		}
	}
	for _, name := range images {
		if image, ok := l.cachedImage(name); ok {
			want(new(string), func(ctx context.Context) (string, error) { return l.imageArchive(ctx, image) })
		}
	}
	return p, group.Wait()
}

// cacheDir is on the machine's disk, outside of the repository.
func cacheDir() string {
	if dir := os.Getenv("ANCHORD_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/anchord"
}

// tree gives the directory of a tree that is whole, made now if need be.
func (l *Lab) tree(ctx context.Context, t tree) (string, error) {
	return l.cached(ctx, t.name+"-"+fingerprint(t.suite, t.packages, t.prepare), cacheItem{
		what: fmt.Sprintf("%s from Debian %s (about 40 s)", t.name, t.suite), build: t.build, check: t.runs,
	})
}

// cacheItem is a directory that is made once and kept. What is kept is checked and
// not trusted: it may be half-written, or of another machine.
type cacheItem struct {
	what  string // for the person who waits
	build func(ctx context.Context, partial string) error
	check func(dir string) error
}

// cached gives the item's directory, made now if it is not there or not whole.
func (l *Lab) cached(ctx context.Context, name string, item cacheItem) (string, error) {
	dir := filepath.Join(cacheDir(), name)
	if err := os.MkdirAll(cacheDir(), 0o755); err != nil {
		return "", fmt.Errorf("making the cache: %w", err)
	}
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if item.whole(dir) == nil {
		return dir, nil
	}
	l.logf("building %s", item.what)
	partial := dir + ".partial"
	if err := errors.Join(os.RemoveAll(partial), os.RemoveAll(dir)); err != nil {
		return "", err
	}
	if err := item.build(ctx, partial); err != nil {
		return "", fmt.Errorf("building %s: %w", item.what, err)
	}
	if err := seal(partial, dir); err != nil {
		return "", fmt.Errorf("building %s: %w", item.what, err)
	}
	if err := item.whole(dir); err != nil {
		return "", fmt.Errorf("building %s: %w", item.what, err)
	}
	return dir, nil
}

// whole says what is wrong with a directory. It does not stop half-way with a
// context: one that was not looked at to the end must not be taken for a broken one
// and thrown away.
func (i cacheItem) whole(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		return err
	}
	return i.check(dir)
}

// fingerprint changes with what something is made of, so that an older cache is
// never taken for a newer one.
func fingerprint(of ...any) string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", of)))
	return hex.EncodeToString(sum[:4])
}

// marker is written last.
const marker = ".complete"

func (t tree) runs(dir string) error {
	return run(exec.Command("chroot", append([]string{dir}, t.check...)...))
}

// build fills an empty place.
func (t tree) build(ctx context.Context, partial string) error {
	mirror, err := debianMirror(ctx)
	if err != nil {
		return err
	}
	// Namespaces of its own: whatever ends debootstrap ends all that it
	// started and mounted. Its script for sid serves every newer suite.
	args := []string{
		"--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		"debootstrap", "--variant=minbase", "--include=" + strings.Join(t.packages, ","), t.suite, partial, mirror,
	}
	if _, err := os.Stat("/usr/share/debootstrap/scripts/" + t.suite); err != nil {
		args = append(args, "sid")
	}
	if err := runQuiet(exec.CommandContext(ctx, "unshare", args...), partial+".log"); err != nil {
		return err
	}
	return run(exec.CommandContext(ctx, "chroot", partial, "sh", "-ec", t.prepare))
}

// seal puts a finished directory in its place, on disk before its marker.
func seal(partial, dir string) error {
	if err := syncFS(partial); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(partial, marker), nil, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, dir)
}

func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// runQuiet keeps a talkative command's output in a file and shows its end when
// it fails.
func runQuiet(cmd *exec.Cmd, log string) error {
	f, err := os.Create(log)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w; the end of %s:\n%s", strings.Join(cmd.Args, " "), err, log, tail(log, 10))
	}
	return nil
}

// debianMirror is the one that the machine itself installs packages from.
func debianMirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "--print-uris", "update").Output()
	if err != nil {
		return "", fmt.Errorf("asking apt-get for the machine's Debian mirror: %w", err)
	}
	return mirrorAmong(string(out))
}

// mirrorAmong finds a Debian mirror in what apt-get would fetch, whatever the
// machine's suite: a mirror has all of them. Others may have a directory of the
// suite's name, too; but that of its updates is Debian's.
func mirrorAmong(uris string) (string, error) {
	suites := []string{"stable", "oldstable", "testing", "unstable", "sid", "bookworm", "trixie", "forky"}
	var mirror string
	named := map[string]int{}
	for line := range strings.Lines(uris) {
		uri, _, _ := strings.Cut(strings.TrimPrefix(line, "'"), "'")
		base, file, _ := strings.Cut(uri, "/dists/")
		suite, isRelease := strings.CutSuffix(file, "/InRelease")
		if !isRelease || !slices.Contains(suites, strings.TrimSuffix(suite, "-updates")) {
			continue
		}
		if named[base]++; named[base] > named[mirror] {
			mirror = base
		}
	}
	if mirror == "" {
		return "", errors.New("the machine's apt sources name no mirror of Debian, add one to /etc/apt/sources.list.d")
	}
	return mirror, nil
}
