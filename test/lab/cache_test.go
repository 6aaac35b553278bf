package lab

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// What is kept is made once, and anew where it is not whole.
func TestCache(t *testing.T) {
	t.Setenv("ANCHORD_CACHE", t.TempDir())
	l := &Lab{log: io.Discard}
	built := 0
	var failing error
	item := cacheItem{
		what: "a thing",
		build: func(_ context.Context, partial string) error {
			built++
			return errors.Join(os.Mkdir(partial, 0o755), os.WriteFile(filepath.Join(partial, "part"), nil, 0o644), failing)
		},
		check: func(dir string) error {
			_, err := os.Stat(filepath.Join(dir, "part"))
			return err
		},
	}
	get := func(what string, want int) string {
		t.Helper()
		dir, err := l.cached(t.Context(), "thing", item)
		if (err != nil) != (failing != nil) || built != want {
			t.Errorf("%s: built %d times, want %d; %v", what, built, want, err)
		}
		return dir
	}
	get("the first time", 1)
	dir := get("again", 1)
	for n, what := range []string{marker, "part"} {
		if err := os.Remove(filepath.Join(dir, what)); err != nil {
			t.Fatal(err)
		}
		get("without "+what, n+2)
	}
	os.RemoveAll(dir)
	failing = errors.New("no space")
	get("failing", 4)
	failing = nil
	get("after a failure", 5)
}
