package watch

import (
	"context"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"github.com/AlexCherrypi/anchord"
)

// Members lists the containers of the whole engine, running or not, with the
// details of those that share a network namespace, of those that they depend on,
// and of those that are named (by name or id), which only inspecting each tells.
// Of the others only these are given that details are not needed of.
func (d *Docker) Members(ctx context.Context, names ...string) ([]anchord.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*requestTimeout)
	defer cancel()
	raw, err := d.client.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, explain("listing containers", err)
	}
	var all, members []anchord.Member
	for _, c := range raw {
		all = append(all, anchord.Member{Container: readContainer(c)})
	}
	for _, m := range all {
		if !involved(m, all) && !slices.ContainsFunc(names, m.Is) {
			continue
		}
		m, gone, err := d.details(ctx, m)
		if err != nil {
			return nil, err
		}
		if !gone {
			members = append(members, m)
		}
	}
	d.nameOwners(ctx, members)
	for _, m := range all {
		if !successor(m, members) {
			continue
		}
		m, gone, err := d.details(ctx, m)
		if err != nil {
			return nil, err
		}
		if !gone {
			members = append(members, m)
		}
	}
	return members, nil
}

// successor says whether a container has the name of one whose namespace others
// joined and that is gone.
func successor(m anchord.Member, members []anchord.Member) bool {
	if slices.ContainsFunc(members, func(o anchord.Member) bool { return o.ID == m.ID }) {
		return false
	}
	return slices.ContainsFunc(members, func(o anchord.Member) bool { return o.NamespaceName != "" && o.NamespaceName == m.Name })
}

// involved says whether a container shares a namespace, owns a shared one, or is
// what one that does waits for.
func involved(m anchord.Member, all []anchord.Member) bool {
	if m.NamespaceOf != "" {
		return true
	}
	for _, other := range all {
		if other.NamespaceOf == "" {
			continue
		}
		_, awaited := other.Dependencies()[m.Service()]
		if m.Is(other.NamespaceOf) || (awaited && m.Project() == other.Project()) {
			return true
		}
	}
	return false
}

func (d *Docker) details(ctx context.Context, m anchord.Member) (_ anchord.Member, gone bool, err error) {
	raw, err := d.client.ContainerInspect(ctx, m.ID)
	if cerrdefs.IsNotFound(err) {
		return m, true, nil
	}
	if err != nil {
		return m, false, explain("inspecting a container", err)
	}
	if raw.ContainerJSONBase == nil || raw.State == nil || raw.Config == nil {
		return m, true, nil // being removed
	}
	m.Running = raw.State.Running && !raw.State.Restarting
	m.StartFailed = !raw.State.Running && raw.State.Error != ""
	m.ExitCode = raw.State.ExitCode
	if raw.State.Health != nil && raw.State.Health.Status != container.NoHealthcheck {
		m.Health = raw.State.Health.Status
	}
	m.Image, m.ImageID, m.Env, m.Args = raw.Config.Image, raw.Image, raw.Config.Env, raw.Config.Cmd
	if m.Created, err = time.Parse(time.RFC3339Nano, raw.Created); err != nil {
		return m, false, explain("reading when a container was made", err)
	}
	if m.Started, err = time.Parse(time.RFC3339Nano, raw.State.StartedAt); err != nil {
		return m, false, explain("reading when a container was started", err)
	}
	if m.Started.Year() <= 1 { // Docker's word for never
		m.Started = time.Time{}
	}
	return m, false, nil
}

// nameOwners tells of each container whose namespace it joined, by name. Docker
// keeps the id only, which says nothing once that container is gone: then it is
// the name that was seen before, or that is in Docker's short memory of events.
func (d *Docker) nameOwners(ctx context.Context, members []anchord.Member) {
	known := map[string]string{}
	for i, m := range members {
		if m.NamespaceOf == "" {
			continue
		}
		name := ""
		if owner := slices.IndexFunc(members, func(o anchord.Member) bool { return o.Is(m.NamespaceOf) }); owner >= 0 {
			name = members[owner].Name
		} else if seen, asked := d.owners[m.NamespaceOf]; asked {
			name = seen
		} else {
			name = d.formerName(ctx, m.NamespaceOf)
		}
		known[m.NamespaceOf], members[i].NamespaceName = name, name
	}
	d.owners = known
}

// formerName is the name of a container that is gone, if Docker's events tell
// still: it keeps the last 256.
func (d *Docker) formerName(ctx context.Context, ref string) string {
	if len(ref) < 64 {
		return strings.TrimPrefix(ref, "/") // it was a name
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	messages, errs := d.client.Events(ctx, events.ListOptions{
		Since: "1", Until: time.Now().Format(time.RFC3339Nano),
		Filters: filters.NewArgs(filters.Arg("type", "container"), filters.Arg("container", ref)),
	})
	name := ""
	for {
		select {
		case m := <-messages:
			if n := m.Actor.Attributes["name"]; n != "" {
				name = n
			}
		case <-errs:
			return name
		}
	}
}
