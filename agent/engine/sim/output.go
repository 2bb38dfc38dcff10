package sim

import (
	"encoding/json"
	"sync"
)

// finish is why a sequence ended, in vLLM's words.
type finish string

const (
	running        finish = ""
	finishedStop   finish = "stop"
	finishedLength finish = "length"
	finishedAbort  finish = "abort"
	finishedError  finish = "error" // its KV could not be loaded
)

// emitted is one generated token, and the text function's hash before it (from which its logprobs are made).
type emitted struct {
	token int32
	hash  uint64
}

// outcome is what a sequence ended with.
type outcome struct {
	reason     finish
	stopToken  int32 // the stop token that ended it, or -1
	final      prefix
	kvTransfer json.RawMessage // parameters for the decode side; nil if none
	err        error           // with finishedError
}

// output hands a sequence's tokens from the scheduler to whoever answers the request. The scheduler never waits: tokens
// that are not taken yet pile up and are taken together, as in vLLM, up to limit.
type output struct {
	wake    chan struct{} // capacity 1: something to take, in this output or another of the request
	onlyEnd bool          // wake at the end only
	limit   int           // tokens that may wait; 0 is any number

	mu      sync.Mutex
	pending []emitted
	cached  int // prompt tokens found in the cache
	end     *outcome
}

// newOutput makes an output that signals wake, which the outputs of one request share.
func newOutput(wake chan struct{}, onlyEnd bool, limit int) *output {
	return &output{wake: wake, onlyEnd: onlyEnd, limit: limit}
}

// push adds a token; false if the reader is too slow and the sequence has to end.
func (o *output) push(t emitted) bool {
	o.mu.Lock()
	o.pending = append(o.pending, t)
	n := len(o.pending)
	o.mu.Unlock()
	if !o.onlyEnd {
		o.signal()
	}
	return o.onlyEnd || o.limit == 0 || n <= o.limit
}

// close ends the output, with its last token if there is one. Only the first end counts.
func (o *output) close(end outcome, last ...emitted) {
	o.mu.Lock()
	if o.end == nil {
		o.end = &end
		o.pending = append(o.pending, last...)
	}
	o.mu.Unlock()
	o.signal()
}

// setCached records how many prompt tokens needed no computing.
func (o *output) setCached(n int) {
	o.mu.Lock()
	o.cached = n
	o.mu.Unlock()
}

// take moves what waits into buf. end is nil while the sequence runs; tokens taken with it are the last.
func (o *output) take(buf []emitted) (tokens []emitted, cached int, end *outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	tokens = append(buf[:0], o.pending...)
	o.pending = o.pending[:0]
	return tokens, o.cached, o.end
}

func (o *output) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}
