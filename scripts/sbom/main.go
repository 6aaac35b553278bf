// Command sbom prints the bill of materials of a compiled Go program: the
// modules that are linked into it, as the program itself records them, in the
// format CycloneDX (JSON).
//
//	go run ./scripts/sbom PROGRAM VERSION
//
// VERSION is the program's own, which it does not record in a form that others
// can read.
// SOURCE_DATE_EPOCH, in seconds since 1970, is the time that it bears; without
// it, it bears none. The same program gives the same text.
package main

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom PROGRAM VERSION")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Getenv("SOURCE_DATE_EPOCH"), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(program, version, epoch string, out io.Writer) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return fmt.Errorf("reading what %s is made of: %w", program, err)
	}
	bom, err := describe(info, version, epoch)
	if err != nil {
		return err
	}
	return cyclonedx.NewBOMEncoder(out, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

func describe(info *debug.BuildInfo, version, epoch string) (*cyclonedx.BOM, error) {
	bom := cyclonedx.NewBOM()
	main := component(debug.Module{Path: info.Main.Path, Version: version}, cyclonedx.ComponentTypeApplication)
	bom.Metadata = &cyclonedx.Metadata{Component: &main}
	if epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH=%q is no number of seconds: %w", epoch, err)
		}
		bom.Metadata.Timestamp = time.Unix(seconds, 0).UTC().Format(time.RFC3339)
	}
	components := []cyclonedx.Component{
		component(debug.Module{Path: "std", Version: info.GoVersion}, cyclonedx.ComponentTypeLibrary),
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		components = append(components, component(*m, cyclonedx.ComponentTypeLibrary))
	}
	bom.Components = &components
	return bom, nil
}

func component(m debug.Module, kind cyclonedx.ComponentType) cyclonedx.Component {
	purl := "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")
	return cyclonedx.Component{BOMRef: purl, Type: kind, Name: m.Path, Version: m.Version, PackageURL: purl}
}
