// Command anchord makes one Docker Compose project look like one server on
// the LAN. See the package anchord for what it does and the documentation for
// how to use it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/AlexCherrypi/anchord"
)

// Set by the linker.
var (
	version = "development"
	commit  = "unknown"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// commands is the command line; each command's fields are the variables that
// it reads.
type commands struct {
	NetworkAnchor    networkAnchorCmd    `cmd:"" name:"network-anchor" default:"withargs" help:"Be the project's one server on the LAN: hold its address, rules and routes. This is the default."`
	ServiceAnchor    serviceAnchorCmd    `cmd:"" name:"service-anchor" help:"Keep this network namespace's default route on the network-anchor."`
	WrapRebinder     wrapRebinderCmd     `cmd:"" name:"wrap-rebinder" help:"Recreate this project's service-anchors in the namespaces of their targets, when those were recreated."`
	ExternalRebinder externalRebinderCmd `cmd:"" name:"external-rebinder" help:"Keep one container on a network of another project, whenever that is recreated."`
	Status           statusCmd           `cmd:"" help:"Show who the project is on the LAN, what is exposed, and what is wrong."`
	Render           renderCmd           `cmd:"" help:"Print the ruleset that would be applied for the live state; change nothing."`
	Healthcheck      healthcheckCmd      `cmd:"" help:"Exit 0 if the running anchord is ready, else 1 with what is missing."`
	Doctor           doctorCmd           `cmd:"" help:"Look for what breaks setups, and tell the fix."`
	Adopt            adoptCmd            `cmd:"" help:"Make the Compose file that turns a project with ports into one server on the LAN; the project comes in on stdin."`
	Version          versionCmd          `cmd:"" help:"Print the version."`
}

var modes = []string{"network-anchor", "service-anchor", "wrap-rebinder", "external-rebinder"}

func main() {
	// Little is allocated, and now and then: half the usual garbage is worth
	// more than the time to collect it.
	debug.SetGCPercent(50)
	unsetEmpty()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// unsetEmpty makes an empty variable the same as none, as in Compose files a
// variable is often set to the empty expansion of another. The one whose
// empty value means something is left alone.
func unsetEmpty() {
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		ours := strings.HasPrefix(name, "ANCHORD_") || name == "COMPOSE_PROJECT_NAME" || name == "DOCKER_HOST"
		if ours && value == "" && name != "ANCHORD_METRICS_ADDR" {
			os.Unsetenv(name)
		}
	}
}

// run parses, runs one command and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	args, err := withMode(args, os.Getenv("ANCHORD_MODE"))
	if err != nil {
		fmt.Fprintln(stderr, "anchord:", err)
		return exitUsage
	}
	exit := -1
	parser, err := kong.New(&commands{},
		kong.Name("anchord"),
		kong.Description("One Docker Compose project as one server on the LAN. Configured by environment variables only."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exit = code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(stdout, (*io.Writer)(nil)),
		kong.Bind(streams{in: os.Stdin, errOut: stderr}),
		kong.Help(printHelp),
	)
	if err != nil {
		fmt.Fprintln(stderr, "anchord:", err)
		return exitFailed
	}
	parsed, err := parser.Parse(args)
	if exit >= 0 {
		return exit // help was asked for and given
	}
	if err != nil {
		fmt.Fprintln(stderr, "anchord:", err)
		return exitUsage
	}
	if err := parsed.Run(strays(parser.Model, os.Environ())); err != nil {
		return report(err, stderr)
	}
	return exitOK
}

// strayVars are warnings about variables that no mode reads: most often
// mistyped ones.
type strayVars []string

func strays(model *kong.Application, environ []string) strayVars {
	known := map[string]bool{}
	for _, command := range model.Children {
		for _, f := range command.Flags {
			for _, name := range f.Envs {
				known[name] = true
			}
		}
	}
	var warnings strayVars
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "ANCHORD_") && !known[name] {
			hint := "anchord --help lists the modes, and anchord MODE --help what each reads"
			if nearest := anchord.Nearest(name, slices.Sorted(maps.Keys(known))); nearest != "" {
				hint = "is it meant to be " + nearest + "?"
			}
			warnings = append(warnings, name+" means nothing to this version of anchord; "+hint)
		}
	}
	return warnings
}

// report tells an error, unless it was logged already, and returns its exit
// code.
func report(err error, stderr io.Writer) int {
	var bad *configError
	switch {
	case errors.As(err, &bad):
		if !bad.logged {
			fmt.Fprintln(stderr, "anchord:", strings.ReplaceAll(err.Error(), "\n", "\nanchord: "))
		}
		return exitUsage
	case errors.Is(err, errLogged):
		return exitFailed
	}
	fmt.Fprintln(stderr, "anchord:", err)
	return exitFailed
}

// errLogged is a failure that the log has told already.
var errLogged = errors.New("failed; see the log")

// withMode checks the mode that is given by the first argument or, without
// one, by the variable, and puts it in front.
func withMode(args []string, variable string) ([]string, error) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		known := append([]string{"status", "render", "healthcheck", "doctor", "adopt", "version"}, modes...)
		for _, k := range known {
			if args[0] == k {
				return args, nil
			}
		}
		return nil, fmt.Errorf("unknown mode or command %q: modes are %s; commands are status, render, healthcheck, doctor, adopt, version; anchord --help says what each does", args[0], strings.Join(modes, ", "))
	}
	if variable == "" || (len(args) > 0 && (args[0] == "--help" || args[0] == "-h")) {
		return args, nil
	}
	for _, m := range modes {
		if variable == m {
			return append([]string{m}, args...), nil
		}
	}
	return nil, fmt.Errorf("ANCHORD_MODE=%q: unknown mode; modes are %s", variable, strings.Join(modes, ", "))
}
