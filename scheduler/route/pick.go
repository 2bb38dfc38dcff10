package route

import (
	"fmt"
	"strings"

	"github.com/zeebo/xxh3"
)

// near is how far above the cheapest a candidate may be and still count as its equal. Estimates are not better than that, and
// gateways that all ran to the one cheapest replica would make it the dearest.
const near = 1.05

// maxRunnersUp is how many losers a Decision names.
const maxRunnersUp = 4

// Pick chooses the candidate with the least estimated time to first token. Among near-equals the request's ID draws two,
// and the cheaper of them takes it: so gateways that see the same figures spread. The answer depends on the values alone,
// not on the order of candidates; launches must differ from each other.
func Pick(r Request, candidates []Candidate) (Decision, error) {
	if len(candidates) == 0 {
		return Decision{}, ErrNoCandidate
	}
	a := newAsk(r, candidates)
	costs := make([]float64, len(candidates))
	least := 0.0
	for i := range candidates {
		costs[i] = a.estimate(&candidates[i]).sum()
		if i == 0 || costs[i] < least {
			least = costs[i]
		}
	}
	chosen, equals := draw(r.ID, candidates, costs, least*near)
	c := &candidates[chosen]
	p := a.estimate(c)
	return Decision{
		Launch: c.Launch, Replica: c.Replica, CostMs: costs[chosen],
		Parts: map[string]float64{
			"queue": p.queue, "prefill": p.prefill, "decode": p.decode, "kv": p.kv, "end": p.end, "silent": p.silent,
		},
		RunnersUp: runnersUp(candidates, costs, chosen),
		Reason:    reason(a, c, p, len(candidates), equals),
	}, nil
}

// draw returns the cheaper of the two candidates up to limit whose hashes with the request's ID are least, and how many
// candidates there are up to limit.
func draw(id string, candidates []Candidate, costs []float64, limit float64) (chosen, equals int) {
	seed := xxh3.HashString(id)
	first, second := -1, -1
	var h1, h2 uint64
	for i := range candidates {
		if costs[i] > limit {
			continue
		}
		equals++
		h := xxh3.HashStringSeed(candidates[i].Launch, seed)
		switch {
		case first < 0 || h < h1:
			second, h2 = first, h1
			first, h1 = i, h
		case second < 0 || h < h2:
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
	for i := range candidates {
		if i == chosen {
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
	return candidates[i].Launch < candidates[j].Launch
}

// reason says in one sentence what decided.
func reason(a *ask, c *Candidate, p parts, of, equals int) string {
	var b strings.Builder
	switch {
	case of == 1:
		b.WriteString("the only replica")
	case equals == 1:
		fmt.Fprintf(&b, "least loaded of %d", of)
	default:
		fmt.Fprintf(&b, "drawn from %d of %d that are equally loaded", equals, of)
	}
	fmt.Fprintf(&b, ": %d open here", c.Inflight)
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
