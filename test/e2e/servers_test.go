package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// examples are those that are shaped like what people run, with the servers that
// such projects consist of.
var examples = []scenario{
	{name: "examples pass docker compose config", run: examplesAreValid},
	{name: "mailcow", once: true, run: mailcow},
	{name: "mailcow with IPv6", once: true, run: mailcowIPv6, lan: lab.LANOptions{IPv6: lab.SLAAC}},
	{name: "nextcloud: a call is relayed from the project's address", once: true, run: nextcloudCall},
	{name: "matrix: two on the LAN call each other and other homeservers are met", once: true, run: matrixCall},
	{name: "authentik: an outpost that its worker made answers LDAP", once: true, run: authentikOutpost},
}

func examplesAreValid(s *site) {
	for _, files := range []string{
		"native compose.yaml", "native compose.yaml ipv6.yaml", "native compose.yaml ../monitoring/monitoring.yaml", "native compose.yaml engine-before-28.yaml ipv6.yaml ipv6-before-28.yaml",
		"service-anchor compose.yaml", "service-anchor compose.yaml ipv6.yaml ipv6-before-28.yaml",
		"wrap third-party.yaml", "wrap compose.yaml", "wrap compose.yaml ipv6.yaml",
		"mailcow docker-compose.yml", "mailcow docker-compose.yml docker-compose.override.yml", "mailcow docker-compose.yml docker-compose.override.yml ipv6.yaml",
		"nextcloud compose.yaml", "nextcloud compose.yaml ../native/engine-before-28.yaml", "nextcloud compose.yaml ../native/ipv6.yaml",
		"matrix compose.yaml", "matrix compose.yaml ../native/engine-before-28.yaml", "matrix compose.yaml ../native/ipv6.yaml",
		"authentik compose.yaml", "authentik compose.yaml ../native/engine-before-28.yaml", "authentik compose.yaml ../native/ipv6.yaml",
	} {
		words := strings.Fields(files)
		dir, err := filepath.Abs(filepath.Join(repository, "examples", words[0]))
		if err != nil {
			s.Fatal(err)
		}
		if out, err := try(s.engine.Compose(s.ctx, dir, "example", words[1:], "config")); err != nil || strings.Contains(out, "level=warning") {
			s.Errorf("%s: %v: %s", files, err, out)
		}
	}
}

// mailcow prepares Mailcow and the override that puts it on the LAN. What is not of
// Mailcow's shape is said by variables, as in its mailcow.conf, and by settings of
// the servers that stand for its own. Its IPv4 network is another one, because the
// engine may have given that to another project.
func (s *site) mailcow(name, settings string) *project {
	s.Helper()
	parent, err := s.lan.Parent(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	p := s.bare(name, asInLab(readExample(s.T, "mailcow/docker-compose.yml"), ""))
	p.write("docker-compose.override.yml", asInLab(readExample(s.T, "mailcow/docker-compose.override.yml"), parent))
	if s.engine.old {
		p.write("engine-before-28.yaml", onLAN(readExample(s.T, "native/engine-before-28.yaml"), s.lan))
	}
	p.write("scenario.yaml", fmt.Sprintf(`
networks:
  mailcow-network:
    driver_opts: {com.docker.network.bridge.name: br-%s}
services:
  unbound-mailcow:
    command: ["--server=%s"]
  netfilter-mailcow:
    init: true
    command: sh -c 'exec redis-cli -h $${REDIS_SLAVEOF_IP:-$$IPV4_NETWORK.249} -p $${REDIS_SLAVEOF_PORT:-6379} subscribe F2B_CHANNEL'
  postfix-mailcow:
    command: sh -c "postconf -e virtual_mailbox_domains=example.org virtual_mailbox_maps=static:all virtual_transport=lmtp:inet:dovecot:24 && exec postfix start-fg"
`, name, s.lan.Router.Addr))
	if err := os.WriteFile(filepath.Join(p.dir, ".env"), []byte(settings), 0o644); err != nil {
		s.Fatal(err)
	}
	return p
}

// mailcow is one server for who sends and who gets mail, and nothing but that.
func mailcow(s *site) {
	p := s.mailcow("mailcow", "IPV4_NETWORK=10.231.8\nBANS_NETWORK=10.231.18\nIPV6_NETWORK=fd4d:6169:6c63:6f78::/64\n")
	exchange := s.mailExchange("elsewhere.example")
	p.up()
	addr, client := p.addr(), s.lan.Client
	s.within(patience, time.Now(), "postfix greets", greets(client, addr))
	s.step("a mail from the LAN is delivered and the log names its sender", func() { p.receivesMail(addr) })
	s.step("a mail to the LAN comes from the project", func() { p.sendsMail(addr, exchange) })
	s.step("the web site's log names the visitor", func() {
		s.within(patience, time.Now(), "nginx serves its page", showsNginx(client, addr))
		s.within(patience, time.Now(), "nginx logs the client's address", p.nginxLogs("nginx-mailcow", client))
	})
	s.step("nothing else is open", func() {
		p.exposes("tcp/25", "tcp/80", "tcp/110", "tcp/143", "tcp/443", "tcp/465", "tcp/587", "tcp/993", "tcp/995", "tcp/4190")
		for _, port := range []uint16{3306, 6379, 24} {
			refused(s, client, "tcp", addr, port)
		}
		if ports := p.docker("ps", "--filter", "label=com.docker.compose.project="+p.name, "--format", "{{.Names}} {{.Ports}}"); strings.Contains(ports, "->") {
			s.Errorf("ports of the Docker host are open:\n%s", ports)
		}
	})
	s.step("netfilter, on the Docker host, is told whom to ban", func() {
		s.within(patience, time.Now(), "it hears what a container says", func(ctx context.Context) error {
			p.docker("exec", p.container("postfix-mailcow"), "redis-cli", "-h", "redis", "publish", "F2B_CHANNEL", "invalid password by "+client.Addr.String())
			return p.logs("netfilter-mailcow", "\ninvalid password by "+client.Addr.String()+"\n")(ctx)
		})
	})
	s.step("Redis, on two networks, leaves as the project", func() {
		s.serve(client, "tcp:7000")
		s.within(patience, time.Now(), "the client sees it", leavesAs(addr, p.enter("redis-mailcow"), "tcp", client.Addr, 7000))
	})
	s.step("who is banned gets no answer", func() {
		s.ban(client)
		s.silent(client, "tcp", addr, 25)
	})
}

// mailcowIPv6 is that Mailcow's own IPv6 network is on the LAN too, with a file
// more.
func mailcowIPv6(s *site) {
	p := s.mailcow("mailcow6", "IPV4_NETWORK=10.231.9\nBANS_NETWORK=10.231.19\n")
	p.write("ipv6.yaml", readExample(s.T, "mailcow/ipv6.yaml"))
	if s.engine.old {
		p.write("ipv6-before-28.yaml", readExample(s.T, "native/ipv6-before-28.yaml"))
	}
	p.up()
	client := s.lan.Client
	s.within(patience, time.Now(), "postfix greets", greets(client, p.addr()))
	var addr netip.Addr
	s.within(patience, time.Now(), "an address of the advertised prefix", func(context.Context) error {
		if addr = p.madeAddr(); !addr.IsValid() {
			return errors.New("there is none")
		}
		return nil
	})
	s.within(patience, time.Now(), "a mail is accepted", slow(func(ctx context.Context) error {
		return sendMail(ctx, client, addr, "anna@elsewhere.example", "bert@example.org", "Subject: by IPv6\r\n\r\n")
	}))
	s.within(patience, time.Now(), "postfix logs the client's address", p.logs("postfix-mailcow", ": connect from unknown["+client.Addr6.String()+"]\n"))
	s.serve(client, "tcp:7000")
	s.within(patience, time.Now(), "IPv6 leaves as the project", leavesAs(addr, p.enter("postfix-mailcow"), "tcp", client.Addr6, 7000))
}

// step is a part of a scenario that has a name of its own.
func (s *site) step(name string, run func()) {
	whole := s.T
	defer func() { s.T = whole }()
	whole.Run(name, func(t *testing.T) {
		s.T = t
		run()
	})
}

// receivesMail has a host of the LAN send a mail and read it.
func (p *project) receivesMail(addr netip.Addr) {
	client := p.lan.Client
	p.within(patience, time.Now(), "a mail is accepted", slow(func(ctx context.Context) error {
		return sendMail(ctx, client, addr, "anna@elsewhere.example", "bert@example.org", "Subject: by the LAN\r\n\r\nHello.\r\n")
	}))
	var mail string
	p.within(patience, time.Now(), "it is in the mailbox", slow(func(ctx context.Context) (err error) {
		mail, err = readMailbox(ctx, client, addr, "bert@example.org")
		if err == nil && !strings.Contains(mail, "Subject: by the LAN") {
			err = fmt.Errorf("the mailbox: %s", mail)
		}
		return err
	}))
	if !strings.Contains(mail, "(unknown ["+client.Addr.String()+"])") {
		p.Errorf("the mail does not say who brought it, %s: %s", client.Addr, mail)
	}
	p.within(patience, time.Now(), "postfix logs the client's address", p.logs("postfix-mailcow", ": connect from unknown["+client.Addr.String()+"]\n"))
	p.within(patience, time.Now(), "dovecot logs the client's address", p.logs("dovecot-mailcow", "rip="+client.Addr.String()+","))
	err := sendMail(p.ctx, client, addr, "anna@elsewhere.example", "carl@elsewhere.example", "Subject: relayed\r\n\r\n")
	if err == nil || !strings.Contains(err.Error(), "Relay access denied") {
		p.Errorf("for a stranger it was not to be a relay: %v", err)
	}
}

// exposes checks which ports status names, and no others.
func (p *project) exposes(want ...string) {
	p.Helper()
	slices.Sort(want)
	p.within(patience, time.Now(), "the status names the ports", func(context.Context) error {
		var ports []string
		for _, e := range p.status().Exposed {
			ports = append(ports, e.Protocol+"/"+e.Ports)
		}
		slices.Sort(ports)
		if ports = slices.Compact(ports); !slices.Equal(ports, want) {
			return fmt.Errorf("exposed are %v, want %v", ports, want)
		}
		return nil
	})
}

// ban does to a host what Mailcow's netfilter container does on the Docker host.
func (s *site) ban(h *lab.Host) {
	s.Helper()
	table := "ban_" + s.lan.Name
	rule := fmt.Sprintf("table ip %s { chain forward { type filter hook forward priority 0; ip saddr %s drop; }; }", table, h.Addr)
	s.must(s.engine.Root(), "nft", rule)
	s.Cleanup(func() {
		if _, err := try(s.engine.Root().Command(context.Background(), "nft", "delete table ip "+table)); err != nil {
			s.Error(err)
		}
	})
}

// sendMail is what a mail server says to another.
func sendMail(ctx context.Context, from *lab.Host, server netip.Addr, sender, recipient, mail string) error {
	conn, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(server, 25).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	c, err := smtp.NewClient(conn, "mail.example.org")
	if err != nil {
		return err
	}
	if err := errors.Join(c.Hello("client.example"), c.Mail(sender)); err != nil {
		return err
	}
	if err := c.Rcpt(recipient); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, mail); err != nil {
		return err
	}
	return errors.Join(w.Close(), c.Quit())
}

// readMailbox is all that an IMAP server says to who reads the first mail.
func readMailbox(ctx context.Context, from *lab.Host, server netip.Addr, user string) (string, error) {
	conn, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(server, 143).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if _, err := fmt.Fprintf(conn, "a LOGIN %s secret\r\nb SELECT INBOX\r\nc FETCH 1 BODY[]\r\nd LOGOUT\r\n", user); err != nil {
		return "", err
	}
	said, err := io.ReadAll(conn)
	return string(said), err
}

// sendsMail has postfix send a mail to a domain whose server is on the LAN: the
// server sees the project, and so does the name server that was asked for it.
func (p *project) sendsMail(addr netip.Addr, exchange <-chan delivery) {
	p.docker("exec", p.container("postfix-mailcow"), "sh", "-c", "echo 'Subject: to the LAN' | sendmail -f bert@example.org carl@elsewhere.example")
	var got delivery
	p.within(patience, time.Now(), "the mail is there", slow(func(ctx context.Context) error {
		select {
		case got = <-exchange:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}))
	if got.from != addr {
		p.Errorf("the mail came from %s, want the project's address, %s", got.from, addr)
	}
	if !strings.Contains(got.mail, "Subject: to the LAN") || !strings.Contains(got.mail, "carl@elsewhere.example") {
		p.Errorf("this is not the mail: %s", got.mail)
	}
	asked, err := os.ReadFile(p.lan.DHCPLog())
	if err != nil {
		p.Fatal(err)
	}
	if want := "query[MX] elsewhere.example from " + addr.String() + "\n"; !strings.Contains(string(asked), want) {
		p.Errorf("the LAN's name server has no %q", want)
	}
}

// delivery is a mail, and who brought it.
type delivery struct {
	from netip.Addr
	mail string
}

// mailExchange is a host of the LAN that takes all mails, and that the LAN's name
// server says to be a domain's.
func (s *site) mailExchange(domain string) <-chan delivery {
	s.Helper()
	h := s.host("exchange")
	s.names("mx-host="+domain+",exchange."+domain, "host-record=exchange."+domain+","+h.Addr.String(), "log-queries")
	listener, err := h.Listen("tcp", ":25")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { listener.Close() })
	taken := make(chan delivery, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go takeMail(conn, taken)
		}
	}()
	return taken
}

// takeMail is one conversation; what it is told stands in the mail.
func takeMail(conn net.Conn, taken chan<- delivery) {
	defer conn.Close()
	var mail strings.Builder
	body := false
	io.WriteString(conn, "220 exchange ESMTP\r\n")
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		line := lines.Text()
		mail.WriteString(line + "\n")
		answer := "250 OK"
		switch {
		case body && line != ".":
			continue
		case body:
			from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
			taken <- delivery{from.Addr().Unmap(), mail.String()}
			body = false
		case line == "DATA":
			body, answer = true, "354 go on"
		}
		io.WriteString(conn, answer+"\r\n")
	}
}

// names has the LAN's name server know more, in its own words.
func (s *site) names(lines ...string) {
	s.Helper()
	err := s.lan.ConfigureDHCP(s.ctx, func(c *lab.DHCPConfig) { c.Extra = append(c.Extra, lines...) })
	if err != nil {
		s.Fatal(err)
	}
}

// example prepares one of the native pattern, with its own .env. Its name for
// clients is in the LAN's DNS.
func (s *site) example(name, domain, additions string) *project {
	s.Helper()
	if domain != "" {
		s.names("cname=" + domain + "," + name)
	}
	p := s.projectOf(name, readExample(s.T, name+"/compose.yaml"), additions)
	if err := os.WriteFile(filepath.Join(p.dir, ".env"), []byte(readExample(s.T, name+"/.env")), 0o644); err != nil {
		s.Fatal(err)
	}
	return p
}

// nextcloudCall is a call in Talk: the one on the LAN is heard through the relay
// by the other one, who sees the project and a port of its range.
func nextcloudCall(s *site) {
	const domain = "cloud.example.org"
	router := s.lan.Router.Addr
	// The Docker host's DNS is the LAN's.
	p := s.example("nextcloud", domain, fmt.Sprintf(`
services:
  caddy: {command: [nginx, -g, "daemon off;"]}
  turn: {dns: [%s], healthcheck: {interval: 1s}}
`, router))
	phone := s.host("phone")
	callers := s.echo(phone, 7000)
	p.up()
	addr := p.addr()
	s.step("the web site's log names the visitor", func() {
		s.within(patience, time.Now(), "the web site answers", showsNginx(s.lan.Client, addr))
		s.within(patience, time.Now(), "its log has the client's address", p.nginxLogs("caddy", s.lan.Client))
	})
	s.step("Nextcloud trusts what the web site says of its visitors", func() {
		trusted := netip.MustParsePrefix(strings.TrimSpace(p.docker("exec", p.container("app"), "printenv", "TRUSTED_PROXIES")))
		app, _, _ := strings.Cut(p.docker("exec", p.container("caddy"), "getent", "ahostsv4", "nextcloud"), " ")
		if !trusted.Contains(netip.MustParseAddr(app)) {
			s.Errorf("caddy asks Nextcloud at %s, which is not of %s", app, trusted)
		}
	})
	toPhone := []string{"-c", "-e", phone.Addr.String(), "-r", "7000"}
	s.step("the other one of a call sees the project and a port of its range", func() {
		told := p.call(toPhone...)
		if told.Addr() != addr || told.Port() < 49152 || told.Port() > 49252 {
			s.Errorf("the caller was told to be at %v, want a port of 49152 to 49252 of %s", told, addr)
		}
		// More than one if the call was not the first try.
		if seen := callers(); !slices.Contains(seen, told) || slices.ContainsFunc(seen, func(a netip.AddrPort) bool { return a.Addr() != addr }) {
			s.Errorf("the other sees %v, and the caller was told to be at %v", seen, told)
		}
	})
	s.step("who calls does not reach what is inside", func() {
		for _, port := range []uint16{3306, 6379} {
			refused(s, s.lan.Client, "tcp", addr, port)
		}
		s.silent(p.enter("turn"), "udp", p.transitAddr("app"), 80)
	})
	// As when the provider gives the router another address, or the DHCP server
	// the project.
	s.step("the name has another address", func() {
		before := p.inspect("turn").RestartCount
		err := s.lan.ConfigureDHCP(s.ctx, func(c *lab.DHCPConfig) {
			c.Extra = []string{"host-record=" + domain + "," + router.String()}
		})
		if err != nil {
			s.Fatal(err)
		}
		s.within(patience, time.Now(), "the TURN server has started anew", func(ctx context.Context) error {
			if p.inspect("turn").RestartCount == before {
				return errors.New("it has not")
			}
			conn, err := s.lan.Client.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, 3478).String())
			if err == nil {
				conn.Close()
			}
			return err
		})
		if told := p.call(toPhone...); told.Addr() != router {
			s.Errorf("the caller was told to be at %s, want %s", told, router)
		}
	})
}

var relayedAddress = regexp.MustCompile(`Received relay addr: (\S+)`)

// call is a client's of the TURN server, by which all that it sends must come
// back, and gives the address that it was told to be at.
func (p *project) call(options ...string) (told netip.AddrPort) {
	p.Helper()
	addr := p.addr()
	p.within(patience, time.Now(), fmt.Sprintf("a call %v", options), slow(func(ctx context.Context) error {
		args := append([]string{"timeout", "10", "turnutils_uclient", "-v", "-n", "3", "-u", "caller", "-W", "change-me"}, options...)
		cmd, err := p.engine.Tool(ctx, p.lan.Client, lab.ImageCoturn, append(args, addr.String())...)
		if err != nil {
			return err
		}
		said, err := try(cmd)
		if err != nil {
			return err
		}
		if !strings.Contains(said, "Total lost packets 0 ") {
			return fmt.Errorf("something was lost: %s", said)
		}
		// It tries the server first; the last one is that of the call.
		all := relayedAddress.FindAllStringSubmatch(said, -1)
		told, err = netip.ParseAddrPort(all[len(all)-1][1])
		return err
	}))
	return told
}

// echo has a host send back what it gets, and tell from where it came.
func (s *site) echo(h *lab.Host, port int) (callers func() []netip.AddrPort) {
	s.Helper()
	conn, err := h.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		s.Fatal(err)
	}
	var mu sync.Mutex
	var seen []netip.AddrPort
	known := map[netip.AddrPort]bool{}
	s.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo(buf[:n], from)
			mu.Lock()
			if addr := from.(*net.UDPAddr).AddrPort(); !known[addr] {
				known[addr] = true
				seen = append(seen, addr)
			}
			mu.Unlock()
		}
	}()
	return func() []netip.AddrPort {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// matrixCall has two on the LAN talk, each by a relay of its own, and homeservers
// find each other by the port that is theirs.
func matrixCall(s *site) {
	p := s.example("matrix", "matrix.example.org", `
services:
  caddy:
    command: |
      sh -c "echo 'server { listen 443; listen 8448; location / { return 200 federation; } }' >/etc/nginx/conf.d/matrix.conf && exec nginx -g 'daemon off;'"
  livekit: {command: [serve, "tcp:7881", "udp:7882"]}
  turn: {dns: [`+s.lan.Router.Addr.String()+`]}
`)
	other := s.host("homeserver")
	s.serve(other, "tcp:8448")
	p.up()
	addr := p.addr()
	s.within(patience, time.Now(), "the homeserver is met", func(ctx context.Context) error {
		said, err := fetch(ctx, other, "http://"+netip.AddrPortFrom(addr, 8448).String()+"/")
		if err == nil && said != "federation" {
			err = fmt.Errorf("got %q", said)
		}
		return err
	})
	s.within(patience, time.Now(), "its log has the other homeserver's address", p.nginxLogs("caddy", other))
	s.within(patience, time.Now(), "the other homeserver sees the project", leavesAs(addr, p.enter("synapse"), "tcp", other.Addr, 8448))
	s.within(patience, time.Now(), "a call of many, by UDP", answers(s.lan.Client, "udp", addr, 7882))
	s.within(patience, time.Now(), "a call of many, by TCP", answers(s.lan.Client, "tcp", addr, 7881))
	if told := p.call("-y", "-c", "-t"); told.Addr() != addr {
		s.Errorf("a caller was told to be at %v, want the project's address, %s", told, addr)
	}
}

// authentikOutpost spawns an LDAP outpost as authentik's worker does, by the
// Docker API and into no Compose project. It is found at the project's address,
// and again after the worker made it anew.
func authentikOutpost(s *site) {
	p := s.example("authentik", "", `
services:
  server: {command: [serve, "tcp:9000", "tcp:9443"]}
  worker: {command: [serve, "tcp:9000"], user: "0"}
`)
	p.withoutPoll("anchord")
	p.up()
	addr := p.addr()
	s.within(patience, time.Now(), "the web site answers", answers(s.lan.Client, "tcp", addr, 80))
	s.within(patience, time.Now(), "by TLS, too", answers(s.lan.Client, "tcp", addr, 443))
	for _, what := range []string{"made", "made anew"} {
		p.outpost()
		for _, scheme := range []string{"ldap", "ldaps"} {
			s.within(patience, time.Now(), scheme+" finds the user, the outpost being "+what, slow(p.findsUser(scheme, addr)))
		}
		s.within(patience, time.Now(), "the outpost's log has the client's address twice", func(context.Context) error {
			log := s.docker("logs", outpostName)
			if strings.Count(strings.ToLower(log), "accept from ip="+s.lan.Client.Addr.String()+":") < 2 {
				return fmt.Errorf("it is %s", log)
			}
			return nil
		})
	}
	p.compose("down", "--remove-orphans", "--volumes", "--timeout", "5")
	// Its network stays with it: Docker removes none that is in use.
	if left := p.docker("ps", "-a", "--format", "{{.Names}}", "--filter", "name=ak-outpost"); strings.TrimSpace(left) != outpostName {
		s.Errorf("after down there is %q, want the outpost alone", left)
	}
}

const outpostName = "ak-outpost-ldap"

// outpost does as authentik's worker: what is there is killed and removed, and a
// container made and started.
func (p *project) outpost() {
	p.Helper()
	docker := p.engine.Client()
	remove := func(ctx context.Context) error {
		return docker.ContainerRemove(ctx, outpostName, container.RemoveOptions{Force: true})
	}
	if _, err := p.inspectNamed(outpostName); err == nil {
		if err := errors.Join(docker.ContainerKill(p.ctx, outpostName, ""), remove(p.ctx)); err != nil {
			p.Fatal(err)
		}
	} else {
		p.Cleanup(func() { remove(context.Background()) })
	}
	_, err := docker.ContainerCreate(p.ctx,
		&container.Config{
			Image:  lab.ImageLDAP,
			Env:    []string{"AUTHENTIK_HOST=http://server:9000", "AUTHENTIK_TOKEN=secret"},
			Labels: map[string]string{"io.goauthentik.outpost-uuid": "5d24daa0b6e74d2a8a3f3f6f0a5f6c1e"},
		},
		&container.HostConfig{
			NetworkMode:   container.NetworkMode(p.name + "_transit"),
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
			DNS:           []string{p.lan.Router.Addr.String()}, // slapd asks for its clients' names
		}, nil, nil, outpostName)
	if err == nil {
		err = docker.ContainerStart(p.ctx, outpostName, container.StartOptions{})
	}
	if err != nil {
		p.Fatal(err)
	}
}

// findsUser is a look at whether who has the password is told of the user.
func (p *project) findsUser(scheme string, addr netip.Addr) func(context.Context) error {
	return func(ctx context.Context) error {
		const user = "cn=akadmin,ou=users,dc=ldap,dc=goauthentik,dc=io"
		cmd, err := p.engine.Tool(ctx, p.lan.Client, lab.ImageLDAP, "env", "LDAPTLS_REQCERT=never", "ldapsearch",
			"-o", "nettimeout=2", "-x", "-H", scheme+"://"+addr.String(), "-D", user, "-w", "secret", "-b", user, "sn")
		if err != nil {
			return err
		}
		said, err := try(cmd)
		if err == nil && !strings.Contains(said, "\nsn: Admin\n") {
			err = fmt.Errorf("it says %s", said)
		}
		return err
	}
}
