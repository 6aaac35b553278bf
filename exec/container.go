package exec

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"github.com/AlexCherrypi/anchord"
)

// Containers changes containers and their places on networks: the one place from
// which Docker is written to.
type Containers struct{ client *client.Client }

// NewContainers connects to the engine at host (DOCKER_HOST syntax).
func NewContainers(host string) (*Containers, error) {
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("DOCKER_HOST %q: %w", host, err)
	}
	return &Containers{client: c}, nil
}

// Close ends idle connections.
func (c *Containers) Close() error { return c.client.Close() }

// Docker's own limits: a request that only changes what is written down, and one
// that waits for a container to end or begin.
const (
	requestTimeout = 10 * time.Second
	stopTimeout    = 5 * time.Minute
)

// Start starts a container; one that runs already is left so.
func (c *Containers) Start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return said("starting a container", c.client.ContainerStart(ctx, id, container.StartOptions{}))
}

// Restart restarts a container, with the time that it has to end.
func (c *Containers) Restart(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return said("restarting a container", c.client.ContainerRestart(ctx, id, container.StopOptions{}))
}

// Remove removes a container that is not needed; its volumes stay.
func (c *Containers) Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := c.client.ContainerRemove(ctx, id, container.RemoveOptions{Force: true})
	switch {
	case cerrdefs.IsNotFound(err):
		return nil
	case cerrdefs.IsConflict(err): // it is being removed, as with --rm
		return said("waiting for a container's removal", c.gone(ctx, id))
	}
	return said("removing a container", err)
}

func (c *Containers) gone(ctx context.Context, id string) error {
	for {
		_, err := c.client.ContainerInspect(ctx, id)
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Create makes a container that joins another one's network namespace, with the
// right to administrate it.
func (c *Containers) Create(ctx context.Context, s anchord.ContainerSpec) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	made, err := c.client.ContainerCreate(ctx,
		&container.Config{Image: s.Image, Env: s.Env, Labels: s.Labels},
		&container.HostConfig{
			NetworkMode:   container.NetworkMode("container:" + s.NamespaceOf),
			CapAdd:        []string{"NET_ADMIN"},
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
		}, nil, nil, s.Name)
	return made.ID, said("making container "+s.Name, err)
}

// Copy makes a container with all settings of another one, but in the namespace
// of a third.
func (c *Containers) Copy(ctx context.Context, id, name, namespaceOf string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	old, err := c.client.ContainerInspect(ctx, id)
	if err != nil {
		return "", said("inspecting a container", err)
	}
	if old.ContainerJSONBase == nil || old.Config == nil || old.HostConfig == nil {
		return "", errors.New("inspecting a container: docker tells nothing of its settings")
	}
	config, host := copyConfig(old, c.sameImage(ctx, old)), copyHostConfig(old)
	host.NetworkMode = container.NetworkMode("container:" + namespaceOf)
	made, err := c.client.ContainerCreate(ctx, config, host, &network.NetworkingConfig{}, nil, name)
	return made.ID, said("making container "+name, err)
}

// sameImage names the image that the container runs: by the name that was asked
// for, unless that is another one's by now.
func (c *Containers) sameImage(ctx context.Context, old container.InspectResponse) string {
	image, err := c.client.ImageInspect(ctx, old.Config.Image)
	if err != nil || image.ID != old.Image {
		return old.Image
	}
	return old.Config.Image
}

// copyConfig leaves out what Docker filled in by itself, and refuses to be told
// for a container in another one's namespace.
func copyConfig(old container.InspectResponse, image string) *container.Config {
	config := *old.Config
	config.Image = image
	config.Hostname, config.Domainname = "", ""
	config.ExposedPorts = nil
	return &config
}

// copyHostConfig names the anonymous volumes, of which else new ones would be
// made.
func copyHostConfig(old container.InspectResponse) *container.HostConfig {
	host := *old.HostConfig
	host.Binds, host.Mounts = slices.Clone(host.Binds), slices.Clone(host.Mounts)
	for _, m := range old.Mounts {
		if m.Type != mount.TypeVolume || m.Name == "" || bound(host.Binds, m.Destination) {
			continue
		}
		if i := slices.IndexFunc(host.Mounts, func(h mount.Mount) bool { return path.Clean(h.Target) == m.Destination }); i >= 0 {
			host.Mounts[i].Source = m.Name
			continue
		}
		bind := m.Name + ":" + m.Destination
		if !m.RW {
			bind += ":ro"
		}
		host.Binds = append(host.Binds, bind)
	}
	return &host
}

// bound says whether something is mounted at a destination by a bind: source,
// destination and perhaps modes, with colons between.
func bound(binds []string, destination string) bool {
	return slices.ContainsFunc(binds, func(bind string) bool {
		parts := strings.Split(bind, ":")
		return len(parts) > 1 && path.Clean(parts[1]) == destination
	})
}

// Replace stops and removes the container old, if there is one, gives its name to
// another and starts that. It can be called again with the same arguments.
func (c *Containers) Replace(ctx context.Context, old, id, name string, start bool) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if old != "" {
		if err := c.client.ContainerStop(ctx, old, container.StopOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
			return said("stopping a container", err)
		}
		if err := c.Remove(ctx, old); err != nil {
			return err
		}
	}
	if err := c.client.ContainerRename(ctx, id, name); err != nil && !c.isCalled(ctx, id, name) {
		return said("renaming a container", err)
	}
	if !start {
		return nil
	}
	return c.Start(ctx, id)
}

// isCalled says whether a container has a name already, which Docker refuses to
// give it again.
func (c *Containers) isCalled(ctx context.Context, id, name string) bool {
	has, err := c.client.ContainerInspect(ctx, id)
	return err == nil && has.ContainerJSONBase != nil && has.Name == "/"+name
}

// Connect attaches a container to a network, with all that it had there.
func (c *Containers) Connect(ctx context.Context, p anchord.Place, id string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	settings := &network.EndpointSettings{Aliases: p.Aliases, DriverOpts: p.DriverOpts}
	if p.Addrs != (anchord.PerFamily[netip.Addr]{}) {
		settings.IPAMConfig = &network.EndpointIPAMConfig{}
		if a := p.Addrs[anchord.V4]; a.IsValid() {
			settings.IPAMConfig.IPv4Address = a.String()
		}
		if a := p.Addrs[anchord.V6]; a.IsValid() {
			settings.IPAMConfig.IPv6Address = a.String()
		}
	}
	return said("connecting a container to network "+p.Network, c.client.NetworkConnect(ctx, p.NetworkID, id, settings))
}

// Disconnect takes a container off a network; one that is not on it, or a network
// that is gone, is what is wanted.
func (c *Containers) Disconnect(ctx context.Context, networkID, id string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := c.client.NetworkDisconnect(ctx, networkID, id, true)
	if cerrdefs.IsNotFound(err) || (err != nil && strings.Contains(err.Error(), "is not connected")) {
		return nil
	}
	return said("disconnecting a container from a network", err)
}

// said wraps an error of Docker's; a refusal is anchord.ErrRefused. An address
// ("already in use") or name ("already exists") that another container has on a
// network is Docker's to forbid as well, but nobody's who could allow it.
func said(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case cerrdefs.IsPermissionDenied(err) && !strings.Contains(err.Error(), "already"):
		return fmt.Errorf("%s: %w: %w", what, anchord.ErrRefused, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
