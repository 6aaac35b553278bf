package exec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tools puts shell scripts under the names of tools first on PATH. Each
// writes its arguments, and what it was given to read if it takes "-" as a
// file, before it goes on with the body given. The result reads it all.
func tools(t *testing.T, bodies map[string]string) (recorded func() string) {
	t.Helper()
	dir := t.TempDir()
	record := filepath.Join(dir, "record")
	for name, body := range bodies {
		script := "#!/bin/sh\necho \"" + name + " $*\" >>" + record + "\ncase \" $* \" in *' - '*) cat >>" + record + ";; esac\n" + body + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		text, err := os.ReadFile(record)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		_ = os.Remove(record)
		return string(text)
	}
}

func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}
