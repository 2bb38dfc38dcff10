package scale

import (
	"math"
	"time"
)

// History is what came to one role over time, in steps: how many requests, and how long they were. The zero History has seen nothing.
// It is a value: Add returns the next one, which shares memory with it.
type History struct {
	Step   time.Duration
	counts []float64 // of each step, the oldest first
	prompt float64   // of late, tokens of a request: means in which what is older counts less
	cached float64
	output float64
	known  bool
}

// Tally is what came in one step. Tokens are the requests' together; Output of those whose answer has ended.
type Tally struct {
	Requests               int
	Prompt, Cached, Output float64
	Ended                  int
}

const (
	historySteps = 4096
	lengthWeight = 0.02 // of one request
)

// Add takes in the next step.
func (h History) Add(t Tally) History {
	if len(h.counts) >= historySteps {
		h.counts = h.counts[len(h.counts)-historySteps*3/4:]
	}
	h.counts = append(h.counts, float64(t.Requests))
	if t.Requests > 0 {
		n := float64(t.Requests)
		h.prompt = h.blend(h.prompt, t.Prompt/n, n)
		h.cached = h.blend(h.cached, t.Cached/n, n)
		h.known = true
	}
	if t.Ended > 0 {
		h.output = h.blend(h.output, t.Output/float64(t.Ended), float64(t.Ended))
	}
	return h
}

// blend takes a mean of n values into another one.
func (h History) blend(old, mean, n float64) float64 {
	if old == 0 {
		return mean
	}
	return mean + (old-mean)*math.Pow(1-lengthWeight, n)
}

// Ahead is the load to expect after a lead: its Rate a quantile, the lengths as of late. False where nothing has come yet. Rates are
// means over a window, since a step alone is mostly chance.
func (h History) Ahead(lead, period time.Duration, share float64) (l Load, f Forecast, known bool) {
	if !h.known || h.Step <= 0 {
		return Load{}, Forecast{}, false
	}
	window := max(1, int(rateWindow/h.Step))
	var rates []float64
	for end := len(h.counts); end > 0; end -= window {
		sum, n := 0.0, 0
		for _, c := range h.counts[max(0, end-window):end] {
			sum += c
			n++
		}
		rates = append(rates, sum/(float64(n)*h.Step.Seconds()))
	}
	for i, j := 0, len(rates)-1; i < j; i, j = i+1, j-1 {
		rates[i], rates[j] = rates[j], rates[i]
	}
	f = Foretell(Series{time.Duration(window) * h.Step, rates}, lead, period, share)
	return Load{Rate: f.High, Prompt: h.prompt, Cached: h.cached, Output: max(1, h.output), Burst: h.burst()}, f, true
}

// burst is the variance of the last steps' counts around those of their neighbours, over their mean.
func (h History) burst() float64 {
	c := h.counts[max(0, len(h.counts)-burstSteps):]
	if len(c) < 3 {
		return 1
	}
	sum, squares := 0.0, 0.0
	for i := 1; i+1 < len(c); i++ {
		d := c[i] - (c[i-1]+c[i]+c[i+1])/3
		squares += d * d * 3 / 2 // three values lose one degree of freedom
		sum += c[i]
	}
	if sum == 0 {
		return 1
	}
	return squares / sum
}

const burstSteps = 120

// rateWindow is how long requests are counted for one rate.
const rateWindow = time.Minute
