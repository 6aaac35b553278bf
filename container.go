package anchord

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Container is what a decision needs to know of a running container.
type Container struct {
	ID      string
	Name    string // without the leading slash
	Created time.Time
	Labels  map[string]string
	// NamespaceOf names the container (id, short id or name) whose network
	// namespace this one shares; empty if it has its own.
	NamespaceOf string
	Endpoints   []Endpoint
	// CutOff: it is on no network, though it was made to be on one.
	CutOff bool
}

// Endpoint is a container's place on one Docker network.
type Endpoint struct {
	ID        string // of its own: another one after each connect
	NetworkID string
	Network   string
	MAC       string // lower-case, colon-separated; empty if unknown
	Addrs     PerFamily[netip.Addr]
}

// Project is the Compose project that the container belongs to, if any.
func (c Container) Project() string { return c.Labels[labelProject] }

// Service is its service in that project, if any.
func (c Container) Service() string { return c.Labels[labelService] }

// OneOff says whether it is one of docker compose run, which is not the service.
// Compose writes this word and no other, and looks for it by the letter.
func (c Container) OneOff() bool { return c.Labels[labelOneOff] == "True" }

// endpoint returns the container's endpoint on a network, by id.
func (c Container) endpoint(networkID string) (Endpoint, bool) {
	for _, e := range c.Endpoints {
		if e.NetworkID == networkID {
			return e, true
		}
	}
	return Endpoint{}, false
}

// Is says whether ref (a name with or without leading slash, a long id, or a
// short id of at least twelve digits) means this container.
func (c Container) Is(ref string) bool {
	ref = strings.TrimPrefix(ref, "/")
	if ref == "" {
		return false
	}
	return ref == c.Name || ref == c.ID || (len(ref) >= 12 && strings.HasPrefix(c.ID, ref))
}

// olderThan orders containers by age, then id, so that who keeps a contested
// port does not depend on the order of a listing.
func (c Container) olderThan(o Container) bool {
	if !c.Created.Equal(o.Created) {
		return c.Created.Before(o.Created)
	}
	return c.ID < o.ID
}

// Scope says which containers are managed: those whose labels all match.
type Scope struct {
	Labels []LabelPair // sorted by key
	// Helpers is a Compose project that wraps the managed containers: those of
	// its containers that joined the network namespace of a managed one, or of
	// one that is of no project, are managed too.
	Helpers string
}

// Equal says whether both mean the same containers.
func (s Scope) Equal(o Scope) bool { return slices.Equal(s.Labels, o.Labels) && s.Helpers == o.Helpers }

// MayHelp says whether a container with these labels can be a helper.
func (s Scope) MayHelp(labels map[string]string) bool {
	return s.Helpers != "" && labels[labelProject] == s.Helpers
}

// Manages says whether a container in the network namespace of owner, which may
// be its own, is managed.
func (s Scope) Manages(c, owner Container) bool {
	return s.Matches(c.Labels) || (s.MayHelp(c.Labels) && c.NamespaceOf != "" && (s.Matches(owner.Labels) || owner.Project() == ""))
}

// LabelPair is one key=value condition; an empty value matches only the
// empty value.
type LabelPair struct{ Key, Value string }

// ProjectScope is the scope of one Compose project.
func ProjectScope(project string) Scope {
	return Scope{Labels: []LabelPair{{Key: labelProject, Value: project}}}
}

// Matches says whether labels satisfy every condition of the scope.
func (s Scope) Matches(labels map[string]string) bool {
	for _, p := range s.Labels {
		if v, ok := labels[p.Key]; !ok || v != p.Value {
			return false
		}
	}
	return len(s.Labels) > 0
}
