package mem

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/kvstore"
)

// spaces gives each space a small number. There are few: a launch's layouts times its tenants. They are never forgotten.
type spaces struct {
	mu    sync.Mutex
	known atomic.Pointer[knownSpaces]
}

type knownSpaces struct {
	number map[kvstore.Space]uint32
	space  []kvstore.Space
}

func newSpaces() *spaces {
	s := &spaces{}
	s.known.Store(&knownSpaces{number: map[kvstore.Space]uint32{}})
	return s
}

func (s *spaces) find(space kvstore.Space) (uint32, bool) {
	n, ok := s.known.Load().number[space]
	return n, ok
}

func (s *spaces) at(n uint32) kvstore.Space { return s.known.Load().space[n] }

func (s *spaces) number(space kvstore.Space) uint32 {
	if n, ok := s.find(space); ok {
		return n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.known.Load()
	if n, ok := old.number[space]; ok {
		return n
	}
	n := uint32(len(old.space))
	next := &knownSpaces{number: maps.Clone(old.number), space: append(append([]kvstore.Space{}, old.space...), space)}
	next.number[space] = n
	s.known.Store(next)
	return n
}
