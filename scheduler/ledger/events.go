package ledger

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// followerRoom is how many events a follower may be behind before it is dropped.
const followerRoom = 256

// KindDropped marks the last event that a follower gets when it was too slow. It has no ID.
const KindDropped = "dropped"

// events is the tail of what happened. Its lock is held over the append to the file, so that lines stand in the order
// of their IDs.
type events struct {
	mu        sync.Mutex
	keep      int
	tail      []*apiv1.Event
	last      uint64
	size      int64 // of the file
	torn      bool  // its last line may lack an end
	lost      uint64
	followers map[chan *apiv1.Event]struct{}
}

// AppendEvent gives an event its ID, the term and, where it has none, the time, shows it to followers and writes it
// down. Events are best effort: one that cannot be written is counted, not reported. The event must not be changed
// afterwards.
func (l *Ledger) AppendEvent(e *apiv1.Event) {
	e = proto.CloneOf(e)
	e.Term = l.Term()
	if e.At == nil {
		e.At = timestamppb.New(l.o.Now())
	}
	ev := &l.events
	ev.mu.Lock()
	defer ev.mu.Unlock()
	ev.last++
	e.Id = ev.last
	ev.tail = append(ev.tail, e)
	if over := len(ev.tail) - ev.keep; over > 0 {
		ev.tail = slices.Delete(ev.tail, 0, over)
	}
	for ch := range ev.followers {
		ev.deliver(ch, e)
	}
	if err := l.writeEvent(e); err != nil {
		ev.lost++
		if ev.lost == 1 {
			l.log.Warn().Err(err).Msg("events are not written to disk")
		}
	}
}

// deliver never waits. The channel has room for one event more than a follower may be behind.
func (ev *events) deliver(ch chan *apiv1.Event, e *apiv1.Event) {
	if len(ch) < followerRoom {
		ch <- e
		return
	}
	ch <- &apiv1.Event{At: e.At, Kind: KindDropped, Message: "too slow: events are missing from here on; ask again"}
	close(ch)
	delete(ev.followers, ch)
}

// EventsLost is how many events could not be written since the ledger was opened.
func (l *Ledger) EventsLost() uint64 {
	l.events.mu.Lock()
	defer l.events.mu.Unlock()
	return l.events.lost
}

// Events returns the latest events, oldest first: at most tail, or all that are kept where tail is 0. They are read
// only.
func (l *Ledger) Events(tail int) []*apiv1.Event {
	l.events.mu.Lock()
	defer l.events.mu.Unlock()
	return l.events.latest(tail)
}

func (ev *events) latest(tail int) []*apiv1.Event {
	if tail <= 0 || tail > len(ev.tail) {
		tail = len(ev.tail)
	}
	return slices.Clone(ev.tail[len(ev.tail)-tail:])
}

// Subscribe returns the latest events as Events does and a channel with all that come after them, with no gap between.
// The channel is closed when ctx ends, or, after an event of KindDropped, when the reader was too slow.
func (l *Ledger) Subscribe(ctx context.Context, tail int) (past []*apiv1.Event, next <-chan *apiv1.Event) {
	ev := &l.events
	ch := make(chan *apiv1.Event, followerRoom+1)
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if ev.followers == nil {
		ev.followers = map[chan *apiv1.Event]struct{}{}
	}
	ev.followers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		ev.mu.Lock()
		defer ev.mu.Unlock()
		if _, ok := ev.followers[ch]; ok {
			delete(ev.followers, ch)
			close(ch)
		}
	})
	return ev.latest(tail), ch
}

// writeEvent appends a line. Lines are not synced: a crash of the machine may cost the last ones.
func (l *Ledger) writeEvent(e *apiv1.Event) error {
	if _, err := l.held(); err != nil {
		return err
	}
	line, err := protojson.Marshal(e)
	if err != nil {
		return err
	}
	ev := &l.events
	name := filepath.Join(l.dir, eventsFile)
	if ev.size >= l.o.EventFileBytes {
		if err := l.o.FS.Rename(name, filepath.Join(l.dir, oldEventsFile)); err != nil {
			return err
		}
		ev.size, ev.torn = 0, false
	}
	f, err := l.o.FS.Append(name)
	if err != nil {
		return err
	}
	if ev.torn {
		line = append([]byte("\n"), line...)
	}
	n, err := f.Write(append(line, '\n'))
	ev.size += int64(n)
	ev.torn = err != nil
	return errors.Join(err, f.Close())
}

// loadEvents reads the kept events. Lines that cannot be read are skipped.
func (l *Ledger) loadEvents() {
	ev := &l.events
	ev.mu.Lock()
	defer ev.mu.Unlock()
	ev.tail, ev.size, ev.torn = nil, 0, false
	for _, file := range []string{oldEventsFile, eventsFile} {
		data, err := l.o.FS.Read(filepath.Join(l.dir, file), 16*l.o.EventFileBytes)
		if errors.Is(err, fs.ErrNotExist) {
			ev.size, ev.torn = 0, false
			continue
		}
		if err != nil {
			ev.size = l.o.EventFileBytes // too long, or worse: begin a new one
			continue
		}
		ev.size, ev.torn = int64(len(data)), !bytes.HasSuffix(data, []byte("\n"))
		for line := range bytes.Lines(data) {
			e := &apiv1.Event{}
			if len(line) > 1 && (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(line, e) == nil {
				ev.tail = append(ev.tail, e)
				ev.last = max(ev.last, e.Id)
			}
		}
	}
	if over := len(ev.tail) - ev.keep; over > 0 {
		ev.tail = slices.Delete(ev.tail, 0, over)
	}
}
