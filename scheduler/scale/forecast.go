package scale

import (
	"math"
	"slices"
	"time"
)

// Series is a quantity over time, the oldest value first, one each Step.
type Series struct {
	Step   time.Duration
	Values []float64
}

// Forecast is what a quantity will be, with how that was found.
type Forecast struct {
	Value  float64 // the expected one
	High   float64 // the quantile that was asked for: at least Value
	Method string  // constant, trend or season; "" = nothing was seen
	Error  float64 // mean absolute error of the method on what was seen, at the same horizon
}

// method foretells a value some steps after the end of what was seen.
type method struct {
	name string
	tell func(seen []float64, ahead int) float64
}

// Weights of what is new: of the level, and of its change (Holt's local linear trend in its steady state).
const (
	levelWeight  = 0.3
	changeWeight = 0.1
)

// constant is a mean in which what is older counts less.
func constant(seen []float64, _ int) float64 {
	level := seen[0]
	for _, v := range seen[1:] {
		level += levelWeight * (v - level)
	}
	return level
}

// trend goes on rising or falling as of late.
func trend(seen []float64, ahead int) float64 {
	level, change := seen[0], 0.0
	for _, v := range seen[1:] {
		next := level + change + levelWeight*(v-level-change)
		change += changeWeight * (next - level - change)
		level = next
	}
	return max(0, level+change*float64(ahead))
}

// season repeats what was seen a period before, on today's level.
func season(period int) func([]float64, int) float64 {
	return func(seen []float64, ahead int) float64 {
		at := len(seen) - 1 + ahead
		for at >= len(seen) {
			at -= period
		}
		if at < 0 || len(seen) < period {
			return constant(seen, ahead)
		}
		return seen[at]
	}
}

// testedAt is at how many moments of what was seen the methods are tried out.
const testedAt = 60

// Foretell says what a quantity will be after the horizon, with the method that would have erred least on what was seen. period is the
// length of a day, or of whatever repeats; 0 = nothing does. share is the quantile of Forecast.High, by the errors that the method made.
func Foretell(s Series, horizon, period time.Duration, share float64) Forecast {
	if len(s.Values) == 0 || s.Step <= 0 {
		return Forecast{}
	}
	ahead := max(1, int(math.Round(float64(horizon)/float64(s.Step))))
	methods := []method{{"constant", constant}, {"trend", trend}}
	if steps := int(period / s.Step); period > 0 && len(s.Values) >= steps+ahead {
		methods = append(methods, method{"season", season(steps)})
	}
	best := Forecast{Error: math.Inf(1)}
	for _, m := range methods {
		errors := backTest(s.Values, m, ahead)
		f := Forecast{Value: max(0, m.tell(s.Values, ahead)), Method: m.name}
		for _, e := range errors {
			f.Error += math.Abs(e) / float64(len(errors))
		}
		f.High = f.Value + max(0, quantile(errors, share))
		if f.Error < best.Error*0.95 { // a simpler one is preferred to one that is hardly better
			best = f
		}
	}
	return best
}

// backTest gives by how much the truth was above what the method would have foretold, at moments spread over what was seen.
func backTest(seen []float64, m method, ahead int) (errors []float64) {
	const least = 3 // values before anything can be foretold
	last := len(seen) - ahead
	stride := max(1, (last-least)/testedAt)
	for end := last; end >= least; end -= stride {
		errors = append(errors, seen[end+ahead-1]-m.tell(seen[:end], ahead))
	}
	return errors
}

// quantile of values, between those that are nearest; 0 of none.
func quantile(values []float64, share float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	at := max(0, min(share, 1)) * float64(len(v)-1)
	i := int(at)
	if i+1 == len(v) {
		return v[i]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}
