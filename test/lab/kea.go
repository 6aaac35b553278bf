package lab

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kea is the other server: one program for each family, as larger networks have
// it, and radvd beside it for the router advertisements.
type kea struct{}

// An interval of router advertisements, and how long hosts use a router that has
// fallen silent. Both servers send the first ones sooner.
const (
	raInterval = 10 * time.Second
	raLifetime = 30 * time.Second
)

func (kea) log() string { return "kea.log" }

func (kea) tables() []string { return []string{"kea4.leases", "kea6.leases"} }

// object is one of JSON's.
type object map[string]any

func (kea) configure(_ context.Context, lan *LAN) ([]daemon, error) {
	c := lan.dhcp.config
	if len(c.Extra) > 0 {
		return nil, errors.New("the LAN has Kea, and Extra is for dnsmasq")
	}
	for _, r := range c.Reservations {
		if r.MAC == "" && r.ClientID == "" {
			return nil, fmt.Errorf("for %s: Kea does not know clients by their names", r.Addr)
		}
	}
	var daemons []daemon
	if c.Pool.valid() {
		d, err := lan.keaDaemon("4", lan.kea4())
		if err != nil {
			return nil, err
		}
		daemons = append(daemons, d)
	}
	if c.Pool6.valid() {
		d, err := lan.keaDaemon("6", lan.kea6())
		if err != nil {
			return nil, err
		}
		daemons = append(daemons, d)
	}
	if len(c.Prefixes6) > 0 {
		d, err := lan.radvd()
		if err != nil {
			return nil, err
		}
		daemons = append(daemons, d)
	}
	return daemons, nil
}

// keaDaemon is the server of one family. What is the same for both is added to
// its configuration.
func (lan *LAN) keaDaemon(version string, conf object) (daemon, error) {
	lease := int(lan.dhcp.config.LeaseTime.Seconds())
	program, name := "kea-dhcp"+version, "kea"+version
	conf["valid-lifetime"] = lease
	conf["calculate-tee-times"] = true
	conf["lease-database"] = object{
		"type": "memfile", "name": lan.file(name + ".leases"), "lfc-interval": 0, // never put in order: a program of its own would
	}
	conf["loggers"] = []object{{
		"name": program, "severity": "DEBUG", "debuglevel": 40,
		"output_options": []object{{"output": "stdout", "flush": true}},
	}}
	text, err := json.MarshalIndent(object{"Dhcp" + version: conf}, "", "  ")
	if err != nil {
		return daemon{}, err
	}
	path := lan.file(name + ".conf")
	dir := filepath.Dir(path)
	before, _ := os.ReadFile(lan.DHCPLog())
	return daemon{
		argv: []string{program, "-c", path},
		// Kea 2.6 takes no other directory for leases than its own, unless it is told so.
		env: []string{"KEA_PIDFILE_DIR=" + dir, "KEA_LOCKFILE_DIR=" + dir, "KEA_DHCP_DATA_DIR=" + dir},
		pid: filepath.Join(dir, strings.TrimSuffix(filepath.Base(path), ".conf")+"."+program+".pid"),
		ready: func() (bool, error) {
			now, err := os.ReadFile(lan.DHCPLog())
			return strings.Contains(string(now[min(len(before), len(now)):]), "DHCP"+version+"_STARTED"), err
		},
		end: unix.SIGTERM,
	}, os.WriteFile(path, text, 0o644)
}

func (lan *LAN) kea4() object {
	c := lan.dhcp.config
	options, reservations := []object{}, []object{} // Kea does not take null for an empty list
	if c.Router.IsValid() {
		options = append(options, object{"name": "routers", "data": c.Router.String()})
	}
	if dns := family(c.DNS, netip.Addr.Is4); len(dns) > 0 {
		options = append(options, object{"name": "domain-name-servers", "data": joinAddrs(dns)})
	}
	for _, r := range c.Reservations {
		if r.Addr.Is4() {
			reservations = append(reservations, r.kea(object{"ip-address": r.Addr}, "client-id"))
		}
	}
	return object{
		"interfaces-config": object{"interfaces": []string{"eth0"}, "dhcp-socket-type": "raw"},
		"authoritative":     c.Authoritative,
		"subnet4": []object{{
			"id": 1, "subnet": lan.Prefix, "pools": []object{c.Pool.kea()},
			"option-data": options, "reservations": reservations,
		}},
	}
}

func (lan *LAN) kea6() object {
	c := lan.dhcp.config
	options, reservations := []object{}, []object{}
	if dns := family(c.DNS, netip.Addr.Is6); len(dns) > 0 {
		options = append(options, object{"name": "dns-servers", "data": joinAddrs(dns)})
	}
	for _, r := range c.Reservations {
		if r.Addr.Is6() {
			reservations = append(reservations, r.kea(object{"ip-addresses": []netip.Addr{r.Addr}}, "duid"))
		}
	}
	return object{
		"interfaces-config":  object{"interfaces": []string{"eth0"}},
		"preferred-lifetime": int(c.LeaseTime.Seconds()),
		// Else it wants to keep one in the machine's own files. The number is
		// that of documentation.
		"server-id": object{"type": "EN", "enterprise-id": 32473, "identifier": lan.lab.ID, "persist": false},
		"subnet6": []object{{
			"id": 1, "subnet": netip.PrefixFrom(c.Pool6.First, 64).Masked(), "interface": "eth0",
			"pools": []object{c.Pool6.kea()}, "option-data": options, "reservations": reservations,
		}},
	}
}

func (r AddrRange) kea() object { return object{"pool": r.First.String() + " - " + r.Last.String()} }

// kea names a reservation's client.
func (r Reservation) kea(reservation object, id string) object {
	if r.MAC != "" {
		reservation["hw-address"] = r.MAC
	} else {
		reservation[id] = r.ClientID
	}
	return reservation
}

func joinAddrs(addrs []netip.Addr) string {
	var all []string
	for _, addr := range addrs {
		all = append(all, addr.String())
	}
	return strings.Join(all, ", ")
}

// radvd announces the prefixes.
func (lan *LAN) radvd() (daemon, error) {
	c := lan.dhcp.config
	flag := map[bool]string{true: "on", false: "off"}
	conf := "interface eth0 {\n\tAdvSendAdvert on;\n" +
		fmt.Sprintf("\tMinRtrAdvInterval 3;\n\tMaxRtrAdvInterval %d;\n", int(raInterval.Seconds())) +
		fmt.Sprintf("\tAdvDefaultLifetime %d;\n", int(raLifetime.Seconds())) +
		fmt.Sprintf("\tAdvManagedFlag %[1]s;\n\tAdvOtherConfigFlag %[1]s;\n", flag[c.Pool6.valid()])
	for _, p := range c.Prefixes6 {
		valid := int(max(c.LeaseTime, shortestLease).Seconds())
		preferred := valid
		if p.Deprecated {
			preferred = 0
		}
		conf += fmt.Sprintf("\tprefix %s {\n\t\tAdvOnLink on;\n\t\tAdvAutonomous %s;\n\t\tAdvValidLifetime %d;\n\t\tAdvPreferredLifetime %d;\n\t};\n",
			p.Prefix, flag[p.SLAAC], valid, preferred)
	}
	for _, addr := range family(c.DNS, netip.Addr.Is6) {
		conf += fmt.Sprintf("\tRDNSS %s { };\n", addr)
	}
	path, pid := lan.file("radvd.conf"), lan.file("radvd.pid")
	return daemon{
		argv: []string{"radvd", "--nodaemon", "--config", path, "--pidfile", pid, "--logmethod", "stderr", "--debug", "3"},
		pid:  pid, ready: there(pid),
		end: unix.SIGKILL, // told to end, it tells the hosts to forget the router
	}, os.WriteFile(path, []byte(conf+"};\n"), 0o644)
}

func (kea) leases(lan *LAN) ([]Lease, error) {
	text, err := readTable(lan.file("kea4.leases"))
	if err != nil {
		return nil, err
	}
	return parseKeaLeases(text)
}

func (kea) leases6(lan *LAN) ([]Lease6, error) {
	text, err := readTable(lan.file("kea6.leases"))
	if err != nil {
		return nil, err
	}
	return parseKeaLeases6(text)
}

func parseKeaLeases(text string) ([]Lease, error) {
	lines, err := keaTable(text)
	var leases []Lease
	for _, line := range lines {
		lease := Lease{Addr: line.addr, Expiry: line.expiry, Hostname: line.hostname, ClientID: line.fields["client_id"]}
		if lease.MAC, err = net.ParseMAC(line.fields["hwaddr"]); err != nil {
			return nil, fmt.Errorf("lease of %s: %w", lease.Addr, err)
		}
		leases = append(leases, lease)
	}
	return leases, err
}

func parseKeaLeases6(text string) ([]Lease6, error) {
	lines, err := keaTable(text)
	var leases []Lease6
	for _, line := range lines {
		iaid, err := strconv.ParseUint(line.fields["iaid"], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("lease of %s: %w", line.addr, err)
		}
		leases = append(leases, Lease6{
			Addr: line.addr, Expiry: line.expiry, Hostname: line.hostname,
			DUID: line.fields["duid"], IAID: uint32(iaid),
		})
	}
	return leases, err
}

// keaLease is what the tables of both families have in common.
type keaLease struct {
	addr     netip.Addr
	expiry   time.Time
	hostname string
	fields   map[string]string
}

// keaTable reads Kea's format, comma-separated with a heading. The file is a
// journal: the last line of an address is what holds, and one with a lifetime of
// 0 or another state than 0 says that it was given back.
func keaTable(text string) ([]keaLease, error) {
	if text == "" {
		return nil, nil
	}
	all, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, err
	}
	var leases []keaLease
	for _, values := range all[1:] {
		fields := map[string]string{}
		for i, name := range all[0] {
			fields[name] = values[i]
		}
		addr, err := netip.ParseAddr(fields["address"])
		if err != nil {
			return nil, err
		}
		leases = slices.DeleteFunc(leases, func(l keaLease) bool { return l.addr == addr })
		if fields["valid_lifetime"] == "0" || fields["state"] != "0" {
			continue
		}
		expiry, err := strconv.ParseInt(fields["expire"], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("lease of %s: %w", addr, err)
		}
		leases = append(leases, keaLease{
			addr: addr, expiry: time.Unix(expiry, 0),
			hostname: strings.TrimSuffix(fields["hostname"], "."), fields: fields,
		})
	}
	return leases, nil
}
