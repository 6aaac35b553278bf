package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"golang.org/x/sync/errgroup"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// backends is the size of project that the figures are promised for.
const backends = 50

// site is a real engine with a native project of that size: network-anchor,
// service-anchor and services.
type site struct {
	*lab.Lab
	lan      *lab.LAN
	dir      string
	old      bool     // an engine before 28 needs more than the example says
	services []string // container ids; service n is exposed as publicPort+n
}

// site raises the engine for the first measurement that asks for it.
func (b *bench) site(ctx context.Context) (*site, error) {
	if b.shared != nil {
		return b.shared, nil
	}
	progress("raising an engine %s and a project of %d services", b.release, backends)
	l, err := lab.Up(ctx, lab.Options{Release: b.release, Images: []string{lab.ImageAnchord, lab.ImagePeer}, Log: os.Stderr})
	if err != nil {
		return nil, err
	}
	s := &site{Lab: l, old: l.Release.Before28()}
	if err := s.raise(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	b.shared = s
	return s, nil
}

func (s *site) close() error { return s.Down() }

func (s *site) raise(ctx context.Context) (err error) {
	if s.lan, err = s.LAN(ctx, lab.LANOptions{LeaseTime: time.Hour}); err != nil {
		return err
	}
	if s.dir, err = s.TempDir(); err != nil {
		return err
	}
	parent, err := s.lan.Parent(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "compose.yaml"), []byte(s.file(parent)), 0o644); err != nil {
		return err
	}
	if err := s.up(ctx); err != nil {
		return err
	}
	if err := s.startServices(ctx); err != nil {
		return err
	}
	progress("waiting for the last service to be exposed")
	box, err := s.enter(ctx, "anchord")
	if err != nil {
		return err
	}
	defer box.close()
	return wait(ctx, 30*time.Second, 100*time.Millisecond, "all services exposed", func() (bool, error) {
		out, err := box.run("", "nft", "list", "map", "ip", "anchord_v4", "dnat_tcp")
		return strings.Count(out, "comment") == backends, err
	})
}

// file is the project as its user would write it; the services are started
// without Compose, which takes long for so many.
func (s *site) file(parent string) string {
	lan, environment := "enable_ipv4: false", "{}"
	if s.old {
		lan = fmt.Sprintf("ipam: {config: [{subnet: %q, gateway: %q, ip_range: %q}]}",
			s.lan.Prefix, s.lan.Router.Addr, s.lan.BootstrapRange)
		environment = "{ANCHORD_ADDRESS_MODE: dhcp-refresh}"
	}
	return fmt.Sprintf(`networks:
  lan: {driver: macvlan, %s, driver_opts: {parent: %s}}
  transit: {driver_opts: {com.docker.network.bridge.inhibit_ipv4: "true"}}
services:
  anchord:
    image: %q
    cap_add: [NET_ADMIN]
    sysctls: {net.ipv4.ip_forward: "1"}
    environment: %s
    networks: [lan, transit]
    volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]
  helper:
    image: %q
    cap_add: [NET_ADMIN]
    environment: {ANCHORD_MODE: service-anchor}
    networks: [transit]
`, lan, parent, lab.ImageAnchord, environment, lab.ImageAnchord)
}

// up starts what is in the file, or brings it to what the arguments say.
func (s *site) up(ctx context.Context, args ...string) error {
	cmd := s.Compose(ctx, s.dir, project, nil, append([]string{"up", "--detach", "--quiet-pull"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker compose up: %w: %s", err, out)
	}
	return nil
}

func (s *site) startServices(ctx context.Context) error {
	s.services = make([]string, backends)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for n := range backends {
		group.Go(func() (err error) {
			s.services[n], err = s.startService(ctx, n)
			return err
		})
	}
	return group.Wait()
}

func (s *site) startService(ctx context.Context, n int) (string, error) {
	c, err := s.Client().ContainerCreate(ctx,
		&container.Config{Image: lab.ImagePeer, Labels: map[string]string{
			"com.docker.compose.project": project, "com.docker.compose.service": fmt.Sprintf("service%d", n),
			"anchord.expose": fmt.Sprintf("tcp/%d:80", publicPort+n),
		}},
		&container.HostConfig{NetworkMode: project + "_transit"},
		&network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{project + "_transit": {}}},
		nil, fmt.Sprintf("%s-service%d-1", project, n))
	if err != nil {
		return "", fmt.Errorf("creating service %d: %w", n, err)
	}
	if err := s.Client().ContainerStart(ctx, c.ID, container.StartOptions{}); err != nil {
		return "", fmt.Errorf("starting service %d: %w", n, err)
	}
	return c.ID, nil
}

// enter opens the namespace of a service of the file.
func (s *site) enter(ctx context.Context, service string) (*space, error) {
	host, err := s.Enter(ctx, project+"-"+service+"-1")
	if err != nil {
		return nil, err
	}
	return openSpace(service, host.Netns())
}

// started is one "start" event of Docker's.
type started struct {
	service string
	at      time.Time // Docker's own time of it
	read    time.Time // when the bench had it: what Docker itself takes to tell
}

// starts follows the project's start events.
func (s *site) starts(ctx context.Context) <-chan started {
	messages, _ := s.Client().Events(ctx, events.ListOptions{Filters: filters.NewArgs(
		filters.Arg("type", "container"), filters.Arg("event", "start"), filters.Arg("label", "com.docker.compose.project="+project))})
	out := make(chan started, 256)
	go func() {
		for {
			select {
			case m := <-messages:
				out <- started{m.Actor.Attributes["com.docker.compose.service"], time.Unix(0, m.TimeNano), time.Now()}
			case <-ctx.Done():
				return
			}
		}
	}()
	time.Sleep(200 * time.Millisecond) // the engine answers before it has subscribed us
	return out
}

func nextStart(ctx context.Context, starts <-chan started, service string) (started, error) {
	limit := time.After(20 * time.Second)
	for {
		select {
		case e := <-starts:
			if e.service == service {
				return e, nil
			}
		case <-limit:
			return started{}, fmt.Errorf("docker told of no start of %s", service)
		case <-ctx.Done():
			return started{}, ctx.Err()
		}
	}
}

// get asks anchord's listener inside its own namespace.
func get(box *space, path string) (int, string, error) {
	var code int
	var body strings.Builder
	err := box.in(func() error {
		c, err := net.DialTimeout("tcp4", "127.0.0.1:9090", time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))                                                                                             //nolint:errcheck // an open socket takes it
		client := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return c, nil }, DisableKeepAlives: true}} //nolint:staticcheck // the connection is there already
		r, err := client.Get("http://anchord" + path)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		code = r.StatusCode
		_, err = io.Copy(&body, r.Body)
		return err
	})
	return code, body.String(), err
}

var bucket = regexp.MustCompile(`(?m)^anchord_event_to_ruleset_seconds_bucket\{le="([^"]+)"\} (\d+)$`)

// histogram reads anchord's own figures, as counts up to each bound.
func histogram(box *space) (map[string]int, error) {
	_, body, err := get(box, "/metrics")
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, match := range bucket.FindAllStringSubmatch(body, -1) {
		counts[match[1]], _ = strconv.Atoi(match[2])
	}
	return counts, nil
}

// grown words what a histogram gained.
func grown(before, after map[string]int) string {
	var bounds []float64
	for le := range after {
		if v, err := strconv.ParseFloat(le, 64); err == nil && le != "+Inf" {
			bounds = append(bounds, v)
		}
	}
	slices.Sort(bounds)
	total := after["+Inf"] - before["+Inf"]
	var parts []string
	for _, v := range bounds {
		le := strconv.FormatFloat(v, 'g', -1, 64)
		n := after[le] - before[le]
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d within %s", n, time.Duration(v*float64(time.Second))))
		}
		if n == total {
			break
		}
	}
	return fmt.Sprintf("of %d: %s", total, strings.Join(parts, ", "))
}

// leased is the address that the DHCP server has given the project.
func (s *site) leased() (netip.Addr, error) {
	leases, err := s.lan.Leases()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, l := range leases {
		if l.Hostname == project {
			return l.Addr, nil
		}
	}
	return netip.Addr{}, errors.New("the project has no lease")
}
