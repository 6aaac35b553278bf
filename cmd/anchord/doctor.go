package main

import (
	"context"
	"fmt"
	"io"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/watch"
)

// doctorCmd holds the one-shot checks.
type doctorCmd struct {
	StaleNetns staleNetnsCmd `cmd:"" name:"stale-netns" help:"Find containers of the whole engine that are stuck in a network namespace that no longer exists. Exit 1 if there are any."`
}

type staleNetnsCmd struct{ dockerVars }

func (c *staleNetnsCmd) Run(ctx context.Context, stdout io.Writer) error {
	bad := &configError{}
	checkDockerHost(bad, c.DockerHost)
	if err := bad.orNil(); err != nil {
		return err
	}
	docker, err := watch.NewDocker(c.DockerHost, nil)
	if err != nil {
		return err
	}
	defer docker.Close()
	members, err := docker.Members(ctx)
	if err != nil {
		return err
	}
	dead := anchord.DeadNamespaces(members)
	printDead(stdout, dead)
	if len(dead) > 0 {
		return errFound
	}
	return nil
}

// errFound ends a check that found something, and has told it.
var errFound = errLogged

func printDead(w io.Writer, dead []anchord.DeadNamespace) {
	if len(dead) == 0 {
		fmt.Fprintln(w, "ok: no container is stuck in a network namespace that no longer exists")
		return
	}
	for _, d := range dead {
		fmt.Fprintf(w, "FAIL: %s %s; stuck in its old network namespace, and without a network:\n", printable(d.Target), d.Reason)
		for _, v := range d.Victims {
			fmt.Fprintf(w, "  %s\n", printable(v.Name))
		}
		cures := d.Cures()
		for _, cure := range cures {
			fmt.Fprintf(w, "fix:\n  %s\n", cure)
		}
		if len(cures) == 0 {
			fmt.Fprintln(w, "fix: recreate them as they were made; Compose did not make them")
		}
	}
}
