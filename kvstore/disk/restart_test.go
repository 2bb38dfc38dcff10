package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

// TestRestartOfAMillion: a million small blocks are found again after a restart from footers alone, in less than 200 bytes of
// memory each. How long it takes is a figure of the benchmarks.
func TestRestartOfAMillion(t *testing.T) {
	const n, segments = 1_000_000, 20
	dir := filepath.Join(t.TempDir(), "kv")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range segments {
		makeSegment(t, dir, uint32(i+1), i*n/segments, n/segments)
	}
	s := mustOpen(t, Options{Dir: dir, Budget: 2 << 30, Buffered: true})
	defer mustClose(t, s)
	if st := s.Stats(); st.Blocks != n || st.ReadBytes != 0 || st.Corrupt != 0 {
		t.Fatalf("after the restart: %+v", st)
	}
	if d := s.Detail(); d.IndexBytes > 200*n {
		t.Errorf("%d bytes of memory for each block", d.IndexBytes/n)
	}
	for i := 0; i < n; i += 9973 {
		k := key(i, 0)
		if got := get(t, s, k); string(got) != string(k.Name[:8]) {
			t.Fatalf("%s holds %x", k, got)
		}
	}
}

// makeSegment writes a full segment of n small blocks, as a store would have.
func makeSegment(t *testing.T, dir string, number uint32, from, n int) {
	t.Helper()
	g, id, err := newSegment(number, 32<<20, grain, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := make([]byte, g.begin(), g.size)
	g.putHeader(file, id, time.Now())
	for i := range n {
		k := key(from+i, 0)
		r := record{key: k, size: 8, sum: kvstore.Checksum(k.Name[:8]), seq: uint64(from + i + 1), ordinal: uint32(i)}
		file = append(file, make([]byte, g.footprint(&r))...)
		g.seal.putRecord(file[g.tail:][:r.end(false)], g.tail, &r, k.Name[:8])
		g.lines = appendLine(g.lines, &r, g.tail)
		g.tail += g.footprint(&r)
	}
	at := roundUp(g.tail, page)
	file = append(file, make([]byte, at-g.tail)...)
	file = append(file, g.seal.footer(g.lines, at)...)
	if err := os.WriteFile(filepath.Join(dir, segmentName(number)), file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRestartReadsFooters: of a full segment nothing but its ends is read, however large it is.
func TestRestartReadsFooters(t *testing.T) {
	ring, _ := keyring.New()
	for name, keys := range map[string]*keyring.Ring{"clear": nil, "encrypted": ring} {
		m := newMemFS(true)
		o := Options{Dir: "memory", Budget: 16 << 20, Keys: keys}
		s := openMem(t, o, m)
		for i := range 20 {
			mustPut(t, s, key(i, 0), 1, 300_000)
		}
		mustClose(t, s)
		var reads atomic.Int64
		m.setBefore(func(op, _ string) error {
			if op == "read" {
				reads.Add(1)
			}
			return nil
		})
		s = openMem(t, o, m)
		m.setBefore(nil)
		if segments := s.Detail().Segments; reads.Load() > int64(4*segments) || s.Stats().Blocks != 20 {
			t.Errorf("%s: %d reads of %d segments, %d blocks", name, reads.Load(), segments, s.Stats().Blocks)
		}
		for i := range 20 {
			if !bytes.Equal(get(t, s, key(i, 0)), content(key(i, 0), 1, 300_000)) {
				t.Errorf("%s: block %d is gone", name, i)
			}
		}
		mustClose(t, s)
	}
}
