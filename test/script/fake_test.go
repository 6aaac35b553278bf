package script_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fakeTool is what a fake does: write down what it was asked, then answer as
// the file fake/<tool> says. A line of that file is
//
//	REGEXP => exit=N stdout=FILE stderr=FILE
//
// where every part after the arrow is optional and the first line whose regexp
// matches the arguments (and after a newline the standard input) counts.
func fakeTool(tool string) int {
	args := os.Args[1:]
	stdin := readStdin(args)
	record(tool, args, stdin)
	code := answer(tool, strings.Join(args, " ")+"\n"+stdin)
	if tool == "nft" && code == 0 {
		remember(stdin)
	}
	switch {
	case code != 0:
	case slices.Contains(args, "monitor"):
		monitor(tool)
	case tool == "udhcpc":
		code = udhcpc(args)
	}
	return code
}

// remember makes the fake kernel's list of tables what a transaction leaves.
func remember(script string) {
	var tables string
	for _, t := range []string{"table ip anchord_v4", "table ip6 anchord_v6"} {
		switch {
		case strings.Contains(script, t+" {"):
			tables += t + "\n"
		case !strings.Contains(script, "delete "+t+"\n"):
			return // an update of what stands
		}
	}
	if err := os.WriteFile(filepath.Join(home(), "nft-tables"), []byte(tables), 0o644); err != nil {
		panic(err)
	}
}

// home is the script's directory for fakes, the first one in PATH.
func home() string { return filepath.SplitList(os.Getenv("PATH"))[0] }

// rootfs is what the image has, and the machine of the test has not.
func rootfs() string {
	path, err := os.ReadFile(filepath.Join(home(), "rootfs"))
	if err != nil {
		panic(err)
	}
	return string(path)
}

// readStdin reads only where a tool would: a fake that waits for the end of a
// terminal would hang.
func readStdin(args []string) string {
	if !slices.Contains(args, "-") && !slices.Contains(args, "/dev/stdin") {
		return ""
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return string(text)
}

// record appends one entry with one write, so that tools that run at the same
// time do not mix their lines.
func record(tool string, args []string, stdin string) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s\n", tool, strings.Join(args, " "))
	for line := range strings.Lines(stdin) {
		fmt.Fprintf(&b, "%s< %s\n", tool, strings.TrimSuffix(line, "\n"))
	}
	f, err := os.OpenFile(filepath.Join(home(), "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.Write(b.Bytes()); err != nil {
		panic(err)
	}
}

func answer(tool, asked string) int {
	dir := home()
	table, err := os.ReadFile(filepath.Join(dir, tool))
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(table)) {
		pattern, does, ok := strings.Cut(strings.TrimSpace(line), "=>")
		if !ok || !regexp.MustCompile(strings.TrimSpace(pattern)).MatchString(asked) {
			continue
		}
		code := 0
		for _, word := range strings.Fields(does) {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "exit":
				code, _ = strconv.Atoi(value)
			case "stdout":
				copyFile(os.Stdout, filepath.Join(dir, value))
			case "stderr":
				copyFile(os.Stderr, filepath.Join(dir, value))
			}
		}
		return code
	}
	return 0
}

func copyFile(to io.Writer, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	to.Write(text) //nolint:errcheck // a reader that has gone needs nothing
}

// wanted says whether a fake that runs on still has a script and a parent:
// nothing may be left behind, however anchord ended.
func wanted() bool {
	_, err := os.Stat(home())
	return err == nil && os.Getppid() != 1
}

// monitor lives until it is ended or orphaned and prints what a script writes
// into fake/<tool>-monitor.
func monitor(tool string) {
	path := filepath.Join(home(), tool+"-monitor")
	for printed := 0; wanted(); time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(path)
		if len(text) > printed {
			os.Stdout.Write(text[printed:]) //nolint:errcheck // as in copyFile
			printed = len(text)
		}
	}
}

// udhcpc lives as the real one does in the foreground. When a script writes
// fake/lease (lines of name=value, the first of them event=bound), the
// image's hook is called with that. TERM releases.
func udhcpc(args []string) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	for seen := ""; wanted(); {
		select {
		case <-term:
			record("udhcpc", []string{"(ended by TERM)"}, "")
			return 0
		case <-time.After(10 * time.Millisecond):
		}
		text, _ := os.ReadFile(filepath.Join(home(), "lease"))
		if string(text) != seen && len(text) > 0 {
			seen = string(text)
			callHook(args, seen)
		}
	}
	return 0
}

func callHook(args []string, lease string) {
	i := slices.Index(args, "-s")
	if i < 0 {
		panic("udhcpc without -s")
	}
	event := "bound"
	env := slices.Clone(os.Environ())
	for line := range strings.Lines(lease) {
		line = strings.TrimSuffix(line, "\n")
		if v, ok := strings.CutPrefix(line, "event="); ok {
			event = v
			continue
		}
		env = append(env, line)
	}
	cmd := exec.Command(rootfs()+args[i+1], event)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "hook:", err)
	}
}
