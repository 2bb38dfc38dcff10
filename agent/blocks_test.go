package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/agent/engine"
	"github.com/penstock/penstock/agent/engine/kvevents"
	spec "github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// TestHeldBlocks: whoever takes in all messages since any full state knows exactly what is held.
func TestHeldBlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, told := &heldBlocks{}, map[uint64]index.TierSet{}
		hear := func(events []*apiv1.BlockEvent) {
			for _, e := range events {
				tiers := index.AllTiers
				for tier := range index.Tier(index.Tiers) {
					if e.Tier == tier.String() {
						tiers = index.Only(tier)
					}
				}
				switch e.Kind {
				case apiv1.BlockEvent_KIND_CLEARED:
					for id := range told {
						told[id] &^= tiers
					}
				case apiv1.BlockEvent_KIND_STORED:
					for _, id := range e.Blocks {
						told[id] |= tiers
					}
				case apiv1.BlockEvent_KIND_REMOVED:
					for _, id := range e.Blocks {
						told[id] &^= tiers
					}
				}
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			tier := index.Tier(rapid.IntRange(0, 3).Draw(t, "tier"))
			ids := rapid.SliceOfN(rapid.Uint64Range(1, 20), 1, 6).Draw(t, "ids")
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1, 2:
				b.take([]kvevents.Change{{Kind: kvevents.BlocksStored, Tier: tier, Blocks: ids}})
			case 3, 4:
				b.take([]kvevents.Change{{Kind: kvevents.BlocksRemoved, Tier: tier, Blocks: ids}})
			case 5:
				b.take([]kvevents.Change{{Kind: kvevents.TiersCleared, Tiers: index.TierSet(rapid.IntRange(1, 15).Draw(t, "tiers"))}})
			case 6:
				hear(b.all())
			case 7:
				hear(b.next())
			}
		}
		for b.any() {
			hear(b.next())
		}
		maps.DeleteFunc(told, func(_ uint64, tiers index.TierSet) bool { return tiers == 0 })
		if !maps.Equal(told, b.held) {
			t.Fatalf("told %v, held %v", told, b.held)
		}
	})
}

// TestBlocksWaitBounded: with nobody to tell, what waits is bounded, and all is told anew; messages stay small.
func TestBlocksWaitBounded(t *testing.T) {
	b := &heldBlocks{}
	ids := make([]uint64, 100_000)
	for i := range 4 {
		for j := range ids {
			ids[j] = uint64(i*len(ids) + j + 1)
		}
		b.take([]kvevents.Change{{Kind: kvevents.BlocksStored, Blocks: ids}})
		if b.count > blocksWaiting {
			t.Fatalf("%d wait", b.count)
		}
	}
	seen := map[uint64]bool{}
	for first := true; b.any(); first = false {
		n := 0
		for _, e := range b.next() {
			if first && n == 0 && len(seen) == 0 && e.Kind != apiv1.BlockEvent_KIND_CLEARED && e.Kind != apiv1.BlockEvent_KIND_STORED {
				t.Fatalf("begins with %v", e.Kind)
			}
			n += len(e.Blocks)
			for _, id := range e.Blocks {
				seen[id] = true
			}
		}
		if n > blocksPerMessage {
			t.Fatalf("%d blocks in a message", n)
		}
	}
	if len(seen) != 4*len(ids) {
		t.Errorf("%d blocks are told of", len(seen))
	}
}

// TestBlocksOfAnEngine: what a simulated engine caches is known to the controller by the names that a gateway makes of the
// prompt's tokens, while messages are lost too; when the engine has ended, nothing is.
func TestBlocksOfAnEngine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.yaml, w.controller.blockSeed = simYAML, 77
	a := w.start(selfIsSim(t)).reach(started)
	resp, err := a.ask(clientOf(t, w.ca, asGateway), fmt.Sprintf(
		`{"model":"test-model","prompt":%q,"max_tokens":1,"temperature":0,"return_token_ids":true}`, strings.Repeat("Once upon a time ", 40)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Choices []struct {
			PromptTokenIDs []uint32 `json:"prompt_token_ids"`
		}
		PromptTokenIDs []uint32 `json:"prompt_token_ids"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	tokens := answer.PromptTokenIDs
	if len(tokens) == 0 && len(answer.Choices) > 0 {
		tokens = answer.Choices[0].PromptTokenIDs
	}
	const size = 16
	names := index.AppendChain(nil, index.ChainRoot(index.Identity{Seed: 77, Namespace: "d", BlockTokens: size}), tokens, size)
	if len(names) < 5 {
		t.Fatalf("%d blocks of %d tokens", len(names), len(tokens))
	}
	w.controller.mu.Lock()
	w.controller.lose = 3
	w.controller.mu.Unlock()
	holds := func() (n uint32) {
		for _, m := range w.controller.board.Match(names, nil) {
			n = m.Lead[index.GPU]
		}
		return n
	}
	await(t, "the prompt's blocks are known", func() bool { return int(holds()) == len(names) })
	a.cancel()
	<-a.done
	await(t, "nothing is held any more", func() bool { return holds() == 0 })
}

// TestPolledBlocks: an engine that is asked for its events, which answers nonsense in between and then loses some; one that knows
// no such call is asked once.
func TestPolledBlocks(t *testing.T) {
	t.Parallel()
	answers := make(chan string, 10)
	asked := atomic.Int32{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		if q.Method != http.MethodPost || q.URL.Path != "/kv_cache_events" {
			http.NotFound(w, q)
			return
		}
		select {
		case a, more := <-answers:
			if !more {
				http.NotFound(w, q)
				return
			}
			fmt.Fprint(w, a)
		default:
			fmt.Fprint(w, "[]")
		}
	}))
	t.Cleanup(srv.Close)
	r := &run{opts: Options{Interval: 2 * time.Millisecond}, blocks: &heldBlocks{}, adm: &admission{blockSeed: 5}, log: zerolog.Nop()}
	r.traits.Events = spec.PolledJSON
	e := &engineRun{reader: engine.New(engine.Options{Address: srv.Listener.Addr().String()})}
	t.Cleanup(e.reader.Close)
	stop := r.followBlocks(t.Context(), e)
	held := func(n int) func() bool {
		return func() bool {
			r.blocks.mu.Lock()
			defer r.blocks.mu.Unlock()
			return len(r.blocks.held) == n
		}
	}
	stored := func(id int, hashes ...int) string {
		blocks := []string{}
		for _, h := range hashes {
			blocks = append(blocks, fmt.Sprintf(`{"block_hash":%d,"tokens":[{"token_id":%d}],"cache_level":0}`, h, h))
		}
		return fmt.Sprintf(`[{"event_id":%d,"data":{"type":"stored","parent_hash":null,"blocks":[%s]}}]`, id, strings.Join(blocks, ","))
	}
	answers <- stored(0, 1, 2, 3)
	time.Sleep(10 * time.Millisecond)
	if asked.Load() != 0 {
		t.Error("an engine that does not serve yet was asked")
	}
	e.serving.Store(true)
	await(t, "three blocks", held(3))
	answers <- "nonsense"
	answers <- stored(1, 7)
	await(t, "one more", held(4))
	answers <- stored(9, 8)
	await(t, "one block after a loss", held(1))
	close(answers)
	last := asked.Load()
	await(t, "the call is refused", func() bool { return asked.Load() > last })
	stop()
	await(t, "nothing after the engine", held(0))
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
