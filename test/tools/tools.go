// Package tools finds the programs that the tests, the demo and the benchmark
// call. Those that the machine does not have are unpacked into the cache; nothing
// is installed.
package tools

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Use makes sure of what one of scripts/deps' lists names, "demo" or "test", and
// lets this process and its children find it.
func Use(list string) error {
	dir, err := repository()
	if err != nil {
		return err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(dir, "scripts/deps"), list)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("looking for programs: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	// The machine's own come first. Those for root are not in everybody's PATH.
	path := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range append([]string{"/usr/sbin", "/sbin"}, filepath.SplitList(strings.TrimSpace(stdout.String()))...) {
		if !slices.Contains(path, dir) {
			path = append(path, dir)
		}
	}
	return os.Setenv("PATH", strings.Join(path, string(filepath.ListSeparator)))
}

// File is the path of a file that scripts/deps always takes from its package, be
// it a program or not, where the package has it. Before Use, or for one that is
// not listed, it is the name alone.
func File(name string) string {
	for _, dir := range Dirs() {
		if path, err := filepath.EvalSymlinks(filepath.Join(dir, "bin", name)); err == nil {
			return path
		}
	}
	return name
}

// Dirs are the directories in the cache with what was unpacked; the programs are
// in each one's bin.
func Dirs() []string {
	var dirs []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if dir = filepath.Dir(dir); strings.HasPrefix(filepath.Base(dir), "tools-") {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// repository is found from the working directory, which is a package's in go test.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "scripts/deps")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("this is not inside anchord's repository, run it from there")
}
