package route

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	idle := []Candidate{{Launch: "p"}}
	for name, tc := range map[string]struct {
		prompt   int
		decode   Candidate
		prefills []Candidate
		mode     Mode
		deaf     bool // decode cannot read prompts
		pair     bool
	}{
		"a long prompt":                         {prompt: 4000, prefills: idle, pair: true},
		"a short prompt":                        {prompt: 60, prefills: idle},
		"a short prompt, decode cannot read it": {prompt: 60, prefills: idle, deaf: true, pair: true},
		"mostly cached on decode":               {prompt: 4000, decode: Candidate{Cached: [Tiers]int{3950, 3950, 3950, 3950}}, prefills: idle},
		"cached on the prefill replica":         {prompt: 4000, prefills: []Candidate{{Launch: "p", Cached: [Tiers]int{3900, 3900, 3900, 3900}}}, pair: true},
		"prefill has a queue":                   {prompt: 4000, prefills: []Candidate{{Launch: "p", InflightTokens: 20_000}}},
		"prefill has a queue, decode is full":   {prompt: 4000, decode: Candidate{Inflight: 60}, prefills: []Candidate{{Launch: "p", InflightTokens: 20_000}}, pair: true},
		"a slow way":                            {prompt: 4000, decode: Candidate{Speed: &Speed{PrefillMs: 0.1, MoveMs: 0.2}}, prefills: idle},
		"no prefill replica":                    {prompt: 4000},
		"a mode to compare with":                {prompt: 60, prefills: idle, mode: RoundRobin, pair: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := Request{ID: "r", PromptTokens: tc.prompt, Now: now, Mode: tc.mode}
			h := Split(r, Decision{Launch: "d"}, &tc.decode, !tc.deaf, tc.prefills)
			if (h.Prefill != nil) != tc.pair || h.Decode.Launch != "d" || h.Reason == "" {
				t.Errorf("%+v", h)
			}
			if len(tc.prefills) > 0 && !strings.Contains(h.Reason, "ms") {
				t.Errorf("reason %q", h.Reason)
			}
		})
	}
}

// TestSplitFollowsTheSum: what decode has in its cache only ever speaks for decode alone.
func TestSplitFollowsTheSum(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, prefills := draws(t)
		decode := candidate(t, "d")
		before := Split(r, Decision{}, &decode, true, prefills)
		more := rapid.IntRange(1, 500).Draw(t, "more")
		for tier := range decode.Cached {
			decode.Cached[tier] += more
		}
		after := Split(r, Decision{}, &decode, true, prefills)
		if after.AloneMs > before.AloneMs+1e-9 {
			t.Fatalf("alone %v, with %d tokens more in the cache %v", before.AloneMs, more, after.AloneMs)
		}
		if (after.Prefill == nil) != (after.AloneMs <= after.PairMs) {
			t.Fatalf("%+v", after)
		}
	})
}
