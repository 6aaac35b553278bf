package watch

import (
	"slices"
	"strings"
	"testing"
)

func TestOwnIDInTheMounts(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for name, tt := range map[string]struct{ mounts, want string }{
		"Docker's data root": {"713 685 254:1 /var/lib/docker/containers/" + id + "/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw\n", id},
		"another data root":  {"713 685 254:1 /srv/data/containers/" + id + "/resolv.conf /etc/resolv.conf rw - xfs /dev/sdb rw\n", id},
		"among other mounts": {"1 2 0:5 / /proc rw - proc proc rw\n713 685 254:1 /docker/containers/" + id + "/hosts /etc/hosts rw - ext4 /dev/vda1 rw\n", id},
		"all containers":     {"7 6 254:1 /var/lib/docker/containers /logs ro - ext4 /dev/vda1 rw\n", ""},
		"too short":          {"7 6 254:1 /var/lib/docker/containers/" + id[:12] + "/hosts /etc/hosts rw - ext4 /dev/vda1 rw\n", ""},
		"no hexadecimal":     {"7 6 254:1 /var/lib/docker/containers/" + strings.Repeat("z", 64) + "/hosts /etc/hosts rw - ext4 x rw\n", ""},
	} {
		got := ""
		if match := idInPath.FindSubmatch([]byte(tt.mounts)); match != nil {
			got = string(match[1])
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestHostNameIsTheLastReference(t *testing.T) {
	t.Setenv("HOSTNAME", "0123456789ab")
	if refs := OwnReferences(); len(refs) == 0 || refs[len(refs)-1] != "0123456789ab" {
		t.Errorf("%q", refs)
	}
	t.Setenv("HOSTNAME", "")
	if refs := OwnReferences(); len(refs) == 0 || slices.Contains(refs, "") {
		t.Errorf("%q", refs)
	}
}
