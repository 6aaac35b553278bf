package exec

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// ResolvConf adds name servers behind those of resolv.conf(5). Docker mounts the
// file into every container of a namespace, so it is written in place: a rename
// would replace it in one of them only, if at all.
type ResolvConf struct{ Path string }

// addedBy stands in the line before each of ours.
const addedBy = "# The network-anchor (added by anchord, which removes it at its end):"

// Add makes these the name servers that are added; none removes those that were.
func (r ResolvConf) Add(servers []netip.Addr) error {
	text, err := os.ReadFile(r.Path)
	if err != nil {
		return fmt.Errorf("name servers: %w", err)
	}
	wanted := withServers(string(text), servers)
	if wanted == string(text) {
		return nil
	}
	if err := os.WriteFile(r.Path, []byte(wanted), 0o644); err != nil {
		return fmt.Errorf("name servers: %w", err)
	}
	return nil
}

// withServers is a resolv.conf with these, and no others of ours, at its end.
func withServers(text string, servers []netip.Addr) string {
	var lines []string
	for all := strings.SplitAfter(text, "\n"); len(all) > 0; all = all[1:] {
		if strings.TrimSpace(all[0]) == addedBy {
			all = all[min(1, len(all)-1):] // and the line after it
			continue
		}
		lines = append(lines, all[0])
	}
	text = strings.Join(lines, "")
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	for _, s := range servers {
		text += addedBy + "\nnameserver " + s.String() + "\n"
	}
	return text
}
