package anchord

import (
	"context"
	"net/netip"
	"slices"
	"testing"
)

type recordedRoutes []string

func (r *recordedRoutes) ReplaceRoute(_ context.Context, route Route) error {
	*r = append(*r, "replace "+route.Gateway.String())
	return nil
}

func (r *recordedRoutes) DeleteRoute(_ context.Context, route Route) error {
	*r = append(*r, "delete "+route.Gateway.String())
	return nil
}

func TestARouteInTheShadowOfAnotherIsFreed(t *testing.T) {
	ours := Route{Gateway: netip.MustParseAddr("192.0.2.1"), Iface: "lan0"}
	other := Route{Gateway: netip.MustParseAddr("10.213.0.9"), Iface: "transit0", Metric: 100}
	for name, c := range map[string]struct {
		has  []Route
		want []string
	}{
		"none":           {nil, []string{"replace 192.0.2.1"}},
		"another's only": {[]Route{other}, []string{"replace 192.0.2.1"}},
		"ours behind":    {[]Route{other, ours}, []string{"delete 10.213.0.9"}},
	} {
		t.Run(name, func(t *testing.T) {
			var did recordedRoutes
			if err := settle(t.Context(), &did, ours, c.has); err != nil || !slices.Equal(did, c.want) {
				t.Errorf("did %v (%v), want %v", did, err, c.want)
			}
		})
	}
}
