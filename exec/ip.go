package exec

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// IP reads and changes interfaces, addresses and routes with ip(8) of
// iproute2. Its zero value is ready to use.
type IP struct{ Runner Runner }

// Links lists the namespace's interfaces but lo, with their global addresses.
func (i IP) Links(ctx context.Context) ([]anchord.Link, error) {
	out, err := i.Runner.Run(ctx, "", "ip", "-j", "address", "show")
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	return parseLinks(out)
}

func parseLinks(out []byte) ([]anchord.Link, error) {
	var raw []struct {
		Ifname   string
		Address  string
		LinkType string `json:"link_type"`
		AddrInfo []struct {
			Local     string
			Prefixlen int
			Scope     string
			Valid     uint32 `json:"valid_life_time"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(out, &raw); err != nil {
		return nil, fmt.Errorf("reading the list of interfaces: %w", err)
	}
	var links []anchord.Link
	for _, r := range raw {
		if r.LinkType != "ether" {
			continue
		}
		l := anchord.Link{Name: r.Ifname, MAC: r.Address}
		for _, a := range r.AddrInfo {
			addr, err := netip.ParseAddr(a.Local)
			if err != nil || a.Scope != "global" {
				continue
			}
			l.Addrs = append(l.Addrs, anchord.LinkAddr{Prefix: netip.PrefixFrom(addr, a.Prefixlen), Permanent: a.Valid == forever})
		}
		links = append(links, l)
	}
	return links, nil
}

// forever is the kernel's lifetime of an address that does not end.
const forever = 1<<32 - 1

// DefaultRoutes lists the default routes of the main table, per family, best
// first.
func (i IP) DefaultRoutes(ctx context.Context) (anchord.PerFamily[[]anchord.Route], error) {
	var routes anchord.PerFamily[[]anchord.Route]
	for _, f := range anchord.Families {
		out, err := i.Runner.Run(ctx, "", "ip", ipFlag(f), "-j", "route", "show", "default")
		if err != nil {
			return routes, fmt.Errorf("listing default routes: %w", err)
		}
		if routes[f], err = parseRoutes(f, out); err != nil {
			return routes, err
		}
	}
	return routes, nil
}

func parseRoutes(f anchord.Family, out []byte) ([]anchord.Route, error) {
	var raw []struct {
		Gateway, Dev, Protocol string
		Metric                 int
	}
	if len(strings.TrimSpace(string(out))) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(out, &raw); err != nil {
		return nil, fmt.Errorf("reading default routes: %w", err)
	}
	var routes []anchord.Route
	for _, r := range raw {
		// A route without gateway is kept too: it has to be replaced.
		gateway, _ := netip.ParseAddr(r.Gateway)
		routes = append(routes, anchord.Route{Family: f, Gateway: gateway, Iface: r.Dev, Metric: r.Metric, Advertised: r.Protocol == "ra"})
	}
	return routes, nil
}

func ipFlag(f anchord.Family) string {
	if f == anchord.V6 {
		return "-6"
	}
	return "-4"
}

// SetMAC changes an interface's hardware address.
func (i IP) SetMAC(ctx context.Context, iface, mac string) error {
	if _, err := i.Runner.Run(ctx, "", "ip", "link", "set", "dev", iface, "address", mac); err != nil {
		return fmt.Errorf("setting the MAC of %s: %w", iface, err)
	}
	return nil
}

// AddAddress adds an address that nobody else has, without asking the network
// first: it is Docker's own promise that it is vacant.
func (i IP) AddAddress(ctx context.Context, iface string, p netip.Prefix) error {
	args := []string{"ip", "address", "replace", p.String(), "dev", iface}
	if p.Addr().Is6() {
		args = append(args, "nodad")
	}
	if _, err := i.Runner.Run(ctx, "", args...); err != nil {
		return fmt.Errorf("taking address %s: %w", p, err)
	}
	return nil
}

// RemoveAddress removes an address; that it is gone already is no error.
func (i IP) RemoveAddress(ctx context.Context, iface string, p netip.Prefix) error {
	if _, err := i.Runner.Run(ctx, "", "ip", "address", "delete", p.String(), "dev", iface); err != nil && !isNotFound(err) {
		return fmt.Errorf("removing address %s: %w", p, err)
	}
	return nil
}

// Readdress gives ext the address wanted, with its lifetime (zero: forever),
// takes away the others, and puts the default route right, in one run. An
// invalid wanted only takes away. The wanted address is written a second time
// after the removals: where two addresses share a subnet, the kernel removes
// the younger together with the elder (promote_secondaries is off), and
// /proc/sys cannot be written from inside a container.
func (i IP) Readdress(ctx context.Context, iface string, wanted netip.Prefix, lifetime time.Duration, others []netip.Prefix, route *anchord.Route) error {
	var batch strings.Builder
	add := func() {
		if wanted.IsValid() {
			fmt.Fprintf(&batch, "address replace %s dev %s%s\n", wanted, iface, lifetimeArgs(lifetime))
		}
	}
	add()
	for _, p := range others {
		fmt.Fprintf(&batch, "address delete %s dev %s\n", p, iface)
	}
	if len(others) > 0 {
		add()
	}
	if route != nil {
		batch.WriteString(strings.Join(routeArgs("replace", *route), " ") + "\n")
	}
	if _, err := i.Runner.Run(ctx, batch.String(), "ip", "-batch", "-"); err != nil {
		return fmt.Errorf("changing the addresses of %s: %w", iface, err)
	}
	return nil
}

// lifetimeArgs rounds up: the client renews long before.
func lifetimeArgs(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	s := strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
	return " valid_lft " + s + " preferred_lft " + s
}

// ReplaceRoute installs a default route in place of the one that is there.
func (i IP) ReplaceRoute(ctx context.Context, r anchord.Route) error {
	args := append([]string{"ip", ipFlag(r.Family)}, routeArgs("replace", r)...)
	if _, err := i.Runner.Run(ctx, "", args...); err != nil {
		return fmt.Errorf("setting the default route: %w", err)
	}
	return nil
}

// DeleteRoute removes exactly this default route; that it is gone already is
// no error.
func (i IP) DeleteRoute(ctx context.Context, r anchord.Route) error {
	args := append([]string{"ip", ipFlag(r.Family)}, routeArgs("delete", r)...)
	_, err := i.Runner.Run(ctx, "", args...)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the default route: %w", err)
	}
	return nil
}

func routeArgs(verb string, r anchord.Route) []string {
	args := []string{"route", verb, "default"}
	if r.Gateway.IsValid() {
		args = append(args, "via", r.Gateway.String())
	}
	if r.Iface != "" {
		args = append(args, "dev", r.Iface)
	}
	if r.OnLink {
		args = append(args, "onlink")
	}
	if r.Metric != 0 {
		args = append(args, "metric", strconv.Itoa(r.Metric))
	}
	return args
}

// SetNeighbour tells the kernel a neighbour's new hardware address, so that a
// recreated container is not sought under its old one.
func (i IP) SetNeighbour(ctx context.Context, iface string, addr netip.Addr, mac string) error {
	if _, err := i.Runner.Run(ctx, "", "ip", "neighbour", "replace", addr.String(), "lladdr", mac, "dev", iface, "nud", "stale"); err != nil {
		return fmt.Errorf("updating neighbour %s: %w", addr, err)
	}
	return nil
}

// Announce sends three unsolicited ARP requests (RFC 5227, 3), a second
// apart, so that neighbours do not go on sending to an old MAC. It returns
// when the last is out.
func (i IP) Announce(ctx context.Context, iface string, addr netip.Addr) error {
	if addr.Is6() {
		return nil
	}
	if _, err := i.Runner.Run(ctx, "", "busybox", "arping", "-U", "-c", "3", "-I", iface, addr.String()); err != nil {
		return fmt.Errorf("announcing %s: %w", addr, err)
	}
	return nil
}
