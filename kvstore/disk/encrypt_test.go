package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

// TestNothingIsReadable: neither bytes nor names of blocks are on the disk in the clear, in a full segment or in the one that
// is being filled.
func TestNothingIsReadable(t *testing.T) {
	ring, _ := keyring.New()
	for name, keys := range map[string]*keyring.Ring{"encrypted": ring, "clear": nil} {
		dir := filepath.Join(t.TempDir(), "kv")
		s := mustOpen(t, Options{Dir: dir, Budget: 4 << 20, SegmentBytes: 256 << 10, Keys: keys})
		k := key(0, 0)
		copy(k.Name[:], "the name of a block of a secret!")
		secret := bytes.Repeat([]byte("the KV of a secret prompt. "), 5000)
		for i := range 6 {
			k.Part = uint16(i)
			if err := put(t.Context(), s, k, secret, kvstore.Hint{}); err != nil {
				t.Fatal(err)
			}
		}
		read := func() (all []byte) {
			files, _ := filepath.Glob(filepath.Join(dir, "*"))
			for _, f := range files {
				data, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, data...)
			}
			return all
		}
		open := read()
		mustClose(t, s)
		for _, all := range [][]byte{open, read()} {
			for _, word := range [][]byte{[]byte("secret prompt"), k.Name[:]} {
				if bytes.Contains(all, word) != (name == "clear") {
					t.Errorf("%s: %q is found: %t", name, word, name != "clear")
				}
			}
		}
	}
}

// TestKeysAreRotated: a new key on top writes, the old one reads; without the old one its blocks are misses and their room is
// used again; a folder in the clear is nothing to a store with keys.
func TestKeysAreRotated(t *testing.T) {
	_, first := keyring.New()
	_, second := keyring.New()
	ring := func(lines string) *keyring.Ring {
		r, err := keyring.Parse([]byte(lines))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	o := Options{Dir: filepath.Join(t.TempDir(), "kv"), Budget: 1 << 20}
	with := func(keys *keyring.Ring, do func(*Store)) {
		o.Keys = keys
		s := mustOpen(t, o)
		do(s)
		mustClose(t, s)
	}
	with(nil, func(s *Store) { mustPut(t, s, key(1, 0), 1, 5000) })
	with(ring(first), func(s *Store) {
		if get(t, s, key(1, 0)) != nil {
			t.Error("a block in the clear was taken by a store with keys")
		}
		mustPut(t, s, key(2, 0), 1, 5000)
	})
	with(ring(second+"\n"+first), func(s *Store) {
		mustGet(t, s, key(2, 0), 1, 5000)
		mustPut(t, s, key(3, 0), 1, 5000)
	})
	with(ring(second), func(s *Store) {
		if get(t, s, key(2, 0)) != nil {
			t.Error("a block is read without its key")
		}
		mustGet(t, s, key(3, 0), 1, 5000)
		for i := range 100 {
			mustPut(t, s, key(100+i, 0), 1, 20_000)
		}
		mustGet(t, s, key(199, 0), 1, 20_000)
		if d := s.Detail(); d.Live < 500_000 {
			t.Errorf("%d bytes live: the room of what cannot be read is not used", d.Live)
		}
	})
	with(nil, func(s *Store) {
		if n := s.Stats().Blocks; n != 0 {
			t.Errorf("%d blocks are read without a key", n)
		}
	})
}
