package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/agent/engine/kvevents"
	"github.com/penstock/penstock/agent/engine/sim"
	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/route"
)

const kvSeed = 42

// informed is a gateway before simulated engines whose KV events reach a board, as by agents.
type informed struct {
	*testGateway
	board *blocks.Board
	cut   []context.CancelFunc // ends the feed of an engine
}

func inform(t *testing.T, n int, form sim.EventsForm, change ...func(*sim.Options)) *informed {
	t.Helper()
	dir, err := os.MkdirTemp("", "kv") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	endpoint := func(i int) string { return "ipc://" + filepath.Join(dir, fmt.Sprint("e", i)) }
	made := 0
	events := func(o *sim.Options) {
		o.KVEvents.Enable, o.KVEvents.Publisher, o.KVEvents.Endpoint, o.KVEvents.ReplayEndpoint = true, "zmq", endpoint(made), endpoint(made)+"r"
		o.KVEventsForm = form
		made++
	}
	g, _ := simulated(t, n, new(atomic.Int64), append(change, events)...)
	g.member(1).inflight.Add(-1000)
	w := &informed{testGateway: g, board: blocks.NewBoard(index.Limit{})}
	g.opts.Holdings, g.opts.BlockSeed, g.opts.Limits.Tokenize = w.board, func() uint64 { return kvSeed }, time.Minute
	for i := range n {
		w.cut = append(w.cut, w.follow(i, kvevents.Source{Endpoint: endpoint(i), Replay: endpoint(i) + "r"}))
	}
	return w
}

// follow brings one engine's events to the board until the function that it returns is called.
func (w *informed) follow(i int, s kvevents.Source) context.CancelFunc {
	from, seq := blocks.Source{Launch: fmt.Sprint("launch-", i)}, uint64(1)
	w.board.Apply(from, "run", &apiv1.ReportRequest{Seq: seq, Body: &apiv1.ReportRequest_Full{Full: &apiv1.RunState{}}})
	out := func(changes []kvevents.Change) {
		seq++
		m := &apiv1.ReportRequest{Seq: seq, Body: &apiv1.ReportRequest_Delta{Delta: &apiv1.RunState{}}}
		for _, c := range changes {
			kind := map[kvevents.Kind]apiv1.BlockEvent_Kind{
				kvevents.BlocksStored: apiv1.BlockEvent_KIND_STORED, kvevents.BlocksRemoved: apiv1.BlockEvent_KIND_REMOVED,
				kvevents.TiersCleared: apiv1.BlockEvent_KIND_CLEARED,
			}[c.Kind]
			e := &apiv1.BlockEvent{Kind: kind, Blocks: c.Blocks}
			if c.Kind != kvevents.TiersCleared {
				e.Tier = c.Tier.String()
			}
			m.Blocks = append(m.Blocks, e)
		}
		w.board.Apply(from, "run", m)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	feed := kvevents.NewFeed(s, kvevents.NewBook(index.Identity{Seed: kvSeed, Namespace: "d"}, 0), out, zerolog.Nop())
	following.Go(func() { _ = feed.Run(ctx) })
	stop := func() {
		cancel()
		following.Wait()
	}
	w.t.Cleanup(stop)
	return stop
}

// forgetOwn has the gateway believe nothing of what it sent: what it knows then, it has from the board.
func (w *informed) forgetOwn() { w.guesses = blocks.NewGuesses(index.Limit{}) }

// awaitBlocks waits until the board knows that somebody holds all full blocks of a prompt, as a tenant's (empty: default).
func (w *informed) awaitBlocks(prompt []int, lora string) {
	w.t.Helper()
	var ids []uint32
	for _, id := range prompt {
		ids = append(ids, uint32(id))
	}
	root := index.ChainRoot(index.Identity{Seed: kvSeed, Namespace: "d", BlockTokens: 16, Salt: w.salts.text(anonymousTenant), LoRA: lora})
	names := index.AppendChain(nil, root, ids, 16)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, h := range w.board.Match(names, nil) {
			if int(h.Lead[index.GPU]) == len(names) {
				return
			}
		}
	}
	w.t.Fatalf("the board does not come to know the %d blocks of a prompt", len(names))
}

// chat asks for an answer to a conversation and returns it with its record.
func (w *informed) chat(model string, messages []sim.Message, header ...string) (answer, *apiv1.RequestRecord) {
	w.t.Helper()
	var list []string
	for _, m := range messages {
		list = append(list, fmt.Sprintf(`{"role":%q,"content":%q}`, m.Role, m.Content))
	}
	body := fmt.Sprintf(`{"model":%q,"messages":[%s],"temperature":0,"max_tokens":24,"stream":true}`, model, strings.Join(list, ","))
	a := parseStream(w.t, w.post(pathChat, body, header...).Body.String())
	return a, w.lastRecord()
}

func long(what string) string {
	return what + " " + strings.Repeat("Where does the water of this river come from? ", 40)
}

// TestChoosesByWhatCachesHold: conversations go where the engines' own events say that their KV is, in either form of events, and as
// many tokens are found there as were expected: the names that the gateway makes are the engine's.
func TestChoosesByWhatCachesHold(t *testing.T) {
	t.Parallel()
	for _, form := range []sim.EventsForm{sim.EventsAsMaps, sim.EventsAsArrays} {
		t.Run(string(form), func(t *testing.T) {
			t.Parallel()
			w := inform(t, 3, form)
			model := sim.FingerprintOf(simModel)
			used := map[string]bool{}
			for c := range 4 {
				messages := []sim.Message{{Role: "system", Content: "Be brief."}}
				home := ""
				for turn := range 4 {
					messages = append(messages, sim.Message{Role: "user", Content: long(fmt.Sprintf("%d, %d:", c, turn))})
					prompt := sim.ChatPrompt(messages...)
					w.forgetOwn()
					a, rec := w.chat("m", messages)
					if want := sim.Text(sim.Generate(model, prompt, 24)); a.text != want {
						t.Fatalf("got %q, want %q", a.text, want)
					}
					got := rec.Attempts[0]
					if rec.PrefixKeys != keysExact || turn > 0 && (got.Replica != home || got.ExpectedCached == 0 || got.ExpectedCached != rec.CachedTokens) {
						t.Errorf("turn %d at %s, before at %s: %d tokens expected in its cache, %d were; keys %s; %s", turn, got.Replica, home, got.ExpectedCached, rec.CachedTokens, rec.PrefixKeys, got.Reason)
					}
					home = got.Replica
					used[home] = true
					w.awaitBlocks(prompt, "")
					messages = append(messages, sim.Message{Role: "assistant", Content: a.text})
				}
			}
		})
	}
}

// TestLoRAPartsCaches: the same prompt for an adapter is another prompt.
func TestLoRAPartsCaches(t *testing.T) {
	t.Parallel()
	w := inform(t, 2, sim.EventsAsMaps, func(o *sim.Options) { o.LoRAModules = []sim.LoRAModule{{Name: "tuned", Path: "p"}} })
	w.apply(&apiv1.WatchResponse{Models: []*apiv1.Model{{Name: "tuned", Deployment: "d", Parent: "m", State: "ready"}}})
	messages := []sim.Message{{Role: "user", Content: long("a question:")}}
	prompt := sim.ChatPrompt(messages...)
	w.chat("m", messages)
	w.awaitBlocks(prompt, "")
	for turn, want := range []bool{false, true} {
		w.forgetOwn()
		_, rec := w.chat("tuned", messages)
		if known := rec.Attempts[0].ExpectedCached > 0; known != want || rec.CachedTokens > 0 != want || rec.PrefixKeys != keysExact {
			t.Errorf("turn %d: %d tokens expected, %d cached", turn, rec.Attempts[0].ExpectedCached, rec.CachedTokens)
		}
		w.awaitBlocks(prompt, "tuned")
	}
}

// TestTenantsShareNothing: one tenant's prompt is not in the cache for another, nor is it thought to be; keys of one tenant share.
func TestTenantsShareNothing(t *testing.T) {
	t.Parallel()
	w := inform(t, 2, sim.EventsAsMaps)
	w.opts.RequireKey = true
	own := func(tenant string) func(*apiv1.Key) { return func(k *apiv1.Key) { k.Tenant = tenant } }
	w.apply(&apiv1.WatchResponse{Keys: []*apiv1.Key{key("aaaaaaa1", own("a")), key("aaaaaaa2", own("a")), key("bbbbbbb1", own("b"))}})
	w.member(1).inflight.Add(1000)
	messages := []sim.Message{{Role: "user", Content: long("a secret:")}}
	for _, step := range []struct {
		key    string
		cached bool
	}{{"aaaaaaa1", false}, {"bbbbbbb1", false}, {"aaaaaaa2", true}, {"bbbbbbb1", true}} {
		a, rec := w.chat("m", messages, "Authorization", "Bearer "+secret(step.key))
		if a.fault != nil || !a.done || rec.CachedTokens > 0 != step.cached || rec.Attempts[0].ExpectedCached > 0 != step.cached {
			t.Errorf("%s: %d tokens cached, %d expected, %v", step.key, rec.CachedTokens, rec.Attempts[0].ExpectedCached, a.fault)
		}
	}
}

// TestWithoutTokens: where no engine tells tokens, chunks of text do, and the record says so; where it was too slow, the tokens of
// the turn before.
func TestWithoutTokens(t *testing.T) {
	t.Parallel()
	w := inform(t, 2, sim.EventsAsMaps)
	for i := range w.engines {
		w.member(i).asking.next.Store(1 << 62)
	}
	messages := []sim.Message{{Role: "user", Content: long("one")}}
	a, first := w.chat("m", messages)
	messages = append(messages, sim.Message{Role: "assistant", Content: a.text}, sim.Message{Role: "user", Content: "And then?"})
	_, rec := w.chat("m", messages)
	if got := rec.Attempts[0]; rec.PrefixKeys != keysText || got.Replica != first.Attempts[0].Replica || got.ExpectedCached == 0 {
		t.Errorf("%s: %v", rec.PrefixKeys, got)
	}
	for i := range w.engines {
		w.member(i).asking.next.Store(0)
	}
	_, rec = w.chat("m", messages)
	for i := range w.engines {
		w.member(i).asking.next.Store(1 << 62)
	}
	messages = append(messages, sim.Message{Role: "assistant", Content: "Yes."}, sim.Message{Role: "user", Content: "And now?"})
	_, last := w.chat("m", messages)
	if rec.PrefixKeys != keysExact || last.PrefixKeys != keysConversation || last.Attempts[0].ExpectedCached == 0 {
		t.Errorf("%s, then %s with %d tokens expected", rec.PrefixKeys, last.PrefixKeys, last.Attempts[0].ExpectedCached)
	}
}

// TestFeedIsCut: without its events an engine's cache is guessed by what was sent there, and nothing fails; when the feed comes back
// it is known again.
func TestFeedIsCut(t *testing.T) {
	t.Parallel()
	w := inform(t, 2, sim.EventsAsArrays)
	for i := range w.cut {
		w.cut[i]()
	}
	messages := []sim.Message{{Role: "user", Content: long("one")}}
	a, first := w.chat("m", messages)
	messages = append(messages, sim.Message{Role: "assistant", Content: a.text}, sim.Message{Role: "user", Content: "And then?"})
	_, rec := w.chat("m", messages)
	if got := rec.Attempts[0]; got.Replica != first.Attempts[0].Replica || got.ExpectedCached == 0 || rec.CachedTokens == 0 {
		t.Errorf("first at %s, then %v", first.Attempts[0].Replica, got)
	}
	w.forgetOwn()
	w.board.Keep(func(string) bool { return false }) // and the controller has forgotten everything
	_, rec = w.chat("m", messages)
	if rec.Status != 200 || rec.Attempts[0].ExpectedCached != 0 {
		t.Errorf("nothing is known: %v", rec)
	}
}

// TestModes: for comparison replicas can be chosen by turns, by load or by Dynamo's blocks, whatever caches hold.
func TestModes(t *testing.T) {
	t.Parallel()
	for mode, want := range map[route.Mode]int{route.RoundRobin: 3, route.LeastLoaded: 1, route.DynamoCost: 1, route.ByCost: 1} {
		w := inform(t, 3, sim.EventsAsMaps)
		w.opts.Route = mode
		w.member(0).inflight.Add(5)
		w.member(0).tokens.Add(50_000)
		w.member(2).inflight.Add(9)
		w.member(2).tokens.Add(90_000)
		homes := map[string]bool{}
		for range 3 {
			_, rec := w.chat("m", []sim.Message{{Role: "user", Content: long("the same:")}})
			homes[rec.Attempts[0].Replica] = true
		}
		if len(homes) != want || want == 1 && !homes["d/mixed/1"] {
			t.Errorf("%q: %v", mode, homes)
		}
	}
}

// TestExplain: who asks for it gets the choice in a header, with parts and runners-up, and no launch in it; others don't.
func TestExplain(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, 2, nil)
	for _, body := range []string{plain, strings.Replace(plain, `"model"`, `"stream":true,"model"`, 1)} {
		if h := g.post(pathCompletions, body).Header().Get(headerRoute); h != "" {
			t.Errorf("unasked: %s", h)
		}
		h := g.post(pathCompletions, body, headerExplain, "1").Header().Get(headerRoute)
		var got []explanation
		if err := json.Unmarshal([]byte(h), &got); err != nil || len(got) != 1 || got[0].Parts["prefill"] <= 0 || len(got[0].RunnersUp) != 1 ||
			got[0].Keys != keysText || strings.Contains(h, "launch") {
			t.Errorf("%s: %v", h, err)
		}
	}
}

// TestSlowReplica: one that leaves its requests without a token gets no more, although it has the prompt; it comes back with one.
func TestSlowReplica(t *testing.T) {
	t.Parallel()
	var late atomic.Int64
	g := newTestGateway(t, 2, func(o *Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	})
	body := strings.Replace(plain, `"model"`, `"stream":true,"model"`, 1)
	g.member(1).inflight.Add(100)
	g.post(pathCompletions, body)
	if rec := g.lastRecord(); rec.Attempts[0].Replica != "d/mixed/0" || rec.Attempts[0].FirstTokenMs == nil {
		t.Fatalf("%v", rec)
	}
	g.member(0).begins(g.now()) // a request that gets no token
	late.Store(int64(10 * time.Second))
	g.post(pathCompletions, body)
	rec := g.lastRecord()
	if rec.Attempts[0].Replica != "d/mixed/1" {
		t.Errorf("%v", rec)
	}
	late.Store(int64(time.Minute))
	g.post(pathCompletions, body)
	if g.lastRecord(); g.member(0).routable.Load() {
		t.Error("it was not taken out")
	}
	g.running() // probes
	for deadline := time.Now().Add(time.Minute); !g.member(0).routable.Load() && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	before := len(g.engines[0].seen())
	g.post(pathCompletions, body)
	if len(g.engines[0].seen()) == before {
		t.Error("after a probe it is not chosen")
	}
}

// TestWrongCapacity: whatever an engine says of its size, requests go out and nothing is kept without bounds.
func TestWrongCapacity(t *testing.T) {
	t.Parallel()
	w := inform(t, 2, sim.EventsAsMaps)
	for _, kv := range []*apiv1.KVState{
		{},
		{CapacityTokens: new(uint64(1<<63 - 1)), BlockTokens: new(uint32(0))},
		{CapacityTokens: new(uint64(1)), BlockTokens: new(uint32(1 << 31)), Usage: new(-7.0)},
		{CapacityTokens: new(uint64(17)), BlockTokens: new(uint32(3)), Usage: new(99.0)},
	} {
		for i := range w.engines {
			r := &apiv1.Replica{
				Launch: fmt.Sprint("launch-", i), Run: "run", Epoch: uint64(i + 1), Deployment: "d", Role: "mixed", Index: uint32(i), EngineKind: "vllm",
				Address: w.engines[i].Listener.Addr().String(), Ready: true, Kv: kv, Load: &apiv1.EngineLoad{At: timestamppb.Now(), Running: new(uint32(1 << 31))},
			}
			w.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{r}})
		}
		for range 3 {
			a, rec := w.chat("m", []sim.Message{{Role: "user", Content: long("the same:")}})
			if !a.done || rec.Attempts[0].ExpectedCached > rec.PromptTokens {
				t.Errorf("%v: %v", kv, rec)
			}
		}
	}
}
