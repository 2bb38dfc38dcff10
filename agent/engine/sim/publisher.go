package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/rs/zerolog"
)

// endOfReplay is the sequence of the frame that ends a replay: -1.
const endOfReplay = ^uint64(0)

// publishQueue is how many batches may wait for the publisher before batches are dropped, which subscribers see as a gap.
const publishQueue = 4096

// eventBatch is what one step changed.
type eventBatch struct {
	seq    uint64
	at     time.Time
	events []kvEvent
}

// publisher sends KV events: a PUB socket with frames [topic, sequence, payload], and a ROUTER that repeats the last
// batches. One goroutine serves both, as in vLLM.
type publisher struct {
	cfg    KVEventsConfig
	form   EventsForm
	log    zerolog.Logger
	queue  chan eventBatch
	seq    uint64 // of the next batch; the scheduler's
	lost   atomic.Uint64
	recent batchRing
}

func newPublisher(cfg KVEventsConfig, form EventsForm, log zerolog.Logger) *publisher {
	return &publisher{cfg: cfg, form: form, log: log, queue: make(chan eventBatch, publishQueue), recent: newBatchRing(cfg.BufferSteps)}
}

// publish hands a batch over and never blocks. It takes events over. Only the scheduler's goroutine calls it.
func (p *publisher) publish(at time.Time, events []kvEvent) {
	b := eventBatch{seq: p.seq, at: at, events: events}
	p.seq++
	select {
	case p.queue <- b:
	default:
		p.lost.Add(1)
	}
}

// eventSockets are the publisher's open sockets.
type eventSockets struct {
	pub    zmq4.Socket
	router zmq4.Socket // nil without a replay endpoint
	dials  sync.WaitGroup
}

// open binds the sockets, or begins to connect them. They close when ctx ends or by close.
func (p *publisher) open(ctx context.Context) (*eventSockets, error) {
	options := []zmq4.Option{zmq4.WithLogger(log.New(io.Discard, "", 0)), zmq4.WithDialerMaxRetries(-1)}
	s := &eventSockets{pub: zmq4.NewPub(ctx, options...)}
	if err := s.pub.SetOption(zmq4.OptionHWM, p.cfg.HWM); err != nil {
		return nil, fmt.Errorf("set high-water mark of KV events to %d: %w", p.cfg.HWM, err)
	}
	if err := s.attach(s.pub, p.cfg.Endpoint); err != nil {
		s.close()
		return nil, fmt.Errorf("open KV event endpoint %s: %w", p.cfg.Endpoint, err)
	}
	if p.cfg.ReplayEndpoint != "" {
		s.router = zmq4.NewRouter(ctx, options...)
		if err := s.attach(s.router, p.cfg.ReplayEndpoint); err != nil {
			s.close()
			return nil, fmt.Errorf("open KV event replay endpoint %s: %w", p.cfg.ReplayEndpoint, err)
		}
	}
	return s, nil
}

func (s *eventSockets) close() {
	_ = s.pub.Close()
	if s.router != nil {
		_ = s.router.Close()
	}
	s.dials.Wait()
}

// attach binds or connects, by vLLM's rule: wildcards, ipc and inproc are bound, the rest is dialled until it answers,
// without waiting for it. A connection that breaks is not dialled again, since the library then dials its own listeners.
func (s *eventSockets) attach(socket zmq4.Socket, endpoint string) error {
	path, ipc := strings.CutPrefix(endpoint, "ipc://")
	if !ipc && !strings.Contains(endpoint, "*") && !strings.Contains(endpoint, "::") && !strings.HasPrefix(endpoint, "inproc://") {
		s.dials.Go(func() { _ = socket.Dial(endpoint) })
		return nil
	}
	if ipc {
		if err := removeStaleSocket(path); err != nil {
			return err
		}
	}
	if err := socket.Listen(endpoint); err != nil {
		return err
	}
	if ipc {
		return os.Chmod(path, 0o600)
	}
	return nil
}

// removeStaleSocket removes a socket file that an earlier process left. Anything else at the path is an error.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket; choose another path", path)
	}
	return os.Remove(path)
}

// run publishes until ctx ends. It closes the sockets.
func (p *publisher) run(ctx context.Context, s *eventSockets) error {
	replays := make(chan zmq4.Msg)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		receiveReplays(ctx, s.router, replays)
	}()
	defer func() {
		s.close()
		<-ended
		if n := p.lost.Load(); n > 0 {
			p.log.Warn().Uint64("batches", n).Msg("KV event batches were dropped, subscribers saw gaps")
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-p.queue:
			if err := p.send(s.pub, b); err != nil {
				return err
			}
		case m := <-replays:
			p.replay(s.router, m)
		}
	}
}

func receiveReplays(ctx context.Context, router zmq4.Socket, out chan<- zmq4.Msg) {
	if router == nil {
		return
	}
	for {
		m, err := router.Recv()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		select {
		case out <- m:
		case <-ctx.Done():
			return
		}
	}
}

func (p *publisher) send(pub zmq4.Socket, b eventBatch) error {
	payload, err := encodeEvents(p.form, b.at, b.events)
	if err != nil {
		return fmt.Errorf("encode KV events: %w", err)
	}
	p.recent.add(b.seq, payload)
	if err := pub.Send(zmq4.NewMsgFrom([]byte(p.cfg.Topic), seqFrame(b.seq), payload)); err != nil {
		return fmt.Errorf("publish KV events on %s: %w", p.cfg.Endpoint, err)
	}
	return nil
}

// replay answers [client, empty, first sequence] with [client, empty, sequence, payload] for each batch still known and an
// end. What is malformed gets no answer; a client that went away is no error.
func (p *publisher) replay(router zmq4.Socket, m zmq4.Msg) {
	if len(m.Frames) != 3 || len(m.Frames[1]) != 0 || len(m.Frames[2]) != 8 {
		return
	}
	client, from := m.Frames[0], binary.BigEndian.Uint64(m.Frames[2])
	for seq, payload := range p.recent.from(from) {
		if router.Send(zmq4.NewMsgFrom(client, nil, seqFrame(seq), payload)) != nil {
			return
		}
	}
	_ = router.Send(zmq4.NewMsgFrom(client, nil, seqFrame(endOfReplay), nil))
}

func seqFrame(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
