package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord/test/dashboard"
	"github.com/AlexCherrypi/anchord/test/lab"
)

// engine is one lab, on which scenarios run.
type engine struct {
	*lab.Lab
	old    bool // before release 28: a network without IPv4 does not exist
	newest bool // all scenarios run on it, on others those that an engine can change
}

// raise starts a lab; one that does not come up fails the suite.
func raise(t *testing.T, release lab.Release) *engine {
	t.Helper()
	l, err := lab.Up(t.Context(), lab.Options{
		Release: release.Name,
		Images: []string{
			lab.ImageAnchord, lab.ImageNginx, lab.ImageHAProxy, lab.ImagePeer,
			lab.ImagePostfix, lab.ImageDovecot, lab.ImageDNSmasq, lab.ImageCoturn, lab.ImageLDAP, lab.ImageRedis,
			lab.ImagePostgres,
		},
		Binds: []string{filepath.Dir(dashboard.Program("prometheus"))},
		Log:   os.Stderr,
	})
	if err != nil {
		t.Fatalf("engine %s: %v", release.Name, err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	e := &engine{Lab: l, old: release.Before28(), newest: release == lab.Releases[len(lab.Releases)-1]}
	e.introduce(t)
	return e
}

// introduce prints what runs, after a look whether that is what was asked for.
func (e *engine) introduce(t *testing.T) {
	t.Helper()
	version, err := e.Client().ServerVersion(t.Context())
	if err != nil {
		t.Fatalf("engine %s does not tell its version: %v", e.Release.Name, err)
	}
	info, err := e.Client().Info(t.Context())
	if err != nil {
		t.Fatalf("engine %s does not tell of itself: %v", e.Release.Name, err)
	}
	firewall := "iptables"
	if info.FirewallBackend != nil {
		firewall = info.FirewallBackend.Driver
	}
	if !strings.HasPrefix(version.Version, e.Release.Version+".") || firewall != cmp.Or(e.Release.Firewall, "iptables") {
		t.Errorf("the engine called %s is a %s with %s", e.Release.Name, version.Version, firewall)
	}
	compose, err := try(e.Docker(t.Context(), "compose", "version", "--short"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("e2e: running on Docker Engine %s (API %s, %s) with Compose %s, anchord's image on %s\n",
		version.Version, version.APIVersion, firewall, strings.TrimSpace(compose), e.Release.Base)
}

// filterBridged sets whether the Docker host's firewall sees bridged packets,
// as it does wherever br_netfilter is loaded. The value belongs to the network
// namespace, here that of the lab.
func (e *engine) filterBridged(t *testing.T, on bool) {
	t.Helper()
	value := "0"
	if on {
		value = "1"
	}
	if err := e.Root().Sysctl("net.bridge.bridge-nf-call-iptables", value); err != nil {
		t.Fatal(err)
	}
}

// scenario is one story of a user, on a LAN of its own.
type scenario struct {
	name string
	once bool // no engine can change what it shows: it runs on the newest only
	lan  lab.LANOptions
	run  func(s *site)
}

// of leaves those scenarios that run on this engine.
func (e *engine) of(scenarios []scenario) []scenario {
	return slices.DeleteFunc(slices.Clone(scenarios), func(c scenario) bool { return c.once && !e.newest })
}

func TestEngines(t *testing.T) {
	for _, release := range lab.Releases {
		t.Run("engine "+release.Name, func(t *testing.T) {
			e := raise(t, release)
			t.Run("bridged packets filtered", func(t *testing.T) {
				e.filterBridged(t, true)
				e.together(t, slices.Concat(scenarios, namespaces, behindProxy, wrapScenarios, scopeScenarios, examples, adoptions, nativeMatrix, doctors))
			})
			t.Run("bridged packets not filtered", func(t *testing.T) {
				e.filterBridged(t, false)
				e.together(t, slices.Concat(unfiltered, serviceAnchorMatrix, doctorsUnfiltered))
			})
			t.Run("alone", func(t *testing.T) {
				e.filterBridged(t, true)
				e.apart(t, alone)
				e.filterBridged(t, false)
				e.apart(t, aloneUnfiltered)
			})
		})
	}
}

func (e *engine) together(t *testing.T, scenarios []scenario) {
	for _, c := range e.of(scenarios) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(newSite(t, e, c.lan))
		})
	}
}

func (e *engine) apart(t *testing.T, scenarios []scenario) {
	for _, c := range e.of(scenarios) {
		t.Run(c.name, func(t *testing.T) { c.run(newSite(t, e, c.lan)) })
	}
}

// site is a LAN and the Docker host that is plugged into it.
type site struct {
	*testing.T
	engine *engine
	lan    *lab.LAN
	ctx    context.Context
}

func newSite(t *testing.T, e *engine, options lab.LANOptions) *site {
	t.Helper()
	lan, err := e.LAN(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lan.Close(); err != nil {
			t.Error(err)
		}
	})
	return &site{T: t, engine: e, lan: lan, ctx: t.Context()}
}
