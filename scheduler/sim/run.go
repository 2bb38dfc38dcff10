package sim

import (
	"slices"
	"strconv"
	"time"

	"github.com/penstock/penstock/kvstore/index"
	"github.com/penstock/penstock/scheduler/admit"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/scale"
)

// request is one of the trace, and what became of it.
type request struct {
	index  int
	at     time.Duration
	prompt int
	output int
	blocks []uint64 // of those that are full; the last one of the trace's may not be
	key    string
	Outcome
}

// replica is an engine as the gateway sees it.
type replica struct {
	*engine
	launch string
	worker index.Worker
	seen   struct {
		running, waiting int
		use              float64
		at               time.Duration
	}
	life
	granted                              time.Duration // when its job has begun
	inflight, inflightTokens, openTokens int
	place                                int // in its pool
}

// run is one run of a simulation.
type run struct {
	Config
	trace    *Trace
	now      time.Duration
	turn     uint64
	pools    map[string]*pooled
	index    *index.Index
	reader   *index.Reader
	matches  []index.Match
	of       map[*engine]*replica
	byWorker map[index.Worker]*replica
	shared   index.Worker // the object store
	handed   []handOver
	line     *admit.Line
	held     map[string]*request
	requests []request
	open     int
	gaps     histogram
	object   *store
	depth    map[uint64]uint32
	result   Result
	wanted   int
	tally    scale.Tally // since the last decision on the number of replicas
	lately   struct {    // likewise
		ttft   []time.Duration
		gaps   time.Duration
		tokens int
	}
	since struct { // the last point of the series
		ttft           []time.Duration
		prompt, cached int
	}
}

// pooled is the replicas of one role, and what is learned of their speed.
type pooled struct {
	replicas   []*replica
	open       []*replica // of serving
	byLaunch   map[string]*replica
	candidates []route.Candidate
	speed      route.Speed
	learned    route.Calibration
}

// handOver is a prompt that a prefill replica has read.
type handOver struct {
	at time.Duration
	r  *request
}

// pending is what the gateway remembers of a request on a replica.
type pending struct {
	work    route.Work
	charged int // of inflightTokens
	from    time.Duration
}

// epoch is the moment at which virtual time begins, for decisions that want a time.
var epoch = time.Unix(1_700_000_000, 0).UTC()

// Run plays the trace until its last answer. progress, if given, hears how many requests have ended.
func Run(c Config, t Trace, progress func(done int)) (Result, error) {
	if err := c.validate(&t); err != nil {
		return Result{}, err
	}
	r := newRun(c, &t)
	r.play(progress)
	r.result.finish(r)
	return r.result, nil
}

func (r *run) play(progress func(done int)) {
	next := 0
	report, sample, tick, decision := time.Duration(0), time.Duration(0), time.Duration(0), time.Duration(0)
	for next < len(r.requests) || r.open > 0 {
		at := report
		if next < len(r.requests) {
			at = min(at, r.requests[next].at)
		}
		if r.Sample > 0 {
			at = min(at, sample)
		}
		if len(r.held) > 0 {
			at = min(at, max(tick, r.now))
		}
		if r.Elastic != nil {
			at = min(at, decision)
		}
		r.advance(at)
		if r.Elastic != nil {
			r.bury()
			if at == decision {
				r.decideScale()
				decision += max(r.Elastic.Every, time.Second)
			}
		}
		if at == report {
			r.report()
			report += max(r.ReportEvery, time.Millisecond)
		}
		if r.Sample > 0 && at == sample {
			r.sample()
			sample += r.Sample
		}
		if len(r.held) > 0 {
			r.letIn()
			tick = at + gatewayTick
		}
		for ; next < len(r.requests) && r.requests[next].at == at; next++ {
			r.arrive(&r.requests[next])
		}
		if progress != nil {
			progress(next - r.open)
		}
	}
}

// gatewayTick is how late the gateway may notice that a replica has room.
const gatewayTick = 5 * time.Millisecond

func newRun(c Config, t *Trace) *run {
	r := &run{
		Config: c, trace: t, pools: map[string]*pooled{}, index: index.New(index.Limit{}), of: map[*engine]*replica{},
		byWorker: map[index.Worker]*replica{}, line: admit.NewLine(c.Line), held: map[string]*request{},
		object: newStore(objectTier, c.Object, t.BlockTokens, c.BytesPerToken),
	}
	r.reader = r.index.NewReader()
	r.wanted = c.Mixed
	r.shared, _ = r.index.Add()
	for role, n := range map[string]int{"mixed": c.Mixed, "prefill": c.Prefill, "decode": c.Decode} {
		if n > 0 {
			r.pools[role] = r.newPool(role, n)
		}
	}
	r.requests = make([]request, len(t.Requests))
	for i, q := range t.Requests {
		full := min(len(q.Blocks), q.Prompt/t.BlockTokens)
		r.requests[i] = request{index: i, at: q.At, prompt: q.Prompt, output: max(1, q.Output), blocks: q.Blocks[:full], key: q.Key}
	}
	if c.Host.Bytes > 0 || c.Disk.Bytes > 0 || c.Object.Bytes > 0 {
		r.depth = map[uint64]uint32{}
		for i := range r.requests {
			for d, id := range r.requests[i].blocks {
				r.depth[id] = uint32(d)
			}
		}
	}
	return r
}

func (r *run) newPool(role string, n int) *pooled {
	p := &pooled{byLaunch: map[string]*replica{}}
	p.speed = p.learned.Speed()
	for tier, t := range map[int]Tier{hostTier: r.Host, diskTier: r.Disk, objectTier: r.Object} {
		p.speed.FetchMs[tier] = 1000 * r.BytesPerToken / max(1, t.Bandwidth)
	}
	for i := range n {
		r.newReplica(p, role+"-"+strconv.Itoa(i))
	}
	return p
}

func (r *run) newReplica(p *pooled, launch string) *replica {
	e := newEngine(r.Model, r.trace.BlockTokens, r)
	rep := &replica{engine: e, launch: launch}
	rep.worker, _ = r.index.Add()
	e.tiers = r.tiersOf(e)
	r.of[e] = rep
	r.byWorker[rep.worker] = rep
	p.replicas = append(p.replicas, rep)
	p.byLaunch[rep.launch] = rep
	return rep
}

func (r *run) tiersOf(e *engine) *tiers {
	t := &tiers{e: e, block: r.trace.BlockTokens, depth: func(id uint64) uint32 { return r.depth[id] }}
	for _, s := range []*store{
		newStore(hostTier, r.Host, t.block, r.BytesPerToken), newStore(diskTier, r.Disk, t.block, r.BytesPerToken), r.object,
	} {
		if s != nil {
			t.stores = append(t.stores, s)
		}
	}
	if len(t.stores) == 0 {
		return nil
	}
	return t
}

// advance lets all replicas' time pass. Prefill goes first: what it hands over reaches decode at its own time.
func (r *run) advance(to time.Duration) {
	if p := r.pools["prefill"]; p != nil {
		for _, rep := range p.replicas {
			rep.advance(to)
		}
		for len(r.handed) > 0 {
			h := r.handed[0]
			r.handed = slices.Delete(r.handed, 0, 1)
			r.now = max(r.now, h.at)
			r.advancePool("decode", r.now)
			r.send(h.r, "decode")
		}
		r.advancePool("decode", to)
	}
	r.advancePool("mixed", to)
	r.now = to
}

func (r *run) advancePool(role string, to time.Duration) {
	if p := r.pools[role]; p != nil {
		for _, rep := range p.replicas {
			rep.advance(to)
		}
	}
}

func (r *run) report() {
	for _, p := range r.pools {
		for _, rep := range p.replicas {
			rep.seen.running, rep.seen.waiting, rep.seen.use = rep.active, rep.queued(), rep.pool.use()
			rep.seen.at = r.now
		}
	}
}

func (r *run) entry() string {
	if r.Mixed > 0 {
		return "mixed"
	}
	return "prefill"
}

// arrive takes a request in at the gateway.
func (r *run) arrive(q *request) {
	if q.prompt+q.output > r.Model.KVTokens {
		q.Refused = true // as an engine does: it could never hold it
		r.result.TooLong++
		return
	}
	r.open++
	r.tally.Requests++
	r.tally.Prompt += float64(q.prompt)
	d, ok := r.decide(q, r.entry())
	if !ok || r.Hold > 0 && (len(r.held) > 0 || wait(d) > r.Hold) {
		r.hold(q)
		return
	}
	r.place(q, r.entry(), d)
}

// wait is how long a request has to wait before its own prompt is read.
func wait(d route.Decision) time.Duration {
	return time.Duration((d.Parts["queue"] + d.Parts["kv"]) * float64(time.Millisecond))
}

func (r *run) hold(q *request) {
	id := strconv.Itoa(q.index)
	ticket := admit.Ticket{ID: id, Key: q.key, Cost: float64(q.prompt + q.output)}
	if r.Limit > 0 {
		ticket.Deadline = epoch.Add(q.at + r.Limit)
	}
	v, out := r.line.Add(ticket, epoch.Add(r.now))
	if out != nil {
		r.refuse(out.ID)
	}
	if !v.OK {
		q.Refused = true
		r.open--
		return
	}
	r.held[id] = q
}

func (r *run) refuse(id string) {
	q := r.held[id]
	delete(r.held, id)
	q.Refused = true
	r.open--
}

// letIn gives those that wait to replicas that have room now.
func (r *run) letIn() {
	now := epoch.Add(r.now)
	for _, t := range r.line.Expire(now) {
		r.refuse(t.ID)
	}
	for r.line.Len() > 0 {
		t, _ := r.line.Peek(now)
		q := r.held[t.ID]
		d, ok := r.decide(q, r.entry())
		if !ok || r.Hold > 0 && wait(d) > r.Hold {
			return
		}
		r.line.Next(now)
		delete(r.held, t.ID)
		r.place(q, r.entry(), d)
	}
}

// decide asks scheduler/route, with what the gateway would know at this moment.
func (r *run) decide(q *request, role string) (route.Decision, bool) {
	p := r.pools[role]
	open := p.serving(r.now)
	if len(open) == 0 {
		return route.Decision{}, false
	}
	p.candidates = slices.Grow(p.candidates[:0], len(open))[:len(open)]
	for i, rep := range open {
		c := &p.candidates[i]
		*c = route.Candidate{
			Launch: rep.launch, Replica: rep.launch, Inflight: rep.inflight, InflightTokens: rep.inflightTokens, OpenTokens: rep.openTokens,
			Running: &rep.seen.running, Waiting: &rep.seen.waiting, KVUsage: &rep.seen.use, KVTokens: r.Model.KVTokens,
			SeenAt: epoch.Add(rep.seen.at), Speed: &p.speed,
		}
	}
	r.matches = r.reader.Match(q.blocks, r.matches[:0])
	everywhere := 0
	for _, m := range r.matches {
		if m.Worker == r.shared {
			everywhere = int(m.Lead[objectTier]) * r.trace.BlockTokens
			continue
		}
		rep := r.byWorker[m.Worker]
		if rep == nil || rep.place < 0 || rep.place >= len(open) || open[rep.place] != rep {
			continue
		}
		for tier := range m.Lead {
			p.candidates[rep.place].Cached[tier] = int(m.Lead[tier]) * r.trace.BlockTokens
		}
	}
	if everywhere > 0 {
		for i := range p.candidates {
			c := &p.candidates[i].Cached[objectTier]
			*c = max(*c, everywhere)
		}
	}
	d, err := route.Pick(route.Request{
		ID: strconv.Itoa(q.index), PromptTokens: q.prompt, Now: epoch.Add(r.now), Mode: r.Mode, Turn: r.turn, BlockTokens: r.Model.BlockTokens,
	}, p.candidates)
	return d, err == nil
}

func (r *run) send(q *request, role string) {
	d, _ := r.decide(q, role)
	r.place(q, role, d)
}

// place gives a request to the replica that was chosen.
func (r *run) place(q *request, role string, d route.Decision) {
	p := r.pools[role]
	if role == r.entry() {
		r.turn++
		q.ExpectedMs = d.ExpectedMs
	}
	rep := p.byLaunch[d.Launch]
	s := &sequence{request: q, tokens: q.prompt, handOver: role == "prefill"}
	charged := max(0, q.prompt-d.Cached)
	if role == "decode" {
		s.transfer = r.BytesPerToken / r.TransferBandwidth * float64(time.Second)
		charged = 0
	}
	s.pending = pending{work: d.Work, charged: charged, from: r.now}
	rep.inflight++
	rep.inflightTokens += charged
	rep.openTokens += q.prompt
	rep.submit(s, r.now)
	rep.advance(r.now)
}

// first implements listener.
func (r *run) first(s *sequence, at time.Duration) {
	rep := r.of[s.on]
	rep.inflightTokens -= s.charged
	s.charged = 0
	role := r.entry()
	if !s.handOver && role == "prefill" {
		return // decode's first token is the second one of the answer
	}
	s.request.Cached = s.cached
	s.First = at
	r.tally.Cached += float64(s.cached)
	if r.Elastic != nil {
		r.lately.ttft = append(r.lately.ttft, at-s.at)
	}
	if r.Sample > 0 {
		r.since.ttft = append(r.since.ttft, at-s.at)
		r.since.prompt += s.prompt
		r.since.cached += s.cached
	}
	p := r.pools[role]
	p.learned = p.learned.Learn(s.work, float64(at-s.from)/float64(time.Millisecond))
	fetch := p.speed.FetchMs
	p.speed = p.learned.Speed()
	p.speed.FetchMs = fetch
}

// done implements listener.
func (r *run) done(s *sequence, at time.Duration) {
	rep := r.of[s.on]
	rep.inflight--
	rep.openTokens -= s.prompt
	rep.inflightTokens -= s.charged
	if s.handOver && s.output > 1 {
		i := len(r.handed)
		for i > 0 && r.handed[i-1].at > at {
			i--
		}
		r.handed = slices.Insert(r.handed, i, handOver{at, s.request})
		return
	}
	s.End = at
	r.tally.Output += float64(s.output)
	r.tally.Ended++
	r.open--
}

// decoded implements listener.
func (r *run) decoded(_ *engine, n int, gap time.Duration) {
	r.gaps.add(gap, n)
	r.lately.gaps += gap * time.Duration(n)
	r.lately.tokens += n
}

// stored implements listener.
func (r *run) stored(e *engine, tier int, id uint64, held bool) {
	rep := r.of[e]
	if rep == nil {
		return
	}
	one := [1]uint64{id}
	worker := rep.worker
	if tier == objectTier {
		worker = r.shared
	}
	if held {
		r.index.Store(worker, index.Tier(tier), one[:])
	} else {
		r.index.Remove(worker, index.Tier(tier), one[:])
	}
}
