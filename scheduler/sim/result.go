package sim

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Outcome is what became of one request. Times are from the trace's begin.
type Outcome struct {
	First      time.Duration // its first token
	End        time.Duration // its last one
	Cached     int           // prompt tokens that were not computed
	ExpectedMs float64       // to the first token, as the choice said
	Refused    bool
}

// Result of a run.
type Result struct {
	Requests  int
	Refused   int           // TooLong among them
	TooLong   int           // for the cache of any replica
	Makespan  time.Duration // until the last token
	TTFT, E2E Quantiles
	ITL       Quantiles // of all tokens but the first ones
	Wait      Quantiles // of requests' mean time for each token
	Hit       float64   // share of prompt tokens that were not computed
	Tokens    int64     // of all answers
	InSLO     int       // requests whose first token and mean time for a token kept the SLO
	Preempted int
	GPUTime   time.Duration // of all replicas' jobs together
	Series    []Point
}

// Quantiles of a duration.
type Quantiles struct{ P50, P90, P99, Mean time.Duration }

// Goodput is how many requests in a second kept the SLO.
func (r Result) Goodput() float64 {
	if r.Makespan <= 0 {
		return 0
	}
	return float64(r.InSLO) / r.Makespan.Seconds()
}

// Point is the state at one moment of a run.
type Point struct {
	At               time.Duration
	Running, Waiting int // on all replicas
	Held             int // at the gateway
	Replicas         int
	KVUse            float64   // mean
	TTFT             Quantiles // of the requests whose first token came since the last point
	Hit              float64   // share of their prompts that was not computed
}

func (r *run) sample() {
	p := Point{At: r.now, Held: len(r.held)}
	for _, pool := range r.pools {
		for _, rep := range pool.replicas {
			if rep.serves > r.now {
				continue
			}
			p.Running += rep.active
			p.Waiting += rep.queued()
			p.KVUse += rep.pool.use()
			p.Replicas++
		}
	}
	p.KVUse /= float64(max(1, p.Replicas))
	p.TTFT = quantilesOf(r.since.ttft)
	if r.since.prompt > 0 {
		p.Hit = float64(r.since.cached) / float64(r.since.prompt)
	}
	r.since.ttft, r.since.prompt, r.since.cached = r.since.ttft[:0], 0, 0
	r.result.Series = append(r.result.Series, p)
}

func (res *Result) finish(r *run) {
	res.Requests = len(r.requests)
	var ttft, e2e, mean []time.Duration
	prompt, cached := 0, 0
	for i := range r.requests {
		q := &r.requests[i]
		if q.Refused {
			res.Refused++
			continue
		}
		res.Makespan = max(res.Makespan, q.End)
		ttft = append(ttft, q.First-q.at)
		e2e = append(e2e, q.End-q.at)
		prompt += q.prompt
		cached += q.Cached
		res.Tokens += int64(q.output)
		each := time.Duration(0)
		if q.output > 1 {
			each = (q.End - q.First) / time.Duration(q.output-1)
			mean = append(mean, each)
		}
		if (r.SLO.TTFT == 0 || q.First-q.at <= r.SLO.TTFT) && (r.SLO.ITL == 0 || each <= r.SLO.ITL) {
			res.InSLO++
		}
	}
	res.TTFT, res.E2E, res.Wait = quantilesOf(ttft), quantilesOf(e2e), quantilesOf(mean)
	res.ITL = Quantiles{P50: r.gaps.quantile(.5), P90: r.gaps.quantile(.9), P99: r.gaps.quantile(.99)}
	if prompt > 0 {
		res.Hit = float64(cached) / float64(prompt)
	}
	for _, rep := range r.of {
		res.Preempted += rep.preempted
	}
	res.GPUTime = r.jobTime(res.Makespan)
}

func quantilesOf(d []time.Duration) (q Quantiles) {
	if len(d) == 0 {
		return q
	}
	slices.SortFunc(d, cmp.Compare)
	at := func(p float64) time.Duration { return d[max(0, int(math.Ceil(p*float64(len(d))))-1)] }
	sum := 0.0
	for _, x := range d {
		sum += float64(x)
	}
	return Quantiles{at(.5), at(.9), at(.99), time.Duration(sum / float64(len(d)))}
}
