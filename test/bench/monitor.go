package main

import (
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// monitor is `nft monitor` in a namespace: it tells when the kernel had a new
// element, which is earlier than the end of the nft process that added it.
type monitor struct {
	*child
	mu    sync.Mutex
	added map[int][]time.Time // by port
	wake  chan struct{}
}

var addedElement = regexp.MustCompile(`^add element ip anchord_v4 dnat_tcp \{ (\d+) `)

func (s *space) monitor() (*monitor, error) {
	m := &monitor{added: map[int][]time.Time{}, wake: make(chan struct{}, 1)}
	c, err := s.start(exec.Command("nft", "monitor", "new", "elements"), m.line)
	m.child = c
	if err == nil {
		time.Sleep(300 * time.Millisecond) // it has no way to say that it listens
	}
	return m, err
}

func (m *monitor) line(text string, at time.Time) {
	match := addedElement.FindStringSubmatch(text)
	if match == nil {
		return
	}
	port, _ := strconv.Atoi(match[1])
	m.mu.Lock()
	m.added[port] = append(m.added[port], at)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// since is the first time at or after t that the port's element was added.
func (m *monitor) since(port int, t time.Time) (time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, at := range m.added[port] {
		if !at.Before(t) {
			return at, true
		}
	}
	return time.Time{}, false
}
