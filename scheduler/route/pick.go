package route

import (
	"fmt"
	"math"
	"math/bits"
	"strings"

	"github.com/zeebo/xxh3"
)

// near and nearMs are how far above the cheapest a candidate may be and still count as its equal. Estimates are not better than
// that, and gateways that all ran to the one cheapest replica would make it the dearest.
const (
	near   = 1.05
	nearMs = 1.0
)

// maxRunnersUp is how many losers a Decision names.
const maxRunnersUp = 4

// Pick chooses a candidate; in the mode ByCost the one with the least estimated cost. Among near-equals the request's ID draws
// two, and the cheaper of them takes it: so gateways that see the same figures spread. But for RoundRobin the answer depends on
// the values alone, not on the order of candidates; launches must differ from each other.
//
// A decision counts from the moment that the caller adds the request to the candidate's Inflight and InflightTokens, which it
// does before it chooses for the next one.
func Pick(r Request, candidates []Candidate) (Decision, error) {
	if len(candidates) == 0 {
		return Decision{}, ErrNoCandidate
	}
	a := newAsk(&r, candidates)
	var few [1024]float64
	costs := few[:]
	if len(candidates) > len(few) {
		costs = make([]float64, len(candidates))
	}
	costs = costs[:len(candidates)]
	limit := a.price(candidates, costs)
	chosen, equals := a.choose(candidates, costs, limit)
	c := &candidates[chosen]
	d := Decision{
		Launch: c.Launch, Replica: c.Replica, Index: chosen, CostMs: costs[chosen], RunnersUp: runnersUp(candidates, costs, chosen),
		Work: a.work(c), Cached: a.cached(c),
	}
	p := a.estimate(c)
	if r.Mode == ByCost {
		d.Parts = map[string]float64{
			"queue": p.queue, "prefill": p.prefill, "fetch": p.fetch, "decode": p.decode, "others": p.others, "context": p.context, "kv": p.kv,
			"end": p.end, "silent": p.silent, "stalled": p.stalled,
		}
	} else {
		d.Parts = map[string]float64{string(r.Mode): d.CostMs}
	}
	d.ExpectedMs = p.expected()
	d.Reason = a.reason(c, &p, len(candidates), equals)
	return d, nil
}

// price fills in what each candidate costs, and says up to which cost they are equals.
func (a *ask) price(candidates []Candidate, costs []float64) (limit float64) {
	if a.Mode != ByCost {
		return a.priceOther(candidates, costs)
	}
	least := math.Inf(1)
	for i := range candidates {
		ms := a.cost(&candidates[i])
		costs[i] = ms
		least = min(least, ms)
	}
	return least*near + nearMs
}

func (a *ask) choose(candidates []Candidate, costs []float64, limit float64) (chosen, equals int) {
	if a.Mode == RoundRobin {
		return int(a.Turn % uint64(len(candidates))), len(candidates)
	}
	return draw(a.ID, candidates, costs, limit)
}

// draw returns the cheaper of the two candidates up to limit whose hashes with the request's ID are least, and how many
// candidates there are up to limit.
func draw(id string, candidates []Candidate, costs []float64, limit float64) (chosen, equals int) {
	seed := xxh3.HashString(id)
	first, second := -1, -1
	h1, h2 := uint64(math.MaxUint64), uint64(math.MaxUint64)
	for i, cost := range costs {
		if cost > limit {
			continue
		}
		equals++
		h := mix(candidates[i].Launch, seed)
		switch {
		case h > h2:
		case first < 0 || h < h1 || h == h1 && candidates[i].Launch < candidates[first].Launch:
			second, h2 = first, h1
			first, h1 = i, h
		case second < 0 || h < h2 || candidates[i].Launch < candidates[second].Launch:
			second, h2 = i, h
		}
	}
	if second >= 0 && costs[second] < costs[first] {
		return second, equals
	}
	return first, equals
}

// runnersUp lists the cheapest candidates but the chosen one; the launch decides where costs are the same.
func runnersUp(candidates []Candidate, costs []float64, chosen int) []RunnerUp {
	var best [maxRunnersUp]place
	n := 0
	worst, worstTail := math.Inf(1), uint64(0)
	for i, cost := range costs {
		if cost > worst || i == chosen {
			continue
		}
		p := place{cost, tail(candidates[i].Launch), i}
		if cost == worst && p.tail > worstTail {
			continue
		}
		at := n
		for at > 0 && p.before(&best[at-1], candidates) {
			at--
		}
		if at == maxRunnersUp {
			continue
		}
		if n = min(n+1, maxRunnersUp); at < n-1 {
			copy(best[at+1:n], best[at:n-1])
		}
		best[at] = p
		if n == maxRunnersUp {
			worst, worstTail = best[n-1].cost, best[n-1].tail
		}
	}
	out := make([]RunnerUp, n)
	for k, p := range best[:n] {
		out[k] = RunnerUp{Launch: candidates[p.i].Launch, Replica: candidates[p.i].Replica, CostMs: p.cost}
	}
	return out
}

// place is a candidate among the runners-up.
type place struct {
	cost float64
	tail uint64 // of its launch
	i    int
}

func (p *place) before(q *place, candidates []Candidate) bool {
	if p.cost != q.cost {
		return p.cost < q.cost
	}
	if p.tail != q.tail { // launches mostly begin alike
		return p.tail < q.tail
	}
	return candidates[p.i].Launch < candidates[q.i].Launch
}

// mix is a quick hash of a launch's first and last bytes; those that are alike in both are told apart by who calls it.
func mix(launch string, seed uint64) uint64 {
	high, low := bits.Mul64(tail(launch)^seed, tail(launch[:min(8, len(launch))])^bits.RotateLeft64(seed, 32)^0x9E3779B97F4A7C15)
	return high ^ low
}

// tail is a string's last eight bytes.
func tail(s string) (n uint64) {
	if i := len(s) - 8; i >= 0 {
		s = s[i:]
		return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	}
	for i := range len(s) {
		n = n<<8 | uint64(s[i])
	}
	return n
}

// reason says in one sentence what decided.
func (a *ask) reason(c *Candidate, p *parts, of, equals int) string {
	var b strings.Builder
	switch {
	case of == 1:
		b.WriteString("the only replica")
	case a.Mode != ByCost:
		fmt.Fprintf(&b, "%s of %d", a.Mode, of)
	case equals == 1:
		fmt.Fprintf(&b, "cheapest of %d", of)
	default:
		fmt.Fprintf(&b, "drawn from %d of %d that are equally good", equals, of)
	}
	if n := a.cached(c); n > 0 {
		fmt.Fprintf(&b, ": has %d of %d prompt tokens, %d open here", n, a.prompt, c.Inflight)
	} else {
		fmt.Fprintf(&b, ": %d open here", c.Inflight)
	}
	switch {
	case c.SeenAt.IsZero() || c.Running == nil && c.Waiting == nil && c.KVUsage == nil:
		b.WriteString(", the engine's own load is unknown")
	case !a.fresh(c):
		fmt.Fprintf(&b, ", the engine's own load is unknown (%d s old)", int(a.Now.Sub(c.SeenAt).Seconds()))
	default:
		engineLoad(&b, c)
	}
	if a.PromptTokens <= 0 {
		fmt.Fprintf(&b, ", prompt of unknown length taken as %d tokens", typicalPrompt)
	}
	if p.stalled > 0 {
		fmt.Fprintf(&b, ", has given no first token for %d ms", c.WaitingFor.Milliseconds())
	}
	if p.end > 0 {
		fmt.Fprintf(&b, ", its job ends in %d s", int(c.EndsAt.Sub(a.Now).Seconds()))
	}
	return b.String()
}

func engineLoad(b *strings.Builder, c *Candidate) {
	if c.Running != nil {
		fmt.Fprintf(b, ", %d running", *c.Running)
	}
	if c.Waiting != nil {
		fmt.Fprintf(b, ", %d waiting", *c.Waiting)
	}
	if c.KVUsage != nil {
		fmt.Fprintf(b, ", KV cache %.0f %% full", *c.KVUsage*100)
	}
}
