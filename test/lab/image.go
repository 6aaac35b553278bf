package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// The images that a lab can have. No registry is asked for any of them.
const (
	ImageAnchord  = "anchord:lab"        // the repository's Dockerfile on ImageBase
	ImageBase     = "anchord-base:lab"   // Debian with the tools that the Dockerfile wants
	ImageForky    = "anchord-base:forky" // the same of a Debian whose tools are as new as Alpine's
	ImageNginx    = "nginx:lab"          // a web server that logs clients, as the official image does
	ImageHAProxy  = "haproxy:lab"        // reads its configuration where the official image does
	ImagePeer     = "peer:lab"           // test/peer: answers everyone with the address it sees
	ImageServers  = "servers:lab"        // the programs of the following ones, which differ in which they start
	ImagePostfix  = "postfix:lab"        // a mail server that logs who connects
	ImageDovecot  = "dovecot:lab"        // mailboxes by IMAP, filled by LMTP; every user's password is "secret"
	ImageDNSmasq  = "dnsmasq:lab"        // a name server; its arguments say of what
	ImageCoturn   = "coturn:lab"         // a TURN server; its arguments are options, as the official image's are
	ImageLDAP     = "ldap:lab"           // a directory on the ports of authentik's, with its example user
	ImageRedis    = "redis:lab"          // a database that answers every address, as the official image does
	ImagePostgres = "postgres:lab"       // stands in for that database, where all that counts is that it answers and is ready
)

// debianImage is an image made of a tree, unchanged, or of another image.
type debianImage struct {
	name    string
	of      string // the other image
	tree    tree
	changes []string // Dockerfile instructions
}

// base has the tools that the Dockerfile wants.
func base(name, suite string) debianImage {
	return debianImage{
		name: name,
		tree: tree{
			name:  "image-base-" + suite,
			suite: suite,
			packages: []string{
				"nftables", "conntrack", "iproute2", "udhcpc", "dhcpcd-base",
				"busybox", "tini", "ca-certificates",
			},
			prepare: slim,
			check:   []string{"nft", "--version"},
		},
		changes: []string{`CMD ["bash"]`},
	}
}

var debianImages = []debianImage{
	base(ImageBase, "bookworm"),
	base(ImageForky, "forky"),
	{
		name: ImageNginx,
		tree: tree{
			name:     "image-nginx",
			suite:    "bookworm",
			packages: []string{"nginx-light", "curl"}, // for health checks
			prepare: slim + `
ln -sf /dev/stdout /var/log/nginx/access.log
ln -sf /dev/stderr /var/log/nginx/error.log`,
			check: []string{"nginx", "-v"},
		},
		changes: []string{`CMD ["nginx", "-g", "daemon off;"]`, "EXPOSE 80"},
	},
	{
		name: ImageHAProxy,
		tree: tree{
			name:     "image-haproxy",
			suite:    "bookworm",
			packages: []string{"haproxy"},
			prepare:  slim,
			check:    []string{"haproxy", "-v"},
		},
		changes: []string{`CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]`},
	},
	{name: ImageServers, tree: servers},
	{
		name: ImagePostfix, of: ImageServers,
		changes: []string{`CMD ["postfix", "start-fg"]`, "EXPOSE 25 465 587"},
	},
	{
		name: ImageDovecot, of: ImageServers,
		changes: []string{`CMD ["dovecot", "-F"]`, "EXPOSE 24 143 993"},
	},
	{
		name: ImageDNSmasq, of: ImageServers,
		changes: []string{`ENTRYPOINT ["dnsmasq", "--keep-in-foreground", "--user=root", "--log-facility=-", "--no-hosts", "--no-resolv"]`, "EXPOSE 53/udp"},
	},
	{
		name: ImageCoturn, of: ImageServers,
		changes: []string{`ENTRYPOINT ["turnserver"]`, "EXPOSE 3478 3478/udp"},
	},
	{
		name: ImageLDAP, of: ImageServers,
		changes: []string{`CMD ["slapd", "-f", "/etc/ldap/slapd.conf", "-h", "ldap://:3389 ldaps://:6636", "-d", "stats"]`, "EXPOSE 3389 6636"},
	},
	{
		name: ImageRedis, of: ImageServers,
		changes: []string{`CMD ["redis-server", "--protected-mode", "no", "--save", ""]`, "EXPOSE 6379"},
	},
	{
		name: ImagePostgres, of: ImageServers,
		changes: []string{`CMD ["redis-server", "--protected-mode", "no", "--save", "", "--port", "5432"]`, "EXPOSE 5432"},
	},
}

// servers is one tree for all servers that need no more than a few settings, so
// that one is built, kept and loaded.
var servers = tree{
	name:  "image-servers",
	suite: "bookworm",
	packages: []string{
		"coturn", "dnsmasq-base", "dovecot-imapd", "dovecot-lmtpd", "ldap-utils", "postfix", "redis-server", "slapd",
	},
	prepare: slim + setUpPostfix + setUpDovecot + setUpSlapd + setUpPostgres + noNames,
	check:   []string{"sh", "-c", "postconf mail_version && redis-server --version && dovecot --version && slapcat -f /etc/ldap/slapd.conf"},
}

// The lab has no name server that postfix could ask for its clients' names.
const setUpPostfix = `
postconf -e maillog_file=/dev/stdout inet_interfaces=all smtpd_peername_lookup=no myhostname=mail.example compatibility_level=3.6
postconf -M submission/inet="submission inet n - n - - smtpd"
postconf -M smtps/inet="smtps inet n - n - - smtpd -o smtpd_tls_wrappermode=yes"
postconf -F '*/*/chroot=n'`

// A Tool on a host of the lab would wait for the machine's own name server.
const noNames = `
rm -f /etc/resolv.conf`

// Health checks ask it, with options that this one does not know.
const setUpPostgres = `
printf '#!/bin/sh\nredis-cli -p 5432 ping | grep -q PONG\n' >/usr/local/bin/pg_isready
chmod 755 /usr/local/bin/pg_isready`

const setUpDovecot = `
cat >/etc/dovecot/local.conf <<END
log_path = /dev/stderr
info_log_path = /dev/stdout
disable_plaintext_auth = no
mail_location = maildir:/var/mail/%u
first_valid_uid = 8
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid=mail gid=mail home=/var/mail/%u
}
service lmtp {
  inet_listener lmtp {
    port = 24
  }
}
END
sed -i 's/^!include auth-/#&/' /etc/dovecot/conf.d/10-auth.conf`

const setUpSlapd = `
rm -rf /etc/ldap/slapd.d /var/lib/ldap/*
cat >/etc/ldap/slapd.conf <<END
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile /etc/ssl/certs/ssl-cert-snakeoil.pem
TLSCertificateKeyFile /etc/ssl/private/ssl-cert-snakeoil.key
database mdb
directory /var/lib/ldap
suffix dc=ldap,dc=goauthentik,dc=io
END
slapadd -f /etc/ldap/slapd.conf <<END
dn: dc=ldap,dc=goauthentik,dc=io
objectClass: domain
dc: ldap

dn: ou=users,dc=ldap,dc=goauthentik,dc=io
objectClass: organizationalUnit
ou: users

dn: cn=akadmin,ou=users,dc=ldap,dc=goauthentik,dc=io
objectClass: person
cn: akadmin
sn: Admin
userPassword: secret
END`

// LoadImages puts images into the engine.
func (l *Lab) LoadImages(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := l.loadImage(ctx, name); err != nil {
			return fmt.Errorf("loading image %s: %w", name, err)
		}
	}
	return nil
}

func (l *Lab) loadImage(ctx context.Context, name string) error {
	switch name {
	case ImageAnchord:
		return l.BuildImage(ctx)
	case ImagePeer:
		return l.loadPeer(ctx)
	}
	image, ok := findDebianImage(name)
	if !ok {
		return errors.New("the lab does not know it")
	}
	if _, err := l.docker.ImageInspect(ctx, image.name); err == nil {
		return nil
	}
	if image.of != "" {
		return l.deriveImage(ctx, image)
	}
	archive, err := l.imageArchive(ctx, image)
	if err != nil {
		return err
	}
	return l.importImage(ctx, archive, image.name, image.changes...)
}

// Tool is a program of an image on a host of the LAN, without a container.
func (l *Lab) Tool(ctx context.Context, h *Host, image string, argv ...string) (*exec.Cmd, error) {
	cached, ok := l.cachedImage(image)
	if !ok {
		return nil, fmt.Errorf("running %q of %s: the lab does not know it", argv, image)
	}
	dir, err := l.tree(ctx, cached.tree)
	if err != nil {
		return nil, err
	}
	return h.Command(ctx, append([]string{"chroot", dir}, argv...)...), nil
}

// deriveImage makes an image of another, whose files it shares in the engine.
func (l *Lab) deriveImage(ctx context.Context, image debianImage) error {
	if err := l.loadImage(ctx, image.of); err != nil {
		return err
	}
	cmd := l.Docker(ctx, "build", "--tag", image.name, "-")
	cmd.Stdin = strings.NewReader("FROM " + image.of + "\n" + strings.Join(image.changes, "\n") + "\n")
	return run(cmd)
}

func findDebianImage(name string) (debianImage, bool) {
	i := slices.IndexFunc(debianImages, func(image debianImage) bool { return image.name == name })
	if i < 0 {
		return debianImage{}, false
	}
	return debianImages[i], true
}

// cachedImage gives what has to come from the cache for an image.
func (l *Lab) cachedImage(name string) (debianImage, bool) {
	if name == ImageAnchord {
		name = l.Release.Base
	}
	image, ok := findDebianImage(name)
	if image.of != "" {
		return findDebianImage(image.of)
	}
	return image, ok
}

// BuildImage builds the repository's image as ImageAnchord, the way a user
// without a registry would: by scripts/image, on a base that is already there.
func (l *Lab) BuildImage(ctx context.Context) error {
	repository, err := repositoryDir()
	if err != nil {
		return err
	}
	binary, err := l.anchordBinary()
	if err != nil {
		return err
	}
	if err := l.LoadImages(ctx, l.Release.Base); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(repository, "scripts/image"), ImageAnchord, l.Release.Base)
	// Its temporary files go with the lab, also when it is interrupted.
	cmd.Env = append(l.Environ(), "ANCHORD_BINARY="+binary, "TMPDIR="+l.record.dir())
	return run(cmd)
}

// loadPeer makes an image that holds nothing but one static binary.
func (l *Lab) loadPeer(ctx context.Context) error {
	binary, err := l.PeerBinary()
	if err != nil {
		return err
	}
	archive := filepath.Join(l.record.dir(), "peer.tar")
	if err := run(exec.CommandContext(ctx, "tar", "-C", filepath.Dir(binary), "-cf", archive, filepath.Base(binary))); err != nil {
		return err
	}
	return l.importImage(ctx, archive, ImagePeer,
		`ENTRYPOINT ["/peer"]`, `CMD ["serve", "tcp:80", "udp:80"]`, "ENV PATH=/")
}

func (l *Lab) importImage(ctx context.Context, archive, name string, changes ...string) error {
	args := []string{"import"}
	for _, change := range changes {
		args = append(args, "--change", change)
	}
	return run(l.Docker(ctx, append(args, archive, name)...))
}

// imageArchive gives the tar file of an image's tree, made now if need be.
func (l *Lab) imageArchive(ctx context.Context, image debianImage) (string, error) {
	dir, err := l.tree(ctx, image.tree)
	if err != nil {
		return "", err
	}
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	archive := dir + ".tar"
	if wholeArchive(archive, filepath.Join(dir, marker)) {
		return archive, nil
	}
	partial := archive + ".partial"
	if err := run(exec.CommandContext(ctx, "tar", "-C", dir, "--exclude=./"+marker, "--exclude=./dev/*", "-cf", partial, ".")); err != nil {
		return "", err
	}
	if err := syncFS(partial); err != nil {
		return "", err
	}
	return archive, os.Rename(partial, archive)
}

// wholeArchive wants an archive that is newer than its tree and that tar can
// read to its end.
func wholeArchive(archive, tree string) bool {
	return run(exec.Command("sh", "-c", `test "$1" -nt "$2" && tar -tf "$1"`, "-", archive, tree)) == nil
}

// Programs are compiled once per process; every lab gets a copy of its own, so
// that nothing is left when the labs are gone.
var (
	anchordProgram = sync.OnceValues(func() ([]byte, error) { return compile("./cmd/anchord") })
	peerProgram    = sync.OnceValues(func() ([]byte, error) { return compile("./test/peer") })
)

// PeerBinary is the path of test/peer, to run on hosts of the LAN.
func (l *Lab) PeerBinary() (string, error) { return l.program("peer", peerProgram) }

func (l *Lab) anchordBinary() (string, error) {
	if l.binary != "" {
		return l.binary, nil
	}
	return l.program("anchord", anchordProgram)
}

// program puts a compiled program into the lab's directory.
func (l *Lab) program(name string, compiled func() ([]byte, error)) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	path := filepath.Join(l.record.dir(), name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	program, err := compiled()
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, program, 0o755)
}

// compile builds a static binary with the machine's Go.
func compile(pkg string) ([]byte, error) {
	repository, err := repositoryDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "anchord-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -X main.version=lab", "-o", path, pkg)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := run(cmd); err != nil {
		return nil, fmt.Errorf("compiling %s: %w", pkg, err)
	}
	return os.ReadFile(path)
}
