package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

// printHelp shows what a command does and every variable that it reads, with
// its default and meaning; of the program itself, the commands.
func printHelp(_ kong.HelpOptions, ctx *kong.Context) error {
	node := ctx.Selected()
	if node == nil || len(ctx.Args) == 0 || strings.HasPrefix(ctx.Args[0], "-") {
		return printOverview(ctx)
	}
	fmt.Fprintf(ctx.Stdout, "Usage: %s\n\n%s\n", node.FullPath(), node.Help)
	if node.DefaultCmd != nil {
		for _, c := range node.Children {
			fmt.Fprintf(ctx.Stdout, "\n  %s\n%s\n", c.FullPath(), indent(c.Help))
		}
		node = node.DefaultCmd
	}
	var flags, variables []*kong.Flag
	for _, f := range node.Flags {
		switch {
		case f.Hidden:
		case len(f.Envs) > 0:
			variables = append(variables, f)
		default:
			flags = append(flags, f)
		}
	}
	if len(variables) > 0 {
		fmt.Fprintln(ctx.Stdout, "\nEnvironment variables:")
	}
	for _, f := range variables {
		fmt.Fprintf(ctx.Stdout, "\n  %s%s\n%s\n", f.Envs[0], defaultOf(f), indent(f.Help))
	}
	if len(flags) > 0 {
		fmt.Fprintln(ctx.Stdout, "\nFlags:")
	}
	t := tabwriter.NewWriter(ctx.Stdout, 0, 0, 2, ' ', 0)
	for _, f := range flags {
		fmt.Fprintf(t, "  --%s\t%s\n", f.Name, f.Help)
	}
	return t.Flush()
}

func defaultOf(f *kong.Flag) string {
	if f.Default == "" {
		return ""
	}
	return " (default " + f.Default + ")"
}

// indent wraps a meaning at a terminal's width.
func indent(text string) string {
	const width, margin = 76, "      "
	lines := []string{margin}
	for _, word := range strings.Fields(text) {
		last := &lines[len(lines)-1]
		if len(*last)+1+len(word) > width {
			lines = append(lines, margin+word)
			continue
		}
		*last = strings.TrimSuffix(*last+" "+word, " ")
		*last = strings.Replace(*last, margin+" ", margin, 1)
	}
	return strings.Join(lines, "\n")
}

func printOverview(ctx *kong.Context) error {
	fmt.Fprintf(ctx.Stdout, "Usage: anchord [MODE | COMMAND]\n\n%s\n\nModes (also by ANCHORD_MODE):\n", ctx.Model.Help)
	t := tabwriter.NewWriter(ctx.Stdout, 0, 0, 2, ' ', 0)
	for i, c := range ctx.Model.Children {
		if i == len(modes) {
			fmt.Fprintln(t, "\nCommands:")
		}
		fmt.Fprintf(t, "  %s\t%s\n", c.Name, c.Help)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(ctx.Stdout, "\n\"anchord MODE --help\" and \"anchord COMMAND --help\" list the variables that each reads.")
	return err
}
