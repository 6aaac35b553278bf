package anchord_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// member is a container that was started at this minute; joins is whose
// namespace it is in.
func member(name, joins string, running bool, minute int) anchord.Member {
	m := anchord.Member{Running: running, Container: anchord.Container{
		ID: fmt.Sprintf("%064x", name), Name: name, NamespaceOf: joins,
		Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": name},
	}}
	if minute > 0 {
		m.Started = time.Unix(int64(60*minute), 0)
	}
	return m
}

func TestDeadNamespaces(t *testing.T) {
	for _, tt := range []struct {
		name    string
		members []anchord.Member
		want    []string // target reason: victims
	}{
		{"all is well", []anchord.Member{member("gw", "", true, 1), member("web", "gw", true, 2)}, nil},
		{"started in the same moment", []anchord.Member{member("gw", "", true, 1), member("web", "gw", true, 1)}, nil},
		{"the owner is gone", []anchord.Member{member("web", "0123456789abcdef", true, 2)}, []string{"0123456789abcdef is gone: web"}},
		{"the owner was restarted", []anchord.Member{member("gw", "", true, 3), member("web", "/gw", true, 2)}, []string{"gw was started anew: web"}},
		{"the owner does not run", []anchord.Member{member("gw", "", false, 1), member("web", "gw", true, 2)}, []string{"gw does not run: web"}},
		{"a victim that does not run is none", []anchord.Member{member("gw", "", true, 3), member("web", "gw", false, 2)}, nil},
		{"several", []anchord.Member{
			member("b", "gw", true, 2), member("a", "gw", true, 2), member("gw", "", true, 3), member("c", "nobody", true, 1), member("d", "", true, 1),
		}, []string{"gw was started anew: a b", "nobody is gone: c"}},
	} {
		var got []string
		for _, d := range anchord.DeadNamespaces(tt.members) {
			var names []string
			for _, v := range d.Victims {
				names = append(names, v.Name)
			}
			got = append(got, d.Target+" "+d.Reason+": "+strings.Join(names, " "))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestCuresOfADeadNamespace(t *testing.T) {
	a, b, other, plain := member("a", "gw", true, 1), member("b", "gw", true, 1), member("c", "gw", true, 1), member("d", "gw", true, 1)
	for _, m := range []anchord.Member{a, b} {
		m.Labels["com.docker.compose.project.working_dir"] = "/srv/shop"
		m.Labels["com.docker.compose.project.config_files"] = "/srv/shop/compose.yaml,/srv/shop/more files.yaml"
	}
	other.Labels["com.docker.compose.project"] = "other"
	plain.Labels = nil
	got := anchord.DeadNamespace{Victims: []anchord.Member{a, b, other, plain}}.Cures()
	want := []string{
		"docker compose -p other up -d --no-deps --force-recreate c",
		"docker compose -p shop --project-directory /srv/shop -f /srv/shop/compose.yaml -f '/srv/shop/more files.yaml' up -d --no-deps --force-recreate a b",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A container that Compose kept carries the files of the day it was made. With
// those, its network would look changed, and Compose would stop what is on it.
func TestACureNamesTheFilesOfTheLastStart(t *testing.T) {
	made := func(name string, minute int, service, files, env string) anchord.Member {
		m := member(name, "gw", true, 1)
		m.Created = time.Unix(int64(60*minute), 0)
		m.Labels["com.docker.compose.service"] = service
		m.Labels["com.docker.compose.project.working_dir"] = "/srv"
		m.Labels["com.docker.compose.project.config_files"] = files
		if env != "" {
			m.Labels["com.docker.compose.project.environment_file"] = env
		}
		return m
	}
	kept, anew := made("web", 1, "web", "/srv/a.yaml", ""), made("shop-anchord-1", 3, "anchord", "/srv/a.yaml,/srv/b.yaml", "/srv/my.env,/srv/more.env")
	anew.NamespaceOf = ""
	oneOff, other := made("try", 4, "try", "/srv/c.yaml", ""), made("x", 5, "x", "/srv/d.yaml", "")
	oneOff.Labels["com.docker.compose.oneoff"] = "True"
	other.Labels["com.docker.compose.project"] = "other"
	want := "docker compose -p shop --project-directory /srv --env-file /srv/my.env --env-file /srv/more.env -f /srv/a.yaml -f /srv/b.yaml up -d --no-deps --force-recreate web"
	for _, members := range [][]anchord.Member{{kept, anew, oneOff, other}, {other, oneOff, anew, kept}} {
		for _, d := range anchord.DeadNamespaces(members) {
			if got := d.Cures(); !slices.Contains(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
}

// Docker lets nobody join the namespace of a container that does not run.
func TestACureStartsTheOwnerFirst(t *testing.T) {
	dead := anchord.DeadNamespaces([]anchord.Member{member("gw", "", false, 1), member("web", "gw", true, 2)})
	want := []string{"docker start gw", "docker compose -p shop up -d --no-deps --force-recreate web"}
	if got := dead[0].Cures(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestALabelThatWouldBeAnOptionHasNoCure(t *testing.T) {
	m := member("x", "gw", true, 1)
	m.Labels["com.docker.compose.service"] = "--help"
	if got := (anchord.DeadNamespace{Victims: []anchord.Member{m}}).Cures(); got != nil {
		t.Errorf("%q", got)
	}
}

// What a label holds is shown as one word to the shell that a person pastes it
// into.
func TestHostileLabelsInACure(t *testing.T) {
	for _, hostile := range []string{"$(touch /canary)", "`touch /canary`", "a'b;touch /canary;'", "a\nb", "--help", "", "é\"*?~"} {
		m := member("x", "gw", true, 1)
		m.Labels["com.docker.compose.project"] = "p" + hostile
		m.Labels["com.docker.compose.service"] = "s" + hostile
		cures := anchord.DeadNamespace{Victims: []anchord.Member{m}}.Cures()
		if len(cures) != 1 || strings.Contains(cures[0], "\n") {
			t.Fatalf("%q", cures)
		}
		out, err := exec.Command("sh", "-c", "docker() { printf '%s\\n' \"$@\"; }; "+cures[0]).Output()
		clean := strings.ReplaceAll(hostile, "\n", "")
		want := strings.Join([]string{"compose", "-p", "p" + clean, "up", "-d", "--no-deps", "--force-recreate", "s" + clean}, "\n") + "\n"
		if err != nil || string(out) != want {
			t.Errorf("%q becomes %q (%v)", hostile, out, err)
		}
	}
}

func TestStrandedContainers(t *testing.T) {
	created := member("web", "gw", false, 0)
	ended := member("job", "gw", false, 1)
	gw, away := member("gw", "", true, 1), member("gw", "", false, 1)
	if got := anchord.Stranded([]anchord.Member{created, ended, gw}); len(got) != 1 || got[0].Name != "web" {
		t.Errorf("%v, want the one that was never started", got)
	}
	if got := anchord.Stranded([]anchord.Member{created, away}); got != nil {
		t.Errorf("%v, though the owner does not run", got)
	}
}
