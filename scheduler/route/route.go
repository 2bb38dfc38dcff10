// Package route chooses the replica that a request goes to. Pick is a pure function of the request and of what is known
// of each candidate; its unit is milliseconds to the first token, and its answer carries the parts and the runners-up, so
// that `penstock why` can print the decision.
//
// How much of the prompt a candidate's caches hold comes with the candidate (kvstore/index); how fast its engine is, is a
// Speed, which a Calibration learns from the answers' real times. Its callers are the gateway and the simulator.
package route

import (
	"errors"
	"fmt"
	"time"
)

// ErrNoCandidate means that there is nothing to choose from.
var ErrNoCandidate = errors.New("no replica can take the request")

// Mode is how to choose.
type Mode string

// The modes. All but ByCost are there to be compared with.
const (
	ByCost      Mode = ""             // least estimated time
	RoundRobin  Mode = "round-robin"  // by Request.Turn, over the candidates in the order given
	Random      Mode = "random"       // by the request's ID
	LeastLoaded Mode = "least-loaded" // fewest open requests
	LeastTokens Mode = "least-tokens" // fewest tokens of open requests, prompts and answers: least-loaded, tuned
	DynamoCost  Mode = "dynamo"       // the published cost function of NVIDIA Dynamo's router, in blocks, with its defaults
)

// ParseMode reads a mode's name; "cost" is ByCost.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "cost", "kv":
		return ByCost, nil
	case ByCost, RoundRobin, Random, LeastLoaded, LeastTokens, DynamoCost:
		return m, nil
	}
	return "", fmt.Errorf("routing mode %q: must be kv, round-robin, random, least-loaded, least-tokens or dynamo", s)
}

// The tiers of Candidate.Cached, fastest first, as in kvstore/index.
const (
	GPU = iota
	Host
	Disk
	Object
	Tiers
)

// Request is what the choice may depend on.
type Request struct {
	ID           string
	PromptTokens int // estimated; 0 = unknown
	Now          time.Time
	Mode         Mode
	Turn         uint64 // of RoundRobin: how many requests came before
	BlockTokens  int    // of DynamoCost; 0 = 16
}

// Candidate is one routable replica as this gateway sees it. Nil means unknown, never zero.
type Candidate struct {
	Launch  string
	Replica string // deployment/role/index, for people
	// Inflight is this gateway's own count of open requests on the replica, always known.
	Inflight int
	// InflightTokens is the sum of the open requests' prompt tokens not yet answered by a first token, less those that were
	// found in its caches.
	InflightTokens int
	// OpenTokens is the sum of the open requests' tokens, prompts and answers.
	OpenTokens int
	// Cached counts the prompt's leading tokens that this tier or a faster one holds, so it never falls from one to the next.
	Cached   [Tiers]int
	Running  *int // the engine's own counts, all gateways together
	Waiting  *int
	KVUsage  *float64  // 0..1
	KVTokens int       // what the engine's cache holds when it is full; 0 = unknown
	SeenAt   time.Time // of Running, Waiting, KVUsage
	EndsAt   time.Time // zero = no limit known
	Speed    *Speed    // nil = DefaultSpeed
	// WaitingFor is how long requests have been open here without any of them getting its first token; 0 = none waits.
	WaitingFor time.Duration
}

// Decision is the answer of Pick.
type Decision struct {
	Launch  string
	Index   int // of the chosen one among the candidates
	Replica string
	CostMs  float64 // of the modes that do not count milliseconds: what they count
	// ExpectedMs is the time to the first token that was expected: CostMs less what it costs others, or what may come later.
	ExpectedMs float64
	Parts      map[string]float64 // in milliseconds; their sum is CostMs
	RunnersUp  []RunnerUp         // cheapest first, at most 4
	Reason     string             // one sentence
	Work       Work               // what Calibration learns from, once the first token has come
	Cached     int                // tokens of the prompt that the chosen one need not compute
}

// RunnerUp is a candidate that was not chosen.
type RunnerUp struct {
	Launch  string
	Replica string
	CostMs  float64
}
