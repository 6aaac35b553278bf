package fakedocker

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
)

// Container is one container of the fake engine. Networks maps a network's name
// to the endpoint that the container has there while it runs.
type Container struct {
	ID          string
	Name        string
	Created     time.Time
	Image       string
	Labels      map[string]string
	NetworkMode string
	Networks    map[string]network.EndpointSettings
	Env         []string
	Cmd         []string
	ImageID     string // empty: as Image
	Ports       []container.Port
	Health      string // of the health check, if it has one
	ExitCode    int
	StartError  string // of the last start that failed

	state     container.ContainerState
	started   time.Time
	endpoints map[string]string // ids by network, new with each connect
}

// NewID is a random container or network id.
func NewID() string {
	b := make([]byte, 32)
	rand.Read(b) //nolint:errcheck // documented never to fail
	return hex.EncodeToString(b)
}

// AddContainer creates and starts a container and returns its id.
func (s *Server) AddContainer(c Container) string {
	id := s.Create(c)
	s.Start(id)
	return id
}

// Create makes a container without starting it (state created).
func (s *Server) Create(c Container) string {
	if c.ID == "" {
		c.ID = NewID()
	}
	if c.Created.IsZero() {
		c.Created = time.Now()
	}
	if c.NetworkMode == "" {
		c.NetworkMode = firstNetwork(c.Networks)
	}
	c.state = container.StateCreated
	s.mu.Lock()
	s.containers[c.ID] = &c
	s.mu.Unlock()
	s.containerEvent(c, events.ActionCreate, nil)
	return c.ID
}

func firstNetwork(nets map[string]network.EndpointSettings) string {
	if len(nets) == 0 {
		return "none"
	}
	return slices.Sorted(maps.Keys(nets))[0]
}

// Start starts a container (by id or name) that exists. A real engine connects
// the networks first and says "start" last, when the list shows it running.
func (s *Server) Start(ref string) {
	c := s.get(ref)
	s.connected(c.ID, slices.Collect(maps.Keys(c.Networks))...)
	s.networkEvents(c, events.ActionConnect)
	s.setState(c.ID, container.StateRunning)
	s.containerEvent(c, events.ActionStart, nil)
}

// Stop stops a container: kill, network disconnect, die, stop.
func (s *Server) Stop(ref string) {
	c := s.get(ref)
	s.containerEvent(c, events.ActionKill, map[string]string{"signal": "15"})
	s.Die(ref)
	s.containerEvent(c, events.ActionStop, nil)
}

// Die ends a container as its own process would: no kill, no stop.
func (s *Server) Die(ref string) {
	c := s.get(ref)
	s.setState(c.ID, container.StateExited)
	s.networkEvents(c, events.ActionDisconnect)
	s.containerEvent(c, events.ActionDie, map[string]string{"exitCode": "0", "execDuration": "1"})
}

// Remove removes a container by force.
func (s *Server) Remove(ref string) {
	c := s.get(ref)
	if c.state == container.StateRunning {
		s.containerEvent(c, events.ActionKill, map[string]string{"signal": "9"})
		s.Die(ref)
	}
	s.mu.Lock()
	delete(s.containers, c.ID)
	s.mu.Unlock()
	s.containerEvent(c, events.ActionDestroy, nil)
}

// Restart stops and starts a container, keeping id and addresses.
func (s *Server) Restart(ref string) {
	s.Stop(ref)
	s.Start(ref)
	s.containerEvent(s.get(ref), events.ActionRestart, nil)
}

// Recreate replaces a container by one of the same name, with another id and
// what change makes of it, and returns the new id.
func (s *Server) Recreate(ref string, change func(*Container)) string {
	c := s.get(ref)
	s.Remove(ref)
	c.ID, c.Created = "", time.Time{}
	c.Labels, c.Networks = maps.Clone(c.Labels), maps.Clone(c.Networks)
	if change != nil {
		change(&c)
	}
	return s.AddContainer(c)
}

// Connect joins a running container to another network.
func (s *Server) Connect(ref, networkName string, ep network.EndpointSettings) {
	c := s.get(ref)
	nets := maps.Clone(c.Networks)
	if nets == nil {
		nets = map[string]network.EndpointSettings{}
	}
	nets[networkName] = ep
	s.mu.Lock()
	s.containers[c.ID].Networks = nets
	s.mu.Unlock()
	s.connected(c.ID, networkName)
	s.networkEvent(c, networkName, events.ActionConnect)
}

// connected gives a container new endpoints.
func (s *Server) connected(id string, networks ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := maps.Clone(s.containers[id].endpoints)
	if ids == nil {
		ids = map[string]string{}
	}
	for _, n := range networks {
		ids[n] = NewID()
	}
	s.containers[id].endpoints = ids
}

// Disconnect takes a running container off a network.
func (s *Server) Disconnect(ref, networkName string) {
	c := s.get(ref)
	nets := maps.Clone(c.Networks)
	delete(nets, networkName)
	s.mu.Lock()
	s.containers[c.ID].Networks = nets
	s.mu.Unlock()
	s.networkEvent(c, networkName, events.ActionDisconnect)
}

// Container is a copy of what the engine knows of a container.
func (s *Server) Container(ref string) (Container, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.find(ref)
	if c == nil {
		return Container{}, false
	}
	return *c, true
}

// get is for the driving test: an unknown container is the test's own mistake.
func (s *Server) get(ref string) Container {
	c, ok := s.Container(ref)
	if !ok {
		panic(fmt.Sprintf("fakedocker: no container %q", ref))
	}
	return c
}

// find takes an id, the beginning of an id, or a name; s.mu is held.
func (s *Server) find(ref string) *Container {
	ref = strings.TrimPrefix(ref, "/")
	if c := s.containers[ref]; c != nil {
		return c
	}
	for _, c := range s.containers {
		if c.Name == ref {
			return c
		}
	}
	for id, c := range s.containers {
		if ref != "" && strings.HasPrefix(id, ref) {
			return c
		}
	}
	return nil
}

func (s *Server) setState(id string, st container.ContainerState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[id].state = st
	if st == container.StateRunning {
		s.containers[id].started = time.Now()
	}
}

func (s *Server) containerEvent(c Container, action events.Action, extra map[string]string) {
	attr := maps.Clone(c.Labels)
	if attr == nil {
		attr = map[string]string{}
	}
	maps.Copy(attr, extra)
	attr["name"], attr["image"] = c.Name, c.Image
	s.broker.publish(events.Message{
		Status: string(action), ID: c.ID, From: c.Image,
		Type: events.ContainerEventType, Action: action,
		Actor: events.Actor{ID: c.ID, Attributes: attr},
	})
}

func (s *Server) networkEvents(c Container, action events.Action) {
	for _, name := range slices.Sorted(maps.Keys(c.Networks)) {
		s.networkEvent(c, name, action)
	}
}

func (s *Server) networkEvent(c Container, name string, action events.Action) {
	s.mu.Lock()
	n := s.networks[name]
	s.mu.Unlock()
	s.broker.publish(events.Message{
		Type: events.NetworkEventType, Action: action,
		Actor: events.Actor{ID: n.ID, Attributes: map[string]string{"container": c.ID, "name": name, "type": n.Driver}},
	})
}

func (s *Server) listContainers(w http.ResponseWriter, r *http.Request) {
	f, err := filters.FromJSON(r.URL.Query().Get("filters"))
	if err == nil {
		err = f.Validate(map[string]bool{"label": true, "id": true, "name": true, "status": true, "network": true})
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	all, _ := strconv.ParseBool(r.URL.Query().Get("all"))
	reply(w, s.summaries(f, all || f.Contains("status")))
}

// summaries is the newest first, as a real engine lists them.
func (s *Server) summaries(f filters.Args, all bool) []container.Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []container.Summary{}
	for _, c := range s.containers {
		if (all || c.state == container.StateRunning) && c.matches(f) {
			out = append(out, s.summary(c))
		}
	}
	slices.SortFunc(out, func(a, b container.Summary) int {
		return cmp.Or(cmp.Compare(b.Created, a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out
}

func (c *Container) matches(f filters.Args) bool {
	idMatch := !f.Contains("id")
	for _, id := range f.Get("id") {
		idMatch = idMatch || strings.HasPrefix(c.ID, id)
	}
	netMatch := !f.Contains("network")
	for _, n := range f.Get("network") {
		_, on := c.Networks[n]
		netMatch = netMatch || on
	}
	return idMatch && netMatch && f.MatchKVList("label", c.Labels) &&
		f.ExactMatch("status", string(c.state)) && (f.Match("name", c.Name) || f.Match("name", "/"+c.Name))
}

func (s *Server) summary(c *Container) container.Summary {
	sum := container.Summary{
		ID: c.ID, Names: []string{"/" + c.Name}, Image: c.Image, Created: c.Created.Unix(),
		Labels: c.Labels, State: c.state, Status: string(c.state),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: s.listed(c)},
		Mounts:          []container.MountPoint{}, Ports: slices.Concat([]container.Port{}, c.Ports), ImageID: cmp.Or(c.ImageID, c.Image),
	}
	sum.HostConfig.NetworkMode = c.NetworkMode
	return sum
}

// listed is what a listing has of a container's networks: no names, which are told
// by inspecting it only.
func (s *Server) listed(c *Container) map[string]*network.EndpointSettings {
	out := s.endpoints(c)
	for _, ep := range out {
		ep.Aliases, ep.DNSNames, ep.DriverOpts = nil, nil, nil
	}
	return out
}

// endpoints is what the engine shows of a container's networks: the addresses
// are there only while it runs, the names as an engine from 25 on makes them.
func (s *Server) endpoints(c *Container) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	for name, ep := range c.Networks {
		if c.state != container.StateRunning {
			ep = network.EndpointSettings{IPAMConfig: ep.IPAMConfig, DriverOpts: ep.DriverOpts, Aliases: ep.Aliases}
		} else {
			ep.EndpointID = c.endpoints[name]
		}
		ep.DNSNames = slices.Concat([]string{c.Name}, ep.Aliases, []string{c.ID[:12]})
		ep.NetworkID = s.networks[name].ID
		out[name] = &ep
	}
	return out
}

func (s *Server) inspectContainer(w http.ResponseWriter, ref string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.find(ref)
	if c == nil {
		fail(w, http.StatusNotFound, "No such container: "+ref)
		return
	}
	state := &container.State{Status: c.state, Running: c.state == container.StateRunning, Pid: 4242, ExitCode: c.ExitCode, Error: c.StartError}
	state.StartedAt = c.started.UTC().Format(time.RFC3339Nano)
	if c.Health != "" {
		state.Health = &container.Health{Status: c.Health}
	}
	reply(w, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{
			ID: c.ID, Name: "/" + c.Name, Image: cmp.Or(c.ImageID, c.Image),
			Created:    c.Created.UTC().Format(time.RFC3339Nano),
			State:      state,
			HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(c.NetworkMode)},
		},
		Config:          &container.Config{Hostname: c.ID[:12], Image: c.Image, Labels: c.Labels, Env: c.Env, Cmd: c.Cmd},
		NetworkSettings: &container.NetworkSettings{Networks: s.endpoints(c)},
	})
}
