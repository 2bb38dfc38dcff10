package tiered

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	b := breaker{limit: 2, cooldown: time.Second}
	step := func(wait time.Duration, allowed bool) {
		t.Helper()
		now = now.Add(wait)
		if got := b.allow(now); got != allowed {
			t.Errorf("%v after the beginning: allowed %t", now.Sub(time.Unix(0, 0)), got)
		}
	}
	step(0, true)
	if b.done(now, false) {
		t.Error("dead after one failure")
	}
	step(0, true)
	if !b.done(now, false) || !b.open() {
		t.Error("alive after two failures")
	}
	step(999*time.Millisecond, false)
	step(time.Millisecond, true)
	step(0, false) // one tries
	b.neither()
	step(0, true)
	b.done(now, false)
	step(1900*time.Millisecond, false) // twice the cooldown
	step(100*time.Millisecond, true)
	if !b.done(now, true) || b.open() || b.wait(now) != 0 {
		t.Error("dead after a success")
	}
	for range 20 {
		b.done(now, false)
	}
	if got := b.wait(now); got != maxPauses*time.Second {
		t.Errorf("the longest pause is %v", got)
	}
}

func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pace{rate: 1 << 20}
		begun := time.Now()
		for range 10 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.charge(time.Now(), 1<<19)
		}
		if took := time.Since(begun); took != 4500*time.Millisecond {
			t.Errorf("5 MiB at 1 MiB/s took %v before the last piece", took)
		}
		time.Sleep(time.Hour) // is not saved up
		begun = time.Now()
		for range 2 {
			_ = p.wait(t.Context())
			p.charge(time.Now(), 1<<20)
		}
		if took := time.Since(begun); took != time.Second {
			t.Errorf("after a rest: %v", took)
		}
	})
}

func TestMeter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := Speed{
			Latency:   time.Duration(rapid.IntRange(0, 100).Draw(t, "ms")) * time.Millisecond,
			Bandwidth: rapid.Float64Range(1e6, 1e11).Draw(t, "bandwidth"),
		}
		var m meter
		if m.speed().Known() {
			t.Fatal("something is known before the first read")
		}
		for n := range 30 {
			bytes := int64(1+n%7) << 20
			m.observe(bytes, want.Time(bytes))
		}
		got := m.speed()
		if bytes := int64(4 << 20); math.Abs(float64(got.Time(bytes)-want.Time(bytes))) > 0.02*float64(want.Time(bytes))+1e3 {
			t.Fatalf("%+v was measured as %+v", want, got)
		}
	})
}

// llama70B is the example of the formula: Llama-3-70B on eight H100.
var llama70B = Engine{Parameters: 70.6e9, Layers: 80, Dimension: 8192, FLOPS: 8 * 989e12, Utilisation: .5}

func TestRecompute(t *testing.T) {
	t.Parallel()
	for tokens, want := range map[int]float64{2048: .073, 8192: .315, 32768: 1.53, 131072: 10.4} {
		if got := llama70B.Recompute(0, tokens).Seconds(); math.Abs(got-want) > .03*want {
			t.Errorf("%d tokens: %.3f s, want %.3f", tokens, got, want)
		}
	}
	half := llama70B.Recompute(0, 1000) + llama70B.Recompute(1000, 1000)
	if whole := llama70B.Recompute(0, 2000); (whole - half).Abs() > time.Microsecond {
		t.Errorf("two halves take %v, the whole %v", half, whole)
	}
	if (Engine{}).Recompute(0, 1000) != 0 {
		t.Error("an unknown engine's time is known")
	}
}

func TestWorthFetching(t *testing.T) {
	t.Parallel()
	const perToken = 327_680
	run := func(tokens int, gbps float64) Run {
		return Run{Blocks: tokens / 512, Tokens: tokens, Bytes: int64(tokens) * perToken, Speed: Speed{Bandwidth: gbps * 1e9}}
	}
	for _, c := range []struct {
		name string
		e    Engine
		runs []Run
		want int
	}{
		{"nothing", llama70B, nil, 0},
		{"memory", llama70B, []Run{run(8192, 50)}, 16},
		{"one disk, short", llama70B, []Run{run(8192, 7)}, 0},
		{"one disk, long", llama70B, []Run{run(65536, 7)}, 128},
		{"a bucket by 25 GbE", llama70B, []Run{run(32768, 3)}, 0},
		{"memory, then a bucket", llama70B, []Run{run(8192, 50), run(8192, 3)}, 16},
		{"a slow head before a tail in memory", llama70B, []Run{run(1024, 5), run(32768, 50)}, 66},
		{"never measured", llama70B, []Run{{Blocks: 3, Tokens: 1536, Bytes: 1 << 40}}, 3},
		{"unknown engine", Engine{}, []Run{run(8192, .001)}, 16},
	} {
		if got := WorthFetching(c.e, c.runs); got != c.want {
			t.Errorf("%s: %d blocks, want %d", c.name, got, c.want)
		}
	}
	stall := run(8192, 50)
	stall.Speed.Latency = time.Second
	if got := WorthFetching(llama70B, []Run{stall}); got != 0 {
		t.Error("a second's stall was taken for 0.3 s of prefill")
	}
}

// TestWorth: the store knows where the blocks are and how fast each place has been.
func TestWorth(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{host: 64 * size, below: 64 * size, idle: true})
	var keys []kvstore.Key
	for n := range 8 {
		if err := r.put(t, n, uint64(n+1), chainHint(n)); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, keyOf(n))
	}
	keys = append(keys, keyOf(100), keyOf(0))
	if n, err := r.Worth(t.Context(), keys, 512, llama70B); n != 8 || err != nil {
		t.Errorf("all in memory: %d, %v", n, err)
	}
	if _, err := r.Flush(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for n := 4; n < 8; n++ {
		if err := r.host.Delete(t.Context(), keyOf(n)); err != nil {
			t.Fatal(err)
		}
	}
	r.lanes[0].meter.observe(size, time.Hour)
	if n, err := r.Worth(t.Context(), keys, 512, llama70B); n != 4 || err != nil {
		t.Errorf("the second half is an hour away: %d, %v", n, err)
	}
	if s := r.Speeds(); len(s) != 1 || !s[0].Known() {
		t.Errorf("%+v", s)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}
