package llamacpp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(b []byte) (*File, error) { return Open(bytes.NewReader(b), int64(len(b))) }

// paper is a file in memory that can be written anywhere.
type paper []byte

func (p *paper) WriteAt(b []byte, off int64) (int, error) {
	if need := int(off) + len(b); need > len(*p) {
		*p = append(*p, make([]byte, need-len(*p))...)
	}
	return copy((*p)[off:], b), nil
}

// TestRealFiles: files of a real server come back from their blocks byte for byte, but for the slot that they name.
func TestRealFiles(t *testing.T) {
	for _, name := range []string{"kvu-f16.bin", "kvu-q8_0.bin"} {
		for _, step := range []int{1, 2, 4, 8} {
			b := load(t, name)
			f, err := parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if string(letters(f.Tokens)) != "abcdefgh" || len(f.Shape.Rows) != 8 {
				t.Fatalf("%s: tokens %v, %d rows", name, f.Tokens, len(f.Shape.Rows))
			}
			got := rebuild(t, f, step, len(f.Tokens)/step)
			if want := slotZero(b, len(f.Tokens)); !bytes.Equal(got, want) {
				t.Errorf("%s in blocks of %d: the file is another one", name, step)
			}
		}
	}
}

func letters(tokens []uint32) (b []byte) {
	for _, t := range tokens {
		b = append(b, byte(t))
	}
	return b
}

// rebuild cuts a file and puts its first blocks together in a random order.
func rebuild(t testing.TB, f *File, step, keep int) []byte {
	var out paper
	w := NewBuilder(&out, f.Tokens[:keep*step], step)
	for _, i := range rand.Perm(keep) {
		block := make([]byte, f.Shape.BlockSize(step))
		if err := f.Cut(block, i*step, step); err != nil {
			t.Fatal(err)
		}
		if w.Leading() == keep {
			t.Fatal("whole too early")
		}
		if err := w.Put(i, block); err != nil {
			t.Fatal(err)
		}
	}
	if w.Leading() != keep {
		t.Fatal("not whole")
	}
	return out
}

// slotZero is the file as if it had been saved from slot 0.
func slotZero(b []byte, tokens int) []byte {
	b = slices.Clone(b)
	for i := range tokens {
		at := 12 + (tokens+4)*4 + 8 + 12*i + 8
		copy(b[at:], []byte{0, 0, 0, 0})
	}
	return b
}

func TestRefused(t *testing.T) {
	good := load(t, "kvu-f16.bin")
	set := func(at int, v uint32) []byte {
		b := slices.Clone(good)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	cell := 12 + 12*4 + 8 // of token 0
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"no flash attention": {load(t, "kvu-fa-off.bin"), "flash attention"},
		"several streams":    {load(t, "np2-f16.bin"), "-kvu"},
		"version 3":          {set(4, 3), "version 3"},
		"no slot file":       {set(0, 1), "magic 0x1"},
		"empty":              {nil, "too early"},
		"cut":                {good[:len(good)-1], "too early"},
		"longer":             {append(slices.Clone(good), 0), "1 bytes follow"},
		"shifted":            {set(cell, 5), "cell 0 is position 5"},
		"two sequences":      {set(cell+12+4, 2), "cell 1 is position 1 of 2"},
		"other sequence":     {set(cell+12+8, 9), "cell 1"},
		"tokens":             {set(8, 1<<30), "list of tokens"},
		"cells":              {set(cell-4, 7), "7 cells for 8 tokens"},
		"layers":             {set(cell+8*12+4, 1<<20), "layers"},
	} {
		_, err := parse(c.b)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %q", name, err, c.want)
		}
	}
}

func TestBlocksOfAnotherShape(t *testing.T) {
	a, _ := parse(load(t, "kvu-f16.bin"))
	b, _ := parse(load(t, "kvu-q8_0.bin"))
	block := func(f *File, tokens int) []byte {
		b := make([]byte, f.Shape.BlockSize(tokens))
		if err := f.Cut(b, 0, tokens); err != nil {
			t.Fatal(err)
		}
		return b
	}
	w := NewBuilder(&paper{}, a.Tokens, 4)
	if err := w.Put(0, block(a, 4)); err != nil {
		t.Fatal(err)
	}
	for name, wrong := range map[string][]byte{
		"type": block(b, 4), "tokens": block(a, 2), "cut": block(a, 4)[:100], "empty": nil, "no head": make([]byte, 1000),
	} {
		if err := w.Put(1, wrong); !errors.Is(err, ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.Leading() != 1 {
		t.Errorf("%d lead", w.Leading())
	}
}

// TestPrefix: any leading run of blocks makes a file that is right by itself, whose rows are those of the whole file.
func TestPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layers, tokens := rapid.IntRange(1, 5).Draw(t, "layers"), rapid.IntRange(1, 40).Draw(t, "tokens")
		step := rapid.IntRange(1, tokens).Draw(t, "step")
		whole := made(layers, tokens, int64(rapid.IntRange(1, 9).Draw(t, "row")))
		f, err := parse(whole)
		if err != nil {
			t.Fatal(err)
		}
		keep := rapid.IntRange(1, tokens/step).Draw(t, "keep")
		var out paper
		w := NewBuilder(&out, f.Tokens[:keep*step], step)
		for i := range keep {
			block := make([]byte, f.Shape.BlockSize(step))
			if err := f.Cut(block, i*step, step); err != nil {
				t.Fatal(err)
			}
			if err := w.Put(i, block); err != nil {
				t.Fatal(err)
			}
		}
		g, err := parse(out)
		if err != nil || !slices.Equal(g.Tokens, f.Tokens[:keep*step]) || !g.Shape.equal(f.Shape) {
			t.Fatalf("%v, %d tokens", err, len(g.Tokens))
		}
		for i := range g.Tokens {
			a, b := make([]byte, f.Shape.BlockSize(1)), make([]byte, f.Shape.BlockSize(1))
			if f.Cut(a, i, 1) != nil || g.Cut(b, i, 1) != nil || !bytes.Equal(a, b) {
				t.Fatalf("token %d has other rows", i)
			}
		}
	})
}

// made is a slot file of random rows.
func made(layers, tokens int, row int64) []byte {
	f := &File{Shape: Shape{X: 128, Y: 64}}
	for i := range tokens {
		f.Tokens = append(f.Tokens, uint32(1000+i))
	}
	for i := range 2 * layers {
		f.Shape.Rows = append(f.Shape.Rows, Row{Type: int32(i % 3), Bytes: row + int64(i)})
	}
	block := make([]byte, f.Shape.BlockSize(tokens))
	f.at = make([]int64, len(f.Shape.Rows))
	random := make([]byte, 1<<16)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	f.r = bytes.NewReader(random)
	for i := range f.at {
		f.at[i] = int64(i * 1000)
	}
	_ = f.Cut(block, 0, tokens)
	var out paper
	_ = NewBuilder(&out, f.Tokens, tokens).Put(0, block)
	return out
}

func FuzzOpen(f *testing.F) {
	for _, name := range []string{"kvu-f16.bin", "kvu-q8_0.bin", "kvu-fa-off.bin", "np2-f16.bin"} {
		f.Add(load(f, name))
	}
	f.Add(made(2, 3, 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
			return
		}
		if n := len(file.Tokens); n > 0 && n < 1000 {
			if again := rebuild(t, file, 1, n); len(again) != len(b) {
				t.Errorf("%d bytes became %d", len(b), len(again))
			}
		}
	})
}

func FuzzBlock(f *testing.F) {
	file, _ := parse(load(f, "kvu-f16.bin"))
	b := make([]byte, file.Shape.BlockSize(4))
	_ = file.Cut(b, 0, 4)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := NewBuilder(&paper{}, []uint32{1, 2, 3, 4}, 4).Put(0, b); err != nil && !errors.Is(err, ErrShape) {
			t.Error(err)
		}
	})
}
