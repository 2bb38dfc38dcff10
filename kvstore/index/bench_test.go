package index

import (
	"math/rand/v2"
	"testing"
)

const (
	benchLength = 512
	benchBlocks = 1 << 20
)

// filled is an index whose every prompt is held by one worker, or by all in its first half.
func filled(workers int, half bool) (*Index, [][]uint64, []Worker) {
	rng := rand.New(rand.NewPCG(1, 2))
	x := New(Limit{})
	names := make([]Worker, workers)
	for i := range names {
		names[i], _ = x.Add()
	}
	var common [16][]uint64
	for i := range common {
		for range benchLength / 2 {
			common[i] = append(common[i], rng.Uint64())
		}
		if half {
			for _, w := range names {
				x.Store(w, GPU, common[i])
			}
		}
	}
	prompts := make([][]uint64, benchBlocks/benchLength)
	for i := range prompts {
		var p []uint64
		if half {
			p = append(p, common[i%16]...)
		}
		for len(p) < benchLength {
			p = append(p, rng.Uint64())
		}
		prompts[i] = p
		x.Store(names[i%workers], GPU, p)
	}
	return x, prompts, names
}

func BenchmarkInsert(b *testing.B) {
	x, prompts, names := filled(64, false)
	rng := rand.New(rand.NewPCG(3, 4))
	fresh := make([]uint64, benchLength)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		for j := range fresh {
			fresh[j] = rng.Uint64()
		}
		old := prompts[i%len(prompts)]
		w := names[i%len(names)]
		x.Remove(w, GPU, old)
		x.Store(w, GPU, fresh)
		old, fresh = fresh, old
		prompts[i%len(prompts)] = old
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchLength, "ns/block")
}

func BenchmarkMatch(b *testing.B) {
	for _, c := range []struct {
		name    string
		workers int
		half    bool
	}{{"uniq64", 64, false}, {"half512", 512, true}} {
		b.Run(c.name, func(b *testing.B) {
			x, prompts, _ := filled(c.workers, c.half)
			r := x.NewReader()
			var dst []Match
			rng := rand.New(rand.NewPCG(3, 4))
			b.ReportAllocs()
			for b.Loop() {
				dst = r.Match(prompts[rng.IntN(len(prompts))], dst[:0])
			}
			if len(dst) == 0 {
				b.Fatal("nothing matched")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchLength, "ns/block")
			b.ReportMetric(float64(x.Stats().Bytes)/float64(x.Stats().Blocks), "B/block")
		})
	}
}
