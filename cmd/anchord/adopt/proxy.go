package adopt

import (
	_ "embed"

	"github.com/AlexCherrypi/anchord"
)

// proxyDocs is where the socket proxy is explained.
const proxyDocs = anchord.DocsURL + "socket-proxy.md"

// proxyConfig is the one of docs/socket-proxy.md that allows reading only.
//
//go:embed socket-proxy.cfg
var proxyConfig string

// proxyCommand writes the configuration where it can be read, since the override is
// one file and the container's own file system is read-only.
const proxyCommand = `printf "%s" "$$SOCKET_PROXY_CFG" >/run/haproxy.cfg && exec haproxy -W -db -f /run/haproxy.cfg`
