package object

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// senders is how many packs are sent at one time.
const senders = 4

// pack is one that is being filled or sent.
type pack struct {
	id      string
	name    string // once it is being sent
	seal    seal
	head    []byte
	bytes   []byte
	records map[kvstore.Key]record
	begun   time.Time
	done    chan struct{} // closed when it is sent, or lost
	err     error         // then
	gone    []uint32      // deleted while it was being sent
}

func (s *Store) newPack() (*pack, error) {
	b := make([]byte, 0, s.opts.PackBytes+s.opts.PackBytes/4)
	b, seal, err := appendHead(b, s.opts.Keys)
	if err != nil {
		return nil, err
	}
	return &pack{
		id: rand.Text(), seal: seal, head: slices.Clone(b), bytes: b, records: map[kvstore.Key]record{}, begun: time.Now(), done: make(chan struct{}),
	}, nil
}

// tail is what is written behind the records: the head once more and the footer.
func (p *pack) tail() []byte {
	var lines []byte
	for _, r := range p.records {
		lines = appendLine(lines, &r)
	}
	return append(slices.Clone(p.head), p.seal.footer(lines, uint32(len(p.bytes)))...)
}

// packName holds where the tail begins and how long it is, so that a reader gets it with one request.
func packName(id string, at, n int) string { return fmt.Sprintf("p/%s/%s-%x-%x", id[:2], id, at, n) }

// parsePackName is the inverse of packName.
func parsePackName(name string) (id string, at, n int64, ok bool) {
	fields := strings.Split(name[strings.LastIndexByte(name, '/')+1:], "-")
	if len(fields) != 3 {
		return "", 0, 0, false
	}
	at, err1 := strconv.ParseInt(fields[1], 16, 64)
	n, err2 := strconv.ParseInt(fields[2], 16, 64)
	if err1 != nil || err2 != nil || len(fields[0]) < 2 || at < headSize || at > maxPack || n < headSize+4 || n > maxPack {
		return "", 0, 0, false
	}
	return fields[0], at, n, packName(fields[0], int(at), int(n)) == name
}

const maxPack = 1 << 30

// unsent are the packs that are being filled or sent. The lock is held.
func (s *Store) unsent() []*pack {
	if s.filling == nil {
		return s.sending
	}
	return append(slices.Clip(s.sending), s.filling)
}

// isOnItsWay says whether this store is sending a pack: it knows better what is in it than who reads it. The lock is held.
func (s *Store) isOnItsWay(name string) bool {
	return slices.ContainsFunc(s.sending, func(p *pack) bool { return p.name == name })
}

// add puts a block into the pack that is being filled. It waits where that one is full and none can be sent.
func (s *Store) add(ctx context.Context, r record, data []byte) error {
	for {
		s.mu.Lock()
		if s.filling == nil {
			var err error
			if s.filling, err = s.newPack(); err != nil {
				s.mu.Unlock()
				return err
			}
		}
		p := s.filling
		if len(p.bytes) < s.opts.PackBytes {
			// In the order of the records, and later than what a writer with a clock ahead has put.
			r.at, r.stored = uint32(len(p.bytes)), max(s.now(), s.index[r.key].stored+1)
			p.bytes = p.seal.appendRecord(p.bytes, &r, data)
			p.records[r.key] = r
			full := len(p.bytes) >= s.opts.PackBytes
			s.opts.Moves(kvstore.Move{Key: r.key, Tier: kvstore.Object, Held: true})
			s.mu.Unlock()
			if full {
				s.trySend(p)
			}
			return nil
		}
		s.mu.Unlock()
		if err := s.send(ctx, p); err != nil {
			return err
		}
	}
}

// trySend begins to send a pack where a sender is free.
func (s *Store) trySend(p *pack) {
	select {
	case s.senders <- struct{}{}:
		s.launch(p)
	default: // the next to come waits for one
	}
}

// send begins to send a pack as soon as a sender is free. A bucket to which others have not got rid of theirs for so long costs
// a drop.
func (s *Store) send(ctx context.Context, p *pack) error {
	if s.patience.closed() {
		return errOpen
	}
	patience := time.NewTimer(s.opts.Timeout)
	defer patience.Stop()
	select {
	case s.senders <- struct{}{}:
		s.launch(p)
		return nil
	case <-patience.C:
		return fmt.Errorf("%w: %w", kvstore.ErrUnavailable, errSlow)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// launch sends a pack in a goroutine of its own, which has a sender's place, unless another one was faster.
func (s *Store) launch(p *pack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filling != p {
		<-s.senders
		return
	}
	s.filling = nil
	tail := p.tail()
	p.name = packName(p.id, len(p.bytes), len(tail))
	s.sending = append(s.sending, p)
	s.patience.running.Go(func() {
		defer func() { <-s.senders }()
		s.deliver(p, tail)
	})
}

// deliver sends a pack and makes its blocks part of the index, or loses them.
func (s *Store) deliver(p *pack, tail []byte) {
	ctx, cancel := context.WithTimeout(s.life, time.Minute)
	defer cancel()
	err := s.putObject(ctx, p.name, append(p.bytes, tail...), true)
	if errors.Is(err, errExists) { // an earlier try, whose answer was lost
		err = nil
	}
	s.mu.Lock()
	p.err = err
	s.sending = slices.DeleteFunc(s.sending, func(o *pack) bool { return o == p })
	marks := marks{p.id: p.gone}
	if err == nil {
		s.enterPack(p.name, p.seal, p.records)
	} else {
		s.lost(p, marks)
	}
	s.mu.Unlock()
	if failed := s.putMarks(ctx, marks); failed != nil && err == nil {
		err = failed
	}
	if err != nil {
		s.opts.Log.Warn().Err(err).Int("blocks", len(p.records)).Msg("a pack of the object tier was lost")
	}
	close(p.done)
}

// lost forgets the blocks of a pack that could not be sent, with what was there of them before: who was told that a newer one
// was put must not read an older one. The lock is held.
func (s *Store) lost(p *pack, marks marks) {
	for k, r := range p.records {
		s.takeOut(k, r.stored, marks)
		if _, ok := s.find(k); !ok {
			s.count.drops.Add(1)
			s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Object})
		}
	}
}

// flush sends the pack that is being filled and waits until all are sent.
func (s *Store) flush(ctx context.Context) error {
	s.mu.Lock()
	p := s.filling
	s.mu.Unlock()
	if p != nil && len(p.records) > 0 {
		if err := s.send(ctx, p); err != nil {
			return err
		}
	}
	s.mu.Lock()
	sending := slices.Clone(s.sending)
	s.mu.Unlock()
	var failed error
	for _, p := range sending {
		select {
		case <-p.done:
			if p.err != nil {
				failed = p.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return failed
}
