package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// notRun are the README's commands that the newcomer's path leaves out. All
// others are run there as they stand.
var notRun = map[string]string{
	"make demo":    "raises a lab of its own; TestDemo runs it",
	"make test":    "runs this test",
	"git clone":    "the lab has no way out; the path begins in the repository",
	"docker build": "the lab has no registry to pull Alpine from; the next command builds from the same Dockerfile",
	upBefore28:     "is run in place of the other one, on engines that need it",
}

const (
	up         = "docker compose up -d"
	upBefore28 = "docker compose -f compose.yaml -f engine-before-28.yaml up -d"
	adopt      = "docker compose config --format json | docker run --rm -i ghcr.io/alexcherrypi/anchord adopt --parent eth0 > compose.anchord.yaml"
	adopted    = "docker compose -f compose.yaml -f compose.anchord.yaml exec anchord anchord status"
	elsewhere  = "# on another machine of the LAN"
	shownAddr  = "192.0.2.29" // the project's, in the README
)

// block is a fenced block of a page.
type block struct{ language, text string }

func readmeBlocks(t *testing.T) []block {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for _, m := range regexp.MustCompile("(?ms)^[ ]*```([a-z]*)[^\n]*\n(.*?)^[ ]*```[ ]*$").FindAllStringSubmatch(string(readme), -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	return blocks
}

// docBlock is the first fenced block of a language below a heading of a page.
func docBlock(t *testing.T, page, heading, language string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, page))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n"+heading+"\n")
	if end := regexp.MustCompile(`\n##+ `).FindStringIndex(section); end != nil {
		section = section[:end[0]]
	}
	_, block, opened := strings.Cut(section, "\n```"+language+"\n")
	block, _, closed := strings.Cut(block, "\n```")
	if !found || !opened || !closed {
		t.Fatalf("%s has no %s block below %q", page, language, heading)
	}
	return block + "\n"
}

// commands are the lines of a block of sh, without comments.
func (b block) commands() []string {
	var commands []string
	for line := range strings.Lines(b.text) {
		line, _, _ = strings.Cut(line, " #")
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			commands = append(commands, line)
		}
	}
	return commands
}

// leftOut says why a command is not run.
func leftOut(command string) (reason string, is bool) {
	for prefix, reason := range notRun {
		if command == prefix || strings.HasPrefix(command, prefix+" ") {
			return reason, true
		}
	}
	return "", false
}

// What is left out is in the README, and so is what promises are about.
func TestReadmeHasTheCommandsThatThePathKnows(t *testing.T) {
	var all []string
	for _, b := range readmeBlocks(t) {
		switch b.language {
		case "sh":
			all = append(all, b.commands()...)
		case "", "yaml": // what is seen, and what is saved
		default:
			t.Errorf("the README has a block of %s, whose commands nobody runs; write sh", b.language)
		}
	}
	for _, command := range all {
		if strings.HasSuffix(command, `\`) {
			t.Errorf("the command %q goes on in the next line, which the path does not understand", command)
		}
	}
	for known := range notRun {
		if !slices.ContainsFunc(all, func(c string) bool { return strings.HasPrefix(c, known) }) {
			t.Errorf("the README does not have the command %q any more", known)
		}
	}
	for known := range promises {
		if !slices.Contains(all, known) {
			t.Errorf("the README does not have the command %q any more", known)
		}
	}
}

// onlyProgress is what the demo prints while it is prepared.
var onlyProgress = regexp.MustCompile(`^(   Preparing: .*\n)*   Ready after \d+ s\.$`)

// TestDemo runs the first of the README's commands. The demo checks each fact that
// it shows.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "demo")
	cmd.Dir = repository
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	out, err := try(cmd)
	if err != nil || !strings.HasSuffix(strings.TrimSpace(out), "demo: ok") {
		t.Errorf("%v\n%s", err, out)
	}
	intro, err := os.ReadFile(filepath.Join(repository, "test/demo/intro.txt"))
	if err != nil {
		t.Fatal(err)
	}
	preparing, _, _ := strings.Cut(out, "\n\n1. ")
	if preparing, found := strings.CutPrefix(preparing, string(intro)); !found || !onlyProgress.MatchString(preparing) {
		t.Errorf("before its first step it prints\n%s\nand not what it is and its line of progress alone", preparing)
	}
}

// newcomer walks down the README.
type newcomer struct {
	*project
	home     string
	cwd      string
	readme   []block
	outputOf map[string]string // what the last run of each command has said
}

// promises are what the README says that a command leads to. A look is repeated,
// with the command, as a newcomer does it.
var promises = map[string]func(n *newcomer) error{
	"ip route show default": func(n *newcomer) error {
		if n.iface() == "" {
			return fmt.Errorf("it says %q", n.outputOf["ip route show default"])
		}
		return nil
	},
	"docker compose exec anchord anchord status": func(n *newcomer) error {
		got, want := shape(n.outputOf["docker compose exec anchord anchord status"]), shape(n.shownStatus())
		if got != want {
			return fmt.Errorf("the status has the shape\n%s\nthe README's has\n%s", got, want)
		}
		return nil
	},
	"curl http://" + shownAddr: func(n *newcomer) error {
		if page := n.outputOf["curl http://"+shownAddr]; !strings.Contains(page, "nginx") {
			return fmt.Errorf("the page is %q", page)
		}
		return nil
	},
	"docker compose logs web": func(n *newcomer) error {
		if log := n.outputOf["docker compose logs web"]; !strings.Contains(log, n.lan.Client.Addr.String()) {
			return fmt.Errorf("%s is not in %q", n.lan.Client.Addr, log)
		}
		return nil
	},
	adopted: func(n *newcomer) error {
		if status := n.outputOf[adopted]; !strings.Contains(status, "cloud        ready") || !strings.Contains(status, "tcp/8081  cloud-web-1") {
			return fmt.Errorf("the status of the other project is\n%s", status)
		}
		return nil
	},
	"docker compose down": func(n *newcomer) error {
		if l, err := n.findLease(n.name); err == nil {
			return fmt.Errorf("there is still the lease %v", l)
		}
		if left := n.docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project="+n.name); left != "" {
			return fmt.Errorf("there are still containers: %s", left)
		}
		return nil
	},
}

// newcomersPath runs the README's commands in their order, each as it stands but
// for what is the reader's: the name of the interface, the addresses of the LAN,
// the home directory. Images are there by the names that the README uses.
func newcomersPath(s *site) {
	for theirs, ours := range map[string]string{
		"debian:12": s.engine.Release.Base, "nginx": lab.ImageNginx, "traefik/whoami": lab.ImagePeer,
	} {
		s.docker("tag", ours, theirs)
	}
	n := &newcomer{project: &project{site: s, name: "myserver"}, readme: readmeBlocks(s.T), outputOf: map[string]string{}}
	var err error
	if n.home, err = s.engine.TempDir(); err != nil {
		s.Fatal(err)
	}
	if n.cwd, err = filepath.Abs(repository); err != nil {
		s.Fatal(err)
	}
	parent, err := s.lan.Parent(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	s.hostOnLAN(parent)
	n.dir = filepath.Join(n.home, "myserver")
	s.Cleanup(n.cleanUp)
	for i, b := range n.readme {
		if b.language != "sh" {
			continue
		}
		for _, command := range b.commands() {
			switch command {
			case up:
				n.save(n.readme[:i])
			case adopt:
				n.hasAlready("adopt/nextcloud/compose.yaml")
			}
			n.follow(command, strings.HasPrefix(b.text, elsewhere))
		}
	}
	n.down = true
}

// save writes the files that the README has shown so far, or has named.
func (n *newcomer) save(shown []block) {
	n.Helper()
	if n.cwd != n.dir {
		n.Fatalf("the README saves the project's files in %s, want %s", n.cwd, n.dir)
	}
	for _, b := range shown {
		if b.language == "yaml" {
			n.write("compose.yaml", strings.Replace(b.text, "parent: eth0 ", "parent: "+n.iface()+" ", 1))
		}
	}
	if n.engine.old {
		n.write("engine-before-28.yaml", onLAN(readExample(n.T, "native/engine-before-28.yaml"), n.lan))
	}
}

// hasAlready goes to the folder of a project that runs, without anchord.
func (n *newcomer) hasAlready(example string) {
	n.Helper()
	p := &project{site: n.site, name: "cloud", dir: filepath.Join(n.home, "cloud")}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		n.Fatal(err)
	}
	p.write("compose.yaml", imageInLab.Replace(readExample(n.T, example)))
	n.Cleanup(p.takeDown)
	p.up()
	p.files = append(p.files, filepath.Join(p.dir, "compose.anchord.yaml")) // which is to be made
	n.cwd = p.dir
}

// follow runs a command and looks whether the README's promise comes true.
func (n *newcomer) follow(command string, elsewhere bool) {
	n.Helper()
	if reason, is := leftOut(command); is {
		n.Logf("not run: %s (%s)", command, reason)
		return
	}
	promise := promises[command]
	if promise == nil {
		promise = func(*newcomer) error { return nil }
	}
	deadline := time.Now().Add(patience)
	for {
		err := n.run(command, elsewhere)
		if err == nil {
			err = promise(n)
		}
		if err == nil {
			n.Logf("as promised: %s", command)
			return
		}
		if promises[command] == nil || time.Now().After(deadline) {
			n.Fatalf("the README's command %q: %v", command, err)
		}
	}
}

// run runs a command on the Docker host, or on the other machine.
func (n *newcomer) run(command string, elsewhere bool) error {
	theirs := command
	if n.engine.old && command == up {
		theirs = upBefore28
	}
	if lease, err := n.findLease(n.name); err == nil {
		theirs = strings.ReplaceAll(theirs, shownAddr, lease.Addr.String())
	}
	theirs = strings.ReplaceAll(theirs, "~/", n.home+"/")
	theirs = strings.ReplaceAll(theirs, "--parent eth0", strings.Join(n.adoptOptions(n.iface()), " "))
	host := n.engine.Root()
	if elsewhere {
		host = n.lan.Client
	}
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Minute)
	defer cancel()
	where := filepath.Join(n.home, "cwd")
	cmd := host.Command(ctx, "sh", "-c", theirs+"\nended=$?; pwd >"+where+"; exit $ended")
	cmd.Dir, cmd.Env = n.cwd, n.engine.Environ()
	out, err := try(cmd)
	n.outputOf[command] = out
	if err != nil {
		return err
	}
	cwd, err := os.ReadFile(where)
	n.cwd = strings.TrimSpace(string(cwd))
	return err
}

// iface is the LAN interface's name as the newcomer has found it.
func (n *newcomer) iface() string {
	_, after, _ := strings.Cut(n.outputOf["ip route show default"], " dev ")
	name, _, _ := strings.Cut(after, " ")
	return strings.TrimSpace(name)
}

// shownStatus is the block in which the README shows the status.
func (n *newcomer) shownStatus() string {
	i := slices.IndexFunc(n.readme, func(b block) bool { return b.language == "" && strings.HasPrefix(b.text, n.name+" ") })
	if i < 0 {
		n.Fatal("the README shows no status")
	}
	return n.readme[i].text
}

// shape is a status without what differs from one LAN and moment to another.
func shape(status string) string {
	for _, r := range []struct{ pattern, word string }{
		{`([0-9a-f]{2}:){5}[0-9a-f]{2}`, "MAC"},
		{`\b\d+\.\d+\.\d+\.\d+`, "ADDRESS"},
		{`ADDRESS/\d+`, "ADDRESS/BITS"},
		{`\S+, MAC`, "INTERFACE, MAC"},
		{`\b(\d+h)?(\d+m)?\d+s\b`, "TIME"},
		{`(?m) \d+$`, " COUNT"},
		{` +`, " "},
	} {
		status = regexp.MustCompile(r.pattern).ReplaceAllString(status, r.word)
	}
	return strings.TrimSpace(status)
}

// hostOnLAN gives the Docker host what it usually has: an address on the LAN,
// here one that nobody else gets, and a default route. Both go with the LAN.
func (s *site) hostOnLAN(iface string) netip.Addr {
	s.Helper()
	addr := s.lan.BootstrapRange.Addr()
	for next := addr; s.lan.BootstrapRange.Contains(next); next = next.Next() {
		addr = next
	}
	s.must(s.engine.Root(), "ip", "address", "add", fmt.Sprintf("%s/%d", addr, s.lan.Prefix.Bits()), "dev", iface)
	s.must(s.engine.Root(), "ip", "route", "add", "default", "via", s.lan.Router.Addr.String(), "dev", iface)
	return addr
}
