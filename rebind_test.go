package anchord_test

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/told"
)

// company is a Rebinder whose network and guest are in memory.
type company struct {
	*anchord.Rebinder
	mu     sync.Mutex
	guest  *anchord.Guest
	net    string // id of the network; empty: there is none
	others []string
	fails  map[string]error
	did    []string // with the seconds since the start
	told   []string
	places []anchord.Place
	start  time.Time
}

// meet runs f beside a rebinder's loop; the guest mail is on the network and runs.
func meet(t *testing.T, f func(t *testing.T, c *company), others ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &company{net: "n1", others: others, fails: map[string]error{}, start: time.Now()}
		c.guest = &anchord.Guest{Running: true, Container: anchord.Container{ID: "g", Name: "shop-mail-1", Labels: map[string]string{"com.docker.compose.service": "mail"}}}
		c.guest.Places = []anchord.Place{{NetworkID: "n1", Network: "other", Aliases: []string{"mx"}, Addrs: anchord.PerFamily[netip.Addr]{addr("10.0.0.9")}, DriverOpts: map[string]string{"a": "b"}}}
		c.Rebinder = &anchord.Rebinder{
			Network: "other", Target: "mail", Interval: 30 * time.Second, Networks: c, Connections: c, Reporter: c, Trigger: anchord.NewTrigger(),
			Self: func(context.Context) (anchord.Self, error) { return self("shop"), nil },
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.Run(ctx)
		after(time.Second)
		f(t, c)
	})
}

func (c *company) Meeting(context.Context, string) (anchord.Meeting, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := anchord.Meeting{ID: c.net, Present: slices.Clone(c.others)}
	if c.guest != nil && c.on() {
		m.Present = append(m.Present, c.guest.ID)
	}
	return m, c.fails["meeting"]
}

func (c *company) on() bool {
	return slices.ContainsFunc(c.guest.Places, func(p anchord.Place) bool { return p.NetworkID == c.net })
}

func (c *company) Guest(_ context.Context, project, name string) (*anchord.Guest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if project != "shop" || name != "mail" {
		return nil, fmt.Errorf("asked for %s of %s", name, project)
	}
	if c.guest == nil {
		return nil, nil
	}
	g := *c.guest
	return &g, nil
}

func (c *company) effect(what string) error {
	err := c.fails[what]
	if err != nil {
		what += " !"
	}
	c.did = append(c.did, fmt.Sprintf("%.1f %s", time.Since(c.start).Seconds(), what))
	return err
}

func (c *company) Connect(_ context.Context, p anchord.Place, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.places = append(c.places, p)
	err := c.effect("connect")
	if err == nil {
		c.guest.Places = []anchord.Place{p}
	}
	return err
}

func (c *company) Disconnect(context.Context, string, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.effect("disconnect")
	if err == nil {
		c.guest.Places = nil
	}
	return err
}

func (c *company) Restart(context.Context, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.effect("restart")
}

func (c *company) Event(l anchord.Level, event, message string, _ anchord.Fields) {
	told.Must(l, event)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, event+" "+message)
}

func (c *company) change(f func()) {
	c.mu.Lock()
	f()
	c.mu.Unlock()
	c.Trigger.Fire(anchord.SourceEngine, time.Time{})
	after(100 * time.Millisecond)
}

// acts returns what was done, and forgets it.
func (c *company) acts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	did := c.did
	c.did = nil
	return did
}

func (c *company) want(t *testing.T, did []string, told ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.did, did) {
		t.Errorf("did %q, want %q", c.did, did)
	}
	if !slices.EqualFunc(c.told, told, strings.HasPrefix) {
		t.Errorf("told %q, want %q", c.told, told)
	}
	c.did, c.told = nil, nil
}

func TestTheGuestStaysWhileOthersAreThere(t *testing.T) {
	meet(t, func(t *testing.T, c *company) {
		after(time.Hour)
		c.change(func() { c.others = []string{"y"} })
		after(time.Hour)
		c.want(t, nil)
	}, "x")
}

func TestTheGuestLeavesLastAndComesBackAfterAQuietTime(t *testing.T) {
	meet(t, func(t *testing.T, c *company) {
		c.change(func() { c.others = nil })
		c.want(t, []string{"1.0 disconnect"}, anchord.EventFollowLeft, anchord.EventFollowWaiting+" no other container")
		c.change(func() { c.net = "" })
		after(time.Hour)
		c.want(t, nil, anchord.EventFollowWaiting+" there is no such network")
		c.mu.Lock()
		c.start = time.Now()
		c.mu.Unlock()
		c.change(func() { c.net, c.others = "n2", []string{"x"} })
		after(2 * time.Second)
		c.change(func() { c.others = []string{"x", "y"} }) // at 2.1 s
		after(2800 * time.Millisecond)
		c.want(t, nil)
		after(200 * time.Millisecond)
		c.want(t, []string{"5.1 connect"}, anchord.EventFollowJoined)
		want := anchord.Place{
			NetworkID: "n2", Network: "other", Aliases: []string{"mx", "mail"},
			Addrs: anchord.PerFamily[netip.Addr]{addr("10.0.0.9")}, DriverOpts: map[string]string{"a": "b"},
		}
		if !reflect.DeepEqual(c.places, []anchord.Place{want}) {
			t.Errorf("%+v, want %+v", c.places, want)
		}
		after(time.Hour)
		c.want(t, nil)
	}, "x")
}

func TestTheGuestWaitsNoLongerThanNinetySeconds(t *testing.T) {
	meet(t, func(t *testing.T, c *company) {
		c.change(func() { c.guest.Places, c.others = nil, []string{"0"} })
		for i := range 100 {
			after(900 * time.Millisecond)
			c.change(func() { c.others = []string{fmt.Sprint(i)} })
		}
		if did := c.acts(); len(did) != 1 || !strings.HasPrefix(did[0], "90.") {
			t.Errorf("did %q, want one connect at 90 s", did)
		}
	}, "x")
}

// A collision is tried again, ever more seldom, and told once.
func TestACollisionIsTriedAgain(t *testing.T) {
	meet(t, func(t *testing.T, c *company) {
		c.change(func() { c.guest.Places, c.fails["connect"] = nil, errBroken })
		after(5 * time.Minute)
		if did := c.acts(); len(did) < 10 || len(did) > 20 {
			t.Errorf("%d tries in five minutes: %q", len(did), did)
		}
		c.change(func() { delete(c.fails, "connect") })
		after(30 * time.Second)
		if did := c.acts(); len(did) != 1 || !slices.Equal(c.places[0].Aliases, []string{"mx", "mail"}) || c.places[len(c.places)-1].Addrs[anchord.V4] != addr("10.0.0.9") {
			t.Errorf("did %q with %+v", did, c.places)
		}
		c.want(t, nil, anchord.EventFollowFailed+" broken (it is tried again", anchord.EventFollowJoined, anchord.EventFollowRecovered)
	}, "x")
}

func TestARestartThatFailedIsTriedAgain(t *testing.T) {
	meet(t, func(t *testing.T, c *company) {
		c.Rebinder.Restart = true
		c.change(func() { c.guest.Places, c.fails["restart"] = nil, errBroken })
		after(3500 * time.Millisecond)
		c.change(func() { delete(c.fails, "restart") })
		after(time.Minute)
		var restarts []string
		for _, did := range c.acts() {
			if _, what, _ := strings.Cut(did, " "); strings.HasPrefix(what, "restart") {
				restarts = append(restarts, what)
			}
		}
		if n := len(restarts); n < 2 || n > 4 || slices.Index(restarts, "restart") != n-1 {
			t.Errorf("restarts: %q, want some that fail, and then one", restarts)
		}
	}, "x")
}

func TestTheGuestIsRestartedIfAskedFor(t *testing.T) {
	for _, running := range []bool{true, false} {
		meet(t, func(t *testing.T, c *company) {
			c.Rebinder.Restart = true
			c.change(func() { c.guest.Places, c.guest.Running = nil, running })
			after(4 * time.Second)
			did := c.acts()
			restarted := slices.ContainsFunc(did, func(s string) bool { return strings.HasSuffix(s, " restart") })
			// One that does not run joins nothing: it is looked at when it is started.
			if restarted != running || (len(did) > 0) != running {
				t.Errorf("running %t: did %q", running, did)
			}
		}, "x")
	}
}

func TestWhatTheRebinderWaitsForIsToldOnce(t *testing.T) {
	meet(t, func(t *testing.T, c *company) {
		c.change(func() { c.guest = nil })
		after(time.Hour)
		c.want(t, nil, anchord.EventFollowWaiting+" there is no container for it")
		c.change(func() {
			c.fails["meeting"] = errBroken
			c.guest = &anchord.Guest{Container: anchord.Container{ID: "g"}}
		})
		after(time.Hour)
		c.want(t, nil, anchord.EventFollowFailed+" broken")
	}, "x")
}

func TestARefusedConnectionIsToldOnce(t *testing.T) {
	meet(t, func(t *testing.T, c *company) {
		c.change(func() { c.others, c.fails["disconnect"] = nil, anchord.ErrRefused })
		after(time.Hour)
		c.acts()
		c.want(t, nil, anchord.EventDockerRefused)
	}, "x")
}
