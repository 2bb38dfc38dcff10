package admit

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Ticket is one request that waits for a replica with room.
type Ticket struct {
	ID       string
	Key      string  // who asks: fairness is between keys
	Weight   float64 // of the key; 0 = 1. Twice the weight is twice the share
	Priority int     // higher goes first
	Cost     float64 // what it will take: prompt tokens that no cache holds, and expected answer tokens; at least 1
	Since    time.Time
	Deadline time.Time // after it an answer is of no use; zero = none
}

// Bounds of a Line. Zero = no bound.
type Bounds struct {
	Requests int     // waiting in all
	PerKey   int     // waiting of one key
	Cost     float64 // of all that wait
	// Patience: who has waited for so long goes before all priorities, in the order of arrival, so that nothing waits for ever.
	Patience time.Duration
}

// Line is the queue of one pool of replicas: who goes next, who waits, who is refused. Keys share what the pool does by their
// weights (start-time fair queueing, Goyal et al. 1996): a key that asks a thousand times waits behind its own requests and
// not before another's one. A Line is not for concurrent use; time is an argument and never goes back.
type Line struct {
	bounds  Bounds
	flows   map[flowID]*flow
	tickets map[string]*flow
	virtual float64 // the start tag of who went last
	waiting int
	cost    float64
	pace    pace
}

type flowID struct {
	key      string
	priority int
}

// flow is what one key has waiting in one priority, first come first.
type flow struct {
	flowID
	queue  []tagged
	finish float64 // tag of its last ticket
}

type tagged struct {
	Ticket
	start float64
}

// NewLine makes an empty one.
func NewLine(b Bounds) *Line {
	return &Line{bounds: b, flows: map[flowID]*flow{}, tickets: map[string]*flow{}}
}

// Len is how many wait, Cost what they will take in all.
func (l *Line) Len() int { return l.waiting }

// Cost is the sum of what all that wait will take.
func (l *Line) Cost() float64 { return l.cost }

// Add takes a ticket in, or refuses it. Where the line is full, who has the most waiting makes room: out is then a ticket that
// waited and does no longer, the youngest of its key. A ticket whose ID waits already is refused.
func (l *Line) Add(t Ticket, now time.Time) (v Verdict, out *Ticket) {
	t.Cost, t.Since = max(1, t.Cost), now
	if t.Weight <= 0 {
		t.Weight = 1
	}
	switch {
	case l.tickets[t.ID] != nil:
		return Verdict{RetryAfter: time.Second, Limit: "a request with the same ID waits"}, nil
	case !t.Deadline.IsZero() && !t.Deadline.After(now):
		return Verdict{RetryAfter: l.RetryAfter(now), Limit: "its deadline has passed"}, nil
	case l.bounds.PerKey > 0 && l.ofKey(t.Key) >= l.bounds.PerKey:
		return Verdict{RetryAfter: l.RetryAfter(now), Limit: "waiting requests of one key"}, nil
	}
	if l.full(t.Cost) {
		if out = l.makeRoom(t); out == nil {
			return Verdict{RetryAfter: l.RetryAfter(now), Limit: "waiting requests"}, nil
		}
	}
	l.enqueue(t)
	return Verdict{OK: true}, out
}

func (l *Line) enqueue(t Ticket) {
	id := flowID{t.Key, t.Priority}
	f := l.flows[id]
	if f == nil {
		f = &flow{flowID: id}
		l.flows[id] = f
	}
	start := max(l.virtual, f.finish)
	f.finish = start + t.Cost/t.Weight
	f.queue = append(f.queue, tagged{t, start})
	l.tickets[t.ID] = f
	l.waiting++
	l.cost += t.Cost
}

func (l *Line) full(more float64) bool {
	return l.bounds.Requests > 0 && l.waiting >= l.bounds.Requests ||
		l.bounds.Cost > 0 && l.waiting > 0 && l.cost+more > l.bounds.Cost
}

// makeRoom takes out the youngest ticket of the key that has the most waiting by its weight, if that is more than the newcomer's
// key would have. One is enough to keep the number; where the cost is still above its bound the line is a ticket too long.
func (l *Line) makeRoom(t Ticket) *Ticket {
	held := map[string]float64{}
	for _, f := range l.flows {
		for _, q := range f.queue {
			held[f.key] += q.Cost / q.Weight
		}
	}
	most := t.Key
	mine := held[t.Key] + t.Cost/t.Weight
	least := mine
	for key, cost := range held {
		if cost > least || cost == least && most != t.Key && key < most {
			most, least = key, cost
		}
	}
	if most == t.Key {
		return nil
	}
	var from *flow
	for _, f := range l.flows {
		if f.key == most && len(f.queue) > 0 && (from == nil || f.priority < from.priority) {
			from = f
		}
	}
	return new(l.drop(from, len(from.queue)-1))
}

func (l *Line) ofKey(key string) (n int) {
	for _, f := range l.flows {
		if f.key == key {
			n += len(f.queue)
		}
	}
	return n
}

// Peek is who goes next; false where nobody waits. Tickets whose deadline has passed are Expire's to take out before.
func (l *Line) Peek(now time.Time) (Ticket, bool) {
	if f := l.head(now); f != nil {
		return f.queue[0].Ticket, true
	}
	return Ticket{}, false
}

// Next takes out who goes next.
func (l *Line) Next(now time.Time) (Ticket, bool) {
	best := l.head(now)
	if best == nil {
		return Ticket{}, false
	}
	t := best.queue[0]
	l.virtual = max(l.virtual, t.start)
	l.pace = l.pace.after(t.Cost, now)
	l.remove(best, 0)
	return t.Ticket, true
}

// head is the flow whose first ticket goes next; nil where nobody waits.
func (l *Line) head(now time.Time) *flow {
	var best *flow
	for id, f := range l.flows {
		switch {
		case len(f.queue) == 0:
			if f.finish <= l.virtual {
				delete(l.flows, id) // it has no debt any more
			}
		case best == nil || l.before(f, best, now):
			best = f
		}
	}
	return best
}

// before orders flows by their first tickets.
func (l *Line) before(f, g *flow, now time.Time) bool {
	a, b := &f.queue[0], &g.queue[0]
	if x, y := l.impatient(a, now), l.impatient(b, now); x || y {
		if x != y {
			return x
		}
		if c := a.Since.Compare(b.Since); c != 0 {
			return c < 0
		}
	}
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.start, b.start), a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) < 0
}

func (l *Line) impatient(t *tagged, now time.Time) bool {
	return l.bounds.Patience > 0 && now.Sub(t.Since) >= l.bounds.Patience
}

// Cancel takes a ticket out whose client has gone; false where it does not wait.
func (l *Line) Cancel(id string) bool {
	f := l.tickets[id]
	if f == nil {
		return false
	}
	l.drop(f, slices.IndexFunc(f.queue, func(t tagged) bool { return t.ID == id }))
	return true
}

// Expire takes out all tickets whose deadline has passed, the earliest first.
func (l *Line) Expire(now time.Time) (gone []Ticket) {
	for _, f := range l.flows {
		for i := len(f.queue) - 1; i >= 0; i-- {
			if t := f.queue[i].Ticket; !t.Deadline.IsZero() && !t.Deadline.After(now) {
				gone = append(gone, l.drop(f, i))
			}
		}
	}
	slices.SortFunc(gone, func(a, b Ticket) int {
		return cmp.Or(a.Deadline.Compare(b.Deadline), cmp.Compare(a.ID, b.ID))
	})
	return gone
}

// drop takes out a ticket that was not served: what it would have taken is nobody's debt.
func (l *Line) drop(f *flow, i int) Ticket {
	t := f.queue[i]
	share := t.Cost / t.Weight
	for j := i + 1; j < len(f.queue); j++ {
		f.queue[j].start = max(l.virtual, f.queue[j].start-share)
	}
	f.finish = max(l.virtual, f.finish-share)
	l.remove(f, i)
	return t.Ticket
}

// remove takes out one ticket. A flow stays as long as others wait, also with nothing in it: it may have had more than its share.
func (l *Line) remove(f *flow, i int) {
	t := f.queue[i]
	f.queue = slices.Delete(f.queue, i, i+1)
	delete(l.tickets, t.ID)
	l.waiting--
	l.cost -= t.Cost
	if l.waiting == 0 {
		l.cost, l.virtual = 0, 0
		clear(l.flows)
	}
}

// RetryAfter is when the line will have come to its end, at the pace of late; at least a second. Where nothing has left it yet,
// a guess of five seconds.
func (l *Line) RetryAfter(now time.Time) time.Duration {
	perSecond := l.pace.at(now)
	if perSecond <= 0 {
		return 5 * time.Second
	}
	seconds := math.Ceil(l.cost / perSecond)
	return time.Duration(min(max(seconds, 1), maxRetry.Seconds())) * time.Second
}

// maxRetry is the longest time that a client is told to wait.
const maxRetry = 10 * time.Minute

// pace is how much cost leaves a line in a second, of late. The zero pace knows nothing.
type pace struct {
	first, last time.Time
	cost        float64 // that has left, each part worth less by its age
}

const paceOf = 30.0 // seconds after which what has left counts for a third

// after takes in that cost leaves at now.
func (p pace) after(cost float64, now time.Time) pace {
	if p.first.IsZero() {
		return pace{first: now, last: now, cost: cost}
	}
	p.cost = p.cost*math.Exp(-max(0, now.Sub(p.last).Seconds())/paceOf) + cost
	p.last = now
	return p
}

// at is the pace per second. What has left since the first moment is spread over the time since, at least a second.
func (p pace) at(now time.Time) float64 {
	if p.first.IsZero() {
		return 0
	}
	age := max(1, now.Sub(p.first).Seconds())
	window := paceOf * (1 - math.Exp(-age/paceOf)) // the sum of the weights of a steady stream
	return p.cost * math.Exp(-max(0, now.Sub(p.last).Seconds())/paceOf) / window
}
