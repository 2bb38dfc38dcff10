package folder

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
	"github.com/penstock/penstock/kvstore/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open takes over a folder, with a store below it or none.
func open(t *testing.T, dir string, s *mem.Store, change func(*Options)) *Folder {
	t.Helper()
	o := Options{Dir: dir, Sub: "w1", Budget: 1 << 30, Alloc: s, Counts: front.NewMetrics(nil).Door("folder"), Log: zerolog.Nop()}
	if s != nil {
		o.Store = s
	}
	if change != nil {
		change(&o)
	}
	f, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// write plays an engine.
func write(t *testing.T, dir, name string, n int, age time.Duration) string {
	t.Helper()
	path := filepath.Join(dir, "w1", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content(name, n), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-age)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	return path
}

func content(name string, n int) []byte { return bytes.Repeat([]byte(name+"."), n)[:n] }

func block(i, rank int) string { return fmt.Sprintf("m_abc_r%d/0a1/b%d_g0/%064d.bin", rank, i, i) }

// TestDownAndBack: what an engine writes on one node is in another node's folder, byte for byte, and its notes are not.
func TestDownAndBack(t *testing.T) {
	t.Parallel()
	s := mem.New(mem.Options{Bytes: 64 << 20})
	here, there := filepath.Join(t.TempDir(), "kv"), filepath.Join(t.TempDir(), "kv")
	f := open(t, here, s, nil)
	for i := range 5 {
		write(t, here, block(i, 0), 10_000+i, time.Minute)
	}
	write(t, here, "m_abc/config.json", 100, time.Minute)
	write(t, here, block(9, 0), 100, 0) // is being written, for all we know
	f.Look(t.Context(), time.Now())
	if got := f.Stats(); got.Copied != 5 || got.Files != 6 || got.Unread != 1 || got.Errors != 0 {
		t.Fatalf("%+v", got)
	}
	g := open(t, there, s, nil)
	g.scan(time.Now())
	g.restore(t.Context())
	for i := range 5 {
		got, err := os.ReadFile(filepath.Join(there, "w1", block(i, 0)))
		if err != nil || !bytes.Equal(got, content(block(i, 0), 10_000+i)) {
			t.Errorf("block %d: %d bytes, %v", i, len(got), err)
		}
	}
	if got := g.Stats(); got.Restored != 5 || got.Files != 5 {
		t.Errorf("%+v", got)
	}
	if other := open(t, filepath.Join(t.TempDir(), "kv"), s, func(o *Options) { o.Space = kvstore.Space{1} }); true {
		if other.restore(t.Context()); other.Stats().Restored != 0 {
			t.Error("blocks of another space came")
		}
	}
}

// TestEvictsGroups: the least used go, each with all of its ranks' parts, also those of other weights.
func TestEvictsGroups(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kv")
	f := open(t, dir, nil, func(o *Options) { o.Budget = 100_000 })
	for i := range 10 {
		for rank := range 2 {
			write(t, dir, block(i, rank), 10_000, time.Duration(10-i)*time.Hour)
		}
	}
	f.Look(t.Context(), time.Now())
	got := f.Stats()
	if got.Bytes > 100_000 || got.Bytes < 70_000 || got.Evicted != 20-got.Files {
		t.Errorf("%+v", got)
	}
	for i := range 10 {
		_, err0 := os.Stat(filepath.Join(dir, "w1", block(i, 0)))
		_, err1 := os.Stat(filepath.Join(dir, "w1", block(i, 1)))
		if (err0 == nil) != (err1 == nil) || (err0 == nil) != (i >= 10-int(got.Files/2)) {
			t.Errorf("block %d: %v, %v", i, err0, err1)
		}
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	for _, same := range [][2]string{
		{"m_abc_r0/0a1/b1_g0/x.bin", "m_abc_r11/0a1/b1_g0/x.bin"}, {"hash_m-8b_0_2.bin", "hash_m-8b_1_2.bin"}, {"hash_m_0_2_k", "hash_m_1_2_v"},
	} {
		if groupOf(same[0]) != groupOf(same[1]) {
			t.Errorf("%s and %s are two groups", same[0], same[1])
		}
	}
	for _, other := range [][2]string{{"m_r0/0a1/b1_g0/x.bin", "m_r0/0a1/b1_g1/x.bin"}, {"hash1_m_0_2.bin", "hash2_m_0_2.bin"}} {
		if groupOf(other[0]) == groupOf(other[1]) {
			t.Errorf("%s and %s are one group", other[0], other[1])
		}
	}
}

// TestChangedByItself: a block whose bytes change and whose time does not is deleted when it is read again, before it goes
// anywhere; one that the engine has written anew is a new block.
func TestChangedByItself(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kv")
	f := open(t, dir, nil, nil)
	bad, good := write(t, dir, block(1, 0), 5000, time.Minute), write(t, dir, block(2, 0), 5000, time.Minute)
	f.Look(t.Context(), time.Now())
	info, err := os.Stat(bad)
	if err != nil {
		t.Fatal(err)
	}
	data := content(block(1, 0), 5000)
	data[77] ^= 1
	if err := os.WriteFile(bad, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(bad, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	write(t, dir, block(2, 0), 6000, time.Second*30)
	f.Look(t.Context(), time.Now().Add(time.Minute))
	if _, err := os.Stat(bad); !os.IsNotExist(err) {
		t.Errorf("the damaged block is there: %v", err)
	}
	if _, err := os.Stat(good); err != nil || f.Stats().Corrupt != 1 || f.Stats().Bytes != 6000 {
		t.Errorf("%v, %+v", err, f.Stats())
	}
}

// TestLinks: nothing is read, counted or deleted through a link, and no file that has another name.
func TestLinks(t *testing.T) {
	t.Parallel()
	s := mem.New(mem.Options{Bytes: 16 << 20})
	dir, outside := filepath.Join(t.TempDir(), "kv"), t.TempDir()
	f := open(t, dir, s, func(o *Options) { o.Budget = 1 })
	secret := filepath.Join(outside, "secret.bin")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(string) error{
		"link.bin": func(p string) error { return os.Symlink(secret, p) }, "hard.bin": func(p string) error { return os.Link(secret, p) },
		"folder": func(p string) error { return os.Symlink(outside, p) },
	} {
		if err := make(filepath.Join(dir, "w1", name)); err != nil {
			t.Fatal(err)
		}
	}
	f.Look(t.Context(), time.Now().Add(time.Hour))
	if got := f.Stats(); got.Files != 0 || got.Copied != 0 || s.Stats().Puts != 0 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(secret); err != nil {
		t.Error(err)
	}
	// What comes back from a store does not leave the folder either.
	if err := os.Remove(filepath.Join(dir, "w1", "folder")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "w1", "m")); err != nil {
		t.Fatal(err)
	}
	if err := f.write("w1/m/x.bin", kvstore.NewBlock([]byte("x"), nil).Seal()); err == nil {
		t.Error("it was written through a link")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	public, link := filepath.Join(dir, "public"), filepath.Join(dir, "link")
	if err := os.Mkdir(public, 0o755); err != nil { //nolint:gosec // that is the point
		t.Fatal(err)
	}
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{Dir: public, Sub: "w"}, {Dir: link, Sub: "w"}, {Dir: filepath.Join(dir, "x"), Sub: "../w"}} {
		if f, err := Open(o); err == nil {
			_ = f.Close()
			t.Errorf("%s with %s was opened", o.Dir, o.Sub)
		}
	}
}
