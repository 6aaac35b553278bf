package exec

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/docker/docker/client"
)

// Nobody is the id of a container, network or image that does not exist.
var Nobody = strings.Repeat("0", 63) + "1"

// Try makes a call of Docker's API and returns the status of its answer. Path has
// no version; the one that is negotiated goes before it. What would change
// something is to be asked of Nobody.
func (c *Containers) Try(ctx context.Context, method, path string) (int, error) {
	host, err := client.ParseHostURL(c.client.DaemonHost())
	if err != nil {
		return 0, fmt.Errorf("DOCKER_HOST: %w", err)
	}
	if host.Scheme == "unix" {
		host.Host = "docker" // the socket is dialled whatever stands here
	}
	if path != "/_ping" {
		c.client.NegotiateAPIVersion(ctx)
		path = "/v" + c.client.ClientVersion() + path
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+host.Host+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.HTTPClient().Do(request)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, nil
}

// APIVersion is the version of Docker's API that both sides speak.
func (c *Containers) APIVersion(ctx context.Context) string {
	c.client.NegotiateAPIVersion(ctx)
	return c.client.ClientVersion()
}
