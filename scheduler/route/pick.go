package route

import (
	"encoding/binary"
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
		Launch: c.Launch, Replica: c.Replica, CostMs: costs[chosen], RunnersUp: runnersUp(candidates, costs, chosen),
		Work: a.work(c), Cached: a.cached(c),
	}
	p := a.estimate(c)
	if r.Mode == ByCost {
		d.Parts = map[string]float64{
			"queue": p.queue, "prefill": p.prefill, "fetch": p.fetch, "decode": p.decode, "others": p.others, "context": p.context, "kv": p.kv,
			"end": p.end, "silent": p.silent,
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
	var h1, h2 uint64
	for i, cost := range costs {
		if cost > limit {
			continue
		}
		equals++
		h := mix(candidates[i].Launch, seed)
		switch {
		case first < 0 || h < h1 || h == h1 && candidates[i].Launch < candidates[first].Launch:
			second, h2 = first, h1
			first, h1 = i, h
		case second < 0 || h < h2 || h == h2 && candidates[i].Launch < candidates[second].Launch:
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
	var best [maxRunnersUp]int
	n := 0
	for i, cost := range costs {
		if n == maxRunnersUp && cost > costs[best[n-1]] || i == chosen {
			continue
		}
		at := n
		for at > 0 && before(candidates, costs, i, best[at-1]) {
			at--
		}
		if at == maxRunnersUp {
			continue
		}
		n = min(n+1, maxRunnersUp)
		copy(best[at+1:n], best[at:n-1])
		best[at] = i
	}
	out := make([]RunnerUp, n)
	for k, i := range best[:n] {
		out[k] = RunnerUp{Launch: candidates[i].Launch, Replica: candidates[i].Replica, CostMs: costs[i]}
	}
	return out
}

func before(candidates []Candidate, costs []float64, i, j int) bool {
	if costs[i] != costs[j] {
		return costs[i] < costs[j]
	}
	a, b := candidates[i].Launch, candidates[j].Launch
	if x, y := tail(a), tail(b); x != y { // launches mostly begin alike
		return x < y
	}
	return a < b
}

// mix is a quick hash of a launch's first and last bytes; those that are alike in both are told apart by who calls it.
func mix(launch string, seed uint64) uint64 {
	a := tail(launch) ^ seed
	b := tail(launch[:min(8, len(launch))]) ^ 0x9E3779B97F4A7C15
	high, low := bits.Mul64(a, b)
	high, low = bits.Mul64(high^low^seed, 0xD6E8FEB86659FD93)
	return high ^ low
}

// tail is a string's last eight bytes.
func tail(s string) (n uint64) {
	if len(s) >= 8 {
		return binary.LittleEndian.Uint64([]byte(s[len(s)-8:]))
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
