package plan

import (
	"cmp"
	"fmt"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// A job with a time limit hands its replica over: a successor is started early enough to be ready before the predecessor
// has to drain, and the predecessor drains once the successor serves, or at the last moment. The two count as one replica.

// Handover is what is known and expected of one replica whose job has an end, for people.
type Handover struct {
	Launch  cluster.LaunchID // whose job ends
	EndsAt  time.Time
	LeaveBy time.Time // it drains then, whatever its successor does
	StartAt time.Time // the successor is started then; zero = there is none, and Why says why
	// What the successor is expected to take, and from how many launches that was learned (0 = a default).
	Queue, StartUp Estimate
	Drain          time.Duration

	Successor cluster.LaunchID // empty = not started yet
	ReadyAt   time.Time        // when it is expected to serve, or began to; zero = nobody can tell
	Gap       time.Duration    // between the two, as expected
	Why       string           // the gap, in words
}

// Estimate is how long something is expected to take.
type Estimate struct {
	Value   time.Duration
	Samples int // it was learned from; 0 = a default
}

func (e Estimate) String() string {
	if e.Samples == 0 {
		return rounded(e.Value) + " (assumed)"
	}
	return rounded(e.Value)
}

// pair ties each successor to the live launch that it replaces. Of several successors, which only a damaged ledger can
// hold, the oldest counts.
func (r *role) pair() {
	byID := make(map[cluster.LaunchID]*sight, len(r.live))
	for _, s := range r.live {
		byID[s.ID] = s
	}
	for _, s := range r.live { // by index, then age
		if old := byID[s.Replaces]; s.Replaces != "" && old != nil && old.successor == nil && old != s {
			old.successor, s.predecessor = s, old
		}
	}
}

// takesOver: the launch is the second of a pair whose first still holds the replica, so that it is none of its own.
func (d *deployment) takesOver(s *sight) bool {
	old := s.predecessor
	return old != nil && !s.draining() && !s.over && !old.draining() && !old.over &&
		d.current(s.Revision, s.Role) && d.current(old.Revision, old.Role)
}

// replicas counts a role's live launches, each pair as one.
func (r *role) replicas() int {
	n := len(r.live)
	for _, s := range r.live {
		if s.successor != nil {
			n--
		}
	}
	return n
}

// ends is when the launch's job ends by its time limit, by the earliest of what is said; zero = nobody knows of a limit.
func (s *sight) ends() time.Time {
	end := time.Time{}
	earlier := func(t time.Time) {
		if !t.IsZero() && (end.IsZero() || t.Before(end)) {
			end = t
		}
	}
	for _, j := range s.jobs {
		if j.State == cluster.JobRunning || j.State == cluster.JobEnding {
			earlier(j.EndsAt)
		}
	}
	if at := s.replica.Head().GetEndsAt(); at != nil {
		earlier(at.AsTime())
	}
	if end.IsZero() {
		end = s.EndsAt // what was said last
	}
	return end
}

// servingOf is the section of the launch's own revision, with the default drain where it names none.
func servingOf(d *deployment, s *sight) jobspecs.Serving {
	spec, _ := d.spec(s.Revision)
	spec.Serving.DrainTimeout = jobspecs.Duration(drainTimeout(spec))
	return spec.Serving
}

// began is when the launch's job was started, as far as anybody knows.
func (s *sight) began() time.Time {
	if s.StartedAt.IsZero() {
		return s.AdmittedAt
	}
	return s.StartedAt
}

// beganBy is when the launch's job was started at the latest. An agent may tell of its end before anybody has told of its
// beginning.
func (p *planner) beganBy(s *sight) time.Time {
	if began := s.began(); !began.IsZero() {
		return began
	}
	return p.now
}

// handoverOf works out when a launch is handed over; false = its job has no end.
func (p *planner) handoverOf(d *deployment, r *role, s *sight) (Handover, bool) {
	end := s.ends()
	if end.IsZero() {
		return Handover{}, false
	}
	h := Handover{Launch: s.ID, EndsAt: end, Queue: p.queueWait(d, r), StartUp: p.startUp(d, r)}
	began := p.beganBy(s)
	leave, by := servingOf(d, s).Leave(began, end)
	h.LeaveBy, h.Drain = leave, by.Sub(leave)
	h.StartAt = leave.Add(-h.StartUp.Value - h.Queue.Value - p.slack(s, end))
	if half := began.Add(end.Sub(began) / 2); h.StartAt.Before(half) {
		h.StartAt = half // a lead longer than that would have successors follow one another without end
	}
	p.expect(&h, d, r, s)
	return h, true
}

// slack is what the successor is started earlier than expected to be needed: clusters start and end jobs up to a minute late.
func (p *planner) slack(s *sight, end time.Time) time.Duration {
	return max(p.timing.TakeOver, min(p.timing.HandoverSlack, end.Sub(p.beganBy(s))/20))
}

// expect fills in when the successor will serve, and what is without a replica until then.
func (p *planner) expect(h *Handover, d *deployment, r *role, s *sight) {
	next := s.successor
	switch {
	case next == nil && p.endsTogether(d, h.EndsAt):
		h.StartAt, h.Why = time.Time{}, "the whole allocation ends then"
		return
	case next == nil && p.full[r]:
		h.ReadyAt = h.EndsAt.Add(h.StartUp.Value)
		h.Why = "there is no room for a successor beside it"
	case next == nil:
		h.ReadyAt = latest(h.StartAt, p.now).Add(h.Queue.Value + h.StartUp.Value)
		h.Why = fmt.Sprintf("a successor is expected to wait %s in the queue and %s for its start", h.Queue, h.StartUp)
	case next.health == serving:
		h.Successor, h.ReadyAt = next.ID, next.ReadyAt
		return
	default:
		h.Successor = next.ID
		h.ReadyAt, h.Why = p.readyAt(d, r, next, h)
	}
	if gap := h.ReadyAt.Sub(h.LeaveBy); !h.ReadyAt.IsZero() && gap > 0 {
		h.Gap = gap
		return
	}
	h.Why = ""
}

// readyAt is when a successor that does not serve yet is expected to.
func (p *planner) readyAt(d *deployment, r *role, next *sight, h *Handover) (time.Time, string) {
	limit := p.limitOf(next)
	started := p.startedAt(next)
	switch {
	case !started.IsZero():
		return latest(started.Add(h.StartUp.Value), p.now), fmt.Sprintf("its successor has started %s ago and is expected to need %s",
			rounded(p.now.Sub(started)), h.StartUp)
	case next.After != "":
		return h.EndsAt.Add(h.StartUp.Value), fmt.Sprintf("its successor starts only after job %s, since %s", next.After, cmp.Or(limit, "the cluster has no room for both"))
	case limit != "":
		return h.EndsAt.Add(h.StartUp.Value), fmt.Sprintf("the limit %s keeps its successor from starting beside it", limit)
	}
	return latest(next.CreatedAt.Add(h.Queue.Value), p.now).Add(h.StartUp.Value),
		fmt.Sprintf("its successor has been in the queue for %s", rounded(p.now.Sub(next.CreatedAt)))
}

// startedAt is when the job of a launch was started; zero = it has not been.
func (p *planner) startedAt(s *sight) time.Time {
	for _, j := range s.jobs {
		if j.State == cluster.JobRunning {
			return latest(j.Started, s.StartedAt)
		}
	}
	if s.Run != "" {
		return s.began()
	}
	return time.Time{}
}

// limitOf names the limit that keeps a launch's job pending; empty = none does.
func (p *planner) limitOf(s *sight) string {
	for _, j := range s.jobs {
		if j.State == cluster.JobPending {
			return j.Limit
		}
	}
	return ""
}

// handOver plans for the replicas of a role whose jobs end: successors, and the leaving of those that have one or must.
func (p *planner) handOver(d *deployment, r *role, current []*sight) {
	for _, s := range current {
		h, ends := p.handoverOf(d, r, s)
		if !ends {
			continue
		}
		next := s.successor
		leave := !p.now.Before(h.LeaveBy)
		switch {
		case next != nil && next.health == serving && !next.draining() && (leave || p.settled(next)):
			p.leave(d, s, h, "its successor %s is ready; job %s ends at %s", next.ID, s.Job, clock(h.EndsAt))
		case leave && next != nil:
			p.leave(d, s, h, "job %s ends at %s; its successor %s is not ready", s.Job, clock(h.EndsAt), next.ID)
		case leave:
			p.leave(d, s, h, "job %s ends at %s; it has no successor", s.Job, clock(h.EndsAt))
		case next == nil && p.endsTogether(d, h.EndsAt):
		case next == nil && !p.now.Before(h.StartAt):
			p.succeed(d, r, s, h)
		case next != nil && h.Gap > 0:
			p.gap(next.Launch, h)
		}
	}
}

// endsTogether: all that the cluster has ends at that time too, so that a successor there would end with its predecessor. What
// follows is another allocation's business.
func (p *planner) endsTogether(d *deployment, end time.Time) bool {
	c := p.clusters[d.Spec.Cluster]
	return c != nil && !c.Capacity.EndsAt.IsZero() && !end.Before(c.Capacity.EndsAt.Add(-time.Minute))
}

// handovers describes the handovers of a role, in the order of its replicas.
func (p *planner) handovers(d *deployment, r *role) (list []Handover) {
	for _, s := range r.live {
		if s.draining() || s.over || d.takesOver(s) {
			continue
		}
		if h, ends := p.handoverOf(d, r, s); ends {
			list = append(list, h)
		}
	}
	return list
}

// settled: the launch has been ready for long enough that gateways have found it ready too, each by a probe of its own.
func (p *planner) settled(s *sight) bool {
	return !s.ReadyAt.IsZero() && p.now.Sub(s.ReadyAt) >= p.timing.TakeOver
}

// leave drains a predecessor, and is done before its job's time is over.
func (p *planner) leave(d *deployment, s *sight, h Handover, format string, args ...any) {
	n := len(p.actions)
	p.drain(d, s, format, args...)
	if len(p.actions) == n {
		return // nobody can be told
	}
	a := &p.actions[n]
	if by := h.LeaveBy.Add(h.Drain); by.Before(a.By) {
		a.By = latest(by, p.now)
	}
	if s.successor == nil || s.successor.health != serving {
		a.Cause = Late
	} else {
		a.Cause = HandedOver
	}
}

// succeed lists a successor among what should be started, unless the replica's starts have failed lately.
func (p *planner) succeed(d *deployment, r *role, s *sight, h Handover) {
	failures, until := p.backOff(d, r, s.Index)
	if until.After(p.now) {
		a := waitFor(BackOff, s.Launch, "a successor is due, and starts of %s/%d have failed %s in a row", r.kind, s.Index, times(failures))
		a.Until = until
		p.do(a)
		return
	}
	why := fmt.Sprintf("job %s of %s ends at %s: expected are %s in the queue, %s to start and %s to drain",
		s.Job, s.ID, clock(h.EndsAt), h.Queue, h.StartUp, rounded(h.Drain))
	after := p.mustFollow(d, r, s)
	if after != "" {
		why += fmt.Sprintf("; it starts only after job %s, since %s", s.Job, after)
	}
	c := candidate{d: d, r: r, index: s.Index, rank: successors, reason: why, replaces: s, handover: h}
	if after != "" {
		c.after = s.Job
	}
	p.candidates = append(p.candidates, c)
}

// mustFollow says why a successor may not start beside its predecessor; empty = it may. Where a limit holds successors
// back, the slot that a predecessor frees belongs to its own successor and to no other job.
func (p *planner) mustFollow(d *deployment, r *role, s *sight) string {
	c := p.clusters[d.Spec.Cluster]
	if c == nil || c.Capacity.Places || s.Job == "" {
		return ""
	}
	why, known := p.limits[r]
	if !known {
		why = p.limitSeen(r)
		p.limits[r] = why
	}
	return why
}

// limitSeen says which limit holds successors of the role back, as far as has been seen lately.
func (p *planner) limitSeen(r *role) string {
	for _, other := range r.live {
		if limit := p.limitOf(other); limit != "" {
			return fmt.Sprintf("the limit %s holds %s back now", limit, other.ID)
		}
	}
	for _, l := range r.launches() {
		if l.Replaces != "" && l.After == "" && l.Limit != "" && p.now.Sub(l.CreatedAt) < p.timing.LimitMemory {
			return fmt.Sprintf("the limit %s held %s back", l.Limit, l.ID)
		}
	}
	return ""
}

// gap announces that a replica will be missing for a while.
func (p *planner) gap(l *cluster.Launch, h Handover) {
	a := waitFor(Gap, l, "%s ends at %s and about %s pass without it: %s", h.Launch, clock(h.EndsAt), rounded(h.Gap), h.Why)
	a.Until = h.ReadyAt
	p.do(a)
}

// noSuccessor announces the gap of replicas whose successors fit nowhere while they run themselves.
func (p *planner) noSuccessor(cs []candidate) {
	for _, c := range cs {
		p.full[c.r] = true
		h := c.handover
		p.expect(&h, c.d, c.r, c.replaces)
		if h.Gap > 0 {
			p.gap(c.replaces.Launch, h)
		}
	}
}

func clock(t time.Time) string { return t.UTC().Format(time.TimeOnly) }
