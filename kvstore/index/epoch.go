package index

import "sync/atomic"

// Readers look at records and sets without a lock, so memory and numbers that the writer no longer needs must wait until every reader
// that might still see them has gone. A reader counts itself into the current epoch and out again. The writer goes on to the
// next epoch when nobody is left in the one before the current; what was retired two epochs ago is then seen by nobody.
// Neither waits: a reader that is held up only delays the reuse.
type epochs struct {
	current atomic.Uint64
	stripes [stripes]stripe
	next    atomic.Uint32 // stripe for the next Reader
	limbo   [3]limbo
}

const stripes = 8

// stripe counts readers by epoch, on a cache line that few readers share.
type stripe struct {
	in [3]atomic.Int64
	_  [5]int64
}

// limbo is what was retired in one epoch.
type limbo struct {
	records []position
	sets    []ref
	numbers []uint32
}

func (e *epochs) init() { e.current.Store(2) }

// enter counts a reader in and says into which epoch. It repeats only if the writer went on at this very moment.
func (e *epochs) enter(s *stripe) uint64 {
	for {
		now := e.current.Load()
		s.in[now%3].Add(1)
		if e.current.Load() == now {
			return now
		}
		s.in[now%3].Add(-1)
	}
}

func (e *epochs) leave(s *stripe, epoch uint64) { s.in[epoch%3].Add(-1) }

// retire keeps a set until nobody can see it.
func (e *epochs) retire(r ref) {
	l := &e.limbo[e.current.Load()%3]
	l.sets = append(l.sets, r)
}

// retireRecord keeps a record until nobody can see it.
func (e *epochs) retireRecord(p position) {
	l := &e.limbo[e.current.Load()%3]
	l.records = append(l.records, p)
}

// advance goes on to the next epoch if nobody is left in the previous one, and gives what can be used again.
func (e *epochs) advance() *limbo {
	now := e.current.Load()
	previous := (now + 2) % 3
	for i := range e.stripes {
		if e.stripes[i].in[previous].Load() != 0 {
			return nil
		}
	}
	e.current.Store(now + 1)
	return &e.limbo[previous]
}

func (e *epochs) waiting() bool {
	for i := range e.limbo {
		if l := &e.limbo[i]; len(l.records)+len(l.sets)+len(l.numbers) > 0 {
			return true
		}
	}
	return false
}

// reclaim makes usable again what no reader can see any more.
func (x *Index) reclaim() {
	for range 2 {
		if !x.epochs.waiting() {
			return
		}
		l := x.epochs.advance()
		if l == nil {
			return
		}
		for _, p := range l.records {
			x.records.giveBack(p)
		}
		for _, r := range l.sets {
			x.sets.free(r)
		}
		x.numbers.free = append(x.numbers.free, l.numbers...)
		l.records, l.sets, l.numbers = l.records[:0], l.sets[:0], l.numbers[:0]
	}
}

// numbers are what elements name workers by: small, and used again once nothing names them.
type numbers struct {
	free []uint32
	top  uint32
}

func (n *numbers) init() { n.top = 1 }

func (n *numbers) take() (uint32, bool) {
	if k := len(n.free); k > 0 {
		number := n.free[k-1]
		n.free = n.free[:k-1]
		return number, true
	}
	if n.top > MaxWorkers {
		return 0, false
	}
	n.top++
	return n.top - 1, true
}
