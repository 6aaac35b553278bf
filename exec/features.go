package exec

import (
	"context"
	"errors"
	"fmt"
	osexec "os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// Feature is something of nftables that anchord's ruleset needs of the kernel.
type Feature struct {
	Name   string
	Module string // of the kernel, that has it where it is not built in
	rules  string
}

// Features lists what anchord's ruleset needs, for a family.
func Features(f anchord.Family) []Feature {
	ip, icmp, fib := "ip", "ipv4", "nft_fib_ipv4"
	if f == anchord.V6 {
		ip, icmp, fib = "ip6", "ipv6", "nft_fib_ipv6"
	}
	addr := icmp + "_addr"
	return []Feature{
		{"nat", "nft_chain_nat, nft_nat", "map m { type inet_service : " + addr + " . inet_service; counter; }\nchain c { type nat hook prerouting priority dstnat; policy accept; tcp dport 9 dnat " + ip + " to tcp dport map @m; }"},
		{"masquerade", "nft_masq", "chain c { type nat hook postrouting priority srcnat; policy accept; iifname \"none\" masquerade; }"},
		{"fib", "nft_fib, " + fib, "chain c { type filter hook prerouting priority raw; policy accept; iifname \"none\" fib daddr . iif type unicast counter; }"},
		{"reject", "nft_reject, nft_reject_" + icmp, "chain c { type filter hook input priority filter; policy accept; iifname \"none\" meta l4proto tcp reject with tcp reset; }"},
		{"conntrack", "nft_ct, nf_conntrack", "chain c { type filter hook forward priority filter; policy accept; iifname \"none\" ct status dnat counter; }"},
		{"meta and MSS clamping", "nf_tables, nft_rt", "chain c { type filter hook forward priority filter; policy accept; iifname \"none\" meta pkttype host tcp flags syn tcp option maxseg size set rt mtu; }"},
		{"interval maps", "nft_set_rbtree", "map m { type inet_service : " + addr + "; flags interval; counter; }\nset s { type " + addr + "; flags interval; }"},
	}
}

// doctorTable never stands: it goes in the transaction that makes it.
const doctorTable = "anchord_doctor"

// Supports has the kernel check features: for each, a table with it is made and
// deleted, all in one transaction, so that no packet ever meets one.
func (n *NFT) Supports(ctx context.Context, f anchord.Family, features ...Feature) error {
	family := "ip"
	if f == anchord.V6 {
		family = "ip6"
	}
	table := family + " " + doctorTable
	var script strings.Builder
	for _, feature := range features {
		script.WriteString("add table " + table + "\ntable " + table + " {\n" + feature.rules + "\n}\ndelete table " + table + "\n")
	}
	return n.run(ctx, script.String())
}

// Version is what a program says of its version, asked by args.
func Version(ctx context.Context, args ...string) (string, error) {
	cmd := osexec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 300 * time.Millisecond
	out, err := cmd.CombinedOutput() // busybox tells it on the one, others on the other
	if errors.Is(err, osexec.ErrNotFound) || ctx.Err() != nil {
		return "", errors.Join(err, ctx.Err())
	}
	version := versionNumber.FindString(string(out))
	if version == "" {
		return "", fmt.Errorf("%s tells no version: %s", strings.Join(args, " "), oneLine(string(out)))
	}
	return version, nil
}

var versionNumber = regexp.MustCompile(`\d+(\.\d+)+`)

// Missing says whether an error means that a program is not there.
func Missing(err error) bool { return errors.Is(err, osexec.ErrNotFound) }
