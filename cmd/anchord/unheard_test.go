package main

import (
	"bytes"
	"context"
	"errors"
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

// What could not be followed while Docker was away is no fault of its own once
// it is back; a try that fails from then on is.
func TestEventsAfterAnOutage(t *testing.T) {
	var log bytes.Buffer
	n := &networkAnchor{
		log: newLogger(&log, 4), trigger: anchord.NewTrigger(),
		metrics: newNetworkMetrics(newRegistry(func() []string { return nil }), uptime, ""), reconciler: &anchord.Reconciler{},
	}
	gone, refused := errors.New("connection refused"), errors.New("403")
	n.dockerAsked(nil)
	n.dockerSubscribed(nil)
	n.dockerSubscribed(gone)
	n.dockerAsked(gone)
	n.dockerAsked(nil)
	n.dockerSubscribed(nil)
	if err := told.Log(log.String()); err != nil || strings.Contains(log.String(), anchord.EventDockerEventsLost) {
		t.Errorf("%v: %s", err, &log)
	}
	n.dockerSubscribed(refused)
	n.dockerAsked(nil)
	if !strings.Contains(log.String(), anchord.EventDockerEventsLost) {
		t.Errorf("a refused subscription is not told of: %s", &log)
	}
}
