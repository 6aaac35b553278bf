package contrib_test

import (
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord/test/dashboard"
)

// What a Prometheus answers to the queries is seen in test/netns.
func TestDashboardIsWhole(t *testing.T) {
	d, err := dashboard.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[int]string{}
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		if other := ids[p.ID]; other != "" || p.ID == 0 {
			t.Errorf("panels %q and %q have the id %d", other, p.Title, p.ID)
		}
		ids[p.ID] = p.Title
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] >= 24 {
					t.Fatalf("panel %q lies on %q, or beside the grid", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
		if len(p.Targets) == 0 != (p.Type == "row") {
			t.Errorf("panel %q, of type %s, has %d queries", p.Title, p.Type, len(p.Targets))
		}
		for _, q := range p.Targets {
			wantMetrics(t, p.Title, q.Expr)
			if !strings.Contains(q.Expr, `{job="$job", instance=~"$instance"`) {
				t.Errorf("panel %q ignores the choice of job and instance: %s", p.Title, q.Expr)
			}
		}
	}
	for _, v := range d.Templating.List {
		wantMetrics(t, v.Name, v.Definition)
	}
}

// The dashboard shows every metric; none is there for nothing.
func TestDashboardShowsEveryMetric(t *testing.T) {
	all := text(t, dashboard.Path)
	for _, name := range metrics(t) {
		if !strings.Contains(all, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}
