package watch

import (
	"encoding/hex"
	"testing"
)

func TestWhatIsAnAnnouncement(t *testing.T) {
	for _, tt := range []struct{ name, packet, want string }{
		{"gratuitous request", "0001080006040001" + "0242aabbccdd" + "0ad50002" + "ffffffffffff" + "0ad50002", "10.213.0.2"},
		{"gratuitous answer", "0001080006040002" + "0242aabbccdd" + "0ad50002" + "0242aabbccdd" + "0ad50002", "10.213.0.2"},
		{"padded", "0001080006040001" + "0242aabbccdd" + "0ad50002" + "ffffffffffff" + "0ad50002" + "000000000000", "10.213.0.2"},
		{"question for another", "0001080006040001" + "0242aabbccdd" + "0ad50002" + "000000000000" + "0ad50003", ""},
		{"probe", "0001080006040001" + "0242aabbccdd" + "00000000" + "000000000000" + "00000000", ""},
		{"cut short", "0001080006040001" + "0242aabbccdd" + "0ad50002", ""},
		{"of another protocol", "000186dd06100001" + "0242aabbccdd" + "0ad50002" + "ffffffffffff" + "0ad50002", ""},
	} {
		packet, err := hex.DecodeString(tt.packet)
		if err != nil {
			t.Fatal(err)
		}
		addr, is := announced(packet)
		if is != (tt.want != "") || is && addr.String() != tt.want {
			t.Errorf("%s: %v, %v", tt.name, addr, is)
		}
	}
}
