package kvevents

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore/index"
)

// TestMain: the library's publishers, of which only tests have any, leave a goroutine behind.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run"))
}

const patience = 30 * time.Second

// publisher is an engine's side of the protocol, of which a test decides each step.
type publisher struct {
	t           *testing.T
	pub, router zmq4.Socket
	cancel      context.CancelFunc
	answering   sync.WaitGroup
	mu          sync.Mutex
	batches     map[uint64][]byte // that are repeated on demand
	asked       int
}

func newPublisher(t *testing.T, s Source) *publisher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &publisher{t: t, cancel: cancel, pub: zmq4.NewPub(ctx, quiet()...), router: zmq4.NewRouter(ctx, quiet()...), batches: map[uint64][]byte{}}
	for endpoint, socket := range map[string]zmq4.Socket{s.Endpoint: p.pub, s.Replay: p.router} {
		_ = os.Remove(endpoint[len("ipc://"):])
		if err := socket.Listen(endpoint); err != nil {
			t.Fatal(err)
		}
	}
	p.answering.Go(p.answer)
	t.Cleanup(p.end)
	return p
}

func (p *publisher) end() {
	p.cancel()
	_ = p.pub.Close()
	_ = p.router.Close()
	p.answering.Wait()
}

func (p *publisher) answer() {
	for {
		m, err := p.router.Recv()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.asked++
		from := binary.BigEndian.Uint64(m.Frames[2])
		for seq := from; seq < from+1000; seq++ {
			if b, ok := p.batches[seq]; ok {
				_ = p.router.Send(zmq4.NewMsgFrom(m.Frames[0], nil, binary.BigEndian.AppendUint64(nil, seq), b))
			}
		}
		p.mu.Unlock()
		_ = p.router.Send(zmq4.NewMsgFrom(m.Frames[0], nil, binary.BigEndian.AppendUint64(nil, endOfReplay), nil))
	}
}

func stored(t *testing.T, hash uint64) []byte {
	return pack(t, []any{1.0, []any{[]any{"BlockStored", []uint64{hash}, nil, []uint64{hash}, 1}}})
}

// keep makes a batch one that is repeated.
func (p *publisher) keep(seq, hash uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batches[seq] = stored(p.t, hash)
}

func (p *publisher) send(seq, hash uint64) {
	_ = p.pub.Send(zmq4.NewMsgFrom([]byte("kv"), binary.BigEndian.AppendUint64(nil, seq), stored(p.t, hash)))
}

// watcher runs a feed and keeps what it says.
type watcher struct {
	t     *testing.T
	mu    sync.Mutex
	h     holdings
	reset int
}

func watch(t *testing.T, s Source) *watcher {
	t.Helper()
	w := &watcher{t: t, h: holdings{}}
	f := NewFeed(s, NewBook(index.Identity{}, 0), w.take, zerolog.Nop())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

func (w *watcher) take(changes []Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range changes {
		if c.Kind == TiersCleared {
			w.reset++
		}
	}
	w.h.apply(panics{}, changes)
}

type panics struct{}

func (panics) Fatalf(string, ...any) { panic("a change changes nothing") }

func ids(hashes ...uint64) map[uint64]bool {
	out := map[uint64]bool{}
	root := index.ChainRoot(index.Identity{BlockTokens: 1})
	for _, h := range hashes {
		out[index.ChainBlock(root, uint64(root), []uint32{uint32(h)}, "")] = true
	}
	return out
}

// await waits until exactly these blocks are held, doing something again and again meanwhile.
func (w *watcher) await(do func(), hashes ...uint64) {
	w.t.Helper()
	want := ids(hashes...)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		do()
		w.mu.Lock()
		have := w.h[index.GPU]
		same := len(have) == len(want)
		for id := range want {
			same = same && have[id]
		}
		w.mu.Unlock()
		if same {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Fatalf("%d blocks are held, not the %d of %v", len(w.h[index.GPU]), len(want), hashes)
}

func source(t *testing.T) Source {
	t.Helper()
	dir, err := os.MkdirTemp("", "kv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Source{Endpoint: "ipc://" + filepath.Join(dir, "e"), Replay: "ipc://" + filepath.Join(dir, "r")}
}

func nothing() {}

// TestFeed: what was there before comes by replay; a gap is filled; what can't be filled empties the book; the same engine after
// a broken connection goes on; another engine begins anew.
func TestFeed(t *testing.T) {
	t.Parallel()
	s := source(t)
	p := newPublisher(t, s)
	p.keep(0, 10)
	p.keep(1, 11)
	w := watch(t, s)
	w.await(nothing, 10, 11)

	w.await(func() { p.send(2, 12) }, 10, 11, 12) // again and again until the subscription stands
	for seq := uint64(0); seq < 6; seq++ {
		p.keep(seq, 10+seq)
	}
	p.send(6, 16) // 3 to 5 never came
	w.await(nothing, 10, 11, 12, 13, 14, 15, 16)

	p.send(9, 19) // 7 and 8 are lost for good
	w.await(nothing, 19)

	p.end()
	q := newPublisher(t, s)
	q.keep(9, 19)
	q.keep(10, 20)
	w.await(nothing, 19, 20)
	q.end()

	r := newPublisher(t, s)
	r.keep(0, 30)
	w.await(nothing, 30)
}

// TestFeedStartsLate: the engine's socket comes after the feed.
func TestFeedStartsLate(t *testing.T) {
	t.Parallel()
	s := source(t)
	w := watch(t, s)
	p := newPublisher(t, s)
	p.keep(0, 10)
	w.await(nothing, 10)
}

// TestFeedWithoutReplay begins with what comes, and forgets all at a gap.
func TestFeedWithoutReplay(t *testing.T) {
	t.Parallel()
	s := source(t)
	p := newPublisher(t, s)
	w := watch(t, Source{Endpoint: s.Endpoint})
	seq := uint64(0)
	w.await(func() {
		w.mu.Lock()
		have := len(w.h[index.GPU])
		w.mu.Unlock()
		if have == 0 {
			seq = 5
			p.send(seq, 15)
		}
	}, 15)
	w.await(func() { p.send(9, 19); p.send(10, 20) }, 19, 20)
}
