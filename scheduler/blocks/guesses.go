package blocks

import (
	"sync"
	"time"

	"github.com/penstock/penstock/kvstore/index"
)

// Guesses are blocks that are believed to be in caches because a request with them went there. They are forgotten after a while.
// One Guesses is for one kind of names or several: names never meet. Safe for concurrent use.
//
// A holder has two generations of blocks. When the younger is old or full, the older goes and the younger takes its place: so what
// was used within half of the time stays, and forgetting costs nothing.
type Guesses struct {
	table table

	mu      sync.Mutex
	holders map[Holder]*guess
}

// guess is what one holder is believed to have.
type guess struct {
	young, old index.Worker // 0 = none
	since      time.Time    // of young
	blocks     int          // stored in young
}

// NewGuesses returns none. l bounds all of them together.
func NewGuesses(l index.Limit) *Guesses {
	g := &Guesses{holders: map[Holder]*guess{}}
	g.table.reset(index.New(l), nil)
	return g
}

// Lifetime is how long guesses about a holder are good for.
type Lifetime struct {
	Keep   time.Duration // a block that nobody asks for is forgotten after between half and all of it
	Blocks int           // the holder's cache has room for no more; 0 = unknown
}

// Add believes that a holder has a prompt's blocks from now on.
func (g *Guesses) Add(h Holder, ids []uint64, l Lifetime, now time.Time) {
	if len(ids) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.holders[h]
	if s == nil {
		s = &guess{since: now}
		g.holders[h] = s
	}
	g.age(s, l, now)
	if s.young == 0 {
		w, err := g.table.add(h)
		if err != nil {
			return
		}
		s.young, s.since = w, now
	}
	g.table.load().index.Store(s.young, index.GPU, ids)
	s.blocks += len(ids)
}

// age lets the younger generation take the older one's place.
func (g *Guesses) age(s *guess, l Lifetime, now time.Time) {
	half := l.Keep / 2
	if now.Sub(s.since) < half && (l.Blocks <= 0 || s.blocks < l.Blocks/2) {
		return
	}
	g.drop(s.old)
	s.old, s.young, s.blocks = s.young, 0, 0
	if now.Sub(s.since) >= 2*half {
		g.drop(s.old)
		s.old = 0
	}
	s.since = now
}

func (g *Guesses) drop(w index.Worker) {
	if w != 0 {
		g.table.apply(dropped(w))
	}
}

// Expire ages all holders; keep says how long, not ok: the holder is gone.
func (g *Guesses) Expire(keep func(Holder) (Lifetime, bool), now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for h, s := range g.holders {
		l, ok := keep(h)
		if ok {
			g.age(s, l, now)
		}
		if !ok || s.young == 0 && s.old == 0 {
			g.drop(s.young)
			g.drop(s.old)
			delete(g.holders, h)
		}
	}
}

// Match is Board.Match. A holder may be told twice; the longer one is true.
func (g *Guesses) Match(ids []uint64, dst []Held) []Held { return g.table.match(ids, dst) }
