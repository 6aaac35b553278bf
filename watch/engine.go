package watch

import (
	"net/http"

	"github.com/docker/docker/client"

	"github.com/AlexCherrypi/anchord"
)

// dockerOnly refuses answers that are Podman's, whose socket speaks Docker's API
// and whose networks are others. Each answer of Podman's says so itself, which
// costs no request, and nothing that a socket proxy may refuse.
type dockerOnly struct {
	*http.Transport
	host string
}

// podmanVersion is the header of every answer of Podman's.
const podmanVersion = "Libpod-Api-Version"

// RoundTrip sends a request on; Podman's answer is an *anchord.NotDockerError.
func (t dockerOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if version := response.Header.Get(podmanVersion); version != "" {
		_ = response.Body.Close()
		return nil, &anchord.NotDockerError{Host: t.host, Version: version}
	}
	return response, nil
}

// newClient makes a client of the engine at host (DOCKER_HOST syntax), with the
// API version negotiated. closeIdle ends its idle connections, which the client
// itself does only with a transport of its own.
func newClient(host string) (_ *client.Client, closeIdle func(), err error) {
	closeIdle = func() {}
	checked := func(c *client.Client) error {
		h := c.HTTPClient()
		if transport, ok := h.Transport.(*http.Transport); ok {
			h.Transport, closeIdle = dockerOnly{transport, host}, transport.CloseIdleConnections
		}
		return client.WithHTTPClient(h)(c)
	}
	c, err := client.NewClientWithOpts(client.WithHost(host), checked, client.WithAPIVersionNegotiation())
	return c, closeIdle, err
}
