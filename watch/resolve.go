package watch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// DNS resolves names through the namespace's own resolver. Its zero value is
// ready to use.
type DNS struct{}

// lookupTimeout is short: the next look comes soon.
const lookupTimeout = 2 * time.Second

// Resolve asks for both families at once; an error means that neither has an
// address.
func (DNS) Resolve(ctx context.Context, host string) (anchord.PerFamily[[]netip.Addr], error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var byFamily anchord.PerFamily[[]netip.Addr]
	resolver := net.Resolver{PreferGo: true}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	for _, a := range addrs {
		a = a.Unmap()
		byFamily[anchord.FamilyOf(a)] = append(byFamily[anchord.FamilyOf(a)], a)
	}
	return byFamily, plain(host, err)
}

// plain leaves out what differs from try to try, such as the local port, so
// that the same failure reads the same.
func plain(host string, err error) error {
	var dns *net.DNSError
	switch {
	case err == nil || !errors.As(err, &dns):
		return err
	case dns.IsNotFound:
		return fmt.Errorf("no host is called %q", host)
	}
	return fmt.Errorf("no resolver answers for %q", host)
}
