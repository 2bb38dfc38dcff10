package sim

import (
	"math"
	"time"
)

// histogram counts durations in steps of 1 %.
type histogram struct {
	counts []int64
	total  int64
}

const (
	histogramLeast = float64(10 * time.Microsecond)
	histogramStep  = 1.01
)

var histogramLog = math.Log(histogramStep)

func (h *histogram) add(d time.Duration, n int) {
	i := 0
	if f := float64(d) / histogramLeast; f > 1 {
		i = int(math.Log(f) / histogramLog)
	}
	for len(h.counts) <= i {
		h.counts = append(h.counts, 0)
	}
	h.counts[i] += int64(n)
	h.total += int64(n)
}

// quantile is the duration below which the share q lies, to 1 %; 0 where nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	left := int64(math.Ceil(q * float64(h.total)))
	for i, n := range h.counts {
		if left -= n; left <= 0 && h.total > 0 {
			return time.Duration(histogramLeast * math.Pow(histogramStep, float64(i)+0.5))
		}
	}
	return 0
}
