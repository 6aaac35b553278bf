// Package dashboard reads the dashboard that the project ships, asks a
// Prometheus its queries, and draws it.
package dashboard

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/AlexCherrypi/anchord/test/tools"
)

// Path of the dashboard from the repository's root.
const Path = "contrib/grafana/anchord.json"

// Dashboard is what of Grafana's JSON matters for asking and drawing.
type Dashboard struct {
	Title      string
	Templating struct{ List []Variable }
	Panels     []Panel
}

// Variable is one of the choices above the panels.
type Variable struct{ Name, Definition string }

// Panel is a heading of type row, a stat or a timeseries.
type Panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ H, W, X, Y int }
	FieldConfig              struct {
		Defaults struct {
			Unit       string
			Min, Max   *float64
			Mappings   []Mapping
			Thresholds struct{ Steps []Step }
			Custom     struct{ LineInterpolation string }
		}
	}
	Targets []Target
}

// Mapping words a value.
type Mapping struct {
	Options map[string]struct{ Text, Color string }
}

// Step is the colour of a value, and of all above it.
type Step struct {
	Color string
	Value *float64
}

// Target is one query.
type Target struct{ RefID, Expr, LegendFormat string }

// Load reads the dashboard, with the repository's root given.
func Load(root string) (d Dashboard, err error) {
	text, err := os.ReadFile(filepath.Join(root, Path))
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		return d, fmt.Errorf("loading the dashboard: %w", err)
	}
	return d, nil
}

// Query is the target's PromQL with Grafana's variables put in, as for a job
// called anchord and all of its instances. The interval is a duration of
// Prometheus, as Grafana derives it from the scrape interval and the width.
func (t Target) Query(interval string) string {
	return strings.NewReplacer("$job", "anchord", "$instance", ".+", "$__rate_interval", interval).Replace(t.Expr)
}

// Program is the path of a program of Debian's prometheus package, after
// tools.Use("test").
func Program(name string) string { return tools.File(name) }
