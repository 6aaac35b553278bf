package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/AlexCherrypi/anchord/cmd/anchord/adopt"
)

// adoptCmd reads a project on stdin and writes its override to stdout; what a
// person must know goes to stderr. It asks neither Docker nor the file system.
type adoptCmd struct {
	Parent     string   `required:"" help:"The host's interface on the LAN."`
	IPv6       bool     `name:"ipv6" help:"IPv6 too, on the LAN and inside."`
	Proxy      bool     `help:"Put a socket proxy that allows reading only between anchord and Docker."`
	Engine     string   `help:"Version of Docker Engine, if it is before 28: 20.10, say."`
	LANSubnet  string   `name:"lan-subnet" help:"Before Engine 28: the LAN's subnet."`
	LANGateway string   `name:"lan-gateway" help:"Before Engine 28: the LAN's router."`
	LANRange   string   `name:"lan-range" help:"Before Engine 28: addresses that DHCP gives to nobody."`
	Image      string   `default:"ghcr.io/alexcherrypi/anchord" help:"anchord's image."`
	File       []string `sep:"none" default:"compose.yaml" help:"A file of the project, for the printed commands; repeatable."`
}

// adoptUsage is how the command is called.
const adoptUsage = "docker compose config --format json | docker run --rm -i ghcr.io/alexcherrypi/anchord adopt --parent eth0 > " + adopt.OverrideFile

// streams are a command's input and where it talks to a person.
type streams struct {
	in     *os.File
	errOut io.Writer
}

func (c *adoptCmd) Run(s streams, stdout io.Writer) error {
	// There is nothing to put right at the end, so a signal ends it wherever it is,
	// be it where nothing comes in.
	signal.Reset(syscall.SIGTERM, syscall.SIGINT)
	if info, err := s.in.Stat(); err != nil || info.IsDir() || info.Mode()&os.ModeCharDevice != 0 {
		return &configError{faults: []string{"adopt reads a project on stdin, and nothing is piped into it: " + adoptUsage}}
	}
	input, err := io.ReadAll(io.LimitReader(s.in, adopt.MaxInput+1))
	if err != nil {
		return fmt.Errorf("reading the project on stdin: %w", err)
	}
	result, err := adopt.Override(input, adopt.Options{
		Parent: c.Parent, Image: c.Image, Engine: c.Engine, IPv6: c.IPv6, Proxy: c.Proxy, Files: c.File,
		LAN: adopt.LAN{Subnet: c.LANSubnet, Gateway: c.LANGateway, Range: c.LANRange},
	})
	var faults adopt.Faults
	if errors.As(err, &faults) {
		return &configError{faults: faults}
	} else if err != nil {
		return err
	}
	if _, err := io.WriteString(stdout, result.Override); err != nil {
		return fmt.Errorf("writing the override: %w", err)
	}
	_, err = io.WriteString(s.errOut, result.Told())
	return err
}
