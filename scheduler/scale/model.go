package scale

import (
	"errors"
	"fmt"
	"math"
)

// Model is how long the steps of one replica's engine take, for one model, engine, kind of GPU and way of parallelism. Times are
// milliseconds. Engines form a step out of at most MaxBatched tokens of at most MaxSeqs sequences; a step that computes prompt
// tokens from a to b of a prompt, and one more token for each of n sequences, whose context fills the share u of the cache, takes
//
//	PrefillBase + PrefillToken·(b−a) + PrefillSquare·(b²−a²)            where it computes prompt tokens
//	+ DecodeBase + DecodeSeq·n + DecodeUse·u + DecodeUseSquare·u²       where it computes others
//
// The form is the one of NVIDIA Dynamo's mocker (October 2025) with a term for each sequence.
type Model struct {
	PrefillBase   float64 `yaml:"prefillBase" json:"prefill_base_ms"`
	PrefillToken  float64 `yaml:"prefillToken" json:"prefill_token_ms"`
	PrefillSquare float64 `yaml:"prefillSquare" json:"prefill_square_ms"`

	DecodeBase      float64 `yaml:"decodeBase" json:"decode_base_ms"`
	DecodeSeq       float64 `yaml:"decodeSeq" json:"decode_seq_ms"`
	DecodeUse       float64 `yaml:"decodeUse" json:"decode_use_ms"`
	DecodeUseSquare float64 `yaml:"decodeUseSquare" json:"decode_use_square_ms"`

	KVTokens    int `yaml:"kvTokens" json:"kv_tokens"` // that the GPU's cache holds
	BlockTokens int `yaml:"blockTokens" json:"block_tokens"`
	MaxSeqs     int `yaml:"maxSeqs" json:"max_seqs"`
	MaxBatched  int `yaml:"maxBatched" json:"max_batched_tokens"`
}

// Simulated is the model of the simulated engine with its default options (agent/engine/sim): the mocker's polynomials.
var Simulated = Model{
	PrefillBase: 16.50142, PrefillToken: 1.518344e-2, PrefillSquare: 4.209989e-7,
	DecodeBase: 5.74, DecodeUse: 54.01, DecodeUseSquare: -25.74,
	KVTokens: 16384 * 16, BlockTokens: 16, MaxSeqs: 256, MaxBatched: 8192,
}

// Validate says all that cannot be.
func (m *Model) Validate() error {
	var errs []error
	time := func(name string, ms float64) {
		if !(ms >= 0) || math.IsInf(ms, 0) {
			errs = append(errs, fmt.Errorf("%s: must be a number of milliseconds, 0 or more (got %g)", name, ms))
		}
	}
	size := func(name string, n int) {
		if n < 1 {
			errs = append(errs, fmt.Errorf("%s: must be above 0 (got %d)", name, n))
		}
	}
	time("prefillBase", m.PrefillBase)
	time("prefillToken", m.PrefillToken)
	time("prefillSquare", m.PrefillSquare)
	time("decodeBase", m.DecodeBase)
	time("decodeSeq", m.DecodeSeq)
	size("kvTokens", m.KVTokens)
	size("blockTokens", m.BlockTokens)
	size("maxSeqs", m.MaxSeqs)
	size("maxBatched", m.MaxBatched)
	if len(errs) == 0 && (m.PrefillToken+m.PrefillBase == 0 || !(m.DecodeStep(1, 0) > 0) || !(m.DecodeStep(1, 1) > 0)) {
		errs = append(errs, errors.New("steps would take no time"))
	}
	return errors.Join(errs...)
}

// PrefillPart is what the tokens from a to b of one prompt add to a step. Taken between both ends, a prompt costs the same in one
// piece, in chunks, and what is left of it after a cached prefix.
func (m *Model) PrefillPart(a, b int) float64 {
	x, y := float64(a), float64(b)
	return m.PrefillSquare*(y*y-x*x) + m.PrefillToken*(y-x)
}

// DecodeStep is a step in which n sequences get a token, at the use u (0..1) of the cache.
func (m *Model) DecodeStep(n int, u float64) float64 { return m.decode(float64(n), u) }

func (m *Model) decode(n, u float64) float64 {
	return m.DecodeBase + m.DecodeSeq*n + m.DecodeUse*u + m.DecodeUseSquare*u*u
}

// Prefill is the time to compute a prompt of which so many tokens are cached, by an engine that does nothing else.
func (m *Model) Prefill(prompt, cached int) float64 {
	left := max(1, prompt-cached)
	steps := math.Ceil(float64(left) / float64(max(1, m.MaxBatched)))
	return steps*m.PrefillBase + m.PrefillPart(prompt-left, prompt)
}

// Faster is the model of an engine so many times as fast, with the same cache.
func (m Model) Faster(times float64) Model {
	for _, f := range []*float64{&m.PrefillBase, &m.PrefillToken, &m.PrefillSquare, &m.DecodeBase, &m.DecodeSeq, &m.DecodeUse, &m.DecodeUseSquare} {
		*f /= times
	}
	return m
}
