package exec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/AlexCherrypi/anchord"
)

// Originals are the default routes that a namespace had before anchord set its
// own. They are kept as the kernel tells them, with every attribute, in Dir, so
// that they outlast a killed anchord.
type Originals struct {
	Runner Runner
	Dir    string
	Boot   string // id of this boot

	found anchord.PerFamily[bool]
}

// Record remembers the default routes that there are, or what a predecessor
// remembered in this same namespace. It tells of which families there are any.
func (o *Originals) Record(ctx context.Context) (anchord.PerFamily[bool], error) {
	space, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return o.found, fmt.Errorf("recording the default routes: %w", err)
	}
	space += " " + o.Boot
	mark := filepath.Join(o.Dir, "default-routes.namespace")
	if before, err := os.ReadFile(mark); err != nil || string(before) != space {
		if err := o.record(ctx); err != nil {
			return o.found, err
		}
		if err := os.WriteFile(mark, []byte(space), 0o600); err != nil {
			return o.found, fmt.Errorf("recording the default routes: %w", err)
		}
	}
	for _, f := range anchord.Families {
		info, err := os.Stat(o.file(f))
		o.found[f] = err == nil && info.Size() > 0
	}
	return o.found, nil
}

func (o *Originals) record(ctx context.Context) error {
	for _, f := range anchord.Families {
		dump, err := o.Runner.Run(ctx, "", "ip", ipFlag(f), "route", "save", "default")
		if err != nil {
			return fmt.Errorf("recording the default routes: %w", err)
		}
		if dump, err = withoutOurs(dump); err != nil {
			return err
		}
		if err := os.WriteFile(o.file(f), dump, 0o600); err != nil {
			return fmt.Errorf("recording the default routes: %w", err)
		}
	}
	return nil
}

func (o *Originals) file(f anchord.Family) string {
	return filepath.Join(o.Dir, "default-routes."+f.String())
}

// Restore puts the recorded routes back, beside those that are there.
func (o *Originals) Restore(ctx context.Context) error {
	var errs []error
	for _, f := range anchord.Families {
		if o.found[f] {
			errs = append(errs, o.restore(ctx, f))
		}
	}
	if err := os.Remove(filepath.Join(o.Dir, "default-routes.namespace")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// restore gives ip the file itself: it seeks in it.
func (o *Originals) restore(ctx context.Context, f anchord.Family) error {
	dump, err := os.Open(o.file(f))
	if err != nil {
		return fmt.Errorf("restoring the default routes: %w", err)
	}
	defer dump.Close()
	if err := o.Runner.stream(ctx, dump, io.Discard, "ip", ipFlag(f), "route", "restore"); err != nil {
		return fmt.Errorf("restoring the default routes: %w", err)
	}
	return nil
}

// A dump of ip-route(8)'s save: a mark, then netlink messages (netlink(7)), each
// of which has its length first and, in its body, the route's protocol
// (rtnetlink(7), struct rtmsg).
const (
	dumpMark       = 4
	messageHeader  = 16
	protocolOffset = messageHeader + 5
)

// withoutOurs leaves out the routes that a killed predecessor set, and those of
// routers: given back by hand, one would keep the kernel from taking what its
// router says. A dump without a route is empty.
func withoutOurs(dump []byte) ([]byte, error) {
	ours, err := strconv.ParseUint(anchord.ProtoAnchord, 10, 8)
	if err != nil || len(dump) < dumpMark {
		return nil, err
	}
	kept := append([]byte(nil), dump[:dumpMark]...)
	for rest := dump[dumpMark:]; len(rest) > 0; {
		if len(rest) < messageHeader {
			return nil, errors.New("recording the default routes: the dump of ip is cut short")
		}
		length := int(binary.NativeEndian.Uint32(rest))
		padded := (length + 3) &^ 3
		if length <= protocolOffset || padded > len(rest) {
			return nil, errors.New("recording the default routes: the dump of ip is cut short")
		}
		if by := rest[protocolOffset]; by != byte(ours) && by != unix.RTPROT_RA {
			kept = append(kept, rest[:padded]...)
		}
		rest = rest[padded:]
	}
	if len(kept) == dumpMark {
		return nil, nil
	}
	return kept, nil
}
