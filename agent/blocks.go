package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/agent/engine"
	"github.com/penstock/penstock/agent/engine/kvevents"
	spec "github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

const (
	// blocksPerMessage keeps a message at some 64 KiB, since the last few hundred of them are kept to be sent again.
	blocksPerMessage = 8192
	// blocksWaiting is how many may wait for a controller that is away. Beyond it they are forgotten, and all that is held
	// is told anew.
	blocksWaiting = 1 << 18
)

// heldBlocks is what the engine's cache holds, by our names, and which changes of it have not been told yet. Safe for
// concurrent use.
type heldBlocks struct {
	mu      sync.Mutex
	held    map[uint64]index.TierSet
	waiting []*apiv1.BlockEvent // in order
	count   int                 // blocks in them
	anew    bool                // waiting is not the whole: all that is held must be told
}

// take notes changes.
func (b *heldBlocks) take(changes []kvevents.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil {
		b.held = map[uint64]index.TierSet{}
	}
	for _, c := range changes {
		switch c.Kind {
		case kvevents.BlocksStored:
			for _, id := range c.Blocks {
				b.held[id] |= index.Only(c.Tier)
			}
			b.queue(apiv1.BlockEvent_KIND_STORED, c.Tier, c.Blocks)
		case kvevents.BlocksRemoved:
			b.remove(c.Blocks, index.Only(c.Tier))
			b.queue(apiv1.BlockEvent_KIND_REMOVED, c.Tier, c.Blocks)
		case kvevents.TiersCleared:
			b.clear(c.Tiers)
		}
	}
}

func (b *heldBlocks) remove(ids []uint64, tiers index.TierSet) {
	for _, id := range ids {
		if left := b.held[id] &^ tiers; left != 0 {
			b.held[id] = left
		} else {
			delete(b.held, id)
		}
	}
}

func (b *heldBlocks) clear(tiers index.TierSet) {
	if tiers == index.AllTiers {
		clear(b.held)
		b.waiting, b.count = []*apiv1.BlockEvent{{Kind: apiv1.BlockEvent_KIND_CLEARED}}, 0
		return
	}
	for id, held := range b.held {
		if held&tiers != 0 {
			b.remove([]uint64{id}, tiers)
		}
	}
	for t := range index.Tier(index.Tiers) {
		if tiers&index.Only(t) != 0 {
			b.waiting = append(b.waiting, &apiv1.BlockEvent{Kind: apiv1.BlockEvent_KIND_CLEARED, Tier: t.String()})
		}
	}
}

// queue adds an event in pieces that fit into messages.
func (b *heldBlocks) queue(k apiv1.BlockEvent_Kind, t index.Tier, ids []uint64) {
	if b.anew {
		return
	}
	for len(ids) > 0 {
		n := min(len(ids), blocksPerMessage)
		b.waiting = append(b.waiting, &apiv1.BlockEvent{Kind: k, Tier: t.String(), Blocks: append([]uint64(nil), ids[:n]...)})
		b.count += n
		ids = ids[n:]
	}
	if b.count > blocksWaiting {
		b.waiting, b.count, b.anew = nil, 0, true
	}
}

// all begins to tell everything anew, as a full state does, and gives the first message's worth of it.
func (b *heldBlocks) all() []*apiv1.BlockEvent {
	b.mu.Lock()
	b.anew = true
	b.mu.Unlock()
	return b.next()
}

// next gives what the next message should tell, nil if there is nothing.
func (b *heldBlocks) next() (events []*apiv1.BlockEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.anew {
		b.restart()
	}
	n, blocks := 0, 0
	for n < len(b.waiting) && (n == 0 || blocks+len(b.waiting[n].Blocks) <= blocksPerMessage) {
		blocks += len(b.waiting[n].Blocks)
		n++
	}
	events = b.waiting[:n:n]
	b.waiting = b.waiting[n:]
	b.count -= blocks
	return events
}

// restart has everything that is held wait, and nothing else.
func (b *heldBlocks) restart() {
	var ids [index.Tiers][]uint64
	for id, tiers := range b.held {
		for t := range index.Tier(index.Tiers) {
			if tiers&index.Only(t) != 0 {
				ids[t] = append(ids[t], id)
			}
		}
	}
	b.waiting, b.count, b.anew = []*apiv1.BlockEvent{{Kind: apiv1.BlockEvent_KIND_CLEARED}}, 0, false
	for t, some := range ids {
		for len(some) > 0 {
			n := min(len(some), blocksPerMessage)
			b.waiting = append(b.waiting, &apiv1.BlockEvent{Kind: apiv1.BlockEvent_KIND_STORED, Tier: index.Tier(t).String(), Blocks: some[:n]})
			b.count += n
			some = some[n:]
		}
	}
}

// any reports whether something waits to be told.
func (b *heldBlocks) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.anew || len(b.waiting) > 0
}

// eventSockets are where the n-th engine of this run tells what its cache holds; none where it can't, or nobody wants to know.
func (r *run) eventSockets(n int) (live, replay string) {
	if r.traits.Events != spec.ZMQEvents || r.adm.blockSeed == 0 || r.opts.Rank > 0 {
		return "", ""
	}
	a, err := identity.SocketPath(r.dir, fmt.Sprintf("kv%d", n))
	b, errB := identity.SocketPath(r.dir, fmt.Sprintf("kvr%d", n))
	if err != nil || errB != nil {
		r.log.Warn().Err(err).Msg("KV events are not read: the run's folder leaves no room for their sockets")
		return "", ""
	}
	return "ipc://" + a, "ipc://" + b
}

// followBlocks reads the engine's KV events until stop is called, after which nothing is held any more.
func (r *run) followBlocks(ctx context.Context, e *engineRun) (stop func()) {
	book := kvevents.NewBook(index.Identity{Seed: r.adm.blockSeed, Namespace: r.adm.deployment.Name}, 0)
	var follow func(context.Context)
	switch {
	case e.events.Endpoint != "":
		feed := kvevents.NewFeed(e.events, book, r.blocks.take, r.log)
		follow = func(ctx context.Context) { _ = feed.Run(ctx) }
	case r.traits.Events == spec.PolledJSON && r.adm.blockSeed != 0 && e.reader != nil:
		follow = func(ctx context.Context) { r.pollBlocks(ctx, e, kvevents.NewPolled(book)) }
	default:
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { follow(ctx) })
	return func() {
		cancel()
		following.Wait()
		r.blocks.take(book.Reset())
	}
}

// pollBlocks asks the engine once an interval. An engine that does not know the call is asked no more.
func (r *run) pollBlocks(ctx context.Context, e *engineRun, p *kvevents.Polled) {
	for sleep(ctx, r.opts.Interval) {
		if !e.serving.Load() {
			continue
		}
		quick, cancel := context.WithTimeout(ctx, max(2*time.Second, r.opts.Interval))
		answer, err := e.reader.TakeKVEvents(quick)
		cancel()
		var no *engine.StatusError
		if errors.As(err, &no) {
			r.log.Info().Err(err).Msg("the engine tells of no KV events")
			return
		}
		if err != nil {
			r.log.Debug().Err(err).Msg("KV events not read")
			continue // what they said shows as missing in the next answer
		}
		changes, lost, err := p.Take(answer)
		switch {
		case err != nil:
			r.log.Warn().Err(err).Msg("KV events are not understood")
		case lost:
			r.log.Warn().Msg("KV events were lost, the engine's blocks are forgotten")
		}
		r.blocks.take(changes)
	}
}
