package tiered

import (
	"context"
	"errors"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// user is a first tier that can be told that blocks were used as one, the first being worth most. A promoted block comes
// without its place in a chain, and who asks for many asks for a chain from its root.
type user interface {
	Used(keys []kvstore.Key)
}

// GetMany implements kvstore.Store: what the first tier has, then from each tier below in one go what is still missing.
// Keys that somebody is reading already come from that read, last.
func (s *Store) GetMany(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	m := many{s: s, keys: keys, each: func(i int, b *kvstore.Block) error {
		s.hits.Add(1)
		s.readBytes.Add(int64(b.Len()))
		return each(i, b)
	}, found: make([]bool, len(keys))}
	err := m.run(ctx)
	if first, ok := s.first.(user); ok && m.promoted {
		first.Used(keys)
	}
	for _, ok := range m.found {
		if !ok && err == nil {
			s.misses.Add(1)
		}
	}
	return err
}

// many is one GetMany.
type many struct {
	s     *Store
	keys  []kvstore.Key
	each  func(i int, b *kvstore.Block) error
	found []bool
	err   error // of each: it stops everything

	promoted bool
}

// own is a key that this call reads for all who want it.
type own struct {
	i       int
	flight  *flight
	changes uint64
}

func (m *many) run(ctx context.Context) error {
	err := m.s.first.GetMany(ctx, m.keys, m.give)
	if err != nil || len(m.s.lanes) == 0 {
		return err
	}
	mine, others := m.claim()
	unavailable, err := m.fromBelow(ctx, mine)
	if err != nil {
		return err
	}
	for _, i := range others {
		b, err := m.s.get(ctx, m.keys[i], m.s.first.Get)
		switch {
		case err == nil:
			err = m.give(i, b)
			b.Release()
			if err != nil {
				return err
			}
		case errors.Is(err, kvstore.ErrNotFound):
		case kvstore.IsMiss(err):
			unavailable = err
		default:
			return err
		}
	}
	return unavailable
}

// give hands a block on.
func (m *many) give(i int, b *kvstore.Block) error {
	m.found[i] = true
	m.err = m.each(i, b)
	return m.err
}

// claim parts the keys that are missing into those that this call reads and those that somebody reads already.
func (m *many) claim() (mine []own, others []int) {
	for i, k := range m.keys {
		if m.found[i] {
			continue
		}
		changes := m.s.changes(k)
		if f, lead := m.s.flights.claim(k); lead {
			mine = append(mine, own{i, f, changes})
		} else {
			m.s.flights.leave(f)
			others = append(others, i)
		}
	}
	return mine, others
}

// fromBelow reads the keys of this call from one tier after the other. Every flight is finished when it returns.
func (m *many) fromBelow(ctx context.Context, mine []own) (unavailable, err error) {
	for _, l := range m.s.lanes {
		if len(mine) == 0 {
			break
		}
		var e error
		if mine, e = m.fromLane(ctx, l, mine); e == nil {
			continue
		}
		if !kvstore.IsMiss(e) {
			err = e
			break
		}
		unavailable = e
	}
	for _, o := range mine {
		end := errors.Join(err, unavailable)
		if end == nil {
			end = kvstore.ErrNotFound
		}
		// Who waits looks again, unless it is certain that there is nothing: what stopped this call need not stop others.
		m.s.flights.finish(m.keys[o.i], o.flight, nil, end, err != nil)
	}
	return unavailable, err
}

// fromLane reads what one tier has, and returns what it has not.
func (m *many) fromLane(ctx context.Context, l *lane, mine []own) (rest []own, err error) {
	var ask []own
	var keys []kvstore.Key
	for n, o := range mine {
		b, doubt := l.find(m.keys[o.i])
		switch {
		case b != nil:
			err := m.take(ctx, l, o, b)
			b.Release()
			if err != nil {
				return append(append(rest, ask...), mine[n+1:]...), err
			}
		case doubt:
			rest = append(rest, o)
		default:
			ask = append(ask, o)
			keys = append(keys, m.keys[o.i])
		}
	}
	if len(ask) == 0 {
		return rest, nil
	}
	left, err := m.ask(ctx, l, ask, keys)
	return append(rest, left...), err
}

// ask reads from the tier's store. The tier has its deadline for each block; the time that the receiver takes does not
// count.
func (m *many) ask(ctx context.Context, l *lane, ask []own, keys []kvstore.Key) (left []own, err error) {
	if err := l.mayRead(ctx); err != nil {
		return ask, err
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := time.AfterFunc(l.tier.Deadline, cancel)
	defer patience.Stop()
	done := make([]bool, len(ask))
	begun := time.Now()
	err = l.tier.Store.GetMany(within, keys, func(n int, b *kvstore.Block) error {
		patience.Stop()
		l.reads.charge(time.Now(), int64(b.Len()))
		l.meter.observe(int64(b.Len()), time.Since(begun))
		done[n] = true
		err := m.take(ctx, l, ask[n], b)
		patience.Reset(l.tier.Deadline)
		begun = time.Now()
		return err
	})
	if m.err != nil {
		l.breaker.neither()
		err = m.err
	} else if err = l.judge(ctx, within, err); err != nil {
		err = asMiss(err)
	}
	for n, o := range ask {
		if !done[n] {
			left = append(left, o)
		}
	}
	return left, err
}

// take promotes a block that was found, and gives it to all who want it. The block is lent.
func (m *many) take(ctx context.Context, l *lane, o own, b *kvstore.Block) error {
	k := m.keys[o.i]
	if l.doubtful(k) {
		m.s.flights.finish(k, o.flight, nil, kvstore.ErrNotFound, true)
		return nil
	}
	m.s.promote(ctx, l, k, b, o.changes)
	m.promoted = true
	m.s.flights.finish(k, o.flight, b, nil, m.s.changes(k) != o.changes)
	return m.give(o.i, b)
}
