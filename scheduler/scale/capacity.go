package scale

import (
	"math"
	"time"
)

// Load is what comes to some replicas of a role.
type Load struct {
	Rate   float64 // requests in a second
	Prompt float64 // tokens, on average
	Cached float64 // of those, that need not be computed
	Output float64 // tokens
	// Burst is how much more unevenly requests come than by chance: the variance of their number in a short time over its mean. Below 1 it
	// counts as 1, which is chance (Poisson).
	Burst float64
}

func (l Load) burst() float64 { return max(1, l.Burst) }

// Each is the load of one of n replicas that share it.
func (l Load) Each(n int) Load {
	l.Rate /= float64(n)
	return l
}

// SLO is what clients should see: the time to the first token of a share of the requests, and the mean time for each other token. Zero =
// none.
type SLO struct {
	TTFT, ITL time.Duration
	Share     float64 // of the requests; 0 = 0.9
}

func (s SLO) share() float64 {
	if s.Share <= 0 || s.Share >= 1 {
		return 0.9
	}
	return s.Share
}

// Work is what a role's engines do with a request.
type Work int

// The kinds of work.
const (
	Both       Work = iota // prompt and answer
	PromptOnly             // prefill
	AnswerOnly             // decode, of prompts that others have read
)

// Estimate is what clients of one replica see at a load.
type Estimate struct {
	TTFT    time.Duration // of the share that the SLO names
	ITL     time.Duration // mean time for a token of an answer, for the same share: as many run at a time as chance has it
	Running float64       // sequences at a time
	Use     float64       // of the KV cache, 0..1
	Busy    float64       // share of the time that goes into prompts
}

// fullest is the share of the KV cache from which sequences begin to wait for each other's pages, since lengths differ.
const fullest = 0.9

// At estimates one replica's clients at a load; false where it cannot keep up. Prompts are served one after the other (M/M/1: their
// lengths vary as much as their arrivals), and take their time away from decoding; the number of sequences that decode is the one at
// which as many end as begin (Little).
func (m *Model) At(l Load, w Work, s SLO) (e Estimate, ok bool) {
	cached := min(max(l.Cached, 0), max(0, l.Prompt-1))
	prompt := m.PrefillBase + m.PrefillPart(int(cached), int(math.Ceil(l.Prompt)))
	if w == AnswerOnly {
		prompt = 0
	}
	e.Busy = l.Rate * prompt / 1000
	if e.Busy >= 1 {
		return e, false
	}
	step := 0.0
	if w != PromptOnly && l.Output > 1 {
		if step, ok = m.steady(l, 1-e.Busy, &e); !ok {
			return e, false
		}
		crowd := math.Min(e.Running+deviations(s.share())*math.Sqrt(e.Running*l.burst()), float64(m.MaxSeqs))
		e.ITL = milliseconds(m.decode(crowd, min(1, crowd*(l.Prompt+l.Output/2)/float64(m.KVTokens))) / (1 - e.Busy))
	}
	own := prompt + step*(1-e.Busy) // the step in which it is read makes others' tokens too
	wait := 0.0
	if e.Busy > 0 {
		wait = max(0, own/(1-e.Busy)*math.Log(e.Busy/(1-s.share()))) * (1 + l.burst()) / 2
	}
	e.TTFT = milliseconds(own + wait)
	return e, true
}

// deviations is how many standard deviations above the mean the share of a normal distribution ends.
func deviations(share float64) float64 { return math.Sqrt2 * math.Erfinv(2*share-1) }

// steady finds the mean time for a token at which the sequences that begin and end balance.
func (m *Model) steady(l Load, left float64, e *Estimate) (itl float64, ok bool) {
	context := l.Prompt + l.Output/2
	running := 0.0
	for range 200 {
		use := running * context / float64(m.KVTokens)
		if use > fullest || running > float64(m.MaxSeqs) {
			return 0, false
		}
		itl = m.decode(running, use) / left
		next := l.Rate * l.Output * itl / 1000
		e.Running, e.Use = next, next*context/float64(m.KVTokens)
		if math.Abs(next-running) < 1e-6*(1+running) {
			return itl, true
		}
		running = next
	}
	return itl, e.Use <= fullest && e.Running <= float64(m.MaxSeqs)
}

func milliseconds(ms float64) time.Duration {
	return time.Duration(min(ms, 1e12) * float64(time.Millisecond))
}

// Keeps tells whether one replica keeps the SLO at a load.
func (m *Model) Keeps(l Load, w Work, s SLO) bool {
	e, ok := m.At(l, w, s)
	return ok && (s.TTFT <= 0 || w == AnswerOnly || e.TTFT <= s.TTFT) && (s.ITL <= 0 || w == PromptOnly || e.ITL <= s.ITL)
}

// Capacity is the highest rate of requests, of the lengths that l has, at which one replica keeps the SLO; 0 where it keeps it at none.
func (m *Model) Capacity(l Load, w Work, s SLO) float64 {
	at := func(rate float64) bool { l.Rate = rate; return m.Keeps(l, w, s) }
	low, high := 0.0, 1e-6
	for at(high) && high < 1e6 {
		low, high = high, 2*high
	}
	for i := 0; i < 60 && high-low > 1e-4*high; i++ {
		if mid := (low + high) / 2; at(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// Needed is the least number of replicas that keep the SLO together; most where that is not enough, and then kept is false.
func (m *Model) Needed(l Load, w Work, s SLO, most int) (n int, kept bool) {
	return needed(l.Rate, m.Capacity(l, w, s), most)
}

// needed is how many replicas of a capacity take a rate.
func needed(rate, capacity float64, most int) (n int, kept bool) {
	if rate <= 0 {
		return 0, true
	}
	if capacity <= 0 || rate/capacity > float64(most) {
		return most, false
	}
	return max(1, int(math.Ceil(rate/capacity-1e-9))), true
}
