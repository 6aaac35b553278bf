package watch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/AlexCherrypi/anchord"
)

// Capabilities are the effective ones of this process, by number
// (capabilities(7)), as a set of bits.
func Capabilities() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("reading our capabilities: %w", err)
	}
	_, rest, _ := strings.Cut(string(status), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("reading our capabilities: %w", err)
	}
	return set, nil
}

// Sysctl is a setting of the kernel for our namespace, with slashes between the
// parts of its name, since an interface's name may have dots.
func Sysctl(name string) (int, error) {
	text, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Forwards says whether the kernel sends packets of a family on. Where it does not
// let that be seen, it counts as so.
func Forwards(f anchord.Family) bool {
	name := "net/ipv4/ip_forward"
	if f == anchord.V6 {
		name = "net/ipv6/conf/all/forwarding"
	}
	value, err := Sysctl(name)
	return err != nil || value != 0
}

// AskDNS asks a name server for the name servers of the root, which every one of
// them knows that knows names of the outside, and returns the code of its answer
// (RFC 1035, 4.1.1; RCodeSuccess and so on). No answer is an error.
func AskDNS(ctx context.Context, server netip.Addr) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(time.Now().UnixNano()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		return "", err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", netip.AddrPortFrom(server, 53).String())
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	for {
		answer, err := exchangeOnce(ctx, conn, packed)
		switch {
		case err == nil && answer.ID == query.ID && answer.Response:
			return answer.RCode.String(), nil
		case ctx.Err() != nil:
			return "", errors.New("no answer")
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return "", err
		}
	}
}

// exchangeOnce sends a query and waits a while for a message back.
func exchangeOnce(ctx context.Context, conn net.Conn, query []byte) (dnsmessage.Header, error) {
	if _, err := conn.Write(query); err != nil {
		return dnsmessage.Header{}, err
	}
	until := time.Now().Add(700 * time.Millisecond)
	if end, ok := ctx.Deadline(); ok && end.Before(until) {
		until = end
	}
	_ = conn.SetReadDeadline(until)
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return dnsmessage.Header{}, err
	}
	var parser dnsmessage.Parser
	return parser.Start(buf[:n])
}
