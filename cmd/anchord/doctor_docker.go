package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
)

// Checks of Docker's API: whether it answers, and what of it a socket proxy
// refuses.

// call is one of Docker's API, as docs/socket-proxy.md lists them.
type call struct{ method, path string }

func (c call) String() string { return c.method + " " + c.path }

// harmless is the call as it can be made for a try: of what does not exist.
func (c call) harmless() string {
	path := strings.NewReplacer("{id}", exec.Nobody, "{name}", exec.Nobody).Replace(c.path)
	switch {
	case c.path == "/events":
		return path + "?since=1&until=2" // of long ago: the answer is empty and ends
	case c.path == "/containers/json":
		return path + "?limit=1"
	case strings.HasSuffix(c.path, "/rename"):
		return path + "?name=" + exec.Nobody
	}
	return path
}

// right is what a feature needs of Docker.
type right struct {
	feature string
	calls   []call
	lost    string // without it
	fix     string
	result  verdict
}

var (
	readCalls = []call{
		{"GET", "/_ping"}, {"GET", "/containers/json"}, {"GET", "/containers/{id}/json"}, {"GET", "/networks/{id}"},
	}
	manageCalls = []call{
		{"POST", "/containers/create"},
		{"POST", "/containers/{id}/rename"},
		{"POST", "/containers/{id}/start"},
		{"POST", "/containers/{id}/stop"},
		{"DELETE", "/containers/{id}"},
	}
	recreateCalls = append([]call{{"GET", "/images/{name}/json"}}, manageCalls...)
)

func allowFix(block string) string {
	return "allow it in the socket proxy: " + anchord.DocsURL + "socket-proxy.md, " + block
}

// readRights is what each mode that asks Docker needs in any case.
var readRights = []right{
	{"reading", readCalls, "it cannot be seen what is to be exposed", allowFix("Reading"), isFailure},
	{"events", []call{{"GET", "/events"}}, "changes are seen only on the poll", allowFix("Reading"), isWarning},
}

// writeRights is what the features need that are on.
func writeRights(mode string, repairs anchord.RepairConfig, restart bool) []right {
	var rights []right
	switch mode {
	case "network-anchor":
		if repairs.Autostart {
			rights = append(rights, right{
				"ANCHORD_AUTOSTART_SIBLINGS",
				[]call{{"POST", "/containers/{id}/start"}},
				"containers that join the network of another one, which did not run yet, have to be started by hand",
				allowFix("Autostart") + "; or set ANCHORD_AUTOSTART_SIBLINGS=false", isWarning,
			})
		}
		if repairs.Managed != nil {
			rights = append(rights, right{
				"ANCHORD_MANAGED_SA_TARGET", manageCalls,
				"no service-anchor is made", allowFix("Managed service-anchor") + "; or write the service-anchor into a Compose file", isWarning,
			})
		}
		if repairs.Managed != nil && repairs.Autofix {
			rights = append(rights, right{
				"ANCHORD_AUTOFIX_DEAD_NETNS", recreateCalls,
				"containers in the network of a service-anchor that was made anew have to be recreated by hand",
				allowFix("Recreation") + "; or set ANCHORD_AUTOFIX_DEAD_NETNS=false", isWarning,
			})
		}
	case "wrap-rebinder":
		rights = append(rights, right{"wrap-rebinder", recreateCalls, "nothing is recreated", allowFix("Recreation"), isFailure})
	case "external-rebinder":
		connect := []call{{"GET", "/networks"}, {"POST", "/networks/{id}/connect"}, {"POST", "/networks/{id}/disconnect"}}
		rights = append(rights, right{"external-rebinder", connect, "the container is not attached", allowFix("External-rebinder"), isFailure})
		if restart {
			rights = append(rights, right{
				"ANCHORD_FOLLOW_RESTART",
				[]call{{"POST", "/containers/{id}/restart"}},
				"the container is not restarted", allowFix("External-rebinder with restarts"), isWarning,
			})
		}
	}
	return rights
}

func checkDocker(ctx context.Context, p *patient) []finding {
	if p.calls == nil {
		return []finding{failure(dockerFix, "%v", p.dockerErr)}
	}
	if p.notDocker() {
		return []finding{failure("mount the socket of Docker Engine: "+dockerFix, "%v", p.dockerErr)}
	}
	statuses, err := p.try(ctx, readRights)
	found := judgeDocker(p.vars.DockerHost, p.api, statuses, err)
	if found[0].Result == isOK && p.dockerErr != nil {
		return []finding{failure("run it in a container of that engine: docker compose exec anchord anchord doctor, or docker compose run --rm anchord doctor", "%v", p.dockerErr)}
	}
	return found
}

// notDocker says whether another engine answers in Docker's place.
func (p *patient) notDocker() bool {
	var other *anchord.NotDockerError
	return errors.As(p.dockerErr, &other)
}

const dockerFix = `in the service of anchord, volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"], or DOCKER_HOST=tcp://… of a socket proxy that runs`

func judgeDocker(host, api string, statuses map[call]int, err error) []finding {
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EACCES):
		return []finding{failure("run anchord as root in its container, without userns remapping, or use a socket proxy ("+anchord.DocsURL+"socket-proxy.md)", "no permission for %s", host)}
	case err != nil:
		return []finding{failure(dockerFix, "docker does not answer at %s: %v", host, rootCause(err))}
	}
	if found := judgeRights(readRights, statuses); found != nil {
		return found
	}
	return []finding{fine("%s answers, and may be read: API %s", host, api)}
}

// rootCause leaves out what wraps an error.
func rootCause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

func checkRights(ctx context.Context, p *patient) []finding {
	rights := writeRights(p.mode, p.repairs, p.restarts)
	if len(rights) == 0 {
		return []finding{skipped("no feature is on that writes to Docker")}
	}
	if p.calls == nil || p.notDocker() {
		return []finding{skipped("docker cannot be asked")}
	}
	statuses, err := p.try(ctx, rights)
	if err != nil {
		return []finding{skipped("docker does not answer: %v", rootCause(err))}
	}
	if found := judgeRights(rights, statuses); found != nil {
		return found
	}
	var features []string
	for _, r := range rights {
		features = append(features, r.feature)
	}
	return []finding{fine("all writes that these need are allowed: %s", strings.Join(features, ", "))}
}

// try makes each call once, of what does not exist, and tells the answers.
func (p *patient) try(ctx context.Context, rights []right) (map[call]int, error) {
	statuses := map[call]int{}
	for _, r := range rights {
		for _, c := range r.calls {
			if statuses[c] != 0 {
				continue
			}
			status, err := p.calls.Try(ctx, c.method, c.harmless())
			if err != nil {
				return nil, err
			}
			if status >= http.StatusBadGateway && status <= http.StatusGatewayTimeout {
				return nil, fmt.Errorf("the proxy answers %d: it does not reach the engine", status)
			}
			statuses[c] = status
		}
	}
	return statuses, nil
}

// judgeRights tells what each feature is refused; nothing, if nothing is. To what
// does not exist, an engine answers 404 or 400, and a proxy that refuses 403.
func judgeRights(rights []right, statuses map[call]int) []finding {
	var found []finding
	for _, r := range rights {
		var refused []string
		for _, c := range r.calls {
			if s := statuses[c]; s == http.StatusForbidden || s == http.StatusUnauthorized || s == http.StatusMethodNotAllowed {
				refused = append(refused, c.String())
			}
		}
		if len(refused) > 0 {
			found = append(found, fault(r.result, r.fix, "the socket proxy refuses %s, which %s needs: %s", strings.Join(refused, ", "), r.feature, r.lost))
		}
	}
	return found
}

// before28 says whether an API version is of an engine that cannot attach a
// container to a network without an IPv4 address.
func before28(api string) bool {
	_, minor, _ := strings.Cut(api, ".")
	n, err := strconv.Atoi(minor)
	return err == nil && n < 48
}

func checkNamespaces(ctx context.Context, p *patient) []finding {
	if p.docker == nil || p.dockerErr != nil {
		return []finding{skipped("docker cannot be asked")}
	}
	members, err := p.docker.Members(ctx)
	if err != nil {
		return []finding{skipped("%v", err)}
	}
	project := cmp.Or(p.state.Identity.Project, p.self.Project())
	return judgeNamespaces(anchord.DeadNamespaces(members), project, p.self.Project())
}

// judgeNamespaces tells of those of the project, and of the one that wraps it.
func judgeNamespaces(dead []anchord.DeadNamespace, projects ...string) []finding {
	var found []finding
	for _, d := range dead {
		d.Victims = slices.DeleteFunc(slices.Clone(d.Victims), func(m anchord.Member) bool { return !slices.Contains(projects, m.Project()) })
		if len(d.Victims) == 0 {
			continue
		}
		var names []string
		for _, v := range d.Victims {
			names = append(names, v.Name)
		}
		f := failure("recreate them in the new namespace", "%s %s; in its old network namespace, and without a network: %s", d.Target, d.Reason, strings.Join(names, ", "))
		f.Commands = d.Cures()
		found = append(found, f)
	}
	if found == nil {
		return []finding{fine("no container of the project is stuck in one that no longer exists")}
	}
	return found
}

func checkNames(ctx context.Context, p *patient) []finding {
	if blind := p.blind(); blind != nil {
		return blind
	}
	if err := p.docker.LookAtNames(ctx); err != nil {
		return []finding{skipped("%v", err)}
	}
	return judgeNames(p.docker.Namings(), p.containers)
}

func judgeNames(namings []anchord.Naming, all []anchord.Container) []finding {
	var found []finding
	for _, u := range anchord.Unnamed(namings, all) {
		f := failure("recreate them, and nothing else", "%s", u)
		f.Commands = u.Cures()
		found = append(found, f)
	}
	switch {
	case found != nil:
		return found
	case len(namings) == 0:
		return []finding{skipped("no service runs on a network that Compose made for the project")}
	}
	return []finding{fine("each service is known by its name on the networks of its project")}
}
