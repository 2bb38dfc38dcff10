package route

import "time"

// What a token, a request and a shortage cost in milliseconds of somebody's first token. They are a middle-sized model's on
// one card, stated rather than measured: only the order of replicas hangs on them, and that is the same over a wide range.
const (
	prefillMs = 0.1 // per prompt token: 10,000 tokens a second
	openMs    = 2.0 // per open request: each lengthens the step that prefill shares
	// typicalPrompt stands for a prompt whose length nobody knows, this request's or a waiting one's.
	typicalPrompt = 512
	// kvFull is the KV usage from which engines begin to make requests wait or to preempt them; a full cache costs
	// kvFullMs.
	kvFull   = 0.9
	kvFullMs = 1000.0
)

// silentMs is what a replica costs that does not tell how loaded it is while others do, as much as some waiting prompts:
// an engine that hangs tells nothing, and must not look idle beside one that tells of a queue.
const silentMs = 250.0

// A replica whose job ends soon is worth less: its streams will have to move. From endsSoon before the end its cost rises
// to endsSoonMs; within endsNow it is chosen only when there is nothing else.
const (
	endsSoon   = 2 * time.Minute
	endsNow    = 20 * time.Second
	endsSoonMs = 5000.0
	endsNowMs  = 1e6
)

// freshFor is how long an engine's own figures count. Older ones are treated as unknown.
const freshFor = 5 * time.Second

// parts is the estimate for one candidate, each part in milliseconds.
type parts struct {
	queue   float64 // prompts that come first
	prefill float64 // this prompt
	decode  float64 // open streams that share the engine's steps
	kv      float64 // shortage of KV blocks
	end     float64 // the job ends soon
	silent  float64 // nobody knows its load, of others it is known
}

func (p parts) sum() float64 { return p.queue + p.prefill + p.decode + p.kv + p.end + p.silent }

// ask is a request with what follows from it for every candidate.
type ask struct {
	Request
	prefill        float64
	oldest, newest int64 // Unix milliseconds between which an engine's figures are fresh
	soon           int64 // an end before this one costs
	told           bool  // at least one candidate tells its load
}

func newAsk(r Request, candidates []Candidate) *ask {
	prompt := r.PromptTokens
	if prompt <= 0 {
		prompt = typicalPrompt
	}
	a := &ask{
		Request: r, prefill: float64(prompt) * prefillMs,
		oldest: r.Now.Add(-freshFor).UnixMilli(), newest: r.Now.Add(freshFor).UnixMilli(), soon: r.Now.Add(endsSoon).UnixMilli(),
	}
	for i := range candidates {
		if a.tells(&candidates[i]) {
			a.told = true
			break
		}
	}
	return a
}

// tells reports whether anything is known of the engine's own load.
func (a *ask) tells(c *Candidate) bool {
	return (c.Running != nil || c.Waiting != nil || c.KVUsage != nil) && a.fresh(c)
}

// estimate says what the request would cost on c. It never falls when a figure of load rises.
func (a *ask) estimate(c *Candidate) (p parts) {
	open := max(0, c.Inflight)
	p.prefill = a.prefill
	p.queue = float64(max(0, c.InflightTokens)) * prefillMs
	switch {
	case a.tells(c):
		engine := 0
		if c.Running != nil {
			engine += max(0, *c.Running)
		}
		if c.Waiting != nil {
			engine += max(0, *c.Waiting)
			p.queue = max(p.queue, float64(*c.Waiting)*typicalPrompt*prefillMs)
		}
		open = max(open, engine)
		if c.KVUsage != nil && *c.KVUsage > kvFull {
			p.kv = (min(*c.KVUsage, 1) - kvFull) / (1 - kvFull) * kvFullMs
		}
	case a.told:
		p.silent = silentMs
	}
	p.decode = float64(open) * openMs
	if c.EndsAt.UnixMilli() < a.soon && !c.EndsAt.IsZero() {
		p.end = endCost(c.EndsAt.Sub(a.Now))
	}
	return p
}

// fresh reports whether the engine's own figures are known and young enough. Figures from the future are not.
func (a *ask) fresh(c *Candidate) bool {
	seen := c.SeenAt.UnixMilli()
	return seen >= a.oldest && seen <= a.newest
}

func endCost(left time.Duration) float64 {
	if left <= endsNow {
		return endsNowMs
	}
	return endsSoonMs * float64(endsSoon-left) / float64(endsSoon)
}
