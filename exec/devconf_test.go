package exec

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// In a namespace of its own, in which /proc/sys is read-only as in a container.
func TestSettingsOfAnInterfaceWithoutWritingToProc(t *testing.T) {
	if os.Getenv("ANCHORD_TEST_DEVCONF") != "" {
		if err := setDevconf("one", promoteSecondaries, 1); err != nil {
			t.Error(err)
		}
		if err := (IP{}).BeOneHost(t.Context(), "one"); err != nil {
			t.Error(err)
		}
		if err := setDevconf("none", promoteSecondaries, 1); err == nil {
			t.Error("an interface that is not there is no error")
		}
		return
	}
	const script = `ip link add one type veth peer name two
mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys
"$@"; cd /proc/sys/net/ipv4/conf; cat one/promote_secondaries one/arp_ignore one/arp_announce two/promote_secondaries`
	cmd := exec.Command("unshare", "--net", "--mount", "sh", "-ec", script, "sh", os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "ANCHORD_TEST_DEVCONF=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "1\n1\n2\n0\n") {
		t.Errorf("%v\n%s", err, out)
	}
}
