// Package route chooses the replica that a request goes to. Pick is a pure function of the request and of what is known
// of each candidate; its unit is milliseconds to the first token, and its answer carries the parts and the runners-up, so
// that `penstock why` can print the decision.
//
// It does not know what a replica's cache holds, nor how fast a card is: the constants in cost.go stand for both. Its
// caller is the gateway.
package route

import (
	"errors"
	"time"
)

// ErrNoCandidate means that there is nothing to choose from.
var ErrNoCandidate = errors.New("no replica can take the request")

// Request is what the choice may depend on.
type Request struct {
	ID           string
	PromptTokens int // estimated; 0 = unknown
	Now          time.Time
}

// Candidate is one routable replica as this gateway sees it. Nil means unknown, never zero.
type Candidate struct {
	Launch  string
	Replica string // deployment/role/index, for people
	// Inflight is this gateway's own count of open requests on the replica, always known.
	Inflight int
	// InflightTokens is the sum of the open requests' prompt tokens not yet answered by a first token.
	InflightTokens int
	Running        *int // the engine's own counts, all gateways together
	Waiting        *int
	KVUsage        *float64  // 0..1
	SeenAt         time.Time // of Running, Waiting, KVUsage
	EndsAt         time.Time // zero = no limit known
}

// Decision is the answer of Pick.
type Decision struct {
	Launch    string
	Replica   string
	CostMs    float64
	Parts     map[string]float64 // in milliseconds; their sum is CostMs
	RunnersUp []RunnerUp         // cheapest first, at most 4
	Reason    string             // one sentence
}

// RunnerUp is a candidate that was not chosen.
type RunnerUp struct {
	Launch  string
	Replica string
	CostMs  float64
}
