package anchord_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/told"
)

// neighbourhood is what a plan looks at, in the making. Its network-anchor is of
// project shop and called anchord.
type neighbourhood struct {
	anchord.RepairView
	config anchord.RepairConfig
}

func at(minute int) time.Time { return time.Unix(int64(60*minute), 0) }

// neighbours has these members, each made a minute before it was started, or in
// the first minute.
func neighbours(members ...anchord.Member) *neighbourhood {
	n := &neighbourhood{}
	n.config = anchord.RepairConfig{Autostart: true, Autofix: true, Interval: 30 * time.Second}
	n.Self = member("anchord", "", true, 1)
	n.Self.ImageID = "sha256:aa"
	n.Scope = anchord.ProjectScope("shop")
	n.Gateways = anchord.PerFamily[netip.Addr]{addr("10.213.0.2")}
	n.add(n.Self)
	n.add(members...)
	return n
}

func (n *neighbourhood) add(members ...anchord.Member) {
	for _, m := range members {
		if m.Created.IsZero() {
			m.Created = at(1)
			if !m.Started.IsZero() {
				m.Created = m.Started.Add(-time.Minute)
			}
		}
		n.Members = append(n.Members, m)
	}
}

func (n *neighbourhood) get(name string) *anchord.Member {
	i := slices.IndexFunc(n.Members, func(m anchord.Member) bool { return m.Name == name })
	if i < 0 {
		panic(name)
	}
	return &n.Members[i]
}

func (n *neighbourhood) remove(name string) {
	n.Members = slices.DeleteFunc(n.Members, func(m anchord.Member) bool { return m.Name == name })
}

// planned words a plan, one repair each.
func planned(plan []anchord.Repair) []string {
	var list []string
	for _, p := range plan {
		switch p.Action {
		case anchord.RepairMake:
			text := "make " + p.Spec.Name
			if p.Member.ID != "" {
				text += " again"
			}
			list = append(list, text)
		case anchord.RepairRecreate:
			list = append(list, "recreate "+p.Member.Name+" onto "+p.Onto.Name)
		case anchord.RepairFinish:
			list = append(list, "finish "+p.Name)
		default:
			list = append(list, string(p.Action)+" "+p.Member.Name)
		}
	}
	return list
}

func (n *neighbourhood) wantPlan(t *testing.T, want ...string) []anchord.Repair {
	t.Helper()
	plan, notices := n.config.Plan(n.RepairView)
	if got := planned(plan); !slices.Equal(got, want) {
		t.Errorf("planned %q, want %q", got, want)
	}
	if notices != nil {
		t.Errorf("noticed %q", notices)
	}
	for _, p := range plan {
		if p.Why == "" {
			t.Errorf("no reason to %s", planned([]anchord.Repair{p}))
		}
	}
	return plan
}

func TestStrandedSiblingsAreStarted(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	owner := func() anchord.Member { m := member("gw", "", true, 3); m.ID = id; return m }
	for _, tt := range []struct {
		name  string
		joins string
		set   func(*neighbourhood)
		want  []string
	}{
		{"by name", "gw", nil, []string{"start web"}},
		{"by name with a slash", "/gw", nil, []string{"start web"}},
		{"by id", id, nil, []string{"start web"}},
		{"by short id", id[:12], nil, []string{"start web"}},
		{"by what is too short for an id", id[:11], nil, nil},
		{"there is no such container", "other", nil, nil},
		{"the owner was made only", "gw", func(n *neighbourhood) { n.get("gw").Running, n.get("gw").Started = false, time.Time{} }, nil},
		{"the owner ended", "gw", func(n *neighbourhood) { n.get("gw").Running = false }, nil},
		{"it was made beside the running owner", "gw", func(n *neighbourhood) { n.get("web").Created = at(4) }, nil},
		{"it runs", "gw", func(n *neighbourhood) { n.get("web").Running, n.get("web").Started = true, at(4) }, nil},
		{"it ended, or was stopped", "gw", func(n *neighbourhood) { n.get("web").Started = at(4) }, nil},
		{"not wanted", "gw", func(n *neighbourhood) { n.config.Autostart = false }, nil},
		{"another project's", "gw", func(n *neighbourhood) { n.get("web").Labels["com.docker.compose.project"] = "other" }, nil},
		{"of the project that anchord's own wraps", "gw", func(n *neighbourhood) {
			n.Scope = anchord.ProjectScope("other")
			n.get("web").Labels["com.docker.compose.project"] = "other"
		}, []string{"start web"}},
		{"of anchord's own project, which wraps another one", "gw", func(n *neighbourhood) { n.Scope = anchord.ProjectScope("other") }, []string{"start web"}},
		{"by the selector's labels", "gw", func(n *neighbourhood) {
			n.Scope = anchord.Scope{Labels: []anchord.LabelPair{{Key: "app", Value: "x"}}}
			n.get("web").Labels = map[string]string{"app": "x"}
		}, []string{"start web"}},
		{"several, the older first", "gw", func(n *neighbourhood) {
			older := member("older", "gw", false, 0)
			older.Created = at(0)
			n.add(older)
		}, []string{"start older", "start web"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := neighbours(owner(), member("web", tt.joins, false, 0))
			if tt.set != nil {
				tt.set(n)
			}
			n.wantPlan(t, tt.want...)
		})
	}
}

func TestStrandedSiblingsWaitForWhatTheyDependOn(t *testing.T) {
	const started, healthy, completed = "service_started", "service_healthy", "service_completed_successfully"
	for _, tt := range []struct {
		name      string
		condition string
		set       func(db *anchord.Member)
		starts    bool
	}{
		{"started", started, func(*anchord.Member) {}, true},
		{"started, and it ended since", started, func(db *anchord.Member) { db.Running = false }, true},
		{"not started yet", started, func(db *anchord.Member) { db.Running, db.Started = false, time.Time{} }, false},
		{"healthy", healthy, func(db *anchord.Member) { db.Health = "healthy" }, true},
		{"not healthy yet", healthy, func(db *anchord.Member) { db.Health = "starting" }, false},
		{"unhealthy", healthy, func(db *anchord.Member) { db.Health = "unhealthy" }, false},
		{"healthy, but ended", healthy, func(db *anchord.Member) { db.Health, db.Running = "healthy", false }, false},
		{"without a health check", healthy, func(*anchord.Member) {}, true},
		{"completed", completed, func(db *anchord.Member) { db.Running = false }, true},
		{"at work still", completed, func(*anchord.Member) {}, false},
		{"failed", completed, func(db *anchord.Member) { db.Running, db.ExitCode = false, 1 }, false},
		{"not begun yet", completed, func(db *anchord.Member) { db.Running, db.Started = false, time.Time{} }, false},
		{"a one-off of that service does not count", healthy, func(db *anchord.Member) {
			db.Health, db.Labels["com.docker.compose.oneoff"] = "starting", "True"
		}, true},
		{"nor does another project's service", healthy, func(db *anchord.Member) {
			db.Health, db.Labels["com.docker.compose.project"] = "starting", "other"
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db, web := member("db", "", true, 2), member("web", "gw", false, 0)
			web.Labels["com.docker.compose.depends_on"] = "gw:service_started:true,db:" + tt.condition + ":false"
			tt.set(&db)
			n := neighbours(member("gw", "", true, 3), db, web)
			if tt.starts {
				n.wantPlan(t, "start web")
			} else {
				n.wantPlan(t)
			}
		})
	}
}

// managing is a network-anchor that keeps a service-anchor for the container
// mail, which it made before and which runs; web is in its namespace.
func managing(t *testing.T) *neighbourhood {
	t.Helper()
	n := neighbours(member("mail", "", true, 2))
	n.config.Managed = &anchord.Recipe{Target: "mail", Env: map[string]string{"A": "b"}}
	spec := n.wantPlan(t, "make mail-service-anchor")[0].Spec
	n.add(made(spec, n.get("mail").ID, 4))
	n.add(member("web", n.get("mail-service-anchor").ID, true, 5))
	return n
}

// made is the running container of a spec.
func made(s anchord.ContainerSpec, joins string, minute int) anchord.Member {
	m := member(s.Name, joins, true, minute)
	m.ID = fmt.Sprintf("%064x", fmt.Sprint(s.Name, minute))
	m.NamespaceName, m.Image, m.ImageID, m.Labels, m.Env = s.NamespaceOf, s.Image, s.Image, maps.Clone(s.Labels), s.Env
	return m
}

func TestManagedServiceAnchor(t *testing.T) {
	const sa = "mail-service-anchor"
	restart := func(n *neighbourhood) { n.get("mail").Started = at(6) }
	recreate := func(n *neighbourhood) {
		restart(n)
		n.get("mail").ID = strings.Repeat("f", 64)
	}
	for _, tt := range []struct {
		name string
		set  func(*neighbourhood)
		want []string
	}{
		{"it runs and is as it should be", func(*neighbourhood) {}, nil},
		{"the same at the first look", func(n *neighbourhood) { n.First = true }, nil},
		{"by another network-anchor of the same name", func(n *neighbourhood) { n.Self.ID, n.get("anchord").ID = "b", "b" }, nil},
		{"there is none", func(n *neighbourhood) { n.remove(sa); n.remove("web") }, []string{"make " + sa}},
		{"nor a target", func(n *neighbourhood) { n.remove(sa); n.remove("mail"); n.remove("web") }, nil},
		{"nor does the target run", func(n *neighbourhood) { n.remove(sa); n.remove("web"); n.get("mail").Running = false }, nil},
		{"the target is gone", func(n *neighbourhood) { n.remove("mail"); n.remove("web") }, nil},
		{"the target ended", func(n *neighbourhood) { n.get("mail").Running = false; n.remove("web") }, nil},
		{"no address is known that it could lead to", func(n *neighbourhood) {
			n.Gateways = anchord.PerFamily[netip.Addr]{}
			n.remove(sa)
		}, nil},
		{"its gateway is pinned", func(n *neighbourhood) {
			n.config.Managed.Gateways, n.Gateways = n.Gateways, anchord.PerFamily[netip.Addr]{}
		}, nil},
		{"it was made and not started", func(n *neighbourhood) { n.get(sa).Running, n.get(sa).Started = false, time.Time{} }, []string{"start " + sa}},
		{"it was made, not started, and is stale", func(n *neighbourhood) {
			n.get(sa).Running, n.get(sa).Started = false, time.Time{}
			recreate(n)
		}, []string{"make " + sa + " again"}},
		{"it was stopped", func(n *neighbourhood) { n.get(sa).Running = false }, nil},
		{"it was stopped, and other settings are wanted", func(n *neighbourhood) {
			n.get(sa).Running = false
			n.config.Managed.Env["A"] = "c"
		}, []string{"make " + sa + " again"}},
		{"the target was recreated", recreate, []string{"make " + sa + " again"}},
		{"the target was restarted", restart, []string{"make " + sa + " again"}},
		{"other settings are wanted", func(n *neighbourhood) { n.config.Managed.Labels = map[string]string{"k": "v"} }, []string{"make " + sa + " again"}},
		{"another address is to be led to", func(n *neighbourhood) { n.Gateways[anchord.V4] = addr("10.213.0.9") }, []string{"make " + sa + " again"}},
		{"anchord's image is another one", func(n *neighbourhood) { n.Self.ImageID = "sha256:bb" }, nil},
		{"anchord's image is another one, at the first look", func(n *neighbourhood) { n.Self.ImageID, n.First = "sha256:bb", true }, []string{"make " + sa + " again"}},
		{"anchord's image is another one, but one is pinned", func(n *neighbourhood) {
			n.Self.ImageID, n.First, n.config.Managed.Image, n.get(sa).Image = "sha256:bb", true, "anchord:1", "anchord:1"
		}, nil},
		{"another image is pinned, at the first look", func(n *neighbourhood) {
			n.First, n.config.Managed.Image, n.get(sa).Image = true, "anchord:2", "anchord:1"
		}, []string{"make " + sa + " again"}},
		{"another image is pinned", func(n *neighbourhood) { n.config.Managed.Image, n.get(sa).Image = "anchord:2", "anchord:1" }, nil},
		{"the target is named with a slash", func(n *neighbourhood) { n.config.Managed.Target = "/mail" }, nil},
		{"autostart does not do it a second time", func(n *neighbourhood) {
			n.get(sa).Running, n.get(sa).Started, n.get(sa).Created = false, time.Time{}, at(0)
		}, []string{"start " + sa}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := managing(t)
			tt.set(n)
			n.wantPlan(t, tt.want...)
		})
	}
}

func TestServiceAnchorsSuccession(t *testing.T) {
	const sa = "mail-service-anchor"
	n := managing(t)
	first := n.get(sa).ID
	if replaces, any := n.get(sa).Labels["anchord.replaces"]; any {
		t.Errorf("the first one comes in the place of %q", replaces)
	}
	var ids []string // youngest first
	for i := range 12 {
		ids = append([]string{n.get(sa).ID}, ids...)
		n.get("mail").Started = at(10 * (i + 1))
		spec := n.wantPlan(t, "make "+sa+" again")[0].Spec
		want := strings.Join(ids[:min(len(ids), 8)], ",")
		if got := spec.Labels["anchord.replaces"]; got != want {
			t.Fatalf("comes in the place of %q, want %q", got, want)
		}
		n.remove(sa)
		n.add(made(spec, n.get("mail").ID, 10*(i+1)+1))
	}
	n.remove(sa)
	n.remove("web")
	n.Managed = first
	if spec := n.wantPlan(t, "make "+sa)[0].Spec; spec.Labels["anchord.replaces"] != first {
		t.Errorf("in place of the one that was removed: %q", spec.Labels)
	}
}

func TestAContainerOfTheServiceAnchorsName(t *testing.T) {
	n := managing(t)
	delete(n.get("mail-service-anchor").Labels, "anchord.managed-by")
	n.get("mail").Started = at(9)
	n.add(member("app", "gw", false, 0), member("gw", "", true, 3)) // which is nothing to it
	plan, notices := n.config.Plan(n.RepairView)
	if got := planned(plan); !slices.Equal(got, []string{"start app"}) {
		t.Errorf("planned %q", got)
	}
	if len(notices) != 1 || !strings.Contains(notices[0], "mail-service-anchor exists that anchord did not make") || !strings.Contains(notices[0], "ANCHORD_MANAGED_SA_NAME") {
		t.Errorf("noticed %q", notices)
	}
}

// succeeded is a neighbourhood whose service-anchor was made anew: web is in the
// namespace of the one before.
func succeeded(t *testing.T) *neighbourhood {
	t.Helper()
	n := managing(t)
	n.get("mail").Started = at(6)
	spec := n.wantPlan(t, "make mail-service-anchor again")[0].Spec
	n.remove("mail-service-anchor")
	n.add(made(spec, n.get("mail").ID, 7))
	return n
}

func TestOrphansOfTheServiceAnchor(t *testing.T) {
	const sa = "mail-service-anchor"
	web := "recreate web onto " + sa
	for _, tt := range []struct {
		name string
		set  func(*neighbourhood)
		want []string
	}{
		{"in the namespace of the one before", func(*neighbourhood) {}, []string{web}},
		{"that do not run", func(n *neighbourhood) { n.get("web").Running = false }, []string{web}},
		{"that were never started", func(n *neighbourhood) { n.get("web").Running, n.get("web").Started = false, time.Time{} }, []string{web}},
		{"by name", func(n *neighbourhood) { n.get("web").NamespaceOf = sa }, []string{web}},
		{"by name, and do not run", func(n *neighbourhood) { n.get("web").NamespaceOf, n.get("web").Running = sa, false }, nil},
		{"by name, started since", func(n *neighbourhood) { n.get("web").NamespaceOf, n.get("web").Started = sa, at(8) }, nil},
		{"in the namespace that there is", func(n *neighbourhood) { n.get("web").NamespaceOf, n.get("web").Started = n.get(sa).ID, at(8) }, nil},
		{"it was restarted under them", func(n *neighbourhood) { n.get("web").NamespaceOf = n.get(sa).ID }, []string{web}},
		{"of any project", func(n *neighbourhood) { n.get("web").Labels = nil }, []string{web}},
		{"several", func(n *neighbourhood) { n.add(member("b", n.get("web").NamespaceOf, true, 5)) }, []string{web, "recreate b onto " + sa}},
		{"those of others", func(n *neighbourhood) { n.get("web").NamespaceOf = strings.Repeat("9", 64) }, nil},
		{"it does not run", func(n *neighbourhood) { n.get(sa).Running = false }, nil},
		{"it has to be made anew first", func(n *neighbourhood) { n.get("mail").Started = at(9) }, []string{"make " + sa + " again"}},
		{"its target is stopped", func(n *neighbourhood) { n.get("web").NamespaceOf, n.get("mail").Running = n.get(sa).ID, false }, nil},
		{"its target is gone", func(n *neighbourhood) { n.get("web").NamespaceOf = n.get(sa).ID; n.remove("mail") }, nil},
		{"not wanted", func(n *neighbourhood) { n.config.Autofix = false }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := succeeded(t)
			tt.set(n)
			n.wantPlan(t, tt.want...)
		})
	}
}

func TestInterruptedRecreations(t *testing.T) {
	const mark = ".by-anchord"
	for _, tt := range []struct {
		name string
		set  func(*neighbourhood)
		want []string
	}{
		{"the old one is gone", func(n *neighbourhood) { n.remove("web") }, []string{"finish web"}},
		{"the old one does not run", func(n *neighbourhood) { n.get("web").Running = false }, []string{"finish web"}},
		{"the old one runs", func(*neighbourhood) {}, []string{"discard web" + mark}},
		{"somebody made one since", func(n *neighbourhood) { n.get("web").Running, n.get("web").Created = false, at(9) }, []string{"discard web" + mark}},
		{"another network-anchor's", func(n *neighbourhood) { n.get("web" + mark).Name = "web.by-other" }, nil},
		{"it is of the managed service-anchor", func(n *neighbourhood) {
			n.config.Managed = &anchord.Recipe{Target: "gw"}
			n.get("web" + mark).Name = "gw-service-anchor" + mark
			n.remove("web")
		}, []string{"finish gw-service-anchor"}},
		{"what is about others goes on", func(n *neighbourhood) {
			late := member("late", "gw", false, 0)
			late.Created = at(1)
			n.add(late)
		}, []string{"discard web" + mark, "start late"}},
		{"what is in its namespace waits", func(n *neighbourhood) {
			n.remove("web")
			late := member("late", "web"+mark, false, 0)
			late.Created = at(1)
			n.add(late)
			n.get("web"+mark).Running, n.get("web"+mark).Started = true, at(5)
		}, []string{"finish web"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			temporary := member("web"+mark, "gw", false, 0)
			temporary.Created = at(5)
			n := neighbours(member("gw", "", true, 2), member("web", "gw", true, 3), temporary)
			tt.set(n)
			plan := n.wantPlan(t, tt.want...)
			if len(plan) > 0 && plan[0].Action == anchord.RepairFinish {
				old := ""
				if slices.ContainsFunc(n.Members, func(m anchord.Member) bool { return m.Name == "web" }) {
					old = n.get("web").ID
				}
				if plan[0].Old != old || plan[0].Member.ID != temporary.ID {
					t.Errorf("%+v", plan[0])
				}
			}
		})
	}
}

func TestServiceAnchorsFollowTheirTargets(t *testing.T) {
	gone := strings.Repeat("0", 64)
	restart := func(n *neighbourhood) { n.get("mail").Started = at(6) }
	for _, tt := range []struct {
		name string
		set  func(*neighbourhood)
		want []string
	}{
		{"nothing happened", func(*neighbourhood) {}, nil},
		{"restarted", restart, []string{"recreate route onto mail"}},
		{"recreated", func(n *neighbourhood) { n.get("route").NamespaceOf = gone }, []string{"recreate route onto mail"}},
		{"recreated, and it could not start since", func(n *neighbourhood) {
			n.get("route").NamespaceOf, n.get("route").Running, n.get("route").StartFailed = gone, false, true
		}, []string{"recreate route onto mail"}},
		{"recreated, and it was stopped", func(n *neighbourhood) { n.get("route").NamespaceOf, n.get("route").Running = gone, false }, nil},
		{"recreated, and nobody knows its name", func(n *neighbourhood) { n.get("route").NamespaceOf, n.get("route").NamespaceName = gone, "" }, nil},
		{"by name", func(n *neighbourhood) {
			restart(n)
			n.get("route").NamespaceOf, n.get("route").NamespaceName = "/mail", ""
		}, []string{"recreate route onto mail"}},
		{"the target does not run", func(n *neighbourhood) { restart(n); n.get("mail").Running = false }, nil},
		{"the target is gone", func(n *neighbourhood) { n.remove("mail") }, nil},
		{"another project's", func(n *neighbourhood) { restart(n); n.get("route").Labels["com.docker.compose.project"] = "other" }, nil},
		{"of no project, as anchord itself", func(n *neighbourhood) {
			restart(n)
			n.Self.Labels, n.get("route").Labels = nil, nil
		}, nil},
		{"no service-anchor", func(n *neighbourhood) { restart(n); n.get("route").Env = []string{"ANCHORD_MODE=network-anchor"} }, nil},
		{"by its arguments", func(n *neighbourhood) {
			restart(n)
			n.get("route").Env, n.get("route").Args, n.get("route").ImageID = nil, []string{"service-anchor"}, n.Self.ImageID
		}, []string{"recreate route onto mail"}},
		{"by its arguments, but of another image", func(n *neighbourhood) {
			restart(n)
			n.get("route").Env, n.get("route").Args, n.get("route").ImageID = nil, []string{"service-anchor"}, "sha256:ff"
		}, nil},
		{"one that a network-anchor made", func(n *neighbourhood) { restart(n); n.get("route").Labels["anchord.managed-by"] = gone }, nil},
		{"not wanted", func(n *neighbourhood) { restart(n); n.config.Rebind = false }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := neighbours(member("mail", "", true, 2))
			n.get("mail").Labels = map[string]string{"com.docker.compose.project": "mailcow"}
			route := member("route", n.get("mail").ID, true, 3)
			route.NamespaceName, route.Env = "mail", []string{"ANCHORD_MODE=service-anchor"}
			n.add(route)
			n.config = anchord.RepairConfig{Rebind: true}
			tt.set(n)
			n.wantPlan(t, tt.want...)
		})
	}
}

// A service-anchor that cannot be made does not keep others from being put right.
func TestRepairsGoOnBesideTheManagedServiceAnchor(t *testing.T) {
	n := managing(t)
	n.get("mail").Started = at(9)
	n.add(member("gw", "", true, 3), member("late", "gw", false, 0))
	early := member("early", "mail-service-anchor", false, 0) // which is about to go
	early.Created = at(3)
	n.add(early)
	n.wantPlan(t, "make mail-service-anchor again", "start late")
}

// mender is a Repairer whose surroundings are in memory; it keeps what it did and
// told, in order.
type mender struct {
	*anchord.Repairer
	n *neighbourhood

	mu      sync.Mutex
	did     []string
	fails   map[string]error // by an effect's first word, or all of it
	events  []string
	dead    []anchord.Notice
	looks   int
	asked   []string // the names of the last look
	lookErr error
	during  func(what string) // if set, called while an effect is under way
}

func newMender(n *neighbourhood) *mender {
	m := &mender{n: n, fails: map[string]error{}}
	m.Repairer = &anchord.Repairer{
		Config: n.config, Self: m.self, Members: m, Containers: m, Reporter: m,
		Gateways: func() anchord.PerFamily[netip.Addr] { return n.Gateways },
		Identify: func(anchord.Self) (anchord.Identity, error) { return anchord.Identity{Scope: n.Scope}, nil },
	}
	return m
}

func (m *mender) self(context.Context) (anchord.Self, error) {
	return anchord.Self{Container: m.n.Self.Container}, nil
}

func (m *mender) Members(_ context.Context, names ...string) ([]anchord.Member, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks++
	m.asked = names
	return slices.Clone(m.n.Members), m.lookErr
}

func (m *mender) effect(format string, args ...any) error {
	what := strings.TrimSpace(fmt.Sprintf(format, args...))
	if m.during != nil {
		m.during(what)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	kind, _, _ := strings.Cut(what, " ")
	err := m.fails[kind]
	if err == nil {
		err = m.fails[what]
	}
	if err != nil {
		what += " !"
	}
	m.did = append(m.did, what)
	return err
}

func (m *mender) Start(_ context.Context, id string) error { return m.effect("start %s", m.name(id)) }

func (m *mender) Create(_ context.Context, s anchord.ContainerSpec) (string, error) {
	return "new " + s.Name, m.effect("create %s in %s", s.Name, s.NamespaceOf)
}

func (m *mender) Copy(_ context.Context, id, name, namespaceOf string) (string, error) {
	return "new " + name, m.effect("copy %s as %s in %s", m.name(id), name, m.name(namespaceOf))
}

func (m *mender) Replace(_ context.Context, old, id, name string, start bool) error {
	return m.effect("replace %s by %s as %s, start %t", m.name(old), m.name(id), name, start)
}

func (m *mender) Remove(_ context.Context, id string) error { return m.effect("remove %s", m.name(id)) }

func (m *mender) name(id string) string {
	for _, o := range m.n.Members {
		if o.ID == id {
			return o.Name
		}
	}
	return "[" + id + "]"
}

func (m *mender) Event(l anchord.Level, event, message string, f anchord.Fields) {
	told.Must(l, event)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, fmt.Sprintf("%s %s %v: %s", [...]string{"debug", "info", "warn", "error"}[l], event, f["container"], message))
}

func (m *mender) Dead(notices []anchord.Notice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = notices
}

func (m *mender) locked(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *mender) victims() (list []anchord.Notice) {
	m.locked(func() { list = m.dead })
	return list
}

func (m *mender) tries() (n int) {
	m.locked(func() { n = len(m.did) })
	return n
}

// run runs the loop until the test ends; f is what happens meanwhile.
func (m *mender) run(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m.Trigger = anchord.NewTrigger() // of the bubble
		go m.Run(ctx)
		synctest.Wait()
		f(t)
	})
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// change changes the surroundings and tells the loop to look.
func (m *mender) change(f func()) {
	m.locked(f)
	m.Trigger.Fire(anchord.SourceEngine, time.Time{})
}

func (m *mender) wantDid(t *testing.T, want ...string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.did, want) {
		t.Errorf("did:\n  %s\nwant:\n  %s", strings.Join(m.did, "\n  "), strings.Join(want, "\n  "))
	}
	m.did = nil
}

// wantTold compares what was told at info and above since the last time; each of
// want is the beginning of one.
func (m *mender) wantTold(t *testing.T, want ...string) []string {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	told := slices.DeleteFunc(m.events, func(s string) bool { return strings.HasPrefix(s, "debug ") })
	m.events = nil
	if len(told) != len(want) {
		t.Fatalf("told:\n  %s\nwant:\n  %s", strings.Join(told, "\n  "), strings.Join(want, "\n  "))
	}
	for i := range want {
		if !strings.HasPrefix(told[i], want[i]) {
			t.Errorf("told %q, want %q", told[i], want[i])
		}
	}
	return told
}

func TestEffectsOfEachRepair(t *testing.T) {
	const mark = ".by-anchord"
	for _, tt := range []struct {
		name string
		n    func(t *testing.T) *neighbourhood
		did  []string
		told string
	}{
		{"start", func(*testing.T) *neighbourhood {
			return neighbours(member("gw", "", true, 3), member("web", "gw", false, 0))
		}, []string{"start web"}, "info netns.container_started web: "},
		{"make", func(t *testing.T) *neighbourhood {
			n := managing(t)
			n.remove("mail-service-anchor")
			n.remove("web")
			return n
		}, []string{"create mail-service-anchor" + mark + " in mail", "replace [] by [new mail-service-anchor" + mark + "] as mail-service-anchor, start true"}, "info netns.service_anchor_made mail-service-anchor: "},
		{"make again", func(t *testing.T) *neighbourhood { n := managing(t); n.get("mail").Started = at(9); return n }, []string{
			"create mail-service-anchor" + mark + " in mail", "replace mail-service-anchor by [new mail-service-anchor" + mark + "] as mail-service-anchor, start true",
		}, "info netns.service_anchor_made mail-service-anchor: "},
		{"recreate", succeeded, []string{
			"copy web as web" + mark + " in mail-service-anchor", "replace web by [new web" + mark + "] as web, start true",
		}, "info netns.container_recreated web: "},
		{"recreate one that was stopped", func(t *testing.T) *neighbourhood { n := succeeded(t); n.get("web").Running = false; return n }, []string{
			"copy web as web" + mark + " in mail-service-anchor", "replace web by [new web" + mark + "] as web, start false",
		}, "info netns.container_recreated web: "},
		{"recreate one that could not start", func(t *testing.T) *neighbourhood {
			n := succeeded(t)
			n.get("web").Running, n.get("web").StartFailed = false, true
			return n
		}, []string{
			"copy web as web" + mark + " in mail-service-anchor", "replace web by [new web" + mark + "] as web, start true",
		}, "info netns.container_recreated web: "},
		{"finish", func(*testing.T) *neighbourhood { return neighbours(member("web"+mark, "gw", false, 0)) }, []string{
			"replace [] by web" + mark + " as web, start true",
		}, "info netns.container_recreated web: "},
		{"discard", func(*testing.T) *neighbourhood {
			return neighbours(member("web", "", true, 2), member("web"+mark, "", false, 0))
		}, []string{"remove web" + mark}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMender(tt.n(t))
			m.run(t, func(t *testing.T) {
				m.wantDid(t, tt.did...)
				if tt.told == "" {
					m.wantTold(t)
				} else {
					m.wantTold(t, tt.told)
				}
			})
		})
	}
}

func TestALookAsksForThoseThatANameMeans(t *testing.T) {
	n := managing(t)
	n.config.Managed.Target = "/mail"
	m := newMender(n)
	m.run(t, func(t *testing.T) {
		m.locked(func() {
			if want := []string{n.Self.ID, "mail", "mail-service-anchor"}; !slices.Equal(m.asked, want) {
				t.Errorf("asked for %q, want %q", m.asked, want)
			}
		})
	})
}

func TestWhatWasMendedIsLookedAtAgainSoon(t *testing.T) {
	n := succeeded(t)
	m := newMender(n)
	m.run(t, func(t *testing.T) {
		m.wantDid(t, "copy web as web.by-anchord in mail-service-anchor", "replace web by [new web.by-anchord] as web, start true")
		m.mu.Lock()
		n.get("web").NamespaceOf, n.get("web").Started = n.get("mail-service-anchor").ID, at(8)
		n.add(member("later", "web", false, 0)) // was made before web runs again
		m.mu.Unlock()
		after(250 * time.Millisecond)
		m.wantDid(t, "start later")
	})
}

// The poll, and nothing else, where nothing moves.
func TestRepairerIsIdleWhereNothingMoves(t *testing.T) {
	m := newMender(managing(t))
	m.run(t, func(t *testing.T) {
		after(5 * time.Minute)
		m.wantDid(t)
		m.wantTold(t)
		m.locked(func() {
			if m.looks != 11 {
				t.Errorf("%d looks in five minutes, want one in 30s", m.looks)
			}
		})
	})
}

func TestRepairerLeavesTheFirstMomentAfterAnEventToOthers(t *testing.T) {
	m := newMender(neighbours(member("web", "gw", false, 0)))
	m.run(t, func(t *testing.T) {
		m.change(func() { m.n.add(member("gw", "", true, 3)) })
		after(150 * time.Millisecond)
		m.wantDid(t)
		m.Trigger.Fire(anchord.SourceEngine, time.Time{}) // joined with the first
		after(100 * time.Millisecond)
		m.wantDid(t, "start web")
	})
}

func TestOneFailureDoesNotStopTheOthers(t *testing.T) {
	n := succeeded(t)
	n.add(member("b", n.get("web").NamespaceOf, true, 5), member("c", n.get("web").NamespaceOf, true, 5))
	m := newMender(n)
	m.fails["copy b as b.by-anchord in mail-service-anchor"] = errBroken
	m.fails["replace c by [new c.by-anchord] as c, start true"] = errors.New("also broken")
	m.run(t, func(t *testing.T) {
		m.locked(func() { slices.Sort(m.did) })
		m.wantDid(t,
			"copy b as b.by-anchord in mail-service-anchor !",
			"copy c as c.by-anchord in mail-service-anchor",
			"copy web as web.by-anchord in mail-service-anchor",
			"replace c by [new c.by-anchord] as c, start true !",
			"replace web by [new web.by-anchord] as web, start true",
		)
		told := m.wantTold(t, "info netns.container_recreated web: ", "error netns.repair_failed b: ", "error netns.repair_failed c: ")
		const fix = "docker compose -p shop up -d --no-deps --force-recreate b"
		if !strings.Contains(told[1], "broken; "+fix) || !strings.Contains(told[2], "also broken") {
			t.Errorf("%q", told)
		}
	})
}

func TestEachFailureOfARepairIsToldOnce(t *testing.T) {
	n := succeeded(t)
	m := newMender(n)
	m.fails["copy"] = errBroken
	m.run(t, func(t *testing.T) {
		m.wantTold(t, "error netns.repair_failed web: ")
		after(time.Minute)
		told := m.wantTold(t, "warn netns.dead web: ") // it is without a network all the while
		if !strings.Contains(told[0], "docker compose") {
			t.Errorf("%q", told)
		}
		if n := m.tries(); n != 13 {
			t.Errorf("tried %d times in a minute, want one in 5s", n)
		}
		m.change(func() { m.fails["copy"] = errors.New("another") })
		after(time.Minute)
		m.wantTold(t, "error netns.repair_failed web: ")
		m.change(func() { delete(m.fails, "copy") })
		after(250 * time.Millisecond)
		m.wantTold(t, "info netns.container_recreated web: ")
		m.change(func() { m.fails["copy"] = errBroken }) // a new episode
		after(time.Minute)
		m.wantTold(t, "error netns.repair_failed web: ")
	})
}

// What a failed try leaves is removed before the next one, and neither is told
// of over and over.
func TestARepairThatFailsInTheMiddleIsToldOnce(t *testing.T) {
	n := succeeded(t)
	m := newMender(n)
	m.fails["replace"] = errBroken
	m.during = func(what string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch kind, _, _ := strings.Cut(what, " "); kind {
		case "copy":
			left := member("web.by-anchord", "mail-service-anchor", false, 0)
			left.Created = at(9)
			n.add(left)
		case "remove":
			n.remove("web.by-anchord")
		}
	}
	m.run(t, func(t *testing.T) {
		after(time.Minute)
		if tries := m.tries(); tries < 20 {
			t.Errorf("only %d", tries)
		}
		m.wantTold(t, "error netns.repair_failed web: ", "warn netns.dead web: ")
	})
}

func TestRefusalsAreToldOncePerKind(t *testing.T) {
	refused := fmt.Errorf("making a container: %w: 403", anchord.ErrRefused)
	n := succeeded(t)
	n.add(member("b", n.get("web").NamespaceOf, true, 5), member("gw", "", true, 3), member("late", "gw", false, 0), member("later", "gw", false, 0))
	for _, name := range []string{"late", "later"} {
		n.get(name).Created = at(2)
	}
	m := newMender(n)
	m.fails["copy"], m.fails["start"] = refused, refused
	m.run(t, func(t *testing.T) {
		told := m.wantTold(t, "warn docker.write_refused web: ", "warn docker.write_refused late")
		if !strings.Contains(told[0], "ANCHORD_AUTOFIX_DEAD_NETNS") || !strings.Contains(told[1], "ANCHORD_AUTOSTART_SIBLINGS") {
			t.Errorf("%q", told)
		}
		after(10 * time.Minute)
		m.wantTold(t, "warn netns.dead b: ", "warn netns.dead web: ")
		m.change(func() { n.get("mail").Started = at(9); m.fails["create"] = refused })
		after(10 * time.Minute)
		told = m.wantTold(t, "warn docker.write_refused mail-service-anchor: ", "warn netns.dead mail-service-anchor: ")
		if !strings.Contains(told[0], "ANCHORD_MANAGED_SA_TARGET") || strings.Contains(told[1], "docker compose") {
			t.Errorf("%q", told) // Compose would recreate the network-anchor
		}
		m.change(func() { m.n.add(member("x.by-anchord", "", false, 0)); m.fails["replace"] = refused })
		after(time.Minute)
		m.wantTold(t, "warn docker.write_refused x: ")
		m.change(func() { m.n.add(member("x", "", true, 9)); m.fails["remove"] = refused })
		after(time.Minute)
		m.wantTold(t, "warn docker.write_refused x: ")
	})
}

func TestDeadNamespacesAreToldAfterAGrace(t *testing.T) {
	m := newMender(neighbours(member("gw", "", true, 1), member("web", "gw", true, 2)))
	m.run(t, func(t *testing.T) {
		restart := func() { m.n.get("gw").Started = m.n.get("web").Started.Add(time.Minute) }
		m.change(restart)
		after(5 * time.Second)
		m.wantTold(t)
		if m.victims() != nil {
			t.Errorf("dead in the time of grace: %+v", m.victims())
		}
		after(200 * time.Millisecond)
		told := m.wantTold(t, "warn netns.dead web: container web has no network: it is in the network namespace of gw, which was started anew; fix: ")
		if !strings.HasSuffix(told[0], "docker compose -p shop up -d --no-deps --force-recreate web") {
			t.Errorf("%q", told)
		}
		if len(m.victims()) != 1 || m.victims()[0].Container != "web" || m.victims()[0].Event != anchord.EventNamespaceDead || m.victims()[0].Level != anchord.Warn {
			t.Errorf("%+v", m.victims())
		}
		after(time.Hour)
		m.wantTold(t)

		m.change(func() { m.n.get("web").Started = m.n.get("gw").Started.Add(time.Minute) })
		after(time.Second)
		if m.victims() != nil {
			t.Errorf("dead after it was put right: %+v", m.victims())
		}
		m.change(restart)
		after(5*time.Second + 200*time.Millisecond)
		m.wantTold(t, "warn netns.dead web: ")
		if len(m.victims()) != 1 {
			t.Errorf("%+v", m.victims())
		}
	})
}

func TestDeadNamespacesThatAreNotTold(t *testing.T) {
	for name, set := range map[string]func(*mender){
		"another project's": func(m *mender) { m.n.get("web").Labels["com.docker.compose.project"] = "other" },
		"recreated in the grace": func(m *mender) {
			time.AfterFunc(3*time.Second, func() { m.change(func() { m.n.get("web").Started = at(9) }) })
		},
		"replaced in the grace": func(m *mender) { time.AfterFunc(3*time.Second, func() { m.change(func() { m.n.remove("web") }) }) },
		"stopped in the grace": func(m *mender) {
			time.AfterFunc(3*time.Second, func() { m.change(func() { m.n.get("web").Running = false }) })
		},
		"a rebinder's, whose target is down": func(m *mender) {
			m.Config.Rebind = true
			m.n.get("web").Env = []string{"ANCHORD_MODE=service-anchor"}
			m.n.get("web").NamespaceName = "gw"
			m.n.remove("gw")
		},
		"docker cannot be looked": func(m *mender) { m.lookErr = errBroken },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMender(neighbours(member("gw", "", true, 3), member("web", "gw", true, 2)))
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				m.Trigger = anchord.NewTrigger()
				set(m)
				go m.Run(ctx)
				after(time.Minute)
				m.wantTold(t)
				if m.victims() != nil {
					t.Errorf("%+v", m.victims())
				}
			})
		})
	}
}

// A victim that no Compose project made has no command that would mend it.
func TestDeadNamespaceWithoutACure(t *testing.T) {
	n := neighbours(member("web", "gone", true, 2))
	n.Scope = anchord.Scope{Labels: []anchord.LabelPair{{Key: "app", Value: "x"}}}
	n.get("web").Labels = map[string]string{"app": "x"}
	m := newMender(n)
	m.run(t, func(t *testing.T) {
		after(6 * time.Second)
		if told := m.wantTold(t, "warn netns.dead web: "); !strings.HasSuffix(told[0], "the network namespace of gone, which is gone; fix: recreate it as it was made") {
			t.Errorf("%q", told)
		}
	})
}

func TestWhatStandsInTheWayIsToldOnce(t *testing.T) {
	n := managing(t)
	n.remove("web")
	delete(n.get("mail-service-anchor").Labels, "anchord.managed-by")
	m := newMender(n)
	m.run(t, func(t *testing.T) {
		m.wantTold(t, "error netns.repair_failed <nil>: container mail gets no service-anchor")
		after(time.Hour)
		m.wantTold(t)
		m.change(func() { n.remove("mail-service-anchor") })
		after(250 * time.Millisecond)
		m.wantTold(t, "info netns.service_anchor_made")
		m.wantDid(t, "create mail-service-anchor.by-anchord in mail", "replace [] by [new mail-service-anchor.by-anchord] as mail-service-anchor, start true")
	})
}

// Only at the first look that knows where a service-anchor's route is to lead.
func TestAnotherImageIsForTheFirstLookThatCanAct(t *testing.T) {
	n := managing(t)
	n.remove("web")
	gateways := n.Gateways
	n.get("mail-service-anchor").ImageID, n.Gateways = "sha256:00", anchord.PerFamily[netip.Addr]{}
	for i := range n.Members {
		n.Members[i].Labels = maps.Clone(n.Members[i].Labels)
	}
	n.get("anchord").ImageID = "sha256:aa"
	m := newMender(n)
	m.run(t, func(t *testing.T) {
		m.wantDid(t)
		m.change(func() { n.Gateways = gateways })
		after(250 * time.Millisecond)
		m.wantDid(t, "create mail-service-anchor.by-anchord in mail", "replace mail-service-anchor by [new mail-service-anchor.by-anchord] as mail-service-anchor, start true")
		after(time.Minute) // it is not made anew a second time, whatever its image
		m.wantDid(t)
	})
}

func TestALookThatFailsIsMadeAgain(t *testing.T) {
	m := newMender(neighbours(member("gw", "", true, 3), member("web", "gw", false, 0)))
	m.lookErr = errBroken
	m.run(t, func(t *testing.T) {
		after(time.Minute)
		m.wantDid(t)
		m.wantTold(t) // it is whoever needs Docker more who tells it
		m.mu.Lock()
		m.lookErr = nil
		m.mu.Unlock()
		after(5 * time.Second)
		m.wantDid(t, "start web")
	})
	t.Run("without ourselves in the list", func(t *testing.T) {
		m := newMender(neighbours(member("gw", "", true, 3), member("web", "gw", false, 0)))
		m.n.remove("anchord")
		m.run(t, func(t *testing.T) {
			after(time.Minute)
			m.wantDid(t)
		})
	})
}

// What a stop interrupts is no failure, and nothing is begun after it.
func TestRepairerStopsInTheMiddle(t *testing.T) {
	m := newMender(succeeded(t))
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m.Trigger = anchord.NewTrigger()
		m.fails["copy"] = context.Canceled
		m.during = func(string) { cancel() }
		m.Run(ctx)
		m.wantDid(t, "copy web as web.by-anchord in mail-service-anchor !")
		m.wantTold(t)
	})
}
