package watch

import (
	"strings"
	"sync"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// Ruleset reads the lines of "nft monitor" and fires when somebody else
// changed anchord's tables. A transaction's lines are followed by one that
// names the new generation; anchord's own transactions all replace the serial
// element. Where lines were lost, as of very large transactions, nobody is accused:
// it fires that there is a doubt.
type Ruleset struct {
	Fire func(anchord.Source, time.Time)

	mu            sync.Mutex
	touched, ours bool
	partly        bool // lines of this transaction may be missing
}

// Began tells that the monitor listens from now on, maybe in the midst of a
// transaction.
func (r *Ruleset) Began() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.touched, r.ours, r.partly = false, false, true
}

// Line takes one line of the monitor.
func (r *Ruleset) Line(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case strings.HasPrefix(line, "# ERROR: We lost"): // nobody knows what
		r.Fire(anchord.SourceDoubt, time.Time{})
		r.touched, r.ours, r.partly = false, false, true
	case strings.HasPrefix(line, "# new generation"):
		switch {
		case r.partly:
			r.Fire(anchord.SourceDoubt, time.Time{})
		case r.touched && !r.ours:
			r.Fire(anchord.SourceRuleset, time.Time{})
		}
		r.touched, r.ours, r.partly = false, false, false
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
