package anchord_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// override gives the operator other templates: name and text in turn.
func (g *rig) override(pairs ...string) {
	var files []anchord.TemplateFile
	for i := 0; i < len(pairs); i += 2 {
		files = append(files, anchord.TemplateFile{Name: pairs[i], Text: pairs[i+1]})
	}
	g.w.Observation.Templates = files
}

// rules are the bodies that were checked (nft -c) and put into the kernel.
func (g *rig) rules(t *testing.T, source anchord.Source) (checked, applied []string) {
	t.Helper()
	for _, e := range g.look(t, source) {
		if body, found := strings.CutPrefix(e, "check "); found {
			checked = append(checked, body)
		}
		if strings.HasPrefix(e, "rules ") {
			applied = append(applied, e)
		}
	}
	return checked, applied
}

func TestAnOverrideIsCheckedOnceAndApplied(t *testing.T) {
	g := working(t)
	g.override("a.nft.tmpl", "mine")
	checked, applied := g.rules(t, anchord.SourceTemplates)
	if len(checked) != 1 || !strings.HasSuffix(checked[0], " mine") || len(applied) != 1 || !strings.HasSuffix(g.inKernel, " mine") {
		t.Errorf("checked %q, applied %q, now %q", checked, applied, g.inKernel)
	}
	if o := g.last(); !slices.Equal(o.Overrides, []string{"a.nft.tmpl"}) || o.Refused != nil {
		t.Errorf("%+v", o)
	}
	if told := g.told(anchord.EventTemplateApplied); len(told) != 1 {
		t.Errorf("told %q", told)
	}
	g.wantEffects(t, anchord.SourceAll|anchord.SourcePoll)

	// Containers are followed without another check.
	g.w.run("other", "tcp/81", "shop_transit=10.213.0.6")
	if checked, applied := g.rules(t, anchord.SourceContainers); checked != nil || len(applied) != 1 || !strings.HasSuffix(g.inKernel, " mine") {
		t.Errorf("checked %q, applied %q", checked, applied)
	}
	g.override()
	if checked, applied := g.rules(t, anchord.SourceTemplates); checked != nil || len(applied) != 1 || strings.HasSuffix(g.inKernel, " mine") {
		t.Errorf("withdrawn: checked %q, applied %q, now %q", checked, applied, g.inKernel)
	}
	if told := g.told(anchord.EventTemplateApplied); len(told) != 1 || !strings.Contains(told[0], "embedded") {
		t.Errorf("told %q", told)
	}
}

// Whatever fails, the rules stand, and go on by the templates accepted last.
func TestARefusedOverrideChangesNothing(t *testing.T) {
	for name, breaks := range map[string]func(g *rig){
		"rendering": func(g *rig) { g.override("b.nft.tmpl", "fails with lan0") },
		"the check": func(g *rig) { g.override("b.nft.tmpl", "bad"); g.refuses["check"] = "bad" },
		"the apply": func(g *rig) { g.override("b.nft.tmpl", "bad"); g.refuses["rules"] = "bad" },
		"parsing": func(g *rig) {
			g.w.Observation.Templates = []anchord.TemplateFile{{Name: "b.nft.tmpl", Fault: "unreadable"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := working(t)
			g.override("a.nft.tmpl", "good")
			g.look(t, anchord.SourceTemplates)
			stood := g.inKernel
			breaks(g)
			g.look(t, anchord.SourceTemplates)
			if g.inKernel != stood {
				t.Errorf("%q stands, where %q stood", g.inKernel, stood)
			}
			o := g.last()
			if o.Refused == nil || o.Err != nil || o.ApplyErr != nil || o.Applied || !slices.Equal(o.Overrides, []string{"a.nft.tmpl"}) {
				t.Errorf("%+v", o)
			}
			if told := g.told(anchord.EventTemplateRefused); len(told) != 1 || !strings.HasPrefix(told[0], "error ") {
				t.Errorf("told %q", told)
			}
			g.wantEffects(t, anchord.SourceAll) // nothing moved: not tried again

			g.w.run("other", "tcp/81", "shop_transit=10.213.0.6")
			did := g.look(t, anchord.SourceContainers)
			if len(did) == 0 || did[0] != "rules lan0" || g.inKernel != stood || !strings.Contains(g.elements, "10.213.0.6") {
				t.Errorf("the container is followed first: %q, and %q stands with %q", did, g.inKernel, g.elements)
			}
			if told := g.told(anchord.EventTemplateRefused); told != nil {
				t.Errorf("told again: %q", told)
			}
			g.refuses = map[string]string{}
			g.override("b.nft.tmpl", "repaired")
			g.look(t, anchord.SourceTemplates)
			if told := g.told(anchord.EventNoticeCleared); len(told) != 1 || !strings.HasSuffix(g.inKernel, " repaired") {
				t.Errorf("told %q, and %q stands", told, g.inKernel)
			}
		})
	}
}

// The fault is told again where the operator has changed something in vain.
func TestASecondRefusalIsTold(t *testing.T) {
	g := working(t)
	for _, text := range []string{"fails with lan0", "fails with lan0 ", "fails with lan0"} {
		g.override("b.nft.tmpl", strings.TrimRight(text, " "), "c.nft.tmpl", text)
		g.look(t, anchord.SourceTemplates)
		if told := g.told(anchord.EventTemplateRefused); len(told) != 1 || !strings.Contains(told[0], "the embedded templates") {
			t.Errorf("told %q", told)
		}
	}
}

// A template that is good until some container comes: what it said last stays,
// with the new elements. Where interfaces are others, too, the embedded ones
// take over.
func TestAnOverrideThatFailsLater(t *testing.T) {
	g := working(t)
	g.override("a.nft.tmpl", "fails with 10.213.0.66")
	g.look(t, anchord.SourceTemplates)
	g.w.run("other", "tcp/81", "shop_transit=10.213.0.66")
	g.look(t, anchord.SourceContainers)
	if !strings.HasSuffix(g.inKernel, "fails with 10.213.0.66") || g.last().Refused == nil {
		t.Errorf("%q stands; %v", g.inKernel, g.last().Refused)
	}
	if g.last().Err != nil || !strings.Contains(g.elements, "10.213.0.66") {
		t.Errorf("%q with %q", g.inKernel, g.elements)
	}
	g.w.attach(bridge("shop_other", "10.9.0.0/24"), "other0", "02:00:00:00:00:09", "10.9.0.2/24")
	g.look(t, anchord.SourceAll)
	if strings.Contains(g.inKernel, "fails") || !strings.Contains(g.inKernel, "other0") || g.last().Overrides != nil {
		t.Errorf("%q stands, of %q", g.inKernel, g.last().Overrides)
	}
	g.w.Containers = g.w.Containers[:1]
	g.look(t, anchord.SourceContainers)
	if o := g.last(); o.Refused != nil || len(g.told(anchord.EventNoticeCleared)) != 1 {
		t.Errorf("it works again: %+v", o)
	}
}

// Where nft cannot do anything, that is the failure, and nobody's template.
func TestAnOverrideIsNotBlamedForNFT(t *testing.T) {
	g := working(t)
	g.fails["check"], g.fails["rules"] = errBroken, errBroken
	g.override("a.nft.tmpl", "mine")
	g.w.run("other", "tcp/81", "shop_transit=10.213.0.6")
	g.look(t, anchord.SourceTemplates|anchord.SourceContainers)
	if o := g.last(); !errors.Is(o.Err, errBroken) || o.Refused != nil || g.told(anchord.EventTemplateRefused) != nil {
		t.Errorf("%+v", o)
	}
	g.fails = map[string]error{}
	g.look(t, anchord.SourceAll)
	if !strings.HasSuffix(g.inKernel, " mine") || g.last().Refused != nil {
		t.Errorf("%q stands; %v", g.inKernel, g.last().Refused)
	}
}

// What nft refused may be accepted by another kernel module's arrival, say:
// the poll tries again.
func TestARefusedOverrideIsTriedOnThePoll(t *testing.T) {
	g := working(t)
	g.override("a.nft.tmpl", "bad")
	g.refuses["check"] = "bad"
	g.look(t, anchord.SourceTemplates)
	g.refuses = map[string]string{}
	g.look(t, anchord.SourceAll|anchord.SourcePoll)
	if !strings.HasSuffix(g.inKernel, " bad") || g.last().Refused != nil {
		t.Errorf("%q stands; %v", g.inKernel, g.last().Refused)
	}
}

// Until Docker has told who we are, the box is closed by the embedded rules.
func TestOverridesDoNotOpenTheClosedBox(t *testing.T) {
	g := leased()
	g.override("a.nft.tmpl", "mine")
	g.dockerErr = errBroken
	g.look(t, anchord.SourceAll)
	if strings.Contains(g.inKernel, "mine") {
		t.Errorf("%q stands", g.inKernel)
	}
	g.dockerErr = nil
	g.look(t, anchord.SourceAll)
	if !strings.HasSuffix(g.inKernel, " mine") {
		t.Errorf("%q stands", g.inKernel)
	}
}

func TestFilesThatDoNothingAreTold(t *testing.T) {
	g := working(t)
	g.override("anchord.nft.tmp", "", "b.nft.tmpl", "mine")
	g.look(t, anchord.SourceTemplates)
	if told := g.told(anchord.EventTemplateIgnored); len(told) != 1 || !strings.Contains(told[0], `"anchord.nft.tmp"`) || !strings.HasSuffix(g.inKernel, " mine") {
		t.Errorf("told %q, and %q stands", told, g.inKernel)
	}
	g.override("b.nft.tmpl", "mine")
	g.look(t, anchord.SourceTemplates)
	if told := g.told(anchord.EventNoticeCleared); len(told) != 1 {
		t.Errorf("told %q", told)
	}
}

// A check that took too long would hold up each container's change: only the
// poll repeats it.
func TestACheckThatTakesTooLongIsNotRepeatedForContainers(t *testing.T) {
	g := working(t)
	g.fails["check"] = context.DeadlineExceeded
	g.override("a.nft.tmpl", "slow")
	g.look(t, anchord.SourceTemplates)
	g.w.run("other", "tcp/81", "shop_transit=10.213.0.6")
	if checked, applied := g.rules(t, anchord.SourceContainers); checked != nil || len(applied) != 1 {
		t.Errorf("checked %q, applied %q", checked, applied)
	}
	g.fails = map[string]error{}
	g.look(t, anchord.SourceAll|anchord.SourcePoll)
	if !strings.HasSuffix(g.inKernel, " slow") {
		t.Errorf("%q stands", g.inKernel)
	}
}

// killed is the error of a tool that was ended before it came to a verdict.
type killed struct{ error }

func (killed) Verdict() bool { return false }

// What is no verdict on the template is no fault of it: it is tried again soon.
func TestAnOverrideIsNotBlamedForAKilledCheck(t *testing.T) {
	g := leased()
	g.override("a.nft.tmpl", "closes")
	g.fails["check"] = killed{errBroken}
	_ = g.Reconcile(t.Context(), anchord.SourceAll, time.Time{})
	if o := g.last(); o.Refused != nil || o.Err == nil || g.told(anchord.EventTemplateRefused) != nil {
		t.Errorf("refused %v, error %v", o.Refused, o.Err)
	}
	g.fails = map[string]error{}
	g.look(t, anchord.SourceAll)
	if !strings.HasSuffix(g.inKernel, " closes") {
		t.Errorf("%q stands", g.inKernel)
	}
}

// late is told that an apply ran out of time, which the kernel has all the same.
type late struct {
	*rig
	times int
}

func (l *late) Apply(ctx context.Context, rs anchord.Ruleset) error {
	err := l.rig.Apply(ctx, rs)
	if l.times--; l.times >= 0 {
		return context.DeadlineExceeded
	}
	return err
}

func TestAnOverrideWhoseApplyWasLateIsWithdrawn(t *testing.T) {
	g := working(t)
	g.Tables = &late{g, 1}
	g.override("a.nft.tmpl", "mine")
	g.look(t, anchord.SourceTemplates)
	g.override()
	g.look(t, anchord.SourceTemplates)
	if strings.HasSuffix(g.inKernel, " mine") {
		t.Errorf("%q stands", g.inKernel)
	}
}

// An override may translate what no label exposes; the entries know nothing of
// where that leads, and must not end it.
func TestFlowsThatAnOverrideTranslatesLiveOn(t *testing.T) {
	g := working(t)
	g.w.run("other", "tcp/81", "shop_transit=10.213.0.6")
	g.override("a.nft.tmpl", "2222 leads to 10.213.0.77:22")
	g.look(t, anchord.SourceAll)
	own := g.last().State.External[anchord.V4].Prefix.Addr()
	g.flows[anchord.TCP] = []anchord.Flow{
		{OrigDst: own, OrigPort: 2222, ReplySrc: netip.MustParseAddr("10.213.0.77"), ReplyPort: 22},
		{OrigDst: own, OrigPort: 81, ReplySrc: netip.MustParseAddr("10.213.0.6"), ReplyPort: 81},
	}
	g.w.Containers = g.w.Containers[:len(g.w.Containers)-1]
	var ended []string
	for _, did := range g.look(t, anchord.SourceContainers) {
		if strings.HasPrefix(did, "end ") {
			ended = append(ended, did)
		}
	}
	if len(ended) != 1 || !strings.Contains(ended[0], "10.213.0.6") {
		t.Errorf("ended %q", ended)
	}
}

// A client that never stops sending is picked up when an override that kept it
// out is withdrawn.
func TestFlowsBegunUnderAnotherOverrideAreLookedAt(t *testing.T) {
	g := working(t)
	g.w.run("dns", "udp/53", "shop_transit=10.213.0.7")
	g.look(t, anchord.SourceAll)
	g.override("a.nft.tmpl", "keeps udp 53 out")
	g.look(t, anchord.SourceTemplates)
	own := g.last().State.External[anchord.V4].Prefix.Addr()
	g.flows[anchord.UDP] = []anchord.Flow{{OrigDst: own, OrigPort: 53, ReplySrc: own, ReplyPort: 53}}
	g.override()
	if did := g.look(t, anchord.SourceTemplates); !slices.ContainsFunc(did, func(e string) bool { return strings.HasPrefix(e, "end udp") }) {
		t.Errorf("did %q", did)
	}
}
