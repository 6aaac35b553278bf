package told

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOnlyTheListIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seen")
	t.Setenv(Variable, path)
	for _, tt := range []struct{ log, fault string }{
		{`{"level":"info","event":"anchord.ready","msg":"x"}` + "\n" + `{"level":"warning","event":"child.exited"}` + "\n", ""},
		{`{"level":"info","event":"anchord.ready"}`, ""},
		{`{"level":"error","event":"anchord.ready"}`, "anchord.ready is logged as error"},
		{`{"level":"info","event":"anchord.reddy"}`, `"anchord.reddy" is not in`},
		{`{"level":"info","msg":"x"}`, `"" is not in`},
		{"panic: oh", "no JSON"},
	} {
		err := Log(tt.log)
		if (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: %v, want %q", tt.log, err, tt.fault)
		}
	}
	seen, err := os.ReadFile(path)
	if err != nil || string(seen) != "info anchord.ready\nwarning child.exited\n" {
		t.Errorf("noted %q, %v", seen, err)
	}
	missing := Untold(string(seen))
	for line, want := range map[string]bool{"info anchord.ready": false, "warning child.exited": false, "info anchord.starting": true, "error docker.write_refused": true} {
		if slices.Contains(missing, line) != want {
			t.Errorf("%q among the untold: %v, want %v", line, !want, want)
		}
	}
}
