package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/network"

	"github.com/AlexCherrypi/anchord/test/fakedocker"
)

// programBySize measures the program as a whole, between an engine that
// answers at once and the kernel.
func programBySize(ctx context.Context, b *bench) error {
	dir, err := os.MkdirTemp("", "anchord-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "anchord")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "github.com/AlexCherrypi/anchord/cmd/anchord")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the program: %w: %s", err, out)
	}
	for _, size := range sizes {
		took, err := programLatency(ctx, dir, binary, size.entries)
		if err != nil {
			return fmt.Errorf("%d entries: %w", size.entries, err)
		}
		b.table.add(fmt.Sprintf("%d entries: the whole program, event to kernel", size.entries), "<= "+ms(size.target),
			took.short(), verdictOf(took.p50() <= size.target))
	}
	return nil
}

// programLatency starts one more container again and again, the only one of
// its size, and takes the time until its element is in the kernel.
func programLatency(ctx context.Context, dir, binary string, entries int) (sample, error) {
	w, err := newWorld()
	if err != nil {
		return nil, err
	}
	defer w.close()
	engine, err := fakedocker.Start(filepath.Join(dir, fmt.Sprintf("%d.sock", entries)))
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	box, one := describe(engine, entries)
	cmd := exec.Command(binary)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOSTNAME=" + box, "DOCKER_HOST=" + engine.Host(),
		"ANCHORD_RUN_DIR=" + filepath.Join(dir, fmt.Sprint(entries)),
	}
	var log strings.Builder
	program, err := w.box.start(cmd, func(text string, _ time.Time) { log.WriteString(text + "\n") })
	if err != nil {
		return nil, err
	}
	defer program.stop()
	rules, err := w.box.monitor()
	if err != nil {
		return nil, err
	}
	defer rules.stop()
	has := func(want int) error {
		return wait(ctx, 20*time.Second, 50*time.Millisecond, fmt.Sprintf("%d elements", want), func() (bool, error) {
			out, err := w.box.run("", "nft", "list", "map", "ip", "anchord_v4", "dnat_tcp")
			if n := strings.Count(out, "comment"); n != want {
				return false, errors.Join(err, fmt.Errorf("there are %d", n))
			}
			return true, nil
		})
	}
	var took sample
	for range repeats {
		if err := has(entries); err != nil {
			return nil, fmt.Errorf("%w; the program's log:\n%s", err, log.String())
		}
		time.Sleep(200 * time.Millisecond)
		began := time.Now()
		engine.Start(one)
		var at time.Time
		err := wait(ctx, 5*time.Second, time.Millisecond, "the element in the kernel", func() (ok bool, _ error) {
			at, ok = rules.since(onePort, began)
			return ok, nil
		})
		if err != nil {
			return nil, err
		}
		took = append(took, at.Sub(began))
		engine.Stop(one)
	}
	return took, nil
}

// onePort is the public port of the container that is started.
const onePort = 500

// describe tells the engine of a project of so many entries, and of one more
// container that does not run yet.
func describe(engine *fakedocker.Server, entries int) (box, one string) {
	engine.SetNetwork(network.Inspect{Name: "bench_lan", Driver: "macvlan", EnableIPv4: true, IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: lanPrefix}}}})
	engine.SetNetwork(network.Inspect{Name: "bench_transit", Driver: "bridge", EnableIPv4: true, IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: transit, Gateway: gateway}}}})
	labels := func(expose string) map[string]string {
		return map[string]string{"com.docker.compose.project": project, "anchord.expose": expose}
	}
	inside := func(addr string) map[string]network.EndpointSettings {
		return map[string]network.EndpointSettings{"bench_transit": {IPAddress: addr, IPPrefixLen: 16, Gateway: gateway}}
	}
	networks := inside(boxAddr)
	transitEnd := networks["bench_transit"]
	transitEnd.MacAddress = boxMAC
	networks["bench_transit"] = transitEnd
	networks["bench_lan"] = network.EndpointSettings{IPAddress: extAddr, IPPrefixLen: 24, MacAddress: extMAC}
	box = engine.AddContainer(fakedocker.Container{Name: "bench-anchord-1", Labels: labels(""), Networks: networks})
	for _, c := range observation(entries, 0).Containers {
		engine.AddContainer(fakedocker.Container{
			ID: c.ID, Name: c.Name, Labels: c.Labels, Networks: inside(c.Endpoints[0].Addrs[0].String()),
		})
	}
	one = engine.Create(fakedocker.Container{
		Name: "bench-one-1", Labels: labels(fmt.Sprintf("tcp/%d:80", onePort)), Networks: inside("10.213.250.1"),
	})
	return box, one
}
