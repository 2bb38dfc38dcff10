package tiered

import (
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
)

// lane is the way down to one tier, and back: what waits to be written there, what must not be read there, and how the
// tier has been behaving.
type lane struct {
	tier    Tier
	log     zerolog.Logger
	breaker breaker
	reads   pace
	writes  pace
	meter   meter
	counters

	mu     sync.Mutex
	jobs   map[kvstore.Key]*job
	queue  []kvstore.Key // of jobs that nobody works at
	bytes  int64
	checks int // jobs without a block
	doubts doubts
	closed bool
	wake   chan struct{}
}

// counters count what happened to blocks on their way down.
type counters struct {
	moved, movedBytes, there     atomic.Int64 // written; found to be there already
	promoted                     atomic.Int64 // read, and stored in the first tier
	full, failed, corrupt, ended atomic.Int64 // dropped: no room in the queue or the tier, the tier's error, bad bytes, the end
}

// job is work at one key of a tier. While it exists without a block, the key is in doubt: the tier may hold older bytes,
// and is not asked for it.
type job struct {
	key   kvstore.Key
	block *kvstore.Block // to be written; nil: take away what has another checksum, or with purge whatever there is
	hint  kvstore.Hint
	sum   uint32
	purge bool
	busy  bool
	ended chan struct{} // of a busy one: closed at its end
	next  *job          // what to do then
}

// maxChecks bounds the keys in doubt that are remembered one by one; see doubts.
const maxChecks = 1 << 16

func newLane(t Tier, log zerolog.Logger) *lane {
	return &lane{
		tier: t, log: log, jobs: map[kvstore.Key]*job{}, wake: make(chan struct{}, 1),
		breaker: breaker{limit: t.Failures, cooldown: t.Cooldown}, reads: pace{rate: t.ReadRate}, writes: pace{rate: t.WriteRate},
	}
}

// offer queues a block to be written, or drops it. It is a kvstore.Overflow.
func (l *lane) offer(k kvstore.Key, b *kvstore.Block, h kvstore.Hint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	newest := l.newest(k)
	switch {
	case l.closed:
		l.ended.Add(1)
	case newest != nil && newest.block != nil && newest.sum == b.Sum():
	case l.bytes > 0 && l.bytes+int64(b.Len()) > l.tier.QueueBytes: // one alone always fits
		l.full.Add(1)
	default:
		l.bytes += int64(b.Len())
		l.set(&job{key: k, block: b.Retain(), hint: h, sum: b.Sum()})
	}
}

// supersede says that from now on the key's bytes are those of the checksum: others are out of reach.
func (l *lane) supersede(k kvstore.Key, sum uint32) { l.doubt(&job{key: k, sum: sum}) }

// forget says that from now on the key has no bytes.
func (l *lane) forget(k kvstore.Key) { l.doubt(&job{key: k, purge: true}) }

func (l *lane) doubt(j *job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	newest := l.newest(j.key)
	switch {
	case l.closed, newest != nil && newest.block != nil && newest.sum == j.sum && !j.purge:
	case newest == nil && l.checks >= maxChecks:
		l.doubts.add(j.key)
	default:
		l.set(j)
	}
}

// newest is what is to be true of a key at last.
func (l *lane) newest(k kvstore.Key) *job {
	j := l.jobs[k]
	if j != nil && j.next != nil {
		return j.next
	}
	return j
}

// set makes a job the newest of its key.
func (l *lane) set(j *job) {
	if j.block == nil {
		l.checks++
	}
	switch old := l.jobs[j.key]; {
	case old == nil:
		l.jobs[j.key] = j
		l.push(j.key)
	case old.busy:
		if old.next != nil {
			l.discard(old.next)
		}
		old.next = j
	default: // it keeps its place in the queue
		l.discard(old)
		l.jobs[j.key] = j
	}
}

func (l *lane) push(k kvstore.Key) {
	l.queue = append(l.queue, k)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// discard gives back what a job held.
func (l *lane) discard(j *job) {
	if j.block == nil {
		l.checks--
		return
	}
	l.bytes -= int64(j.block.Len())
	j.block.Release()
	j.block = nil
}

// take begins the next job; nil = there is none.
func (l *lane) take() *job {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) > 0 {
		k := l.queue[0]
		l.queue = l.queue[1:]
		if j := l.jobs[k]; j != nil && !j.busy {
			j.begin()
			if len(l.queue) > 0 {
				select {
				case l.wake <- struct{}{}: // for the next worker
				default:
				}
			}
			return j
		}
	}
	l.queue = nil
	return nil
}

func (j *job) begin() { j.busy, j.ended = true, make(chan struct{}) }

// takeKey begins the key's job; nil = there is none, or somebody is at it: busy is then closed at the end of it.
func (l *lane) takeKey(k kvstore.Key) (mine *job, busy <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch j := l.jobs[k]; {
	case j == nil:
		return nil, nil
	case j.busy:
		return nil, j.ended
	default:
		j.begin()
		return j, nil
	}
}

// finish ends a job; then = what is still to be done about its key, if nothing newer is, nil = nothing.
func (l *lane) finish(j, then *job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(j.ended)
	if j.next != nil {
		then = j.next
	} else if then != nil && then != j && then.block == nil {
		l.checks++
	}
	if then != j {
		l.discard(j)
	}
	switch {
	case then == nil:
		delete(l.jobs, j.key)
	case l.closed:
		l.discard(then)
		delete(l.jobs, j.key)
	default:
		then.busy = false
		l.jobs[j.key] = then
		l.push(j.key)
	}
}

// find returns the key's block if it waits to be written; doubt: the tier must not be asked for the key.
func (l *lane) find(k kvstore.Key) (b *kvstore.Block, doubt bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch j := l.newest(k); {
	case j == nil:
		return nil, l.doubts.has(k)
	case j.block == nil:
		return nil, true
	default:
		return j.block.Retain(), false
	}
}

// doubtful says whether the tier must not be asked for a key.
func (l *lane) doubtful(k kvstore.Key) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := l.newest(k)
	return j == nil && l.doubts.has(k) || j != nil && j.block == nil
}

// eachWaiting calls each with every block that waits to be written, lent.
func (l *lane) eachWaiting(each func(*job)) {
	l.mu.Lock()
	var all []job
	for k := range l.jobs {
		if j := l.newest(k); j.block != nil {
			all = append(all, job{key: k, block: j.block.Retain(), hint: j.hint})
		}
	}
	l.mu.Unlock()
	for i := range all {
		each(&all[i])
		all[i].block.Release()
	}
}

// waiting is what is queued.
func (l *lane) waiting() (jobs int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.jobs), l.bytes
}

// close drops what is queued. Jobs that somebody is at are dropped when they end.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.queue = nil
	for k, j := range l.jobs {
		if j.busy {
			continue
		}
		if j.block != nil {
			l.ended.Add(1)
		}
		l.discard(j)
		delete(l.jobs, k)
	}
}
