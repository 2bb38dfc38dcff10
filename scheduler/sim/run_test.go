package sim

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/scheduler/admit"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/scale"
)

func mustRun(t testing.TB, c Config, tr Trace) Result {
	t.Helper()
	res, err := Run(c, tr, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// chat is two busy minutes.
func chat(change func(*Chat)) Trace {
	c := DefaultChat
	c.Length, c.Rate, c.Block = 2*time.Minute, 2, 128
	change(&c)
	return c.Trace(1)
}

func TestOneRequestTakesWhatTheModelSays(t *testing.T) {
	c := DefaultConfig()
	got := mustRun(t, c, Trace{BlockTokens: 16, Requests: []Request{{Prompt: 10_000, Output: 3}}})
	want := time.Duration(c.Model.Prefill(10_000, 0) * float64(time.Millisecond))
	if d := (got.TTFT.P50 - want).Abs(); d > time.Microsecond {
		t.Errorf("first token after %v, the model says %v", got.TTFT.P50, want)
	}
	use := 625.0 / 16384 // pages for 10,000 tokens, and one more in the first step
	want = time.Duration(c.Model.DecodeStep(1, use+1.0/16384) * float64(time.Millisecond))
	if got.Wait.P50.Round(10*time.Microsecond) != want.Round(10*time.Microsecond) {
		t.Errorf("a token takes %v, the model says %v", got.Wait.P50, want)
	}
}

func TestEqualRunsAreEqual(t *testing.T) {
	c := DefaultConfig()
	c.Mixed, c.Sample, c.Host = 3, time.Second, Tier{Bytes: 8 << 30, Bandwidth: 20e9}
	tr := chat(func(*Chat) {})
	if a, b := mustRun(t, c, tr), mustRun(t, c, tr); !reflect.DeepEqual(a, b) {
		t.Errorf("%+v\n%+v", a, b)
	}
}

func TestMoreReplicasAreQuicker(t *testing.T) {
	tr := chat(func(c *Chat) { c.Rate = 4 })
	last := time.Duration(1 << 62)
	for _, n := range []int{1, 2, 4, 8} {
		c := DefaultConfig()
		c.Mixed = n
		if res := mustRun(t, c, tr); res.TTFT.P90 > last {
			t.Errorf("%d replicas: p90 %v, with half of them %v", n, res.TTFT.P90, last)
		} else {
			last = res.TTFT.P90
		}
	}
}

func TestTiersSaveComputing(t *testing.T) {
	tr := chat(func(c *Chat) { c.Ask, c.Rate, c.Length = 3000, 0.1, 10*time.Minute })
	c := DefaultConfig()
	c.Mixed, c.Model.KVTokens = 2, 4096*16
	without := mustRun(t, c, tr)
	last := without.Hit
	for n, tiers := range []Config{
		{Host: Tier{8 << 30, 20e9}},
		{Host: Tier{8 << 30, 20e9}, Disk: Tier{4 << 30, 12e9}},
		{Host: Tier{8 << 30, 20e9}, Disk: Tier{4 << 30, 12e9}, Object: Tier{1 << 40, 10e9}},
	} {
		c.Host, c.Disk, c.Object = tiers.Host, tiers.Disk, tiers.Object
		with := mustRun(t, c, tr)
		if with.Hit <= last {
			t.Errorf("%d tiers: %.3f of the prompts were cached, with a tier less %.3f", n+1, with.Hit, last)
		}
		if last = with.Hit; with.TTFT.P90 >= without.TTFT.P90 {
			t.Errorf("%d tiers: first tokens take %v at p90, without tiers %v", n+1, with.TTFT.P90, without.TTFT.P90)
		}
	}
	c.Host = Tier{32 << 30, 1e6}
	c.Disk, c.Object = Tier{}, Tier{}
	if slow := mustRun(t, c, tr); slow.TTFT.Mean > without.TTFT.Mean*11/10 {
		t.Errorf("a tier that is slower than computing costs: %v, without it %v", slow.TTFT.Mean, without.TTFT.Mean)
	}
}

func TestPrefillApartFromDecode(t *testing.T) {
	tr := chat(func(c *Chat) { c.Rate, c.Ask = 1, 4000 })
	c := DefaultConfig()
	c.Mixed = 2
	together := mustRun(t, c, tr)
	c.Mixed, c.Prefill, c.Decode = 0, 1, 1
	apart := mustRun(t, c, tr)
	if apart.Tokens != together.Tokens || apart.ITL.P99 >= together.ITL.P99 {
		t.Errorf("apart: %d tokens, %v between them at p99; together: %d and %v", apart.Tokens, apart.ITL.P99, together.Tokens, together.ITL.P99)
	}
}

func TestOverloadIsRefusedAtTheGateway(t *testing.T) {
	tr := chat(func(c *Chat) { c.Rate, c.Ask, c.Answer = 3, 8000, 20 })
	c := DefaultConfig()
	c.SLO = SLO{TTFT: 5 * time.Second}
	open := mustRun(t, c, tr)
	c.Hold, c.Limit, c.Line = 500*time.Millisecond, 4*time.Second, admit.Bounds{Requests: 200}
	held := mustRun(t, c, tr)
	if open.Refused != 0 || held.Refused == 0 || held.InSLO <= open.InSLO {
		t.Errorf("%d of %d kept the SLO with %d refused, and %d with none", held.InSLO, held.Requests, held.Refused, open.InSLO)
	}
}

// TestNothingIsLost: whatever the trace and the replicas, each request ends once, and afterwards all pages are free, and what the index
// knows is what the caches hold.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := scale.Simulated
		m.KVTokens = 16 * rapid.IntRange(600, 3000).Draw(t, "pages")
		m.MaxSeqs = rapid.IntRange(1, 20).Draw(t, "seqs")
		m.MaxBatched = rapid.SampledFrom([]int{64, 512, 8192}).Draw(t, "batched")
		c := Config{
			Model: m, Mixed: rapid.IntRange(1, 4).Draw(t, "replicas"), BytesPerToken: 1000, TransferBandwidth: 1e8,
			ReportEvery: time.Second, Mode: rapid.SampledFrom([]route.Mode{route.ByCost, route.RoundRobin, route.DynamoCost}).Draw(t, "mode"),
			Host: Tier{rapid.Int64Range(0, 1<<25).Draw(t, "host"), 1e8}, Object: Tier{rapid.Int64Range(0, 1<<26).Draw(t, "object"), 1e7},
		}
		if rapid.Bool().Draw(t, "apart") {
			c.Mixed, c.Prefill, c.Decode = 0, c.Mixed, rapid.IntRange(1, 3).Draw(t, "decode")
		}
		tr := Chat{
			Rate: rapid.Float64Range(0.1, 3).Draw(t, "rate"), Length: 30 * time.Second, System: 64, Turns: 3, Ask: 500, Answer: 100,
			Block: 16 * rapid.IntRange(1, 4).Draw(t, "block"), Think: 3 * time.Second,
		}.Trace(rapid.Uint64().Draw(t, "seed"))
		for i := range tr.Requests {
			q := &tr.Requests[i]
			q.Prompt, q.Output = min(q.Prompt, m.KVTokens/2), min(q.Output, m.KVTokens/4)
		}
		if err := c.validate(&tr); err != nil {
			t.Fatal(err)
		}
		if len(tr.Requests) == 0 {
			return
		}
		r := newRun(c, &tr)
		r.play(nil)
		for i, q := range r.requests {
			if q.First <= q.at || q.End < q.First || q.Cached < 0 || q.Cached >= q.prompt {
				t.Fatalf("request %d: %+v", i, q)
			}
		}
		for e, rep := range r.of {
			if e.pool.unused != e.pool.total || rep.inflight != 0 || rep.inflightTokens != 0 || rep.openTokens != 0 || e.active != 0 {
				t.Fatalf("%s: %d of %d pages unused, %d requests, %d and %d tokens, %d active", rep.launch, e.pool.unused, e.pool.total, rep.inflight, rep.inflightTokens, rep.openTokens, e.active)
			}
			for id, u := range e.pool.units {
				lead := 0
				for _, m := range r.reader.Match([]uint64{id}, nil) {
					if m.Worker == rep.worker {
						lead = int(m.Lead[gpuTier])
					}
				}
				if whole := u.pages == e.pool.unit; whole != (lead == 1) {
					t.Fatalf("%s: block %d is whole: %v, the index: %d", rep.launch, id, whole, lead)
				}
			}
		}
	})
}

func TestReadTrace(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []Request
		err  string
	}{
		"Mooncake": {
			"{\"timestamp\": 2000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [1, 2]}\n\n{\"timestamp\": 1000, \"input_length\": 3, \"output_length\": 0, \"hash_ids\": [7]}\n",
			[]Request{{0, 3, 1, []uint64{7}, ""}, {time.Second, 600, 5, []uint64{1, 2}, ""}},
			"",
		},
		"Azure": {
			"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n",
			[]Request{{0, 4808, 10, nil, ""}, {52 * time.Millisecond, 3180, 8, nil, ""}},
			"",
		},
		"usage": {
			`{"id":"a","at":"2026-11-24T12:00:01Z","key":"k","prompt_tokens":"12","completion_tokens":"3"}` + "\n" +
				`{"id":"b","at":"2026-11-24T12:00:01Z","key":"k","prompt_tokens":"0","outcome":"refused"}`,
			[]Request{{0, 12, 3, nil, "k"}},
			"",
		},
		"nothing":       {"", nil, "no requests"},
		"something":     {"hello\n", nil, "line 1 is neither"},
		"a broken line": {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,a,1\n", nil, "line 2"},
		"no prompt":     {"{\"timestamp\": 0, \"input_length\": 0, \"output_length\": 5, \"hash_ids\": []}", nil, "out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ReadTrace("trace", strings.NewReader(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got.Requests, tc.want) {
				t.Errorf("got %+v, %v", got.Requests, err)
			}
		})
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("{\"timestamp\": 2000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [1, 2]}\n")
	f.Add("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n")
	f.Add(`{"at":"2026-11-24T12:00:01Z","prompt_tokens":"12","completion_tokens":"3"}`)
	f.Fuzz(func(t *testing.T, text string) {
		tr, err := ReadTrace("fuzz", strings.NewReader(text))
		if err != nil {
			return
		}
		last := time.Duration(0)
		for _, r := range tr.Requests {
			if r.At < last || r.Prompt < 1 || r.Output < 1 {
				t.Fatalf("%+v", r)
			}
			last = r.At
		}
	})
}
