package netns_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// used is the processor time of a process and of the children that it has waited for
// (proc_pid_stat(5); a tick is 10 ms on every Linux).
func used(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks := 0
	for _, field := range fields[11:15] {
		n, _ := strconv.Atoi(field)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// Whoever sends router advertisements as fast as he can, each saying the opposite of
// the last, costs a small part of a processor, and puts no container's event off. What
// was said last counts.
func TestAFloodOfAdvertisements(t *testing.T) {
	t.Parallel()
	const flood = 20000
	r, router := startSLAAC(t, setup{}, ordinary(firstPrefix))
	before, began := used(t, r.a.cmd.Process.Pid), time.Now()
	for i := range flood {
		says := ordinary(firstPrefix)
		says.lifetime = uint16(i % 2 * 1800)
		if err := router.send(says); err != nil {
			t.Fatal(err)
		}
		if i == flood/2 {
			web := r.backend("web", 10, "tcp/80")
			web.serveTCP("web", ":80")
		}
	}
	eventually(t, deadline, r.client.answers("tcp", on6(firstIP6, 80), "web "+clientIP6))
	eventually(t, deadline, r.box.hasRoutes6(router.byRA()))
	cost := used(t, r.a.cmd.Process.Pid) - before
	t.Logf("%d advertisements in %v cost %v", flood, time.Since(began), cost)
	if most := flood * 200 * time.Microsecond; cost > most {
		t.Errorf("%d advertisements in %v cost %v of processor time, want at most %v", flood, time.Since(began), cost, most)
	}
	router.say(func(a *advert) { a.lifetime = 0 })
	eventually(t, deadline, r.box.hasRoutes6())
}
