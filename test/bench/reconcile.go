package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
)

// sizes are the numbers of entries, with what is promised of one reconcile.
var sizes = []struct {
	entries int
	target  time.Duration
}{{10, 15 * time.Millisecond}, {1000, 30 * time.Millisecond}, {10000, 150 * time.Millisecond}}

const repeats = 15

// portsEach is how many ports one container exposes: few containers with many
// ports and many with few do not occur in one project.
func portsEach(entries int) int {
	switch {
	case entries <= 10:
		return 1
	case entries <= 1000:
		return 10
	}
	return 50
}

// reconcileBySize measures deciding, wording and applying in this process, with
// the real nft.
func reconcileBySize(ctx context.Context, b *bench) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer w.close()
	for _, size := range sizes {
		create, change, parts, err := w.reconcile(ctx, size.entries)
		if err != nil {
			return err
		}
		b.table.add(fmt.Sprintf("%d entries: decide, render, apply (create)", size.entries), "<= "+ms(size.target),
			create.short(), verdictOf(create.p50() <= size.target))
		b.table.add(fmt.Sprintf("%d entries: the same, one element changed", size.entries), "<= "+ms(size.target),
			change.short(), verdictOf(change.p50() <= size.target))
		b.table.detail("of it decide, render, nft", fmt.Sprintf("p50 %s, %s, %s", ms(parts[0].p50()), ms(parts[1].p50()), ms(parts[2].p50())))
	}
	return nil
}

// reconcile gives the times of the first apply and of a change, and the parts
// of the latter.
func (w *world) reconcile(ctx context.Context, entries int) (create, change sample, parts [3]sample, err error) {
	config := anchord.Config{Project: project, Mode: anchord.ModeAuto, PollInterval: 30 * time.Second}
	var memory anchord.Memory
	nft := &exec.NFT{}
	once := func(o anchord.Observation) (at [3]time.Duration, err error) {
		began := time.Now()
		state, m, err := config.Decide(o, memory)
		if err != nil {
			return at, err
		}
		if len(state.Entries) != entries {
			return at, fmt.Errorf("%d entries were decided instead of %d: %v", len(state.Entries), entries, state.Notices)
		}
		memory, at[0] = m, time.Since(began)
		rs, err := w.renderer.Render(state)
		if err != nil {
			return at, err
		}
		at[1] = time.Since(began) - at[0]
		err = w.box.in(func() error { return nft.Apply(ctx, rs) })
		at[2] = time.Since(began) - at[0] - at[1]
		return at, err
	}
	for range repeats {
		if err := w.box.in(func() error { return nft.Remove(ctx) }); err != nil {
			return nil, nil, parts, err
		}
		at, err := once(observation(entries, 0))
		if err != nil {
			return nil, nil, parts, err
		}
		create = append(create, at[0]+at[1]+at[2])
	}
	for i := range repeats {
		at, err := once(observation(entries, i+1))
		if err != nil {
			return nil, nil, parts, err
		}
		for j := range parts {
			parts[j] = append(parts[j], at[j])
		}
		change = append(change, at[0]+at[1]+at[2])
	}
	return create, change, parts, nil
}

// observation is a project of so many entries; in each version the last one
// leads somewhere else.
func observation(entries, version int) anchord.Observation {
	lan := anchord.Network{ID: "lan", Name: "bench_lan", Driver: "macvlan", Pools: []anchord.Pool{{Subnet: netip.MustParsePrefix(lanPrefix)}}}
	inside := anchord.Network{ID: "transit", Name: "bench_transit", Driver: "bridge", InhibitIPv4: true, Pools: []anchord.Pool{{
		Subnet: netip.MustParsePrefix(transit), Gateway: netip.MustParseAddr(gateway),
	}}}
	o := anchord.Observation{
		Self: anchord.Self{
			Container: anchord.Container{ID: "box", Endpoints: []anchord.Endpoint{
				{NetworkID: "lan", Network: lan.Name, MAC: extMAC, Addrs: v4(extAddr)},
				{NetworkID: "transit", Network: inside.Name, MAC: boxMAC, Addrs: v4(boxAddr)},
			}},
			Networks: []anchord.Network{lan, inside},
		},
		Links: []anchord.Link{{Name: "lan0", MAC: extMAC}, {Name: "transit0", MAC: boxMAC}},
	}
	each := portsEach(entries)
	for first := 0; first < entries; first += each {
		last := first+each == entries
		label := ""
		for port := first; port < first+each; port++ {
			backend := 80
			if last && port == first+each-1 {
				backend += version
			}
			label += fmt.Sprintf("tcp/%d:%d,", 1000+port, backend)
		}
		o.Containers = append(o.Containers, anchord.Container{
			ID: fmt.Sprintf("%064d", first), Name: fmt.Sprintf("bench-service%d-1", first/each),
			Labels:    map[string]string{"com.docker.compose.project": project, anchord.LabelExpose: label[:len(label)-1]},
			Endpoints: []anchord.Endpoint{{NetworkID: "transit", Network: inside.Name, Addrs: v4(manyAddr(first / each))}},
		})
	}
	return o
}

// manyAddr is the address of container n of many.
func manyAddr(n int) string { return fmt.Sprintf("10.213.%d.%d", 2+n/250, 1+n%250) }

func v4(addr string) anchord.PerFamily[netip.Addr] {
	return anchord.PerFamily[netip.Addr]{netip.MustParseAddr(addr)}
}
