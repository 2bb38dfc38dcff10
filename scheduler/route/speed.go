package route

import "math"

// Speed is what a token and a request cost on one kind of engine, model and card, in milliseconds of somebody's first token.
type Speed struct {
	PrefillMs float64        // per prompt token that is computed
	OpenMs    float64        // per open request: each lengthens the step that prefill shares
	FetchMs   [Tiers]float64 // per prompt token that comes from a tier; the GPU's own is free
	MoveMs    float64        // per prompt token that comes from a prefill replica
}

// DefaultSpeed is a middle-sized model's on one card. Before anything was measured only the order of replicas hangs on it, and
// that is the same over a wide range.
var DefaultSpeed = Speed{PrefillMs: 0.1, OpenMs: 2, FetchMs: [Tiers]float64{0, 0.01, 0.05, 0.05}, MoveMs: moved}

// Work is what a request had before it and with it: what a Speed is multiplied with.
type Work struct {
	PrefillTokens float64 // that come first, and its own that no tier has
	Open          float64
	FetchTokens   [Tiers]float64
	MovedTokens   float64
}

// Ms is the time to the first token at a speed.
func (w Work) Ms(s *Speed) float64 {
	ms := w.PrefillTokens*s.PrefillMs + w.Open*s.OpenMs + w.MovedTokens*s.MoveMs
	for t, n := range w.FetchTokens {
		ms += n * s.FetchMs[t]
	}
	return ms
}

// Calibration learns the speed of one pool of like replicas from the times that first tokens really took. It is a value: Learn
// returns the next one. The zero Calibration has the default speed.
type Calibration struct {
	speed   Speed
	learned int
	miss    float64
}

const (
	learnRate  = 0.1  // share of an error that one answer corrects
	learnFirst = 0.5  // of the first answers, which start from a guess
	firstFew   = 20   // answers
	outlier    = 4.0  // an answer that took so many times longer or shorter teaches no more than this
	missRate   = 0.02 // of the running mean
	minWork    = 1.0  // ms; a prediction below it teaches nothing
)

// Speed of this moment.
func (c Calibration) Speed() Speed {
	if c.learned == 0 {
		return DefaultSpeed
	}
	return c.speed
}

// Learned counts the answers.
func (c Calibration) Learned() int { return c.learned }

// Miss is by what factor predictions miss on average, 1 = never; it begins at 1.
func (c Calibration) Miss() float64 { return math.Exp(c.miss) }

// Learn takes in that some work took so many milliseconds to the first token. Each coefficient is corrected in proportion to its
// share of the prediction, so what had no part in it stays as it is, and none becomes negative.
func (c Calibration) Learn(w Work, ms float64) Calibration {
	s := c.Speed()
	predicted := w.Ms(&s)
	if !(ms > 0) || predicted < minWork || math.IsInf(ms, 0) {
		return c
	}
	ratio := min(max(ms/predicted, 1/outlier), outlier)
	rate := learnRate
	if c.learned < firstFew {
		rate = learnFirst
	}
	correct := func(k *float64, n float64) {
		share := *k * n / predicted
		*k *= math.Pow(ratio, rate*share)
	}
	correct(&s.PrefillMs, w.PrefillTokens)
	correct(&s.OpenMs, w.Open)
	correct(&s.MoveMs, w.MovedTokens)
	for t := range s.FetchMs {
		correct(&s.FetchMs[t], w.FetchTokens[t])
	}
	c.miss += missRate * (math.Abs(math.Log(ratio)) - c.miss)
	c.speed = s
	c.learned++
	return c
}
