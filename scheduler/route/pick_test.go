package route

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestPick(t *testing.T) {
	fresh, stale := now.Add(-time.Second), now.Add(-6*time.Second)
	for name, tc := range map[string]struct {
		prompt     int
		candidates []Candidate
		want       string
		reason     string
	}{
		"one": {100, []Candidate{{Launch: "a"}}, "a", "the only replica: 0 open here, the engine's own load is unknown"},
		"fewer open": {
			100,
			[]Candidate{{Launch: "a", Inflight: 9}, {Launch: "b", Inflight: 1}},
			"b",
			"cheapest of 2: 1 open here, the engine's own load is unknown",
		},
		"prompts that are not answered yet count": {100, []Candidate{
			{Launch: "a", Inflight: 1, InflightTokens: 30_000}, {Launch: "b", Inflight: 3},
		}, "b", "cheapest of 2"},
		"other gateways' requests count": {
			100,
			[]Candidate{
				{Launch: "a", Running: new(40), Waiting: new(0), SeenAt: fresh}, {Launch: "b", Inflight: 3, Running: new(3), SeenAt: fresh},
			},
			"b",
			"3 running",
		},
		"stale figures are unknown": {
			100,
			[]Candidate{
				{Launch: "a", Running: new(40), Waiting: new(9), SeenAt: stale}, {Launch: "b", Inflight: 3},
			},
			"a",
			"unknown (6 s old)",
		},
		"an engine that hangs is not an idle one": {
			100,
			[]Candidate{
				{Launch: "a", Inflight: 6, SeenAt: fresh},
				{Launch: "b", Inflight: 3, Running: new(6), Waiting: new(3), KVUsage: new(0.1), SeenAt: fresh},
			},
			"b",
			"3 waiting",
		},
		"a queue is worse than open streams": {100, []Candidate{
			{Launch: "a", Running: new(1), Waiting: new(2), SeenAt: fresh}, {Launch: "b", Running: new(8), Waiting: new(0), SeenAt: fresh},
		}, "b", "0 waiting"},
		"a full KV cache": {100, []Candidate{
			{Launch: "a", KVUsage: new(0.99), SeenAt: fresh}, {Launch: "b", Inflight: 20, KVUsage: new(0.5), SeenAt: fresh},
		}, "b", "KV cache 50 % full"},
		"a job that ends": {100, []Candidate{
			{Launch: "a", EndsAt: now.Add(30 * time.Second)}, {Launch: "b", Inflight: 30},
		}, "b", "cheapest of 2"},
		"a job that ends now, and nothing else": {100, []Candidate{{Launch: "a", EndsAt: now.Add(9 * time.Second)}}, "a", "its job ends in 9 s"},
		"unknown prompt":                        {0, []Candidate{{Launch: "a"}}, "a", "prompt of unknown length taken as 512 tokens"},
		"what is cached": {1000, []Candidate{
			{Launch: "a"}, {Launch: "b", Cached: [Tiers]int{800, 800, 800, 800}, Inflight: 5},
		}, "b", "cheapest of 2: has 800 of 1000 prompt tokens, 5 open here"},
		"a cache is not worth any queue": {1000, []Candidate{
			{Launch: "a"}, {Launch: "b", Cached: [Tiers]int{800, 800, 800, 800}, InflightTokens: 5000},
		}, "a", "cheapest"},
		"host memory is worth less than a GPU": {1000, []Candidate{
			{Launch: "a", Cached: [Tiers]int{0, 900, 900, 900}}, {Launch: "b", Cached: [Tiers]int{900, 900, 900, 900}},
		}, "b", "cheapest"},
		"host memory is worth more than nothing": {1000, []Candidate{
			{Launch: "a", Cached: [Tiers]int{0, 900, 900, 900}}, {Launch: "b"},
		}, "a", "has 900"},
		"a whole prompt in the cache has its last token computed": {1000, []Candidate{
			{Launch: "a", Cached: [Tiers]int{1000, 1000, 1000, 1000}},
		}, "a", "has 999 of 1000"},
		"no room for the prompt": {4000, []Candidate{
			{Launch: "a", KVUsage: new(0.8), KVTokens: 10_000, SeenAt: fresh}, {Launch: "b", Inflight: 20, KVUsage: new(0.5), KVTokens: 10_000, SeenAt: fresh},
		}, "b", "50 % full"},
		"one that has stopped": {1000, []Candidate{
			{Launch: "a", Cached: [Tiers]int{900, 900, 900, 900}, Inflight: 1, WaitingFor: 5 * time.Second}, {Launch: "b", Inflight: 20},
		}, "b", "cheapest"},
		"a long prompt is no stop": {1000, []Candidate{
			{Launch: "a", Cached: [Tiers]int{900, 900, 900, 900}, Inflight: 1, InflightTokens: 200, WaitingFor: time.Second}, {Launch: "b", Inflight: 20},
		}, "a", "has 900"},
		"a slower card": {1000, []Candidate{
			{Launch: "a", Speed: &Speed{PrefillMs: 0.4}}, {Launch: "b", Inflight: 20},
		}, "b", "cheapest"},
		"equals": {
			100,
			[]Candidate{{Launch: "a"}, {Launch: "b"}, {Launch: "c", Inflight: 99}},
			"*",
			"drawn from 2 of 3 that are equally good",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Pick(Request{ID: "r1", PromptTokens: tc.prompt, Now: now}, tc.candidates)
			if err != nil || tc.want != "*" && d.Launch != tc.want || !strings.Contains(d.Reason, tc.reason) {
				t.Errorf("%q, %q, %v", d.Launch, d.Reason, err)
			}
			sum := 0.0
			for _, ms := range d.Parts {
				sum += ms
			}
			if math.Abs(sum-d.CostMs) > 1e-9*sum {
				t.Errorf("parts %v sum up to %v, not %v", d.Parts, sum, d.CostMs)
			}
		})
	}
	if _, err := Pick(Request{ID: "r"}, nil); !errors.Is(err, ErrNoCandidate) {
		t.Errorf("no candidates: %v", err)
	}
}

func TestEqualsShareTheLoad(t *testing.T) {
	candidates := make([]Candidate, 8)
	for i := range candidates {
		candidates[i] = Candidate{Launch: fmt.Sprintf("launch-%d", i)}
	}
	count := map[string]int{}
	for i := range 8000 {
		d, err := Pick(Request{ID: fmt.Sprintf("req-%d", i), Now: now}, candidates)
		if err != nil {
			t.Fatal(err)
		}
		count[d.Launch]++
	}
	for launch, n := range count {
		if n < 800 || n > 1200 {
			t.Errorf("%s got %d of 8000, its share is 1000", launch, n)
		}
	}
}

func costOf(r Request, candidates []Candidate, c *Candidate) float64 {
	a := newAsk(&r, candidates)
	p := a.estimate(c)
	if fast := a.cost(c); math.Abs(fast-p.sum()) > 1e-9*p.sum() {
		panic(fmt.Sprintf("cost %v, its parts sum up to %v", fast, p.sum()))
	}
	return a.cost(c)
}

func candidate(t *rapid.T, launch string) Candidate {
	c := Candidate{Launch: launch, Inflight: rapid.IntRange(-2, 50).Draw(t, "inflight"), InflightTokens: rapid.IntRange(-2, 9000).Draw(t, "tokens")}
	if rapid.Bool().Draw(t, "known") {
		c.Running = new(rapid.IntRange(0, 60).Draw(t, "running"))
		c.Waiting = new(rapid.IntRange(0, 5).Draw(t, "waiting"))
		c.KVUsage = new(rapid.Float64Range(0, 1).Draw(t, "kv"))
		c.SeenAt = now.Add(-time.Duration(rapid.IntRange(0, 8000).Draw(t, "age")) * time.Millisecond)
	}
	if rapid.Bool().Draw(t, "caches") {
		for tier := range c.Cached {
			c.Cached[tier] = rapid.IntRange(0, 2500).Draw(t, "cached")
			if tier > 0 {
				c.Cached[tier] = max(c.Cached[tier], c.Cached[tier-1])
			}
		}
		c.OpenTokens, c.KVTokens = rapid.IntRange(0, 9000).Draw(t, "open"), rapid.IntRange(0, 20_000).Draw(t, "capacity")
	}
	if rapid.Bool().Draw(t, "waits") {
		c.WaitingFor = time.Duration(rapid.IntRange(-10, 9000).Draw(t, "ms")) * time.Millisecond
	}
	if rapid.Bool().Draw(t, "ends") {
		c.EndsAt = now.Add(time.Duration(rapid.IntRange(-10, 300).Draw(t, "left")) * time.Second)
	}
	return c
}

func draws(t *rapid.T) (Request, []Candidate) {
	r := Request{ID: rapid.StringN(1, 8, 8).Draw(t, "id"), PromptTokens: rapid.IntRange(0, 2000).Draw(t, "prompt"), Now: now}
	candidates := make([]Candidate, rapid.IntRange(1, 12).Draw(t, "n"))
	for i := range candidates {
		candidates[i] = candidate(t, fmt.Sprintf("l%d", i))
	}
	return r, candidates
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, candidates := draws(t)
		want, err := Pick(r, candidates)
		if err != nil {
			t.Fatal(err)
		}
		shuffled := rapid.Permutation(candidates).Draw(t, "order")
		got, err := Pick(r, shuffled)
		if shuffled[got.Index].Launch != got.Launch {
			t.Fatalf("candidate %d is not %s", got.Index, got.Launch)
		}
		got.Index = want.Index
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("another order, another decision: %s %v", diff, err)
		}
	})
}

// TestLoadNeverAttracts: a replica that got more to do costs no less, and is not chosen when it was not before.
func TestLoadNeverAttracts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, candidates := draws(t)
		before, _ := Pick(r, candidates)
		c := &candidates[rapid.IntRange(0, len(candidates)-1).Draw(t, "which")]
		costBefore := costOf(r, candidates, c)
		more := rapid.IntRange(1, 30).Draw(t, "more")
		switch rapid.IntRange(0, 4).Draw(t, "what") {
		case 0:
			c.Inflight += more
		case 1:
			c.InflightTokens += 100 * more
		case 2:
			if c.Running != nil {
				c.Running = new(*c.Running + more)
			}
		case 3:
			if c.Waiting != nil {
				c.Waiting = new(*c.Waiting + more)
			}
		case 4:
			if c.KVUsage != nil {
				c.KVUsage = new(*c.KVUsage + float64(more)/30)
			}
		}
		if cost := costOf(r, candidates, c); cost < costBefore {
			t.Fatalf("more load made %+v cheaper: %v, then %v", *c, costBefore, cost)
		}
		after, _ := Pick(r, candidates)
		if after.Launch == c.Launch && before.Launch != c.Launch {
			t.Fatalf("%s was chosen because it got more to do", c.Launch)
		}
	})
}

// TestDecisionIsWhole: the chosen one is a candidate within 5 % of the cheapest, and runners-up are the cheapest others.
func TestDecisionIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, candidates := draws(t)
		d, err := Pick(r, candidates)
		if err != nil {
			t.Fatal(err)
		}
		least, found := math.Inf(1), false
		for i := range candidates {
			cost := costOf(r, candidates, &candidates[i])
			least = min(least, cost)
			found = found || candidates[i].Launch == d.Launch && cost == d.CostMs
		}
		if !found || d.CostMs > least*near+nearMs {
			t.Fatalf("chose %s at %v, the cheapest costs %v", d.Launch, d.CostMs, least)
		}
		if want := min(maxRunnersUp, len(candidates)-1); len(d.RunnersUp) != want {
			t.Fatalf("%d runners-up, want %d", len(d.RunnersUp), want)
		}
		last := 0.0
		for _, u := range d.RunnersUp {
			if u.Launch == d.Launch || u.CostMs < last {
				t.Fatalf("runners-up of %s: %+v", d.Launch, d.RunnersUp)
			}
			last = u.CostMs
		}
	})
}

func BenchmarkPick1000(b *testing.B) {
	for _, spread := range []int{1, 100} {
		b.Run(fmt.Sprintf("loads=%d", spread), func(b *testing.B) {
			candidates := make([]Candidate, 1000)
			for i := range candidates {
				candidates[i] = Candidate{
					Launch: fmt.Sprintf("01HQ%022d", i), Inflight: rand.IntN(spread), Running: new(rand.IntN(spread)), Waiting: new(0),
					KVUsage: new(0.5), SeenAt: now, EndsAt: now.Add(time.Hour),
				}
			}
			r := Request{ID: "req-0123456789abcdef", PromptTokens: 900, Now: now}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Pick(r, candidates); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
