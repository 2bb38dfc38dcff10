package slots

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a server with slots in a store, which may be shared with another one.
type bench struct {
	*Slots
	t      *testing.T
	server *server
}

func newStore(t *testing.T) *mem.Store {
	t.Helper()
	s := mem.New(mem.Options{Bytes: 64 << 20, Poison: true})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newBench(t *testing.T, n int, store *mem.Store) *bench {
	t.Helper()
	srv := newServer(t, n)
	s, err := Open(t.Context(), Options{
		Engine: srv, Dir: srv.dir, Store: store, Alloc: store, BlockTokens: 8, Metrics: NewMetrics(nil), Log: zerolog.Nop(),
		Space: func(tenant string) kvstore.Space { return kvstore.NewSpace(kvstore.Layout{Weights: "w"}, tenant) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Slots: s, t: t, server: srv}
	t.Cleanup(func() {
		b.settle()
		if left, _ := os.ReadDir(srv.dir); len(left) > 0 {
			t.Errorf("%d files are left in the server's folder", len(left))
		}
		if srv.wrong > 0 {
			t.Errorf("%d tokens were used with the KV of another prefix", srv.wrong)
		}
	})
	return b
}

// settle waits for the saves that are under way.
func (b *bench) settle() {
	if err := b.Settle(context.Background()); err != nil {
		b.t.Error(err)
	}
}

// ask sends a prompt and says how many tokens the server had to read.
func (b *bench) ask(tenant, prompt string) (read int) {
	b.t.Helper()
	l, body, err := b.Take(b.t.Context(), Request{Tenant: tenant, Path: "/v1/completions", Body: completion(prompt)})
	if err != nil || l == nil {
		b.t.Fatalf("no lease: %v", err)
	}
	defer l.End(true)
	return b.send(body)
}

// send passes a body to the server and says how many tokens it had to read.
func (b *bench) send(body []byte) int {
	b.t.Helper()
	req, _ := http.NewRequest(http.MethodPost, "http://x/v1/completions", bytes.NewReader(body))
	resp, _ := b.server.RoundTrip(req)
	defer resp.Body.Close()
	var out struct {
		Timings struct {
			Prompt int `json:"prompt_n"`
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		b.t.Fatal(err)
	}
	return out.Timings.Prompt
}

func text(n int, seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 0))
	var b strings.Builder
	for range n {
		b.WriteByte(byte('a' + r.IntN(26)))
	}
	return b.String()
}

// TestAnotherServerIsWarm: what one server has read, another one does not read again, but for the last block.
func TestAnotherServerIsWarm(t *testing.T) {
	store := newStore(t)
	a, b := newBench(t, 2, store), newBench(t, 3, store)
	prompt := text(200, 1)
	if n := a.ask("t", prompt); n != 200 {
		t.Fatalf("the first reads %d", n)
	}
	a.settle()
	if n := b.ask("t", prompt); n > 8 {
		t.Errorf("the other server reads %d of 200 tokens", n)
	}
	b.settle()
	if n := b.ask("t", prompt[:100]+text(100, 2)); n > 200-96 {
		t.Errorf("a prompt that shares its half: it reads %d", n)
	}
	if n := newBench(t, 1, store).ask("t", prompt+text(50, 3)); n > 50+8 {
		t.Errorf("the conversation goes on elsewhere: it reads %d", n)
	}
}

// TestTenantsAreApart: neither a slot nor the store tells one tenant what another has asked.
func TestTenantsAreApart(t *testing.T) {
	b := newBench(t, 1, newStore(t))
	prompt := text(100, 1)
	b.ask("alice", prompt)
	b.settle()
	if n := b.ask("bob", prompt); n != 100 {
		t.Errorf("bob reads %d of alice's 100 tokens", n)
	}
	b.settle()
	if n := b.ask("alice", prompt); n > 8 {
		t.Errorf("alice reads %d of her own", n)
	}
}

// store is a Source that is another server's store.
type source struct{ kvstore.Store }

func (s source) Fetch(ctx context.Context, keys []kvstore.Key, each func(int, *kvstore.Block) error) error {
	return s.GetMany(ctx, keys, each)
}

// TestFromAnotherAgent: what a prefill replica has read is taken from its agent, whose store is another one.
func TestFromAnotherAgent(t *testing.T) {
	prefill, decode := newBench(t, 1, newStore(t)), newBench(t, 1, newStore(t))
	prompt := text(200, 1)
	l, body, err := prefill.Take(t.Context(), Request{Tenant: "t", Path: "/v1/completions", Body: completion(prompt)})
	if err != nil {
		t.Fatal(err)
	}
	prefill.send(body)
	l.EndSaved(t.Context())
	l, body, err = decode.Take(t.Context(), Request{Tenant: "t", Path: "/v1/completions", Body: completion(prompt), From: source{prefill.o.Store}})
	if err != nil {
		t.Fatal(err)
	}
	if n := decode.send(body); n > 8 {
		t.Errorf("decode reads %d of 200 tokens", n)
	}
	l.End(true)
}

// TestAnotherPromptInASlot: a prompt that takes the slot of another one with the same beginning is stored as well.
func TestAnotherPromptInASlot(t *testing.T) {
	store := newStore(t)
	b := newBench(t, 1, store)
	one, two := "@K"+text(200, 1), "@K"+text(200, 2)
	for _, prompt := range []string{one, two} {
		b.ask("t", prompt)
		b.settle()
		if n := newBench(t, 1, store).ask("t", prompt); n > 10 {
			t.Errorf("another server reads %d of 202 tokens", n)
		}
	}
}

// TestTurns: a conversation stays in its slot; another one beside it does not push it out.
func TestTurns(t *testing.T) {
	b := newBench(t, 2, newStore(t))
	one, two := text(100, 1), text(100, 2)
	for turn := range 5 {
		b.ask("t", one)
		b.settle()
		b.ask("t", two)
		b.settle()
		one, two = one+"o"+text(20, uint64(10+turn)), two+"o"+text(20, uint64(20+turn))
		if n := b.ask("t", one); n > 21 {
			t.Errorf("turn %d reads %d tokens", turn, n)
		}
		b.settle()
	}
	if n := b.server.count("/slots/0restore") + b.server.count("/slots/1restore"); n > 0 {
		t.Errorf("%d restores of what the slots held", n)
	}
}

// TestServerRefuses: whatever a slot's action answers, the request goes on, and nothing wrong is used afterwards.
func TestServerRefuses(t *testing.T) {
	for _, action := range []string{"save", "restore", "erase"} {
		t.Run(action, func(t *testing.T) {
			store := newStore(t)
			warm, b := newBench(t, 1, store), newBench(t, 1, store)
			prompt := text(100, 1)
			warm.ask("t", prompt)
			warm.settle()
			b.server.fail[action] = true
			b.ask("t", prompt)
			b.settle()
			b.ask("u", prompt)
			b.settle()
			b.server.fail[action] = false
			b.ask("t", prompt)
			b.settle()
			if n := b.ask("t", prompt); n > 8 {
				t.Errorf("afterwards it reads %d", n)
			}
		})
	}
}

// TestTenantsAreApartWithoutErase: a slot that could not be erased is not read from, and belongs to who has it now.
func TestTenantsAreApartWithoutErase(t *testing.T) {
	b := newBench(t, 1, newStore(t))
	prompt := text(100, 1)
	b.ask("alice", prompt)
	b.settle()
	b.server.fail["erase"] = true
	if n := b.ask("bob", prompt); n != 100 {
		t.Errorf("bob reads %d of alice's 100 tokens", n)
	}
	b.settle()
	other := text(100, 2)
	b.ask("bob", other)
	b.settle()
	if n := b.ask("alice", other); n != 100 {
		t.Errorf("alice reads %d of bob's 100 tokens", n)
	}
	b.settle()
}

// TestPartRestored: what a server has restored otherwise than asked is not used, by nobody.
func TestPartRestored(t *testing.T) {
	store := newStore(t)
	warm, b := newBench(t, 1, store), newBench(t, 1, store)
	prompt := text(100, 1)
	warm.ask("alice", prompt)
	warm.settle()
	b.server.short = 1
	if n := b.ask("alice", prompt); n != 100 {
		t.Errorf("after a restore that went wrong, %d of 100 tokens are read", n)
	}
	b.settle()
	// A client that goes while its slot is restored leaves something in it.
	b.ask("carol", text(100, 3))
	b.settle()
	ctx, cancel := context.WithCancel(t.Context())
	b.server.restored = cancel
	if _, _, err := b.Take(ctx, Request{Tenant: "alice", Path: "/v1/completions", Body: completion(prompt)}); err == nil {
		t.Fatal("the client has gone")
	}
	b.server.restored = nil
	if n := b.ask("bob", prompt); n != 100 {
		t.Errorf("bob reads %d of alice's 100 tokens", n)
	}
	b.settle()
}

// TestPassedIsApart: a request for which there is no slot neither uses what the server's slots hold nor leaves there what others can find.
func TestPassedIsApart(t *testing.T) {
	b := newBench(t, 1, newStore(t))
	prompt := text(100, 1)
	b.ask("alice", prompt)
	b.settle()
	pass := func(prompt string) int {
		body, _ := json.Marshal(map[string]any{"prompt": []string{prompt}, "cache_prompt": true})
		l, body, err := b.Take(t.Context(), Request{Tenant: "bob", Path: "/v1/completions", Body: body})
		if err != nil {
			t.Fatal(err)
		}
		defer l.End(true)
		return b.send(body)
	}
	if n := pass(prompt); n != 100 {
		t.Errorf("bob reads %d of alice's 100 tokens", n)
	}
	other := text(100, 2)
	pass(other)
	if n := b.ask("alice", other); n != 100 {
		t.Errorf("alice reads %d of bob's 100 tokens", n)
	}
	b.settle()
}

// TestPassed: what is more than one text goes on without a slot.
// TestAdaptersOfARequest: KV that a request's own adapters have made is never another request's, whenever it runs.
func TestAdaptersOfARequest(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	b := newBench(t, 2, store)
	prompt := strings.Repeat("adapter. ", 12)
	adapted := func() (*Lease, []byte) {
		l, body, err := b.Take(t.Context(), Request{Tenant: "a", Path: "/v1/completions", Body: []byte(`{"prompt":"` + prompt + `","lora":[{"id":0,"scale":1}]}`)})
		if err != nil || l.slot == nil {
			t.Fatalf("no slot of its own: %v", err)
		}
		return l, body
	}
	l, body := adapted()
	if n := b.send(body); n != len(prompt) {
		t.Errorf("it read %d of %d tokens", n, len(prompt))
	}
	l.End(true)
	if n := b.ask("a", prompt); n != len(prompt) {
		t.Errorf("without adapters it read %d of %d tokens", n, len(prompt))
	}
	b.settle()
	l, body = adapted()
	b.send(body)
	l.End(true)
	if n := newBench(t, 1, store).ask("a", prompt); n >= len(prompt) {
		t.Errorf("what was stored without adapters is not used: %d tokens read", n)
	}
}

// TestSlotTakenByTheServer: what the server did in a leased slot for a request that has none is not stored as the lease's.
func TestSlotTakenByTheServer(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	b := newBench(t, 1, store)
	prompt := strings.Repeat("taken. ", 16)
	mine, body, err := b.Take(t.Context(), Request{Tenant: "a", Path: "/v1/completions", Body: completion(prompt)})
	if err != nil {
		t.Fatal(err)
	}
	b.send(body)
	other, body, err := b.Take(t.Context(), Request{Tenant: "a", Path: "/v1/completions", Body: []byte(`{"prompt":"` + prompt + `","n":2,"lora":[{"id":0,"scale":1}]}`)})
	if err != nil || other.slot != nil {
		t.Fatal(err)
	}
	b.send(body) // before the first one's slot is saved
	mine.End(true)
	b.settle()
	other.End(true)
	if n := newBench(t, 1, store).ask("a", prompt); n != len(prompt) {
		t.Errorf("%d of %d tokens read: another request's KV was stored", n, len(prompt))
	}
}

// TestWithoutAStore: slots are dealt out by tenant, and erased between them.
func TestWithoutAStore(t *testing.T) {
	t.Parallel()
	srv := newServer(t, 1)
	s, err := Open(t.Context(), Options{Engine: srv, Dir: srv.dir, BlockTokens: 8, Metrics: NewMetrics(nil), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Slots: s, t: t, server: srv}
	prompt := strings.Repeat("no store. ", 10)
	for i, want := range []struct {
		tenant string
		read   int
	}{{"a", 100}, {"a", 1}, {"b", 100}, {"b", 1}, {"a", 100}} {
		if n := b.ask(want.tenant, prompt); n != want.read {
			t.Errorf("request %d of %s read %d tokens, want %d", i, want.tenant, n, want.read)
		}
	}
	if srv.count("/slots/0save") > 0 {
		t.Error("a slot was saved for nobody")
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCloseEndsSaves: a save that hangs is ended with Close's context, and Close returns when it has ended.
func TestCloseEndsSaves(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	b := newBench(t, 1, store)
	hang := make(chan struct{})
	b.o.Engine = roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("action") == "save" {
			close(hang)
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return b.server.RoundTrip(r)
	})
	b.ask("a", strings.Repeat("slow. ", 16))
	<-hang
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Close(ctx); err == nil {
		t.Error("a save that did not end was not told of")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestPassed(t *testing.T) {
	b := newBench(t, 1, newStore(t))
	for path, bodies := range map[string][]string{
		"/v1/completions":      {`{"prompt":["a","b"]}`, `{"prompt":"a","n":2}`, `{"prompt":"a","n_cmpl":2,"lora":[{"id":1}]}`, `{`, `{}`, `{"prompt":""}`},
		"/v1/chat/completions": {`{"messages":[{"content":[{"type":"image_url"}]}]}`},
		"/v1/embeddings":       {`{"input":"a"}`},
	} {
		for _, body := range bodies {
			l, got, err := b.Take(t.Context(), Request{Tenant: "t", Path: path, Body: []byte(body)})
			if err != nil || l.slot != nil || string(got) != string(uncached([]byte(body))) {
				t.Errorf("%s became %s (%v)", body, got, err)
			}
			l.EndSaved(t.Context())
		}
	}
	for body, want := range map[string]string{
		`{}`: `{"cache_prompt":false}`, `{ } `: `{ "cache_prompt":false} `, `{"a":{}}`: `{"a":{},"cache_prompt":false}`, `{`: `{`, ``: ``,
	} {
		if got := uncached([]byte(body)); string(got) != want {
			t.Errorf("%s became %s", body, got)
		}
	}
	l, got, err := b.Take(t.Context(), Request{Tenant: "t", Path: "/v1/chat/completions", Body: []byte(`{ "messages":[{"content":"hi"}]}`)})
	if err != nil || string(got) != `{"id_slot":0,"cache_prompt":true, "messages":[{"content":"hi"}]}` {
		t.Fatalf("%s (%v)", got, err)
	}
	if want := tokens("<|hi|>"); common(l.prompt, want) != len(want) {
		t.Errorf("the prompt is %v", l.prompt)
	}
	l.End(false)
}

// TestWaitsForASlot: with all slots busy a request waits, and a client that goes does not wait.
func TestWaitsForASlot(t *testing.T) {
	b := newBench(t, 1, newStore(t))
	l, _, err := b.Take(t.Context(), Request{Tenant: "t", Path: "/v1/completions", Body: completion("abc")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := b.Take(ctx, Request{Tenant: "t", Path: "/v1/completions", Body: completion("abc")}); err == nil {
		t.Fatal("two requests have one slot")
	}
	got := make(chan int)
	go func() { got <- b.ask("t", "abcdefghijkl") }()
	l.End(true)
	if n := <-got; n == 0 {
		t.Error("nothing was read")
	}
}

// TestManyAtOnce: conversations on two servers with a small store; every answer comes from right KV (the bench checks).
func TestManyAtOnce(t *testing.T) {
	store := newStore(t)
	benches := []*bench{newBench(t, 3, store), newBench(t, 2, store)}
	var all sync.WaitGroup
	for c := range 8 {
		all.Go(func() {
			prompt := text(40+c, uint64(c%3))
			for turn := range 15 {
				benches[(turn+c)%2].ask([]string{"t", "u"}[c%2], prompt)
				prompt += text(11, uint64(100*c+turn))
			}
		})
	}
	all.Wait()
	for _, b := range benches {
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestFilesOfTwoStarts: what an earlier start of the server still reads is never written over by the next one.
func TestFilesOfTwoStarts(t *testing.T) {
	store := newStore(t)
	one, _ := newBench(t, 1, store).file()
	two, _ := newBench(t, 1, store).file()
	if one == two {
		t.Errorf("both have %s", one)
	}
}
