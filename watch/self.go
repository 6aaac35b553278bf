package watch

import (
	"os"
	"regexp"
)

// idInPath finds the container's id in the paths of the files that Docker
// mounts into every container (hostname, hosts, resolv.conf), wherever its
// data root is.
var idInPath = regexp.MustCompile(`/containers/([0-9a-f]{64})/`)

// OwnReferences lists what may name our own container: the id in the mounts,
// and the host name, which Docker sets to the short id unless told otherwise.
func OwnReferences() []string {
	var refs []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if match := idInPath.FindSubmatch(mounts); err == nil && match != nil {
		refs = append(refs, string(match[1]))
	}
	if name := os.Getenv("HOSTNAME"); name != "" {
		return append(refs, name)
	}
	if name, err := os.Hostname(); err == nil {
		refs = append(refs, name)
	}
	return refs
}
