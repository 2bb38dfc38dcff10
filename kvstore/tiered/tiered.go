// Package tiered makes one kvstore.Store out of several, fastest first. What the first tier forgets overflows to the next
// one that wants it, what is found below is promoted, equal Gets at one time are one read, and a tier that is slow or dead
// costs a miss and never a wait beyond its deadline.
//
// Blocks go down in the background through a bounded queue for each tier; what finds no room there is dropped and counted.
// A queued block can be read like any other. Where a key gets new bytes, or is deleted, older bytes that a lower tier may
// hold are out of reach from that moment on, whether that tier can be asked or not; only a crash may bring them back, since
// the memory of it is this process's.
//
// Run moves blocks; Flush writes what matters most to the last tier before a deadline. The package knows stores by the
// contract alone. The agent builds a composition and gives it to the doors.
package tiered

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
)

// Write says when a block goes to a tier below the first.
type Write uint8

const (
	// Back writes what the tier above forgets (if that tier has SetOverflow).
	Back Write = iota
	// Through writes everything as it is put, in the background, and what the tier above forgets too.
	Through
)

// Tier is one store of a composition, and how it is used. The first needs its Store alone.
type Tier struct {
	Store kvstore.Store
	Name  string // for logs and metrics; "" = the tier's word in the store's Stats
	Write Write
	// QueueBytes bounds what waits to be written; 0 = 256 MiB, or an eighth of the budget of the tier above if that is
	// less; one block always finds room. It is memory of the tier above that is not free yet: a quarter of that tier's
	// budget is the most.
	QueueBytes int64
	// Workers is how many blocks are written at one time; 0 = 4.
	Workers int
	// Deadline bounds each call; 0 = 10 s. For many blocks it bounds the time between two of them.
	Deadline time.Duration
	// ReadRate and WriteRate bound bytes per second; 0 = no bound.
	ReadRate, WriteRate int64
	// Failures in a row after which the tier is left alone for Cooldown, which doubles up to 16 times while it stays
	// dead; 0 = 5, and 1 s.
	Failures int
	Cooldown time.Duration
}

func (t Tier) withDefaults(above kvstore.Stats) Tier {
	if t.Name == "" {
		t.Name = t.Store.Stats().Tier.String()
	}
	if t.QueueBytes == 0 {
		t.QueueBytes = 256 << 20
		if above.Budget > 0 {
			t.QueueBytes = min(t.QueueBytes, above.Budget/8)
		}
	}
	if above.Budget > 0 {
		t.QueueBytes = min(t.QueueBytes, above.Budget/4)
	}
	if t.Workers == 0 {
		t.Workers = 4
	}
	if t.Deadline == 0 {
		t.Deadline = 10 * time.Second
	}
	if t.Failures == 0 {
		t.Failures = 5
	}
	if t.Cooldown == 0 {
		t.Cooldown = time.Second
	}
	return t
}

// Store is the composition.
type Store struct {
	first   kvstore.Store
	name    string  // of the first
	lanes   []*lane // to the tiers below the first
	flights flights
	stripes [stripes]stripe
	closed  atomic.Bool

	hits, misses, puts, drops, deleted atomic.Int64
	readBytes, writtenBytes            atomic.Int64
}

var _ kvstore.Store = (*Store)(nil)

// stripe orders the changes of its keys, and counts them: what was read before a change is not promoted after it.
type stripe struct {
	mu      sync.Mutex
	changes uint64
}

const stripes = 256

// overflower is a tier that hands down what it forgets.
type overflower interface {
	SetOverflow(f kvstore.Overflow)
}

// New composes stores, fastest first, and takes over what they forget. It starts nothing: without Run nothing goes down.
func New(log zerolog.Logger, tiers ...Tier) (*Store, error) {
	if len(tiers) == 0 {
		return nil, errors.New("a tiered store needs a tier")
	}
	s := &Store{first: tiers[0].Store, name: tiers[0].withDefaults(kvstore.Stats{}).Name}
	s.flights.open = map[kvstore.Key]*flight{}
	above := tiers[0].Store
	for _, t := range tiers[1:] {
		l := newLane(t.withDefaults(above.Stats()), log)
		if o, ok := above.(overflower); ok {
			o.SetOverflow(l.offer)
		} else if t.Write == Back {
			return nil, fmt.Errorf("tier %s is to get what the tier above it forgets, but that one does not hand it down: use write-through", l.tier.Name)
		}
		s.lanes = append(s.lanes, l)
		above = t.Store
	}
	return s, nil
}

// Run moves blocks down until the context ends, and returns when all movers have.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, l := range s.lanes {
		for range l.tier.Workers {
			wg.Go(func() { l.work(ctx) })
		}
	}
	wg.Wait()
	return nil
}

// Close drops what is still queued. It comes after Run has returned and does not close the tiers; calls after it find
// nothing.
func (s *Store) Close() error {
	s.closed.Store(true)
	for _, l := range s.lanes {
		l.close()
	}
	return nil
}

func (s *Store) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return fmt.Errorf("the tiered store is closed: %w", kvstore.ErrUnavailable)
	}
	return nil
}

func (s *Store) stripeOf(k kvstore.Key) *stripe { return &s.stripes[k.Name[0]^k.Name[31]^byte(k.Part)] }

// Stats implements kvstore.Store. A block may be in several tiers, so that how many there are in all is not known.
func (s *Store) Stats() kvstore.Stats {
	out := kvstore.Stats{
		Tier: kvstore.Host, Blocks: kvstore.Unknown, Bytes: kvstore.Unknown,
		Hits: s.hits.Load(), Misses: s.misses.Load(), Puts: s.puts.Load(), Drops: s.drops.Load(), Deleted: s.deleted.Load(),
		ReadBytes: s.readBytes.Load(), WrittenBytes: s.writtenBytes.Load(), Tiers: []kvstore.Stats{s.first.Stats()},
	}
	for _, l := range s.lanes {
		out.Tiers = append(out.Tiers, l.tier.Store.Stats())
	}
	for _, t := range out.Tiers {
		out.Pinned += t.Pinned
		out.Corrupt += t.Corrupt
		out.Errors += t.Errors
		out.Evicted += t.Evicted
	}
	return out
}
