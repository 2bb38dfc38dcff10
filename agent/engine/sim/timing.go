package sim

import "time"

// What a step costs, in milliseconds, from the polynomials of NVIDIA Dynamo's mocker (October 2025): prefill of t tokens
// costs prefillSquare*t² + prefillLinear*t + prefillBase, a decode step at KV utilisation u costs
// decodeSquare*u² + decodeLinear*u + decodeBase, whatever the number of sequences.
const (
	prefillSquare = 4.209989e-7
	prefillLinear = 1.518344e-2
	prefillBase   = 16.50142

	decodeSquare = -25.74
	decodeLinear = 54.01
	decodeBase   = 5.74
)

// stepWork is what one step computes.
type stepWork struct {
	prefillTokens int     // prompt tokens computed
	prefillCost   float64 // their cost without the base, in milliseconds
	decodes       int     // sequences that get one more token
}

// addPrefill adds the tokens from..to of one prompt. The square term is taken between both ends, so that a prompt costs
// the same in one piece, in chunks, and after a cached prefix what is left of it.
func (w *stepWork) addPrefill(from, to int) {
	a, b := float64(from), float64(to)
	w.prefillTokens += to - from
	w.prefillCost += prefillSquare*(b*b-a*a) + prefillLinear*(b-a)
}

// stepTime is how long a step takes at KV utilisation u, 0 to 1, with speedup 1 for the modelled hardware.
func (w stepWork) stepTime(u, speedup float64) time.Duration {
	var ms float64
	if w.prefillTokens > 0 {
		ms += w.prefillCost + prefillBase
	}
	if w.decodes > 0 {
		ms += decodeSquare*u*u + decodeLinear*u + decodeBase
	}
	return time.Duration(ms / speedup * float64(time.Millisecond))
}
