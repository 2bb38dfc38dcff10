package slots

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/kvstore/llamacpp"
)

// server is llama-server as far as slots go: one byte is one token, and the KV of a token is a hash of all tokens before
// it, so that a block in the wrong place shows when it is used.
type server struct {
	t   *testing.T
	dir string

	mu    sync.Mutex
	slots []*fakeSlot
	calls map[string]int
	fail  map[string]bool // actions that answer 400
	wrong int             // tokens that were used with another prefix's KV

	short    int    // says of a restore that it was of so many tokens less
	restored func() // called after a restore
}

type fakeSlot struct {
	tokens []uint32
	kv     []uint64
}

func newServer(t *testing.T, n int) *server {
	s := &server{t: t, dir: t.TempDir(), calls: map[string]int{}, fail: map[string]bool{}}
	for range n {
		s.slots = append(s.slots, &fakeSlot{})
	}
	return s
}

// RoundTrip is the way to the server.
func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err // it has been done all the same
	}
	return w.Result(), nil
}

// ServeHTTP answers as llama-server does.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := []byte("{}")
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	var in struct {
		Prompt   json.RawMessage
		Content  string
		Filename string
		Messages []struct{ Content string }
		IDSlot   int             `json:"id_slot"`
		LoRA     json.RawMessage `json:"lora"`
		Cache    *bool           `json:"cache_prompt"`
	}
	_ = json.Unmarshal(body, &in)
	action := r.URL.Query().Get("action")
	s.calls[r.URL.Path+action]++
	if s.fail[action] {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch path := r.URL.Path; {
	case path == "/props":
		answer(map[string]any{"total_slots": len(s.slots)})
	case path == "/apply-template":
		answer(map[string]any{"prompt": "<|" + in.Messages[0].Content + "|>"})
	case path == "/tokenize":
		answer(map[string]any{"tokens": tokens(in.Content)})
	case path == "/v1/completions":
		var text string
		if several := []string{}; json.Unmarshal(in.Prompt, &several) == nil && len(several) > 0 {
			text = several[0]
		} else {
			_ = json.Unmarshal(in.Prompt, &text)
		}
		if in.Cache != nil && !*in.Cache {
			*s.slots[in.IDSlot] = fakeSlot{}
		}
		answer(s.complete(in.IDSlot, tokens(text)))
		if len(in.LoRA) > 0 {
			for i := range s.slots[in.IDSlot].kv {
				s.slots[in.IDSlot].kv[i]++ // other weights have made it
			}
		}
	case strings.HasPrefix(path, "/slots/"):
		id, _ := strconv.Atoi(strings.TrimPrefix(path, "/slots/"))
		answer(s.act(s.slots[id], action, filepath.Join(s.dir, in.Filename)))
	}
}

func tokens(text string) (ids []uint32) {
	for _, b := range []byte(text) {
		ids = append(ids, uint32(b))
	}
	return ids
}

// kvOf is what the KV of the last token of a prefix must be.
func kvOf(prefix []uint32) uint64 {
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, prefix)
	return h.Sum64()
}

func (s *server) complete(id int, prompt []uint32) map[string]any {
	c := s.slots[id]
	n := min(common(c.tokens, prompt), len(prompt)-1)
	for i := range n {
		if c.kv[i] != kvOf(prompt[:i+1]) {
			s.wrong++
		}
	}
	answer := []uint32{'o', 'k'}
	c.tokens = append(append([]uint32{}, prompt...), answer[0]) // the last one generated is not in the KV
	c.kv = c.kv[:n]
	for i := n; i < len(c.tokens); i++ {
		c.kv = append(c.kv, kvOf(c.tokens[:i+1]))
	}
	return map[string]any{"timings": map[string]int{"cache_n": n, "prompt_n": len(prompt) - n}}
}

func (s *server) act(c *fakeSlot, action, path string) map[string]any {
	switch action {
	case "erase":
		*c = fakeSlot{}
	case "save":
		if err := os.WriteFile(path, slotFile(c), 0o600); err != nil {
			s.t.Error(err)
		}
		return map[string]any{"n_saved": len(c.tokens)}
	case "restore":
		b, err := os.ReadFile(path)
		if err != nil {
			s.t.Error(err)
		}
		f, err := llamacpp.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			s.t.Error(err)
			return nil
		}
		*c = fakeSlot{tokens: f.Tokens}
		row := make([]byte, f.Shape.BlockSize(1))
		for i := range f.Tokens {
			if err := f.Cut(row, i, 1); err != nil {
				s.t.Error(err)
			}
			c.kv = append(c.kv, binary.LittleEndian.Uint64(row[len(row)-16:]))
		}
		if s.restored != nil {
			s.restored()
		}
		return map[string]any{"n_restored": len(c.tokens) - s.short}
	}
	return map[string]any{}
}

// slotFile has one layer whose K and V rows are the token's KV.
func slotFile(c *fakeSlot) []byte {
	var b bytes.Buffer
	put := func(v ...any) {
		for _, x := range v {
			_ = binary.Write(&b, binary.LittleEndian, x)
		}
	}
	n := uint32(len(c.tokens))
	put(uint32(0x67677371), uint32(4), n+4, ^uint32(0), uint32(1), n, c.tokens, uint32(0), uint32(1), n)
	for i := range n {
		put(i, uint32(1), uint32(0))
	}
	put(uint32(0), uint32(1), uint32(0), uint32(0))
	for range 2 {
		put(int32(1), uint64(8), c.kv)
	}
	return b.Bytes()
}

func (s *server) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[call]
}

func completion(prompt string) []byte {
	return fmt.Appendf(nil, `{"prompt":%q,"max_tokens":2}`, prompt)
}
