// Package admit decides whether a key's next request may go ahead: requests per minute, tokens per minute, requests open
// at a time. It is arithmetic over values: the time is an argument, the new State is returned, nothing is kept or waited for.
//
// It does not know keys, models or replicas. Each gateway keeps one State per key and calls Decide before a request and
// Settle after it.
package admit

import (
	"math"
	"time"
)

// Limits of one key. Zero means no limit. Each bucket holds one minute's worth, so a key that was idle may use that much at
// once.
type Limits struct {
	RequestsPerMinute uint32
	TokensPerMinute   uint64
	Concurrency       uint32
}

// State is what is known of one key. The zero State is a key that has not asked yet: its buckets are full.
type State struct {
	Open     uint32 // requests admitted and not yet settled
	requests bucket
	tokens   bucket
}

// Request is what one request takes. Tokens is what it will probably use; Settle corrects it.
type Request struct {
	Tokens uint64
}

// Verdict is the answer of Decide.
type Verdict struct {
	OK         bool
	RetryAfter time.Duration // when the same request may be admitted if nothing else comes; at least a second
	Limit      string        // the limit that refuses, for people
}

// concurrencyRetry is what a key is told that has too many requests open: nobody knows when the first of them ends.
const concurrencyRetry = time.Second

// Decide admits or refuses a request at now. A refused request changes nothing but the buckets' clocks.
//
// Tokens are taken by estimate and settled later, so a bucket can fall below zero; it must fill again before the next
// request. A request that is larger than the whole bucket is admitted by a full one, else it could never be.
func Decide(s State, l Limits, r Request, now time.Time) (State, Verdict) {
	requests := float64(l.RequestsPerMinute)
	tokens := float64(l.TokensPerMinute)
	s.requests = s.requests.at(now, requests)
	s.tokens = s.tokens.at(now, tokens)

	if l.Concurrency > 0 && s.Open >= l.Concurrency {
		return s, Verdict{RetryAfter: concurrencyRetry, Limit: "requests at a time"}
	}
	if wait := s.requests.wait(1, requests); l.RequestsPerMinute > 0 && wait > 0 {
		return s, Verdict{RetryAfter: wait, Limit: "requests per minute"}
	}
	if wait := s.tokens.wait(float64(r.Tokens), tokens); l.TokensPerMinute > 0 && wait > 0 {
		return s, Verdict{RetryAfter: wait, Limit: "tokens per minute"}
	}
	s.Open++
	s.requests.used++
	s.tokens.used += float64(r.Tokens)
	return s, Verdict{OK: true}
}

// Settle ends a request that Decide admitted: it is no longer open, and used takes the place of the estimate.
func Settle(s State, l Limits, r Request, used uint64, now time.Time) State {
	s.requests = s.requests.at(now, float64(l.RequestsPerMinute))
	s.tokens = s.tokens.at(now, float64(l.TokensPerMinute))
	if s.Open > 0 {
		s.Open--
	}
	s.tokens.used = max(0, s.tokens.used+float64(used)-float64(r.Tokens))
	return s
}

// bucket counts what was used and not yet given back by time: 0 is a full bucket, so the zero bucket is full.
type bucket struct {
	used float64
	when time.Time
}

// at gives back what time has given back until now. A clock that was set back gives nothing and takes nothing.
func (b bucket) at(now time.Time, perMinute float64) bucket {
	if passed := now.Sub(b.when); passed > 0 && !b.when.IsZero() {
		b.used = max(0, b.used-perMinute*passed.Minutes())
	}
	b.when = now
	return b
}

// wait is how long it takes until need fits, 0 = it fits now.
func (b bucket) wait(need, perMinute float64) time.Duration {
	over := b.used + min(need, perMinute) - perMinute
	if over <= 1e-9*perMinute || perMinute <= 0 {
		return 0
	}
	seconds := math.Ceil(over / perMinute * 60)
	return max(time.Second, time.Duration(seconds)*time.Second)
}
