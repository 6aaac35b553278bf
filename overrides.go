package anchord

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// TemplateSuffix is how the name of a template ends.
const TemplateSuffix = ".nft.tmpl"

// TemplateFile is a file of the operator's in the template directory.
type TemplateFile struct {
	Name  string
	Text  string
	Fault string // why it cannot be read; empty if it was
}

// stray says whether the file's name is none that anchord looks for.
func (f TemplateFile) stray() bool {
	return f.Fault == "" && !strings.HasSuffix(f.Name, TemplateSuffix)
}

// TemplateError says where a template is wrong.
type TemplateError struct {
	File     string
	Line     int    // 0: unknown, or all of it
	Message  string // without the place
	Rendered string // the line that nft was given, if it is nft who complains
}

func (e *TemplateError) Error() string {
	text := e.File
	if e.Line > 0 {
		text += ":" + strconv.Itoa(e.Line)
	}
	text += ": " + e.Message
	if e.Rendered != "" {
		text += fmt.Sprintf(" (in the rendered line %q)", e.Rendered)
	}
	return text
}

// place is the same for errors that complain of the same in the same place,
// whatever was rendered there.
func (e *TemplateError) place() string {
	return e.File + ":" + strconv.Itoa(e.Line) + ":" + e.Message
}

// wording is which templates say the rules.
type wording struct {
	files    []TemplateFile // of the operator's, as read last
	wanted   Renderer       // of these; nil if they cannot be parsed
	unparsed error          // why not
	refused  error          // why wanted's rules are not in the kernel; nil: they are, or were not tried
	good     Renderer       // whose rules are in the kernel; nil: the embedded templates'
	names    []string       // its files
	last     Ruleset        // its rules as they were applied last
	embedded string         // the body that the embedded templates had then
	told     map[string]bool
	telling  bool // a refusal was told, and not yet that it is over
}

// read takes the operator's files, if they are others than before.
func (w *wording) read(embedded Renderer, files []TemplateFile) {
	if slices.Equal(w.files, files) {
		return
	}
	w.files, w.wanted, w.unparsed, w.refused, w.told = files, nil, nil, nil, nil
	if len(files) > 0 {
		w.wanted, w.unparsed = embedded.With(files)
	}
}

// accept notes that a renderer's rules are in the kernel.
func (w *wording) accept(renderer Renderer, rs, embedded Ruleset) {
	w.good, w.last, w.embedded = renderer, rs, embedded.Body
}

// applyRuleset brings the rules of the state into the kernel, in the words of
// the operator's templates, where these are good.
func (r *Reconciler) applyRuleset(ctx context.Context) error {
	if r.inherited && !r.selfOK {
		return nil
	}
	embedded, err := r.Renderer.Render(r.state)
	if err != nil {
		r.outcome.ApplyErr = err
		return err
	}
	r.words.read(r.Renderer, r.overrides())
	if len(r.words.files) == 0 {
		err = r.applyEmbedded(ctx, embedded)
	} else {
		err = r.applyOverridden(ctx, embedded)
	}
	if err == nil {
		r.reportRefused()
	}
	r.outcome.Overrides, r.outcome.Refused = r.words.names, r.words.refused
	return err
}

// Overriding leaves out files that do nothing.
func Overriding(files []TemplateFile) []TemplateFile {
	return slices.DeleteFunc(slices.Clone(files), TemplateFile.stray)
}

// overrides are the operator's templates. The box that is closed until the
// first decision is not theirs to open.
func (r *Reconciler) overrides() []TemplateFile {
	if !r.selfOK || !r.linksOK {
		return nil
	}
	return Overriding(r.seen.Templates)
}

// applyOverridden tries what the operator wants, and falls back where it is
// refused. What was refused before is tried again where something moved, and
// after the fall back, so that containers do not wait for it; if it took too
// long, on the poll only.
func (r *Reconciler) applyOverridden(ctx context.Context, embedded Ruleset) error {
	w := &r.words
	known := w.refused != nil
	if !known {
		if w.refused = r.applyWanted(ctx, embedded); w.refused == nil {
			return nil
		}
		if err := w.refused; undecided(err) {
			w.refused, r.outcome.ApplyErr = nil, err
			return err // to be tried again soon, as any other failure
		}
	}
	before := r.applied
	if err := r.fallBack(ctx, embedded); err != nil {
		w.refused = nil // then it is not the templates' fault
		return err
	}
	moved := r.applied != before && !errors.Is(w.refused, context.DeadlineExceeded)
	if known && (moved || r.outcome.Source&SourcePoll != 0) {
		outcome := r.outcome
		if w.refused = r.applyWanted(ctx, embedded); w.refused != nil || outcome.Applied {
			r.outcome = outcome
		}
	}
	return nil
}

// undecided says whether nft ended before it came to a verdict: that is no
// template's fault. A check that took too long is one's (see exec.NFT.Check).
func undecided(err error) bool {
	var c interface{ Verdict() bool }
	return errors.As(err, &c) && !c.Verdict() && !errors.Is(err, context.DeadlineExceeded)
}

// applyWanted brings the rules of the operator's templates into the kernel.
func (r *Reconciler) applyWanted(ctx context.Context, embedded Ruleset) error {
	w := &r.words
	if w.wanted == nil {
		return w.unparsed
	}
	rs, err := w.wanted.Render(r.state)
	if err != nil {
		return err
	}
	isNew := w.good != w.wanted
	if isNew || w.refused != nil {
		if err := r.Tables.Check(ctx, rs); err != nil {
			return err
		}
	}
	if err := r.put(ctx, rs); err != nil {
		return err
	}
	w.accept(w.wanted, rs, embedded)
	if isNew {
		r.flowsDue = true // begun under other rules
		w.names = nil
		for _, f := range w.files {
			w.names = append(w.names, f.Name)
		}
		r.Reporter.Event(Info, EventTemplateApplied, "the rules are those of the templates in the template directory", Fields{"files": w.names})
	}
	return nil
}

// fallBack has the rules follow the state where the wanted templates cannot:
// by those accepted last; else by the rules that these made last, as long as
// only containers come and go; else by the embedded templates.
func (r *Reconciler) fallBack(ctx context.Context, embedded Ruleset) error {
	w := &r.words
	if w.good != nil && w.good != w.wanted {
		rs, err := w.good.Render(r.state)
		if err == nil && r.put(ctx, rs) == nil {
			w.accept(w.good, rs, embedded)
			return nil
		}
	}
	if w.good != nil && w.embedded == embedded.Body {
		rs := w.last
		rs.Sets = embedded.Sets
		if r.put(ctx, rs) == nil {
			return nil
		}
	}
	if err := r.put(ctx, embedded); err != nil {
		return err
	}
	w.good, w.names = nil, nil
	return nil
}

func (r *Reconciler) applyEmbedded(ctx context.Context, embedded Ruleset) error {
	if err := r.put(ctx, embedded); err != nil {
		return err
	}
	if r.words.good != nil {
		r.flowsDue = true
		r.Reporter.Event(Info, EventTemplateApplied, "the rules are those of the embedded templates again", Fields{"files": []string{}})
	}
	r.words.good, r.words.names = nil, nil
	return nil
}

// put makes the kernel's ruleset equal to rs; on error it stays as it is.
func (r *Reconciler) put(ctx context.Context, rs Ruleset) error {
	r.outcome.Applied, r.outcome.ApplyErr = false, nil
	if r.applied != nil && r.applied.Body == rs.Body && reflect.DeepEqual(r.applied.Sets, rs.Sets) {
		return nil
	}
	start := time.Now()
	err := r.Tables.Apply(ctx, rs)
	r.outcome.Applied, r.outcome.ApplyErr, r.outcome.ApplyTook = true, err, time.Since(start)
	r.outcome.AppliedAt = time.Now()
	if errors.Is(err, context.DeadlineExceeded) {
		r.applied = nil // the kernel may have either
	}
	if err != nil {
		return err
	}
	r.applied = &rs
	r.reportApplied()
	return nil
}

// reportRefused tells once that the operator's templates are not used, and
// once that they are again or are gone.
func (r *Reconciler) reportRefused() {
	w := &r.words
	if w.refused == nil {
		if w.telling {
			r.Reporter.Event(Info, EventNoticeCleared, "no longer: templates are refused", Fields{"cleared": EventTemplateRefused})
		}
		w.telling, w.told = false, nil
		return
	}
	place, fields := w.refused.Error(), Fields{}
	var where *TemplateError
	if errors.As(w.refused, &where) {
		place, fields = where.place(), Fields{"file": where.File, "line": where.Line}
	}
	if w.told[place] {
		return
	}
	if w.told == nil {
		w.told = map[string]bool{}
	}
	w.told[place], w.telling = true, true
	r.Reporter.Event(Error, EventTemplateRefused, RefusedMessage(w.names, w.refused), fields)
}

// RefusedMessage says that templates are refused, why, and what is used
// instead: names are the files whose rules stand.
func RefusedMessage(names []string, err error) string {
	instead := cmp.Or(strings.Join(names, ", "), "the embedded templates")
	if len(names) > 0 {
		instead += " as accepted before"
	}
	return "the template directory is refused, and the rules are those of " + instead + ": " + err.Error()
}

// strayTemplates tells of files that do nothing, most often for a typing
// error.
func (d *decision) strayTemplates() {
	for _, f := range d.o.Templates {
		if f.stray() {
			d.notice(Warn, EventTemplateIgnored, "", "the file %q in the template directory does nothing: names of templates end in %s", f.Name, TemplateSuffix)
		}
	}
}
