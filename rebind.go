package anchord

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Guest is a container that is to be on a network of another project.
type Guest struct {
	Container
	Running bool
	// Places are what was asked for on each network that it is on.
	Places []Place
}

// Place is what a container asked for on a network.
type Place struct {
	NetworkID, Network string
	Aliases            []string
	Addrs              PerFamily[netip.Addr] // fixed ones; most have none
	DriverOpts         map[string]string
}

// Meeting is a network as it is now: which containers are on it.
type Meeting struct {
	ID      string   // empty: there is no such network
	Present []string // ids of running containers, but those that are about to stop, sorted
}

type (
	// Networks is asked who is where.
	Networks interface {
		// Meeting finds a network by its exact name.
		Meeting(ctx context.Context, network string) (Meeting, error)
		// Guest finds a container by the name of a service of a project, or by
		// its own name; nil: there is none.
		Guest(ctx context.Context, project, name string) (*Guest, error)
	}
	// Connections attaches containers to networks.
	Connections interface {
		Connect(ctx context.Context, p Place, id string) error
		Disconnect(ctx context.Context, networkID, id string) error
		Restart(ctx context.Context, id string) error
	}
)

// Rebinder keeps one container on a network of another project, which it follows
// by its name: through recreations, and without standing in their way. All fields
// but Restart are required.
type Rebinder struct {
	Network     string // ANCHORD_FOLLOW_NETWORK
	Target      string // ANCHORD_FOLLOW_TARGET: service of the own project, or container
	Restart     bool   // ANCHORD_FOLLOW_RESTART: the target, when it was attached again
	Interval    time.Duration
	Self        func(ctx context.Context) (Self, error)
	Networks    Networks
	Connections Connections
	Reporter    interface {
		Event(l Level, event, message string, fields Fields)
	}
	Trigger *Trigger

	project *string // own Compose project, once known
	place   Place   // as the guest had it last
	seen    string  // of the meeting
	moved   time.Time
	began   time.Time // of the moving
	failed  episode
	retry   time.Duration
	owed    bool   // a restart of the guest
	waits   string // what is waited for, as told last
}

// How a network's containers are waited for before the guest comes back: they
// may have fixed addresses, of which it must not take one.
const (
	quiet    = 3 * time.Second
	longest  = 90 * time.Second
	retryMax = 30 * time.Second
)

// Run follows until ctx ends; the guest stays where it is then.
func (r *Rebinder) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.Trigger.Wake():
			r.Trigger.Take()
		case <-timer.C:
		}
		next := r.round(ctx)
		if ctx.Err() != nil {
			return
		}
		timer.Reset(next)
		pause(ctx, coalesce)
	}
}

// round looks, acts, and says when to look again at the latest.
func (r *Rebinder) round(ctx context.Context) time.Duration {
	next, err := r.follow(ctx)
	if ctx.Err() != nil {
		return 0
	}
	switch news, over := r.failed.next(err); {
	case news && errors.Is(err, ErrRefused):
		r.Reporter.Event(Error, EventDockerRefused, "docker's socket proxy does not let anchord change networks, which is all that this mode is for (see "+DocsURL+"socket-proxy.md)", Fields{"error": err.Error()})
	case news:
		r.Reporter.Event(Error, EventFollowFailed, err.Error(), Fields{"network": r.Network, "container": r.Target})
	case over:
		r.Reporter.Event(Info, EventFollowRecovered, "the network is followed again", Fields{"network": r.Network, "container": r.Target})
	}
	if err == nil {
		r.retry = 0
		return min(next, r.Interval)
	}
	r.retry = min(max(2*r.retry, retryMin), retryMax)
	return r.retry
}

func (r *Rebinder) follow(ctx context.Context) (next time.Duration, err error) {
	if r.project == nil {
		self, err := r.Self(ctx)
		if err != nil {
			return 0, err
		}
		project := self.Project()
		r.project = &project
	}
	// Both at one time: whoever stands in the way has a tenth of a second to go.
	var guest *Guest
	var wg sync.WaitGroup
	var guestErr error
	wg.Go(func() { guest, guestErr = r.Networks.Guest(ctx, *r.project, r.Target) })
	meeting, err := r.Networks.Meeting(ctx, r.Network)
	wg.Wait()
	if err := errors.Join(guestErr, err); err != nil {
		return 0, err
	}
	return r.decide(ctx, guest, meeting, time.Now())
}

// decide does what the look asks for.
func (r *Rebinder) decide(ctx context.Context, guest *Guest, m Meeting, now time.Time) (next time.Duration, err error) {
	if guest == nil {
		r.wait("there is no container for it: neither a service of this project nor a container is called " + r.Target)
		return r.Interval, nil
	}
	if m.ID == "" {
		r.wait("there is no such network yet")
		r.seen = ""
		return r.Interval, nil
	}
	others := slices.DeleteFunc(slices.Clone(m.Present), func(id string) bool { return id == guest.ID })
	r.note(m.ID+" "+strings.Join(others, " "), now)
	place, on := guest.on(m.ID)
	if on {
		r.place = place
	}
	switch {
	case on && len(others) > 0:
		r.waits = ""
		return r.Interval, r.restart(ctx, *guest)
	case on && guest.Running:
		return r.Interval, r.leave(ctx, *guest, m)
	case len(others) == 0:
		r.wait("no other container is on the network: it would stand in the way of its removal")
		return r.Interval, nil
	}
	if !guest.Running && !guest.strandedOn(r.Network) {
		r.wait("the container does not run")
		return r.Interval, nil
	}
	if left := min(quiet-now.Sub(r.moved), longest-now.Sub(r.began)); left > 0 {
		return left, nil
	}
	return r.join(ctx, *guest, m)
}

// on is the guest's place on a network.
func (g Guest) on(networkID string) (Place, bool) {
	for _, p := range g.Places {
		if p.NetworkID == networkID {
			return p, true
		}
	}
	return Place{}, false
}

// strandedOn says whether a stopped guest cannot start, as it is to be on a
// network that is gone; the new one of that name takes its place.
func (g Guest) strandedOn(network string) bool {
	return slices.ContainsFunc(g.Places, func(p Place) bool { return p.Network == network })
}

// note remembers since when the network's containers have not moved, and since
// when they have.
func (r *Rebinder) note(seen string, now time.Time) {
	if seen == r.seen {
		return
	}
	if r.seen == "" || now.Sub(r.moved) >= quiet {
		r.began = now
	}
	r.seen, r.moved = seen, now
}

// wait tells once why the guest is not there.
func (r *Rebinder) wait(why string) {
	if why == r.waits {
		return
	}
	r.waits = why
	r.Reporter.Event(Info, EventFollowWaiting, why, Fields{"network": r.Network, "container": r.Target})
}

func (r *Rebinder) leave(ctx context.Context, guest Guest, m Meeting) error {
	if err := r.Connections.Disconnect(ctx, m.ID, guest.ID); err != nil {
		return err
	}
	r.Reporter.Event(Info, EventFollowLeft, "the container was the last one on the network and was taken off it, so that it can be removed", r.fields(guest))
	r.wait("no other container is on the network: it would stand in the way of its removal")
	return nil
}

func (r *Rebinder) join(ctx context.Context, guest Guest, m Meeting) (time.Duration, error) {
	place := r.place
	place.NetworkID, place.Network = m.ID, r.Network
	if service := guest.Service(); service != "" && !slices.Contains(place.Aliases, service) {
		place.Aliases = append(slices.Clone(place.Aliases), service)
	}
	if err := r.Connections.Connect(ctx, place, guest.ID); err != nil {
		return 0, fmt.Errorf("%w (it is tried again; another container may have its address)", err)
	}
	r.waits = ""
	r.Reporter.Event(Info, EventFollowJoined, "the container is on the network again", r.fields(guest))
	r.owed = r.Restart && guest.Running
	return r.Interval, r.restart(ctx, guest)
}

// restart restarts a guest that was attached, if that is asked for, until it
// worked.
func (r *Rebinder) restart(ctx context.Context, guest Guest) error {
	if !r.owed {
		return nil
	}
	if err := r.Connections.Restart(ctx, guest.ID); err != nil {
		return err
	}
	r.owed = false
	r.Reporter.Event(Info, EventFollowRestarted, "the container was restarted, as ANCHORD_FOLLOW_RESTART asks for", r.fields(guest))
	return nil
}

func (r *Rebinder) fields(guest Guest) Fields {
	return Fields{"network": r.Network, "container": cmp.Or(guest.Name, r.Target)}
}
