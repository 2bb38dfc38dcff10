package sim

import (
	"time"

	"github.com/penstock/penstock/scheduler/scale"
)

// stepWork is what one step computes. How long that takes is scale.Simulated.
type stepWork struct {
	prefillTokens int     // prompt tokens computed
	prefillCost   float64 // their cost without the base, in milliseconds
	decodes       int     // sequences that get one more token
}

// addPrefill adds the tokens from..to of one prompt.
func (w *stepWork) addPrefill(from, to int) {
	w.prefillTokens += to - from
	w.prefillCost += scale.Simulated.PrefillPart(from, to)
}

// stepTime is how long a step takes at KV utilisation u, 0 to 1, with speedup 1 for the modelled hardware.
func (w stepWork) stepTime(u, speedup float64) time.Duration {
	var ms float64
	if w.prefillTokens > 0 {
		ms += w.prefillCost + scale.Simulated.PrefillBase
	}
	if w.decodes > 0 {
		ms += scale.Simulated.DecodeStep(w.decodes, u)
	}
	return time.Duration(ms / speedup * float64(time.Millisecond))
}
