package kvevents

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/penstock/penstock/kvstore/index"
)

var update = flag.Bool("update", false, "write golden files")

func samples(t testing.TB) map[string][]byte {
	files, err := filepath.Glob("testdata/*.msgpack")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d samples, %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".msgpack")] = b
	}
	return out
}

// show writes a batch on a few lines.
func show(b Batch) string {
	var s strings.Builder
	fmt.Fprintf(&s, "rank %d, %d bad\n", b.Rank, b.Bad)
	for _, e := range b.Events {
		switch {
		case e.Cleared:
			fmt.Fprintf(&s, "cleared tier %d\n", e.Tier)
		case e.Stored != nil:
			fmt.Fprintf(&s, "stored %x after %x %v in tier %d group %d, %d tokens to %v, blocks of %d, lora %q salt %q extra %q window %v\n",
				e.Stored.Hashes, e.Stored.Parent, e.Stored.HasParent, e.Tier, e.Group, len(e.Stored.Tokens),
				e.Stored.Tokens[len(e.Stored.Tokens)-1], e.Stored.BlockTokens, e.Stored.LoRA, e.Stored.Salt, e.Stored.Extra, e.Stored.Window)
		default:
			fmt.Fprintf(&s, "removed %x from tier %d group %d\n", e.Removed, e.Tier, e.Group)
		}
	}
	return s.String()
}

func TestSamples(t *testing.T) {
	var got bytes.Buffer
	all := samples(t)
	names, err := filepath.Glob("testdata/*.msgpack")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range names {
		name := strings.TrimSuffix(filepath.Base(f), ".msgpack")
		b, err := Decode(all[name])
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		fmt.Fprintf(&got, "%s: %s\n", name, show(b))
	}
	const golden = "testdata/samples.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Error(diff)
	}
}

// TestCutAnywhere: a payload that ends too early is no batch, and never a panic.
func TestCutAnywhere(t *testing.T) {
	for name, b := range samples(t) {
		for i := range b {
			if _, err := Decode(b[:i]); !errors.Is(err, ErrBatch) {
				t.Errorf("%s cut at %d of %d: %v", name, i, len(b), err)
			}
		}
	}
}

func pack(t testing.TB, v any) []byte {
	b, err := msgpack.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOneBadEvent: each kind of nonsense costs itself alone.
func TestOneBadEvent(t *testing.T) {
	fine := []any{"BlockRemoved", []uint64{7}, "GPU"}
	for name, tc := range map[string]struct {
		event any
		bad   int
		more  int // events that come of it
	}{
		"a number":              {5, 1, 0},
		"nothing":               {nil, 1, 0},
		"an empty array":        {[]any{}, 1, 0},
		"no type":               {map[string]any{"block_hashes": []int{1}}, 1, 0},
		"keys that are numbers": {map[int]any{1: 2}, 1, 0},
		"hashes that are text":  {[]any{"BlockStored", []string{"x"}, nil, []int{1}, 1}, 1, 0},
		"a short digest":        {[]any{"BlockRemoved", [][]byte{{1, 2}}}, 1, 0},
		"block size 0":          {[]any{"BlockStored", []int{1}, nil, []int{1}, 0}, 1, 0},
		"a negative token":      {[]any{"BlockStored", []int{1}, nil, []int{-1}, 1}, 1, 0},
		"a parent that is text": {[]any{"BlockStored", []int{1}, "p", []int{1}, 1}, 1, 0},
		"an unknown type":       {[]any{"BlockPromoted", []int{1}}, 0, 0},
		"an unknown medium":     {[]any{"BlockRemoved", []int{1}, "TAPE"}, 0, 0},
		"too many positions":    {[]any{"BlockRemoved", []int{1}, "CPU", 0, "x", "y", "z"}, 0, 1},
		"unknown keys":          {map[string]any{"type": "AllBlocksCleared", "why": []any{map[string]int{"deep": 1}}}, 0, 1},
	} {
		b, err := Decode(pack(t, []any{1.5, []any{fine, tc.event, fine}}))
		if err != nil || b.Bad != tc.bad || len(b.Events) != 2+tc.more {
			t.Errorf("%s: %d bad, %d events, %v", name, b.Bad, len(b.Events), err)
		}
	}
}

// TestNestedDeep: a payload of nothing but opening brackets neither recurses nor asks for memory.
func TestNestedDeep(t *testing.T) {
	deep := append([]byte{0x92, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte{0x91}, 1<<20)...)
	huge := []byte{0x92, 0xc0, 0xdd, 0xff, 0xff, 0xff, 0xff}
	for _, b := range [][]byte{deep, huge} {
		if _, err := Decode(b); !errors.Is(err, ErrBatch) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

// FuzzDecode: nothing panics; whatever is decoded can be applied; what our reader takes for msgpack the library takes too.
func FuzzDecode(f *testing.F) {
	for _, b := range samples(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		b, err := Decode(payload)
		if err != nil {
			return
		}
		book := NewBook(index.Identity{}, 100)
		for range 2 {
			for _, c := range book.Apply(b) {
				if c.Kind == TiersCleared == (len(c.Blocks) > 0) {
					t.Fatalf("change %+v", c)
				}
			}
		}
		if n := book.Counts().Blocks; n > 100 {
			t.Fatalf("%d blocks in a book for 100", n)
		}
		u := &unpacker{payload}
		whole, ok := u.whole()
		if !ok {
			t.Fatal("a batch of no value")
		}
		if err := msgpack.NewDecoder(bytes.NewReader(whole)).Skip(); err != nil && !strings.Contains(err.Error(), "ext") {
			t.Fatalf("the library does not read it: %v", err)
		}
	})
}
