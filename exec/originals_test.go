package exec

import (
	"encoding/binary"
	"slices"
	"testing"
)

// message is one route of a dump, with the protocol that set it.
func message(protocol byte, attributes int) []byte {
	m := make([]byte, messageHeader+12+attributes)
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	m[protocolOffset] = protocol
	for len(m)%4 != 0 {
		m = append(m, 0)
	}
	return m
}

func TestRoutesOfAPredecessorAreNoOriginals(t *testing.T) {
	mark := []byte{1, 2, 3, 4}
	docker, ours, ra, static := message(3, 16), message(97, 7), message(9, 5), message(4, 5)
	for _, tt := range []struct {
		name       string
		dump, want []byte
	}{
		{"none", mark, nil},
		{"empty", nil, nil},
		{"ours only", slices.Concat(mark, ours), nil},
		{"Docker's", slices.Concat(mark, docker), slices.Concat(mark, docker)},
		{"ours between others", slices.Concat(mark, docker, ours, static), slices.Concat(mark, docker, static)},
		{"a router's, which the kernel keeps itself", slices.Concat(mark, docker, ra), slices.Concat(mark, docker)},
	} {
		got, err := withoutOurs(tt.dump)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v (%v), want %v", tt.name, got, err, tt.want)
		}
	}
	for name, dump := range map[string][]byte{
		"cut in a header":  slices.Concat(mark, docker[:10]),
		"cut in a body":    slices.Concat(mark, docker[:30]),
		"without a length": slices.Concat(mark, make([]byte, 40)),
	} {
		if _, err := withoutOurs(dump); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
