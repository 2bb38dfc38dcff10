package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

func key(n, part int) kvstore.Key {
	return kvstore.Key{Space: kvstore.Space{1}, Name: kvstore.OpaqueName(fmt.Sprint(n)), Part: uint16(part)}
}

func put(t *testing.T, s *Store, k kvstore.Key, data []byte) {
	t.Helper()
	b := kvstore.NewBlock(data, nil).Seal()
	defer b.Release()
	if err := s.Put(t.Context(), k, b, kvstore.Hint{}); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s *Store, k kvstore.Key) []byte {
	t.Helper()
	b, err := s.Get(t.Context(), k)
	if err != nil {
		if !kvstore.IsMiss(err) || errors.Is(err, kvstore.ErrUnavailable) {
			t.Fatal(err)
		}
		return nil
	}
	defer b.Release()
	return bytes.Clone(b.Bytes())
}

func data(n, size int) []byte { return bytes.Repeat([]byte{byte(n), byte(n >> 8), 7}, size/3+1)[:size] }

func mustSync(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func testFolder(t *testing.T) *folder {
	t.Helper()
	f, err := openFolder(filepath.Join(t.TempDir(), "kv"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func openTest(t *testing.T, o Options, b bucket) *Store {
	t.Helper()
	s := openOnTest(t, o, b)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// age makes all files older.
func age(t *testing.T, f *folder, d time.Duration) {
	t.Helper()
	err := f.List(t.Context(), "", func(name string, st stat) error {
		at := st.modified.Add(-d)
		return os.Chtimes(f.path(name), at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCollectByAge: what is old goes, packed or not, with its marks; what was read meanwhile stays.
func TestCollectByAge(t *testing.T) {
	f := testFolder(t)
	s := openTest(t, Options{MaxAge: time.Hour, PackBelow: 1000}, f)
	put(t, s, key(1, 0), data(1, 500))
	put(t, s, key(2, 0), data(2, 500))
	put(t, s, key(3, 0), data(3, 5000))
	put(t, s, key(4, 0), data(4, 5000))
	mustSync(t, s)
	if err := s.Delete(t.Context(), key(2, 0)); err != nil {
		t.Fatal(err)
	}
	age(t, f, 2*time.Hour)
	put(t, s, key(5, 0), data(5, 500))
	mustSync(t, s)
	if err := f.Touch(t.Context(), blockName(key(4, 0))); err != nil { // as a reader does
		t.Fatal(err)
	}
	c, err := s.Collect(t.Context(), Collection{})
	if err != nil || c.Removed != 2 || c.Kept != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	for n, want := range map[int][]byte{1: nil, 2: nil, 3: nil, 4: data(4, 5000), 5: data(5, 500)} {
		if got := get(t, s, key(n, 0)); !bytes.Equal(got, want) {
			t.Errorf("block %d: %d bytes, want %d", n, len(got), len(want))
		}
	}
	if err := f.List(t.Context(), "d/", func(name string, _ stat) error { return fmt.Errorf("%s is left", name) }); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Bytes != c.KeptBytes || st.Blocks != 2 {
		t.Errorf("after a collection: %+v", st)
	}
}

// TestCollectByBudget: the oldest go until the rest fits, all parts of a block together.
func TestCollectByBudget(t *testing.T) {
	f := testFolder(t)
	s := openTest(t, Options{Budget: 50_000, PackBelow: -1}, f)
	for n := range 10 {
		for part := range 2 {
			put(t, s, key(n, part), data(n, 5000))
			at := time.Now().Add(time.Duration(n*2-100+part) * time.Minute)
			if err := os.Chtimes(f.path(blockName(key(n, part))), at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	c, err := s.Collect(t.Context(), Collection{})
	if err != nil || c.KeptBytes > 50_000 || c.Kept != 8 {
		t.Errorf("%+v, %v", c, err)
	}
	for n := range 10 {
		for part := range 2 {
			if got := get(t, s, key(n, part)); (got != nil) != (n >= 6) {
				t.Errorf("block %d, part %d: found %t", n, part, got != nil)
			}
		}
	}
}

// TestReadersKeepBlocksYoung: a block that is read when half of its time is over is made young again.
func TestReadersKeepBlocksYoung(t *testing.T) {
	f := testFolder(t)
	s := openTest(t, Options{MaxAge: time.Nanosecond, PackBelow: 1000}, f)
	put(t, s, key(1, 0), data(1, 500))
	put(t, s, key(2, 0), data(2, 5000))
	mustSync(t, s)
	age(t, f, time.Hour)
	get(t, s, key(1, 0))
	get(t, s, key(2, 0))
	s.patience.running.Wait()
	for _, prefix := range []string{"b/", "p/"} {
		err := f.List(t.Context(), prefix, func(name string, st stat) error {
			if time.Since(st.modified) > 30*time.Minute {
				return fmt.Errorf("%s is as old as before", name)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestSeveralClusters: stores that know nothing of each other write, read, delete and collect in one bucket at one time. What
// any of them finds is right.
func TestSeveralClusters(t *testing.T) {
	f := testFolder(t)
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			s := openTest(t, Options{Budget: 150_000, PackBelow: 3000, PackBytes: 64 << 10}, f)
			for i := range 120 {
				n := (i*7 + w*40) % 60
				size := 1000 + n*100
				switch i % 6 {
				case 0:
					if err := s.Refresh(t.Context()); err != nil {
						t.Error(err)
					}
				case 1:
					if _, err := s.Collect(t.Context(), Collection{}); err != nil {
						t.Error(err)
					}
				case 2:
					if err := s.Delete(t.Context(), key(n, 0)); err != nil {
						t.Error(err)
					}
				case 3:
					put(t, s, key(n, 0), data(n, size))
				default:
					if got := get(t, s, key(n, 0)); got != nil && !bytes.Equal(got, data(n, size)) {
						t.Errorf("block %d: wrong bytes", n)
					}
				}
			}
			if c := s.Stats().Corrupt; c != 0 {
				t.Errorf("%d blocks were corrupt", c)
			}
		})
	}
	wg.Wait()
}

// TestTheNextJob finds what another one has put, and what it deleted stays away, at once or after a refresh.
func TestTheNextJob(t *testing.T) {
	f := testFolder(t)
	first := openTest(t, Options{PackBelow: 1000}, f)
	early := openTest(t, Options{PackBelow: 1000}, f)
	put(t, first, key(1, 0), data(1, 500))
	put(t, first, key(2, 0), data(2, 500))
	put(t, first, key(3, 0), data(3, 5000))
	mustSync(t, first)
	if err := first.Delete(t.Context(), key(2, 0)); err != nil {
		t.Fatal(err)
	}
	late := openTest(t, Options{PackBelow: 1000}, f)
	if err := early.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*Store{"early": early, "late": late} {
		for n, want := range map[int][]byte{1: data(1, 500), 2: nil, 3: data(3, 5000)} {
			if got := get(t, s, key(n, 0)); !bytes.Equal(got, want) {
				t.Errorf("%s: block %d: %d bytes, want %d", name, n, len(got), len(want))
			}
		}
	}
}

// TestSameIsNotSentAgain: a block that is there already costs no second object; another one of its key replaces it.
func TestSameIsNotSentAgain(t *testing.T) {
	f := testFolder(t)
	s := openTest(t, Options{PackBelow: -1}, f)
	put(t, s, key(1, 0), data(1, 5000))
	written := s.Stats().WrittenBytes
	put(t, s, key(1, 0), data(1, 5000))
	if d := s.Detail(); d.Same != 1 || s.Stats().WrittenBytes != written {
		t.Errorf("%d puts were the same, %d bytes more were written", d.Same, s.Stats().WrittenBytes-written)
	}
	put(t, s, key(1, 0), data(2, 5000))
	if got := get(t, s, key(1, 0)); !bytes.Equal(got, data(2, 5000)) {
		t.Error("the new block is not there")
	}
}

// TestNothingIsReadable: neither blocks nor footers are in the bucket in the clear, and a store without the key, or with
// another one, has misses that it does not take for damage.
func TestNothingIsReadable(t *testing.T) {
	ring, _ := keyring.New()
	other, _ := keyring.New()
	f := testFolder(t)
	o := Options{Keys: ring, PackBelow: 1000}
	s := openTest(t, o, f)
	secret := bytes.Repeat([]byte("the KV of a secret prompt. "), 200)
	put(t, s, key(1, 0), secret[:500])
	put(t, s, key(2, 0), secret)
	mustSync(t, s)
	_ = f.List(t.Context(), "", func(name string, _ stat) error {
		body, err := f.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		all, _ := io.ReadAll(body)
		if k := key(1, 0); bytes.Contains(all, []byte("secret")) || bytes.Contains(all, k.Name[:]) {
			t.Errorf("%s can be read", name)
		}
		return nil
	})
	for name, keys := range map[string]*keyring.Ring{"none": nil, "another": other} {
		s := openTest(t, Options{Keys: keys, PackBelow: 1000}, f)
		for n := range 3 {
			if b, err := s.Get(t.Context(), key(n, 0)); err == nil {
				b.Release()
				t.Errorf("%s: block %d is read", name, n)
			}
		}
		if st := s.Stats(); st.Corrupt != 0 {
			t.Errorf("%s: %d blocks are taken for damaged", name, st.Corrupt)
		}
	}
	if again := openTest(t, o, f); !bytes.Equal(get(t, again, key(2, 0)), secret) {
		t.Error("the block is gone")
	}
}

func TestManifest(t *testing.T) {
	ring, _ := keyring.New()
	s := openTest(t, Options{Keys: ring}, testFolder(t))
	l := kvstore.Layout{Weights: "sha256:abc", Engine: "vllm/1", DType: "bf16", Attention: "gqa", BlockTokens: 16, Ranks: 2}
	for range 2 {
		if err := s.Describe(t.Context(), l, "physics"); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.Spaces(t.Context())
	if err != nil || len(all) != 1 || all[0].Layout != l || all[0].Tenant != "physics" || all[0].Key != ring.Current().ID().String() ||
		all[0].Space != fmt.Sprintf("%x", kvstore.NewSpace(l, "physics")) {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestSentWhileLooking: a pack that is sent while the store lists is not taken for one that somebody has removed.
func TestSentWhileLooking(t *testing.T) {
	p := &patient{bucket: testFolder(t)}
	s := openTest(t, Options{PackBelow: 1000}, p)
	put(t, s, key(1, 0), data(1, 500))
	mustSync(t, s)
	p.after = func(op, name string) {
		if op == "list" && name == "p/" {
			p.after = nil
			put(t, s, key(2, 0), data(2, 500))
			mustSync(t, s)
		}
	}
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		if !bytes.Equal(get(t, s, key(n, 0)), data(n, 500)) {
			t.Errorf("block %d is gone", n)
		}
	}
}

// TestRun sends, looks and collects without being asked, also where the bucket was dead at first.
func TestRun(t *testing.T) {
	p := &patient{bucket: testFolder(t)}
	first := openTest(t, Options{PackBelow: 1000}, p)
	put(t, first, key(1, 0), data(1, 500))
	mustSync(t, first)
	o, err := Options{PackBelow: 1000, PackAge: time.Millisecond, Refresh: time.Millisecond, CollectEvery: time.Millisecond, Budget: 1 << 20, Cooldown: 1}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	p.set(func(string, string) error { return errReset })
	s := openOn(context.Background(), p, o)
	if err := s.Refresh(t.Context()); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("look at a dead bucket: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	p.set(nil)
	waitUntil(t, func() bool { _, err := s.Has(t.Context(), key(1, 0)); return err == nil })
	put(t, s, key(2, 0), data(2, 500))
	waitUntil(t, func() bool { st := s.Stats(); return s.Detail().Waiting == 0 && st.Blocks == 2 })
	cancel()
	if err := errors.Join(<-done, s.Close(context.Background())); err != nil {
		t.Error(err)
	}
}

func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}
