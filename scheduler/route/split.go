package route

import "fmt"

// What the way over a prefill replica costs, and what it saves.
const (
	// hopMs is a further request, its queue and its answer.
	hopMs = 5.0
	// decodeStreams is how many streams a decode replica is taken to have at least: it is there to have them, and they come
	// while the prompt is read.
	decodeStreams = 4
	// decodeSharers is sharers on a decode replica. Its streams were promised steps without prompts in between.
	decodeSharers = 8.0
	// moved is how many milliseconds a prompt token takes from one replica to the other before it was measured.
	moved = 0.01
)

// Halves are where both parts of a request go, by one sum of milliseconds.
type Halves struct {
	Decode  Decision
	Prefill *Decision // nil = decode reads the prompt itself
	Reason  string    // one sentence
	AloneMs float64   // what decode alone would cost
	PairMs  float64   // what the pair would, 0 = there is none
}

// Split says whether a decode replica reads a prompt itself or a prefill replica does it first. Decode is what Pick chose, out of
// candidates that have d.Index; it is priced anew as the reader of the prompt. reads tells whether the engine's decode role can
// read prompts at all. In modes for comparison the prompt goes to a prefill replica whenever there is one.
func Split(r Request, d Decision, decode *Candidate, reads bool, prefills []Candidate) Halves {
	h := Halves{Decode: d}
	p, err := Pick(r, prefills)
	if err != nil {
		h.Reason = "no prefill replica can take the prompt"
		return h
	}
	a := newAsk(&r, prefills)
	s := decode.speed()
	missing := float64(a.prompt - a.cached(decode))
	own := missing * s.PrefillMs
	streams := float64(max(decode.Inflight, decodeStreams))
	h.AloneMs = own + own*streams/decodeSharers + a.fetch(decode, s)
	move := s.MoveMs
	if move <= 0 {
		move = moved
	}
	// What the decode replica's own GPU has need not come over.
	h.PairMs = p.CostMs + hopMs + move*float64(a.prompt-max(0, min(decode.Cached[GPU], a.prompt)))
	if reads && r.Mode == ByCost && h.AloneMs <= h.PairMs {
		h.Reason = fmt.Sprintf("decode reads %.0f of %d prompt tokens itself: %.1f ms, over a prefill replica %.1f ms", missing, a.prompt, h.AloneMs, h.PairMs)
		return h
	}
	h.Prefill = &p
	h.Reason = fmt.Sprintf("a prefill replica reads the prompt: %.1f ms, decode alone %.1f ms", h.PairMs, h.AloneMs)
	return h
}
