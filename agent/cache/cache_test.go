package cache

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// live opens a cache and runs it until stop.
func live(t *testing.T, kv jobspecs.KV) (c *Cache, stop func()) {
	t.Helper()
	c, err := Open(t.Context(), Options{Tiers: kv, Owner: "chat-mixed", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { c.Run(ctx) })
	return c, sync.OnceFunc(func() {
		cancel()
		run.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func put(t *testing.T, c *Cache, n byte) {
	t.Helper()
	b, err := c.Alloc().Alloc(10_000)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	copy(b.Bytes(), bytes.Repeat([]byte{n}, 10_000))
	if err := c.Store().Put(t.Context(), key(n), b.Seal(), kvstore.Hint{}); err != nil {
		t.Fatal(err)
	}
}

func key(n byte) kvstore.Key { return kvstore.Key{Name: kvstore.Name{n}} }

func has(t *testing.T, c *Cache, n byte) bool {
	t.Helper()
	b, err := c.Store().Get(t.Context(), key(n))
	if err != nil {
		return false
	}
	defer b.Release()
	if b.Bytes()[5] != n {
		t.Fatal("wrong bytes")
	}
	return true
}

// TestNextRunIsWarm: what is flushed is there for the next run of the same owner, and a run beside it has its own folder.
func TestNextRunIsWarm(t *testing.T) {
	kv := jobspecs.KV{Host: 1 << 20, Disk: jobspecs.KVDisk{Path: filepath.Join(t.TempDir(), "kv"), Size: 16 << 20}}
	first, stop := live(t, kv)
	put(t, first, 1)
	beside, stopBeside := live(t, kv)
	defer stopBeside()
	if has(t, beside, 1) {
		t.Error("two runs share one folder")
	}
	first.Flush(t.Context())
	stop()
	next, stop := live(t, kv)
	defer stop()
	if !has(t, next, 1) {
		t.Error("the next run has nothing")
	}
}

// TestUnusableDisk: a folder that can't be used costs the disk tier and nothing else.
func TestUnusableDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, stop := live(t, jobspecs.KV{Disk: jobspecs.KVDisk{Path: path, Size: 16 << 20}})
	defer stop()
	put(t, c, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c.Flush(ctx)
	if !has(t, c, 1) {
		t.Error("host memory has nothing either")
	}
}

// TestAnotherClusterIsWarm: what is flushed to the object store is there for a run elsewhere, whose disk and memory are empty;
// encrypted by one line, and of no use without the key.
func TestAnotherClusterIsWarm(t *testing.T) {
	bucket := jobspecs.KVObject{URL: "file://" + filepath.Join(t.TempDir(), "bucket")}
	_, text := keyring.New()
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	kv := func() jobspecs.KV {
		return jobspecs.KV{Disk: jobspecs.KVDisk{Path: filepath.Join(t.TempDir(), "kv"), Size: 16 << 20}, Object: &bucket, KeyFile: keys}
	}
	first, stop := live(t, kv())
	put(t, first, 1)
	first.Flush(t.Context())
	stop()
	next, stop := live(t, kv())
	if !has(t, next, 1) {
		t.Error("the next run has nothing")
	}
	stop()
	clear := kv()
	clear.KeyFile = ""
	without, stop := live(t, clear)
	defer stop()
	if has(t, without, 1) {
		t.Error("without its key a block is there")
	}
	if _, err := Open(t.Context(), Options{Tiers: jobspecs.KV{Object: &bucket, KeyFile: keys + "none"}, Owner: "x", Log: zerolog.Nop()}); err == nil {
		t.Error("without the key file blocks are written in the clear")
	}
}

func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int64, change int64) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if change >= 0 {
			_, _ = f.WriteAt([]byte{1}, change)
		}
		return path
	}
	fp := func(path string) string {
		s, err := Fingerprint(path)
		if err != nil || len(s) != 32 {
			t.Fatal(s, err)
		}
		return s
	}
	const big = 200 << 20
	a := fp(write("a", big, -1))
	for name, other := range map[string]string{
		"size": write("b", big+1, -1), "head": write("c", big, 100), "tail": write("d", big, big-1), "sample": write("e", big, headBytes),
		"small": write("f", 100, -1),
	} {
		if fp(other) == a {
			t.Errorf("%s: other weights have the same fingerprint", name)
		}
	}
	if fp(write("other-name", big, -1)) != a {
		t.Error("the name of a single file counts")
	}
	write("m1/config.json", 10, -1)
	write("m1/x.safetensors", big, -1)
	write("m2/config.json", 10, -1)
	write("m2/x.safetensors", big, -1)
	write("m2/.hidden", 10, -1)
	if fp(filepath.Join(dir, "m1")) != fp(filepath.Join(dir, "m2")) {
		t.Error("a hidden file counts")
	}
	write("m2/config.json", 10, 5)
	if fp(filepath.Join(dir, "m1")) == fp(filepath.Join(dir, "m2")) {
		t.Error("another configuration has the same fingerprint")
	}
	if _, err := Fingerprint(filepath.Join(dir, "none")); err == nil {
		t.Error("no file has a fingerprint")
	}
}
