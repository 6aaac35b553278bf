// Package watch only observes: Docker, the lease directory, the kernel's
// monitors and names in DNS. What it sees move it tells a trigger; what there
// is, it reports when asked.
package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"github.com/AlexCherrypi/anchord"
)

// Docker observes an engine through its API; it never writes.
type Docker struct {
	client    *client.Client
	closeIdle func()
	// own lists what may name our own container, best first.
	own []string

	listing listing
	leaving leaving
	naming  *naming
	owners  map[string]string // by id, the names of containers that others joined

	mu sync.Mutex
	id string // our own container's id, once known
}

// NewDocker connects to the engine at host (DOCKER_HOST syntax), with the API
// version negotiated. own lists references to our own container, best first.
func NewDocker(host string, own []string) (*Docker, error) {
	c, closeIdle, err := newClient(host)
	if err != nil {
		return nil, fmt.Errorf("DOCKER_HOST %q: %w", host, err)
	}
	return &Docker{client: c, closeIdle: closeIdle, own: own, naming: newNaming()}, nil
}

// Close ends idle connections.
func (d *Docker) Close() error {
	d.closeIdle()
	return d.client.Close()
}

// Check asks whether it is Docker that answers; only that it is not is an error.
func (d *Docker) Check(ctx context.Context) error {
	var other *anchord.NotDockerError
	if errors.As(d.reachable(ctx), &other) {
		return other
	}
	return nil
}

// requestTimeout ends a request that an engine does not answer.
const requestTimeout = 3 * time.Second

// Self inspects our own container and the networks that it is on.
func (d *Docker) Self(ctx context.Context) (anchord.Self, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	raw, err := d.inspectSelf(ctx)
	if err != nil {
		return anchord.Self{}, err
	}
	self := anchord.Self{Container: anchord.Container{ID: raw.ID, Name: strings.TrimPrefix(raw.Name, "/"), Labels: raw.Config.Labels}}
	if raw.NetworkSettings != nil {
		self.Endpoints = endpoints(raw.NetworkSettings.Networks)
	}
	for _, e := range self.Endpoints {
		n, err := d.client.NetworkInspect(ctx, e.NetworkID, network.InspectOptions{})
		if err != nil {
			return anchord.Self{}, explain("inspecting network "+e.Network, err)
		}
		d.naming.made(n)
		self.Networks = append(self.Networks, readNetwork(n, raw.NetworkSettings.Networks[e.Network].Gateway))
	}
	d.mu.Lock()
	d.id = raw.ID
	d.mu.Unlock()
	return self, nil
}

func (d *Docker) inspectSelf(ctx context.Context) (container.InspectResponse, error) {
	for _, ref := range d.own {
		raw, err := d.client.ContainerInspect(ctx, ref)
		if err == nil && raw.ContainerJSONBase != nil && raw.Config != nil {
			return raw, nil
		}
		if err != nil && !cerrdefs.IsNotFound(err) {
			return raw, explain("inspecting our own container", err)
		}
	}
	return container.InspectResponse{}, fmt.Errorf("docker knows no container called %s: anchord has to run in a container of the engine that it watches", strings.Join(d.own, " or "))
}

// explain wraps an API error with what a user can do about it.
func explain(what string, err error) error {
	var other *anchord.NotDockerError
	switch {
	case errors.As(err, &other):
		return other
	case client.IsErrConnectionFailed(err):
		return fmt.Errorf("%s: docker does not answer (is the socket mounted, DOCKER_HOST right, the engine up?): %w", what, err)
	case strings.Contains(err.Error(), "permission denied"):
		return fmt.Errorf("%s: no permission for the docker socket (run anchord as root in its container, or use a socket proxy): %w", what, err)
	case strings.Contains(err.Error(), "403"), strings.Contains(err.Error(), "Forbidden"):
		return fmt.Errorf("%s: the socket proxy refuses it (allow GET on containers, networks and events): %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Containers lists the running containers in scope, with one request; only
// where one of them shares the namespace of a container outside the scope, a
// second request asks for that one. Where all that moved since the last answer
// is that some containers started, the request asks for these alone: the
// engine takes milliseconds to list fifty.
func (d *Docker) Containers(ctx context.Context, scope anchord.Scope) ([]anchord.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	started := d.listing.begin(scope)
	var containers []anchord.Container
	for _, f := range labelFilters(scope) {
		for _, id := range started {
			f.Add("id", id)
		}
		found, err := d.list(ctx, f)
		if err != nil {
			return nil, err
		}
		containers = append(containers, found...)
	}
	containers = d.listing.end(started, containers)
	d.naming.note(containers)
	missing := missingOwners(containers)
	if missing.Len() == 0 {
		return containers, nil
	}
	owners, err := d.list(ctx, missing)
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(containers), owners...), nil
}

// Published are the ports of the scope's running containers that are on addresses
// of the Docker host, other than those that only itself reaches, by container.
func (d *Docker) Published(ctx context.Context, scope anchord.Scope) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ports := map[string][]string{}
	for _, f := range labelFilters(scope) {
		raw, err := d.client.ContainerList(ctx, container.ListOptions{Filters: f})
		if err != nil {
			return nil, explain("listing containers", err)
		}
		for _, c := range raw {
			ports[readContainer(c).Name] = published(c.Ports)
		}
	}
	return ports, nil
}

// published writes ports as labels have them, neighbours as a range.
func published(ports []container.Port) []string {
	var list []anchord.Exposure
	for _, p := range ports {
		host, err := netip.ParseAddr(p.IP)
		if p.PublicPort != 0 && err == nil && !host.IsLoopback() {
			list = append(list, anchord.Exposure{Protocol: anchord.Protocol(p.Type), First: p.PublicPort, Last: p.PublicPort, Backend: p.PublicPort})
		}
	}
	slices.SortFunc(list, func(a, b anchord.Exposure) int {
		return cmp.Or(strings.Compare(string(a.Protocol), string(b.Protocol)), cmp.Compare(a.First, b.First))
	})
	var texts []string
	for i := 0; i < len(list); {
		e := list[i]
		for ; i < len(list) && list[i].Protocol == e.Protocol && int(list[i].First) <= int(e.Last)+1; i++ {
			e.Last = list[i].First
		}
		texts = append(texts, e.String())
	}
	return texts
}

func (d *Docker) list(ctx context.Context, f filters.Args) ([]anchord.Container, error) {
	raw, err := d.client.ContainerList(ctx, container.ListOptions{Filters: f})
	if err != nil {
		return nil, explain("listing containers", err)
	}
	containers := make([]anchord.Container, 0, len(raw))
	for _, c := range raw {
		containers = append(containers, readContainer(c))
	}
	return containers, nil
}

// labelFilters select the containers of a scope, and those that may be in it.
func labelFilters(scope anchord.Scope) []filters.Args {
	managed := filters.NewArgs()
	for _, p := range scope.Labels {
		managed.Add("label", p.Key+"="+p.Value)
	}
	if scope.Helpers == "" {
		return []filters.Args{managed}
	}
	helpers := filters.NewArgs(filters.Arg("label", anchord.LabelExpose))
	for _, p := range anchord.ProjectScope(scope.Helpers).Labels {
		helpers.Add("label", p.Key+"="+p.Value)
	}
	return []filters.Args{managed, helpers}
}

// missingOwners selects the namespace owners that are not in the list.
func missingOwners(containers []anchord.Container) filters.Args {
	f := filters.NewArgs()
	for _, c := range containers {
		if c.NamespaceOf == "" || c.Labels[anchord.LabelExpose] == "" {
			continue
		}
		known := false
		for _, o := range containers {
			known = known || o.Is(c.NamespaceOf)
		}
		if !known {
			f.Add("id", c.NamespaceOf)
		}
	}
	return f
}

func readContainer(c container.Summary) anchord.Container {
	out := anchord.Container{ID: c.ID, Created: time.Unix(c.Created, 0), Labels: c.Labels}
	if len(c.Names) > 0 {
		out.Name = strings.TrimPrefix(c.Names[0], "/")
	}
	if owner, shares := strings.CutPrefix(c.HostConfig.NetworkMode, "container:"); shares {
		out.NamespaceOf = owner
	}
	if c.NetworkSettings != nil {
		out.Endpoints = endpoints(c.NetworkSettings.Networks)
	}
	mode := container.NetworkMode(c.HostConfig.NetworkMode)
	out.CutOff = len(out.Endpoints) == 0 && mode != "" && !mode.IsContainer() && !mode.IsHost() && !mode.IsNone()
	return out
}

func endpoints(networks map[string]*network.EndpointSettings) []anchord.Endpoint {
	var list []anchord.Endpoint
	for name, n := range networks {
		if n == nil || n.NetworkID == "" {
			continue
		}
		e := anchord.Endpoint{ID: n.EndpointID, NetworkID: n.NetworkID, Network: name, MAC: strings.ToLower(n.MacAddress)}
		e.Addrs[anchord.V4], _ = netip.ParseAddr(n.IPAddress)
		e.Addrs[anchord.V6], _ = netip.ParseAddr(n.GlobalIPv6Address)
		list = append(list, e)
	}
	return list
}

// readNetwork reads a network. Where its subnet was given without a gateway,
// the engine keeps the one that it chose to itself, and tells only the
// containers: ours has chosen as its IPv4 gateway.
func readNetwork(n network.Inspect, chosen string) anchord.Network {
	// As Docker reads it, which takes no network with anything else for a boolean.
	inhibited, _ := strconv.ParseBool(n.Options["com.docker.network.bridge.inhibit_ipv4"])
	out := anchord.Network{
		ID: n.ID, Name: n.Name, Driver: n.Driver, Internal: n.Internal,
		Key:         n.Labels["com.docker.compose.network"],
		InhibitIPv4: inhibited,
		Parent:      n.Options["parent"],
		IPVLANMode:  n.Options["ipvlan_mode"],
	}
	for _, c := range n.IPAM.Config {
		subnet, err := netip.ParsePrefix(c.Subnet)
		if err != nil {
			continue
		}
		p := anchord.Pool{Subnet: subnet}
		// Some releases write the gateway with its prefix length.
		gateway, _, _ := strings.Cut(c.Gateway, "/")
		p.Gateway, _ = netip.ParseAddr(gateway)
		if own, err := netip.ParseAddr(chosen); err == nil && !p.Gateway.IsValid() && out.InhibitIPv4 && subnet.Contains(own) {
			p.Gateway = own
		}
		key := "DefaultGatewayIPv4"
		if subnet.Addr().Is6() {
			key = "DefaultGatewayIPv6"
		}
		p.DefaultGateway, _ = netip.ParseAddr(c.AuxAddress[key])
		out.Pools = append(out.Pools, p)
	}
	return out
}

// Follow tells fire what moves in Docker, until ctx ends. The stream is taken
// up again whenever it breaks; after each break and each connect everything is
// looked at once more, so that nothing in between is lost. subscribed is told
// of each try to connect: nil, or why it failed.
func (d *Docker) Follow(ctx context.Context, fire func(anchord.Source, time.Time), subscribed func(error)) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 200*time.Millisecond, 5*time.Second
	for ctx.Err() == nil {
		up := false
		err := d.followOnce(ctx, func() {
			up = true
			pauses.Reset()
			subscribed(nil)
			fire(anchord.SourceContainers|anchord.SourceSelf|anchord.SourceEngine, time.Time{})
		}, fire)
		switch {
		case ctx.Err() != nil:
			return
		case up:
			fire(anchord.SourceContainers, time.Time{})
		default:
			subscribed(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

// followOnce follows one connection to its end.
func (d *Docker) followOnce(ctx context.Context, up func(), fire func(anchord.Source, time.Time)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.reachable(ctx); err != nil {
		return explain("following docker's events", err)
	}
	// The engine may answer before it has subscribed us; what comes in between is
	// told as well to whoever asks for all since now.
	now := time.Now()
	messages, errs := d.client.Events(ctx, events.ListOptions{Since: fmt.Sprintf("%d.%09d", now.Unix(), now.Nanosecond()), Filters: filters.NewArgs(
		filters.Arg("type", "container"), filters.Arg("type", "network"),
		filters.Arg("event", "start"), filters.Arg("event", "die"), filters.Arg("event", "destroy"),
		filters.Arg("event", "rename"), filters.Arg("event", "pause"), filters.Arg("event", "unpause"),
		filters.Arg("event", "connect"), filters.Arg("event", "disconnect"), filters.Arg("event", "health_status"),
		filters.Arg("event", "kill"),
	)})
	select {
	case err := <-errs:
		return explain("following docker's events", err)
	case <-time.After(refusal):
		d.listing.void()
		up()
	}
	later, waiting := time.NewTimer(math.MaxInt64), false
	defer later.Stop()
	for {
		select {
		case m := <-messages:
			d.leaving.note(m)
			fire(anchord.SourceEngine, time.Time{})
			s := d.concerns(m)
			if s == 0 {
				continue
			}
			d.listing.note(m)
			// Never put off: on a busy engine something always moves.
			if !waiting {
				later.Reset(afterwards)
				waiting = true
			}
			if m.Type == events.NetworkEventType && s&anchord.SourceSelf == 0 {
				continue
			}
			fire(s, time.Unix(0, m.TimeNano))
			if m.Action == events.ActionDie {
				lookAgain(ctx, fire)
			}
		case <-later.C:
			waiting = false
			fire(anchord.SourceContainers, time.Time{})
		case err := <-errs:
			if err == nil {
				err = errors.New("the stream ended")
			}
			return explain("following docker's events", err)
		}
	}
}

// refusal is the time in which the client tells that it could not subscribe: it
// lets Events return a moment before.
const refusal = 20 * time.Millisecond

// reachable asks whether anybody answers. The client tells that it could not
// subscribe only some time after Events has returned, which looks like success.
// Anything but a failed connection is left to the subscription: a socket proxy
// may refuse this question.
func (d *Docker) reachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := d.client.Ping(ctx); client.IsErrConnectionFailed(err) {
		return err
	}
	return nil
}

// afterwards is when everything is looked at once more after an event. It is
// the only look that a network event of others asks for: most often the event
// is one of a container about to start or just ended, whose own event comes
// within this time and must not find a look in its way.
const afterwards = 100 * time.Millisecond

// lookAgain looks some more times after a death: Engine 20.10 tells of it first
// and goes on listing the container as running, for up to 0.7 s as measured.
func lookAgain(ctx context.Context, fire func(anchord.Source, time.Time)) {
	for _, after := range []time.Duration{250 * time.Millisecond, time.Second, 4 * time.Second} {
		time.AfterFunc(after, func() {
			if ctx.Err() == nil {
				fire(anchord.SourceContainers, time.Time{})
			}
		})
	}
}

// concerns says where an event asks to look: nowhere, if it is about a
// container of others.
func (d *Docker) concerns(m events.Message) anchord.Source {
	d.mu.Lock()
	own := d.id
	d.mu.Unlock()
	if m.Type == events.NetworkEventType {
		if m.Actor.Attributes["container"] == own && own != "" {
			return anchord.SourceContainers | anchord.SourceSelf | anchord.SourceKernel
		}
		// A container's own start and die say what its networks say; but a
		// running one may be connected and disconnected too, and the
		// message does not tell whose it is.
		return anchord.SourceContainers
	}
	if m.Action == events.ActionKill || strings.HasPrefix(string(m.Action), string(events.ActionHealthStatus)) || !d.listing.mayList(m.Actor.Attributes) {
		return 0
	}
	return anchord.SourceContainers
}
