package sim

import (
	"cmp"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/scale"
	simulator "github.com/penstock/penstock/scheduler/sim"
)

// TestSimulatorIsTheEngine plays a trace on this engine, on a fake clock, and on the simulator's model of it.
func TestSimulatorIsTheEngine(t *testing.T) {
	for name, change := range map[string]func(*simulator.Chat, *scale.Model){
		"light":         func(*simulator.Chat, *scale.Model) {},
		"prompts queue": func(c *simulator.Chat, _ *scale.Model) { c.Rate, c.Answer = 1.2, 20 },
		"the cache is small": func(c *simulator.Chat, m *scale.Model) {
			c.Rate, m.KVTokens = 0.25, 4096*16
		},
		"pages run out and sequences are preempted": func(c *simulator.Chat, m *scale.Model) {
			c.Answer, m.KVTokens = 1500, 2048*16
		},
		"long prompts are cut":                             func(c *simulator.Chat, m *scale.Model) { c.Ask, m.MaxBatched = 4000, 2048 },
		"blocks of the trace are larger than the engine's": func(c *simulator.Chat, m *scale.Model) { c.Block, m.KVTokens = 512, 8192*16 },
		"few at a time":                                    func(_ *simulator.Chat, m *scale.Model) { m.MaxSeqs = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			chat, m := simulator.DefaultChat, scale.Simulated
			chat.Rate, chat.Length = 0.5, 3*time.Minute
			change(&chat, &m)
			trace := fitting(chat.Trace(7), m.KVTokens/2)
			c := simulator.DefaultConfig()
			c.Model = m
			want, err := simulator.Run(c, trace, nil)
			if err != nil {
				t.Fatal(err)
			}
			bubble(t, func(t *testing.T) {
				got := play(t, m, trace)
				t.Logf("%d requests, %d preempted: TTFT p50 %v and %v, p90 %v and %v; a token p50 %v and %v; cached %.3f and %.3f",
					len(trace.Requests), want.Preempted, got.ttft(.5), want.TTFT.P50, got.ttft(.9), want.TTFT.P90, got.each(.5), want.Wait.P50, got.hit, want.Hit)
				near(t, "TTFT p50", got.ttft(.5), want.TTFT.P50)
				near(t, "TTFT p90", got.ttft(.9), want.TTFT.P90)
				near(t, "time for a token p50", got.each(.5), want.Wait.P50)
				near(t, "time for a token p90", got.each(.9), want.Wait.P90)
				if math.Abs(got.hit-want.Hit) > 0.005 {
					t.Errorf("cached: %.4f of the engine's prompts, %.4f of the simulator's", got.hit, want.Hit)
				}
			})
		})
	}
}

// near allows one percent, and a millisecond.
func near(t *testing.T, what string, engine, simulator time.Duration) {
	t.Helper()
	if d := (engine - simulator).Abs(); d > engine/100+time.Millisecond {
		t.Errorf("%s: %v on the engine, %v in the simulator", what, engine, simulator)
	}
}

// fitting leaves out what an engine would refuse.
func fitting(t simulator.Trace, tokens int) simulator.Trace {
	t.Requests = slices.DeleteFunc(t.Requests, func(r simulator.Request) bool { return r.Prompt+r.Output > tokens })
	return t
}

type played struct {
	first, per []time.Duration
	hit        float64
}

func (p played) ttft(q float64) time.Duration { return quantile(p.first, q) }
func (p played) each(q float64) time.Duration { return quantile(p.per, q) }

func quantile(d []time.Duration, q float64) time.Duration {
	d = slices.SortedFunc(slices.Values(d), cmp.Compare)
	return d[max(0, int(math.Ceil(q*float64(len(d))))-1)]
}

// play sends the trace to an engine, each request at its time.
func play(t *testing.T, m scale.Model, trace simulator.Trace) (p played) {
	b := newBench(t, func(o *Options) {
		o.NumGPUBlocks, o.BlockSize, o.MaxSeqs, o.MaxBatchedTokens, o.MaxModelLen = m.KVTokens/m.BlockTokens, m.BlockTokens, m.MaxSeqs, m.MaxBatched, m.KVTokens
	})
	defer b.stop()
	begin := time.Now()
	var sent []*sequence
	for i, r := range trace.Requests {
		time.Sleep(time.Until(begin.Add(r.At)))
		s := newSequence(string(rune(i)), promptOf(r, trace.BlockTokens), m.BlockTokens, b.root, "", 0, "", FingerprintOf("m"))
		s.sampling = sampling{maxTokens: r.Output, ignoreEOS: true}
		s.out = newOutput(make(chan struct{}, 1), true, 0)
		b.submit(s)
		sent = append(sent, s)
	}
	prompt, cached := 0, 0
	for i, s := range sent {
		b.answer(s)
		p.first = append(p.first, s.firstToken.Sub(s.arrived))
		if n := trace.Requests[i].Output; n > 1 {
			p.per = append(p.per, s.lastToken.Sub(s.firstToken)/time.Duration(n-1))
		}
		prompt += s.promptLen
		cached += s.reused
	}
	p.hit = float64(cached) / float64(prompt)
	return p
}

// promptOf makes a prompt whose blocks are equal where the trace says so.
func promptOf(r simulator.Request, size int) []int32 {
	tokens := make([]int32, r.Prompt)
	for i := range tokens {
		tokens[i] = int32(100 + mix(r.Blocks[i/size], uint64(i%size))%400)
	}
	return tokens
}
