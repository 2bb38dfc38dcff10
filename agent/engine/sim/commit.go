package sim

import "time"

// commit ends a step: what was scheduled is now computed, and every sequence whose tokens are all computed gets its next.
func (e *engine) commit(now time.Time) {
	tokens := 0
	for _, b := range e.batch {
		s := b.seq
		if s.ended || len(s.blocks) == 0 { // aborted meanwhile
			continue
		}
		tokens += b.n
		e.compute(s, b.n)
		if s.computed == len(s.tokens) {
			e.advance(s, now)
		}
	}
	e.steps.Add(1)
	e.metrics.stepTokens.Observe(float64(tokens))
	e.observe()
	e.publish()
}

// compute folds the next n tokens and stores the blocks that they fill.
func (e *engine) compute(s *sequence, n int) {
	size, first := e.opts.BlockSize, -1
	for _, t := range s.tokens[s.computed : s.computed+n] {
		s.state = e.v.fold(s.state, t)
		s.computed++
		if s.computed%size != 0 {
			continue
		}
		i := s.computed/size - 1
		s.extendHashes(&e.hasher, size, e.root)
		if b := s.blocks[i]; !b.cached {
			e.pool.store(b, s.hashes[i], s.state)
			b.damage = e.faults.damage(e.stored)
			e.stored++
			if e.external != nil {
				e.external.save(e.external.key(b.hash, s.tenant), b.kv())
			}
			if first < 0 {
				first = i
			}
		}
	}
	if first >= 0 {
		e.recordStored(s, first, s.computed/size)
	}
}

// recordStored notes that blocks first..last-1 of a sequence can be found now.
func (e *engine) recordStored(s *sequence, first, last int) {
	if e.events == nil {
		return
	}
	size := e.opts.BlockSize
	ev := storedBlocks{
		hashes: s.hashes[first:last:last], tokens: append([]int32(nil), s.tokens[first*size:last*size]...), blockSize: size,
		adapter: s.adapter, adapterID: s.adapterID,
	}
	if first > 0 {
		ev.parent = &s.hashes[first-1]
	}
	for i := first; i < last; i++ {
		ev.extra = append(ev.extra, s.extra(i))
	}
	e.record(kvEvent{stored: &ev})
}

// advance gives a sequence its next token, or ends it where only the prompt was to be computed.
func (e *engine) advance(s *sequence, now time.Time) {
	if s.embed {
		e.metrics.prefilled(s)
		e.end(s, outcome{reason: finishedStop, stopToken: -1})
		return
	}
	t := emitted{s.sample(e.v), s.state.hash}
	s.tokens = append(s.tokens, t.token)
	e.generated.Add(1)
	e.metrics.token(s, now)
	if reason, stopToken := s.stop(t.token, e.opts.MaxModelLen); reason != running {
		e.end(s, outcome{reason: reason, stopToken: stopToken}, t)
	} else if !s.out.push(t) {
		e.log.Warn().Str("request_id", s.id).Msg("the client reads too slowly, its request is aborted")
		e.end(s, outcome{reason: finishedAbort, stopToken: -1})
	}
}
