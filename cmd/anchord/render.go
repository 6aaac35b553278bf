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
	ruleset, refused, err := c.render(ctx, state)
	if err != nil {
		return err
	}
	if refused != nil {
		fmt.Fprintln(os.Stderr, "anchord: the template directory is refused, so this is what the embedded templates say (an anchord that runs keeps to those that it accepted last):", refused)
	}
	_, err = io.WriteString(stdout, exec.Script(ruleset, 0))
	return err
}

// render words the state as the template directory has it, or says why it is
// refused and does without.
func (c *renderCmd) render(ctx context.Context, state anchord.State) (rs anchord.Ruleset, refused, err error) {
	embedded, err := templates.New()
	if err != nil {
		return rs, nil, err
	}
	dir := watch.TemplateDir{Path: c.TemplateDir}
	files := anchord.Overriding(dir.Templates())
	if len(files) > 0 {
		rs, _, refused = overridden(ctx, embedded, files, state)
	}
	if len(files) == 0 || refused != nil {
		rs, err = embedded.Render(state)
	}
	return rs, refused, err
}

// overridden words a state as the operator's templates do, and has nft check it;
// dropped are templates.Renderer's.
func overridden(ctx context.Context, embedded *templates.Renderer, files []anchord.TemplateFile, state anchord.State) (rs anchord.Ruleset, dropped map[string]string, err error) {
	renderer, err := embedded.With(files)
	if err != nil {
		return rs, nil, err
	}
	if rs, err = renderer.Render(state); err != nil {
		return rs, nil, err
	}
	return rs, renderer.(*templates.Renderer).Dropped(), (&exec.NFT{}).Check(ctx, rs)
}
