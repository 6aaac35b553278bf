package watch

import (
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// Ruleset reads the lines of "nft monitor" and fires when somebody else
// changed anchord's tables. A transaction's lines are followed by one that
// names the new generation; anchord's own transactions all replace the serial
// element.
type Ruleset struct {
	Fire func(anchord.Source, time.Time)

	touched, ours bool
}

// Line takes one line of the monitor.
func (r *Ruleset) Line(line string) {
	switch {
	case strings.HasPrefix(line, "# ERROR: We lost"): // nobody knows what
		r.Fire(anchord.SourceRuleset, time.Time{})
		r.touched, r.ours = false, false
	case strings.HasPrefix(line, "# new generation"):
		if r.touched && !r.ours {
			r.Fire(anchord.SourceRuleset, time.Time{})
		}
		r.touched, r.ours = false, false
	case strings.HasPrefix(line, "add element "+anchord.TableV4+" "+anchord.SerialSet+" "):
		r.touched, r.ours = true, true
	case strings.Contains(line, " "+anchord.TableV4), strings.Contains(line, " "+anchord.TableV6):
		r.touched = true
	}
}

// Gateway reads the lines of "ip monitor" in a service-anchor: a changed
// route or address asks for a look at the kernel, a neighbour that does not
// answer also for a look at names.
type Gateway struct {
	Fire func(anchord.Source, time.Time)
}

// Line takes one line of the monitor, which labels each with its kind.
func (g *Gateway) Line(line string) {
	if !strings.HasPrefix(line, "[NEIGH]") {
		g.Fire(anchord.SourceKernel, time.Time{})
		return
	}
	if strings.Contains(line, "FAILED") {
		g.Fire(anchord.SourceNames|anchord.SourceKernel, time.Time{})
	}
}
