package watch

import (
	"context"
	"slices"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord"
)

// naming knows by what names Docker's resolver knows the listed containers on the
// networks of their own Compose projects. Only inspecting a container tells, so
// few are: at first all that run, then those that may have lost their names. That
// takes a network that is younger than the container, or one that a running
// container was not on before; a restart keeps the names. Of one that is on no
// network the listing tells.
type naming struct {
	looking sync.Mutex    // one LookAtNames at a time
	due     chan struct{} // one slot

	mu       sync.Mutex
	listed   []anchord.Container // as listed last
	after    bool                // all that ran at first were looked at
	networks map[string]composeNetwork
	places   map[place]known
}

// composeNetwork is what is to be known of a network, which never changes.
type composeNetwork struct {
	project string // that made it; empty: none did
	created time.Time
}

// place is a container on a network, by ids; on none where that is empty.
type place struct{ container, network string }

// known is what was found there.
type known struct {
	endpoint string
	anchord.Naming
}

// namesSettle is the time in which Compose, or whoever moves containers, is done
// with most of them: what it recreates after all is not asked for, and what it
// leaves without names is found at one time.
const namesSettle = 5 * time.Second

func newNaming() *naming {
	return &naming{due: make(chan struct{}, 1), networks: map[string]composeNetwork{}, places: map[place]known{}}
}

// note takes a listing in; it asks nobody.
func (n *naming) note(containers []anchord.Container) {
	n.mu.Lock()
	n.listed = containers
	moved := n.moved()
	n.mu.Unlock()
	if !moved {
		return
	}
	select {
	case n.due <- struct{}{}:
	default:
	}
}

// moved says whether there is something to look at. n.mu is held.
func (n *naming) moved() bool {
	for _, c := range n.listed {
		if len(n.unknown(c)) > 0 {
			return true
		}
	}
	for p, k := range n.places {
		if k.Missing() && !n.has(p) {
			return true
		}
	}
	return false
}

// has says whether a place is there, as listed last. n.mu is held.
func (n *naming) has(p place) bool {
	return slices.ContainsFunc(n.listed, func(c anchord.Container) bool {
		if c.ID != p.container || p.network == "" {
			return c.ID == p.container && c.CutOff
		}
		return slices.ContainsFunc(c.Endpoints, func(e anchord.Endpoint) bool { return e.NetworkID == p.network })
	})
}

// unknown are the places of a container that were not looked at, and those where
// its name was missing before it was connected again. n.mu is held.
func (n *naming) unknown(c anchord.Container) []anchord.Endpoint {
	if !c.HasNames() {
		return nil
	}
	ends := c.Endpoints
	if c.CutOff {
		ends = []anchord.Endpoint{{}}
	}
	var list []anchord.Endpoint
	for _, e := range ends {
		k, seen := n.places[place{c.ID, e.NetworkID}]
		if !seen || (k.Missing() && k.endpoint != e.ID) {
			list = append(list, e)
		}
	}
	return list
}

// wasOn says whether a container was looked at before. n.mu is held.
func (n *naming) wasOn(c anchord.Container) bool {
	for p := range n.places {
		if p.container == c.ID {
			return true
		}
	}
	return false
}

// made notes who made a network, and when.
func (n *naming) made(raw network.Inspect) composeNetwork {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := composeNetwork{raw.Labels[labelComposeProject], raw.Created}
	n.networks[raw.ID] = c
	return c
}

// labelComposeProject is on networks as it is on containers.
const labelComposeProject = "com.docker.compose.project"

// Namings is what was found so far, without asking anybody.
func (d *Docker) Namings() []anchord.Naming {
	d.naming.mu.Lock()
	defer d.naming.mu.Unlock()
	var list []anchord.Naming
	for _, k := range d.naming.places {
		if len(k.Names) > 0 || k.Missing() {
			list = append(list, k.Naming)
		}
	}
	return list
}

// FollowNames looks at the names of containers that may have lost them, some time
// after they were listed, and then tells fire, until ctx ends.
func (d *Docker) FollowNames(ctx context.Context, fire func(anchord.Source, time.Time)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.naming.due:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(namesSettle):
		}
		// What cannot be asked is due again with the next listing; that Docker
		// cannot be asked is told by whoever needs it more.
		_ = d.LookAtNames(ctx)
		fire(anchord.SourceNaming, time.Time{})
	}
}

// LookAtNames asks for the names of the containers that were listed last, as far as
// they are not known.
func (d *Docker) LookAtNames(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*requestTimeout)
	defer cancel()
	n := d.naming
	n.looking.Lock()
	defer n.looking.Unlock()
	n.mu.Lock()
	listed := n.listed
	n.mu.Unlock()
	for _, c := range listed {
		if err := d.lookAtNamesOf(ctx, c); err != nil {
			return err
		}
	}
	n.forget()
	return nil
}

// forget drops what is not there any more.
func (n *naming) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.after = true
	on := map[string]bool{}
	for _, c := range n.listed {
		for _, e := range c.Endpoints {
			on[e.NetworkID] = true
		}
	}
	for id := range n.networks {
		if !on[id] {
			delete(n.networks, id)
		}
	}
	for p := range n.places {
		if !n.has(p) {
			delete(n.places, p)
		}
	}
}

func (d *Docker) lookAtNamesOf(ctx context.Context, c anchord.Container) error {
	n := d.naming
	n.mu.Lock()
	unknown := n.unknown(c)
	ask := !n.after || n.wasOn(c)
	n.mu.Unlock()
	var own []anchord.Endpoint
	for _, e := range unknown {
		if e.NetworkID == "" {
			continue
		}
		by, err := d.networkMadeBy(ctx, e.NetworkID)
		if cerrdefs.IsNotFound(err) {
			return nil // it moves; the next listing says how
		}
		if err != nil {
			return explain("inspecting network "+e.Network, err)
		}
		if by.project == c.Project() {
			own = append(own, e)
			// A listing tells whole seconds.
			ask = ask || by.created.Unix() > c.Created.Unix()
		}
	}
	var names map[string]known
	if ask && len(own) > 0 {
		var err error
		if names, err = d.namesOf(ctx, c); err != nil || names == nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range unknown {
		k := known{endpoint: e.ID} // of no interest, or surely as it was made
		if e.NetworkID == "" {
			k.Naming = anchord.Naming{Container: c}
		}
		n.places[place{c.ID, e.NetworkID}] = k
	}
	for _, e := range own {
		if k, on := names[e.NetworkID]; on {
			n.places[place{c.ID, e.NetworkID}] = k
		}
	}
	return nil
}

func (d *Docker) networkMadeBy(ctx context.Context, id string) (composeNetwork, error) {
	d.naming.mu.Lock()
	by, seen := d.naming.networks[id]
	d.naming.mu.Unlock()
	if seen {
		return by, nil
	}
	raw, err := d.client.NetworkInspect(ctx, id, network.InspectOptions{})
	if err != nil {
		return composeNetwork{}, err
	}
	return d.naming.made(raw), nil
}

// namesOf asks for a container's names, by network; nil if it is gone.
func (d *Docker) namesOf(ctx context.Context, c anchord.Container) (map[string]known, error) {
	raw, err := d.client.ContainerInspect(ctx, c.ID)
	if cerrdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("inspecting container "+c.Name, err)
	}
	names := map[string]known{}
	if raw.NetworkSettings == nil {
		return names, nil
	}
	for called, e := range raw.NetworkSettings.Networks {
		if e != nil && e.NetworkID != "" {
			names[e.NetworkID] = known{e.EndpointID, anchord.Naming{Container: c, Network: called, Names: namesAt(e)}}
		}
	}
	return names, nil
}

// namesAt are the names by which the resolver knows an endpoint: from Engine 25 on
// all of them, before that the aliases with the short id, which is always one.
func namesAt(e *network.EndpointSettings) []string { return slices.Concat(e.DNSNames, e.Aliases) }
