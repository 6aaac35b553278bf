package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord/test/peer/probe"
)

const outro = `That is all: one Compose file (examples/native/compose.yaml), and a network in which
the project is a server like any other. To try it on your own LAN, put the name of
your network interface into that file; see README.md.`

// show plays the whole demo. Whatever happens, nothing is left behind, unless
// it is asked to keep the stage.
func show(ctx context.Context, s *screen, keep bool) (err error) {
	if keep {
		// Only one is kept at a time, so that nobody wonders which is which.
		if err := removeEarlier(s); err != nil {
			return err
		}
	}
	st, err := build(ctx, s, keep)
	if st == nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errInterrupted, err)
	}
	if st == nil {
		return err
	}
	defer func() { err = st.leave(ctx, err, keep) }()
	if err != nil {
		return err
	}
	return st.play(ctx)
}

func removeEarlier(s *screen) error {
	demos, err := kept()
	if err != nil || len(demos) == 0 {
		return err
	}
	return remove(s)
}

var errInterrupted = errors.New("interrupted")

// leave tidies up, or says how to get in. A kept stage stays after a failure,
// too: that is when one wants to look; it goes when the user interrupts.
func (st *stage) leave(ctx context.Context, err error, keep bool) error {
	if ctx.Err() != nil {
		return errors.Join(errInterrupted, st.lab.Down())
	}
	if err != nil {
		st.explain(ctx)
	}
	if keep && st.lan != nil {
		address, _ := st.address()
		st.enter(address)
		return err
	}
	return errors.Join(err, st.lab.Down())
}

// play shows one fact after the other and checks each.
func (st *stage) play(ctx context.Context) error {
	if err := st.up(ctx); err != nil {
		return err
	}
	address, err := st.leased(ctx)
	if err != nil {
		return err
	}
	for _, fact := range []func(context.Context, netip.Addr) error{
		st.inbound, st.outbound, st.recreated, st.ruleset, st.status,
	} {
		if err := fact(ctx, address); err != nil {
			return err
		}
	}
	st.note("\n%s", outro)
	return nil
}

func (st *stage) up(ctx context.Context) error {
	text, err := os.ReadFile(exampleFile)
	if err != nil {
		return err
	}
	st.step("An ordinary Compose file", "nginx, a small \"who am I\" service, and anchord. No address is written anywhere; two\n"+
		"labels say which ports are open. (Only the images and the interface differ here.)")
	st.command("docker-host", "grep -B3 anchord.expose compose.yaml")
	st.output(exposing(string(text)))
	return st.compose(ctx, "up", "-d")
}

// exposing is what grep -B3 prints.
func exposing(text string) string {
	var shown []string
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.Contains(line, "anchord.expose") {
			if len(shown) > 0 {
				shown = append(shown, "--")
			}
			shown = append(shown, lines[max(0, i-3):i+1]...)
		}
	}
	return strings.Join(shown, "\n")
}

func (st *stage) leased(ctx context.Context) (netip.Addr, error) {
	st.step("The project has an address of its own", "The LAN's DHCP server knows it by the project's name, like any other machine.")
	var address netip.Addr
	err := wait(ctx, 30*time.Second, "waiting for the DHCP server to give "+project+" an address", func() bool {
		address, _ = st.address()
		return address.IsValid()
	})
	if err != nil {
		return address, err
	}
	if _, err := st.on(ctx, st.lan.Router, "cat "+st.leaseTable()); err != nil {
		return address, err
	}
	if !st.lan.Pool.Contains(address) {
		return address, fmt.Errorf("%s is not of the DHCP server's pool", address)
	}
	st.checked("on the LAN, %s is %s", project, address)
	return address, nil
}

// inbound asks both services from the LAN.
func (st *stage) inbound(ctx context.Context, address netip.Addr) error {
	client := st.lan.Client.Addr.String()
	st.step("The LAN reaches the services, and they see the real client",
		"nginx logs each client's address, and whoami tells it. The client is "+client+".")
	web := netip.AddrPortFrom(address, 80)
	if err := wait(ctx, 30*time.Second, "waiting until the client reaches "+web.String(), func() bool { return st.open(ctx, web) }); err != nil {
		return err
	}
	if _, err := st.on(ctx, st.lan.Client, fmt.Sprintf("busybox wget -qO- http://%s | grep title", address)); err != nil {
		return err
	}
	log, err := st.docker(ctx, "compose", "logs", "--no-log-prefix", "--tail", "1", "web")
	if err != nil {
		return err
	}
	st.output(log)
	if !strings.HasPrefix(log, client+" ") || !strings.Contains(log, `"GET / HTTP`) {
		return fmt.Errorf("nginx logged another client than %s: %s", client, log)
	}
	answer, err := st.on(ctx, st.lan.Client, fmt.Sprintf("busybox wget -qO- http://%s:8080 | grep peer:", address))
	if err != nil {
		return err
	}
	if got := peerOf(answer); got != client {
		return fmt.Errorf("whoami saw the client %q, not %s", got, client)
	}
	st.checked("both services saw %s", client)
	return nil
}

// open says whether a port takes connections from the client.
func (st *stage) open(ctx context.Context, at netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := st.lan.Client.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

var peerAddress = regexp.MustCompile(`peer[=:] ?([0-9.]+):[0-9]+`)

// peerOf is the client's address that an answer of test/peer names.
func peerOf(answer string) string {
	found := peerAddress.FindStringSubmatch(answer)
	if found == nil {
		return ""
	}
	return found[1]
}

// outbound asks a server on the LAN's client from inside the project.
func (st *stage) outbound(ctx context.Context, address netip.Addr) error {
	const port = 9000
	st.step("What the project sends out comes from the same address",
		"Now a service asks a server on the client's machine. \"from\" is the service's own\n"+
			"address inside the project, \"peer\" is whom the LAN saw.")
	binary, err := st.lab.PeerBinary()
	if err != nil {
		return err
	}
	st.command(st.lan.Client.Name, fmt.Sprintf("peer serve tcp:%d &", port))
	serving, stop := context.WithCancel(ctx)
	server := st.lan.Client.Command(serving, binary, "serve", fmt.Sprintf("tcp:%d", port))
	if err := server.Start(); err != nil {
		stop()
		return err
	}
	defer func() { stop(); server.Wait() }()
	target := netip.AddrPortFrom(st.lan.Client.Addr, port)
	if err := wait(ctx, 10*time.Second, "waiting for the server at "+target.String(), func() bool { return st.open(ctx, target) }); err != nil {
		return err
	}
	out, err := st.docker(ctx, "compose", "exec", "-T", "whoami", "/peer", "tcp", target.String())
	if err != nil {
		return err
	}
	st.output(withoutHost(out))
	if got := peerOf(out); got != address.String() {
		return fmt.Errorf("the LAN saw the project as %q, not as %s", got, address)
	}
	st.checked("the LAN saw %s", address)
	return nil
}

var hostWord = regexp.MustCompile(` host=\S+`)

// withoutHost leaves out the one word that is about the machine and not about
// the network.
func withoutHost(answer string) string { return hostWord.ReplaceAllString(answer, "") }

// recreated replaces a service's container and measures from the LAN how soon
// the new one answers.
func (st *stage) recreated(ctx context.Context, address netip.Addr) error {
	at := netip.AddrPortFrom(address, 8080)
	st.step("A service is replaced, and is there again at once",
		"The client asks whoami without pause meanwhile. The time is from Docker's start event of\nthe new container to its first answer on the LAN.")
	old, err := st.containerID(ctx, "whoami")
	if err != nil {
		return err
	}
	asking, stop := context.WithTimeout(ctx, 60*time.Second)
	defer stop()
	first := make(chan time.Time, 1)
	go st.askUntilOther(asking, at, old[:12], first)
	if err := st.compose(ctx, "up", "-d", "--force-recreate", "whoami"); err != nil {
		return err
	}
	var answered time.Time
	select {
	case answered = <-first:
	case <-asking.Done():
		return errors.New("the new whoami does not answer the client")
	}
	started, err := st.startOf(ctx, "whoami")
	if err != nil {
		return err
	}
	took := answered.Sub(started)
	if took > 5*time.Second {
		return fmt.Errorf("the new whoami answered only after %v", took)
	}
	st.checked("%s answered %d ms after the new container had started", at, max(1, took.Milliseconds()))
	return nil
}

// askUntilOther asks from the LAN until another container than old answers.
func (st *stage) askUntilOther(ctx context.Context, at netip.AddrPort, old string, first chan<- time.Time) {
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		answer, err := probe.Ask(once, st.lan.Client, "tcp", at.String())
		cancel()
		if err == nil && answer.Host != old {
			first <- time.Now()
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (st *stage) containerID(ctx context.Context, service string) (string, error) {
	out, err := st.quietly(ctx, "compose", "ps", "--no-trunc", "--quiet", service)
	id := strings.TrimSpace(out)
	if err == nil && len(id) != 64 {
		err = fmt.Errorf("compose does not know the container of %s: %q", service, id)
	}
	return id, err
}

// startOf is the time of a service's last start event. It is when the container's
// program was started; what "docker inspect" calls StartedAt is when Docker began
// to prepare that.
func (st *stage) startOf(ctx context.Context, service string) (time.Time, error) {
	id, err := st.containerID(ctx, service)
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now() // "0s" would be cut to whole seconds
	out, err := st.quietly(ctx, "events", "--since", "2m", "--until", fmt.Sprintf("%d.%09d", now.Unix(), now.Nanosecond()), "--format", "{{.TimeNano}}",
		"--filter", "event=start", "--filter", "container="+id)
	if err != nil {
		return time.Time{}, err
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("docker knows no start of %s: %w", service, err)
	}
	return time.Unix(0, nanoseconds), nil
}

func (st *stage) ruleset(ctx context.Context, _ netip.Addr) error {
	st.step("How it works: nftables rules in anchord's own network namespace",
		"The map dnat_tcp says which port leads to which container. The project's address on the\n"+
			"LAN is nowhere in the rules: it may change at any time. docs/ruleset.md explains each.")
	out, err := st.docker(ctx, "compose", "exec", "-T", "anchord", "nft", "list", "ruleset")
	if err != nil {
		return err
	}
	st.output(trimRuleset(out))
	for _, service := range []string{"web", "whoami"} {
		if !strings.Contains(out, fmt.Sprintf("comment %q", project+"-"+service+"-1")) {
			return fmt.Errorf("the ruleset does not mention %s", service)
		}
	}
	return nil
}

func (st *stage) status(ctx context.Context, address netip.Addr) error {
	st.step("Everything at a glance", "What anchord itself says when asked.")
	out, err := st.docker(ctx, "compose", "exec", "-T", "anchord", "anchord", "status")
	if err != nil {
		return err
	}
	st.output(out)
	for _, want := range []string{"ready", address.String(), "tcp/80 ", "tcp/8080 "} {
		if !strings.Contains(out, want) {
			return fmt.Errorf("the status does not say %q", want)
		}
	}
	return nil
}
