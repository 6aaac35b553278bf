package anchord

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// expose reads the labels, chooses the shared network and maps the ports.
func (d *decision) expose() {
	if d.state.Ext == "" {
		return
	}
	offers := d.offers()
	var backends []Container
	for _, o := range offers {
		backends = append(backends, o.namespace)
	}
	attached := d.transitAttachments()
	if len(attached) == 0 && d.waiting {
		return
	}
	shared, err := d.config.pickShared(d.memory.Shared, attached, backends)
	if err != nil {
		d.notice(Error, EventSharedMissing, "", "no way to the services: %v", err)
		return
	}
	if old := d.memory.Shared.Network; old != "" && old != shared.Network {
		d.notice(Info, EventSharedPicked, "", "backend addresses are now read on network %s, before on %s", shared.Network, old)
	}
	d.memory.Shared, d.state.Shared = shared, shared.Network
	for _, a := range attached {
		if a.Network.Name == shared.Network {
			d.state.Inside = a.inside()
		}
	}
	// The shared network comes first, so that a backend on several of them
	// is reached through it.
	slices.SortStableFunc(attached, func(a, b Attachment) int {
		return -compareBool(a.Network.Name == shared.Network, b.Network.Name == shared.Network)
	})
	d.mapPorts(offers, attached)
	d.countEmpty(len(d.state.Entries) == 0, names(attached))
}

// After patience reconciles without a backend the user is told what to check;
// not within a grace that covers the recreation of a project's only service.
const (
	patience = 5
	grace    = 10 * time.Second
)

func (d *decision) countEmpty(empty bool, networks string) {
	if !empty {
		d.memory.EmptyRounds = 0
		return
	}
	if d.memory.EmptyRounds == 0 {
		d.memory.EmptySince = d.o.Now
	}
	d.memory.EmptyRounds++
	if d.memory.EmptyRounds >= patience && d.o.Now-d.memory.EmptySince >= grace {
		d.notice(Warn, EventNoBackends, "", "no container is exposed: check that the services carry the label %s, run, belong to %s, and are on one of: %s",
			LabelExpose, d.state.Identity, networks)
	}
}

// offer is what one container wants to have exposed, and the container whose
// namespace and addresses it has.
type offer struct {
	container Container
	namespace Container
	exposures []Exposure
	v6        bool
}

// offers reads the labels of the containers in scope, oldest container first.
func (d *decision) offers() []offer {
	containers := slices.Clone(d.o.Containers)
	slices.SortFunc(containers, func(a, b Container) int { return compareBool(b.olderThan(a), a.olderThan(b)) })
	var offers []offer
	for _, c := range containers {
		namespace, known := d.namespaceOf(c)
		if !d.state.Identity.Scope.Manages(c, namespace) {
			continue
		}
		d.checkLabels(c)
		exposures, err := ParseExpose(c.Labels[LabelExpose])
		if err != nil {
			d.reject(c, err)
			continue
		}
		v6, err := parseExposeV6(c.Labels[LabelExposeV6])
		if err != nil {
			d.reject(c, err)
			continue
		}
		if len(exposures) == 0 {
			continue
		}
		if !known {
			d.notice(Warn, EventBackendUnreachable, c.Name, "container %s exposes ports, but the container whose network namespace it shares (%s) is not running: recreate %s", Short(c.Name), Short(c.NamespaceOf), Short(c.Name))
			continue
		}
		offers = append(offers, offer{c, namespace, exposures, v6})
	}
	return offers
}

// reject refuses a container's label as a whole.
func (d *decision) reject(c Container, err error) {
	d.state.Rejected++
	d.notice(Error, EventLabelRejected, c.Name, "container %s is not exposed: %v", Short(c.Name), err)
}

// maxUnknown is how many labels of one container are told of that mean nothing: the
// first few show what is the matter.
const maxUnknown = 5

func (d *decision) checkLabels(c Container) {
	unknown := 0
	defer func() {
		if unknown > maxUnknown {
			d.notice(Warn, EventLabelUnknown, c.Name, "container %s has %d more labels that mean nothing to anchord", Short(c.Name), unknown-maxUnknown)
		}
	}()
	for _, label := range slices.Sorted(maps.Keys(c.Labels)) {
		ours, known := strings.HasPrefix(label, LabelPrefix), ""
		if slices.Contains(knownLabels, label) || slices.Contains(ownLabels, label) || !ours && likeOurs(label) == "" {
			continue
		}
		if unknown++; unknown > maxUnknown {
			continue
		}
		if ours {
			known = fmt.Sprintf(" (known are: %s)", strings.Join(knownLabels, ", "))
		}
		d.notice(Warn, EventLabelUnknown, c.Name, "container %s has the label %s, which means nothing to anchord%s%s", Short(c.Name), quoted(label), meant(likeOurs(label)), known)
	}
}

// namespaceOf resolves network_mode container: and service: to the container
// that has the addresses. Docker allows one step only.
func (d *decision) namespaceOf(c Container) (Container, bool) {
	if c.NamespaceOf == "" {
		return c, true
	}
	for _, owner := range append(slices.Clone(d.o.Containers), d.o.Self.Container) {
		if owner.Is(c.NamespaceOf) {
			return owner, true
		}
	}
	return Container{}, false
}

// How many elements the maps of a project have at most. With maxElements the kernel
// takes about a second for the first ruleset and some ten milliseconds for a change,
// and a status is there in a second; with four times as many it is ten seconds, which
// is nft's limit. Ranges with other backend ports, which alone come near it, get half:
// so none of them keeps the single ports of others out.
const (
	maxElements = 16384
	maxSpelled  = maxElements / 2
)

// load is what entries need of the maps: all elements, and those of ranges that are
// spelled out.
type load struct{ all, spelled int }

func (l *load) add(e Exposure, families int) {
	l.all += families * e.elements()
	if e.elements() > 1 {
		l.spelled += families * e.elements()
	}
}

// overload is the entry of an offer with which a project's maps would have too many
// elements, given those of older containers; nil: all fit.
func (o offer) overload(sum load, families int) *LabelError {
	for _, e := range o.exposures {
		sum.add(e, families)
		reason := ""
		switch kept := (Exposure{Protocol: e.Protocol, First: e.First, Last: e.Last, Backend: e.First}); {
		case e.elements() > 1 && (sum.spelled > maxSpelled || sum.all > maxElements):
			reason = fmt.Sprintf("a range with other backend ports takes an element of the kernel's maps for each port and family; with these %d it would be %d in the project, and at most %d are allowed: write %s, which is one, and let the service listen on these ports",
				families*e.elements(), sum.spelled, maxSpelled, kept)
		case sum.all > maxElements:
			reason = fmt.Sprintf("with it the project would have %d elements in the kernel's maps, and at most %d are allowed: write neighbouring ports as a range, such as tcp/8000-8999", sum.all, maxElements)
		}
		if reason != "" {
			return &LabelError{Label: LabelExpose, Entry: e.String(), Reason: reason}
		}
	}
	return nil
}

// mapPorts gives each port to the oldest container that asks for it.
func (d *decision) mapPorts(offers []offer, attached []Attachment) {
	taken := map[Protocol]*claims{TCP: {}, UDP: {}}
	var sum load
	for _, o := range offers {
		targets := o.targets(attached)
		if o.container.CutOff {
			d.notice(Warn, EventBackendUnreachable, o.container.Name, "container %s exposes ports but is on no network: recreate it", o.container.Name)
			continue
		}
		if len(targets) == 0 {
			d.notice(Warn, EventBackendUnreachable, o.container.Name, "container %s exposes ports but has no address on a network that anchord is on: attach it to one of: %s", Short(o.container.Name), names(attached))
			continue
		}
		if tooMuch := o.overload(sum, len(targets)); tooMuch != nil {
			d.reject(o.container, tooMuch)
			continue
		}
		for _, e := range o.exposures {
			if holder, free := taken[e.Protocol].add(claim{e, o.container.Name}); !free {
				d.state.Conflicts++
				d.notice(Error, EventExposeConflict, o.container.Name, "container %s does not get %s: container %s, which is older, has it as %s", Short(o.container.Name), e, Short(holder.container), holder.exposure)
				continue
			}
			if e.Protocol == TCP && e.First <= d.config.MetricsPort && d.config.MetricsPort <= e.Last {
				d.notice(Warn, EventConfigWarning, o.container.Name, "%s of container %s is the port of ANCHORD_METRICS_ADDR too: the project's containers reach the service there, and not the metrics: give the metrics another port", e, Short(o.container.Name))
			}
			sum.add(e, len(targets))
			for _, t := range targets {
				d.state.Entries = append(d.state.Entries, t.entry(e, o.container.Name))
			}
		}
	}
	sortEntries(d.state.Entries)
}

// claims are the port ranges of one protocol that are given away: disjoint,
// and sorted by port.
type claims []claim

type claim struct {
	exposure  Exposure
	container string
}

// add takes the claim's range, or returns who holds a part of it already.
func (c *claims) add(n claim) (holder claim, free bool) {
	i, _ := slices.BinarySearchFunc(*c, n.exposure.First, func(c claim, port uint16) int { return int(c.exposure.Last) - int(port) })
	if i < len(*c) && (*c)[i].exposure.First <= n.exposure.Last {
		return (*c)[i], false
	}
	*c = slices.Insert(*c, i, n)
	return n, true
}

// target is one address of a backend and the way to it.
type target struct {
	addr       netip.Addr
	mac, iface string
}

func (t target) entry(e Exposure, container string) Entry {
	return Entry{
		Family: FamilyOf(t.addr), Protocol: e.Protocol, First: e.First, Last: e.Last,
		Backend: t.addr, Port: e.Backend, Container: container, BackendMAC: t.mac, Iface: t.iface,
	}
}

// targets finds, per family, the first of the attached networks on which the
// offer's namespace has an address.
func (o offer) targets(attached []Attachment) []target {
	var targets []target
	for _, f := range Families {
		if f == V6 && !o.v6 {
			continue
		}
		for _, a := range attached {
			if e, on := o.namespace.endpoint(a.Network.ID); on && e.Addrs[f].IsValid() {
				targets = append(targets, target{e.Addrs[f], e.MAC, a.Link.Name})
				break
			}
		}
	}
	return targets
}

func sortEntries(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int {
		if a.Family != b.Family {
			return int(a.Family) - int(b.Family)
		}
		if c := strings.Compare(string(a.Protocol), string(b.Protocol)); c != 0 {
			return c
		}
		return int(a.First) - int(b.First)
	})
}
