package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/fsnotify/fsnotify"

	"github.com/AlexCherrypi/anchord"
)

// TemplateDir holds the operator's templates as they are in a directory that
// need not exist, and follows them.
type TemplateDir struct {
	Path string

	first sync.Once
	mu    sync.Mutex
	files []anchord.TemplateFile
}

const (
	// templateTick is how often the directory is read though nothing was heard
	// of it: it may not be there yet, and of a file that is mounted by itself
	// nothing is ever heard.
	templateTick = 2 * time.Second
	// templateSettle is how long the files must be the same before they count:
	// most programs write a file in several steps.
	templateSettle = 250 * time.Millisecond
	maxTemplateLen = 256 << 10 // bytes of one file
	maxTemplates   = 64        // files
	maxEntries     = 1024      // of the directory, hidden ones too
)

// Templates are the files as they were read last, sorted by name. Of those
// whose names are no templates' only these are known.
func (d *TemplateDir) Templates() []anchord.TemplateFile {
	d.first.Do(d.readSettled)
	return d.taken()
}

func (d *TemplateDir) taken() []anchord.TemplateFile {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files
}

// readSettled takes the files as they are at the start. For one that is just
// being written it waits, but not for ever.
func (d *TemplateDir) readSettled() {
	for range 10 {
		if !d.justWritten() {
			break
		}
		time.Sleep(templateSettle)
	}
	d.take(d.read())
}

// justWritten says whether a file is younger than it takes to settle.
func (d *TemplateDir) justWritten() bool {
	names, _ := d.names() // what is wrong here, read tells
	return slices.ContainsFunc(names, func(name string) bool {
		info, err := os.Stat(filepath.Join(d.Path, name))
		if err != nil {
			return false
		}
		age := time.Since(info.ModTime())
		return age >= 0 && age < templateSettle
	})
}

func (d *TemplateDir) take(files []anchord.TemplateFile) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = files
}

// Follow reads the files again whenever they may have changed, until ctx
// ends, and fires when they have. Where they cannot be watched, the tick does
// all the work.
func (d *TemplateDir) Follow(ctx context.Context, fire func(anchord.Source, time.Time)) {
	tick := time.NewTicker(templateTick)
	defer tick.Stop()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		w = &fsnotify.Watcher{} // its channels never tell anything
	} else {
		defer w.Close()
	}
	for {
		if err == nil {
			_ = w.Add(d.Path) // again and again: it may be another directory now
		}
		if d.settled(ctx) {
			fire(anchord.SourceTemplates, time.Time{})
		}
		select {
		case <-ctx.Done():
			return
		case <-w.Events:
		case <-w.Errors: // the queue overflowed: what was missed is in the directory
		case <-tick.C:
		}
	}
}

// settled says whether the files are others than before, and takes them as
// soon as they do not change any more.
func (d *TemplateDir) settled(ctx context.Context) bool {
	last := d.taken()
	for {
		now := d.read()
		if slices.Equal(now, d.taken()) {
			return false
		}
		if slices.Equal(now, last) {
			d.take(now)
			return true
		}
		last = now
		select {
		case <-ctx.Done():
			return false
		case <-time.After(templateSettle):
		}
	}
}

func (d *TemplateDir) read() []anchord.TemplateFile {
	names, err := d.names()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []anchord.TemplateFile{{Name: d.Path, Fault: "cannot be read: " + reason(err)}}
	}
	var files []anchord.TemplateFile
	for _, name := range names {
		f := anchord.TemplateFile{Name: name}
		if strings.HasSuffix(name, anchord.TemplateSuffix) {
			if f.Text, err = readTemplate(filepath.Join(d.Path, name)); err != nil {
				f.Fault = "cannot be used: " + reason(err)
			}
		}
		files = append(files, f)
	}
	return files
}

// names are the files' names, without those that programs hide or keep as
// backups.
func (d *TemplateDir) names() ([]string, error) {
	info, err := os.Stat(d.Path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, errors.New("it is not a directory")
	}
	dir, err := os.Open(d.Path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	many := len(names) == maxEntries
	names = slices.DeleteFunc(names, func(name string) bool {
		return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~")
	})
	if many || len(names) > maxTemplates {
		return nil, fmt.Errorf("it holds more than %d files", maxTemplates)
	}
	slices.Sort(names)
	return names, nil
}

// readTemplate never waits: opening a pipe would.
func readTemplate(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is not a file")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTemplateLen+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxTemplateLen {
		return "", fmt.Errorf("it is longer than %d bytes", maxTemplateLen)
	}
	plain := strings.ReplaceAll(string(text), "\r\n", "\n")
	control := func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }
	if !utf8.ValidString(plain) || strings.ContainsFunc(plain, control) {
		return "", errors.New("it is not text")
	}
	return plain, nil
}

// reason is an error without the path, which is told already.
func reason(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}
