package lab

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A machine that has looked for the programs of the demo, the tests and lint starts
// at its next boot what it did before, and has the same packages. The machines are
// fresh ones of the two Debian releases on which all that works; what is unpacked
// is theirs, and kept beside the labs' own.
func TestNothingIsInstalled(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			l := &Lab{ID: "test", log: os.Stderr}
			dir, err := l.tree(t.Context(), tree{
				name: "host-" + suite, suite: suite,
				// The packages' scripts enable services with this, also where no systemd runs.
				packages: []string{"init-system-helpers"},
				prepare:  "rm -rf /usr/share/doc /usr/share/man /usr/share/locale /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb",
				check:    []string{"apt-get", "--version"},
			})
			if err != nil {
				t.Fatal(err)
			}
			before, after := freshMachine(t, suite, dir)
			for name, state := range before {
				if state == "" {
					t.Errorf("the %s are not seen", name)
				}
				if after[name] != state {
					t.Errorf("the %s have changed:\n%s", name, difference(state, after[name]))
				}
			}
		})
	}
}

// freshMachine gives the enabled units and the packages of a fresh machine, before
// and after it has looked for programs.
func freshMachine(t *testing.T, suite, dir string) (before, after map[string]string) {
	t.Helper()
	repository, err := repositoryDir()
	if err != nil {
		t.Fatal(err)
	}
	programs := filepath.Join(cacheDir(), "programs-of-"+suite)
	scratch := t.TempDir()
	if err := os.MkdirAll(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child",
		"sh", "-ec", freshMachineScript, "machine")
	cmd.Env = append(os.Environ(), "TREE="+dir, "SCRATCH="+scratch, "REPOSITORY="+repository, "PROGRAMS="+programs)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	states := strings.Split(string(out), "\f\n")
	if len(states) != 6 {
		t.Fatalf("it says %q", out)
	}
	return map[string]string{"enabled units": states[0], "packages": states[1]},
		map[string]string{"enabled units": states[3], "packages": states[4]}
}

//go:embed testdata/fresh-machine.sh
var freshMachineScript string

// difference is what is in one of two texts only, by lines.
func difference(before, after string) string {
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	var lines []string
	for _, line := range was {
		if !slices.Contains(is, line) {
			lines = append(lines, "- "+line)
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			lines = append(lines, "+ "+line)
		}
	}
	return strings.Join(lines, "\n")
}

// Other sources may have a directory of the suite's name, too.
func TestTheDebianMirrorIsFound(t *testing.T) {
	for name, c := range map[string]struct{ uris, want string }{
		"bookworm": {"'http://deb.example/debian/dists/bookworm/InRelease' x 0 \n'http://deb.example/debian-security/dists/bookworm-security/InRelease' x 0 \n", "http://deb.example/debian"},
		"trixie beside another's": {
			"'https://other.example/linux/debian/dists/trixie/InRelease' x 0 \n" +
				"'https://deb.example/debian/dists/trixie/InRelease' x 0 \n'https://deb.example/debian/dists/trixie-updates/InRelease' x 0 \n",
			"https://deb.example/debian",
		},
		"no Debian": {"'http://archive.example/ubuntu/dists/noble/InRelease' x 0 \n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mirrorAmong(c.uris)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}
