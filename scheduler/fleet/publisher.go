package fleet

import (
	"context"
	"slices"
	"sync"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// PublisherOptions describe a Publisher. All but the durations are required.
type PublisherOptions struct {
	// Source gives the present view. It is called from Run alone.
	Source func(now time.Time) View
	// Changed is Fleet.Changed, or anything that behaves like it.
	Changed func() <-chan struct{}
	Term    uint64
	// Loads is the shortest time between two publications of figures such as loads; default 1s. Everything else goes out
	// as it changes, but not sooner than Gap (default 20ms) after the last.
	Loads, Gap time.Duration
}

// Publisher sends the view to gateways: the whole of it first, then changes only. Each gateway is served at its own pace
// from a backlog that all of them share and that never outgrows the view itself, so a slow one holds nobody up and costs
// no memory.
type Publisher struct {
	opts PublisherOptions
	wake chan struct{}

	mu      sync.Mutex
	view    View
	seq     uint64                 // of the last delta; 0 = nothing settled has been seen yet
	deltas  []*apiv1.WatchResponse // the last of them, oldest first, with their seq
	changed chan struct{}          // closed at the next publication
}

// NewPublisher makes a Publisher that has nothing to send until Run is called.
func NewPublisher(o PublisherOptions) *Publisher {
	if o.Loads <= 0 {
		o.Loads = time.Second
	}
	if o.Gap <= 0 {
		o.Gap = 20 * time.Millisecond
	}
	return &Publisher{opts: o, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// Wake has the source looked at soon, for changes that the fleet does not see: deployments, keys. It never blocks.
func (p *Publisher) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends, and returns nil then.
func (p *Publisher) Run(ctx context.Context) error {
	var loadsAt time.Time
	for {
		changed := p.opts.Changed()
		now := time.Now()
		loads := now.Sub(loadsAt) >= p.opts.Loads
		if loads {
			loadsAt = now
		}
		p.publish(p.opts.Source(now), loads)
		if !sleep(ctx, p.opts.Gap) {
			return nil
		}
		wait := time.NewTimer(time.Until(loadsAt.Add(p.opts.Loads)))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-changed:
		case <-p.wake:
		case <-wait.C:
		}
		wait.Stop()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// publish takes a view in.
func (p *Publisher) publish(v View, loads bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.seq == 0
	if first && !v.Settled {
		return
	}
	d, view := delta(p.view, v, loads || first)
	if d == nil && !first {
		return
	}
	p.view = view
	p.seq++
	if !first {
		d.Seq, d.Term = p.seq, p.opts.Term
		p.deltas = append(p.deltas, d)
		p.trim()
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// trim drops the oldest deltas once sending all of them would cost more than the whole view.
func (p *Publisher) trim() {
	budget := max(64, size(p.view))
	for i := len(p.deltas) - 1; i >= 0; i-- {
		d := p.deltas[i]
		budget -= 1 + len(d.Replicas) + len(d.Removed) + len(d.Models) + len(d.RemovedModels) + len(d.Keys) + len(d.RemovedKeys)
		if budget < 0 {
			p.deltas = slices.Delete(p.deltas, 0, i)
			return
		}
	}
}

func size(v View) int { return len(v.Replicas) + len(v.Models) + len(v.Keys) }

// Watch sends one gateway the whole view and then every change, until ctx ends or send fails; the error says which.
// Messages are shared between gateways: send must not change them. A gateway that falls too far behind gets the whole
// view again, marked as full, in place of what it has missed; between two full ones seq rises by one each time.
func (p *Publisher) Watch(ctx context.Context, send func(*apiv1.WatchResponse) error) error {
	seq := uint64(0)
	for {
		batch, changed := p.after(seq)
		for _, m := range batch {
			if err := send(m); err != nil {
				return err
			}
			seq = m.Seq
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// after lists what a gateway that has seen everything up to seq must be sent (0 = it has seen nothing); nothing at all
// means to wait for the channel.
func (p *Publisher) after(seq uint64) ([]*apiv1.WatchResponse, <-chan struct{}) {
	p.mu.Lock()
	view, last, changed := p.view, p.seq, p.changed
	var missed []*apiv1.WatchResponse
	known := seq == last || seq > 0 && last-seq <= uint64(len(p.deltas))
	if known {
		missed = slices.Clone(p.deltas[uint64(len(p.deltas))-(last-seq):])
	}
	p.mu.Unlock()
	if known {
		return missed, changed
	}
	m := whole(view)
	m.Seq, m.Term = last, p.opts.Term
	return []*apiv1.WatchResponse{m}, changed
}
