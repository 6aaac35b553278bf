package anchord

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Member is a container as far as network namespaces go: who owns one, and who
// joined which.
type Member struct {
	Container
	Running bool
	Started time.Time // zero if it never was
	// NamespaceName is the name of the container that NamespaceOf means, or meant
	// while it was there; empty if nobody knows.
	NamespaceName string
	Image         string // as it was asked for
	ImageID       string
	Env, Args     []string
	// Health is Docker's word, such as healthy; empty without a health check.
	Health   string
	ExitCode int
	// StartFailed: the last start did, as when the owner of the namespace is not
	// there.
	StartFailed bool
}

// Compose labels that tell how a container came to be.
const (
	labelProject     = "com.docker.compose.project"
	labelService     = "com.docker.compose.service"
	labelConfigHash  = "com.docker.compose.config-hash"
	labelOneOff      = "com.docker.compose.oneoff"
	labelDependsOn   = "com.docker.compose.depends_on"
	labelConfigFiles = "com.docker.compose.project.config_files"
	labelEnvFiles    = "com.docker.compose.project.environment_file"
	labelWorkingDir  = "com.docker.compose.project.working_dir"
)

// DeadNamespace is a network namespace that no longer exists, and the containers
// that are still in it: they look as if they ran, and have no network.
type DeadNamespace struct {
	Target  string // the container that owned it, by name, else as it was referred to
	Reason  string
	Victims []Member // sorted by name
	all     []Container
}

// DeadNamespaces finds the running containers whose namespace is gone, because
// its owner is, or was started anew since. Sorted by target.
func DeadNamespaces(members []Member) []DeadNamespace {
	found := map[string]*DeadNamespace{}
	all := containersOf(members)
	for _, m := range members {
		target, reason := m.lostNamespace(members)
		if reason == "" {
			continue
		}
		if found[target] == nil {
			found[target] = &DeadNamespace{Target: target, Reason: reason, all: all}
		}
		found[target].Victims = append(found[target].Victims, m)
	}
	var list []DeadNamespace
	for _, d := range found {
		slices.SortFunc(d.Victims, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
		list = append(list, *d)
	}
	slices.SortFunc(list, func(a, b DeadNamespace) int { return strings.Compare(a.Target, b.Target) })
	return list
}

// lostNamespace says whose namespace the member is in and why that no longer
// exists; no reason: it does. A container that joined one that joined another is
// in the namespace of the last, whatever becomes of those between.
func (m Member) lostNamespace(members []Member) (target, reason string) {
	if !m.Running {
		return "", ""
	}
	joined := m
	for range members {
		if joined.NamespaceOf == "" {
			break
		}
		owner, known := find(members, joined.NamespaceOf)
		switch {
		case !known:
			return cmp.Or(joined.NamespaceName, joined.NamespaceOf), "is gone"
		case owner.NamespaceOf != "":
		case !owner.Running:
			return owner.Name, ownerStopped
		case owner.Started.After(m.Started):
			return owner.Name, "was started anew"
		}
		joined = owner
	}
	return "", ""
}

// find gives the member that a reference means.
func find(members []Member, ref string) (Member, bool) {
	i := slices.IndexFunc(members, func(o Member) bool { return o.Is(ref) })
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}

// Cures are the commands that recreate the victims, one for each Compose
// project; those that no Compose project made have none. Before them the owner is
// started, as nobody can join one that does not run.
func (d DeadNamespace) Cures() []string { return d.cures(d.Victims) }

func (d DeadNamespace) cures(victims []Member) []string {
	commands := Recreations(containersOf(victims), d.all)
	if d.Reason == ownerStopped && len(commands) > 0 {
		commands = slices.Insert(commands, 0, "docker start "+shellQuote(d.Target))
	}
	return commands
}

// ownerStopped is the reason of a namespace whose owner is still there.
const ownerStopped = "does not run"

func containersOf(members []Member) []Container {
	var list []Container
	for _, m := range members {
		list = append(list, m.Container)
	}
	return list
}

// Recreations are the commands that recreate containers and nothing else, one for
// each Compose project; those that no Compose project made have none. A container
// that Compose kept carries the files of the day it was made: those of the
// project's last start are on the youngest of all that name some.
func Recreations(containers, all []Container) []string {
	youngest := map[string]Container{}
	for _, c := range slices.Concat(containers, all) {
		if y, seen := youngest[c.Project()]; !c.OneOff() && c.Labels[labelConfigFiles] != "" && (!seen || y.olderThan(c)) {
			youngest[c.Project()] = c
		}
	}
	services := map[string][]string{}
	for _, c := range containers {
		if compose := composeCommand(c, youngest[c.Project()]); compose != "" {
			services[compose] = append(services[compose], shellQuote(c.Service()))
		}
	}
	var commands []string
	for compose, names := range services {
		slices.Sort(names)
		commands = append(commands, compose+" up -d --no-deps --force-recreate "+strings.Join(slices.Compact(names), " "))
	}
	slices.Sort(commands)
	return commands
}

// composeCommand is the call of Compose for a container's project, from
// wherever it is run, with the files of another of its containers. A one-off
// container, as a managed service-anchor is to Compose, is not what it recreates.
func composeCommand(c, last Container) string {
	if c.OneOff() {
		return ""
	}
	for _, name := range []string{c.Project(), c.Service()} {
		if name == "" || strings.HasPrefix(name, "-") { // an option is no name
			return ""
		}
	}
	command := "docker compose -p " + shellQuote(c.Project())
	if dir := last.Labels[labelWorkingDir]; dir != "" {
		command += " --project-directory " + shellQuote(dir)
	}
	for _, list := range []struct{ option, label string }{{" --env-file ", labelEnvFiles}, {" -f ", labelConfigFiles}} {
		for _, file := range strings.Split(last.Labels[list.label], ",") {
			if file != "" {
				command += list.option + shellQuote(file)
			}
		}
	}
	return command
}

// shellQuote makes one word of a POSIX shell of s, whatever it holds; line ends
// and other control characters are left out, so that what is shown is what is
// run.
func shellQuote(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+,", r)
	}) < 0
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Stranded are the containers that were made and could not start, because the
// container whose namespace they join did not run: it was started since. One that
// was made beside a running owner waits for whoever made it, and one that Compose
// made waits, as it would under Compose, for what it depends on.
func Stranded(members []Member) []Member {
	var list []Member
	for _, m := range members {
		if m.NamespaceOf == "" || m.Running || !m.Started.IsZero() {
			continue
		}
		owner, known := find(members, m.NamespaceOf)
		if known && owner.Running && owner.Started.After(m.Created) && m.dependenciesMet(members) {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID)) })
	return list
}

// Dependencies are the services of its own Compose project that a container waits
// for, with Compose's name of the condition.
func (m Member) Dependencies() map[string]string {
	wants := map[string]string{}
	for _, word := range strings.Split(m.Labels[labelDependsOn], ",") {
		if parts := strings.Split(word, ":"); len(parts) >= 2 && parts[0] != "" {
			wants[parts[0]] = parts[1]
		}
	}
	return wants
}

func (m Member) dependenciesMet(members []Member) bool {
	for service, condition := range m.Dependencies() {
		for _, o := range members {
			if o.Project() == m.Project() && o.Service() == service && !o.OneOff() && !o.meets(condition) {
				return false
			}
		}
	}
	return true
}

func (m Member) meets(condition string) bool {
	switch condition {
	case "service_healthy":
		return m.Running && (m.Health == "" || m.Health == "healthy")
	case "service_completed_successfully":
		return !m.Running && !m.Started.IsZero() && m.ExitCode == 0
	}
	return m.Running || !m.Started.IsZero()
}
