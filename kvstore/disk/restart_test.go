package disk

import (
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/kvstore"
)

// TestRestartOfAMillion: a million small blocks are found again after a restart from footers alone, in less than 200 bytes of
// memory each. How long it takes is a figure of the benchmarks.
func TestRestartOfAMillion(t *testing.T) {
	const n = 1_000_000
	if testing.Short() {
		t.Skip("-short")
	}
	o := Options{Dir: filepath.Join(t.TempDir(), "kv"), Budget: 2 << 30, SegmentBytes: 32 << 20, Buffered: true}
	s := mustOpen(t, o)
	var put errgroup.Group
	for w := range 4 {
		put.Go(func() error {
			for i := w; i < n; i += 4 {
				k := key(i, 0)
				b := kvstore.NewBlock(append([]byte(nil), k.Name[:8]...), nil).Seal()
				err := s.Put(t.Context(), k, b, kvstore.Hint{})
				b.Release()
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := put.Wait(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, o)
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
