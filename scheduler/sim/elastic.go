package sim

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/penstock/penstock/scheduler/scale"
)

// Elastic lets the number of mixed replicas change during a run. Config.Mixed is how many there are at first, serving.
type Elastic struct {
	Every   time.Duration // between two decisions
	Queue   time.Duration // from asking for a replica to its job's start; it costs nothing meanwhile
	StartUp time.Duration // from there until it serves
	Max     int           // replicas; 0 = no bound
	// Scale says how many replicas are wanted.
	Scale func(Observed) int
}

// Observed is what an autoscaler sees.
type Observed struct {
	Now     time.Duration
	Wanted  int           // as it said last
	Serving int           // replicas
	Coming  int           // asked for, and not yet serving
	Lead    time.Duration // from asking to serving
	scale.Tally
	Use     float64 // of the KV cache, mean of those that serve
	Running int     // on all
	Waiting int     // on all, and at the gateway
	TTFT    Quantiles
	ITL     time.Duration // mean since the last decision
}

// life of a replica.
type life struct {
	serves   time.Duration // from when on
	draining bool
	gone     bool
	spent    time.Duration // of its job, once it has gone
}

// decideScale asks how many replicas are wanted, and asks for more or drains some.
func (r *run) decideScale() {
	p := r.pools["mixed"]
	o := Observed{
		Now: r.now, Wanted: r.wanted, Lead: r.Elastic.Queue + r.Elastic.StartUp, Tally: r.tally, Waiting: len(r.held), TTFT: quantilesOf(r.lately.ttft),
	}
	if r.lately.tokens > 0 {
		o.ITL = r.lately.gaps / time.Duration(r.lately.tokens)
	}
	for _, rep := range p.replicas {
		switch {
		case rep.draining:
		case rep.serves > r.now:
			o.Coming++
		default:
			o.Serving++
			o.Use += rep.pool.use()
			o.Running += rep.active
			o.Waiting += rep.queued()
		}
	}
	o.Use /= float64(max(1, o.Serving))
	r.tally, r.lately.ttft, r.lately.gaps, r.lately.tokens = scale.Tally{}, r.lately.ttft[:0], 0, 0
	r.wanted = max(0, r.Elastic.Scale(o))
	if r.Elastic.Max > 0 {
		r.wanted = min(r.wanted, r.Elastic.Max)
	}
	for n := o.Serving + o.Coming; n < r.wanted; n++ {
		r.ask(p)
	}
	if over := o.Serving + o.Coming - r.wanted; over > 0 {
		r.letGo(p, over)
	}
}

// ask adds a replica that will serve after queue and start-up.
func (r *run) ask(p *pooled) {
	rep := r.newReplica(p, "mixed-"+strconv.Itoa(len(r.of)))
	rep.serves = r.now + r.Elastic.Queue + r.Elastic.StartUp
	rep.granted = r.now + r.Elastic.Queue
}

// letGo withdraws what has not come yet, the latest first, then drains what has the least to do.
func (r *run) letGo(p *pooled, n int) {
	list := slices.Clone(p.replicas)
	slices.SortStableFunc(list, func(a, b *replica) int {
		return cmp.Or(cmp.Compare(max(b.serves, r.now), max(a.serves, r.now)), cmp.Compare(a.inflight, b.inflight), cmp.Compare(a.pool.use(), b.pool.use()))
	})
	for _, rep := range list {
		if n == 0 {
			break
		}
		if !rep.draining {
			rep.draining = true
			n--
		}
	}
	r.bury()
}

// bury takes out replicas that drain and have nothing left to do.
func (r *run) bury() {
	p := r.pools["mixed"]
	p.replicas = slices.DeleteFunc(p.replicas, func(rep *replica) bool {
		if !rep.draining || rep.inflight > 0 {
			return false
		}
		rep.gone = true
		rep.spent = max(0, r.now-rep.granted)
		r.index.Drop(rep.worker)
		delete(r.byWorker, rep.worker)
		delete(p.byLaunch, rep.launch)
		return true
	})
}

// serving gives the replicas that take requests, in place order.
func (p *pooled) serving(now time.Duration) []*replica {
	p.open = p.open[:0]
	for _, rep := range p.replicas {
		rep.place = -1
		if !rep.draining && rep.serves <= now {
			rep.place = len(p.open)
			p.open = append(p.open, rep)
		}
	}
	return p.open
}

// jobTime is what all jobs have taken until the end of the run.
func (r *run) jobTime(end time.Duration) (sum time.Duration) {
	for _, rep := range r.of {
		if rep.gone {
			sum += rep.spent
		} else {
			sum += max(0, end-rep.granted)
		}
	}
	return sum
}
