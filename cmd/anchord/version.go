package main

import (
	"fmt"
	"io"
	"runtime"
)

type versionCmd struct{}

func (versionCmd) Run(stdout io.Writer) error {
	_, err := fmt.Fprintf(stdout, "anchord %s (commit %s, %s)\n", version, commit, runtime.Version())
	return err
}
