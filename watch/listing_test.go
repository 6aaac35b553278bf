package watch

import (
	"slices"
	"testing"

	"github.com/docker/docker/api/types/events"

	"github.com/AlexCherrypi/anchord"
)

func TestListing(t *testing.T) {
	scope := anchord.ProjectScope("shop")
	event := func(action events.Action, id string) events.Message {
		return events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: id}}
	}
	named := func(list []anchord.Container) (ids []string) {
		for _, c := range list {
			ids = append(ids, c.ID+c.Name)
		}
		return ids
	}
	whole := []anchord.Container{{ID: "a"}, {ID: "b"}}
	fresh := func() *listing {
		l := &listing{}
		if asked := l.begin(scope); asked != nil {
			t.Fatalf("the first listing asks for %v only", asked)
		}
		l.end(nil, whole)
		return l
	}

	t.Run("a start asks for that container and keeps the others", func(t *testing.T) {
		l := fresh()
		l.note(event(events.ActionStart, "b"))
		l.note(event(events.ActionStart, "c"))
		asked := l.begin(scope)
		if !slices.Equal(asked, []string{"b", "c"}) {
			t.Fatalf("asks for %v", asked)
		}
		got := named(l.end(asked, []anchord.Container{{ID: "b", Name: "-again"}, {ID: "c"}}))
		if !slices.Equal(got, []string{"a", "b-again", "c"}) {
			t.Errorf("lists %v", got)
		}
	})
	t.Run("one that is gone already is not listed", func(t *testing.T) {
		l := fresh()
		l.note(event(events.ActionStart, "b"))
		if got := named(l.end(l.begin(scope), nil)); !slices.Equal(got, []string{"a"}) {
			t.Errorf("lists %v", got)
		}
	})
	for name, before := range map[string]func(l *listing){
		"nothing moved": func(*listing) {},
		"a death":       func(l *listing) { l.note(event(events.ActionDie, "a")); l.note(event(events.ActionStart, "b")) },
		"another scope": func(l *listing) { l.note(event(events.ActionStart, "b")); l.scope = anchord.ProjectScope("other") },
		"a request that failed": func(l *listing) {
			l.note(event(events.ActionStart, "b"))
			l.begin(scope)
			l.note(event(events.ActionStart, "c"))
		},
		"a death while it was asked": func(l *listing) {
			l.note(event(events.ActionStart, "b"))
			asked := l.begin(scope)
			l.note(event(events.ActionDie, "a"))
			l.end(asked, nil)
			l.note(event(events.ActionStart, "b"))
		},
	} {
		t.Run("all are asked for after "+name, func(t *testing.T) {
			l := fresh()
			before(l)
			if asked := l.begin(scope); len(asked) > 0 {
				t.Errorf("asks for %v only", asked)
			}
		})
	}
}
