package sim

import (
	"slices"
	"time"
)

// schedule fills e.batch for the next step: running sequences first, then waiting ones, until the token budget, the
// number of sequences or the blocks are used up. When a running sequence finds no block, the one that came last loses
// its blocks and will be computed again (recompute preemption).
func (e *engine) schedule(now time.Time) stepWork {
	e.batch = e.batch[:0]
	var work stepWork
	budget := e.opts.MaxBatchedTokens
	preempted := false
	for i := 0; i < len(e.running) && budget > 0; i++ {
		s := e.running[i]
		n := min(len(s.tokens)-s.computed, budget)
		for !e.grow(s, s.computed+n) {
			victim := e.running[len(e.running)-1]
			e.preempt(victim)
			preempted = true
			if victim == s {
				return work
			}
		}
		budget -= n
		e.add(&work, s, n)
	}
	for !preempted && budget > 0 && len(e.waiting) > 0 && len(e.running) < e.opts.MaxSeqs {
		s := e.waiting[0]
		n, ok := e.admit(s, budget)
		if !ok {
			break
		}
		if n == 0 { // it waits for its KV
			continue
		}
		e.waiting = slices.Delete(e.waiting, 0, 1)
		e.running = append(e.running, s)
		if !s.started {
			s.started, s.scheduled = true, now
			s.out.setCached(s.reused + s.fetched)
			e.metrics.admitted(s)
		}
		budget -= n
		e.add(&work, s, n)
	}
	return work
}

func (e *engine) add(work *stepWork, s *sequence, n int) {
	e.batch = append(e.batch, scheduledTokens{s, n})
	if s.computed == len(s.tokens)-1 { // all but the last token is there: a decode, also right after fetching KV
		work.decodes++
		return
	}
	work.addPrefill(s.computed, s.computed+n)
}

// admit gives the first waiting sequence its cached prefix and the blocks for its next n tokens. n is 0 if it went to
// fetch its KV elsewhere instead; ok is false if there are not enough blocks.
func (e *engine) admit(s *sequence, budget int) (n int, ok bool) {
	if len(s.blocks) == 0 {
		e.reuse(s)
	}
	if s.pull.wanted() {
		if !e.grow(s, len(s.tokens)) {
			e.giveBack(s)
			return 0, false
		}
		e.waiting = slices.Delete(e.waiting, 0, 1)
		e.pulling = append(e.pulling, s)
		s.pull.begin()
		return 0, true
	}
	n = min(len(s.tokens)-s.computed, budget)
	for !e.grow(s, s.computed+n) {
		if !e.dropFetched(s) {
			e.giveBack(s)
			return 0, false
		}
	}
	return n, true
}

// reuse gives a sequence without blocks the longest cached prefix of its tokens. The last token is always computed: its
// output is what the next one is chosen from.
func (e *engine) reuse(s *sequence) {
	size := e.opts.BlockSize
	hits, damage := 0, uint64(0)
	for ; hits < len(s.hashes) && (hits+1)*size < len(s.tokens); hits++ {
		b := e.pool.find(s.hashes[hits])
		if b == nil {
			break
		}
		e.pool.acquire(b)
		s.blocks = append(s.blocks, b)
		s.state = b.content
		if b.damage != 0 {
			damage = mix(damage, b.damage)
		}
	}
	s.state = s.state.damaged(damage)
	s.computed = hits * size
	if !s.started {
		if s.sought > 0 {
			s.fetched = min(s.sought, max(s.computed-s.local, 0))
		}
		s.reused = s.computed - s.fetched
	}
}

// grow gives a sequence the blocks for its first n tokens; false, and nothing changes, if there are too few.
func (e *engine) grow(s *sequence, n int) bool {
	missing := (n+e.opts.BlockSize-1)/e.opts.BlockSize - len(s.blocks)
	if missing > e.pool.unused {
		return false
	}
	for range missing {
		s.blocks = append(s.blocks, e.pool.take())
	}
	return true
}

// giveBack takes back the blocks of a sequence that cannot go on for now, fetched ones too.
func (e *engine) giveBack(s *sequence) {
	e.pool.release(s.blocks)
	s.blocks, s.computed, s.state = nil, 0, newPrefix(s.model)
}

// preempt sends a running sequence back to the front of the queue, without its blocks.
func (e *engine) preempt(s *sequence) {
	e.giveBack(s)
	e.running = slices.Delete(e.running, len(e.running)-1, len(e.running))
	e.waiting = slices.Insert(e.waiting, 0, s)
	e.metrics.preemptions.Inc()
}

// dropFetched takes the blocks of the last waiting sequence that fetched its KV and cannot run, if nothing else can free
// blocks for s: else both would wait for each other for ever.
func (e *engine) dropFetched(s *sequence) bool {
	if len(e.running) > 0 || len(e.batch) > 0 || len(e.pulling) > 0 {
		return false
	}
	for i := len(e.waiting) - 1; i >= 0; i-- {
		if w := e.waiting[i]; w != s && len(w.blocks) > 0 {
			e.giveBack(w)
			return true
		}
	}
	return false
}
