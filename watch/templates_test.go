package watch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// put writes a template by a rename.
func put(t *testing.T, dir, name, text string) {
	t.Helper()
	tmp := filepath.Join(dir, ".new")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestTemplatesAreRead(t *testing.T) {
	dir := t.TempDir()
	d := &TemplateDir{Path: dir}
	put(t, dir, "b.nft.tmpl", "b\r\nb\n")
	put(t, dir, "a.nft.tmpl", "a")
	put(t, dir, "note.txt", "not read")
	put(t, dir, "a.nft.tmpl~", "a backup")
	put(t, dir, ".a.nft.tmpl.swp", "hidden")
	os.Mkdir(filepath.Join(dir, "directory.nft.tmpl"), 0o755)
	syscall.Mkfifo(filepath.Join(dir, "pipe.nft.tmpl"), 0o644)
	os.Symlink("circle.nft.tmpl", filepath.Join(dir, "circle.nft.tmpl"))
	os.Symlink("nowhere", filepath.Join(dir, "dangling.nft.tmpl"))
	os.Symlink("a.nft.tmpl", filepath.Join(dir, "link.nft.tmpl"))
	put(t, dir, "large.nft.tmpl", strings.Repeat("x", maxTemplateLen+1))
	put(t, dir, "binary.nft.tmpl", "a\x01b")
	put(t, dir, "latin1.nft.tmpl", "\xe9")
	put(t, dir, "most.nft.tmpl", strings.Repeat("x", maxTemplateLen))
	d.Templates()
	want := []anchord.TemplateFile{
		{Name: "a.nft.tmpl", Text: "a"},
		{Name: "b.nft.tmpl", Text: "b\nb\n"},
		{Name: "binary.nft.tmpl", Fault: "cannot be used: it is not text"},
		{Name: "circle.nft.tmpl", Fault: "cannot be used: too many levels of symbolic links"},
		{Name: "dangling.nft.tmpl", Fault: "cannot be used: no such file or directory"},
		{Name: "directory.nft.tmpl", Fault: "cannot be used: it is not a file"},
		{Name: "large.nft.tmpl", Fault: "cannot be used: it is longer than 262144 bytes"},
		{Name: "latin1.nft.tmpl", Fault: "cannot be used: it is not text"},
		{Name: "link.nft.tmpl", Text: "a"},
		{Name: "most.nft.tmpl", Text: strings.Repeat("x", maxTemplateLen)},
		{Name: "note.txt"},
		{Name: "pipe.nft.tmpl", Fault: "cannot be used: it is not a file"},
	}
	if got := d.Templates(); !slices.Equal(got, want) {
		t.Errorf("read %.200q, want %.200q", fmt.Sprint(got), fmt.Sprint(want))
	}
}

func TestTemplateDirectoriesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o644)
	pipe := filepath.Join(dir, "pipe")
	syscall.Mkfifo(pipe, 0o644)
	many := filepath.Join(dir, "many")
	os.Mkdir(many, 0o755)
	for i := range maxTemplates + 1 {
		os.WriteFile(filepath.Join(many, fmt.Sprint(i)), nil, 0o644)
	}
	for path, fault := range map[string]string{
		filepath.Join(dir, "none"): "",
		file:                       "it is not a directory",
		pipe:                       "it is not a directory",
		many:                       "it holds more than 64 files",
	} {
		d := &TemplateDir{Path: path}
		d.Templates()
		var got string
		for _, f := range d.Templates() {
			got += f.Name + " " + f.Fault
		}
		if want := path + " cannot be read: " + fault; got != want && (fault != "" || got != "") {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// What is written while anchord starts is waited for, in moderation.
func TestTemplatesThatAreWrittenAtStart(t *testing.T) {
	d := &TemplateDir{Path: t.TempDir()}
	path := filepath.Join(d.Path, "a.nft.tmpl")
	put(t, d.Path, "a.nft.tmpl", "half")
	written := make(chan struct{})
	go func() {
		defer close(written)
		os.WriteFile(path, []byte("whole"), 0o644)
	}()
	d.Templates()
	<-written
	if got := d.Templates()[0].Text; got != "whole" {
		t.Errorf("read %q", got)
	}
	future := time.Now().Add(time.Hour)
	os.Chtimes(path, future, future)
	if d.justWritten() {
		t.Error("a file of the future is waited for")
	}
}

// follow starts following and returns a wait for the next firing, and what was
// read by then.
func follow(t *testing.T, d *TemplateDir) (next func() string, fired func() int) {
	t.Helper()
	fires := make(chan anchord.Source, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Follow(ctx, func(s anchord.Source, _ time.Time) { fires <- s })
	}()
	t.Cleanup(func() { cancel(); <-done })
	next = func() string {
		t.Helper()
		select {
		case s := <-fires:
			if s != anchord.SourceTemplates {
				t.Errorf("fired %b", s)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("never fired")
		}
		var texts []string
		for _, f := range d.Templates() {
			texts = append(texts, f.Text+f.Fault)
		}
		return strings.Join(texts, ",")
	}
	return next, func() int { return len(fires) }
}

func TestTemplatesAreFollowed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	next, fired := follow(t, &TemplateDir{Path: dir})
	want := func(text string) {
		t.Helper()
		if got := next(); got != text {
			t.Errorf("read %q, want %q", got, text)
		}
	}
	os.Mkdir(dir, 0o755)
	put(t, dir, "a.nft.tmpl", "one")
	want("one")
	put(t, dir, "a.nft.tmpl", "wrong")
	put(t, dir, "a.nft.tmpl", "two") // at once: the first never counts
	want("two")
	os.RemoveAll(dir)
	want("")
	os.Mkdir(dir, 0o755)
	put(t, dir, "a.nft.tmpl", "three")
	want("three")
	os.Remove(filepath.Join(dir, "a.nft.tmpl"))
	want("")
	// What is hidden is none of ours, until a link leads to it.
	put(t, dir, ".hidden", "hidden")
	os.Symlink(".hidden", filepath.Join(dir, "a.nft.tmpl"))
	want("hidden")
	if n := fired(); n != 0 {
		t.Errorf("%d firings too many", n)
	}
}

// A file counts when it does not change any more.
func TestATemplateThatIsBeingWritten(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := &TemplateDir{Path: dir}
		path := filepath.Join(dir, "a.nft.tmpl")
		began := time.Now()
		os.WriteFile(path, []byte("x"), 0o644)
		go func() {
			time.Sleep(templateSettle / 4) // writing never meets reading
			for text := "x"; len(text) < 10; time.Sleep(templateSettle / 2) {
				text += "x"
				os.WriteFile(path, []byte(text), 0o644)
			}
		}()
		if !d.settled(t.Context()) || d.Templates()[0].Text != "xxxxxxxxxx" {
			t.Errorf("taken while it was written: %q", d.Templates())
		}
		if took := time.Since(began); took < 17*templateSettle/4+templateSettle {
			t.Errorf("taken after %v", took)
		}
		if d.settled(t.Context()) {
			t.Error("the same is not another")
		}
		// What goes back to what it was is nothing new.
		os.WriteFile(path, []byte("y"), 0o644)
		go func() {
			time.Sleep(templateSettle / 2)
			os.WriteFile(path, []byte("xxxxxxxxxx"), 0o644)
		}()
		if d.settled(t.Context()) {
			t.Error("a passing change was taken")
		}
	})
}

// What is hidden does not count.
func TestHiddenFilesAreNotTooMany(t *testing.T) {
	dir := t.TempDir()
	for i := range maxTemplates + 6 {
		put(t, dir, fmt.Sprintf(".hidden%d", i), "")
	}
	put(t, dir, "a.nft.tmpl", "mine")
	d := TemplateDir{Path: dir}
	if files := d.Templates(); len(files) != 1 || files[0].Text != "mine" {
		t.Errorf("read %q", files)
	}
}
