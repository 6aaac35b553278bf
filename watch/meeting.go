package watch

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord"
)

// Meeting finds a network by its exact name, and who is on it.
func (d *Docker) Meeting(ctx context.Context, name string) (anchord.Meeting, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	all, err := d.client.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("name", name))})
	if err != nil {
		return anchord.Meeting{}, explain("listing networks", err)
	}
	all = slices.DeleteFunc(all, func(n network.Summary) bool { return n.Name != name })
	switch len(all) {
	case 0:
		return anchord.Meeting{}, nil
	case 1:
	default:
		return anchord.Meeting{}, fmt.Errorf("%d networks are called %s: remove all but one", len(all), name)
	}
	raw, err := d.client.NetworkInspect(ctx, all[0].ID, network.InspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return anchord.Meeting{}, nil
	}
	if err != nil {
		return anchord.Meeting{}, explain("inspecting network "+name, err)
	}
	m := anchord.Meeting{ID: raw.ID}
	for id := range raw.Containers {
		// An engine lists a container that is being removed as ep-….
		if !strings.HasPrefix(id, "ep-") && !d.leaving.is(id) {
			m.Present = append(m.Present, id)
		}
	}
	slices.Sort(m.Present)
	return m, nil
}

// Guest finds the container of a service of a Compose project, else one of that
// name. Of a service with several it is the first.
func (d *Docker) Guest(ctx context.Context, project, name string) (*anchord.Guest, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	raw, err := d.client.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, explain("listing containers", err)
	}
	i := slices.IndexFunc(raw, func(c container.Summary) bool {
		o := readContainer(c)
		return project != "" && o.Project() == project && o.Service() == name && !o.OneOff()
	})
	if i < 0 {
		i = slices.IndexFunc(raw, func(c container.Summary) bool { return readContainer(c).Name == strings.TrimPrefix(name, "/") })
	}
	if i < 0 {
		return nil, nil
	}
	full, err := d.client.ContainerInspect(ctx, raw[i].ID)
	if cerrdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("inspecting container "+name, err)
	}
	g := &anchord.Guest{Container: readContainer(raw[i])}
	g.Running = full.State != nil && full.State.Running
	if full.NetworkSettings == nil {
		return g, nil
	}
	for _, network := range slices.Sorted(maps.Keys(full.NetworkSettings.Networks)) {
		g.Places = append(g.Places, readPlace(network, full.NetworkSettings.Networks[network], full.ID))
	}
	return g, nil
}

// readPlace leaves out the alias that Docker makes of the container's id.
func readPlace(name string, e *network.EndpointSettings, id string) anchord.Place {
	p := anchord.Place{NetworkID: e.NetworkID, Network: name, DriverOpts: e.DriverOpts}
	for _, alias := range e.Aliases {
		// Short ids have twelve digits; "db" may well begin an id and be a name.
		if len(alias) < 12 || !strings.HasPrefix(id, alias) {
			p.Aliases = append(p.Aliases, alias)
		}
	}
	if e.IPAMConfig != nil {
		p.Addrs[anchord.V4], _ = netip.ParseAddr(e.IPAMConfig.IPv4Address)
		p.Addrs[anchord.V6], _ = netip.ParseAddr(e.IPAMConfig.IPv6Address)
	}
	return p
}
