package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func nixl(o *Options) {
	o.KVTransfer = KVTransferConfig{Connector: "NixlConnector", OnFailure: FailOnLoadFailure, Lease: time.Hour}
}

const pdPrompt = "A long prompt for two engines, which is computed on one and continued on the other. It has more than one block."

// prefill asks P as a gateway does, and returns its kv_transfer_params.
func prefill(r *rig, prompt any) json.RawMessage {
	r.t.Helper()
	return r.generate("/v1/completions", with(greedy, fields{
		"prompt": prompt, "max_tokens": 1,
		"kv_transfer_params": fields{"do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": nil, "remote_block_ids": nil, "remote_host": nil, "remote_port": nil},
	}), "X-Request-Id", "r1").KVTransfer
}

func decodeBodyOf(prompt any, params json.RawMessage) fields {
	return with(greedy, fields{"prompt": prompt, "max_tokens": 200, "kv_transfer_params": params})
}

func TestPrefillHereDecodeThere(t *testing.T) {
	t.Parallel()
	for name, where := range map[string]func(*Options){
		"over unix sockets": func(*Options) {},
		"over TCP": func(o *Options) {
			o.TransferHost, o.TransferPort = "127.0.0.1", freePort(t)
		},
	} {
		p, d := start(t, fast(nixl, where)), start(t, fast(nixl))
		want := Text(Generate(p.Fingerprint(), Tokenizer{}.Encode(pdPrompt), 200))
		params := prefill(p, pdPrompt)
		if held := p.engine.occupied.Load(); held == 0 {
			t.Errorf("%s: the prefill keeps no blocks for %s", name, params)
		}
		got := d.generate("/v1/completions", decodeBodyOf(pdPrompt, params))
		if got.Choices[0].Text != want {
			t.Errorf("%s: %q, want %q", name, got.Choices[0].Text, want)
		}
		n := got.Usage.PromptTokens
		if got.Usage.Details.CachedTokens != n-1 || d.metric("vllm:external_prefix_cache_hits_total{") != float64(n-1) {
			t.Errorf("%s: %d of %d prompt tokens came from the prefill", name, got.Usage.Details.CachedTokens, n)
		}
		if computed := d.metric(`vllm:prompt_tokens_by_source_total{engine="0",model_name="test/model",source="local_compute"`); computed != 1 {
			t.Errorf("%s: the decode side computed %v prompt tokens", name, computed)
		}
		p.eventually("released", func() bool { return p.engine.occupied.Load() == 0 })
		// What was fetched is cached as if it had been computed.
		if again := d.generate("/v1/completions", with(greedy, fields{"prompt": pdPrompt})); again.Usage.Details.CachedTokens < 16 {
			t.Errorf("%s: only %d tokens are cached afterwards", name, again.Usage.Details.CachedTokens)
		}
	}
}

// Every transfer that cannot be right is refused, or with the other policy computed again.
func TestWrongTransfers(t *testing.T) {
	t.Parallel()
	other := fast(nixl)
	other.Model, other.ServedModelNames = "other/weights", []string{"test/model"}
	spoiled, _ := ParseFailure("wrong-kv")
	for name, c := range map[string]struct {
		p      Options
		decode string // the prompt that D is asked
		change func(*rig, map[string]any)
	}{
		"other weights": {p: other},
		"other prompt":  {decode: strings.Replace(pdPrompt, "long", "cold", 1)},
		"spoiled block": {p: fast(nixl, func(o *Options) { o.Failures = []Failure{spoiled} })},
		"other blocks":  {change: func(_ *rig, p map[string]any) { p["remote_block_ids"] = []any{[]int{1, 2}} }},
		"other engine":  {change: func(_ *rig, p map[string]any) { p["remote_engine_id"] = "someone" }},
		"nobody there":  {change: func(r *rig, p map[string]any) { p["remote_host"] = "unix:/nonexistent/e.sock" }},
		"engine ended":  {change: func(r *rig, _ map[string]any) { r.cancel(); _ = r.exit() }},
		"read before": {change: func(r *rig, p map[string]any) {
			_ = r.engine.endLease(r.t.Context(), r.engineID, p["remote_request_id"].(string))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.p.Model == "" {
				c.p = fast(nixl)
			}
			if c.decode == "" {
				c.decode = pdPrompt
			}
			p := start(t, c.p)
			refuses, recomputes := start(t, fast(nixl)), start(t, fast(nixl, func(o *Options) { o.KVTransfer.OnFailure = RecomputeOnLoadFailure }))
			params := parse[map[string]any](t, string(prefill(p, pdPrompt)))
			if c.change != nil {
				c.change(p, params)
			}
			raw, err := json.Marshal(params)
			if err != nil {
				t.Fatal(err)
			}
			if status, text := refuses.post("/v1/completions", decodeBodyOf(c.decode, raw)); status != http.StatusInternalServerError {
				t.Errorf("policy fail: %d %s", status, text)
			}
			want := Text(Generate(recomputes.Fingerprint(), Tokenizer{}.Encode(c.decode), 200))
			if got := recomputes.generate("/v1/completions", decodeBodyOf(c.decode, raw)).Choices[0].Text; got != want {
				t.Errorf("policy recompute: %q, want %q", got, want)
			}
			for _, d := range []*rig{refuses, recomputes} {
				d.eventually("free", func() bool { return d.engine.occupied.Load() == 0 })
			}
		})
	}
}

func TestFailedLoadEndsStreamWithAnError(t *testing.T) {
	t.Parallel()
	p, d := start(t, fast(nixl)), start(t, fast(nixl))
	params := prefill(p, pdPrompt)
	_ = p.engine.endLease(t.Context(), p.engineID, parse[grantedParams](t, string(params)).RemoteRequestID)
	chunks := d.streamed("/v1/completions", with(decodeBodyOf(pdPrompt, params), fields{"stream": true}))
	if len(chunks) != 1 || chunks[0].Error == nil || chunks[0].Error.Code != 500 {
		t.Errorf("chunks %+v", chunks)
	}
}

func TestLeaseRunsOut(t *testing.T) {
	t.Parallel()
	p, d := start(t, fast(nixl, func(o *Options) { o.KVTransfer.Lease = time.Millisecond })), start(t, fast(nixl))
	params := prefill(p, pdPrompt)
	p.eventually("expired", func() bool { return p.engine.occupied.Load() == 0 })
	if status, _ := d.post("/v1/completions", decodeBodyOf(pdPrompt, params)); status != http.StatusInternalServerError {
		t.Errorf("a decode after the lease ran out: %d", status)
	}
}

// A decode that waits for its turn keeps the lease alive.
func TestHeartbeatsWhileWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, nixl, func(o *Options) { o.MaxSeqs, o.KVTransfer.Lease = 1, 30*time.Second })
		defer b.stop()
		var beats atomic.Int64
		b.puller.http = &http.Client{Transport: roundTrip(func(r *http.Request) (int, any) {
			if strings.HasSuffix(r.URL.Path, "/heartbeat") {
				beats.Add(1)
				return http.StatusOK, nil
			}
			return manifestOf(b, "waits")(r)
		})}
		start := time.Now()
		busy := b.ask("busy", 8000)
		waits := b.ask("waits", 1, func(s *sequence) {
			s.pull = newPull(remoteKV{engineID: "e", requestID: "r", host: "h", blockIDs: []int32{7}})
		})
		b.answer(busy)
		if want := int(time.Since(start) / (10 * time.Second)); want < 5 || beats.Load() != int64(want) {
			t.Errorf("%d beats in %s, want one every 10 s", beats.Load(), time.Since(start))
		}
		if _, reason := b.answer(waits); reason != finishedLength {
			t.Errorf("ended with %s", reason)
		}
	})
}

func TestLeaseLivesWithBeatsAndDiesWithout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, nixl, func(o *Options) { o.KVTransfer.Lease = 30 * time.Second })
		defer b.stop()
		s := b.ask(pdPrompt, 1, func(s *sequence) { s.handOver = true })
		b.answer(s)
		for range 20 {
			time.Sleep(29 * time.Second)
			if err := b.extendLease(t.Context(), "", s.id); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(29 * time.Second)
		if b.occupied.Load() == 0 {
			t.Error("the lease ended before its time")
		}
		time.Sleep(time.Second)
		b.unused()
		if err := b.extendLease(t.Context(), "", s.id); !errors.Is(err, errUnknownLease) {
			t.Errorf("a lease that ran out is extended: %v", err)
		}
	})
}

func TestWhatIsNotHandedOver(t *testing.T) {
	t.Parallel()
	p, off := start(t, fast(nixl)), start(t, fast())
	if params := prefill(p, "short"); string(params) != "null" {
		t.Errorf("a prompt of less than a block gives %s", params)
	}
	if params := prefill(off, pdPrompt); string(params) != "null" {
		t.Errorf("without a connector there is %s", params)
	}
	ids := Tokenizer{}.Encode(pdPrompt)
	answer := Generate(p.Fingerprint(), ids, 1000)
	beforeEOS := append(slices.Clone(ids), answer[:len(answer)-1]...)
	if params := prefill(p, beforeEOS); string(params) != "null" {
		t.Errorf("a prefill that ended by EOS gives %s", params)
	}
	if n := p.engine.occupied.Load(); n != 0 {
		t.Errorf("%d blocks are kept for nobody", n)
	}
}

func TestTransferTakesItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, nixl)
		defer b.stop()
		prompt := b.words("far", 800)
		b.puller.http = &http.Client{Transport: manifestOf(b, prompt)}
		start := time.Now()
		s := b.ask(prompt, 1, func(s *sequence) {
			s.pull = newPull(remoteKV{engineID: "e", requestID: "r", host: "h", blockIDs: []int32{7}})
		})
		if ids, reason := b.answer(s); reason != finishedLength || fmt.Sprint(ids) != fmt.Sprint(b.want(prompt, 1)) {
			t.Fatalf("ended with %s: %v", reason, ids)
		}
		u := 50.0 / 2048
		want := time.Duration(float64(800*b.opts.KVBytesPerToken)/float64(b.opts.TransferBandwidth)*1e9) + stepWork{decodes: 1}.stepTime(u, 1)
		if got := time.Since(start); (got - want).Abs() > time.Millisecond {
			t.Errorf("took %s, want %s", got, want)
		}
	})
}

// manifestOf answers for an engine that has computed a prompt.
func manifestOf(b *bench, prompt string) roundTrip {
	return func(*http.Request) (int, any) {
		job := pullJob{model: FingerprintOf("m"), prompt: b.v.encode(nil, prompt), blockSize: b.opts.BlockSize}
		blocks, all, _ := job.expected(b.v)
		m := manifest{EngineID: "e", RequestID: "r", Tokens: len(job.prompt), BlockSize: b.opts.BlockSize, BlockIDs: []int32{7}, Rest: checksum(all)}
		for _, c := range blocks {
			m.Checksums = append(m.Checksums, checksum(c))
		}
		return http.StatusOK, m
	}
}
