package evict

import "math"

// Replay is a cache of so many blocks that is asked for one request after the other: first its leading run is looked up,
// then all its blocks are stored. Outputs are not stored.
type Replay struct {
	order    *Order
	capacity int64
	stay     int64 // ms for which a conversation that goes on is expected to; 0 = no hint is given
	next     *uses // of the clairvoyant, which knows when each block is used next
	Result
}

// Result counts blocks.
type Result struct {
	Asked    int64 // of all requests
	Usable   int64 // of leading runs that were resident
	Resident int64 // resident wherever in the request: more than Usable means that room is wasted on what nobody can use
}

// Ratio is a part of the blocks asked for.
func (r Result) Ratio(n int64) float64 {
	if r.Asked == 0 {
		return 0
	}
	return float64(n) / float64(r.Asked)
}

// NewReplay begins with an empty cache of so many blocks. stay is the session hint: for how many ms after a request that
// goes on its blocks are expected to be used again; 0 gives no hints.
func NewReplay(p Policy, blocks, stay int64) *Replay {
	return &Replay{order: New(p, blocks), capacity: blocks, stay: stay}
}

// NewClairvoyant is the bound: it knows the whole trace and forgets what is used last from now (Belady's choice, among
// leaves). The requests must then come in the trace's order.
func NewClairvoyant(trace []Request, blocks int64) *Replay {
	return &Replay{order: New(LRU, blocks), capacity: blocks, next: usesOf(trace)}
}

// Serve asks for one request.
func (r *Replay) Serve(req Request) {
	r.Asked += int64(len(req.Blocks))
	usable := true
	for _, b := range req.Blocks {
		_, there := r.order.Find(TraceID(b))
		if usable = usable && there; usable {
			r.Usable++
		}
		if there {
			r.Resident++
		}
	}
	for i, b := range req.Blocks {
		r.store(req, i, b)
	}
	if r.next != nil {
		r.next.served(req)
	}
}

func (r *Replay) store(req Request, i int, b uint64) {
	u := r.use(req, b)
	if n, there := r.order.Find(TraceID(b)); there {
		r.order.Touch(n, u)
		return
	}
	e := Entry{Tag: b, Weight: 1, Depth: uint32(i), Chained: true}
	if i > 0 {
		e.Parent = TraceID(req.Blocks[i-1])
		if _, there := r.order.Find(e.Parent); !there {
			return // the request alone is longer than the cache
		}
	}
	own := func(tag uint64) bool { return i > 0 && tag == req.Blocks[i-1] }
	for r.order.Weight() >= r.capacity {
		if _, ok := r.order.Victim(own); !ok {
			return
		}
	}
	r.order.Insert(TraceID(b), e, u)
}

// use is what the cache is told of a block that is asked for.
func (r *Replay) use(req Request, b uint64) Use {
	switch {
	case r.next != nil:
		return Use{Stay: r.next.rank(b)}
	case r.stay == 0:
		return Use{Now: req.At}
	case req.GoesOn:
		return Use{Now: req.At, Stay: req.At + r.stay}
	}
	return Use{Now: req.At, Stay: max(req.At, 1)}
}

// uses knows at which requests each block is used.
type uses struct {
	at  map[uint64][]int32
	now int32
}

func usesOf(trace []Request) *uses {
	u := &uses{at: map[uint64][]int32{}}
	for i, r := range trace {
		for _, b := range r.Blocks {
			u.at[b] = append(u.at[b], int32(i))
		}
	}
	return u
}

// rank is the higher the sooner the block is used again; 1 = never.
func (u *uses) rank(b uint64) int64 {
	for _, at := range u.at[b] {
		if at > u.now {
			return math.MaxInt64/2 - int64(at)
		}
	}
	return 1
}

// served moves on, and forgets the uses that are past.
func (u *uses) served(req Request) {
	for _, b := range req.Blocks {
		for len(u.at[b]) > 0 && u.at[b][0] <= u.now {
			u.at[b] = u.at[b][1:]
		}
	}
	u.now++
}
