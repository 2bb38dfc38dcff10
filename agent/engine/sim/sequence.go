package sim

import (
	"context"
	"slices"
	"time"
)

// sampling is how the next token is chosen and when to stop.
type sampling struct {
	maxTokens   int
	minTokens   int
	temperature float64
	seed        uint64 // of this sequence
	penalty     uint64 // 0: none; else the choice depends on the place in the answer, as penalties make it
	ignoreEOS   bool
	stopTokens  []int32
	script      []int32 // what a grammar leaves to choose: exactly these tokens, then EOS
}

// greedy temperatures: vLLM takes anything below as 0.
const greedyBelow = 1e-5

// sequence is one prompt and its answer while the engine works on it. After submit it belongs to the scheduler.
type sequence struct {
	id        string // unique in this engine
	model     Fingerprint
	adapter   string
	adapterID int
	salt      string
	tenant    string // part of its blocks' names in a store outside
	sampling
	embed    bool // only the state after the prompt is wanted
	handOver bool // keep the blocks at the end for a decode engine
	pull     *pull
	out      *output

	tokens    []int32 // prompt and answer
	promptLen int
	computed  int  // tokens whose KV is in blocks
	reused    int  // prompt tokens found in the cache
	fetched   int  // prompt tokens whose KV came from another engine
	asked     bool // a store outside was asked for its blocks
	local     int  // prompt tokens that the cache had then
	sought    int  // prompt tokens whose KV came from there
	state     prefix
	blocks    []*block
	hashes    []blockHash // of the full blocks of tokens, as far as known
	started   bool        // was scheduled once
	ended     bool

	arrived, scheduled, firstToken, lastToken time.Time
	cancelPull                                context.CancelFunc
}

// newSequence prepares a sequence; tokens is the prompt and becomes the sequence's own. Hashing the prompt is done here,
// by the caller's goroutine, and not by the scheduler.
func newSequence(id string, tokens []int32, blockSize int, root blockHash, adapter string, adapterID int, salt string, model Fingerprint) *sequence {
	s := &sequence{
		id: id, tokens: tokens, promptLen: len(tokens), adapter: adapter, adapterID: adapterID, salt: salt,
		model: model.WithAdapter(adapter),
	}
	s.state = newPrefix(s.model)
	var h blockHasher
	s.extendHashes(&h, blockSize, root)
	return s
}

// answered is how many tokens were generated.
func (s *sequence) answered() int { return len(s.tokens) - s.promptLen }

// extendHashes hashes the blocks that became full.
func (s *sequence) extendHashes(h *blockHasher, blockSize int, root blockHash) {
	for i := len(s.hashes); (i+1)*blockSize <= len(s.tokens); i++ {
		parent := root
		if i > 0 {
			parent = s.hashes[i-1]
		}
		s.hashes = append(s.hashes, h.hash(parent, s.tokens[i*blockSize:(i+1)*blockSize], s.extra(i)))
	}
}

// extra is what parts block i's hash from that of other requests with the same tokens.
func (s *sequence) extra(i int) []string {
	var keys []string
	if s.adapter != "" {
		keys = append(keys, s.adapter)
	}
	if i == 0 && s.salt != "" {
		keys = append(keys, s.salt)
	}
	return keys
}

// sample chooses the next token after everything in tokens.
func (s *sequence) sample(v *vocabulary) int32 {
	if s.script != nil {
		if n := s.answered(); n < len(s.script) {
			return s.script[n]
		}
		return eosToken
	}
	t := v.next(s.state, s.rank())
	free := s.state
	free.at = 0
	for rank := 1; s.banned(t) && rank < 8*candidates; rank++ {
		t = v.next(free, rank)
	}
	return t
}

// rank is the candidate that sampling takes where a phrase begins.
func (s *sequence) rank() int {
	switch n := uint64(s.answered()); {
	case s.temperature >= greedyBelow:
		draw := mix(s.seed, n)
		if float64(draw>>11)/(1<<53) < 1/(1+s.temperature) {
			return 0
		}
		return 1 + int(mix(draw, 'r')%(candidates-1))
	case s.penalty != 0:
		return int(mix(s.penalty, n) % candidates)
	}
	return 0
}

// banned reports whether min_tokens forbids a token that would end the answer.
func (s *sequence) banned(t int32) bool {
	return s.answered() < s.minTokens && (t == eosToken || slices.Contains(s.stopTokens, t))
}

// stop says whether the answer ends with its last token t, and which stop token ended it (-1: none).
func (s *sequence) stop(t int32, maxModelLen int) (finish, int32) {
	switch {
	case s.script != nil && t == eosToken, t == eosToken && !s.ignoreEOS:
		return finishedStop, -1
	case slices.Contains(s.stopTokens, t):
		return finishedStop, t
	case s.answered() >= s.maxTokens, len(s.tokens) >= maxModelLen:
		return finishedLength, -1
	}
	return running, -1
}
