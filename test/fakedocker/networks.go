package fakedocker

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
)

// SetNetwork adds a network or replaces the one of the same name.
func (s *Server) SetNetwork(n network.Inspect) {
	if n.ID == "" {
		n.ID = NewID()
	}
	if n.Created.IsZero() {
		n.Created = time.Now()
	}
	n.Scope = cmp.Or(n.Scope, "local")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.networks[n.Name] = n
}

// RemoveNetwork forgets a network.
func (s *Server) RemoveNetwork(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.networks, name)
}

func (s *Server) listNetworks(w http.ResponseWriter, r *http.Request) {
	f, err := filters.FromJSON(r.URL.Query().Get("filters"))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []network.Inspect{}
	for _, n := range s.networks {
		if networkMatches(n, f) {
			n.Containers = nil // the list never has them
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b network.Inspect) int { return cmp.Compare(a.Name, b.Name) })
	reply(w, out)
}

func networkMatches(n network.Inspect, f filters.Args) bool {
	idMatch := !f.Contains("id")
	for _, id := range f.Get("id") {
		idMatch = idMatch || strings.HasPrefix(n.ID, id)
	}
	return idMatch && f.Match("name", n.Name) && f.ExactMatch("driver", n.Driver) && f.MatchKVList("label", n.Labels)
}

func (s *Server) inspectNetwork(w http.ResponseWriter, ref string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.networks {
		if n.Name == ref || strings.HasPrefix(n.ID, ref) {
			n.Containers = s.members(n.Name)
			reply(w, n)
			return
		}
	}
	fail(w, http.StatusNotFound, "network "+ref+" not found")
}

// members is who runs on a network; s.mu is held.
func (s *Server) members(name string) map[string]network.EndpointResource {
	out := map[string]network.EndpointResource{}
	for id, c := range s.containers {
		ep, on := s.endpoints(c)[name]
		if on && (ep.IPAddress != "" || ep.MacAddress != "") {
			out[id] = network.EndpointResource{Name: c.Name, MacAddress: ep.MacAddress, IPv4Address: cidr(ep.IPAddress, ep.IPPrefixLen), IPv6Address: cidr(ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen)}
		}
	}
	return out
}

func cidr(addr string, bits int) string {
	if addr == "" {
		return ""
	}
	return addr + "/" + strconv.Itoa(bits)
}
