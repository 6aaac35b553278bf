package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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

// newestEngine is also where the docker command line and its plugins come from.
var newestEngine = Releases[len(Releases)-1]

func engineTree(release Release) tree {
	t := tree{
		name:     "engine-" + release.Name,
		suite:    release.Suite,
		packages: []string{"docker.io", "iptables", "iproute2", "procps", "ca-certificates"},
		prepare:  slim,
		check:    []string{"dockerd", "--version"},
	}
	if release == newestEngine {
		t.packages = append(t.packages, "docker-cli", "docker-compose", "docker-buildx")
	}
	return t
}

// slim takes away what no container needs; it makes loading an image quicker.
const slim = `rm -rf /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /var/cache/apt /var/lib/apt/lists /var/cache/debconf /var/log/*.log`

type trees struct{ engine, cli string }

// prepare makes sure of what the cache has to hold for one lab, all at the same
// time: much of building a tree is waiting.
func (l *Lab) prepare(ctx context.Context, release Release, images []string) (trees, error) {
	var t trees
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		t.cli, err = l.tree(ctx, engineTree(newestEngine))
		return err
	})
	if release != newestEngine {
		group.Go(func() (err error) {
			t.engine, err = l.tree(ctx, engineTree(release))
			return err
		})
	}
	for _, name := range images {
		if image, ok := cachedImage(name); ok {
			group.Go(func() error {
				_, err := l.imageArchive(ctx, image)
				return err
			})
		}
	}
	err := group.Wait()
	if release == newestEngine {
		t.engine = t.cli
	}
	return t, err
}

// Prepare fills the cache with everything that labs need, as far as it is not
// there.
func Prepare(ctx context.Context, log io.Writer) error {
	l := &Lab{ID: "cache", log: log}
	group, ctx := errgroup.WithContext(ctx)
	for _, release := range Releases {
		group.Go(func() error {
			_, err := l.prepare(ctx, release, []string{ImageBase, ImageNginx, ImageHAProxy, ImageServers})
			return err
		})
	}
	return group.Wait()
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
	dir := filepath.Join(cacheDir(), t.name+"-"+t.fingerprint())
	if err := os.MkdirAll(cacheDir(), 0o755); err != nil {
		return "", fmt.Errorf("making the cache: %w", err)
	}
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if t.whole(dir) {
		return dir, nil
	}
	l.logf("building %s from Debian %s (about 40 s)", t.name, t.suite)
	if err := t.build(ctx, dir); err != nil {
		return "", fmt.Errorf("building %s from Debian packages: %w", t.name, err)
	}
	if !t.whole(dir) {
		return "", fmt.Errorf("building %s: %q does not work in %s", t.name, strings.Join(t.check, " "), dir)
	}
	return dir, nil
}

// fingerprint changes with what the tree is made of, so that an older cache is
// never taken for a newer one.
func (t tree) fingerprint() string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", []any{t.suite, t.packages, t.prepare})))
	return hex.EncodeToString(sum[:4])
}

// marker is written last.
const marker = ".complete"

// whole does not stop half-way with a context: a tree that was not looked at to
// the end must not be taken for a broken one and thrown away.
func (t tree) whole(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		return false
	}
	return run(exec.Command("chroot", append([]string{dir}, t.check...)...)) == nil
}

// build makes the tree beside its place and moves it there when it is done.
func (t tree) build(ctx context.Context, dir string) error {
	mirror, err := debianMirror(ctx)
	if err != nil {
		return err
	}
	partial := dir + ".partial"
	if err := errors.Join(os.RemoveAll(partial), os.RemoveAll(dir)); err != nil {
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
	if err := run(exec.CommandContext(ctx, "chroot", partial, "sh", "-ec", t.prepare)); err != nil {
		return err
	}
	return seal(partial, dir)
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
