package anchord

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Naming is a container's place on a network that its own Compose project made,
// and by what names Docker's resolver knows it there.
type Naming struct {
	Container Container
	Network   string // empty: it is on no network at all
	// Names are all that the engine tells; none: it does not tell.
	Names []string
}

// UnnamedServices are services of one Compose project that nobody finds by their
// names: Compose, when it makes a network anew, connects the containers that it
// keeps without them, and not at all if it fails in between.
type UnnamedServices struct {
	Containers []Container         // sorted by name
	networks   map[string][]string // by service
	all        []Container
}

// Unnamed finds the services whose own name is missing on one of their networks,
// or that are on none, by Compose project, sorted. All that run tell how the
// project was started last.
func Unnamed(namings []Naming, all []Container) []UnnamedServices {
	found := map[string]*UnnamedServices{}
	for _, n := range namings {
		if !n.Missing() {
			continue
		}
		c := n.Container
		u := found[c.Project()]
		if u == nil {
			u = &UnnamedServices{networks: map[string][]string{}, all: all}
			found[c.Project()] = u
		}
		if !slices.ContainsFunc(u.Containers, func(o Container) bool { return o.ID == c.ID }) {
			u.Containers = append(u.Containers, c)
		}
		network := cmp.Or(n.Network, "no network")
		if !slices.Contains(u.networks[c.Service()], network) {
			u.networks[c.Service()] = append(u.networks[c.Service()], network)
		}
	}
	var list []UnnamedServices
	for _, project := range slices.Sorted(maps.Keys(found)) {
		u := found[project]
		slices.SortFunc(u.Containers, func(a, b Container) int { return strings.Compare(a.Name, b.Name) })
		list = append(list, *u)
	}
	return list
}

// Missing says whether the name of the service is surely not there. What an engine
// does not tell is not missing, and the container's own name is always known.
func (n Naming) Missing() bool {
	if !n.Container.HasNames() {
		return false
	}
	if n.Network == "" || len(n.Names) == 0 {
		return n.Network == ""
	}
	is := func(name string) bool { return strings.EqualFold(name, n.Container.Service()) }
	return !is(n.Container.Name) && !slices.ContainsFunc(n.Names, is)
}

// HasNames says whether a container is one that others find by its service's
// name: not a one-off, and not in the network namespace of another.
func (c Container) HasNames() bool {
	return c.Project() != "" && c.Service() != "" && !c.OneOff() && c.NamespaceOf == ""
}

// Where tells which services, and on which networks.
func (u UnnamedServices) Where() string {
	var places []string
	for _, service := range slices.Sorted(maps.Keys(u.networks)) {
		networks := slices.Sorted(slices.Values(u.networks[service]))
		places = append(places, word(service)+" on "+strings.Join(networks, " and "))
	}
	return strings.Join(places, "; ")
}

// Cures is the one command that gives all of them their names back.
func (u UnnamedServices) Cures() []string { return Recreations(u.Containers, u.all) }

// String says what is wrong.
func (u UnnamedServices) String() string {
	return "no container finds these services by their names, which are missing on a network: " + u.Where() +
		" (Compose connects running containers to a network that it makes anew without them, and to none if it fails)"
}

// names tells of services that are not found by their names.
func (d *decision) names() {
	for _, u := range Unnamed(d.o.Namings, d.o.Containers) {
		fix := "recreate them as they were made"
		if cures := u.Cures(); len(cures) > 0 {
			fix = cures[0]
		}
		container := ""
		if len(u.Containers) == 1 {
			container = u.Containers[0].Name
		}
		d.notice(Warn, EventNameMissing, container, "%s; fix: %s", u, fix)
	}
}

// word is a name as it may stand in a sentence, whoever gave it.
func word(name string) string {
	name = Short(name)
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}
