// Package e2e runs the program as its users do: from its image, started by
// Compose from the example files, on real engines of the oldest supported and
// the current release, and looked at from hosts of a LAN that know nothing of
// Docker. Everything is in its tests.
package e2e
