package index

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the same thing without any cleverness.
type model struct {
	held  map[uint64]map[Worker]TierSet
	alive map[Worker]bool
}

func newModel() *model {
	return &model{held: map[uint64]map[Worker]TierSet{}, alive: map[Worker]bool{}}
}

func (m *model) store(w Worker, t Tier, ids []uint64) {
	for _, id := range ids {
		if m.held[id] == nil {
			m.held[id] = map[Worker]TierSet{}
		}
		m.held[id][w] |= Only(t)
	}
}

func (m *model) take(w Worker, tiers TierSet, ids []uint64) {
	for _, id := range ids {
		if left := m.held[id][w] &^ tiers; left != 0 {
			m.held[id][w] = left
		} else {
			delete(m.held[id], w)
		}
		if len(m.held[id]) == 0 {
			delete(m.held, id)
		}
	}
}

func (m *model) clear(w Worker, tiers TierSet) { m.take(w, tiers, slices.Collect(maps.Keys(m.held))) }

func (m *model) match(ids []uint64) map[Worker][Tiers]uint32 {
	out := map[Worker][Tiers]uint32{}
	if len(ids) == 0 {
		return out
	}
	for w := range m.held[ids[0]] {
		var lead [Tiers]uint32
		for t := range lead {
			for _, id := range ids {
				if m.held[id][w]&(1<<(t+1)-1) == 0 {
					break
				}
				lead[t]++
			}
		}
		out[w] = lead
	}
	return out
}

func matches(t interface{ Fatalf(string, ...any) }, r *Reader, ids []uint64) map[Worker][Tiers]uint32 {
	out := map[Worker][Tiers]uint32{}
	for _, m := range r.Match(ids, nil) {
		if _, twice := out[m.Worker]; twice {
			t.Fatalf("worker %d matched twice", m.Worker)
		}
		out[m.Worker] = m.Lead
	}
	return out
}

// world is an index beside its model.
type world struct {
	x       *Index
	r       *Reader
	m       *model
	workers []Worker
	chains  [][]uint64
}

func newWorld(workers, chains, length int, seed uint64) *world {
	w := &world{x: New(Limit{}), m: newModel()}
	w.r = w.x.NewReader()
	for range workers {
		w.join()
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	for range chains { // chains branch off from each other
		var chain []uint64
		if len(w.chains) > 0 && rng.IntN(2) == 0 {
			other := w.chains[rng.IntN(len(w.chains))]
			chain = slices.Clone(other[:rng.IntN(len(other)+1)])
		}
		for len(chain) < length {
			chain = append(chain, rng.Uint64())
		}
		w.chains = append(w.chains, chain)
	}
	w.chains = append(w.chains, []uint64{0, 1, 2, 3}) // no hashes at all
	return w
}

func (w *world) join() {
	n, err := w.x.Add()
	if err != nil {
		panic(err)
	}
	w.workers = append(w.workers, n)
	w.m.alive[n] = true
}

// step makes one change to both. choose(n) gives a number below n.
func (w *world) step(choose func(int) int) {
	if len(w.workers) == 0 {
		w.join()
	}
	i := choose(len(w.workers))
	worker, tier := w.workers[i], Tier(choose(Tiers))
	chain := w.chains[choose(len(w.chains))]
	from := choose(len(chain))
	part := chain[from : from+1+choose(len(chain)-from)]
	switch k := choose(20); {
	case k < 10:
		w.x.Store(worker, tier, part)
		w.m.store(worker, tier, part)
	case k < 12:
		w.x.Store(worker, tier, chain)
		w.m.store(worker, tier, chain)
	case k < 16:
		w.x.Remove(worker, tier, part)
		w.m.take(worker, Only(tier), part)
	case k == 16:
		tiers := TierSet(choose(int(AllTiers) + 1))
		w.x.Clear(worker, tiers)
		w.m.clear(worker, tiers)
	case k == 17:
		w.x.Drop(worker)
		w.m.clear(worker, AllTiers)
		w.workers = slices.Delete(w.workers, i, i+1)
	case k == 18:
		w.join()
	default:
		w.x.Sweep(choose(3))
	}
}

func (w *world) check(t interface{ Fatalf(string, ...any) }) {
	for _, chain := range w.chains {
		got, want := matches(t, w.r, chain), w.m.match(chain)
		if !maps.Equal(got, want) {
			t.Fatalf("%d blocks from %x: %v, want %v", len(chain), chain[0], got, want)
		}
	}
}

// exact compares the whole content, block by block, after all sweeping, and what is counted.
func (w *world) exact(t interface{ Fatalf(string, ...any) }) {
	for w.x.Sweep(1 << 20) {
	}
	if n := w.x.Stats().Blocks; n != len(w.m.held) {
		t.Fatalf("%d blocks, want %d", n, len(w.m.held))
	}
	for id := range w.m.held {
		if got, want := matches(t, w.r, []uint64{id}), w.m.match([]uint64{id}); !maps.Equal(got, want) {
			t.Fatalf("block %x: %v, want %v", id, got, want)
		}
	}
	blocks := map[value]uint32{}
	for _, c := range *w.x.records.dir.Load() {
		for i := 1; i < len(c); i += 2 {
			blocks[value(c[i])]++
		}
	}
	shares := 0
	for v, n := range blocks {
		if v.shared() {
			shares++
			if c := w.x.sets.words(v.ref())[wordBlocks]; c != n {
				t.Fatalf("set %x counts %d blocks, %d have it", v, c, n)
			}
		}
	}
	if shares != w.x.sets.count {
		t.Fatalf("%d sets are kept, %d are used", w.x.sets.count, shares)
	}
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(1, 9).Draw(t, "workers"), 6, rapid.IntRange(1, 90).Draw(t, "length"), rapid.Uint64().Draw(t, "seed"))
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") })
			if i%8 == 0 {
				w.check(t)
			}
		}
		w.exact(t)
	})
}

// TestManyBlocks has segments split and be cleaned, slabs be cut anew, and the dead be swept meanwhile.
func TestManyBlocks(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(40, 100, 250, seed)
			rng := rand.New(rand.NewPCG(seed, 2))
			for i := range 1000 {
				w.step(rng.IntN)
				if i%250 == 0 {
					w.check(t)
				}
			}
			w.exact(t)
			for _, n := range w.workers {
				w.x.Drop(n)
				w.m.clear(n, AllTiers)
			}
			w.workers = nil
			w.exact(t)
			if s := w.x.Stats(); s.Blocks != 0 || s.Sets != 0 || s.Workers != 0 {
				t.Errorf("left behind: %+v", s)
			}
		})
	}
}

// TestOrderDoesNotMatter: any order of the same stores gives the same index.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := newWorld(6, 4, 20, 7), newWorld(6, 4, 20, 7)
		type op struct {
			w     Worker
			t     Tier
			chain int
			to    int
		}
		ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) op {
			return op{
				Worker(rapid.IntRange(1, 6).Draw(t, "w")), Tier(rapid.IntRange(0, 3).Draw(t, "t")),
				rapid.IntRange(0, 3).Draw(t, "chain"), rapid.IntRange(0, 20).Draw(t, "to"),
			}
		}), 1, 20).Draw(t, "ops")
		for _, o := range ops {
			a.x.Store(o.w, o.t, a.chains[o.chain][:o.to])
		}
		for _, o := range rapid.Permutation(ops).Draw(t, "order") {
			b.x.Store(o.w, o.t, b.chains[o.chain][:o.to])
		}
		for _, chain := range a.chains {
			if got, want := matches(t, a.r, chain), matches(t, b.r, chain); !maps.Equal(got, want) {
				t.Fatalf("%v, in another order %v", got, want)
			}
		}
	})
}
