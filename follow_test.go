package anchord_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// follower is a Follower in a rig's world.
type follower struct {
	*anchord.Follower
	*rig
	names   []netip.Addr
	nameErr error
	asked   int
	rounds  []anchord.FollowOutcome
	was     anchord.PerFamily[bool] // families with a default route at the start
	servers []string                // added to resolv.conf, time after time

	restored bool
}

func (f *follower) Record(context.Context) (anchord.PerFamily[bool], error) {
	return f.was, f.fails["record"]
}

func (f *follower) Restore(context.Context) error {
	f.change(func() { f.restored = true })
	return f.fails["restore"]
}

func (f *follower) Add(servers []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fails["servers"]; err != nil {
		return err
	}
	f.servers = append(f.servers, words(servers))
	return nil
}

func newFollower() *follower {
	w := bare()
	w.attach(bridge("transit", "10.213.0.0/24"), "eth1", transitMAC, "10.213.0.9/24", "fd5a:1::9/64")
	w.attach(bridge("backend", "10.5.0.0/24"), "eth0", lanMAC, "10.5.0.9/24")
	f := &follower{rig: newRig(w, auto()), names: []netip.Addr{addr("10.213.0.2")}}
	f.Follower = &anchord.Follower{
		Host: "anchord", Interval: 5 * time.Second, Resolver: f, Kernel: f.rig, Routes: f.rig, Reporter: f, Original: f, Names: f,
	}
	return f
}

func (f *follower) Resolve(_ context.Context, host string) (anchord.PerFamily[[]netip.Addr], error) {
	var found anchord.PerFamily[[]netip.Addr]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if host != f.Host {
		return found, errors.New("asked for " + host)
	}
	if f.nameErr != nil {
		return found, f.nameErr
	}
	for _, a := range f.names {
		found[anchord.FamilyOf(a)] = append(found[anchord.FamilyOf(a)], a)
	}
	return found, nil
}

func (f *follower) Event(l anchord.Level, event, message string, fields anchord.Fields) {
	f.rig.Event(l, event, message, fields)
}

func (f *follower) Followed(o anchord.FollowOutcome) {
	f.change(func() { f.rounds = append(f.rounds, o) })
}

func (f *follower) lastRound() (o anchord.FollowOutcome) {
	f.change(func() { o = f.rounds[len(f.rounds)-1] })
	return o
}

// follow runs f in a bubble, which steps drives.
func follow(t *testing.T, f *follower, steps func(after func(time.Duration) []string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f.rig.Trigger = anchord.NewTrigger() // a channel of the bubble's own
		f.Follower.Trigger = f.rig.Trigger
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { f.Follower.Run(ctx); close(done) }()
		steps(func(d time.Duration) []string {
			time.Sleep(d)
			synctest.Wait()
			return f.effects()
		})
		cancel()
		<-done
	})
}

func wantDid(t *testing.T, what string, did []string, want ...string) {
	t.Helper()
	if !slices.Equal(did, want) {
		t.Errorf("%s: did %q, want %q", what, did, want)
	}
}

func TestFollowerLeadsTheRouteToTheNameAndFollowsIt(t *testing.T) {
	f := newFollower()
	follow(t, f, func(after func(time.Duration) []string) {
		wantDid(t, "start", after(0), "route 10.213.0.2 eth1")
		if o := f.lastRound(); o.Err != nil || !o.Present[anchord.V4] || o.Present[anchord.V6] || !o.Replaced[anchord.V4] || !o.Resolved[anchord.V4] {
			t.Errorf("%+v", o)
		}
		wantDid(t, "a minute in which nothing moved", after(time.Minute))
		if len(f.rounds) < 12 || len(f.rounds) > 14 {
			t.Errorf("asked %d times in a minute, every 5 s", len(f.rounds))
		}
		f.change(func() { f.names = []netip.Addr{addr("10.213.0.3")} })
		wantDid(t, "another address", after(5*time.Second), "route 10.213.0.3 eth1")
		f.change(func() { f.names = append(f.names, addr("fd5a:1::2")) })
		wantDid(t, "a second family", after(5*time.Second), "route fd5a:1::2 eth1")
	})
	if told := f.told(anchord.EventRouteSet); len(told) != 3 {
		t.Errorf("told %q", told)
	}
}

func TestFollowerKeepsTheLastGoodAddress(t *testing.T) {
	f := newFollower()
	follow(t, f, func(after func(time.Duration) []string) {
		after(0)
		f.change(func() { f.nameErr = errors.New("server misbehaving") })
		wantDid(t, "name unknown for a minute", after(time.Minute))
		if o := f.lastRound(); !o.Present[anchord.V4] || o.Err == nil || o.Resolved[anchord.V4] {
			t.Errorf("%+v", o)
		}
		f.change(func() { f.w.Routes[anchord.V4] = nil })
		f.rig.Trigger.Fire(anchord.SourceKernel, time.Time{})
		wantDid(t, "route lost meanwhile", after(0), "route 10.213.0.2 eth1")
	})
	if told := f.told(anchord.EventGatewayUnresolved); len(told) != 1 || !strings.Contains(told[0], "ANCHORD_GATEWAY_HOSTNAME") {
		t.Errorf("told %d times: %q", len(told), told)
	}
}

func TestFollowerPutsTheRouteBackAtOnce(t *testing.T) {
	f := newFollower()
	follow(t, f, func(after func(time.Duration) []string) {
		after(time.Second)
		asked := f.asked
		f.change(func() { f.w.Routes[anchord.V4] = []anchord.Route{{Gateway: addr("10.5.0.1"), Iface: "eth0"}} })
		f.rig.Trigger.Fire(anchord.SourceKernel, time.Time{})
		wantDid(t, "changed by somebody else", after(0), "route 10.213.0.2 eth1")
		if f.asked != asked {
			t.Error("for a changed route no name has to be asked")
		}
	})
	if told := f.told(anchord.EventRouteReasserted); len(told) != 1 {
		t.Errorf("told %q", told)
	}
}

func TestFollowerAsksAtOnceWhenTheGatewayFails(t *testing.T) {
	f := newFollower()
	follow(t, f, func(after func(time.Duration) []string) {
		after(time.Second)
		f.change(func() { f.names = []netip.Addr{addr("10.213.0.3")} })
		f.rig.Trigger.Fire(anchord.SourceNames|anchord.SourceKernel, time.Time{})
		wantDid(t, "neighbour failed", after(0), "route 10.213.0.3 eth1")
	})
}

func TestFollowerWaitsForTheName(t *testing.T) {
	f := newFollower()
	f.nameErr = errors.New("no such host")
	follow(t, f, func(after func(time.Duration) []string) {
		wantDid(t, "no name for ten minutes", after(10*time.Minute))
		if n := len(f.rounds); n < 100 || n > 130 {
			t.Errorf("tried %d times, want growing pauses of at most 5 s", n)
		}
		f.change(func() { f.nameErr = nil })
		wantDid(t, "name known", after(5*time.Second), "route 10.213.0.2 eth1")
	})
	if told := f.told(anchord.EventGatewayUnresolved); len(told) != 1 {
		t.Errorf("told %d times", len(told))
	}
}

func TestFollowerTriesSoonAfterTheFirstFailure(t *testing.T) {
	f := newFollower()
	f.nameErr = errors.New("no such host")
	follow(t, f, func(after func(time.Duration) []string) {
		after(0)
		f.change(func() { f.nameErr = nil })
		wantDid(t, "a moment later", after(300*time.Millisecond), "route 10.213.0.2 eth1")
	})
}

// However much the kernel has to say, the name is looked up first, soon after a
// failure, and on the interval.
func TestFollowerIsNotKeptFromTheName(t *testing.T) {
	f := newFollower()
	f.nameErr = errors.New("no such host")
	follow(t, f, func(after func(time.Duration) []string) {
		amid := func(d time.Duration) (did []string) {
			for range d / (50 * time.Millisecond) {
				f.rig.Trigger.Fire(anchord.SourceKernel, time.Time{})
				did = append(did, after(50*time.Millisecond)...)
			}
			return did
		}
		after(10 * time.Millisecond)
		if f.asked != 1 {
			t.Errorf("asked %d times at the start", f.asked)
		}
		f.change(func() { f.nameErr = nil })
		wantDid(t, "a moment later", amid(300*time.Millisecond), "route 10.213.0.2 eth1")
		f.change(func() { f.names = []netip.Addr{addr("10.213.0.3")} })
		wantDid(t, "another address", amid(5*time.Second), "route 10.213.0.3 eth1")
	})
}

func TestFollowerLooksForTheNameFirst(t *testing.T) {
	for range 20 { // a select takes either
		f := newFollower()
		follow(t, f, func(after func(time.Duration) []string) {
			f.rig.Trigger.Fire(anchord.SourceKernel, time.Time{})
			wantDid(t, "start", after(0), "route 10.213.0.2 eth1")
		})
	}
}

func TestFollowerPinned(t *testing.T) {
	f := newFollower()
	f.Pinned[anchord.V4], f.Pinned[anchord.V6] = addr("10.213.0.200"), addr("fd5a:1::200")
	f.nameErr = errors.New("must not be asked")
	follow(t, f, func(after func(time.Duration) []string) {
		wantDid(t, "start", after(time.Minute), "route 10.213.0.200 eth1", "route fd5a:1::200 eth1")
	})
	if f.asked > 0 || f.lastRound().Asked || f.lastRound().Err != nil {
		t.Errorf("a name was asked %d times: %+v", f.asked, f.lastRound())
	}
}

func TestFollowerPrefersAnAddressOnItsOwnNetworks(t *testing.T) {
	f := newFollower()
	f.names = []netip.Addr{addr("10.99.0.2"), addr("10.5.0.2")}
	follow(t, f, func(after func(time.Duration) []string) {
		wantDid(t, "start", after(0), "route 10.5.0.2 eth0")
	})
}

func TestFollowerSaysThatNoNetworkIsShared(t *testing.T) {
	f := newFollower()
	f.names = []netip.Addr{addr("10.99.0.2")}
	follow(t, f, func(after func(time.Duration) []string) {
		wantDid(t, "start", after(time.Minute))
	})
	if told := f.told(anchord.EventGatewayUnresolved); len(told) != 1 || !strings.Contains(told[0], "10.99.0.2 is on no network of this namespace") {
		t.Errorf("told %q", told)
	}
}

func TestFollowerGoesOnAfterAFailedWrite(t *testing.T) {
	f := newFollower()
	f.fails["route"] = errBroken
	follow(t, f, func(after func(time.Duration) []string) {
		after(0)
		if o := f.lastRound(); o.Err == nil || o.Present[anchord.V4] || o.Replaced[anchord.V4] {
			t.Errorf("%+v", o)
		}
		f.change(func() { delete(f.fails, "route") })
		wantDid(t, "mended", after(time.Second), "route 10.213.0.2 eth1")
	})
}

func TestFollowerRemovesItsOwnRoutesOnly(t *testing.T) {
	f := newFollower()
	if err := f.Follower.Stop(t.Context()); err != nil || f.effects() != nil {
		t.Error("removed a route that it never set")
	}
	follow(t, f, func(after func(time.Duration) []string) { after(time.Second) })
	if err := f.Follower.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantDid(t, "stop", f.effects(), "unroute 10.213.0.2 eth1")
}

func TestFollowerStoppedWhileItSetsTheRoute(t *testing.T) {
	f := newFollower()
	f.Follower.Trigger = anchord.NewTrigger()
	ctx, cancel := context.WithCancel(t.Context())
	f.interrupt = cancel
	f.Follower.Run(ctx)
	if err := f.Follower.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantDid(t, "stop", f.effects(), "route 10.213.0.2 eth1", "unroute 10.213.0.2 eth1")
}

func TestFollowerAddsTheNetworkAnchorToTheNameServers(t *testing.T) {
	f := newFollower()
	follow(t, f, func(after func(time.Duration) []string) {
		after(time.Minute)
		f.change(func() { f.names = []netip.Addr{addr("10.213.0.3"), addr("fd5a:1::2")} })
		after(time.Minute)
		f.change(func() { f.nameErr = errBroken })
		after(time.Minute)
	})
	if want := []string{"10.213.0.2", "10.213.0.3 fd5a:1::2"}; !slices.Equal(f.servers, want) {
		t.Errorf("name servers %q, want %q", f.servers, want)
	}
	if err := f.Follower.Stop(t.Context()); err != nil || f.servers[len(f.servers)-1] != "" {
		t.Errorf("at the end %q (%v)", f.servers, err)
	}
}

func TestFollowerSaysOnceThatNameServersCannotBeAdded(t *testing.T) {
	f := newFollower()
	f.fails["servers"] = errBroken
	follow(t, f, func(after func(time.Duration) []string) { after(time.Minute) })
	if told := f.told(anchord.EventNameServersFailed); len(told) != 1 {
		t.Errorf("told %q", told)
	}
	if err := f.Follower.Stop(t.Context()); err != nil {
		t.Errorf("removing what was never added: %v", err)
	}
}

func TestFollowerRestoresWhatWasThereBefore(t *testing.T) {
	f := newFollower()
	f.was[anchord.V4] = true
	follow(t, f, func(after func(time.Duration) []string) { after(time.Second) })
	if err := f.Follower.Stop(t.Context()); err != nil || !f.restored {
		t.Errorf("restored: %v (%v)", f.restored, err)
	}
	if told := f.told(anchord.EventNothingToRestore); told != nil {
		t.Errorf("told %q", told)
	}
	for name, set := range map[string]func(*follower){
		"nothing was there":           func(*follower) {},
		"what was there is not known": func(f *follower) { f.fails["record"] = errBroken },
	} {
		f := newFollower()
		set(f)
		follow(t, f, func(after func(time.Duration) []string) {
			wantDid(t, name, after(time.Second), "route 10.213.0.2 eth1")
		})
		if told := f.told(anchord.EventNothingToRestore); len(told) != 1 || !strings.HasPrefix(told[0], "warn ") {
			t.Errorf("%s: told %q", name, told)
		}
	}
}
