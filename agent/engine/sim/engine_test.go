package sim

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"
)

// bench is an engine without an API around it, on the fake clock of a synctest bubble.
type bench struct {
	*engine
	t      *testing.T
	cancel context.CancelFunc
	ended  chan error
}

func newBench(t *testing.T, change ...func(*Options)) *bench {
	o := fast(append([]func(*Options){func(o *Options) { o.Speedup = 1 }}, change...)...)
	f := newFaults(o.Failures)
	b := &bench{t: t, engine: newEngine(o, newMetrics(prometheus.NewRegistry(), o, f), f, nil, zerolog.Nop()), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	go func() { b.ended <- b.run(ctx) }()
	return b
}

func (b *bench) stop() {
	b.cancel()
	if err := <-b.ended; err != nil {
		b.t.Errorf("engine: %v", err)
	}
}

// ask submits a greedy request for n tokens.
func (b *bench) ask(prompt string, n int, change ...func(*sequence)) *sequence {
	s := newSequence(prompt, b.v.encode(nil, prompt), b.opts.BlockSize, b.root, "", 0, "", FingerprintOf("m"))
	s.sampling = sampling{maxTokens: n, ignoreEOS: true}
	s.out = newOutput(make(chan struct{}, 1), true, 0)
	for _, c := range change {
		c(s)
	}
	b.submit(s)
	return s
}

// answer waits for a sequence to end and returns its tokens.
func (b *bench) answer(s *sequence) (ids []int, reason finish) {
	for {
		tokens, _, end := s.out.take(nil)
		ids = append(ids, idsOf(tokens)...)
		if end != nil {
			return ids, end.reason
		}
		<-s.out.wake
	}
}

// want is the reference answer, past the ends of answers.
func (b *bench) want(prompt string, n int) []int {
	c := newPrefix(FingerprintOf("m"))
	for _, t := range b.v.encode(nil, prompt) {
		c = b.v.fold(c, t)
	}
	var ids []int
	for range n {
		t := b.v.next(c, 0)
		ids = append(ids, int(t))
		c = b.v.fold(c, t)
	}
	return ids
}

// stepped is the number of steps so far, once the engine has nothing to do at this moment.
func (b *bench) stepped() int64 {
	synctest.Wait()
	return b.steps.Load()
}

// words is a prompt of exactly n tokens.
func (b *bench) words(seed string, n int) string {
	text := seed
	for i := 0; len(b.v.encode(nil, text)) < n; i++ {
		text += fmt.Sprint("\x01", i%10)
	}
	for len(b.v.encode(nil, text)) > n {
		text = text[:len(text)-1]
	}
	return text
}

// bubble runs a test on a fake clock.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	theVocabulary() // outside the bubble
	synctest.Test(t, f)
}

func TestStepsTakeTheirTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		defer b.stop()
		start := time.Now()
		b.answer(b.ask(b.words("a", 1000), 11))
		got := time.Since(start)
		// One prefill of 1,000 tokens gives the first token, ten decodes at 63/2048 of the cache the others.
		u := 63.0 / 2048
		ms := 4.209989e-7*1000*1000 + 1.518344e-2*1000 + 16.50142 + 10*(-25.74*u*u+54.01*u+5.74)
		want := time.Duration(ms * float64(time.Millisecond))
		if diff := (got - want).Abs(); diff > time.Millisecond {
			t.Errorf("took %s, the polynomials say %s", got, want)
		}
		if n := b.stepped(); n != 11 {
			t.Errorf("%d steps, want 11", n)
		}
	})
}

func TestSpeedupAndSlowness(t *testing.T) {
	bubble(t, func(t *testing.T) {
		took := func(change func(*Options)) time.Duration {
			b := newBench(t, change)
			defer b.stop()
			start := time.Now()
			b.answer(b.ask("x", 50))
			return time.Since(start)
		}
		plain := took(func(*Options) {})
		slow, _ := ParseFailure("slow:3")
		for name, c := range map[string]struct {
			change func(*Options)
			factor float64
		}{
			"speedup 4": {func(o *Options) { o.Speedup = 4 }, 0.25},
			"slow:3":    {func(o *Options) { o.Failures = []Failure{slow} }, 3},
		} {
			if got := took(c.change).Seconds() / plain.Seconds(); got < c.factor*0.99 || got > c.factor*1.01 {
				t.Errorf("%s: takes %.3f times as long, want %.3f", name, got, c.factor)
			}
		}
	})
}

func TestLongPromptsAreChunkedAndDoNotStopOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, func(o *Options) { o.MaxBatchedTokens = 128 })
		defer b.stop()
		chat := b.ask("short", 40)
		time.Sleep(30 * time.Millisecond) // it decodes
		before := b.stepped()
		long := b.ask(b.words("long", 1270), 1)
		b.answer(long)
		// Each step has 127 tokens left beside the decode.
		if n := b.stepped() - before; n < 10 || n > 12 {
			t.Errorf("1,270 tokens took %d steps of at most 128 tokens with one decode in each, want 10 or 11", n)
		}
		if ids, _ := b.answer(chat); fmt.Sprint(ids) != fmt.Sprint(b.want("short", 40)) {
			t.Error("the other answer changed")
		}
	})
}

func TestAllRunningSequencesAdvanceInOneStep(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		defer b.stop()
		var seqs []*sequence
		for i := range 100 {
			seqs = append(seqs, b.ask(fmt.Sprint("prompt ", i), 20))
		}
		for i, s := range seqs {
			if ids, _ := b.answer(s); fmt.Sprint(ids) != fmt.Sprint(b.want(fmt.Sprint("prompt ", i), 20)) {
				t.Errorf("answer %d is not the reference", i)
			}
		}
		if n := b.stepped(); n > 22 {
			t.Errorf("100 answers of 20 tokens took %d steps", n)
		}
	})
}

func TestMaxSeqs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, func(o *Options) { o.MaxSeqs = 2 })
		defer b.stop()
		var seqs []*sequence
		for i := range 6 {
			seqs = append(seqs, b.ask(fmt.Sprint("prompt ", i), 10))
		}
		for _, s := range seqs {
			b.answer(s)
		}
		if n := b.stepped(); n != 30 {
			t.Errorf("six answers of ten tokens, two at a time, took %d steps, want 30", n)
		}
	})
}

func TestPreemptionGivesTheSameText(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// Twelve sequences grow to 20 blocks each; there are 100.
		b := newBench(t, func(o *Options) { o.NumGPUBlocks, o.MaxModelLen = 100, 400 })
		defer b.stop()
		var seqs []*sequence
		for i := range 12 {
			seqs = append(seqs, b.ask(fmt.Sprint("prompt ", i), 300))
		}
		for i, s := range seqs {
			if ids, reason := b.answer(s); reason != finishedLength || fmt.Sprint(ids) != fmt.Sprint(b.want(fmt.Sprint("prompt ", i), 300)) {
				t.Errorf("answer %d ended with %s and is not the reference", i, reason)
			}
		}
		if n := valueOf(t, b.metrics.preemptions); n < 3 {
			t.Errorf("%v preemptions: the test does not test", n)
		}
		b.unused()
	})
}

// unused checks that no block is used any more.
func (b *bench) unused() {
	b.t.Helper()
	synctest.Wait()
	if n := b.occupied.Load(); n != 0 {
		b.t.Errorf("%d blocks are still used", n)
	}
}

func TestPrefixCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, func(o *Options) { o.MaxBatchedTokens = 64 })
		defer b.stop()
		prompt := b.words("the same", 640)
		run := func(change ...func(*sequence)) (steps int64, cached int) {
			before := b.stepped()
			s := b.ask(prompt, 5, change...)
			if ids, _ := b.answer(s); fmt.Sprint(ids) != fmt.Sprint(b.want(prompt, 5)) && s.adapter == "" {
				t.Error("not the reference")
			}
			_, cached, _ = s.out.take(nil)
			return b.stepped() - before, cached
		}
		for _, c := range []struct {
			name   string
			change func(*sequence)
			steps  int64
			cached int
		}{
			{"cold", func(*sequence) {}, 14, 0},
			{"again", func(*sequence) {}, 5, 624}, // all but the last block
			{"salted", b.with(prompt, "", "tenant-a"), 14, 0},
			{"salted again", b.with(prompt, "", "tenant-a"), 5, 624},
			{"other salt", b.with(prompt, "", "tenant-b"), 14, 0},
			{"adapter", b.with(prompt, "lora", ""), 14, 0},
			{"adapter again", b.with(prompt, "lora", ""), 5, 624},
			{"still there", func(*sequence) {}, 5, 624},
		} {
			if steps, cached := run(c.change); steps != c.steps || cached != c.cached {
				t.Errorf("%s: %d steps and %d cached tokens, want %d and %d", c.name, steps, cached, c.steps, c.cached)
			}
		}
		if ok, err := b.resetCache(t.Context()); !ok || err != nil {
			t.Errorf("reset: %v %v", ok, err)
		}
		if _, cached := run(); cached != 0 {
			t.Errorf("%d tokens are cached after a reset", cached)
		}
		b.unused()
	})
}

// with makes a sequence one of an adapter and a salt.
func (b *bench) with(prompt, adapter, salt string) func(*sequence) {
	return func(s *sequence) {
		out, how := s.out, s.sampling
		*s = *newSequence(s.id, b.v.encode(nil, prompt), b.opts.BlockSize, b.root, adapter, 1, salt, FingerprintOf("m"))
		s.out, s.sampling = out, how
	}
}

func TestAbortFreesBlocksAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, func(o *Options) { o.Speedup = 0.001 }) // steps of seconds
		defer b.stop()
		s := b.ask("hello", 100)
		synctest.Wait()
		time.Sleep(time.Millisecond)
		if b.occupied.Load() == 0 && b.stepped() > 0 {
			t.Error("it does not run")
		}
		before := time.Now()
		b.abort(s)
		if _, reason := b.answer(s); reason != finishedAbort {
			t.Errorf("ended with %s", reason)
		}
		b.unused()
		if d := time.Since(before); d != 0 {
			t.Errorf("it took %s: not at once but at the end of the step", d)
		}
	})
}

func TestSlowReaderIsAborted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		defer b.stop()
		s := b.ask("hello", 1000, func(s *sequence) { s.out = newOutput(make(chan struct{}, 1), false, 50) })
		time.Sleep(time.Minute)
		if tokens, _, end := s.out.take(nil); end == nil || end.reason != finishedAbort || len(tokens) != 51 {
			t.Errorf("%d tokens wait, end %+v: want an abort after 51", len(tokens), end)
		}
		b.unused()
	})
}

func TestEndOfEngineEndsSequences(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, func(o *Options) { o.MaxSeqs = 1 })
		first, second := b.ask("a", 1000), b.ask("b", 1000)
		time.Sleep(100 * time.Millisecond)
		b.stop()
		for _, s := range []*sequence{first, second} {
			if _, reason := b.answer(s); reason != finishedAbort {
				t.Errorf("%s ended with %q", s.id, reason)
			}
		}
	})
}

func TestMinTokensAndStopTokens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		defer b.stop()
		plain := func(s *sequence) { s.ignoreEOS = false }
		ids, reason := b.answer(b.ask("hi", 1000, plain))
		if reason != finishedStop || ids[len(ids)-1] != eosToken {
			t.Fatalf("ended with %s after %d tokens", reason, len(ids))
		}
		long, _ := b.answer(b.ask("hi", 1000, plain, func(s *sequence) { s.minTokens = len(ids) + 100 }))
		if len(long) < len(ids)+100 || count(long[:len(ids)+99], eosToken) > 0 {
			t.Errorf("min_tokens %d gave %d tokens", len(ids)+100, len(long))
		}
		stop := int32(ids[10])
		short, reason := b.answer(b.ask("hi", 1000, func(s *sequence) { s.stopTokens = []int32{stop} }))
		if reason != finishedStop || short[len(short)-1] != int(stop) {
			t.Errorf("a stop token ended it with %s after %v", reason, short)
		}
	})
}

func TestSamplingAndPenaltiesLeaveTheReference(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		defer b.stop()
		run := func(change func(*sequence)) string {
			ids, _ := b.answer(b.ask("hi", 60, change))
			return fmt.Sprint(ids)
		}
		seeded := func(seed uint64) func(*sequence) {
			return func(s *sequence) { s.temperature, s.seed = 0.8, seed }
		}
		greedy := run(func(*sequence) {})
		if once, again := run(seeded(1)), run(seeded(1)); once != again {
			t.Error("one seed gives two texts")
		}
		if run(seeded(1)) == run(seeded(2)) || run(seeded(1)) == greedy {
			t.Error("sampling changes nothing")
		}
		penalised := func(s *sequence) { s.penalty = 7 }
		if once, again := run(penalised), run(penalised); once == greedy || once != again {
			t.Error("penalties change nothing, or by chance")
		}
	})
}

func TestWrongKVShowsInText(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		defer b.stop()
		prompt := strings.Repeat("some words of a prompt. ", 20)
		first, _ := b.answer(b.ask(prompt, 30))
		spoil, _ := ParseFailure("wrong-kv:3")
		b.faults.set([]Failure{spoil}, nil, 0)
		if ok, _ := b.resetCache(t.Context()); !ok {
			t.Fatal("no reset")
		}
		b.answer(b.ask(prompt, 30))
		again, _ := b.answer(b.ask(prompt, 30))
		if fmt.Sprint(first) != fmt.Sprint(b.want(prompt, 30)) || fmt.Sprint(again) == fmt.Sprint(first) {
			t.Error("a spoiled block does not show in the text")
		}
	})
}

func TestHangAndDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		hang, _ := ParseFailure("hang-after-tokens:10")
		b.faults.set([]Failure{hang}, nil, 0)
		s := b.ask("hi", 50)
		time.Sleep(time.Hour)
		if tokens, _, end := s.out.take(nil); len(tokens) != 10 || end != nil {
			t.Errorf("%d tokens, end %v; want 10 and then nothing", len(tokens), end)
		}
		die, _ := ParseFailure("die-after-tokens:5,42")
		b.faults.set([]Failure{die}, []FailureKind{HangAfter}, b.generated.Load())
		b.post(func() {})
		if err := <-b.ended; exitCode(err) != 42 || !strings.Contains(err.Error(), "15 tokens") {
			t.Errorf("ended with %v", err)
		}
		if _, reason := b.answer(s); reason != finishedAbort {
			t.Errorf("the sequence ended with %q", reason)
		}
	})
}

func valueOf(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}
