// Package templates words the state: it renders the nftables ruleset from
// the embedded templates.
package templates

import (
	"embed"
	"fmt"
	"net/netip"
	"strings"
	"text/template"

	"github.com/AlexCherrypi/anchord"
)

//go:embed *.nft.tmpl
var files embed.FS

// Renderer renders rulesets. Make one with New.
type Renderer struct{ templates *template.Template }

// New parses the embedded templates.
func New() (*Renderer, error) {
	t, err := template.New("").Funcs(funcs).ParseFS(files, "*.nft.tmpl")
	if err != nil {
		return nil, fmt.Errorf("parsing ruleset templates: %w", err)
	}
	return &Renderer{templates: t}, nil
}

// Table is what the template is given for one family.
type Table struct {
	Name     string // "ip anchord_v4" or "ip6 anchord_v6"
	Family   anchord.Family
	Ext      string   // LAN-facing interface; empty while it is unknown
	Transits []string // interfaces towards the containers
	// Resolvers are the name servers that containers reach at their gateway.
	Resolvers []netip.Addr
	// Source is what leaves by Ext is translated to, where masquerading would
	// choose wrongly; invalid else.
	Source netip.Addr
}

// V6 says whether this is the IPv6 table.
func (t Table) V6() bool { return t.Family == anchord.V6 }

// IP is nft's word for the family's header.
func (t Table) IP() string {
	if t.V6() {
		return "ip6"
	}
	return "ip"
}

// TTL is the family's hop count field.
func (t Table) TTL() string {
	if t.V6() {
		return "ip6 hoplimit"
	}
	return "ip ttl"
}

// AddrType is nft's type of the family's addresses.
func (t Table) AddrType() string {
	if t.V6() {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// Render words the state. The state's zero value renders a closed ruleset.
func (r *Renderer) Render(s anchord.State) (anchord.Ruleset, error) {
	var body strings.Builder
	rs := anchord.Ruleset{}
	for _, f := range anchord.Families {
		t := Table{Name: anchord.Table(f), Family: f, Ext: s.Ext, Resolvers: s.Resolvers[f], Source: s.Source[f]}
		for _, transit := range s.Transits {
			t.Transits = append(t.Transits, transit.Iface)
		}
		if err := r.templates.ExecuteTemplate(&body, "anchord.nft.tmpl", t); err != nil {
			return rs, fmt.Errorf("rendering ruleset: %w", err)
		}
		rs.Sets = append(rs.Sets, sets(f, s)...)
	}
	rs.Body = body.String()
	return rs, nil
}
