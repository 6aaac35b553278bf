package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

const idleFor = 60 * time.Second

// idle lets both anchors do nothing and looks at what that costs.
func idle(ctx context.Context, b *bench) error {
	s, err := b.site(ctx)
	if err != nil {
		return err
	}
	roles := []*role{
		{service: "anchord", title: "network-anchor", rss: 20 << 20},
		{service: "helper", title: "service-anchor", rss: 12 << 20},
	}
	for _, r := range roles {
		if r.space, err = s.enter(ctx, r.service); err != nil {
			return err
		}
		defer r.space.close()
	}
	time.Sleep(5 * time.Second) // what came before has to end
	for _, r := range roles {
		if r.before, _, err = r.space.anchord(); err != nil {
			return err
		}
	}
	forks, err := countForks(roles[0].before.pid, roles[1].before.pid)
	if err != nil {
		return err
	}
	defer forks.stop()
	began := time.Now()
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, r := range roles {
		if err := r.report(b, forks, time.Since(began)); err != nil {
			return err
		}
	}
	return nil
}

// role is one of the two programs.
type role struct {
	service, title string
	rss            int
	space          *space
	before         process
}

func (r *role) report(b *bench, forks *forks, over time.Duration) error {
	after, children, err := r.space.anchord()
	if err != nil {
		return err
	}
	if after.pid != r.before.pid {
		return fmt.Errorf("the %s was restarted", r.title)
	}
	rss := after.memory("VmRSS")
	b.table.add(r.title+": resident memory", fmt.Sprintf("<= %d MB", r.rss>>20), mb(rss), verdictOf(rss <= r.rss))
	b.table.detail("of it anonymous, of the program file", mb(after.memory("RssAnon"))+", "+mb(after.memory("RssFile")))
	var list []string
	for _, c := range children {
		list = append(list, fmt.Sprintf("%s %s", filepath.Base(strings.Join(c.args[:min(2, len(c.args))], " ")), mb(c.memory("VmRSS"))))
	}
	b.table.detail("its children beside it", strings.Join(list, ", "))
	cpu := time.Duration(after.ticks-r.before.ticks) * clockTick
	share := 100 * cpu.Seconds() / over.Seconds()
	b.table.add(r.title+": CPU while idle, children included", "<= 0.1 % of one", fmt.Sprintf("%.3f %% (%v in %.0f s)", share, cpu, over.Seconds()), verdictOf(share <= 0.1))
	count, which := forks.of(r.before.pid)
	b.table.add(fmt.Sprintf("%s: processes started in %.0f s", r.title, over.Seconds()), "only on the poll", fmt.Sprint(count), none)
	b.table.detail("which", which)
	return nil
}

func mb(n int) string { return fmt.Sprintf("%.1f MB", float64(n)/(1<<20)) }
