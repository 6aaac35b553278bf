package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/exec"
)

// followReport is a service-anchor's status, and its JSON.
type followReport struct {
	Anchord   string          `json:"anchord"` // the mode, as ANCHORD_MODE names it
	Ready     bool            `json:"ready"`
	Unmet     []string        `json:"unmet,omitempty"`
	Gateway   string          `json:"network_anchor"` // its name, or the addresses that are pinned
	Addresses []string        `json:"addresses"`      // of the namespace
	Routes    []followedRoute `json:"default_routes"`
	Problems  []problemStatus `json:"problems"`
	Changed   *time.Time      `json:"last_change,omitempty"`
}

// followedRoute is a default route of the namespace.
type followedRoute struct {
	Family    string `json:"family"`
	Gateway   string `json:"gateway"`
	Interface string `json:"interface"`
	Ours      bool   `json:"ours"` // this service-anchor set it
}

// status asks the kernel for what it has now.
func (s *serviceAnchor) status(ctx context.Context) followReport {
	unmet := s.unmet()
	s.mu.Lock()
	last, changed := s.last, s.changed
	s.mu.Unlock()
	report := followReport{
		Anchord: "service-anchor", Ready: len(unmet) == 0, Unmet: unmet, Gateway: s.follower.Host,
		Addresses: []string{}, Routes: []followedRoute{}, Problems: []problemStatus{}, Changed: moment(changed),
	}
	if pinned := s.vars.GatewayIP; pinned != "" {
		report.Gateway = pinned
	}
	links, err := exec.IP{}.Links(ctx)
	for _, l := range links {
		for _, a := range l.Addrs {
			report.Addresses = append(report.Addresses, a.Prefix.String()+" on "+l.Name)
		}
	}
	routes, err2 := exec.IP{}.Routes(ctx)
	for _, f := range anchord.Families {
		for _, r := range routes[f] {
			if !r.Dst.IsValid() && r.Gateway.IsValid() {
				report.Routes = append(report.Routes, followedRoute{f.String(), r.Gateway.String(), r.Iface, r.Protocol == anchord.ProtoAnchord})
				break
			}
		}
	}
	for _, err := range []error{err, err2, last.Err} {
		if err != nil {
			report.Problems = append(report.Problems, problemStatus{Event: anchord.EventGatewayUnresolved, Message: err.Error()})
		}
	}
	return report
}

func (r *followReport) print(w io.Writer) error {
	t := table{}
	t.row("service-anchor", readiness(r.Ready, r.Unmet, r.Problems))
	t.row("network-anchor", printable(r.Gateway))
	for _, a := range r.Addresses {
		t.row("address", a)
	}
	for _, route := range r.Routes {
		by := ""
		if !route.Ours {
			by = " (set by somebody else)"
		}
		t.row("default route "+route.Family, route.Gateway+" by "+route.Interface+by)
	}
	if len(r.Routes) == 0 {
		t.row("default route", "none")
	}
	if r.Changed != nil {
		t.row("last change", ago(*r.Changed))
	}
	t.write(w)
	printProblems(w, r.Problems)
	return nil
}

// rebinderReport is a rebinder's status, and its JSON.
type rebinderReport struct {
	Anchord string        `json:"anchord"` // the mode, as ANCHORD_MODE names it
	Ready   bool          `json:"ready"`
	Unmet   []string      `json:"unmet,omitempty"`
	Target  string        `json:"target,omitempty"`  // of the external-rebinder
	Network string        `json:"network,omitempty"` // of the external-rebinder
	Docker  *dockerStatus `json:"docker"`
	Last    *doneStatus   `json:"last_event,omitempty"`
}

// doneStatus is what a rebinder told last.
type doneStatus struct {
	At      time.Time `json:"at"`
	Event   string    `json:"event"`
	Message string    `json:"message"`
}

func (r *rebinder) status() rebinderReport {
	unmet := r.unmet()
	r.mu.Lock()
	defer r.mu.Unlock()
	report := rebinderReport{Anchord: r.mode, Ready: len(unmet) == 0, Unmet: unmet, Target: r.target, Network: r.network, Last: r.last}
	if r.seen {
		report.Docker = newDockerStatus(r.err)
	}
	return report
}

func (r *rebinderReport) print(w io.Writer) error {
	t := table{}
	t.row(r.Anchord, readiness(r.Ready, r.Unmet, nil))
	if r.Target != "" {
		t.row("keeps", fmt.Sprintf("%s on network %s", printable(r.Target), printable(r.Network)))
	}
	t.row("docker", r.Docker.String())
	if r.Last != nil {
		t.row("last event", fmt.Sprintf("%s: %s (%s)", ago(r.Last.At), r.Last.Message, r.Last.Event))
	}
	t.write(w)
	return nil
}
