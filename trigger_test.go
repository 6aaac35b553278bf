package anchord_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AlexCherrypi/anchord"
)

func TestTriggerJoinsWhatCameBeforeItWasTaken(t *testing.T) {
	trigger := anchord.NewTrigger()
	first, second := time.Unix(1, 0), time.Unix(2, 0)
	trigger.Fire(anchord.SourceKernel, time.Time{})
	trigger.Fire(anchord.SourceContainers, first)
	trigger.Fire(anchord.SourceLease, second)
	<-trigger.Wake()
	source, since := trigger.Take()
	if source != anchord.SourceKernel|anchord.SourceContainers|anchord.SourceLease || !since.Equal(first) {
		t.Errorf("took %b since %v; want all three sources since the first cause", source, since)
	}
	select {
	case <-trigger.Wake():
		t.Error("woken again with nothing new")
	default:
	}
	if source, since = trigger.Take(); source != 0 || !since.IsZero() {
		t.Errorf("took %b since %v twice", source, since)
	}
}

func TestTriggerNeverBlocksAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trigger := anchord.NewTrigger()
		var wg sync.WaitGroup
		for _, s := range []anchord.Source{anchord.SourceContainers, anchord.SourceSelf, anchord.SourceKernel, anchord.SourceLease} {
			wg.Go(func() {
				for range 100 {
					trigger.Fire(s, time.Time{})
				}
			})
		}
		wg.Wait() // nobody reads; a blocking Fire would deadlock the bubble
		<-trigger.Wake()
		if source, _ := trigger.Take(); source != anchord.SourceAll {
			t.Errorf("took %b, want %b", source, anchord.SourceAll)
		}
	})
}
