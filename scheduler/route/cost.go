package route

import "time"

// typicalPrompt stands for a prompt whose length nobody knows, this request's or a waiting one's.
const typicalPrompt = 512

// kvFull is the KV usage from which engines begin to make requests wait or to preempt them; a full cache costs kvFullMs.
const (
	kvFull   = 0.9
	kvFullMs = 1000.0
)

// sharers is how many open streams make a prefill cost as much to them as to itself.
const sharers = 64.0

// context is what a token of open requests' prompts and answers costs, in tokens of prefill: the fuller an engine's cache, the longer
// takes each token of the answer that is to come. `make bench BENCH=modes` shows what comes of it.
const context = 0.05

// silentMs is what a replica costs that does not tell how loaded it is while others do, as much as some waiting prompts:
// an engine that hangs tells nothing, and must not look idle beside one that tells of a queue.
const silentMs = 250.0

// A replica is late when none of its requests got a first token for stallFromMs beyond what its queue takes.
const (
	stallFromMs = 1000.0
	stallTimes  = 0.9 // below 1: a longer queue must not make a replica cheaper
)

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
	prefill float64 // of this prompt, what no tier has
	fetch   float64 // of this prompt, what a slower tier has
	decode  float64 // open streams that share the engine's steps
	others  float64 // what those streams lose by this prefill
	context float64 // the answer's tokens take longer, the more context is open
	kv      float64 // shortage of KV blocks
	end     float64 // the job ends soon
	silent  float64 // nobody knows its load, of others it is known
	stalled float64 // its requests wait for longer than they should
}

func (p *parts) sum() float64 {
	return (p.queue + p.prefill + (p.decode + p.others + p.context)) + (p.fetch + p.kv + (p.end + p.silent + p.stalled))
}

// expected is the part of the sum that this request itself should wait.
func (p *parts) expected() float64 { return p.queue + p.prefill + p.fetch + p.decode + p.kv }

// ask is a request with what follows from it for every candidate.
type ask struct {
	*Request
	prompt         int
	oldest, newest int64 // Unix milliseconds between which an engine's figures are fresh
	soon           int64 // an end before this one costs
	told           bool  // at least one candidate tells its load
}

func newAsk(r *Request, candidates []Candidate) ask {
	prompt := r.PromptTokens
	if prompt <= 0 {
		prompt = typicalPrompt
	}
	a := ask{
		Request: r, prompt: prompt,
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

// fresh reports whether the engine's own figures are known and young enough. Figures from the future are not.
func (a *ask) fresh(c *Candidate) bool {
	seen := c.SeenAt.UnixMilli()
	return seen >= a.oldest && seen <= a.newest
}

// load is what comes before this request on a candidate: prompt tokens, and open requests.
func (a *ask) load(c *Candidate, told bool) (tokens, open int) {
	tokens, open = max(0, c.InflightTokens), max(0, c.Inflight)
	if !told {
		return tokens, open
	}
	engine := 0
	if c.Running != nil {
		engine = max(0, *c.Running)
	}
	if c.Waiting != nil {
		waiting := max(0, *c.Waiting)
		engine += waiting
		tokens = max(tokens, waiting*typicalPrompt)
	}
	return tokens, max(open, engine)
}

// cached gives the prompt's tokens that come from some tier, of which at least one must be computed to get an answer: what a tier has
// from which fetching takes longer than computing is computed.
func (a *ask) cached(c *Candidate) int {
	if c.Cached[Object] <= 0 {
		return 0
	}
	s, n := c.speed(), c.Cached[GPU]
	for t := Host; t < Tiers && s.FetchMs[t] < s.PrefillMs; t++ {
		n = c.Cached[t]
	}
	return max(0, min(n, a.prompt-1))
}

// estimate says what the request would cost on c. It never falls when a figure of load rises, nor rises with what is cached
// where fetching is quicker than computing.
func (a *ask) estimate(c *Candidate) (p parts) {
	s := c.speed()
	told := a.tells(c)
	tokens, open := a.load(c, told)
	p.queue = float64(tokens) * s.PrefillMs
	p.prefill = float64(a.prompt-a.cached(c)) * s.PrefillMs
	p.decode = float64(open) * s.OpenMs
	p.others = p.prefill * float64(open) * (1 / sharers)
	p.context = float64(max(0, c.OpenTokens)) * s.PrefillMs * context
	p.fetch, p.kv, p.end, p.silent = a.seldom(c, s, told)
	p.stalled = stall(c, p.queue)
	return p
}

// cost is the estimate's sum, for the many of which nobody asks the parts.
func (a *ask) cost(c *Candidate) float64 {
	s := c.speed()
	told := a.tells(c)
	tokens, open := a.load(c, told)
	prefill, queue := float64(a.prompt-a.cached(c))*s.PrefillMs, float64(tokens)*s.PrefillMs
	ms := queue + prefill + (float64(open)*s.OpenMs + prefill*float64(open)*(1/sharers) + float64(max(0, c.OpenTokens))*s.PrefillMs*context)
	if c.WaitingFor <= 0 && c.Cached[Object] <= 0 && told && (c.KVUsage == nil || *c.KVUsage <= kvFull && c.KVTokens == 0) &&
		(c.EndsAt.IsZero() || c.EndsAt.Unix() > a.soon/1000+1) {
		return ms
	}
	fetch, kv, end, silent := a.seldom(c, s, told)
	return ms + (fetch + kv + (end + silent + stall(c, queue)))
}

// stall is what a replica costs that should have answered by now: as long as it is late, since it may be so again. It comes back
// by itself with its next token.
func stall(c *Candidate, queueMs float64) float64 {
	return max(0, float64(c.WaitingFor)/float64(time.Millisecond)-stallFromMs-stallTimes*queueMs)
}

func (c *Candidate) speed() *Speed {
	if c.Speed == nil {
		return &DefaultSpeed
	}
	return c.Speed
}

// seldom are the parts that most candidates do not have.
func (a *ask) seldom(c *Candidate, s *Speed, told bool) (fetch, kv, end, silent float64) {
	if a.cached(c) > 0 {
		fetch = a.fetch(c, s)
	}
	switch {
	case told:
		if c.KVUsage != nil {
			kv = a.shortage(c, s)
		}
	case a.told:
		silent = silentMs
	}
	if c.EndsAt.UnixMilli() < a.soon && !c.EndsAt.IsZero() {
		end = endCost(c.EndsAt.Sub(a.Now))
	}
	return fetch, kv, end, silent
}

// fetch is the time to get what slower tiers have.
func (a *ask) fetch(c *Candidate, s *Speed) (ms float64) {
	for t, n := range fetched(c, a.cached(c)) {
		ms += n * s.FetchMs[t]
	}
	return ms
}

// fetched counts the tokens that come from each tier, of the first most ones.
func fetched(c *Candidate, most int) (tokens [Tiers]float64) {
	before := 0
	for t, n := range c.Cached {
		n = max(before, min(n, most))
		tokens[t] = float64(n - before)
		before = n
	}
	return tokens
}

// shortage is what it costs that the engine's cache is full, or will be with this prompt.
func (a *ask) shortage(c *Candidate, s *Speed) (ms float64) {
	usage := max(0, min(*c.KVUsage, 1))
	if usage > kvFull {
		ms = (usage - kvFull) / (1 - kvFull) * kvFullMs
	}
	if c.KVTokens > 0 {
		free := (1 - usage) * float64(c.KVTokens)
		need := float64(a.prompt - max(0, min(c.Cached[GPU], a.prompt)))
		ms += max(0, need-free) * s.PrefillMs // as long as others' blocks must be computed again, or their ends waited for
	}
	return ms
}

// work is what the estimate was made of, to learn from.
func (a *ask) work(c *Candidate) Work {
	tokens, open := a.load(c, a.tells(c))
	w := Work{PrefillTokens: float64(tokens + a.prompt - a.cached(c)), Open: float64(open), FetchTokens: fetched(c, a.cached(c))}
	w.FetchTokens[GPU] = 0
	return w
}

func endCost(left time.Duration) float64 {
	if left <= endsNow {
		return endsNowMs
	}
	return endsSoonMs * float64(endsSoon-left) / float64(endsSoon)
}
