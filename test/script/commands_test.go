package script_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/network"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

// hang only catches what never comes.
const hang = 15 * time.Second

// running is the anchord that a script has started.
type running struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func stateOf(ts *testscript.TestScript) *state { return ts.Value(stateKey{}).(*state) }

// end kills what a script left running.
func (st *state) end() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.run == nil {
		return
	}
	st.run.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-st.run.exited
	st.run = nil
}

// cmdAnchord: anchord start [ARG…] | anchord stop | anchord kill | anchord exits CODE.
// The log goes to $WORK/log, standard error to $WORK/errors.
func cmdAnchord(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	need(ts, args, 1, "anchord start [ARG…]|stop|kill|exits CODE")
	st := stateOf(ts)
	switch args[0] {
	case "start":
		st.launch(ts, args[1:])
	case "stop":
		st.run.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // seen below
		st.exits(ts, 0)
	case "kill":
		st.end()
	case "exits":
		need(ts, args, 2, "anchord exits CODE")
		code, err := strconv.Atoi(args[1])
		ts.Check(err)
		st.exits(ts, code)
	default:
		ts.Fatalf("anchord %s: what?", args[0])
	}
}

func (st *state) launch(ts *testscript.TestScript, args []string) {
	open := func(name string) *os.File {
		f, err := os.OpenFile(ts.MkAbs(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		ts.Check(err)
		return f
	}
	out, errOut := open("log"), open("errors")
	defer out.Close()
	defer errOut.Close()
	path, err := lookPath(ts.Getenv("PATH"), "anchord")
	ts.Check(err)
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), out, errOut
	cmd.Env = environ(ts)
	ts.Check(cmd.Start())
	run := &running{cmd: cmd, exited: make(chan struct{})}
	go func() {
		cmd.Wait() //nolint:errcheck // the exit code is read from the state
		close(run.exited)
	}()
	st.mu.Lock()
	st.run = run
	st.mu.Unlock()
}

// environ hands on what a container would have, and what the fakes need.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, k := range []string{"PATH", "HOME", "HOSTNAME", "DOCKER_HOST", "COMPOSE_PROJECT_NAME"} {
		if v := ts.Getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	for _, k := range variables {
		if v := ts.Getenv(k); v != "" || k == "ANCHORD_METRICS_ADDR" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// variables is every variable of the contract.
var variables = strings.Fields(`
	ANCHORD_MODE ANCHORD_LOG_LEVEL ANCHORD_METRICS_ADDR ANCHORD_RUN_DIR
	ANCHORD_PROJECT ANCHORD_LABEL_SELECTOR ANCHORD_EXT_NETWORK ANCHORD_EXT_IFACE ANCHORD_VLAN_PARENT
	ANCHORD_EXT_MAC ANCHORD_ADDRESS_MODE ANCHORD_EXT_GATEWAY_IP ANCHORD_DHCP_HOSTNAME ANCHORD_DHCP_BACKOFF_MAX
	ANCHORD_SHARED_NETWORK ANCHORD_POLL_INTERVAL ANCHORD_TEMPLATE_DIR ANCHORD_DNS ANCHORD_AUTOSTART_SIBLINGS
	ANCHORD_AUTOFIX_DEAD_NETNS ANCHORD_MANAGED_SA_TARGET ANCHORD_MANAGED_SA_NAME ANCHORD_MANAGED_SA_IMAGE
	ANCHORD_MANAGED_SA_GATEWAY_IP ANCHORD_MANAGED_SA_EXTRA_ENV ANCHORD_MANAGED_SA_LABELS
	ANCHORD_GATEWAY_HOSTNAME ANCHORD_GATEWAY_IP ANCHORD_GATEWAY_RESOLVE_INTERVAL
	ANCHORD_FOLLOW_NETWORK ANCHORD_FOLLOW_TARGET ANCHORD_FOLLOW_RESTART`)

func lookPath(path, name string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", errors.New("no " + name + " in " + path)
}

func (st *state) exits(ts *testscript.TestScript, want int) {
	select {
	case <-st.run.exited:
	case <-time.After(hang):
		ts.Fatalf("anchord does not end; its log:\n%s", ts.ReadFile("log"))
	}
	if got := st.run.cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit code %d, want %d; its log:\n%s%s", got, want, ts.ReadFile("log"), ts.ReadFile("errors"))
	}
}

// cmdDocker drives the engine:
//
//	docker add NAME ADDRESS [LABEL=VALUE…]   a container of the project on the transit network
//	docker stop|start|restart|remove|recreate NAME
//	docker fail PREFIX STATUS                 e.g. /containers/json 403; 0 ends it
//	docker down|up
//	docker podman                             answers as Podman does from now on
//	docker network rm NAME
//	docker writes N | docker lists MAX       what was asked of it so far
func cmdDocker(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	need(ts, args, 1, "docker VERB …")
	d := stateOf(ts).docker
	verb, args := args[0], args[1:]
	switch verb {
	case "down":
		d.Down()
	case "up":
		ts.Check(d.Up())
	case "podman":
		d.Podman()
	case "add":
		need(ts, args, 2, "docker add NAME ADDRESS [LABEL=VALUE…]")
		d.AddContainer(projectContainer(args[0], args[1], args[2:]))
	case "joins":
		need(ts, args, 2, "docker joins NAME ID")
		c := projectContainer(args[0], "", nil)
		c.Networks, c.NetworkMode = nil, "container:"+args[1]
		d.AddContainer(c)
	case "fail":
		need(ts, args, 2, "docker fail PREFIX STATUS")
		status, err := strconv.Atoi(args[1])
		ts.Check(err)
		d.Fail(args[0], status)
	case "network":
		d.RemoveNetwork(args[1])
		detach(d, args[1])
	case "writes":
		if got := len(d.Writes()); fmt.Sprint(got) != args[0] {
			ts.Fatalf("%d write calls, want %s: %v", got, args[0], d.Writes())
		}
	case "lists":
		most, err := strconv.Atoi(args[0])
		ts.Check(err)
		if got := looks(d); got > most {
			ts.Fatalf("%d list calls, want at most %d", got, most)
		}
	default:
		act := map[string]func(string){"stop": d.Stop, "start": d.Start, "restart": d.Restart, "remove": d.Remove, "recreate": func(n string) { d.Recreate(n, nil) }}[verb]
		if act == nil {
			ts.Fatalf("docker %s: what?", verb)
		}
		act(args[0])
	}
}

// looks counts the lists of running containers, which are for the rules; the
// repairs list all, on their own account.
func looks(d *fakedocker.Server) int {
	return len(slices.DeleteFunc(d.RequestLog(), func(r fakedocker.Request) bool {
		return r.Method != http.MethodGet || r.Path != "/containers/json" || strings.Contains(r.Query, "all=1")
	}))
}

// detach takes anchord's container off a network that is gone.
func detach(d *fakedocker.Server, name string) { d.Disconnect(anchordID, name) }

// projectContainer reads Go escapes in names and labels, so that a script can
// have any bytes in them.
func projectContainer(name, addr string, labels []string) fakedocker.Container {
	c := fakedocker.Container{
		Name: unescape(name), Image: "app", Labels: map[string]string{"com.docker.compose.project": "shop"},
		Networks: map[string]network.EndpointSettings{"shop_transit": {IPAddress: addr, IPPrefixLen: 24, Gateway: "10.213.0.1", MacAddress: "02:42:0a:00:00:01"}},
	}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		c.Labels[unescape(k)] = unescape(v)
	}
	return c
}

func unescape(s string) string {
	if out, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`); err == nil {
		return out
	}
	return s
}

// cmdAwait: [!] await FILE REGEXP waits until a file matches (never matches,
// for a while).
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, args, 2, "await FILE REGEXP")
	re := regexp.MustCompile("(?m)" + args[1])
	limit := hang
	if neg {
		limit = 300 * time.Millisecond
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if text, _ := os.ReadFile(ts.MkAbs(args[0])); re.Match(text) {
			if neg {
				ts.Fatalf("%s matches %s:\n%s", args[0], args[1], text)
			}
			return
		}
	}
	if !neg {
		text, _ := os.ReadFile(ts.MkAbs(args[0]))
		ts.Fatalf("%s never matches %s:\n%s", args[0], args[1], text)
	}
}

// cmdMentions: mentions FILE WANTED checks that a file matches every regexp of
// another, one a line, and names all that are missing. A dot matches newlines.
func cmdMentions(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	need(ts, args, 2, "mentions FILE WANTED")
	text := ts.ReadFile(args[0])
	var missing []string
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		line = strings.TrimSpace(line)
		if line != "" && !regexp.MustCompile("(?s)"+line).MatchString(text) {
			missing = append(missing, line)
		}
	}
	if missing != nil {
		ts.Fatalf("%s does not mention:\n%s\nit is:\n%s", args[0], strings.Join(missing, "\n"), text)
	}
}

// cmdOrder: order FILE REGEXP… checks that the first matches stand in this
// order.
func cmdOrder(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	need(ts, args, 3, "order FILE REGEXP REGEXP…")
	text := ts.ReadFile(args[0])
	last, lastRE := -1, ""
	for _, re := range args[1:] {
		at := regexp.MustCompile("(?m)" + re).FindStringIndex(text)
		if at == nil {
			ts.Fatalf("%s has no %s:\n%s", args[0], re, text)
		}
		if at[0] <= last {
			ts.Fatalf("%s: %s stands before %s:\n%s", args[0], re, lastRE, text)
		}
		last, lastRE = at[0], re
	}
}

// cmdTimes: times N FILE REGEXP checks how often a regexp matches.
func cmdTimes(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	need(ts, args, 3, "times N FILE REGEXP")
	text := ts.ReadFile(args[1])
	if got := len(regexp.MustCompile("(?m)"+args[2]).FindAllString(text, -1)); fmt.Sprint(got) != args[0] {
		ts.Fatalf("%s matches %s %d times, want %s:\n%s", args[1], args[2], got, args[0], text)
	}
}

// cmdEvents: events FILE EVENT N [REGEXP…] checks that the log has N entries of
// an event, each of which matches every regexp. N may be N+.
func cmdEvents(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	need(ts, args, 3, "events FILE EVENT N [REGEXP…]")
	var found []string
	for _, e := range entries(ts, args[0]) {
		if e["event"] == args[1] {
			line, _ := json.Marshal(e) //nolint:errchkjson // it came from JSON
			found = append(found, string(line))
		}
	}
	least, orMore := strings.CutSuffix(args[2], "+")
	want, err := strconv.Atoi(least)
	ts.Check(err)
	if len(found) != want && (!orMore || len(found) < want) {
		ts.Fatalf("%d entries %s, want %s:\n%s", len(found), args[1], args[2], ts.ReadFile(args[0]))
	}
	for _, re := range args[3:] {
		for _, line := range found {
			if !regexp.MustCompile(re).MatchString(line) {
				ts.Fatalf("an entry %s does not match %s:\n%s", args[1], re, line)
			}
		}
	}
}

// cmdJSON: json FILE checks that every line is one JSON object.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	need(ts, args, 1, "json FILE")
	if len(entries(ts, args[0])) == 0 {
		ts.Fatalf("%s is empty", args[0])
	}
}

func entries(ts *testscript.TestScript, file string) []map[string]any {
	var all []map[string]any
	for line := range strings.Lines(ts.ReadFile(file)) {
		e := map[string]any{}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			ts.Fatalf("%s has a line that is no JSON object: %q: %v", file, line, err)
		}
		all = append(all, e)
	}
	return all
}

func noNegation(ts *testscript.TestScript, neg bool) {
	if neg {
		ts.Fatalf("this command cannot be negated")
	}
}

func need(ts *testscript.TestScript, args []string, n int, usage string) {
	if len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
}
