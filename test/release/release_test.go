// Package release makes a release twice and looks at what is in it.
package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/CycloneDX/cyclonedx-go"
)

const version = "v9.8.7-test"

var platforms = map[string]struct {
	machine elf.Machine
	setting string // GOARCH's own setting that the program must be made with
}{
	"amd64":   {machine: elf.EM_X86_64},
	"arm64":   {machine: elf.EM_AARCH64},
	"armv7":   {machine: elf.EM_ARM, setting: "GOARM=7"},
	"riscv64": {machine: elf.EM_RISCV},
}

func TestRelease(t *testing.T) {
	sources := root(t)
	first := release(t, sources, "umask 022")

	t.Run("two builds are the same bytes", func(t *testing.T) {
		second := release(t, elsewhere(t, sources), "umask 077", "TZ=Asia/Tokyo", "LC_ALL=C", "HOME="+t.TempDir(),
			"GOMODCACHE="+goEnv(t, "GOMODCACHE"), "GOCACHE="+goEnv(t, "GOCACHE"))
		same(t, first, second)
	})
	t.Run("compiled anew elsewhere", func(t *testing.T) {
		anew := filepath.Join(t.TempDir(), "anchord")
		cmd := exec.Command("scripts/build", anew)
		cmd.Dir = elsewhere(t, sources)
		run(t, cmd, "GOCACHE="+t.TempDir(), "GOARCH=amd64")
		if !bytes.Equal(read(t, anew), program(t, first, "amd64")) {
			t.Error("the program differs from that of the release, which was compiled in another directory")
		}
	})
	t.Run("checksums", func(t *testing.T) {
		cmd := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
		cmd.Dir = first
		if checked := strings.Count(run(t, cmd), ": OK\n"); checked != len(entries(t, first))-1 {
			t.Errorf("SHA256SUMS names %d files of %v", checked, entries(t, first))
		}
	})
	for platform := range platforms {
		t.Run(platform, func(t *testing.T) { isStaticAndStamped(t, platform, program(t, first, platform)) })
		t.Run(platform+" bill of materials", func(t *testing.T) { listsModules(t, sources, first, platform) })
	}
}

// release makes one in a directory of its own.
func release(t *testing.T, sources, umask string, env ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dist")
	cmd := exec.Command("bash", "-c", umask+` && exec scripts/release "$1"`, "bash", dir)
	cmd.Dir = sources
	run(t, cmd, env...)
	return dir
}

// elsewhere is a copy of the sources in another place, without a repository.
func elsewhere(t *testing.T, sources string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a longer path", "sources")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", `git ls-files -z --cached --others --exclude-standard |
		while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
		tar --create --null --files-from=- | tar --extract --directory "$1"`, "bash", dir)
	cmd.Dir = sources
	run(t, cmd)
	return dir
}

func same(t *testing.T, first, second string) {
	t.Helper()
	if a, b := entries(t, first), entries(t, second); !slices.Equal(a, b) {
		t.Fatalf("one build has %v, the other %v", a, b)
	}
	for _, name := range entries(t, first) {
		if !bytes.Equal(read(t, filepath.Join(first, name)), read(t, filepath.Join(second, name))) {
			t.Errorf("%s differs between two builds", name)
		}
	}
}

func isStaticAndStamped(t *testing.T, platform string, content []byte) {
	t.Helper()
	want := platforms[platform]
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != want.machine {
		t.Errorf("it is for %s, want %s", f.Machine, want.machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it is not static: it has a program header %s", p.Type)
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if want.setting != "" && !strings.Contains(info.String(), "build\t"+want.setting+"\n") {
		t.Errorf("it is not made with %s:\n%s", want.setting, info)
	}
	if !bytes.Contains(content, []byte(version)) {
		t.Errorf("its version %s is not in it", version)
	}
	if platform != "amd64" {
		return
	}
	path := filepath.Join(t.TempDir(), "anchord")
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	if said := run(t, exec.Command(path, "version")); !strings.HasPrefix(said, "anchord "+version+" (commit 0123abc, ") {
		t.Errorf("it says of its version: %s", said)
	}
}

// listsModules compares with the modules that go itself would compile.
func listsModules(t *testing.T, sources, dir, platform string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "anchord_"+version[1:]+"_linux_"+platform+".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(f, cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.Metadata.Component.Version != version || bom.Metadata.Timestamp != "2026-01-02T03:04:05Z" {
		t.Errorf("it is of version %s, made %s", bom.Metadata.Component.Version, bom.Metadata.Timestamp)
	}
	var listed []string
	for _, c := range *bom.Components {
		if c.Name != "std" {
			listed = append(listed, c.Name+"@"+c.Version)
		}
	}
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}}{{end}}{{end}}", "./cmd/anchord")
	cmd.Dir = sources
	want := strings.Fields(run(t, cmd, "CGO_ENABLED=0", "GOARCH="+strings.TrimSuffix(platform, "v7")))
	slices.Sort(want)
	slices.Sort(listed)
	if want = slices.Compact(want); !slices.Equal(listed, want) {
		t.Errorf("it lists\n%v\nwant\n%v", listed, want)
	}
}

// program takes the program out of a platform's archive.
func program(t *testing.T, dir, platform string) []byte {
	t.Helper()
	name := "anchord_" + version[1:] + "_linux_" + platform
	packed, err := gzip.NewReader(bytes.NewReader(read(t, filepath.Join(dir, name+".tar.gz"))))
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(packed)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("there is no %s/anchord in the archive", name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != name+"/anchord" {
			continue
		}
		if h.Mode&0o777 != 0o755 {
			t.Errorf("its mode is %o", h.Mode)
		}
		content, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
}

func run(t *testing.T, cmd *exec.Cmd, env ...string) string {
	t.Helper()
	cmd.Env = append(os.Environ(), "VERSION="+version, "REVISION=0123abc", "SOURCE_DATE_EPOCH=1767323045")
	cmd.Env = append(cmd.Env, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	return string(out)
}

func root(t *testing.T) string {
	t.Helper()
	return filepath.Dir(strings.TrimSpace(run(t, exec.Command("go", "env", "GOMOD"))))
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(run(t, exec.Command("go", "env", name)))
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
