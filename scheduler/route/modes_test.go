package route

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func TestModes(t *testing.T) {
	candidates := []Candidate{
		{Launch: "a", Inflight: 3, InflightTokens: 1600, OpenTokens: 6400},
		{Launch: "b", Inflight: 1, InflightTokens: 3200, OpenTokens: 3200},
		{Launch: "c", Inflight: 9, Running: new(2), SeenAt: now, OpenTokens: 8000, Cached: [Tiers]int{800, 800, 800, 800}},
	}
	pick := func(m Mode, turn uint64) Decision {
		d, err := Pick(Request{ID: "r", PromptTokens: 1600, Now: now, Mode: m, Turn: turn}, candidates)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for turn, want := range []string{"a", "b", "c", "a"} {
		if d := pick(RoundRobin, uint64(turn)); d.Launch != want {
			t.Errorf("turn %d: %s", turn, d.Launch)
		}
	}
	if d := pick(LeastLoaded, 0); d.Launch != "b" || d.CostMs != 1 {
		t.Errorf("least loaded: %+v", d)
	}
	// a: (1600+1600)/16 + (6400+1600)/16 = 700; b: 300+300 = 600; c: (1600−800)/16 + (8000+1600)/16 = 650.
	if d := pick(DynamoCost, 0); d.Launch != "b" || d.CostMs != 600 || d.RunnersUp[0].CostMs != 650 || d.RunnersUp[1].CostMs != 700 {
		t.Errorf("dynamo: %+v", d)
	}
	count := map[string]int{}
	for i := range 3000 {
		d, err := Pick(Request{ID: fmt.Sprint(i), Now: now, Mode: Random}, candidates)
		if err != nil {
			t.Fatal(err)
		}
		count[d.Launch]++
	}
	for launch, n := range count {
		if n < 850 || n > 1150 {
			t.Errorf("random: %s got %d of 3000", launch, n)
		}
	}
	for text, want := range map[string]Mode{"cost": ByCost, "": ByCost, "dynamo": DynamoCost, "random": Random} {
		if m, err := ParseMode(text); err != nil || m != want {
			t.Errorf("%q: %q, %v", text, m, err)
		}
	}
	if _, err := ParseMode("best"); err == nil {
		t.Error("a mode that is none")
	}
}

// TestNoHerd: 200 requests at once, each decided with the ones before it counted, spread over replicas that are alike, even where
// one of them has the prompt: it gets more than its share, and not all.
func TestNoHerd(t *testing.T) {
	candidates := make([]Candidate, 8)
	for i := range candidates {
		candidates[i] = Candidate{Launch: fmt.Sprintf("l%d", i)}
	}
	candidates[3].Cached = [Tiers]int{900, 900, 900, 900}
	for i := range 200 {
		d, err := Pick(Request{ID: fmt.Sprint(i), PromptTokens: 1000, Now: now}, candidates)
		if err != nil {
			t.Fatal(err)
		}
		for j := range candidates {
			if candidates[j].Launch == d.Launch {
				candidates[j].Inflight++
				candidates[j].InflightTokens += 1000 - d.Cached
			}
		}
	}
	for i, c := range candidates {
		if i == 3 && (c.Inflight < 40 || c.Inflight > 120) || i != 3 && (c.Inflight < 8 || c.Inflight > 25) {
			t.Errorf("replica %d got %d of 200", i, c.Inflight)
		}
	}
}

// TestCachedNeverRepels: with the default speed more of the prompt in a cache makes no candidate dearer.
func TestCachedNeverRepels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, candidates := draws(t)
		c := &candidates[rapid.IntRange(0, len(candidates)-1).Draw(t, "which")]
		before := costOf(r, candidates, c)
		tier := rapid.IntRange(0, Tiers-1).Draw(t, "tier")
		more := rapid.IntRange(0, 3000).Draw(t, "more")
		for i := tier; i < Tiers; i++ {
			c.Cached[i] = max(c.Cached[i], c.Cached[tier]+more)
		}
		if after := costOf(r, candidates, c); after > before+1e-9 {
			t.Fatalf("%v with more cached, %v before: %+v", after, before, *c)
		}
	})
}

// TestWorkIsTheEstimate: what is learned from is what was expected, but for a shortage of KV blocks, which has no coefficient.
func TestWorkIsTheEstimate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, candidates := draws(t)
		d, err := Pick(r, candidates)
		if err != nil {
			t.Fatal(err)
		}
		if ms := d.Work.Ms(&DefaultSpeed) + d.Parts["kv"]; math.Abs(ms-d.ExpectedMs) > 1e-6 {
			t.Fatalf("work %v ms, expected %v ms", ms, d.ExpectedMs)
		}
	})
}

// TestCalibration: an engine of another speed is learned from its answers, noise and outliers included.
func TestCalibration(t *testing.T) {
	truth := Speed{PrefillMs: 0.03, OpenMs: 0.6, FetchMs: [Tiers]float64{0, 0.004, 0.2, 0.02}}
	rng := rand.New(rand.NewPCG(1, 2))
	work := func() (w Work) {
		w = Work{PrefillTokens: 50 + 4000*rng.Float64(), Open: float64(rng.IntN(60))}
		for tier := 1; tier < Tiers; tier++ {
			if rng.IntN(3) == 0 {
				w.FetchTokens[tier] = 3000 * rng.Float64()
			}
		}
		return w
	}
	var c Calibration
	if c.Speed() != DefaultSpeed || c.Miss() != 1 {
		t.Errorf("the zero calibration: %+v", c)
	}
	for range 5000 {
		w := work()
		ms := w.Ms(&truth) * (0.9 + 0.2*rng.Float64())
		if rng.IntN(50) == 0 {
			ms *= 30
		}
		c = c.Learn(w, ms)
	}
	got := c.Speed()
	sum, n := 0.0, 1000
	for range n {
		w := work()
		sum += math.Abs(math.Log(w.Ms(&got) / w.Ms(&truth)))
	}
	if miss := math.Exp(sum / float64(n)); miss > 1.2 {
		t.Errorf("predictions miss by a factor of %.2f: %+v, the truth is %+v", miss, got, truth)
	}
	for _, ms := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		if next := c.Learn(work(), ms); next != c {
			t.Errorf("learned from %v ms", ms)
		}
	}
}
