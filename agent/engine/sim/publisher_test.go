package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/vmihailenco/msgpack/v5"
)

// eventsAt are options that publish on two endpoints.
func eventsAt(pub, replay string, form EventsForm) func(*Options) {
	return func(o *Options) {
		o.KVEvents.Enable, o.KVEvents.Publisher, o.KVEvents.Topic = true, "zmq", "kv@test"
		o.KVEvents.Endpoint, o.KVEvents.ReplayEndpoint, o.KVEventsForm = pub, replay, form
	}
}

// received is one decoded batch.
type received struct {
	seq    uint64
	events []any
}

// subscribe connects a SUB socket and waits until its subscription is known to the engine.
func subscribe(t *testing.T, r *rig, endpoint string) zmq4.Socket {
	t.Helper()
	sub := zmq4.NewSub(t.Context())
	t.Cleanup(func() { _ = sub.Close() })
	if err := sub.Dial(endpoint); err != nil {
		t.Fatal(err)
	}
	if err := sub.SetOption(zmq4.OptionSubscribe, ""); err != nil {
		t.Fatal(err)
	}
	return sub
}

func receive(t *testing.T, s zmq4.Socket) zmq4.Msg {
	t.Helper()
	type result struct {
		m   zmq4.Msg
		err error
	}
	got := make(chan result, 1)
	go func() {
		m, err := s.Recv()
		got <- result{m, err}
	}()
	select {
	case g := <-got:
		if g.err != nil {
			t.Fatal(g.err)
		}
		return g.m
	case <-time.After(patience):
		t.Fatal("no message")
		panic("unreachable")
	}
}

func decodeBatch(t *testing.T, seq, payload []byte) received {
	t.Helper()
	var outer []any
	if err := msgpack.Unmarshal(payload, &outer); err != nil || len(outer) != 3 {
		t.Fatalf("payload %x: %v", payload, err)
	}
	return received{binary.BigEndian.Uint64(seq), outer[1].([]any)}
}

// storedHashes are the hashes of the blocks that a stored event names.
func storedHashes(event any) []any {
	switch e := event.(type) {
	case map[string]any:
		if e["type"] == "BlockStored" {
			return e["block_hashes"].([]any)
		}
	case []any:
		if e[0] == "BlockStored" {
			return e[1].([]any)
		}
	}
	return nil
}

func TestEventsReachSubscribersAndAreReplayed(t *testing.T) {
	t.Parallel()
	for _, form := range []EventsForm{EventsAsMaps, EventsAsArrays} {
		for _, transport := range []string{"ipc", "tcp"} {
			t.Run(string(form)+" "+transport, func(t *testing.T) {
				t.Parallel()
				testEvents(t, form, transport)
			})
		}
	}
}

func testEvents(t *testing.T, form EventsForm, transport string) {
	dir := shortDir(t)
	pub, replay := "ipc://"+filepath.Join(dir, "pub"), "ipc://"+filepath.Join(dir, "replay")
	bindPub, bindReplay := pub, replay
	if transport == "tcp" {
		a, b := freePort(t), freePort(t)
		pub, replay = fmt.Sprintf("tcp://127.0.0.1:%d", a), fmt.Sprintf("tcp://127.0.0.1:%d", b)
		bindPub, bindReplay = fmt.Sprintf("tcp://*:%d", a), fmt.Sprintf("tcp://*:%d", b)
	}
	r := start(t, fast(eventsAt(bindPub, bindReplay, form)))
	sub := subscribe(t, r, pub)
	live := make(chan received, 1000)
	go func() {
		for {
			m, err := sub.Recv()
			if err != nil {
				return
			}
			if string(m.Frames[0]) == "kv@test" {
				live <- decodeBatch(t, m.Frames[1], m.Frames[2])
			}
		}
	}()
	// Subscribing takes a moment that cannot be seen: ask until something arrives.
	var first received
	for i := 0; ; i++ {
		r.generate("/v1/completions", with(greedy, fields{"prompt": fmt.Sprint(i, strings.Repeat(" and so on", 20)), "max_tokens": 1}))
		select {
		case first = <-live:
		case <-time.After(10 * time.Millisecond):
			continue
		}
		break
	}
	if len(storedHashes(first.events[0])) == 0 {
		t.Errorf("the first event stores nothing: %v", first.events)
	}
	// Everything that was ever sent can be had again, and fits what is live.
	all := replayFrom(t, replay, 0)
	for i, b := range all {
		if b.seq != uint64(i) {
			t.Fatalf("batch %d has sequence %d", i, b.seq)
		}
	}
	if got := all[first.seq]; fmt.Sprint(got.events) != fmt.Sprint(first.events) {
		t.Errorf("live %v, replayed %v", first.events, got.events)
	}
	if got := replayFrom(t, replay, first.seq); len(got) == 0 || got[0].seq != first.seq {
		t.Errorf("replay from %d begins elsewhere", first.seq)
	}
}

// replayFrom asks for batches with a DEALER until the end mark.
func replayFrom(t *testing.T, endpoint string, from uint64) (all []received) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := zmq4.NewDealer(ctx)
	defer d.Close()
	if err := d.Dial(endpoint); err != nil {
		t.Fatal(err)
	}
	if err := d.Send(zmq4.NewMsgFrom(nil, seqFrame(from))); err != nil {
		t.Fatal(err)
	}
	for {
		m := receive(t, d)
		if len(m.Frames) != 3 || len(m.Frames[0]) != 0 {
			t.Fatalf("frames %q", m.Frames)
		}
		if binary.BigEndian.Uint64(m.Frames[1]) == endOfReplay {
			return all
		}
		all = append(all, decodeBatch(t, m.Frames[1], m.Frames[2]))
	}
}

// A subscriber may bind and let engines dial in, also when it starts later.
func TestEventsDialOut(t *testing.T) {
	t.Parallel()
	endpoint := fmt.Sprintf("tcp://127.0.0.1:%d", freePort(t))
	r := start(t, fast(eventsAt(endpoint, "", EventsAsMaps)))
	sub := zmq4.NewSub(t.Context())
	t.Cleanup(func() { _ = sub.Close() })
	if err := sub.Listen(endpoint); err != nil {
		t.Fatal(err)
	}
	if err := sub.SetOption(zmq4.OptionSubscribe, ""); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := sub.Recv()
		got <- err
	}()
	for i := 0; ; i++ {
		r.generate("/v1/completions", with(greedy, fields{"prompt": fmt.Sprint(i, strings.Repeat(" and so on", 20)), "max_tokens": 1}))
		select {
		case err := <-got:
			if err != nil {
				t.Error(err)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// What the events say is in the cache has to be what the pool holds.
func TestEventsMirrorThePool(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, func(o *Options) { o.NumGPUBlocks, o.MaxModelLen = 60, 900 })
		b.post(func() { b.events = &publisher{queue: make(chan eventBatch, 100_000)} })
		for i := range 30 {
			b.ask(b.words(fmt.Sprint(i%7), 100+i*10), 40)
		}
		time.Sleep(time.Hour)
		b.stop()
		counts, next := map[blockHash]int{}, uint64(0)
		for len(b.events.queue) > 0 {
			batch := <-b.events.queue
			if batch.seq != next {
				t.Errorf("sequence %d, want %d", batch.seq, next)
			}
			next++
			for _, ev := range batch.events {
				if s := ev.stored; s != nil {
					for _, h := range s.hashes {
						counts[h]++
					}
					if len(s.tokens) != len(s.hashes)*s.blockSize || len(s.extra) != len(s.hashes) {
						t.Errorf("event %+v does not fit itself", s)
					}
				}
				for _, h := range ev.removed {
					counts[h]--
				}
			}
		}
		held := map[blockHash]int{}
		for i := range b.pool.blocks {
			if bl := &b.pool.blocks[i]; bl.cached {
				held[bl.hash]++
			}
		}
		for h, n := range counts {
			if held[h] != n {
				t.Errorf("block %x: events say %d, the pool holds %d", h[:4], n, held[h])
			}
		}
		if len(held) == 0 || next < 30 {
			t.Errorf("%d blocks after %d batches: the test does not test", len(held), next)
		}
	})
}

func TestEventEndpointsThatCannotBe(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	for _, endpoint := range []string{"ipc://" + dir, "ipc://" + filepath.Join(dir, "no", "such", "folder"), "tcp://*:99999"} {
		r := launch(t, fast(eventsAt(endpoint, "", EventsAsMaps)))
		if err := r.exit(); err == nil || !strings.Contains(err.Error(), endpoint) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestReplayIgnoresNonsense(t *testing.T) {
	t.Parallel()
	p := newPublisher(KVEventsConfig{BufferSteps: 1}, EventsAsMaps, nothing)
	for _, frames := range [][][]byte{{}, {{1}}, {{1}, nil}, {{1}, {2}, make([]byte, 8)}, {{1}, nil, make([]byte, 7)}} {
		p.replay(nil, zmq4.NewMsgFrom(frames...)) // would fail on the socket if it answered
	}
}
