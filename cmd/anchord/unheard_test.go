package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/told"
	"github.com/AlexCherrypi/anchord/watch"
)

// A lease directory that cannot be watched is told of, and looked at all the
// same.
func TestLeasesThatCannotBeWatched(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	n := &networkAnchor{
		log: newLogger(&log, 4), trigger: anchord.NewTrigger(),
		leases: watch.LeaseDir{Path: filepath.Join(t.TempDir(), "missing")},
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.followLeases(ctx)
	}()
	<-n.trigger.Wake()
	if source, _ := n.trigger.Take(); source != anchord.SourceLease {
		t.Errorf("looked at %v", source)
	}
	cancel()
	<-ended
	if err := told.Log(log.String()); err != nil || !strings.Contains(log.String(), anchord.EventLeaseWatchFailed) {
		t.Errorf("%v: %s", err, &log)
	}
}
