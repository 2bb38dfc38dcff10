package sim

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front/resp"
	"github.com/penstock/penstock/kvstore/mem"
)

// doorFor opens a RESP door to an empty store and returns its URL.
func doorFor(t *testing.T, s kvstore.Store, alloc kvstore.Allocator) (url string) {
	t.Helper()
	path := filepath.Join(shortDir(t), "kv.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = resp.New(resp.Options{Store: s, Alloc: alloc, Anonymous: &kvstore.Space{1}}).Serve(ctx, l) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	return "unix://" + path
}

func lmcacheAt(url string) func(*Options) {
	return func(o *Options) { o.KVTransfer.LMCache, o.ExternalKV = true, url }
}

// TestKVFromOutside: an engine finds the blocks that another one has stored, believes them, and gives each tenant its own.
func TestKVFromOutside(t *testing.T) {
	t.Parallel()
	s := mem.New(mem.Options{Bytes: 64 << 20})
	url := doorFor(t, s, s)
	first := start(t, fast(lmcacheAt(url)))
	body := func(tenant string) fields {
		return with(greedy, fields{"prompt": pdPrompt, "max_tokens": 100, "kv_transfer_params": fields{"lmcache.tag.tenant": tenant}})
	}
	want := Text(Generate(first.Fingerprint(), Tokenizer{}.Encode(pdPrompt), 100))
	cold := first.generate("/v1/completions", body("a"))
	blocks := cold.Usage.PromptTokens / 16
	first.eventually("stored", func() bool { return s.Stats().Puts >= int64(2*blocks) })

	second := start(t, fast(lmcacheAt(url)))
	warm := second.generate("/v1/completions", body("a"))
	if got := warm.Usage.Details.CachedTokens; got != (cold.Usage.PromptTokens-1)/16*16 || warm.Choices[0].Text != want {
		t.Errorf("%d tokens cached, text %q, want %q", got, warm.Choices[0].Text, want)
	}
	if hits := second.metric("vllm:external_prefix_cache_hits_total{"); hits != float64(warm.Usage.Details.CachedTokens) {
		t.Errorf("%v external hits", hits)
	}
	third := start(t, fast(lmcacheAt(url)))
	if other := third.generate("/v1/completions", body("b")); other.Usage.Details.CachedTokens != 0 || other.Choices[0].Text != want {
		t.Errorf("another tenant: %d tokens cached, text %q", other.Usage.Details.CachedTokens, other.Choices[0].Text)
	}
}

// TestWrongKVShows: the engine has no check of its own, so that a store that gives other bytes is found out by the text.
func TestWrongKVShows(t *testing.T) {
	t.Parallel()
	s := mem.New(mem.Options{Bytes: 64 << 20})
	url := doorFor(t, s, s)
	first := start(t, fast(lmcacheAt(url)))
	body := with(greedy, fields{"prompt": pdPrompt, "max_tokens": 100})
	cold := first.generate("/v1/completions", body)
	blocks := (cold.Usage.PromptTokens - 1) / 16
	first.eventually("stored", func() bool { return s.Stats().Puts >= int64(2*blocks) })

	l, err := dialLMCache(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.c.Close()
	seq := newSequence("x", theVocabulary().encode(nil, pdPrompt), 16, first.engine.root, "", 0, "", first.Fingerprint())
	key := first.engine.external.key(seq.hashes[blocks-1], "")
	value, err := l.get(key)
	if err != nil || len(value) != chunkBytes {
		t.Fatalf("%d bytes, %v", len(value), err)
	}
	value[chunkBytes/2] ^= 1
	if err := l.put(key, value); err != nil {
		t.Fatal(err)
	}
	second := start(t, fast(lmcacheAt(url)))
	if got := second.generate("/v1/completions", body); got.Choices[0].Text == cold.Choices[0].Text {
		t.Error("a block with another byte gives the same text")
	}
}

// TestNoKVOutside: a store that is not there costs nothing but its blocks.
func TestNoKVOutside(t *testing.T) {
	t.Parallel()
	r := start(t, fast(lmcacheAt("unix://"+filepath.Join(shortDir(t), "none.sock"))))
	want := Text(Generate(r.Fingerprint(), Tokenizer{}.Encode(pdPrompt), 100))
	got := r.generate("/v1/completions", with(greedy, fields{"prompt": pdPrompt, "max_tokens": 100}))
	if got.Choices[0].Text != want || got.Usage.Details.CachedTokens != 0 {
		t.Errorf("%q, want %q", got.Choices[0].Text, want)
	}
}

func TestLMCacheConfig(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"chunk_size: 256\nremote_url: \"unix:///run/kv.sock\"\n": "unix:///run/kv.sock",
		"remote_url: redis://a:b@127.0.0.1:6379":                 "redis://a:b@127.0.0.1:6379",
	} {
		if got, err := ParseLMCacheConfig(text); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "remote_url: lm://x:1", "remote_url: [", "chunk_size: 1"} {
		if got, err := ParseLMCacheConfig(text); err == nil {
			t.Errorf("%q gives %q", text, got)
		}
	}
	o := DefaultOptions()
	o.Model, o.KVTransfer.LMCache = "m", true
	if err := o.Validate(); err == nil {
		t.Error("LMCache without a configuration passed")
	}
	c, err := ParseKVTransferConfig(`{"kv_connector":"MultiConnector","kv_role":"kv_both","kv_connector_extra_config":{"connectors":[{"kv_connector":"SimConnector"},{"kv_connector":"LMCacheConnectorV1"}]}}`)
	if err != nil || !c.LMCache || c.Connector != "SimConnector" {
		t.Errorf("%+v, %v", c, err)
	}
}
