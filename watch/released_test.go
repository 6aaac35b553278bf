package watch

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
)

func TestAReleasedLeaseIsNotUsedUnasked(t *testing.T) {
	dir := LeaseDir{Path: t.TempDir()}
	if err := dir.MarkReleased(anchord.V4, time.Second, "boot"); err != nil {
		t.Fatalf("without a lease there is nothing to note: %v", err)
	}
	write := func(uptime string) {
		lease := "event=bound\x00uptime=" + uptime + "\x00ANCHORD_BOOT=boot\x00ip=192.0.2.77\x00mask=24\x00lease=3600\x00"
		if err := os.WriteFile(filepath.Join(dir.Path, "udhcpc.lease"), []byte(lease), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	valid := func(want bool) {
		t.Helper()
		lease, err := dir.Lease(anchord.V4)
		if err != nil || lease.ValidAt(20*time.Second, "boot") != want {
			t.Errorf("lease %+v (%v), want valid: %v", lease, err, want)
		}
		if !lease.Address.IsValid() {
			t.Error("its address cannot be asked for again")
		}
	}
	write("10.00")
	valid(true)
	if err := dir.MarkReleased(anchord.V4, 11*time.Second, "boot"); err != nil {
		t.Fatal(err)
	}
	valid(false)
	write("12.00") // leased again
	valid(true)
}
