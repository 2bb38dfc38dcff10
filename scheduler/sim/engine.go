package sim

import (
	"slices"
	"time"

	"github.com/penstock/penstock/scheduler/scale"
)

// engine is one replica's engine in virtual time: continuous batching with chunked prefill under a budget of tokens, prefix
// caching, and preemption by recomputing, as vLLM and the simulated engine (agent/engine/sim) do it. A step's work does not depend on
// how many sequences decode: all of them get a token, and only those that end are looked at.
type engine struct {
	model scale.Model
	pool  *pool
	tiers *tiers // nil = none
	told  listener

	now     time.Duration // everything before it has happened
	stepEnd time.Duration // of the step under way; 0 = none is
	step    int           // steps begun
	crossed bool          // the decoding sequences have the pages of the step that is being scheduled

	waiting  queue[*sequence]
	running  []*sequence // in the order in which they were admitted; those that have ended are swept out now and then
	active   int         // of running
	prefill  []*sequence // of running: whose tokens are not all computed
	pulls    []*sequence // wait for KV from elsewhere, the first ready one first
	ends     endings     // of running: those that decode, by the step that ends them
	boundary []int       // how many of those need another page in step k: boundary[-k mod tokens of a page]
	batch    []chunk
	decodes  int // of the step under way

	// full is the first waiting sequence that found too few pages, and the state of the pool then: as long as that is the same,
	// looking again is no use.
	full struct {
		s                 *sequence
		unused, published int
	}

	lastCommit time.Duration
	preempted  int
}

// listener hears of what becomes of sequences. Times are those of the virtual clock.
type listener interface {
	first(s *sequence, at time.Duration)              // its first token
	done(s *sequence, at time.Duration)               // its last one
	decoded(e *engine, n int, gap time.Duration)      // n sequences got a token, gap after the one before
	stored(e *engine, tier int, id uint64, held bool) // a block of the trace is held in a tier, or no longer
}

// sequence is one request while an engine works on it.
type sequence struct {
	*request
	pending
	on       *engine
	tokens   int // prompt and answer so far: what has to be computed
	answered int
	computed int
	pages    int     // that it has, its units' too
	units    []*unit // of its first blocks; nil = its own copy of what another one has named
	key      int     // in boundary, while it decodes
	lastStep int     // that gives it its last token
	place    int     // in endings
	ready    time.Duration
	handOver bool    // only the prompt and one token are wanted
	transfer float64 // nanoseconds for each token of KV that comes from a prefill replica; 0 = none does
	fetched  int     // tokens that came from elsewhere
	cached   int     // prompt tokens that need not be computed when it was admitted first, of whatever tier
	began    bool
	ended    bool
}

type chunk struct {
	s *sequence
	n int
}

func newEngine(m scale.Model, blockTokens int, told listener) *engine {
	e := &engine{model: m, told: told, boundary: make([]int, m.BlockTokens)}
	e.pool = newPool(m.KVTokens/m.BlockTokens, blockTokens/m.BlockTokens, func(id uint64) { told.stored(e, gpuTier, id, false) })
	return e
}

// queued is how many sequences wait, for their turn or for KV.
func (e *engine) queued() int { return e.waiting.len() + len(e.pulls) }

// submit hands a sequence in at a time up to which the engine was advanced.
func (e *engine) submit(s *sequence, at time.Duration) {
	if e.stepEnd == 0 {
		e.now = max(e.now, at)
	}
	s.on = e
	e.waiting.push(s)
}

// advance lets the time pass.
func (e *engine) advance(until time.Duration) {
	for {
		if e.stepEnd > 0 {
			if e.stepEnd > until {
				return
			}
			e.now, e.stepEnd = e.stepEnd, 0
			e.commit()
		}
		e.arrivePulls()
		if e.schedule() {
			continue
		}
		e.lastCommit = 0
		if len(e.pulls) == 0 || e.pulls[0].ready > until {
			return
		}
		e.now = max(e.now, e.pulls[0].ready)
	}
}

// schedule begins a step: running sequences first, then waiting ones, until the budget, the number of sequences or the pages are used
// up. False where there is nothing to do.
func (e *engine) schedule() bool {
	if e.active == 0 && e.waiting.len() == 0 {
		return false
	}
	e.batch = e.batch[:0]
	e.step++
	before := e.preempted
	e.crossed = false
	crossing := (len(e.boundary) - e.step%len(e.boundary)) % len(e.boundary)
	for n := e.boundary[crossing]; n > 0 && !e.pool.take(n); n = e.boundary[crossing] {
		e.preempt()
	}
	e.crossed = true
	budget := e.model.MaxBatched - len(e.ends)
	ms := 0.0
	for i := 0; i < len(e.prefill) && budget > 0; i++ {
		s := e.prefill[i]
		n := min(s.tokens-s.computed, budget)
		for !e.grow(s, s.computed+n) {
			if e.preempt() == s {
				n = 0
				i--
				break
			}
		}
		ms += e.add(s, n)
		budget -= n
	}
	for before == e.preempted && budget > 0 && e.waiting.len() > 0 && e.active < e.model.MaxSeqs {
		s := e.waiting.first()
		if e.full.s == s && e.full.unused == e.pool.unused && e.full.published == e.pool.published {
			break
		}
		n, ok := e.admit(s, budget)
		if !ok {
			e.full.s, e.full.unused, e.full.published = s, e.pool.unused, e.pool.published
			break
		}
		e.full.s = nil
		e.waiting.pop()
		if n == 0 {
			continue // it waits for its KV
		}
		e.running = append(e.running, s)
		e.active++
		e.prefill = append(e.prefill, s)
		ms += e.add(s, n)
		budget -= n
	}
	e.decodes = len(e.ends)
	if len(e.batch) == 0 && e.decodes == 0 {
		e.step--
		return e.unlock()
	}
	if ms > 0 {
		ms += e.model.PrefillBase
	}
	if e.decodes > 0 {
		ms += e.model.DecodeStep(e.decodes, e.pool.use())
	}
	e.stepEnd = e.now + max(1, time.Duration(ms*float64(time.Millisecond)))
	return true
}

// unlock takes its pages from the last waiting sequence that has some, where nothing else can free any: else all would wait for
// each other for ever. False where there is no such sequence.
func (e *engine) unlock() bool {
	if len(e.pulls) > 0 || e.active > 0 {
		return false
	}
	for i := e.waiting.len() - 1; i > 0; i-- {
		if s := e.waiting.at(i); s.pages > 0 {
			e.giveBack(s)
			return true
		}
	}
	return false
}

func (e *engine) add(s *sequence, n int) (ms float64) {
	if n == 0 {
		return 0
	}
	e.batch = append(e.batch, chunk{s, n})
	return e.model.PrefillPart(s.computed, s.computed+n)
}

// grow gives a sequence the pages for its first n tokens.
func (e *engine) grow(s *sequence, n int) bool {
	missing := pagesOf(n, e.model.BlockTokens) - s.pages
	if missing <= 0 {
		return true
	}
	if !e.pool.take(missing) {
		return false
	}
	s.pages += missing
	return true
}

// admit gives the first waiting sequence what is cached of its tokens, and pages for the next n. n is 0 where it has to wait for KV
// that comes from elsewhere; ok is false where there are too few pages.
func (e *engine) admit(s *sequence, budget int) (n int, ok bool) {
	if s.pages == 0 {
		e.reuse(s)
	}
	if from, ready := e.elsewhere(s); from > s.computed {
		if !e.grow(s, from) {
			e.giveBack(s)
			return 0, false
		}
		s.fetched = from - s.computed
		s.ready = ready
		if !s.began {
			s.cached = from
		}
		e.pull(s)
		return 0, true
	}
	n = min(s.tokens-s.computed, budget)
	if !e.grow(s, s.computed+n) {
		e.giveBack(s)
		return 0, false
	}
	if !s.began {
		s.began = true
		s.cached = s.computed
	}
	return n, true
}

// reuse gives a sequence the longest cached beginning of its tokens, of which the last is always computed.
func (e *engine) reuse(s *sequence) {
	size := e.pool.unit * e.model.BlockTokens
	for i, id := range s.blocks {
		if (i+1)*size >= s.tokens {
			break
		}
		u := e.pool.find(id)
		if u == nil {
			break
		}
		if u.pages < e.pool.unit {
			if u.refs == 0 {
				n := e.pool.adopt(u)
				s.pages += n
				s.computed += n * e.model.BlockTokens
			}
			break
		}
		e.pool.acquire(u)
		s.units = append(s.units, u)
		s.pages += u.pages
		s.computed += size
	}
}

// elsewhere is up to which token a sequence's KV comes from elsewhere, and when it will be here; 0 where computing is quicker.
func (e *engine) elsewhere(s *sequence) (tokens int, ready time.Duration) {
	if s.transfer > 0 && !s.began && s.fetched == 0 {
		return s.tokens - 1, e.now + time.Duration(float64(s.tokens-1-s.computed)*s.transfer)
	}
	if e.tiers == nil || s.fetched > 0 {
		return 0, 0
	}
	return e.tiers.fetch(s, e.now, e.model)
}

func (e *engine) pull(s *sequence) {
	i := len(e.pulls)
	for i > 0 && e.pulls[i-1].ready > s.ready {
		i--
	}
	e.pulls = slices.Insert(e.pulls, i, s)
}

// arrivePulls puts those whose KV has come in front of the queue.
func (e *engine) arrivePulls() {
	n := 0
	for n < len(e.pulls) && e.pulls[n].ready <= e.now {
		n++
	}
	for i := n - 1; i >= 0; i-- {
		s := e.pulls[i]
		s.computed += s.fetched
		s.began = true
		e.name(s)
		e.waiting.pushFront(s)
	}
	e.pulls = slices.Delete(e.pulls, 0, n)
}

// commit ends a step: every sequence whose tokens are all computed gets the next one.
func (e *engine) commit() {
	if e.decodes > 0 && e.lastCommit > 0 {
		e.told.decoded(e, e.decodes, e.now-e.lastCommit)
	}
	e.lastCommit = e.now
	for len(e.ends) > 0 && e.ends[0].lastStep <= e.step {
		s := e.ends[0]
		e.stopDecoding(s)
		s.answered = s.output
		s.tokens = s.prompt + s.output
		e.end(s)
	}
	for _, c := range e.batch {
		s := c.s
		s.computed += c.n
		e.name(s)
		if s.computed == s.tokens {
			e.advanceTo(s)
		}
	}
	if len(e.running) > 2*e.active+16 {
		e.running = slices.DeleteFunc(e.running, func(s *sequence) bool { return s.ended })
	}
}

// advanceTo gives a sequence the token after its prompt, or after what it had to compute again.
func (e *engine) advanceTo(s *sequence) {
	e.stopPrefill(s)
	s.tokens++
	s.answered++
	if s.answered == 1 {
		e.told.first(s, e.now)
	}
	if s.answered >= s.output || s.handOver {
		e.end(s)
		return
	}
	size := len(e.boundary)
	s.key = ((s.computed-e.step-1)%size + size) % size
	e.boundary[s.key]++
	s.lastStep = e.step + s.output - s.answered
	e.ends.push(s)
}

// settle brings a decoding sequence's own numbers up to date.
func (e *engine) settle(s *sequence) {
	s.answered = s.output - (s.lastStep - e.step)
	s.tokens = s.prompt + s.answered
	s.computed = s.tokens - 1
	s.pages = pagesOf(s.computed, e.model.BlockTokens)
}

func pagesOf(tokens, size int) int { return (tokens + size - 1) / size }

func (e *engine) stopDecoding(s *sequence) {
	e.settle(s)
	e.ends.remove(s)
	e.boundary[s.key]--
}

func (e *engine) stopPrefill(s *sequence) {
	if i := slices.Index(e.prefill, s); i >= 0 {
		e.prefill = slices.Delete(e.prefill, i, i+1)
	}
}

func (e *engine) end(s *sequence) {
	s.ended = true
	e.active--
	e.giveBack(s)
	e.told.done(s, e.now)
}

// name makes the units that a sequence has filled since findable.
func (e *engine) name(s *sequence) {
	size := e.pool.unit * e.model.BlockTokens
	for i := len(s.units); i < len(s.blocks) && (i+1)*size <= s.computed; i++ {
		u := e.pool.publish(s.blocks[i])
		s.units = append(s.units, u)
		if u != nil {
			e.told.stored(e, gpuTier, u.id, true)
			if e.tiers != nil {
				e.tiers.store(s, i, e.now)
			}
		}
	}
}

// giveBack takes back all that a sequence has, the last pages first.
func (e *engine) giveBack(s *sequence) {
	own := s.pages
	for _, u := range s.units {
		if u != nil {
			own -= u.pages
		}
	}
	e.pool.leave(max(0, own))
	for i := len(s.units) - 1; i >= 0; i-- {
		if u := s.units[i]; u != nil {
			e.pool.release(u)
		}
	}
	s.units, s.pages, s.computed = s.units[:0], 0, 0
}

// preempt sends the sequence that came last back to the queue, without its pages.
func (e *engine) preempt() *sequence {
	for i := len(e.running) - 1; i >= 0; i-- {
		s := e.running[i]
		if s.ended {
			e.running = e.running[:i]
			continue
		}
		if s.place > 0 {
			e.stopDecoding(s)
			s.answered-- // it gets none in the step that is being scheduled, of which only a page may have come
			s.tokens--
			if !e.crossed {
				s.pages = pagesOf(s.computed-1, e.model.BlockTokens)
			}
		} else {
			e.stopPrefill(s)
			e.unbatch(s)
		}
		e.running = e.running[:i]
		e.active--
		s.fetched = 0
		s.transfer = 0
		e.giveBack(s)
		e.waiting.pushFront(s)
		e.preempted++
		return s
	}
	return nil
}

func (e *engine) unbatch(s *sequence) {
	e.batch = slices.DeleteFunc(e.batch, func(c chunk) bool { return c.s == s })
}
