package sim

import (
	"fmt"
	"time"
)

// Chat says how people talk to a model, for a trace where there is none. Lengths are tokens, drawn from log-normal distributions with
// these means and a coefficient of variation of 1.
type Chat struct {
	Rate   float64       // conversations that begin in a second
	Length time.Duration // of the trace
	System int           // of the instruction with which all conversations begin
	Turns  float64       // questions of a conversation, on average (geometric)
	Ask    float64       // of a question
	Answer float64
	Block  int           // tokens of a block
	Think  time.Duration // between an answer's beginning and the next question, on average (exponential)
}

// DefaultChat is a chat with long documents, whose prompts are a few thousand tokens long.
var DefaultChat = Chat{Rate: 0.5, Length: 10 * time.Minute, System: 512, Turns: 4, Ask: 1000, Answer: 250, Block: 16, Think: 30 * time.Second}

// Trace draws one. Equal seeds give equal traces.
func (c Chat) Trace(seed uint64) Trace {
	rng := draws(seed)
	t := Trace{Name: fmt.Sprintf("chat with seed %d", seed), BlockTokens: c.Block}
	after := func(seconds float64) time.Duration {
		return time.Duration(rng.exponential(seconds) * float64(time.Second))
	}
	for at, n := after(1/c.Rate), uint64(1); at < c.Length; at, n = at+after(1/c.Rate), n+1 {
		tokens := c.System
		for when, more := at, true; more && when < c.Length; more = rng.uniform() < 1-1/c.Turns {
			tokens += 1 + int(rng.logNormal(c.Ask))
			r := Request{At: when, Prompt: tokens, Output: 1 + int(rng.logNormal(c.Answer)), Blocks: c.chain(n, tokens), Key: fmt.Sprintf("user %d", n%20)}
			t.Requests = append(t.Requests, r)
			tokens += r.Output
			when += after(c.Think.Seconds())
		}
	}
	t.sort()
	return t
}

// chain names the blocks of a conversation: those of the instruction are everybody's. A last one that is not full is nobody else's.
func (c Chat) chain(conversation uint64, tokens int) []uint64 {
	ids := make([]uint64, (tokens+c.Block-1)/c.Block)
	for i := range ids {
		end := (i + 1) * c.Block
		owner := conversation
		if end <= c.System {
			owner = 0
		}
		ids[i] = owner<<24 | uint64(i)
		if end > tokens {
			ids[i] = 1<<63 | conversation<<24 | uint64(tokens)
		}
	}
	return ids
}
