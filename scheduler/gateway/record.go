package gateway

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// usage is what an answer took.
type usage struct {
	prompt, cached, completion uint64
	known                      bool // by the engine's own word
	cachedKnown                bool // and cached too
}

func (u usage) total() uint64 { return u.prompt + u.completion }

// The outcomes of a request.
const (
	outcomeOK        = "ok"
	outcomeGone      = "client_gone"
	outcomeError     = "error"
	outcomeContinued = "continued"
	outcomeRefused   = "refused"
)

// finish writes the request's record, once.
func (g *Gateway) finish(q *request) {
	u := q.usage
	if !u.known {
		u = q.counted
	}
	q.settle(u.total())
	g.compare(q, u)
	model := q.modelName
	if q.model == nil {
		model = "" // a name that a client made up
	}
	g.metrics.settled(model, q.status, u)
	rec := &apiv1.RequestRecord{
		Id: q.id, At: timestamppb.New(q.at), Gateway: g.opts.Name, Model: model, KeyId: q.caller.keyID(), Tenant: q.caller.tenant,
		Path: q.path, Status: uint32(q.status), Outcome: q.outcome, Error: q.failure, Attempts: q.attempts,
		Total: durationpb.New(g.now().Sub(q.at)), PromptTokens: u.prompt, CachedTokens: u.cached, CompletionTokens: u.completion,
		UsageCounted: !u.known && u.total() > 0, Stream: q.stream,
	}
	if q.keys != nil {
		rec.PrefixKeys, rec.PrefixMs = q.keys.kind, float64(q.keys.took)/float64(time.Millisecond)
	}
	if q.ttft > 0 {
		rec.Ttft = durationpb.New(q.ttft)
	}
	g.records.put(rec)
}

// recordQueue holds finished requests until the controller has them. When it is full the newest are dropped and counted:
// clients never wait for it.
type recordQueue struct {
	records chan *apiv1.RequestRecord
	metrics *metrics
}

func newRecordQueue(n int, m *metrics) *recordQueue {
	return &recordQueue{make(chan *apiv1.RequestRecord, n), m}
}

func (q *recordQueue) put(rec *apiv1.RequestRecord) {
	select {
	case q.records <- rec:
	default:
		q.metrics.dropped.Inc()
	}
}

const (
	recordBatch   = 256
	recordEvery   = 100 * time.Millisecond // between two deliveries, so that a busy gateway's are large
	recordAgain   = 500 * time.Millisecond // after one that failed
	recordTimeout = 10 * time.Second
)

// runRecords hands records over: at once after a pause, so that `penstock why` knows of a request when its client has the
// answer, and in batches where there are many. A batch that fails is tried again until ctx ends; at the end what is left is
// tried once more.
func (g *Gateway) runRecords(ctx context.Context) {
	var batch []*apiv1.RequestRecord
	failed := false
	for {
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				g.lastRecords(ctx, batch)
				return
			case rec := <-g.records.records:
				batch = append(batch, rec)
			}
		}
		for batch = g.records.drain(batch); len(batch) > 0; batch = g.records.drain(batch[:0]) {
			err := g.deliver(ctx, batch)
			if err != nil && !failed {
				g.log.Warn().Err(err).Msg("records of requests are not handed over; they wait")
			}
			if failed = err != nil; failed {
				break
			}
		}
		pause := recordEvery
		if failed {
			pause = recordAgain
		}
		select {
		case <-ctx.Done():
			g.lastRecords(ctx, batch)
			return
		case <-time.After(pause):
		}
	}
}

// drain fills batch from the queue, as far as there is something.
func (q *recordQueue) drain(batch []*apiv1.RequestRecord) []*apiv1.RequestRecord {
	for len(batch) < recordBatch {
		select {
		case rec := <-q.records:
			batch = append(batch, rec)
		default:
			return batch
		}
	}
	return batch
}

func (g *Gateway) deliver(ctx context.Context, batch []*apiv1.RequestRecord) error {
	if g.opts.Record == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	return g.opts.Record(ctx, slices.Clone(batch))
}

// lastRecords runs after ctx has ended, so it goes by its own, short deadline.
func (g *Gateway) lastRecords(ctx context.Context, batch []*apiv1.RequestRecord) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	for batch = g.records.drain(batch); len(batch) > 0; batch = g.records.drain(batch[:0]) {
		if err := g.deliver(ctx, batch); err != nil {
			g.log.Warn().Err(err).Int("records", len(batch)).Msg("records of requests are lost")
			g.metrics.dropped.Add(float64(len(batch)))
			return
		}
	}
}
