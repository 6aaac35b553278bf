package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord/test/lab"
)

// repository is where this test runs from.
const repository = "../.."

func readExample(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The images that an example names, and what the lab has in their place.
var imageInLab = strings.NewReplacer(
	"image: ghcr.io/alexcherrypi/anchord\n", "image: "+lab.ImageAnchord+"\n",
	"image: traefik/whoami\n", "image: "+lab.ImagePeer+"\n",
	"image: nginx\n", "image: "+lab.ImageNginx+"\n",
	"image: boky/postfix\n", "image: "+lab.ImagePostfix+"\n",
	"image: redis\n", "image: "+lab.ImageRedis+"\n",

	"image: ghcr.io/mailcow/unbound:1.24\n", "image: "+lab.ImageDNSmasq+"\n",
	"image: ghcr.io/mailcow/postfix:1.80\n", "image: "+lab.ImagePostfix+"\n",
	"image: ghcr.io/mailcow/dovecot:2.33\n", "image: "+lab.ImageDovecot+"\n",
	"image: ghcr.io/mailcow/nginx:1.03\n", "image: "+lab.ImageNginx+"\n",
	"image: ghcr.io/mailcow/netfilter:1.63\n", "image: "+lab.ImageRedis+"\n",
	"image: ghcr.io/mailcow/phpfpm:1.93\n", "image: "+lab.ImagePeer+"\n",
	"image: mariadb:10.11\n", "image: "+lab.ImagePeer+"\n",
	"image: redis:7.4.2-alpine\n", "image: "+lab.ImageRedis+"\n",

	"image: coturn/coturn\n", "image: "+lab.ImageCoturn+"\n",
	"image: caddy\n", "image: "+lab.ImageNginx+"\n",
	"image: nextcloud\n", "image: "+lab.ImageNginx+"\n",
	"image: mariadb\n", "image: "+lab.ImagePeer+"\n",
	"image: matrixdotorg/synapse\n", "image: "+lab.ImagePeer+"\n",
	"image: postgres\n", "image: "+lab.ImagePeer+"\n",
	"image: livekit/livekit-server\n", "image: "+lab.ImagePeer+"\n",
	"image: ghcr.io/element-hq/lk-jwt-service\n", "image: "+lab.ImagePeer+"\n",
	"image: ghcr.io/goauthentik/server\n", "image: "+lab.ImagePeer+"\n",
	"image: postgres:16-alpine\n", "image: "+lab.ImagePeer+"\n",

	"image: postgres:17-alpine\n", "image: "+lab.ImagePostgres+"\n",
	"image: gitea/gitea\n", "image: "+lab.ImagePeer+"\n",
	"image: qmcgaw/gluetun\n", "image: "+lab.ImagePeer+"\n",
	"image: linuxserver/qbittorrent\n", "image: "+lab.ImagePeer+"\n",
	"image: linuxserver/prowlarr\n", "image: "+lab.ImagePeer+"\n",
	"image: linuxserver/sonarr\n", "image: "+lab.ImagePeer+"\n",
	"image: jellyfin/jellyfin\n", "image: "+lab.ImagePeer+"\n",
	"image: flaresolverr/flaresolverr\n", "image: "+lab.ImagePeer+"\n",
	"image: ghcr.io/paperless-ngx/paperless-ngx\n", "image: "+lab.ImagePeer+"\n",
	"image: gotenberg/gotenberg\n", "image: "+lab.ImagePeer+"\n",
	"image: apache/tika\n", "image: "+lab.ImagePeer+"\n",
)

// asInLab names the lab's images and its network card in place of a user's.
func asInLab(example, parent string) string {
	return strings.Replace(imageInLab.Replace(example), "parent: eth0 ", "parent: "+parent+" ", 1)
}

// onLAN writes a LAN's addresses in place of the example's.
func onLAN(example string, lan *lab.LAN) string {
	return strings.NewReplacer(
		"subnet: 192.0.2.0/24 ", "subnet: "+lan.Prefix.String()+" ",
		"gateway: 192.0.2.1 ", "gateway: "+lan.Router.Addr.String()+" ",
		"ip_range: 192.0.2.240/29 ", "ip_range: "+lan.BootstrapRange.String()+" ",
	).Replace(example)
}

// What the tests run is what users copy: all that differs are values that are
// theirs to choose.
func TestExamplesAreRunAsTheyAre(t *testing.T) {
	chosen := regexp.MustCompile(`^(\s*image: |\s*parent: )\S+(.*)$`)
	for _, name := range []string{
		"native/compose.yaml", "service-anchor/compose.yaml", "wrap/compose.yaml", "wrap/third-party.yaml",
		"mailcow/docker-compose.yml", "mailcow/docker-compose.override.yml",
		"nextcloud/compose.yaml", "matrix/compose.yaml", "authentik/compose.yaml",
		"adopt/nextcloud/compose.yaml", "adopt/gitea/compose.yaml", "adopt/media/compose.yaml", "adopt/paperless/compose.yaml",
	} {
		example := readExample(t, name)
		run := asInLab(example, "lan1p1")
		parents := strings.Count(example, "parent: eth0 ")
		if strings.Contains(run, "ghcr.io") || strings.Contains(run, "whoami\n    image: traefik") || strings.Count(run, "parent: lan1p1 ") != parents {
			t.Errorf("%s: some value was not replaced:\n%s", name, run)
		}
		theirs, ours := strings.Split(example, "\n"), strings.Split(run, "\n")
		if len(theirs) != len(ours) {
			t.Fatalf("%s has %d lines, what is run has %d", name, len(theirs), len(ours))
		}
		changed := 0
		for i := range theirs {
			if theirs[i] == ours[i] {
				continue
			}
			changed++
			if chosen.ReplaceAllString(theirs[i], "$1$2") != chosen.ReplaceAllString(ours[i], "$1$2") {
				t.Errorf("%s line %d is %q, what is run is %q", name, i+1, theirs[i], ours[i])
			}
		}
		if want := strings.Count(example, "image: ") + parents; changed != want {
			t.Errorf("%s: %d lines differ in what is run, want %d: each image and the parent", name, changed, want)
		}
	}
}

// The README shows the example that these tests run.
func TestReadmeShowsTheNativeExample(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), readExample(t, "native/compose.yaml")) {
		t.Error("README.md does not contain examples/native/compose.yaml byte for byte")
	}
}
