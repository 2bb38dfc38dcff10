package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/kvstore/index"
	"github.com/penstock/penstock/scheduler/route"
)

// What the index is measured with. A prompt is one event.
const (
	indexPrompt  = 512 // blocks
	indexPrompts = 2048
	indexFor     = 600 * time.Millisecond // of CPU time for each figure
	indexRounds  = 3
)

// benchRoute measures the index of blocks and the choice of a replica.
func benchRoute(_ context.Context, o *options, r *report) error {
	if o.profile != "" {
		stop, err := startProfile("route")
		if err != nil {
			return err
		}
		defer stop()
	}
	threads := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(threads)
	r.note("index: prompts of %d blocks, %d prompts; rates per second of CPU time of the whole process, its garbage collector too", indexPrompt, indexPrompts)
	if err := indexRates(r); err != nil {
		return err
	}
	indexMemory(r)
	if err := choiceCost(r); err != nil {
		return err
	}
	runtime.GOMAXPROCS(2)
	indexThreads(r)
	return nil
}

// choiceCost is the CPU time of one choice among 1,000 candidates, where all are alike and where loads and caches differ.
func choiceCost(r *report) error {
	const candidates, goal = 1000, 20.0 // µs
	rng := rand.New(rand.NewPCG(13, 14))
	now := time.Now()
	for _, spread := range []int{1, 100} {
		list := make([]route.Candidate, candidates)
		for i := range list {
			list[i] = route.Candidate{
				Launch: fmt.Sprintf("01HQ%022d", i), Inflight: rng.IntN(spread), Running: new(rng.IntN(spread)), Waiting: new(0),
				KVUsage: new(0.5), SeenAt: now, EndsAt: now.Add(time.Hour),
			}
			if spread > 1 && i%4 == 0 {
				n := rng.IntN(900)
				list[i].Cached = [route.Tiers]int{n, n + 100, n + 100, n + 100}
			}
		}
		request, n := route.Request{PromptTokens: 1000, Now: now}, 0
		var fault error
		rate := perSecond(func() int {
			n++
			request.ID = strconv.Itoa(n)
			if _, err := route.Pick(request, list); err != nil {
				fault = err
			}
			return 1
		})
		if fault != nil {
			return fault
		}
		r.figure(map[int]string{1: "choice_1000_alike", 100: "choice_1000"}[spread], 1e6/rate, "us", "goal", goal, less)
	}
	return nil
}

// blockIndex is what an index and the reference have in common.
type blockIndex interface {
	store(worker int, t index.Tier, ids []uint64)
	remove(worker int, t index.Tier, ids []uint64)
	match(ids []uint64) int // how many workers hold something
}

// ours is the index with workers by number.
type ours struct {
	*index.Index
	names  []index.Worker
	reader *index.Reader
	out    []index.Match
}

func newOurs(workers int) *ours {
	x := index.New(index.Limit{})
	o := &ours{Index: x, reader: x.NewReader()}
	for range workers {
		w, err := x.Add()
		if err != nil {
			panic(err)
		}
		o.names = append(o.names, w)
	}
	return o
}

func (o *ours) store(w int, t index.Tier, ids []uint64)  { o.Store(o.names[w], t, ids) }
func (o *ours) remove(w int, t index.Tier, ids []uint64) { o.Remove(o.names[w], t, ids) }
func (o *ours) match(ids []uint64) int {
	o.out = o.reader.Match(ids, o.out[:0])
	return len(o.out)
}

// goMap is the reference: the same thing as one would write it first, a map from block to a small map of its holders.
type goMap struct {
	sync.RWMutex
	held map[uint64]map[int]uint8
	lead map[int]int
}

func newGoMap() *goMap { return &goMap{held: map[uint64]map[int]uint8{}, lead: map[int]int{}} }

func (g *goMap) store(w int, t index.Tier, ids []uint64) {
	g.Lock()
	defer g.Unlock()
	for _, id := range ids {
		m := g.held[id]
		if m == nil {
			m = map[int]uint8{}
			g.held[id] = m
		}
		m[w] |= 1 << t
	}
}

func (g *goMap) remove(w int, t index.Tier, ids []uint64) {
	g.Lock()
	defer g.Unlock()
	for _, id := range ids {
		m := g.held[id]
		if m[w] &^= 1 << t; m[w] == 0 {
			delete(m, w)
		}
		if len(m) == 0 {
			delete(g.held, id)
		}
	}
}

func (g *goMap) match(ids []uint64) int {
	g.RLock()
	defer g.RUnlock()
	clear(g.lead)
	active := []int{}
	for i, id := range ids {
		m := g.held[id]
		if i == 0 {
			for w := range m {
				active = append(active, w)
			}
		}
		active = slices.DeleteFunc(active, func(w int) bool {
			if m[w] != 0 {
				g.lead[w]++
			}
			return m[w] == 0
		})
		if len(active) == 0 {
			break
		}
	}
	return len(g.lead)
}

// prompts are chains of names; half of them begin with one of 16 common halves.
func prompts(rng *rand.Rand, n int, half bool) [][]uint64 {
	var common [16][]uint64
	for i := range common {
		common[i] = random(rng, indexPrompt/2)
	}
	out := make([][]uint64, n)
	for i := range out {
		if half {
			out[i] = append(out[i], common[i%16]...)
		}
		out[i] = append(out[i], random(rng, indexPrompt-len(out[i]))...)
	}
	return out
}

func random(rng *rand.Rand, n int) []uint64 {
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = rng.Uint64()
	}
	return ids
}

// fill gives each prompt to one worker, and the common halves to all.
func fill(x blockIndex, workers int, all [][]uint64, half bool) {
	for i, p := range all {
		x.store(i%workers, index.GPU, p)
	}
	if half {
		for _, p := range all[:16] {
			for w := range workers {
				x.store(w, index.GPU, p[:indexPrompt/2])
			}
		}
	}
}

// cpuNow is the CPU time of this process.
func cpuNow() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perSecond calls f, which says how many it did, for a while of CPU time.
func perSecond(f func() int) float64 {
	begin, done := cpuNow(), 0
	for {
		done += f()
		if used := cpuNow() - begin; used >= indexFor {
			return float64(done) / used.Seconds()
		}
	}
}

// times is the median of some rounds of a and b in turn; each of b may be nil.
func times(a, b func() float64) (x, y float64) {
	var xs, ys []float64
	for range indexRounds {
		runtime.GC()
		xs, ys = append(xs, a()), append(ys, b())
	}
	return median(xs), median(ys)
}

// churn is an index in which every prompt has its place, and new ones take old ones' places: a prompt goes to the GPU, later
// to host memory, then it is forgotten.
type churn struct {
	x       blockIndex
	rng     *rand.Rand
	workers int
	gpu     [][]uint64
	host    [][]uint64
	at      int
	fresh   func() []uint64 // the prompt that comes
}

func newChurn(x blockIndex, workers int, all [][]uint64) *churn {
	c := &churn{x: x, rng: rand.New(rand.NewPCG(5, 6)), workers: workers, gpu: slices.Clone(all), host: make([][]uint64, len(all)/2)}
	c.fresh = func() []uint64 { return random(c.rng, indexPrompt) }
	return c
}

// step stores one prompt on a GPU and moves another down; blocks stored.
func (c *churn) step(fresh []uint64) int {
	at := c.at % len(c.gpu)
	w := at % c.workers
	old := c.gpu[at]
	low := &c.host[at%len(c.host)]
	c.x.store(w, index.GPU, fresh)
	c.x.store(w, index.Host, old)
	c.x.remove(w, index.GPU, old)
	c.x.remove((at%len(c.host))%c.workers, index.Host, *low)
	c.gpu[at], *low = fresh, old
	c.at++
	return 2 * len(fresh)
}

// rate stores prompts that were made before the clock ran.
func (c *churn) rate() float64 {
	var spent time.Duration
	done := 0
	for spent < indexFor {
		batch := make([][]uint64, 64)
		for i := range batch {
			batch[i] = c.fresh()
		}
		begin := cpuNow()
		for _, p := range batch {
			done += c.step(p)
		}
		spent += cpuNow() - begin
	}
	return float64(done) / spent.Seconds()
}

func indexRates(r *report) error {
	rng := rand.New(rand.NewPCG(1, 2))
	uniq := prompts(rng, indexPrompts, false)
	a, b := newOurs(64), newGoMap()
	fill(a, 64, uniq, false)
	fill(b, 64, uniq, false)
	lookup := func(x blockIndex, of [][]uint64) func() float64 {
		return func() float64 {
			return perSecond(func() int {
				n := 0
				for range 16 {
					if x.match(of[rng.IntN(len(of))]) > 0 {
						n++
					}
				}
				return n
			})
		}
	}
	x, y := times(lookup(a, uniq), lookup(b, uniq))
	r.figure("index_match_uniq", x, "1/s", "GoMap", y, more)
	r.figure("index_match_uniq_goal", x, "1/s", "goal", 30_000, more)
	quiet := x

	ca, cb := newChurn(a, 64, uniq), newChurn(b, 64, uniq)
	x, y = times(ca.rate, cb.rate)
	r.figure("index_insert", x, "blocks/s", "GoMap", y, more)
	r.figure("index_insert_goal", x, "blocks/s", "goal", 5e6, more)
	r.note("insert: each new prompt of a GPU pushes one down to host memory and one out of it: all of it is in the time, stored blocks are counted")

	x = median([]float64{matchesInChurn(ca, quiet), matchesInChurn(ca, quiet), matchesInChurn(ca, quiet)})
	r.figure("index_match_uniq_churn", x, "1/s", "without_churn", quiet, more)

	half := prompts(rng, indexPrompts, true)
	a, b = newOurs(512), newGoMap()
	fill(a, 512, half, true)
	fill(b, 512, half, true)
	x, y = times(lookup(a, half), lookup(b, half))
	r.figure("index_match_half_512", x, "1/s", "GoMap", y, more)
	r.figure("index_match_half_512_goal", x, "1/s", "goal", 40_000, more)
	return indexRandom(r, quiet)
}

// matchesInChurn counts matches while 10 % of the blocks are replaced in each second of CPU time.
func matchesInChurn(c *churn, rate float64) float64 {
	each := max(1, int(rate*10/float64(len(c.gpu)))) // matches for each new prompt
	return perSecond(func() int {
		c.step(c.fresh())
		for range each {
			c.x.match(c.gpu[c.rng.IntN(len(c.gpu))])
		}
		return each
	})
}

// indexRandom has every block held by its owner and seven others of 512 workers that were drawn for it alone, so that no two
// blocks share a set.
func indexRandom(r *report, quiet float64) error {
	const workers, others = 512, 7
	rng := rand.New(rand.NewPCG(7, 8))
	all := prompts(rng, indexPrompts/8, false)
	build := func() (*ours, float64) {
		x := newOurs(workers)
		fill(x, workers, all, false)
		given := make([][]uint64, workers)
		for _, p := range all {
			for _, id := range p {
				for range others {
					w := rng.IntN(workers)
					given[w] = append(given[w], id)
				}
			}
		}
		blocks, begin := 0, cpuNow()
		for w, ids := range given {
			for part := range slices.Chunk(ids, indexPrompt) {
				x.store(w, index.GPU, part)
				blocks += len(part)
			}
		}
		return x, float64(blocks) / (cpuNow() - begin).Seconds()
	}
	var rates []float64
	var x *ours
	for range indexRounds {
		var rate float64
		x, rate = build()
		rates = append(rates, rate)
	}
	r.figure("index_insert_random", median(rates), "blocks/s", "goal", 5e6, more)
	rate := perSecond(func() int { return min(1, x.match(all[rng.IntN(len(all))])) })
	r.figure("index_match_random", rate, "1/s", "uniq", quiet, more)
	s := x.Stats()
	if s.Blocks == 0 {
		return fmt.Errorf("the index is empty")
	}
	r.figure("index_bytes_per_holder_random", float64(s.Bytes)/float64(s.Blocks*(others+1)), "B", "goal", 80, less)
	return nil
}

// heap is what is in use after a collection.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// indexMemory takes the worst of some sizes between two splittings.
func indexMemory(r *report) {
	worst := 0.0
	for _, n := range []int{1300, 1600, 2000, 2400} {
		rng := rand.New(rand.NewPCG(9, uint64(n)))
		all := prompts(rng, n, false)
		before := heap()
		x := newOurs(64)
		fill(x, 64, all, false)
		worst = max(worst, (heap()-before)/float64(n*indexPrompt))
		runtime.KeepAlive(x)
	}
	r.figure("index_bytes_per_block", worst, "B", "goal", 80, less)
	rng := rand.New(rand.NewPCG(10, 11))
	all := prompts(rng, 512, false)
	x := newOurs(512)
	fill(x, 512, all, false)
	before := x.Stats().Bytes
	for i := range 512 {
		for _, p := range all[:64] {
			x.store(i, index.GPU, p)
		}
	}
	r.figure("index_bytes_per_further_holder", float64(x.Stats().Bytes-before)/float64(511*64*indexPrompt), "B", "goal", 8, less)
}

// indexThreads shows two readers, and a reader beside a writer, by CPU time of both.
func indexThreads(r *report) {
	rng := rand.New(rand.NewPCG(1, 2))
	uniq := prompts(rng, indexPrompts, false)
	a := newOurs(64)
	fill(a, 64, uniq, false)
	read := func(stop *atomic.Bool, seed uint64) int {
		reader, rng, n := a.NewReader(), rand.New(rand.NewPCG(seed, 2)), 0
		var out []index.Match
		for ; !stop.Load(); n++ {
			out = reader.Match(uniq[rng.IntN(len(uniq))], out[:0])
		}
		return n
	}
	one := threads(func(stop *atomic.Bool) int { return read(stop, 1) })
	two := threads(func(stop *atomic.Bool) int { return read(stop, 1) }, func(stop *atomic.Bool) int { return read(stop, 2) })
	r.figure("index_match_two_threads", two[0]+two[1], "1/s", "one_thread", one[0], more)
	c := newChurn(a, 64, uniq)
	var pool [][]uint64
	for range 512 {
		pool = append(pool, c.fresh())
	}
	write := func(stop *atomic.Bool) int {
		n := 0
		for i := 0; !stop.Load(); i++ {
			p := pool[i%len(pool)]
			a.store(i%64, index.GPU, p)
			a.remove(i%64, index.GPU, p)
			n += len(p)
		}
		return n
	}
	alone := threads(write)
	both := threads(func(stop *atomic.Bool) int { return read(stop, 1) }, write)
	r.figure("index_match_beside_a_writer", both[0], "1/s", "alone", one[0], more)
	r.figure("index_insert_beside_a_reader", both[1], "blocks/s", "alone", alone[0], more)
}

// threads runs functions side by side, each on a thread of its own, and gives for each what it did in a second of its thread's
// CPU time, times one: what others take of the machine is not counted.
func threads(f ...func(stop *atomic.Bool) int) []float64 {
	var stop atomic.Bool
	var wg sync.WaitGroup
	rates := make([]float64, len(f))
	for i := range f {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begin := threadTime()
			n := f[i](&stop)
			rates[i] = float64(n) / (threadTime() - begin).Seconds()
		})
	}
	time.Sleep(2 * indexFor)
	stop.Store(true)
	wg.Wait()
	return rates
}

func threadTime() time.Duration {
	const thisThread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thisThread, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
