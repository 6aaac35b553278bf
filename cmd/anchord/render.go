package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
	"github.com/AlexCherrypi/anchord/templates"
	"github.com/AlexCherrypi/anchord/watch"
)

type renderCmd struct {
	runVars
	networkVars
}

// Run looks once, decides, and prints; nothing is changed.
func (c *renderCmd) Run(ctx context.Context, stdout io.Writer) error {
	bad := &configError{}
	config, _, _ := c.config(bad)
	if err := bad.orNil(); err != nil {
		return err
	}
	docker, err := watch.NewDocker(c.DockerHost, watch.OwnReferences())
	if err != nil {
		return err
	}
	defer docker.Close()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("reading the boot's id: %w", err)
	}
	seen := anchord.Observation{Now: uptime(), Boot: strings.TrimSpace(string(boot))}
	if seen.Self, err = docker.Self(ctx); err != nil {
		return err
	}
	identity, err := config.Identify(seen.Self)
	if err != nil {
		return &configError{faults: []string{err.Error()}}
	}
	if seen.Containers, err = docker.Containers(ctx, identity.Scope); err != nil {
		return err
	}
	if seen.Links, err = (exec.IP{}).Links(ctx); err != nil {
		return err
	}
	state, _, err := config.Decide(seen, anchord.Memory{})
	if err != nil {
		return err
	}
	renderer, err := templates.New()
	if err != nil {
		return err
	}
	ruleset, err := renderer.Render(state)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, exec.Script(ruleset, 0))
	return err
}
