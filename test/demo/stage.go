package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/lab"
	"github.com/AlexCherrypi/anchord/test/tools"
)

// stage is where the demo plays: a lab with one LAN, and the project's folder.
type stage struct {
	*screen
	lab *lab.Lab
	lan *lab.LAN
	dir string // Compose finds compose.yaml and compose.override.yaml here
}

// project is the name in the example's compose file.
const project = "myserver"

// exampleFile is shown unchanged; an override puts in what differs here.
const exampleFile = "examples/native/compose.yaml"

// folder is the project's folder inside the lab's directory. It goes when the
// lab goes, and tells a demo from other labs.
func folder(l *lab.Lab) string { return filepath.Join(filepath.Dir(l.EngineLog()), project) }

// kept are the demos that an earlier run left up.
func kept() ([]*lab.Lab, error) {
	infos, err := lab.List()
	if err != nil {
		return nil, err
	}
	var demos []*lab.Lab
	for _, info := range infos {
		if !info.Keep || info.Alive {
			continue
		}
		l, err := lab.Open(info.ID)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(folder(l)); err == nil {
			demos = append(demos, l)
		}
	}
	return demos, nil
}

// build raises the lab and puts the project's folder into it. On error it
// gives what there is, for the caller to remove.
func build(ctx context.Context, s *screen, keep bool) (_ *stage, err error) {
	example, err := os.ReadFile(exampleFile)
	if err != nil {
		return nil, fmt.Errorf("%w (run the demo from the repository's top directory)", err)
	}
	p := s.progress("a LAN, a Docker engine 28 and the image")
	defer func() { p.stop(err) }()
	l, err := lab.Up(ctx, lab.Options{
		Keep: keep, Log: p,
		Images: []string{lab.ImageAnchord, lab.ImageNginx, lab.ImagePeer},
	})
	if err != nil {
		return nil, err
	}
	st := &stage{screen: s, lab: l, dir: folder(l)}
	if err := os.Mkdir(st.dir, 0o755); err != nil {
		return st, err
	}
	if st.lan, err = l.LAN(ctx, lab.LANOptions{LeaseTime: time.Hour}); err != nil {
		return st, err
	}
	parent, err := st.lan.Parent(ctx)
	if err != nil {
		return st, err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(st.dir, "compose.yaml"), example, 0o644),
		os.WriteFile(filepath.Join(st.dir, "compose.override.yaml"), []byte(override(parent)), 0o644),
	)
	return st, err
}

// override holds the only differences from the example: no registry is asked
// for images here, and the host's interface has another name.
func override(parent string) string {
	return fmt.Sprintf(`networks:
  lan: {driver_opts: {parent: %s}}
services:
  anchord: {image: %q}
  web: {image: %q}
  whoami: {image: %q}
`, parent, lab.ImageAnchord, lab.ImageNginx, lab.ImagePeer)
}

// on runs a command line on a host of the LAN and shows it with its output.
func (st *stage) on(ctx context.Context, host *lab.Host, line string) (string, error) {
	st.command(host.Name, line)
	out, err := output(host.Command(ctx, "sh", "-c", line))
	st.output(out)
	return out, err
}

// docker shows a docker command and runs it on the Docker host, in the project's
// folder.
func (st *stage) docker(ctx context.Context, args ...string) (string, error) {
	st.command("docker-host", "docker "+strings.Join(args, " "))
	return st.quietly(ctx, args...)
}

// compose is for the commands that tell what they do and print nothing else;
// of that only the end is shown.
func (st *stage) compose(ctx context.Context, args ...string) error {
	args = append([]string{"compose"}, args...)
	st.command("docker-host", "docker "+strings.Join(args, " "))
	cmd := st.lab.Docker(ctx, args...)
	cmd.Dir = st.dir
	said, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(said)))
	}
	for line := range strings.Lines(string(said)) {
		if line = strings.TrimSpace(line); strings.HasSuffix(line, "Started") {
			st.output(strings.Join(strings.Fields(line), " "))
		}
	}
	return nil
}

// quietly runs a docker command without showing it.
func (st *stage) quietly(ctx context.Context, args ...string) (string, error) {
	cmd := st.lab.Docker(ctx, args...)
	cmd.Dir = st.dir
	return output(cmd)
}

func output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()+string(out)))
	}
	return string(out), nil
}

// address is the project's lease, as the DHCP server sees it; zero if it has
// none.
func (st *stage) address() (netip.Addr, error) {
	leases, err := st.lan.Leases()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, lease := range leases {
		if lease.Hostname == project {
			return lease.Addr, nil
		}
	}
	return netip.Addr{}, nil
}

// leaseTable is the DHCP server's file.
func (st *stage) leaseTable() string {
	return strings.TrimSuffix(st.lan.DHCPLog(), "dnsmasq.log") + "leases"
}

// wait polls until ready says so, or the time is up.
func wait(ctx context.Context, limit time.Duration, what string, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !ready() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v", what, limit)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// explain shows what is known when something failed.
func (st *stage) explain(ctx context.Context) {
	for _, args := range [][]string{{"compose", "ps", "--all"}, {"compose", "logs", "--no-color", "--tail", "20", "anchord"}} {
		out, err := st.docker(ctx, args...)
		if err != nil {
			out += err.Error()
		}
		st.output(out)
	}
}

// enter tells how to get into each host of a demo that stays up.
func (st *stage) enter(address netip.Addr) {
	st.note("\nThe demo stays up, remove it with: make demo-down")
	if dirs := tools.Dirs(); len(dirs) > 0 {
		st.note("\nSome programs are not this machine's own; they are found with:")
		st.note("   export PATH=$PATH:%s/bin", strings.Join(dirs, "/bin:"))
	}
	st.note("\nA shell on the LAN's client (%s), where the project is at %s:", st.lan.Client.Addr, address)
	st.note("   nsenter --net=%s busybox wget -qO- http://%s:8080", st.lan.Client.Netns(), address)
	st.note("   nsenter --net=%s bash", st.lan.Client.Netns())
	st.note("On the router, which is the DHCP server; and the switch, where all packets pass:")
	st.note("   nsenter --net=%s bash", st.lan.Router.Netns())
	st.note("   nsenter --net=%s tcpdump -ni lan", st.lan.Switch.Netns())
	st.note("On the Docker host:")
	st.note("   nsenter --net=%s bash", st.lab.Root().Netns())
	st.note("docker, from any shell of this machine:")
	st.note("   cd %s", st.dir)
	for _, v := range st.lab.Environ() {
		name, value, _ := strings.Cut(v, "=")
		if name == "DOCKER_HOST" || name == "DOCKER_CONFIG" {
			st.note("   export %s=%s", name, value)
		}
	}
	st.note("   export PATH=%s:$PATH", filepath.Dir(st.lab.Docker(context.Background()).Path))
	st.note("   docker compose exec anchord anchord status")
	st.note("   docker compose exec anchord nft monitor")
	st.note("   docker compose logs -f anchord")
}
