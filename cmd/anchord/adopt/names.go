package adopt

import (
	"strconv"
	"strings"
)

// names are those of what the override adds.
type names struct {
	anchord, lan     string // service and network
	proxy, dockerAPI string // the same, of the socket proxy
}

func (p *plan) chooseNames() names {
	services, networks := map[string]bool{}, map[string]bool{}
	for name := range p.Services {
		services[name] = true
	}
	for _, name := range p.networkNames() {
		networks[name] = true
		networks[strings.TrimPrefix(p.Networks[name].Name, p.Name+"_")] = true // what Docker calls it
	}
	return names{
		anchord:   free(services, "anchord", "anchord-lan"),
		lan:       free(networks, "lan", "anchord-lan"),
		proxy:     free(services, "socket-proxy", "anchord-socket-proxy"),
		dockerAPI: free(networks, "docker-api", "anchord-docker-api"),
	}
}

// free is the first name that is not taken: the usual one, the other one, or that
// with a number behind it.
func free(taken map[string]bool, usual, other string) string {
	name := usual
	for n := 1; taken[name]; n++ {
		name = other
		if n > 1 {
			name += strconv.Itoa(n)
		}
	}
	return name
}
