package anchord_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
)

// looks runs a loop over a trigger in a bubble: each look takes as long as took says
// of its source. It returns what each looked at, and when since the start.
type looks struct {
	source []anchord.Source
	at     []time.Duration
}

func (l *looks) of(s anchord.Source) (n int, last time.Duration) {
	for i, source := range l.source {
		if source&s != 0 {
			n, last = n+1, l.at[i]
		}
	}
	return n, last
}

func loop(ctx context.Context, trigger *anchord.Trigger, took func(anchord.Source) time.Duration) *looks {
	l, start := &looks{}, time.Now()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-trigger.Wake():
			}
			source, _ := trigger.Take()
			l.source, l.at = append(l.source, source), append(l.at, time.Since(start))
			time.Sleep(took(source))
			trigger.Looked(source, took(source))
		}
	}()
	return l
}

func TestAFloodIsPacedByWhatItsLooksCost(t *testing.T) {
	for took, most := range map[time.Duration]int{
		time.Millisecond:       2500, // a fifth of ten seconds, and what is given in advance
		20 * time.Millisecond:  125,
		200 * time.Millisecond: 18, // the longest pause between them
		5 * time.Second:        3,  // half of the time
	} {
		t.Run(took.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				trigger := anchord.NewTrigger()
				trigger.Pace(anchord.SourceKernel)
				l := loop(ctx, trigger, func(anchord.Source) time.Duration { return took })
				for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(100 * time.Microsecond) {
					trigger.Fire(anchord.SourceKernel, time.Time{})
				}
				time.Sleep(25 * time.Second) // the last word is heard
				synctest.Wait()
				n, last := l.of(anchord.SourceKernel)
				if n > most || n < most/2 || last < 10*time.Second-took {
					t.Errorf("%d looks in ten seconds, the last after %v; want at most %d", n, last, most)
				}
				if took == 5*time.Second && last > 20*time.Second {
					t.Errorf("the last look came after %v", last)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

// What a container's event asks for never waits for what a flood costs, and is not
// made to look where the flood asks to.
func TestAFloodPutsNoEventOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		trigger := anchord.NewTrigger()
		trigger.Pace(anchord.SourceKernel)
		l := loop(ctx, trigger, func(s anchord.Source) time.Duration {
			if s&anchord.SourceKernel != 0 {
				return 50 * time.Millisecond
			}
			return time.Millisecond
		})
		go func() {
			for ctx.Err() == nil {
				trigger.Fire(anchord.SourceKernel, time.Time{})
				time.Sleep(100 * time.Microsecond)
			}
		}()
		time.Sleep(5 * time.Second)
		late := 0
		for i := range 100 {
			time.Sleep(97 * time.Millisecond)
			before, _ := l.of(anchord.SourceContainers)
			trigger.Fire(anchord.SourceContainers, time.Now())
			fired := time.Now()
			for n := before; n == before; n, _ = l.of(anchord.SourceContainers) {
				time.Sleep(time.Millisecond)
			}
			if took := time.Since(fired); took > 51*time.Millisecond {
				t.Errorf("event %d was looked at after %v", i, took)
			} else if took > 2*time.Millisecond {
				late++ // a look was being made just then
			}
		}
		if late > 30 { // looks that the flood asked for take a fifth of the time
			t.Errorf("%d of 100 events had to wait for a look", late)
		}
		cancel()
		time.Sleep(time.Second)
	})
}

// What moves now and then is looked at at once, as ever.
func TestAFewChangesAreNotPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		trigger := anchord.NewTrigger()
		trigger.Pace(anchord.SourceKernel)
		l := loop(ctx, trigger, func(anchord.Source) time.Duration { return 15 * time.Millisecond })
		for range 50 {
			time.Sleep(2 * time.Second)
			for range 5 {
				n, _ := l.of(anchord.SourceKernel)
				trigger.Fire(anchord.SourceKernel, time.Time{})
				time.Sleep(20 * time.Millisecond)
				if now, _ := l.of(anchord.SourceKernel); now != n+1 {
					t.Fatalf("was not looked at, after %d looks", n)
				}
			}
		}
		cancel()
		synctest.Wait()
	})
}

// The loop of the whole: its looks at the kernel take 20 ms.
func TestTheKernelsFloodDoesNotKeepTheLoopBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := leased()
		g.slow = 20 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(100 * time.Microsecond) {
			g.Trigger.Fire(anchord.SourceKernel, time.Time{})
		}
		var looked time.Duration
		g.change(func() {
			for _, o := range g.outcomes {
				looked += o.Took
			}
		})
		if looked > 2600*time.Millisecond {
			t.Errorf("looked for %v of ten seconds", looked)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
