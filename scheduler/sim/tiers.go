package sim

import (
	"time"

	"github.com/penstock/penstock/kvstore/evict"
	"github.com/penstock/penstock/kvstore/index"
	"github.com/penstock/penstock/scheduler/scale"
)

// The tiers of kvstore/index, fastest first.
const (
	gpuTier    = int(index.GPU)
	hostTier   = int(index.Host)
	diskTier   = int(index.Disk)
	objectTier = int(index.Object)
)

// Tier is a store of KV below the GPU.
type Tier struct {
	Bytes     int64   // that it holds; 0 = there is none
	Bandwidth float64 // bytes per second of a replica's reads, one after the other
}

// store is one tier's contents, in the order of kvstore/evict.
type store struct {
	tier     int
	order    *evict.Order
	capacity int64 // in blocks
	perToken float64
	free     time.Duration // when its reads so far will have been done
}

// tiers are the stores below one replica's GPU, host memory first. What is computed is stored in the first one at once; what has no
// room there goes to the next one. The object store is shared by all replicas.
type tiers struct {
	e      *engine
	stores []*store
	block  int                    // tokens
	depth  func(id uint64) uint32 // of a block in its chain
}

func newStore(tier int, t Tier, blockTokens int, bytesPerToken float64) *store {
	if t.Bytes <= 0 {
		return nil
	}
	capacity := int64(float64(t.Bytes) / (float64(blockTokens) * bytesPerToken))
	return &store{
		tier: tier, order: evict.New(evict.LRU, capacity), capacity: capacity,
		perToken: bytesPerToken / max(1, t.Bandwidth) * float64(time.Second),
	}
}

// store puts the i-th block of a sequence into the first tier.
func (t *tiers) store(s *sequence, i int, now time.Duration) {
	entry := evict.Entry{Tag: s.blocks[i], Weight: 1, Depth: uint32(i), Chained: true}
	if i > 0 {
		entry.Parent = evict.TraceID(s.blocks[i-1])
	}
	t.put(0, entry, now)
}

func (t *tiers) put(level int, entry evict.Entry, now time.Duration) {
	if level == len(t.stores) {
		return
	}
	st := t.stores[level]
	if st.capacity == 0 {
		t.put(level+1, entry, now)
		return
	}
	id := evict.TraceID(entry.Tag)
	use := evict.Use{Now: int64(now)}
	if n, ok := st.order.Find(id); ok {
		st.order.Touch(n, use)
		return
	}
	for st.order.Weight() >= st.capacity {
		gone, ok := st.order.Victim(nil)
		if !ok {
			return
		}
		t.e.told.stored(t.e, st.tier, gone.Tag, false)
		down := evict.Entry{Tag: gone.Tag, Weight: 1, Chained: gone.HasParent}
		if gone.HasParent {
			down.Parent, down.Depth = evict.TraceID(gone.Parent), t.depth(gone.Tag)
		}
		t.put(level+1, down, now)
	}
	st.order.Insert(id, entry, use)
	t.e.told.stored(t.e, st.tier, entry.Tag, true)
}

// fetch is up to which token the stores have a sequence's KV, and when it will be here, where that is sooner than it could be computed.
func (t *tiers) fetch(s *sequence, now time.Duration, m scale.Model) (tokens int, ready time.Duration) {
	ready = now
	at := s.computed
	for i := at / t.block; i < len(s.blocks) && (i+1)*t.block < s.tokens; i++ {
		st := t.holder(s.blocks[i])
		if st == nil {
			break
		}
		end := (i + 1) * t.block
		done := max(ready, st.free) + time.Duration(float64(end-at)*st.perToken)
		if float64(done-now) > m.PrefillPart(s.computed, end)*float64(time.Millisecond) {
			break
		}
		at, ready = end, done
	}
	if at == s.computed {
		return 0, 0
	}
	from := s.computed
	for i := from / t.block; (i+1)*t.block <= at; i++ {
		st := t.holder(s.blocks[i])
		st.free = max(st.free, now) + time.Duration(float64(t.block)*st.perToken)
		n, _ := st.order.Find(evict.TraceID(s.blocks[i]))
		st.order.Touch(n, evict.Use{Now: int64(now)})
	}
	return at, ready
}

func (t *tiers) holder(id uint64) *store {
	for _, st := range t.stores {
		if _, ok := st.order.Find(evict.TraceID(id)); ok {
			return st
		}
	}
	return nil
}
