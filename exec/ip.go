package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// IP reads and changes interfaces, addresses and routes with ip(8) of
// iproute2. Its zero value is ready to use.
type IP struct{ Runner Runner }

// Links lists the namespace's interfaces but lo, with their addresses.
func (i IP) Links(ctx context.Context) ([]anchord.Link, error) {
	out, err := i.Runner.Run(ctx, "", "ip", "-d", "-j", "address", "show")
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	return parseLinks(out)
}

func parseLinks(out []byte) ([]anchord.Link, error) {
	var raw []struct {
		Ifindex  int
		Ifname   string
		Address  string
		LinkType string `json:"link_type"`
		Flags    []string
		LinkInfo struct {
			Kind string `json:"info_kind"`
		}
		AddrInfo []struct {
			Local     string
			Prefixlen int
			Scope     string
			Valid     uint32 `json:"valid_life_time"`

			Tentative, Deprecated bool
			MngTmpAddr            bool // of a prefix that a router advertised
			Duplicate             bool `json:"dadfailed"`
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
		l := anchord.Link{Name: r.Ifname, Index: r.Ifindex, MAC: r.Address, Kind: r.LinkInfo.Kind, Down: !slices.Contains(r.Flags, "UP")}
		for _, a := range r.AddrInfo {
			addr, err := netip.ParseAddr(a.Local)
			if err == nil && a.Scope == "link" && addr.Is6() && !a.Tentative && !a.Duplicate {
				l.Local = addr
			}
			if err != nil || a.Scope != "global" {
				continue
			}
			l.Addrs = append(l.Addrs, anchord.LinkAddr{
				Prefix: netip.PrefixFrom(addr, a.Prefixlen), Permanent: a.Valid == forever && !a.MngTmpAddr,
				Tentative: a.Tentative, Duplicate: a.Duplicate, Deprecated: a.Deprecated,
			})
		}
		links = append(links, l)
	}
	return links, nil
}

// forever is the kernel's lifetime of an address that does not end.
const forever = 1<<32 - 1

// Routes lists the routes of the main table that decisions look at, per family, best
// first: in IPv6 the default ones, in IPv4 those that leases name too. The others are
// left out where they are many: whoever sends router advertisements can make the
// kernel have thousands.
func (i IP) Routes(ctx context.Context) (anchord.PerFamily[[]anchord.Route], error) {
	return i.routes(ctx, "default")
}

// PrefixRoutes lists those and IPv6's others, of very many the first.
func (i IP) PrefixRoutes(ctx context.Context) (anchord.PerFamily[[]anchord.Route], error) {
	return i.routes(ctx)
}

func (i IP) routes(ctx context.Context, only6 ...string) (anchord.PerFamily[[]anchord.Route], error) {
	var routes anchord.PerFamily[[]anchord.Route]
	for _, f := range anchord.Families {
		args := []string{"ip", ipFlag(f), "-j", "route", "show", "table", "main"}
		if f == anchord.V6 {
			args = append(args, only6...)
		}
		var out beginning
		if err := i.Runner.stream(ctx, strings.NewReader(""), &out, args...); err != nil {
			return routes, fmt.Errorf("listing routes: %w", err)
		}
		var err error
		if routes[f], err = parseRoutes(f, out.text, out.more); err != nil {
			return routes, err
		}
	}
	return routes, nil
}

// beginning keeps what of an output is read, and forgets the rest.
type beginning struct {
	text []byte
	more bool
}

// longestList holds some thousand routes. The kernel takes the first ones.
const longestList = 256 << 10

// Write takes everything.
func (b *beginning) Write(p []byte) (int, error) {
	kept := min(len(p), longestList-len(b.text))
	b.text = append(b.text, p[:kept]...)
	b.more = b.more || kept < len(p)
	return len(p), nil
}

// parseRoutes reads a list of ip's, or the beginning of one.
func parseRoutes(f anchord.Family, out []byte, more bool) ([]anchord.Route, error) {
	if len(strings.TrimSpace(string(out))) == 0 {
		return nil, nil
	}
	list := json.NewDecoder(bytes.NewReader(out))
	if _, err := list.Token(); err != nil {
		return nil, fmt.Errorf("reading routes: %w", err)
	}
	var routes []anchord.Route
	for list.More() {
		var r struct {
			Dst, Gateway, Dev, Protocol string
			Metric                      int
			Expires                     *int
		}
		if err := list.Decode(&r); err != nil && more {
			break
		} else if err != nil {
			return nil, fmt.Errorf("reading routes: %w", err)
		}
		dst, err := parseDst(r.Dst)
		if err != nil {
			continue // of a kind that anchord never sets
		}
		// What has expired lingers for a while, and is not used.
		if r.Expires != nil && *r.Expires < 0 {
			continue
		}
		// A route without gateway is kept too: it has to be replaced.
		gateway, _ := netip.ParseAddr(r.Gateway)
		routes = append(routes, anchord.Route{
			Family: f, Dst: dst, Gateway: gateway, Iface: r.Dev, Metric: r.Metric,
			Protocol: r.Protocol,
		})
	}
	if _, err := list.Token(); err != nil && !more {
		return nil, fmt.Errorf("reading routes: %w", err)
	}
	return routes, nil
}

// parseDst reads a route's destination: default, a prefix, or the address of
// one host.
func parseDst(s string) (netip.Prefix, error) {
	if s == "default" {
		return netip.Prefix{}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

func ipFlag(f anchord.Family) string {
	if f == anchord.V6 {
		return "-6"
	}
	return "-4"
}

// AddChild makes a macvlan interface in bridge mode. The parent becomes a mere
// wire: Linux would answer ARP for the child's address on it too, with its own
// MAC, and make IPv6 addresses of its own. One that was moved into the namespace
// is down at first.
func (i IP) AddChild(ctx context.Context, c anchord.Child) error {
	address := ""
	if c.MAC != "" {
		address = " address " + c.MAC
	}
	batch := fmt.Sprintf("link set dev %[1]s arp off addrgenmode none up\naddress flush dev %[1]s to ::/0\n", c.Parent)
	batch += fmt.Sprintf("link add link %s name %s%s type macvlan mode bridge\nlink set dev %s up\n", c.Parent, c.Name, address, c.Name)
	// Nor does it keep the way to the LAN that it had from a router. Where there
	// is no IPv6 there is none.
	_, _ = i.Runner.Run(ctx, "", "ip", "-6", "route", "flush", "dev", c.Parent)
	if _, err := i.Runner.Run(ctx, batch, "ip", "-batch", "-"); err != nil {
		return fmt.Errorf("making interface %s on %s: %w", c.Name, c.Parent, err)
	}
	return nil
}

// RemoveChild removes it, and makes the parent an interface like others; that it
// is gone already is no error.
func (i IP) RemoveChild(ctx context.Context, c anchord.Child) error {
	for _, args := range [][]string{
		{"ip", "link", "delete", "dev", c.Name},
		{"ip", "link", "set", "dev", c.Parent, "arp", "on", "addrgenmode", "eui64"},
	} {
		if _, err := i.Runner.Run(ctx, "", args...); err != nil && !isNotFound(err) {
			return fmt.Errorf("removing interface %s: %w", c.Name, err)
		}
	}
	return nil
}

// SetUp brings an interface up.
func (i IP) SetUp(ctx context.Context, iface string) error {
	if _, err := i.Runner.Run(ctx, "", "ip", "link", "set", "dev", iface, "up"); err != nil {
		return fmt.Errorf("bringing %s up: %w", iface, err)
	}
	return nil
}

// SetMAC changes an interface's hardware address. It then goes down and up,
// because the kernel would keep the IPv6 addresses that it made of the old one;
// those to keep are given back to it. If the address cannot be had, nothing is
// disturbed.
func (i IP) SetMAC(ctx context.Context, iface, mac string, keep []netip.Prefix) error {
	batch := fmt.Sprintf("link set dev %[1]s address %[2]s\nlink set dev %[1]s down\nlink set dev %[1]s up\n", iface, mac)
	for _, p := range keep {
		batch += fmt.Sprintf("address replace %s dev %s nodad\n", p, iface)
	}
	if _, err := i.Runner.Run(ctx, batch, "ip", "-batch", "-"); err != nil {
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

// LeaseAddress gives an interface an address beside its others, for as long as
// the lease lasts (zero: forever), or changes how long. Which part of the
// network is on the link is for routers to say (RFC 8415, 18.2.10.1).
func (i IP) LeaseAddress(ctx context.Context, iface string, p netip.Prefix, valid, preferred time.Duration) error {
	args := []string{"ip", "address", "replace", p.String(), "dev", iface}
	args = append(args, strings.Fields(lifetimeArgs(valid, preferred))...)
	if p.Addr().Is6() {
		args = append(args, "noprefixroute")
	}
	if _, err := i.Runner.Run(ctx, "", args...); err != nil {
		return fmt.Errorf("adding address %s: %w", p, err)
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
// takes away the others, and puts the routes right, in one run. An
// invalid wanted only takes away. The wanted address is written a second time
// after the removals: where two addresses share a subnet, the kernel removes
// the younger together with the elder (promote_secondaries is off), and
// /proc/sys cannot be written from inside a container.
func (i IP) Readdress(ctx context.Context, iface string, wanted netip.Prefix, lifetime time.Duration, others []netip.Prefix, routes []anchord.Route) error {
	var batch strings.Builder
	add := func() {
		if wanted.IsValid() {
			fmt.Fprintf(&batch, "address replace %s dev %s%s\n", wanted, iface, lifetimeArgs(lifetime, lifetime))
		}
	}
	add()
	for _, p := range others {
		fmt.Fprintf(&batch, "address delete %s dev %s\n", p, iface)
	}
	if len(others) > 0 {
		add()
	}
	for _, route := range routes {
		batch.WriteString(strings.Join(routeArgs("replace", route), " ") + "\n")
	}
	if _, err := i.Runner.Run(ctx, batch.String(), "ip", "-batch", "-"); err != nil {
		return fmt.Errorf("changing the addresses of %s: %w", iface, err)
	}
	return nil
}

// lifetimeArgs rounds up: the client renews long before.
func lifetimeArgs(valid, preferred time.Duration) string {
	if valid <= 0 {
		return ""
	}
	if preferred <= 0 || preferred > valid {
		preferred = valid
	}
	return " valid_lft " + seconds(valid) + " preferred_lft " + seconds(preferred)
}

func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// ReplaceRoute installs a route in place of the one that is there.
func (i IP) ReplaceRoute(ctx context.Context, r anchord.Route) error {
	args := append([]string{"ip", ipFlag(r.Family)}, routeArgs("replace", r)...)
	if _, err := i.Runner.Run(ctx, "", args...); err != nil {
		return fmt.Errorf("setting the route to "+r.To()+": %w", err)
	}
	return nil
}

// DeleteRoute removes exactly this route; that it is gone already is
// no error.
func (i IP) DeleteRoute(ctx context.Context, r anchord.Route) error {
	args := append([]string{"ip", ipFlag(r.Family)}, routeArgs("delete", r)...)
	_, err := i.Runner.Run(ctx, "", args...)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the route to "+r.To()+": %w", err)
	}
	return nil
}

func routeArgs(verb string, r anchord.Route) []string {
	args := []string{"route", verb, r.To()}
	if r.Gateway.IsValid() {
		args = append(args, "via", r.Gateway.String())
	}
	if r.Iface != "" {
		args = append(args, "dev", r.Iface)
	}
	if r.OnLink {
		args = append(args, "onlink")
	}
	switch {
	case r.Protocol != "":
		args = append(args, "proto", r.Protocol)
	case verb == "delete":
		args = append(args, "proto", "boot") // and not the kernel's own beside it
	}
	if r.Metric != 0 {
		args = append(args, "metric", strconv.Itoa(r.Metric))
	}
	return args
}

// ForgetNeighbours has the kernel ask anew who has these addresses where it
// remembers another hardware address than the container's: that of the last one.
// An entry that is right, or that somebody made permanent, is left alone, and none
// is deleted: the packets that just pass or wait for an answer would be lost with
// it. A line that the kernel refuses ends the batch; the next try looks anew.
func (i IP) ForgetNeighbours(ctx context.Context, list []anchord.Neighbour) error {
	known, err := i.neighbours(ctx)
	if err != nil {
		return err
	}
	var batch strings.Builder
	for _, n := range list {
		mac, listed := known[anchord.Neighbour{Iface: n.Iface, Addr: n.Addr}]
		if listed && !strings.EqualFold(mac, n.MAC) {
			fmt.Fprintf(&batch, "neighbour replace %s dev %s nud failed\n", n.Addr, n.Iface)
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	if _, err := i.Runner.Run(ctx, batch.String(), "ip", "-force", "-batch", "-"); err != nil {
		return fmt.Errorf("forgetting neighbours: %w", err)
	}
	return nil
}

// neighbours are the hardware addresses that the kernel has learned.
func (i IP) neighbours(ctx context.Context) (map[anchord.Neighbour]string, error) {
	out, err := i.Runner.Run(ctx, "", "ip", "-j", "neighbour", "show")
	if err != nil {
		return nil, fmt.Errorf("listing neighbours: %w", err)
	}
	var raw []struct {
		Dst    netip.Addr
		Dev    string
		Lladdr string
		State  []string
	}
	if err := json.Unmarshal(out, &raw); err != nil {
		return nil, fmt.Errorf("reading the list of neighbours: %w", err)
	}
	known := map[anchord.Neighbour]string{}
	for _, r := range raw {
		if r.Lladdr != "" && !slices.Contains(r.State, "PERMANENT") {
			known[anchord.Neighbour{Iface: r.Dev, Addr: r.Dst}] = r.Lladdr
		}
	}
	return known, nil
}

// Announce sends three unsolicited ARP requests (RFC 5227, 3) or neighbour
// advertisements, a second apart, so that neighbours do not go on sending to an
// old MAC. It returns when the last is out.
func (i IP) Announce(ctx context.Context, iface string, addr netip.Addr) error {
	if addr.Is6() {
		return advertise(ctx, iface, addr)
	}
	if _, err := i.Runner.Run(ctx, "", "busybox", "arping", "-U", "-c", "3", "-I", iface, addr.String()); err != nil {
		return fmt.Errorf("announcing %s: %w", addr, err)
	}
	return nil
}
