package exec

import (
	"encoding/binary"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
)

// offerPacket is what a DHCP server answers to the request in a packet.
func offerPacket(request []byte, options ...byte) []byte {
	b := slices.Clone(request[:28+dhcpHeader])
	b[28] = 2
	copy(b[28+16:], []byte{192, 0, 2, 77})
	binary.BigEndian.PutUint16(b[20:], 67)
	binary.BigEndian.PutUint16(b[22:], 68)
	return append(append(b, dhcpMagic...), options...)
}

func TestDiscoverAndOffer(t *testing.T) {
	xid := []byte{1, 2, 3, 4}
	mac := net.HardwareAddr{2, 0x42, 0xaa, 0, 0, 1}
	request := discoverPacket(xid, mac, "shop")
	if got := onesComplement(request[:20]); got != 0 {
		t.Errorf("the IP header's checksum is wrong by %#x", got)
	}
	if total := int(binary.BigEndian.Uint16(request[2:])); total != len(request) || len(request) < 328 {
		t.Errorf("the packet has %d bytes, and says %d", len(request), total)
	}
	for _, want := range []string{string(mac), "\x0c\x04shop", "\x3d\x05\x00shop", "\x35\x01\x01"} {
		if !strings.Contains(string(request), want) {
			t.Errorf("the request has no %q", want)
		}
	}
	whole := []byte{dhcpType, 1, dhcpOffer, 0, dhcpServer, 4, 192, 0, 2, 2, dhcpRouter, 8, 192, 0, 2, 1, 192, 0, 2, 3, dhcpEnd}
	got, ok := parseOffer(offerPacket(request, whole...), xid)
	if want := (Offer{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.1")}); !ok || got != want {
		t.Errorf("the offer is read as %+v, %v", got, ok)
	}
	for name, packet := range map[string][]byte{
		"our own request":   request,
		"nothing":           nil,
		"half a header":     request[:15],
		"a lying length":    append([]byte{0x4f}, offerPacket(request, whole...)[1:40]...),
		"another's":         offerPacket(discoverPacket([]byte{9, 9, 9, 9}, mac, "shop"), whole...),
		"a refusal":         offerPacket(request, dhcpType, 1, 6, dhcpEnd),
		"no type":           offerPacket(request, dhcpEnd),
		"a cut-off option":  offerPacket(request, dhcpServer, 200, 1),
		"an option, no end": offerPacket(request, dhcpServer),
	} {
		if got, ok := parseOffer(packet, xid); ok {
			t.Errorf("%s is taken for an offer: %+v", name, got)
		}
	}
}

func TestARPSender(t *testing.T) {
	mac := net.HardwareAddr{2, 0x42, 0xaa, 0, 0, 1}
	addr, other := netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.78")
	claim := arpProbe(mac, other)
	copy(claim[14:], addr.AsSlice())
	if got, ok := arpSender(claim, addr); !ok || got.String() != mac.String() {
		t.Errorf("who asks with an address claims it: %s, %v", got, ok)
	}
	probe := arpProbe(mac, addr)
	if got, ok := arpSender(probe, addr); ok {
		t.Errorf("a probe claims nothing, but %s", got)
	}
	if _, ok := arpSender(probe[:20], addr); ok {
		t.Error("half a message was read")
	}
}

func TestVersion(t *testing.T) {
	tools(t, map[string]string{
		"ip":     "echo 'ip utility, iproute2-6.1.0, libbpf 1.1.2'",
		"udhcpc": "echo 'BusyBox v1.36.1 (2024) multi-call binary.' >&2",
		"nft":    "exit 1",
	})
	for name, want := range map[string]string{"ip": "6.1.0", "udhcpc": "1.36.1"} {
		if got, err := Version(t.Context(), name, "-V"); got != want || err != nil {
			t.Errorf("%s is version %q (%v), want %s", name, got, err, want)
		}
	}
	if _, err := Version(t.Context(), "nft", "--version"); err == nil || Missing(err) {
		t.Errorf("nft tells nothing, and is there: %v", err)
	}
	if _, err := Version(t.Context(), "nobody-has-this"); !Missing(err) {
		t.Errorf("it is missing: %v", err)
	}
}

// A feature is asked in a table that goes in the same transaction.
func TestSupportsLeavesNothing(t *testing.T) {
	recorded := tools(t, map[string]string{"nft": ""})
	if err := (&NFT{}).Supports(t.Context(), anchord.V4, Features(anchord.V4)...); err != nil {
		t.Fatal(err)
	}
	if all := recorded(); strings.Count(all, "-f -") != 1 || strings.Count(all, "delete table ip anchord_doctor") != len(Features(anchord.V4)) {
		t.Errorf("all features at once: %q", all)
	}
	for _, f := range anchord.Families {
		for _, feature := range Features(f) {
			if err := (&NFT{}).Supports(t.Context(), f, feature); err != nil {
				t.Fatal(err)
			}
			family := map[anchord.Family]string{anchord.V4: "ip", anchord.V6: "ip6"}[f]
			got := strings.Split(strings.TrimSpace(recorded()), "\n")
			if got[1] != "add table "+family+" anchord_doctor" || got[len(got)-1] != "delete table "+family+" anchord_doctor" {
				t.Errorf("%s: %q", feature.Name, got)
			}
		}
	}
}

func TestTryTellsTheStatus(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		if r.URL.Path != "/_ping" {
			asked = append(asked, r.Method+" "+r.URL.String())
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer server.Close()
	c, err := NewContainers("tcp://" + server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	status, err := c.Try(t.Context(), "POST", "/containers/"+Nobody+"/start")
	if err != nil || status != http.StatusForbidden {
		t.Errorf("%d, %v", status, err)
	}
	if want := []string{"POST /v1.41/containers/" + Nobody + "/start"}; !slices.Equal(asked, want) {
		t.Errorf("asked was %q, want %q", asked, want)
	}
	if got := c.APIVersion(t.Context()); got != "1.41" {
		t.Errorf("the version is %s", got)
	}
	server.Close()
	if _, err := c.Try(t.Context(), "GET", "/events"); err == nil {
		t.Error("nobody answers, and that is no error")
	}
}
