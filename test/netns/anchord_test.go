package netns_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/told"
)

// anchord is a running program under test.
type anchord struct {
	*proc
	w       *world
	t       testing.TB
	runDir  string
	started time.Time
}

// entry is one line of its log.
type entry map[string]any

func (e entry) str(key string) string {
	s, _ := e[key].(string)
	return s
}

// at is when it was logged.
func (e entry) at() time.Time {
	at, _ := time.Parse(time.RFC3339Nano, e.str("time"))
	return at
}

// anchord starts the network-anchor in its container.
func (w *world) anchord(env ...string) *anchord {
	w.t.Helper()
	return w.launch(w.box, w.runDir(), w.command(w.boxID, env))
}

func (w *world) launch(n *ns, runDir string, cmd *exec.Cmd) *anchord {
	w.t.Helper()
	a := &anchord{w: w, t: w.t, runDir: runDir, started: time.Now()}
	w.t.Cleanup(a.checkEvents) // which runs when anchord has ended
	a.proc = n.startCmd(cmd)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("anchord's log:\n%s\n%s", a.out, a.errOut)
		}
	})
	return a
}

// checkEvents holds the whole log against the list of events.
func (a *anchord) checkEvents() {
	if a.proc == nil {
		return
	}
	if err := told.Log(strings.Join(a.out.list(), "\n")); err != nil {
		a.t.Error(err)
	}
}

// ready waits for /readyz.
func (a *anchord) ready() *anchord {
	a.t.Helper()
	occupy(1)
	defer leave(1)
	eventually(a.t, hang, func() error {
		select {
		case <-a.exited:
			a.t.Fatalf("anchord ended: %v", a.err)
		default:
		}
		status, body, err := a.get("/readyz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("/readyz: %d %s", status, body)
		}
		return err
	})
	return a
}

// leased waits until the interface on the LAN has a leased address and returns
// it.
func (a *anchord) leased() string {
	a.t.Helper()
	var addr string
	eventually(a.t, hang, func() (err error) {
		addr, err = a.w.extAddress()
		return err
	})
	return addr
}

// extAddress is the one IPv4 address of the interface on the LAN.
func (w *world) extAddress() (string, error) {
	addrs, err := w.box.addresses(w.lan)
	if err == nil && len(addrs) != 1 {
		err = fmt.Errorf("%s has the addresses %v", w.lan, addrs)
	}
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

// addresses is every global address of an interface.
func (n *ns) addresses(iface string) ([]string, error) {
	out, err := n.try("ip", "-j", "addr", "show", "dev", iface)
	if err != nil {
		return nil, err
	}
	var links []struct {
		Addrs []struct {
			Local string `json:"local"`
			Scope string `json:"scope"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return nil, err
	}
	var all []string
	for _, l := range links {
		for _, a := range l.Addrs {
			if a.Scope == "global" && !strings.Contains(a.Local, ":") {
				all = append(all, a.Local)
			}
		}
	}
	return all, nil
}

// get asks the socket in the run directory.
func (a *anchord) get(path string) (int, string, error) {
	client := http.Client{Timeout: hang, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(a.runDir, "anchord.sock"))
		},
	}}
	resp, err := client.Get("http://anchord" + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// metric is one sample, named with its labels as /metrics shows it; a family
// that is absent is an error.
func (a *anchord) metric(name string) (float64, error) {
	_, body, err := a.get("/metrics")
	if err != nil {
		return 0, err
	}
	s := bufio.NewScanner(strings.NewReader(body))
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			return strconv.ParseFloat(rest, 64)
		}
	}
	return 0, fmt.Errorf("/metrics has no %s", name)
}

// count is a metric that is 0 while absent.
func (a *anchord) count(name string) float64 {
	v, err := a.metric(name)
	if err != nil {
		return 0
	}
	return v
}

// metricIs is a condition.
func (a *anchord) metricIs(name string, want float64) func() error {
	return func() error {
		got, err := a.metric(name)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %v, want %v", name, got, want)
		}
		return err
	}
}

// status is /status as one JSON text.
func (a *anchord) status() string {
	_, body, err := a.get("/status")
	if err != nil {
		return err.Error()
	}
	return body
}

// states is a condition: the status has all of these. What it has of the last
// look comes when that ends, later than its effects and its log.
func (a *anchord) states(texts ...string) func() error {
	return func() error {
		if s := a.status(); !containsAll(s, texts) {
			return fmt.Errorf("the status has not all of %q: %s", texts, s)
		}
		return nil
	}
}

// metricGone is a condition: the metric is not there.
func (a *anchord) metricGone(name string) func() error {
	return func() error {
		if got, err := a.metric(name); err == nil {
			return fmt.Errorf("%s is %v, want none", name, got)
		}
		return nil
	}
}

// log is every entry so far; a line that is no JSON object fails the test.
func (a *anchord) log() []entry {
	a.t.Helper()
	var all []entry
	for _, line := range a.out.list() {
		e := entry{}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			a.t.Fatalf("the log has a line that is no JSON: %q", line)
		}
		all = append(all, e)
	}
	return all
}

// entries is the log's entries of one event.
func (a *anchord) entries(event string) []entry {
	a.t.Helper()
	var some []entry
	for _, e := range a.log() {
		if e.str("event") == event {
			some = append(some, e)
		}
	}
	return some
}

// logs is a condition: an entry of this event has all these words.
func (a *anchord) logs(event string, words ...string) func() error {
	a.t.Helper()
	return func() error {
		for _, e := range a.entries(event) {
			text, _ := json.Marshal(e) //nolint:errchkjson // it came from JSON
			if containsAll(string(text), words) {
				return nil
			}
		}
		return fmt.Errorf("no log entry %s with %q", event, words)
	}
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// crash ends everything in the box at once, as a container ends. As Docker
// does, it returns when nothing of it is left: the lock of the run directory
// goes with the process.
func (a *anchord) crash() {
	a.w.box.killAll()
	<-a.exited
}

// terminate ends it the clean way and returns how long that took.
func (a *anchord) terminate() time.Duration {
	a.t.Helper()
	began := time.Now()
	a.signal(syscall.SIGTERM)
	select {
	case <-a.exited:
	case <-time.After(hang):
		a.t.Fatal("anchord does not end on SIGTERM")
	}
	var exit *exec.ExitError
	if errors.As(a.err, &exit) {
		a.t.Errorf("exit code %d on SIGTERM, want 0", exit.ExitCode())
	}
	return time.Since(began)
}
