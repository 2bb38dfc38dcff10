package gateway

import (
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/gateway/prefix"
	"github.com/penstock/penstock/scheduler/route"
)

// holdings tells what engines' caches hold, as agents report it: blocks.Board in the controller's process, blocks.Mirror elsewhere.
type holdings interface {
	Match(ids []uint64, dst []blocks.Held) []blocks.Held
}

const (
	// told is how long a guess stands for an engine that tells of its cache: until its word is here.
	told = 30 * time.Second
	// untold is the same for one that does not.
	untold = 10 * time.Minute
	// behind is how much older a replica's last report may be than the others' before its word on its cache is none.
	behind = 30 * time.Second
)

// tells reports whether what the member's cache holds comes to be known here.
func (g *Gateway) tells(m *member) bool {
	return g.opts.Holdings != nil && m.known && m.traits.Events != engine.NoEvents
}

// salted tells whether the member's own cache is parted by tenants.
func (m *member) salted() bool { return m.known && m.traits.CacheSalt }

// blockTokens is the size of the member's blocks.
func (m *member) blockTokens() int {
	if n := m.state.Load().blockTokens; n > 0 {
		return n
	}
	return usualBlock
}

// holder is what guesses call a member. An engine that was started again has nothing of before.
func (m *member) holder() blocks.Holder {
	return blocks.Holder{Launch: m.target.Launch, Run: m.target.Run, Rank: m.starts}
}

// fillCached fills in what of the request's prompt the candidates' caches hold.
func (g *Gateway) fillCached(q *request, list *candidateList) {
	if q.keys == nil {
		return
	}
	f := filler{g: g, q: q, list: list, newest: newest(list.members)}
	size, salted, sizes := 0, false, 0
	for _, m := range list.members {
		if m.blockTokens() == size && m.salted() == salted || sizes == maxSizes {
			continue
		}
		size, salted = m.blockTokens(), m.salted()
		sizes++
		f.names(size, salted)
	}
	list.held = g.guesses.Match(q.keys.text, list.held[:0])
	f.take(prefix.ChunkTokens, f.guessed)
}

// newest is when the last of some members was reported of.
func newest(members []*member) (at time.Time) {
	for _, m := range members {
		if seen := m.state.Load().seenAt; seen.After(at) {
			at = seen
		}
	}
	return at
}

// filler fills in one request's caches.
type filler struct {
	g      *Gateway
	q      *request
	list   *candidateList
	newest time.Time
}

// names asks for the prompt's blocks of one size, in caches that are parted by tenants or not.
func (f *filler) names(size int, salted bool) {
	mine := f.g.chain(f.q, size, f.q.keys.salt)
	if h := f.g.opts.Holdings; h != nil {
		ids := mine
		if !salted {
			ids = f.g.chain(f.q, size, "")
		}
		f.list.held = h.Match(ids, f.list.held[:0])
		f.take(size, func(m *member, _ blocks.Holder) bool {
			return m.blockTokens() == size && m.salted() == salted && m.state.Load().seenAt.Add(behind).After(f.newest)
		})
	}
	f.list.held = f.g.guesses.Match(mine, f.list.held[:0])
	f.take(size, f.guessed)
}

func (f *filler) guessed(m *member, h blocks.Holder) bool { return m.starts == h.Rank }

// take puts what is held into the candidates that good says it of. Of several ranks of an engine the best counts: its own balancing
// knows their caches.
func (f *filler) take(size int, good func(*member, blocks.Holder) bool) {
	for _, h := range f.list.held {
		i, found := slices.BinarySearchFunc(f.list.members, h.Launch, func(m *member, launch string) int {
			return strings.Compare(m.target.Launch, launch)
		})
		if !found || f.list.members[i].target.Run != h.Run || !good(f.list.members[i], h.Holder) {
			continue
		}
		c := &f.list.candidates[i]
		for t := range route.Tiers {
			c.Cached[t] = max(c.Cached[t], int(h.Lead[t])*size)
		}
	}
}

// believe notes that the member will have the request's prompt in its cache: it counts for the next choice.
func (g *Gateway) believe(q *request, m *member) {
	if q.keys == nil {
		return
	}
	size := m.blockTokens()
	now, l := g.now(), g.lifetime(m)
	g.guesses.Add(m.holder(), g.chain(q, size, q.keys.salt), l, now)
	g.guesses.Add(m.holder(), q.keys.text, l, now)
}

func (g *Gateway) lifetime(m *member) blocks.Lifetime {
	l := blocks.Lifetime{Keep: untold}
	if g.tells(m) {
		l.Keep = told
	}
	if n := m.state.Load().kvTokens; n > 0 { // twice: blocks, and chunks of text
		l.Blocks = 2 * n / m.blockTokens()
	}
	return l
}

// compare sets what was expected of a cache beside what was in it.
func (g *Gateway) compare(q *request, u usage) {
	if !u.cachedKnown || q.keys == nil || len(q.attempts) == 0 {
		return
	}
	last := q.attempts[len(q.attempts)-1]
	g.metrics.expected.WithLabelValues(q.model.Name).Add(float64(last.ExpectedCached))
}

// forgetGuesses lets guesses age, and drops those of replicas that are gone.
func (g *Gateway) forgetGuesses() {
	lifetimes := map[blocks.Holder]blocks.Lifetime{}
	v := g.view.Load()
	for _, members := range v.deployments {
		for _, m := range members {
			lifetimes[m.holder()] = g.lifetime(m)
		}
	}
	g.guesses.Expire(func(h blocks.Holder) (blocks.Lifetime, bool) {
		l, ok := lifetimes[h]
		return l, ok
	}, g.now())
	g.speeds.keep(v.deployments)
}
