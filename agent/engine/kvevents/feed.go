package kvevents

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/rs/zerolog"
	"github.com/zeebo/xxh3"
)

// Source is where one rank of an engine publishes.
type Source struct {
	Endpoint string // of its PUB socket
	Replay   string // of its ROUTER socket; empty = it repeats nothing
}

// Feed follows one rank of an engine and hands on what changes. What was lost is asked for again; where it can't be had, the
// book is emptied, since a block that is wrongly thought to be held costs more than one that is not known.
type Feed struct {
	source Source
	book   *Book
	out    func([]Change)
	log    zerolog.Logger

	next  uint64 // sequence of the batch that comes next
	last  uint64 // hash of the payload before it
	began bool
	stats FeedStats
}

// FeedStats count what happened to a feed.
type FeedStats struct {
	Batches  uint64
	Bad      uint64 // events that could not be understood
	Gaps     uint64 // times that batches were missing
	Repeated uint64 // batches that were had again
	Resets   uint64 // times that the book was emptied
}

const (
	retryEvery    = 500 * time.Millisecond
	replayPatient = 5 * time.Second
	endOfReplay   = ^uint64(0)
	waiting       = 1024 // batches between the socket and the book
)

// NewFeed returns a feed that hands changes to out, which must not keep them. It begins when Run is called.
func NewFeed(s Source, b *Book, out func([]Change), log zerolog.Logger) *Feed {
	return &Feed{source: s, book: b, out: out, log: log}
}

// Stats of a feed whose Run has ended, or from within out.
func (f *Feed) Stats() FeedStats { return f.stats }

// Run follows the engine until ctx ends. A connection that breaks is made again.
func (f *Feed) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := f.session(ctx)
		if ctx.Err() != nil {
			break
		}
		f.log.Debug().Err(err).Msg("KV event feed ended, connecting again")
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
	return nil
}

// message is a batch as it came.
type message struct {
	seq     uint64
	payload []byte
}

// session is the life of one connection.
func (f *Feed) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sub := zmq4.NewSub(ctx, quiet()...)
	live, ended := make(chan message, waiting), make(chan error, 1)
	if err := sub.Dial(f.source.Endpoint); err != nil {
		return errors.Join(fmt.Errorf("connect to KV events at %s: %w", f.source.Endpoint, err), sub.Close())
	}
	if err := sub.SetOption(zmq4.OptionSubscribe, ""); err != nil {
		return errors.Join(fmt.Errorf("subscribe to KV events: %w", err), sub.Close())
	}
	go func() { ended <- receive(ctx, sub, live) }()
	err := f.follow(ctx, live, ended)
	cancel()
	err = errors.Join(err, sub.Close())
	if err == nil {
		err = <-ended
	} else {
		<-ended
	}
	return err
}

func quiet() []zmq4.Option {
	return []zmq4.Option{zmq4.WithLogger(log.New(io.Discard, "", 0)), zmq4.WithDialerMaxRetries(1), zmq4.WithDialerTimeout(retryEvery)}
}

func receive(ctx context.Context, sub zmq4.Socket, live chan<- message) error {
	for {
		m, err := sub.Recv()
		if err != nil {
			return fmt.Errorf("receive KV events: %w", err)
		}
		if len(m.Frames) != 3 || len(m.Frames[1]) != 8 {
			continue // not of this protocol; what it may have stood for shows as a gap
		}
		select {
		case live <- message{binary.BigEndian.Uint64(m.Frames[1]), m.Frames[2]}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow resumes where the feed stood and takes in what comes, until the connection ends.
func (f *Feed) follow(ctx context.Context, live <-chan message, ended chan error) error {
	f.resume(ctx)
	newest, any := uint64(0), false
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			ended <- err
			return nil
		case m := <-live:
			if any && m.seq <= newest { // one engine never does that: another one has taken its place
				f.lose("the engine was started again")
				f.next = 0
			}
			newest, any = m.seq, true
			f.arrive(ctx, m)
		}
	}
}

// resume asks for what was published before this connection, and finds out whether it is the same engine as before: it must
// repeat the last batch as it was.
func (f *Feed) resume(ctx context.Context) {
	if f.began {
		again := f.replay(ctx, f.next-1)
		if len(again) > 0 && again[0].seq == f.next-1 && xxh3.Hash(again[0].payload) == f.last {
			f.takeAll(again[1:])
			return
		}
		f.lose("the connection broke and the engine is another, or does not tell")
		f.next, f.began = 0, false
	}
	f.takeAll(f.replay(ctx, 0))
}

// arrive takes in a live batch, after what is missing before it.
func (f *Feed) arrive(ctx context.Context, m message) {
	if m.seq < f.next {
		return // had by replay already
	}
	if m.seq > f.next {
		f.stats.Gaps++
		f.takeAll(f.replay(ctx, f.next))
		if m.seq > f.next {
			f.lose("batches are missing that the engine does not repeat")
		}
		if m.seq < f.next {
			return
		}
	}
	f.take(m)
}

// takeAll takes in repeated batches. A gap in them means that the rest before it is lost.
func (f *Feed) takeAll(batches []message) {
	for _, m := range batches {
		switch {
		case m.seq < f.next:
			continue
		case m.seq > f.next:
			f.lose("batches are missing that the engine no longer repeats")
		}
		f.stats.Repeated++
		f.take(m)
	}
}

func (f *Feed) take(m message) {
	f.next, f.last, f.began = m.seq+1, xxh3.Hash(m.payload), true
	f.stats.Batches++
	batch, err := Decode(m.payload)
	if err != nil {
		f.lose("a batch could not be read")
		return
	}
	f.stats.Bad += uint64(batch.Bad)
	if changes := f.book.Apply(batch); len(changes) > 0 {
		f.out(changes)
	}
}

// lose empties the book, if anything may be in it.
func (f *Feed) lose(reason string) {
	if !f.began {
		return
	}
	f.stats.Resets++
	f.log.Warn().Str("reason", reason).Msg("KV events were lost, the engine's blocks are forgotten")
	f.out(f.book.Reset())
}

// replay asks for all batches from a number on. An engine that does not answer gives none.
func (f *Feed) replay(ctx context.Context, from uint64) (batches []message) {
	if f.source.Replay == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, replayPatient)
	defer cancel()
	d := zmq4.NewDealer(ctx, quiet()...)
	defer d.Close()
	if d.Dial(f.source.Replay) != nil || d.Send(zmq4.NewMsgFrom(nil, binary.BigEndian.AppendUint64(nil, from))) != nil {
		return nil
	}
	for {
		m, err := d.Recv()
		if err != nil || len(m.Frames) != 3 || len(m.Frames[1]) != 8 {
			return batches
		}
		seq := binary.BigEndian.Uint64(m.Frames[1])
		if seq == endOfReplay {
			return batches
		}
		batches = append(batches, message{seq, m.Frames[2]})
	}
}
