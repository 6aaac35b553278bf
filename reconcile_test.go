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

var derivedMAC = anchord.DerivedMAC("shop")

// leased is a project with one service and a lease, before anything was done.
func leased() *rig {
	w := usual()
	w.run("web", "tcp/80,udp/53", "shop_transit=10.213.0.5")
	w.lease("192.0.2.77/24", "192.0.2.1")
	return newRig(w, auto())
}

// working is the same after all was done.
func working(t *testing.T) *rig {
	t.Helper()
	g := leased()
	g.look(t, anchord.SourceAll)
	g.wantEffects(t, anchord.SourceAll)
	g.told("")
	return g
}

func TestOrderOfEffects(t *testing.T) {
	g := leased()
	g.flows[anchord.UDP] = []anchord.Flow{{OrigDst: addr("192.0.2.77"), OrigPort: 53, ReplySrc: addr("192.0.2.77"), ReplyPort: 53}}
	g.wantEffects(t, anchord.SourceAll,
		"rules lan0", // before any address
		"mac lan0 "+derivedMAC,
		"address transit0 10.213.0.1/24",
		"readdress lan0 192.0.2.77/24 for 1h0m0s via 192.0.2.1",
		"neighbours transit0 10.213.0.5 02:42:bb:00:01:00",
		"end udp dst=192.0.2.77 src=192.0.2.77 reply-dst= port=53", // after the rules
		"client lan0 shop 192.0.2.77",
	)
	if o := g.last(); o.Err != nil || !o.Applied || !o.RulesetIn || !o.Settled || o.Flushes[anchord.V4] != 1 {
		t.Errorf("%+v", o)
	}
}

func TestNothingIsWrittenWhenNothingChanged(t *testing.T) {
	g := working(t)
	for range 3 {
		for _, source := range []anchord.Source{anchord.SourceAll, anchord.SourceAll | anchord.SourcePoll, anchord.SourceContainers, anchord.SourceSelf, anchord.SourceKernel, anchord.SourceLease, 0} {
			g.wantEffects(t, source)
		}
	}
	if g.events != nil {
		t.Errorf("told all the same: %q", g.events)
	}
}

func TestEventBeforeTheKernelWasLookedAtAgainRepeatsNothing(t *testing.T) {
	g := leased()
	g.look(t, anchord.SourceAll)
	g.wantEffects(t, anchord.SourceContainers)
	if told := g.told(anchord.EventRouteReasserted); len(told) > 0 {
		t.Errorf("nobody interfered, but told: %q", told)
	}

	g = newRig(withAddress(usual()), auto()) // the route by itself
	g.look(t, anchord.SourceAll)
	g.wantEffects(t, anchord.SourceContainers)
	if told := g.told(anchord.EventRouteReasserted); len(told) > 0 {
		t.Errorf("nobody interfered, but told: %q", told)
	}
}

func TestChangedAddressesAreAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := leased()
		g.look(t, anchord.SourceAll)
		synctest.Wait()
		slices.Sort(g.announced)
		if want := []string{"lan0 192.0.2.77", "transit0 10.213.0.1", "transit0 10.213.0.2"}; !slices.Equal(g.announced, want) {
			t.Errorf("announced %q, want %q", g.announced, want)
		}
		g.announced = nil
		g.w.Now += 30 * time.Minute
		g.w.lease("192.0.2.77/24", "192.0.2.1")
		g.look(t, anchord.SourceAll)
		synctest.Wait()
		if g.announced != nil {
			t.Errorf("a renewal was announced: %q", g.announced)
		}
		g.change(func() { g.fails["announce"] = errBroken })
		g.w.lease("192.0.2.78/24", "192.0.2.1")
		g.look(t, anchord.SourceAll)
		synctest.Wait()
		if g.last().Err != nil {
			t.Errorf("a failed announcement is no failed reconcile: %v", g.last().Err)
		}
	})
}

func TestEachStepMayFailAndTheOthersGoOn(t *testing.T) {
	old := netip.MustParsePrefix("192.0.2.9/24")
	all := []string{
		"rules lan0", "mac lan0 " + derivedMAC, "address transit0 10.213.0.1/24",
		"readdress lan0 192.0.2.77/24 for 1h0m0s without 192.0.2.9/24 via 192.0.2.1",
		"end  dst=192.0.2.9 src= reply-dst= port=0", "end  dst= src= reply-dst=192.0.2.9 port=0",
		"route 2001:db8::1 lan0", "neighbours transit0 10.213.0.5 02:42:cc:00:00:01",
		"end tcp dst=192.0.2.77 src=10.213.0.4 reply-dst= port=0",
	}
	for _, failing := range []string{"", "mac", "address", "readdress", "route", "neighbours", "flows"} {
		t.Run("failing: "+failing, func(t *testing.T) {
			g := leased()
			// One reconcile in which every step has something to do.
			g.look(t, anchord.SourceAll)
			g.change(func() { g.fails["rules"] = errBroken })
			g.w.Containers[0].Endpoints[0].MAC = "02:42:cc:00:00:01"
			g.w.Containers[0].Labels["anchord.expose"] = "tcp/80,tcp/81"
			g.look(t, anchord.SourceRuleset)
			g.change(func() { delete(g.fails, "rules") })
			lan, transit := g.link("lan0"), g.link("transit0")
			lan.MAC, transit.Addrs = lanMAC, transit.Addrs[:1]
			lan.Addrs = []anchord.LinkAddr{{Prefix: old}, {Prefix: netip.MustParsePrefix("2001:db8::9/64")}}
			g.Config.Gateways[anchord.V6] = addr("2001:db8::1")
			g.flows[anchord.TCP] = []anchord.Flow{{OrigDst: addr("192.0.2.77"), OrigPort: 80, ReplySrc: addr("10.213.0.4"), ReplyPort: 80}}
			g.told("")
			g.effects()

			var want []string
			for _, effect := range all {
				kind, _, _ := strings.Cut(effect, " ")
				switch {
				case kind == failing:
					want = append(want, effect+" !")
				case failing == "readdress" && strings.HasPrefix(effect, "end  "): // the old one is still there
				case failing == "readdress" && strings.HasPrefix(effect, "route "): // with the MAC went both families'
					want = append(want, "route 192.0.2.1 lan0", effect)
				case failing == "flows" && strings.HasPrefix(effect, "end tcp"):
				default:
					want = append(want, effect)
				}
			}
			if failing != "" {
				g.change(func() { g.fails[failing] = errBroken })
			}
			g.wantEffects(t, anchord.SourceAll, want...)
			if failed := errors.Is(g.last().Err, errBroken); failed != (failing != "") {
				t.Errorf("outcome %v", g.last().Err)
			}
			if failing == "" {
				return
			}
			g.look(t, anchord.SourceAll)
			g.look(t, anchord.SourceAll)
			if told := g.told(anchord.EventReconcileFailed); len(told) != 1 || !strings.Contains(told[0], "broken") {
				t.Errorf("told %d times of one failure: %q", len(told), told)
			}
			g.change(func() { delete(g.fails, failing) })
			did := g.look(t, anchord.SourceAll)
			if !slices.ContainsFunc(did, func(e string) bool {
				return strings.HasPrefix(e, failing+" ") || failing == "flows" && strings.HasPrefix(e, "end tcp")
			}) {
				t.Errorf("what failed was not tried again: %q", did)
			}
			g.look(t, anchord.SourceAll)
			if told := g.told(anchord.EventReconcileRecovered); len(told) != 1 {
				t.Errorf("told %d times of the recovery: %q", len(told), told)
			}
			g.wantEffects(t, anchord.SourceAll)
		})
	}
}

func TestNoAddressWithoutARuleset(t *testing.T) {
	for _, failing := range []string{"rules", "render"} {
		g := leased()
		g.change(func() { g.fails[failing] = errBroken })
		for _, effect := range g.look(t, anchord.SourceAll) {
			if effect != "rules lan0 !" {
				t.Errorf("without a ruleset (%s) it did %q", failing, effect)
			}
		}
		if o := g.last(); o.RulesetIn || o.Settled || o.Err == nil {
			t.Errorf("outcome %+v", o)
		}
		g.change(func() { delete(g.fails, failing) })
		if did := g.look(t, anchord.SourceAll); len(did) != 6 || did[0] != "rules lan0" {
			t.Errorf("afterwards it did %q", did)
		}
	}
}

func TestLastGoodRulesetIsKeptAndTheRestGoesOn(t *testing.T) {
	g := working(t)
	g.change(func() { g.fails["rules"] = errBroken })
	g.w.run("mail", "tcp/25", "shop_transit=10.213.0.6")
	g.w.Now += 30 * time.Minute
	g.w.lease("192.0.2.77/24", "192.0.2.1")
	g.wantEffects(t, anchord.SourceAll, "rules lan0 !", "readdress lan0 192.0.2.77/24 for 1h0m0s", "neighbours transit0 10.213.0.6 02:42:bb:00:02:00")
	if o := g.last(); !o.RulesetIn || o.ApplyErr == nil || !o.Settled {
		t.Errorf("outcome %+v", o)
	}
	g.wantEffects(t, anchord.SourceAll, "rules lan0 !")
	g.w.Containers = g.w.Containers[:1]
	g.wantEffects(t, anchord.SourceAll) // back to what is in the kernel
}

func TestFlowsAreEndedOnceTheNewRulesAreInNotBefore(t *testing.T) {
	g := working(t)
	stale := anchord.Flow{OrigDst: addr("192.0.2.77"), OrigPort: 80, ReplySrc: addr("10.213.0.5"), ReplyPort: 80}
	g.flows[anchord.TCP] = []anchord.Flow{stale}
	g.w.Containers[0].Endpoints[0].Addrs[anchord.V4] = addr("10.213.0.9")
	g.change(func() { g.fails["rules"] = errBroken })
	g.wantEffects(t, anchord.SourceContainers, "rules lan0 !", "neighbours transit0 10.213.0.9 02:42:bb:00:01:00")
	g.change(func() { delete(g.fails, "rules") })
	g.wantEffects(t, anchord.SourceContainers, "rules lan0", "end tcp dst=192.0.2.77 src=10.213.0.5 reply-dst= port=0")
}

func TestFlowsOfOthersLiveOn(t *testing.T) {
	g := working(t)
	g.flows[anchord.TCP] = []anchord.Flow{
		{OrigDst: addr("192.0.2.77"), OrigPort: 80, ReplySrc: addr("10.213.0.5"), ReplyPort: 80},
		{OrigDst: addr("198.51.100.1"), OrigPort: 443, ReplySrc: addr("198.51.100.1"), ReplyPort: 443},
	}
	g.w.run("mail", "tcp/25", "shop_transit=10.213.0.6")
	g.wantEffects(t, anchord.SourceContainers, "rules lan0", "neighbours transit0 10.213.0.6 02:42:bb:00:02:00")
	g.w.Containers = g.w.Containers[:1]
	g.wantEffects(t, anchord.SourceContainers, "rules lan0")
}

func TestRenewalTouchesOnlyTheLifetime(t *testing.T) {
	g := working(t)
	g.w.Now += 30 * time.Minute
	g.w.lease("192.0.2.77/24", "192.0.2.1")
	g.wantEffects(t, anchord.SourceLease, "readdress lan0 192.0.2.77/24 for 1h0m0s")
	if told := g.told(anchord.EventDHCPRenewed); len(told) != 1 {
		t.Errorf("told %q", told)
	}
	g.wantEffects(t, anchord.SourceAll)
}

func TestRenewalOfAnInfiniteLeaseWritesNothing(t *testing.T) {
	g := leased()
	g.w.Leases[anchord.V4].Duration = 0
	g.look(t, anchord.SourceAll)
	g.wantEffects(t, anchord.SourceAll)
	g.w.Now += 30 * time.Minute
	g.w.Leases[anchord.V4].Obtained = g.w.Now
	g.wantEffects(t, anchord.SourceLease)
}

func TestAnotherLeasedAddress(t *testing.T) {
	g := working(t)
	g.w.lease("192.0.2.78/24", "192.0.2.2")
	g.wantEffects(t, anchord.SourceAll,
		"readdress lan0 192.0.2.78/24 for 1h0m0s without 192.0.2.77/24 via 192.0.2.2",
		"end  dst=192.0.2.77 src= reply-dst= port=0", "end  dst= src= reply-dst=192.0.2.77 port=0",
	)
	if told := g.told(anchord.EventDHCPBound); len(told) != 1 {
		t.Errorf("told %q", told)
	}
	g.wantEffects(t, anchord.SourceAll)
}

func TestAnotherPrefixLengthCutsNoFlow(t *testing.T) {
	g := working(t)
	g.w.lease("192.0.2.77/25", "192.0.2.1")
	g.wantEffects(t, anchord.SourceAll, "readdress lan0 192.0.2.77/25 for 1h0m0s without 192.0.2.77/24 via 192.0.2.1")
}

func TestLeaseLost(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(*world)
	}{
		{"taken back", func(w *world) { w.Leases[anchord.V4] = anchord.Lease{} }},
		{"run out", func(w *world) { w.Now += time.Hour }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := working(t)
			tt.lose(g.w)
			g.wantEffects(t, anchord.SourceAll, "readdress lan0 without 192.0.2.77/24",
				"end  dst=192.0.2.77 src= reply-dst= port=0", "end  dst= src= reply-dst=192.0.2.77 port=0")
			g.w.Routes = anchord.PerFamily[[]anchord.Route]{} // the kernel does that
			g.wantEffects(t, anchord.SourceAll)
			if told := g.told(anchord.EventDHCPLost); len(told) != 1 {
				t.Errorf("told %q", told)
			}
			if o := g.last(); o.Err != nil || !o.Settled {
				t.Errorf("without a lease everything else goes on: %+v", o)
			}
		})
	}
}

func TestDockersAddressComesBackWhenTheLeaseIsLost(t *testing.T) {
	c := auto()
	c.Mode = anchord.ModeDHCPRefresh
	g := newRig(withAddress(usual()), c)
	g.wantEffects(t, anchord.SourceAll, "rules lan0", "address transit0 10.213.0.1/24", "readdress lan0 192.0.2.9/24 for 0s", "route 192.0.2.254 lan0", "client lan0 shop ")
	g.w.lease("192.0.2.77/24")
	g.wantEffects(t, anchord.SourceAll, "readdress lan0 192.0.2.77/24 for 1h0m0s without 192.0.2.9/24 via 192.0.2.254",
		"end  dst=192.0.2.9 src= reply-dst= port=0", "end  dst= src= reply-dst=192.0.2.9 port=0")
	g.w.Leases[anchord.V4] = anchord.Lease{}
	g.wantEffects(t, anchord.SourceAll, "readdress lan0 192.0.2.9/24 for 0s without 192.0.2.77/24 via 192.0.2.254",
		"end  dst=192.0.2.77 src= reply-dst= port=0", "end  dst= src= reply-dst=192.0.2.77 port=0")
}

func TestLeaseFileThatCannotBeUsed(t *testing.T) {
	g := working(t)
	g.leaseErr = errors.New("lease refused: offered address: 224.0.0.1 is not the address of a host")
	g.wantEffects(t, anchord.SourceAll) // the held one goes on
	g.wantEffects(t, anchord.SourceAll)
	if told := g.told(anchord.EventDHCPRefused); len(told) != 1 || !strings.HasPrefix(told[0], "error ") {
		t.Errorf("told %q", told)
	}
}

func TestOldLeaseFileIsNotTakenForALease(t *testing.T) {
	for name, set := range map[string]func(*world){
		"of another boot": func(w *world) { w.Leases[anchord.V4].Boot = "boot-0" },
		"that has ended":  func(w *world) { w.Now += 2 * time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			g := leased()
			set(g.w)
			did := g.look(t, anchord.SourceAll)
			if want := "client lan0 shop 192.0.2.77"; !slices.Contains(did, want) {
				t.Errorf("did %q, want %q among it: the address is asked for again", did, want)
			}
			if told := g.told(anchord.EventDHCPBound); len(told) > 0 {
				t.Errorf("there is no lease, but told: %q", told)
			}
		})
	}
}

func TestRulesetDrift(t *testing.T) {
	g := working(t)
	g.wantEffects(t, anchord.SourceRuleset, "rules lan0")
	if !g.last().Drift {
		t.Error("drift is not in the outcome")
	}
	g.tables = false
	g.wantEffects(t, anchord.SourceAll|anchord.SourcePoll, "rules lan0")
	if told := g.told(anchord.EventRulesetDrift); len(told) != 2 {
		t.Errorf("two drifts, told %q", told)
	}
	g.wantEffects(t, anchord.SourceAll|anchord.SourcePoll)
	g.change(func() { g.fails["standing"] = errBroken })
	g.wantEffects(t, anchord.SourceAll|anchord.SourcePoll)
	if g.last().Drift || g.last().Err == nil {
		t.Errorf("when the tables cannot be looked at: %+v", g.last())
	}
	g.wantEffects(t, anchord.SourceAll|anchord.SourcePoll|anchord.SourceRuleset, "rules lan0")
}

func TestRouteThatSomebodyElseChanged(t *testing.T) {
	g := working(t)
	for _, by := range [][]anchord.Route{
		{{Gateway: addr("10.213.0.254"), Iface: "transit0"}},
		{{Iface: "transit0"}}, // without a gateway
		nil,
	} {
		g.w.Routes[anchord.V4] = by
		g.wantEffects(t, anchord.SourceKernel, "route 192.0.2.1 lan0")
		if told := g.told(anchord.EventRouteReasserted); len(told) != 1 || g.last().Reasserted[anchord.V4] != 1 {
			t.Errorf("told %q, counted %v", told, g.last().Reasserted)
		}
	}
}

func TestAddressesThatSomebodyElseChanged(t *testing.T) {
	g := working(t)
	g.link("transit0").Addrs = g.link("transit0").Addrs[:1]
	g.wantEffects(t, anchord.SourceKernel, "address transit0 10.213.0.1/24")
	g.link("lan0").Addrs = nil
	g.wantEffects(t, anchord.SourceKernel, "readdress lan0 192.0.2.77/24 for 1h0m0s via 192.0.2.1")
	l := g.link("lan0")
	l.Addrs = append(l.Addrs, anchord.LinkAddr{Prefix: netip.MustParsePrefix("192.0.2.200/24")})
	g.wantEffects(t, anchord.SourceKernel, "readdress lan0 192.0.2.77/24 for 1h0m0s without 192.0.2.200/24 via 192.0.2.1",
		"end  dst=192.0.2.200 src= reply-dst= port=0", "end  dst= src= reply-dst=192.0.2.200 port=0")
	l.Down = true
	g.wantEffects(t, anchord.SourceKernel, "up lan0")
	g.wantEffects(t, anchord.SourceKernel)
	l.MAC = lanMAC
	// Which takes the interface down and up, and the routes with it.
	g.wantEffects(t, anchord.SourceKernel, "mac lan0 "+derivedMAC, "route 192.0.2.1 lan0")
}

func TestRecreatedBackendIsSoughtUnderItsNewMAC(t *testing.T) {
	g := working(t)
	g.w.Containers[0].Endpoints[0].MAC = "02:42:cc:00:00:01"
	g.wantEffects(t, anchord.SourceContainers, "neighbours transit0 10.213.0.5 02:42:cc:00:00:01")
	g.wantEffects(t, anchord.SourceContainers)
}

func TestDockerThatCannotBeAskedChangesNothing(t *testing.T) {
	g := working(t)
	g.dockerErr = errBroken
	g.w.Containers = nil
	for range 3 {
		g.wantEffects(t, anchord.SourceAll)
	}
	o := g.last()
	if o.DockerErr == nil || o.Err != nil || !o.Settled || len(o.State.Entries) == 0 {
		t.Errorf("outcome %+v", o)
	}
	// What needs no Docker goes on.
	g.w.lease("192.0.2.78/24", "192.0.2.1")
	if did := g.look(t, anchord.SourceAll); len(did) == 0 {
		t.Error("a new lease was not applied")
	}
	g.dockerErr = nil
	g.wantEffects(t, anchord.SourceAll, "rules lan0")
}

func TestNothingIsTouchedUntilDockerWasAsked(t *testing.T) {
	for name, source := range map[string]anchord.Source{"docker does not answer": anchord.SourceAll, "the kernel moved first": anchord.SourceKernel} {
		t.Run(name, func(t *testing.T) {
			w := bare()
			// What will turn out to be the transit may be called eth0.
			w.attach(bridge("shop_transit", "10.213.0.0/24"), "eth0", transitMAC, "10.213.0.2/24")
			c := auto()
			c.Project = "shop" // so that nothing of Docker is needed for it
			g := newRig(w, c)
			if source == anchord.SourceAll {
				g.dockerErr = errBroken
			}
			for range 2 {
				for _, effect := range g.look(t, source) {
					if effect != "rules " { // closed
						t.Errorf("did %q", effect)
					}
				}
			}
			if g.last().Settled {
				t.Error("settled")
			}
		})
	}
}

func TestProjectKnownOnlyByDocker(t *testing.T) {
	g := newRig(usual(), auto())
	g.dockerErr = errBroken
	g.wantEffects(t, anchord.SourceAll, "rules ") // closed
	g.dockerErr = nil
	g.w.Self.Labels = nil
	if err := g.Reconcile(t.Context(), anchord.SourceAll, time.Time{}); !errors.Is(err, anchord.ErrNoProject) {
		t.Errorf("docker answers, nothing says the project, and the error is %v", err)
	}
}

func TestNoticesAreToldWhenTheyAppearAndWhenTheyGo(t *testing.T) {
	g := working(t)
	g.w.run("rival", "tcp/80", "shop_transit=10.213.0.6")
	for range 3 {
		g.look(t, anchord.SourceAll)
	}
	told := g.told(anchord.EventExposeConflict)
	if len(told) != 1 || !strings.HasPrefix(told[0], "error ") {
		t.Errorf("told %q", told)
	}
	g.w.Containers = g.w.Containers[:1]
	for range 3 {
		g.look(t, anchord.SourceAll)
	}
	if told = g.told(anchord.EventNoticeCleared); len(told) != 1 || !strings.Contains(told[0], "rival") {
		t.Errorf("told %q", told)
	}
}

func TestTroubleWithNetworksIsTold(t *testing.T) {
	for event, change := range map[string]func(*world){
		"warn " + anchord.EventTransitMissing: func(w *world) { w.Links = w.Links[:1] },
		"error " + anchord.EventSubnetClash:   func(w *world) { w.lease("10.213.0.77/16", "10.213.255.1") },
		"info " + anchord.EventSharedPicked: func(w *world) {
			w.Self.Endpoints, w.Self.Networks = w.Self.Endpoints[:1], w.Self.Networks[:1]
			w.attach(bridge("shop_other", "10.214.0.0/24"), "other0", "02:42:aa:00:00:03", "10.214.0.2/24")
			w.Containers = nil
			w.run("web", "tcp/80", "shop_other=10.214.0.5")
		},
	} {
		t.Run(event, func(t *testing.T) {
			g := working(t)
			level, name, _ := strings.Cut(event, " ")
			change(g.w)
			g.look(t, anchord.SourceAll)
			if told := g.told(name); len(told) != 1 || !strings.HasPrefix(told[0], level) {
				t.Errorf("told %q", told)
			}
		})
	}
}

func TestRoutersThatCannotBeAskedAreNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := leased()
		g.look(t, anchord.SourceAll)
		g.fails["solicit"] = errBroken
		g.w.v6()
		g.look(t, anchord.SourceAll)
		synctest.Wait()
		if told := g.told(anchord.EventSolicitFailed); len(told) != 1 || !strings.HasPrefix(told[0], "warn ") || g.last().Err != nil {
			t.Errorf("told %q, and %v", told, g.last().Err)
		}
	})
}

func TestFlowsThatCannotBeEndedAreNoFailure(t *testing.T) {
	g := leased()
	g.look(t, anchord.SourceAll)
	g.fails["end"] = errBroken
	g.w.lease("192.0.2.78/24", "192.0.2.1")
	g.look(t, anchord.SourceAll)
	if told := g.told(anchord.EventReconcileFailed); len(told) == 0 || !strings.HasPrefix(told[0], "warn ") || g.last().Err != nil {
		t.Errorf("told %q, and %v", told, g.last().Err)
	}
}

func TestStopUndoesInOrder(t *testing.T) {
	g := working(t)
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"release", "unroute 192.0.2.1 lan0", "remove lan0 192.0.2.77/24", "remove transit0 10.213.0.1/24", "unrule"}
	if did := g.effects(); !slices.Equal(did, want) {
		t.Errorf("did %q, want %q", did, want)
	}
	if told := g.told(anchord.EventStopping); len(told) != len(want) {
		t.Errorf("told %q", told)
	}
}

func TestStopGoesOnAfterAFailure(t *testing.T) {
	g := working(t)
	g.change(func() { g.fails["release"], g.fails["unroute"], g.fails["remove"] = errBroken, errBroken, errBroken })
	if err := g.Stop(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("error %v", err)
	}
	if did := g.effects(); len(did) != 5 || did[4] != "unrule" {
		t.Errorf("did %q", did)
	}
}

// Without a lease there is no address of it to remember, and what there was once
// is not forgotten for that.
func TestStopAfterTheLeaseWasLost(t *testing.T) {
	g := working(t)
	g.w.Leases[anchord.V4] = anchord.Lease{}
	g.look(t, anchord.SourceLease)
	g.effects()
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"release", "remove lan0 192.0.2.77/24", "remove transit0 10.213.0.1/24", "unrule"}
	if did := g.effects(); !slices.Equal(did, want) {
		t.Errorf("did %q, want %q", did, want)
	}
}

// What did not come to its end in its time is tried once more, what failed is not.
func TestStopTriesAgain(t *testing.T) {
	g := working(t)
	g.change(func() { g.fails["unroute"], g.fails["unrule"] = errBroken, context.DeadlineExceeded })
	if err := g.Stop(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	want := []string{"release", "unroute 192.0.2.1 lan0 !", "remove lan0 192.0.2.77/24", "remove transit0 10.213.0.1/24", "unrule !", "unrule !"}
	if did := g.effects(); !slices.Equal(did, want) {
		t.Errorf("did %q, want %q", did, want)
	}
}

func TestStopLeavesDockersAddress(t *testing.T) {
	g := newRig(withAddress(usual()), auto())
	g.look(t, anchord.SourceAll)
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, effect := range g.effects() {
		if strings.HasPrefix(effect, "remove lan0") {
			t.Errorf("Docker's own address was removed: %q", effect)
		}
	}
}

// running runs the loop in a bubble; stop ends it.
func (g *rig) running(t *testing.T) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func (g *rig) rounds() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.outcomes)
}

func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := leased()
		stop := g.running(t)
		synctest.Wait()
		if g.rounds() != 1 {
			t.Fatalf("%d rounds at once, want 1", g.rounds())
		}
		if did := g.effects(); did[0] != "rules " || did[1] != "rules lan0" {
			t.Errorf("begins with %q, want the closed box first", did)
		}
		time.Sleep(time.Second)

		at := time.Now()
		g.Trigger.Fire(anchord.SourceContainers, at)
		synctest.Wait()
		if g.rounds() != 2 || !g.last().EventAt.Equal(at) {
			t.Fatalf("%d rounds, caused at %v: an event has to act at once", g.rounds(), g.last().EventAt)
		}
		for range 20 {
			g.Trigger.Fire(anchord.SourceContainers, at)
			synctest.Wait()
		}
		if g.rounds() != 2 {
			t.Errorf("those right behind it are not joined: %d rounds", g.rounds())
		}
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		if g.rounds() != 3 {
			t.Errorf("those behind it are lost or not joined: %d rounds", g.rounds())
		}

		time.Sleep(29 * time.Second)
		synctest.Wait()
		if g.rounds() != 4 || g.last().Source&anchord.SourcePoll == 0 {
			t.Errorf("no poll: %d rounds, the last of %b", g.rounds(), g.last().Source)
		}
		if err := stop(); err != nil {
			t.Errorf("stopped with %v", err)
		}
	})
}

func TestLoopTriesAgainAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := leased()
		g.change(func() { g.fails["mac"] = errBroken })
		begin := time.Now()
		var at []time.Duration
		stop := g.running(t)
		for range 1000 {
			time.Sleep(50 * time.Millisecond)
			synctest.Wait()
			if g.rounds() > len(at) {
				at = append(at, time.Since(begin).Truncate(time.Second))
			}
		}
		if want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 30 * time.Second}; len(at) < len(want) || !slices.Equal(at[:5], want[:5]) {
			t.Errorf("tried at %v, want %v", at, want)
		}
		g.change(func() { g.fails["mac"] = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		before := g.rounds()
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if g.rounds() > before+1 {
			t.Errorf("after the recovery it still tries: %d rounds in 25 s", g.rounds()-before)
		}
		_ = stop()
	})
}

// A look at something else succeeds meanwhile: that makes up for nothing.
func TestLoopLooksAgainAtWhatCouldNotBeSeen(t *testing.T) {
	for failing, other := range map[string]anchord.Source{"links": anchord.SourceContainers, "docker": anchord.SourceKernel} {
		t.Run(failing, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := leased()
				stop := g.running(t)
				time.Sleep(time.Second)
				g.Trigger.Fire(anchord.SourceKernel, time.Time{}) // sees what was written
				time.Sleep(time.Second)
				g.change(func() {
					if failing == "links" {
						g.fails["links"] = errBroken
						g.w.Links = g.w.Links[:0]
					} else {
						g.dockerErr = errBroken
						g.w.Containers = nil
					}
				})
				g.Trigger.Fire(anchord.SourceAll, time.Time{})
				time.Sleep(100 * time.Millisecond)
				g.change(func() { delete(g.fails, "links"); g.dockerErr = nil })
				for range 20 {
					g.Trigger.Fire(other, time.Time{})
					time.Sleep(100 * time.Millisecond)
				}
				synctest.Wait()
				if last := g.last(); failing == "links" && len(last.Links) > 0 || failing == "docker" && len(last.State.Entries) > 0 {
					t.Errorf("not looked at again: %d links, %d entries", len(last.Links), len(last.State.Entries))
				}
				if failing == "links" && len(g.told(anchord.EventReconcileRecovered)) != 1 {
					t.Error("that it can be seen again is not told once")
				}
				_ = stop()
			})
		})
	}
}

func TestLoopAsksDockerAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := leased()
		g.dockerErr = errBroken
		stop := g.running(t)
		synctest.Wait()
		g.change(func() { g.dockerErr = nil })
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if !g.last().Settled {
			t.Error("docker answers for a second and was not asked")
		}
		_ = stop()
	})
}

func TestLoopLeavesStandingTablesUntilItHasDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := leased()
		g.tables = true // a killed predecessor's
		stop := g.running(t)
		synctest.Wait()
		if did := g.effects(); did[0] != "rules lan0" {
			t.Errorf("the services were cut off in between: %q", did)
		}
		_ = stop()
	})
}

func TestStandingTablesStayWhileDockerCannotBeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := leased()
		g.tables, g.dockerErr = true, errBroken
		stop := g.running(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		if did := g.effects(); did != nil {
			t.Errorf("the services were cut off: %q", did)
		}
		_ = stop()
	})
}

func TestLoopEndsWhenNothingSaysTheProject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := usual()
		w.Self.Labels = nil
		if err := newRig(w, auto()).Run(t.Context()); !errors.Is(err, anchord.ErrNoProject) {
			t.Errorf("ended with %v", err)
		}
	})
}

// However often the same lease file is looked at, the client begins anew once.
func TestALeaseThatCannotBeUsedRestartsTheClientOnce(t *testing.T) {
	g := newRig(usual(), auto())
	g.look(t, anchord.SourceAll)
	g.w.Leases[anchord.V4] = anchord.Lease{Obtained: g.w.Now, Boot: boot}
	g.leaseErr = errBroken
	g.wantEffects(t, anchord.SourceLease, "client lan0 shop ")
	g.wantEffects(t, anchord.SourceLease)
	g.wantEffects(t, anchord.SourceAll|anchord.SourcePoll)
	g.w.Leases[anchord.V4].Obtained += time.Second
	g.wantEffects(t, anchord.SourceLease, "client lan0 shop ")
}

// A client is ended even where what was decided last has none.
func TestStopEndsAClientThatIsNotWantedAnyMore(t *testing.T) {
	g := working(t)
	g.change(func() { g.fails["rules"] = errBroken })
	g.w.Self.Networks, g.w.Self.Endpoints = nil, nil
	g.look(t, anchord.SourceAll|anchord.SourceRuleset)
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if did := g.effects(); did[0] != "release" {
		t.Errorf("did %q", did)
	}
}
