package netns_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// capture is a running tcpdump.
type capture struct {
	*proc
	in      *ns
	packets string // what the last text was made of
	printed string
}

// capture starts tcpdump and waits until it sees packets. It hands packets on
// whole; what it prints with -v takes several lines, written one by one.
func (n *ns) capture(iface, filter string) *capture {
	n.t.Helper()
	p := n.start("tcpdump", "-Z", "root", "-w", "-", "-U", "--immediate-mode", "-i", iface, filter)
	eventually(n.t, hang, func() error {
		if !p.errOut.contains("listening on") {
			return fmt.Errorf("tcpdump: %s", p.errOut)
		}
		return nil
	})
	return &capture{proc: p, in: n}
}

// text is every packet so far, one line each.
func (c *capture) text() string {
	c.in.t.Helper()
	packets := c.out.raw()
	if packets == c.packets {
		return c.printed
	}
	text, err := c.in.feed(packets, "tcpdump", "-Z", "root", "-r", "-", "-n", "-vv", "-e")
	if err != nil && !strings.Contains(err.Error(), "truncated dump file") { // the last one has not come whole yet
		c.in.t.Fatal(err)
	}
	// -v continues a packet on lines that begin with space.
	c.packets, c.printed = packets, strings.TrimSuffix(regexp.MustCompile(`\n[ \t]+`).ReplaceAllString(text, " "), "\n")
	return c.printed
}

// sees is a condition: a packet of this form has come.
func (c *capture) sees(pattern string) func() error {
	re := regexp.MustCompile(pattern)
	return func() error {
		if text := c.text(); !re.MatchString(text) {
			return fmt.Errorf("no packet matches %s in:\n%s", pattern, text)
		}
		return nil
	}
}

// all is every match's first group.
func (c *capture) all(pattern string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(c.text(), -1) {
		found = append(found, m[1])
	}
	return found
}

// monitor starts a netlink monitor ("ip", "nft", "conntrack") and waits until
// the kernel knows of it.
func (n *ns) monitor(args ...string) *proc {
	n.t.Helper()
	p := n.start(args...)
	eventually(n.t, hang, func() error {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", p.cmd.Process.Pid))
		if err != nil {
			return err
		}
		mine := p.sockets()
		for _, line := range strings.Split(string(table), "\n") {
			f := strings.Fields(line)
			if len(f) == 10 && mine[f[9]] && strings.Trim(f[3], "0") != "" {
				return nil
			}
		}
		return fmt.Errorf("%v does not listen yet: %s", args, p.errOut)
	})
	return p
}

// sockets is the inodes of the process's sockets.
func (p *proc) sockets() map[string]bool {
	inodes := map[string]bool{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			inodes[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
		}
	}
	return inodes
}

// settle waits until nothing has been written for a while: for "and nothing
// more came", where there is nothing to wait for.
func (p *proc) settle(quiet time.Duration) {
	for {
		before := len(p.out.raw())
		time.Sleep(quiet)
		if len(p.out.raw()) == before {
			return
		}
	}
}
