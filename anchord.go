// Package anchord is the domain of a program that makes one Docker Compose
// project look like one server on the LAN: it decides, from what it is shown
// of Docker, the kernel and the DHCP lease, what the network-anchor's
// namespace shall look like. It does no input or output of its own; the
// packages watch, templates and exec do, and cmd/anchord wires them together.
package anchord

import "net/netip"

// Family is an address family. The zero value is IPv4.
type Family uint8

const (
	V4 Family = iota
	V6
)

// Families lists both in the order in which they are shown and applied.
var Families = [...]Family{V4, V6}

// String is the family as metrics, logs and the status call it.
func (f Family) String() string {
	if f == V6 {
		return "v6"
	}
	return "v4"
}

// FamilyOf returns the family of a; an IPv4-mapped address counts as IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return V4
	}
	return V6
}

// PerFamily holds one value for each family, indexed by Family.
type PerFamily[T any] [2]T

// DocsURL is where the pages are that messages name: whoever reads these has the
// image, and not the repository.
const DocsURL = "https://github.com/AlexCherrypi/anchord/blob/main/docs/"

// Protocol is a transport protocol that can be exposed.
type Protocol string

const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Protocols lists both in the order in which they are shown and applied.
var Protocols = [...]Protocol{TCP, UDP}
