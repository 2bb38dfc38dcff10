package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/agent/cache"
	"github.com/penstock/penstock/agent/slots"
	"github.com/penstock/penstock/kvstore"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

const (
	maxKVRequest = 64 << 10
	// kvPart is how many blocks of a listing go into one line, and kvEvery how often one is told how far work has come.
	kvPart  = 500
	kvEvery = 200 * time.Millisecond
	// kvWithin is how long work takes at most where the request says nothing, and kvLongest where it says more.
	kvWithin  = time.Minute
	kvLongest = time.Hour
)

// manage answers the controller, which asks for a person about the KV tiers: an apiv1.KVRequest in, a line of JSON for each
// apiv1.KVResponse out. What it was asked to do ends with the connection.
func (p *port) manage(w http.ResponseWriter, r *http.Request) {
	with := p.others()
	if with == nil {
		deny(w, http.StatusNotFound, errors.New("this run has no KV tiers of its own"))
		return
	}
	var q apiv1.KVRequest
	body, err := io.ReadAll(io.LimitReader(r.Body, maxKVRequest))
	if err == nil {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(body, &q)
	}
	do := kvVerbs[q.Verb]
	if err == nil && do == nil {
		err = fmt.Errorf("this agent knows no way to %q KV tiers", q.Verb)
	}
	if err != nil {
		deny(w, http.StatusBadRequest, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	m := manager{tiers: with.run.kv, slots: p.engineSlots(), q: &q, w: w}
	if err := do(&m, r.Context()); err != nil {
		_ = m.say(&apiv1.KVResponse{Error: err.Error()})
	}
}

// engineSlots are those of the engine that runs; nil = none runs, or its KV does not come out of slots.
func (p *port) engineSlots() *slots.Slots {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots
}

var kvVerbs = map[string]func(*manager, context.Context) error{
	"stat": (*manager).stat, "list": (*manager).list, "flush": (*manager).flush, "warm": (*manager).warm,
}

// manager is one request about the tiers.
type manager struct {
	tiers *cache.Cache
	slots *slots.Slots // of the engine that runs now; nil = its KV does not come out of slots
	q     *apiv1.KVRequest
	w     http.ResponseWriter
	told  time.Time
}

// say sends one line.
func (m *manager) say(part *apiv1.KVResponse) error {
	line, err := protojson.Marshal(part)
	if err != nil {
		return err
	}
	control := http.NewResponseController(m.w)
	_ = control.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, err := m.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return control.Flush()
}

func (m *manager) stat(context.Context) error {
	var out apiv1.KVResponse
	for _, s := range m.tiers.Stats() {
		t := &apiv1.KVTier{
			Tier: s.Tier.String(), Blocks: known(s.Blocks), Bytes: known(s.Bytes), Hits: uint64(s.Hits), Misses: uint64(s.Misses),
			Puts: uint64(s.Puts), Drops: uint64(s.Drops), Evicted: uint64(s.Evicted), Deleted: uint64(s.Deleted), Corrupt: uint64(s.Corrupt),
			Errors: uint64(s.Errors), ReadBytes: uint64(s.ReadBytes), WrittenBytes: uint64(s.WrittenBytes),
		}
		if s.Budget > 0 {
			t.Budget = known(s.Budget)
		}
		out.Tiers = append(out.Tiers, t)
	}
	return m.say(&out)
}

// known is a number of the stores as the wire has it: what cannot be known is absent.
func known(n int64) *uint64 {
	if n < 0 {
		return nil
	}
	v := uint64(n)
	return &v
}

func (m *manager) list(ctx context.Context) error {
	var part apiv1.KVResponse
	err := m.tiers.List(ctx, int(m.q.Limit), func(t kvstore.Tier, k kvstore.Key, info kvstore.Info) error {
		b := &apiv1.KVBlock{Space: k.Space[:], Name: k.Name[:], Part: uint32(k.Part), Tier: t.String(), Size: uint64(info.Size)}
		if !info.StoredAt.IsZero() {
			b.StoredAt = timestamppb.New(info.StoredAt)
		}
		if part.Blocks = append(part.Blocks, b); len(part.Blocks) < kvPart {
			return nil
		}
		defer func() { part.Blocks = nil }()
		return m.say(&part)
	})
	return errors.Join(err, m.say(&part))
}

func (m *manager) flush(ctx context.Context) error {
	tiers := m.tiers.Stats()
	return m.work(ctx, tiers[:len(tiers)-1], func(ctx context.Context, progress func(cache.Moved)) (cache.Moved, error) {
		if m.slots != nil { // what was answered a moment ago is on its way out of the engine
			if err := m.slots.Settle(ctx); err != nil {
				return cache.Moved{Left: true}, nil
			}
		}
		return m.tiers.FlushAll(ctx, progress)
	})
}

func (m *manager) warm(ctx context.Context) error {
	return m.work(ctx, m.tiers.Stats()[1:], m.tiers.Warm)
}

// work does something about the blocks of some tiers, and says how far it has come.
func (m *manager) work(ctx context.Context, tiers []kvstore.Stats, do func(context.Context, func(cache.Moved)) (cache.Moved, error)) error {
	var total uint64
	for _, t := range tiers {
		total += uint64(max(0, t.Blocks))
	}
	within := kvWithin
	if m.q.Within != nil {
		within = min(kvLongest, max(0, m.q.Within.AsDuration()))
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	news := make(chan cache.Moved)
	var last cache.Moved
	var failed error
	go func() {
		defer close(news)
		last, failed = do(ctx, func(now cache.Moved) {
			select {
			case news <- now:
			default: // the next one says more
			}
		})
	}()
	for now := range news {
		if time.Since(m.told) < kvEvery {
			continue
		}
		m.told = time.Now()
		if err := m.say(&apiv1.KVResponse{Moved: movedOnWire(now, total, false)}); err != nil {
			cancel() // nobody listens
		}
	}
	return errors.Join(failed, m.say(&apiv1.KVResponse{Moved: movedOnWire(last, total, true)}))
}

func movedOnWire(m cache.Moved, total uint64, done bool) *apiv1.KVMoved {
	return &apiv1.KVMoved{
		Blocks: uint64(m.Blocks), Bytes: uint64(m.Bytes), There: uint64(m.There), Failed: uint64(m.Failed), Total: total, Left: m.Left, Done: done,
	}
}
