package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/disk"
	"github.com/penstock/penstock/kvstore/object"
)

// kvKey is a block's key in the space of one of two tenants.
func kvKey(tenant byte, n int) kvstore.Key {
	return kvstore.Key{Space: kvstore.Space{0xa0, tenant}, Name: kvstore.OpaqueName(fmt.Sprint(n))}
}

func kvBlock(n, size int) []byte { return bytes.Repeat([]byte{byte(n), 1, 2, 3}, size/4) }

const kvSize = 40_000

// kvFolder puts ten blocks into a disk tier at DIR/chat-mixed-0.
func kvFolder(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := disk.Open(t.Context(), disk.Options{Dir: filepath.Join(dir, "chat-mixed-0"), Budget: 16 << 20, Buffered: true, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	fillKV(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// kvBucket puts ten blocks into an object tier, each an object of its own, or packed.
func kvBucket(t *testing.T, dir string, packBelow int) {
	t.Helper()
	s, err := object.Open(t.Context(), object.Options{URL: "file://" + dir, PackBelow: packBelow, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	fillKV(t, s)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func fillKV(t *testing.T, s kvstore.Store) {
	t.Helper()
	for i := range 10 {
		b := kvstore.NewBlock(kvBlock(i, kvSize), nil).Seal()
		if err := s.Put(t.Context(), kvKey(byte(i%2), i), b, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
}

// kvPlaces are the same ten blocks in a folder and in two buckets.
func kvPlaces(t *testing.T) (*terminal, map[string][]string) {
	t.Helper()
	tt := newTerminal(t, nil)
	kvFolder(t, filepath.Join(tt.Dir, "disk"))
	kvBucket(t, filepath.Join(tt.Dir, "apart"), -1)
	kvBucket(t, filepath.Join(tt.Dir, "packed"), 0)
	url := func(name string) string { return "file://" + filepath.Join(tt.Dir, name) }
	return tt, map[string][]string{"disk": {"--disk", "disk"}, "apart": {"--object", url("apart")}, "packed": {"--object", url("packed")}}
}

func TestKVPlaces(t *testing.T) {
	t.Parallel()
	tt, places := kvPlaces(t)
	for name, where := range places {
		run := func(words ...string) (string, string) {
			t.Helper()
			code, out, talk := tt.run(append(append([]string{"kv"}, words...), where...)...)
			if code != 0 {
				t.Errorf("%s: kv %v: exit %d: %s%s", name, words, code, out, talk)
			}
			return out, talk
		}
		out, _ := run("stat", "--json")
		if tier, _ := document(t, "kv stat", out, "penstock.kv_stat/v1")["tiers"].([]any)[0].(map[string]any); tier["blocks"] != 10.0 || tier["bytes"].(float64) < 10*kvSize {
			t.Errorf("%s: %v", name, tier)
		}
		if out, _ = run("stat"); !strings.Contains(out, "\n") || !strings.Contains(out, " 10 ") {
			t.Errorf("%s: stat:\n%s", name, out)
		}
		if out, _ = run("ls"); strings.Count(out, "\n") != 11 || !strings.Contains(out, kvKey(1, 3).String()) || !strings.Contains(out, "39.1 KiB") {
			t.Errorf("%s: ls:\n%s", name, out)
		}
		if out, talk := run("ls", "--limit", "3"); strings.Count(out, "\n") != 4 || !strings.Contains(talk, "--limit 0") {
			t.Errorf("%s: ls of three:\n%s%s", name, out, talk)
		}
		out, _ = run("ls", "--json", "--limit", "1")
		if key, _ := document(t, "kv ls", out, "penstock.kv_block/v1")["key"].(string); len(key) != len(keyText(kvKey(0, 0))) {
			t.Errorf("%s: ls of one: %s", name, out)
		}
		if out, _ = run("verify"); !strings.Contains(out, "10 blocks, 391 KiB, read in ") || !strings.Contains(out, ": 0 corrupt, 0 unreadable") {
			t.Errorf("%s: verify:\n%s", name, out)
		}
	}
}

// TestKVGet: a block goes into a new file of its owner's and nowhere else.
func TestKVGet(t *testing.T) {
	t.Parallel()
	tt, places := kvPlaces(t)
	for name, where := range places {
		get := func(code int, want string, words ...string) string {
			t.Helper()
			got, out, talk := tt.run(append(append([]string{"kv", "get"}, words...), where...)...)
			if got != code || !strings.Contains(talk, want) {
				t.Errorf("%s: kv get %v: exit %d: %s", name, words, got, talk)
			}
			return out
		}
		file, key := name+".bin", kvKey(1, 3)
		get(0, "39.1 KiB of block "+key.String(), key.String(), "--out", file)
		path := filepath.Join(tt.Dir, file)
		if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, kvBlock(3, kvSize)) {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		if info, err := os.Stat(path); err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", name, info.Mode())
		}
		get(ExitError, "is there already", key.String(), "--out", file)
		if out := get(0, "", keyText(key), "--out", "-"); out != string(kvBlock(3, kvSize)) {
			t.Errorf("%s: %d bytes come out of the pipe", name, len(out))
		}
		get(ExitUsage, "--out", key.String())
		get(ExitUsage, "several tenants'", "a0/"+key.String()[9:10]+"/0", "--out", "x")
		get(ExitUsage, "no block's name", "a0/xy/0", "--out", "x")
		get(ExitUsage, "no block's name", "a0", "--out", "x")
		get(ExitNotFound, "there is no block", "a1/00/0", "--out", "x")
		tt.OutTTY = true
		get(ExitUsage, "terminal", key.String(), "--out", "-")
		tt.OutTTY = false
	}
}

// TestKVVerifyFindsDamage: a flipped bit is named, is exit status 1, and is gone afterwards.
func TestKVVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	tt, places := kvPlaces(t)
	for name, where := range places {
		needle := kvBlock(3, kvSize)
		flipped := 0
		err := filepath.WalkDir(filepath.Join(tt.Dir, name), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if at := bytes.Index(data, needle); at >= 0 {
				data[at+kvSize/2] ^= 8
				flipped++
				return os.WriteFile(path, data, 0o600)
			}
			return err
		})
		if err != nil || flipped != 1 {
			t.Fatalf("%s: %v, the block is in %d files", name, err, flipped)
		}
		code, out, talk := tt.run(append([]string{"kv", "verify"}, where...)...)
		if code != ExitError || !strings.Contains(out, "corrupt     "+keyText(kvKey(1, 3))) || !strings.Contains(talk, "1 blocks are corrupt") {
			t.Errorf("%s: exit %d:\n%s%s", name, code, out, talk)
		}
		code, out, _ = tt.run(append([]string{"kv", "verify", "--json"}, where...)...)
		if doc := document(t, "kv verify", out, "penstock.kv_verify/v1"); code != 0 || doc["blocks"] != 9.0 {
			t.Errorf("%s: again: exit %d, %v", name, code, doc)
		}
	}
}

func TestKVCollect(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	dir := filepath.Join(tt.Dir, "bucket")
	s, err := object.Open(t.Context(), object.Options{URL: "file://" + dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		b := kvstore.NewBlock(kvBlock(i, 1<<20), nil).Seal()
		if err := s.Put(t.Context(), kvKey(0, i), b, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	where := []string{"--object", "file://" + dir}
	for _, c := range []struct{ line, want string }{
		{"--budget 2100KiB --dry-run", "would remove 2 objects, 2.0 MiB; 2, 2.0 MiB are left"},
		{"--budget 2100KiB", "removed 2 objects, 2.0 MiB; 2, 2.0 MiB are left"},
		{"--max-age 1h", "removed 0 objects, 0 B; 2, 2.0 MiB are left"},
	} {
		code, out, talk := tt.run(append(append([]string{"kv", "gc"}, strings.Fields(c.line)...), where...)...)
		if code != 0 || !strings.Contains(out, c.want) {
			t.Errorf("gc %s: exit %d: %s%s", c.line, code, out, talk)
		}
	}
	folder := filepath.Join(tt.Dir, "disk")
	d, err := disk.Open(t.Context(), disk.Options{Dir: folder, Budget: 64 << 20, SegmentBytes: 1 << 20, Buffered: true, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		b := kvstore.NewBlock(kvBlock(i, 200<<10), nil).Seal()
		if err := d.Put(t.Context(), kvKey(0, i), b, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, talk := tt.run("kv", "gc", "--disk", folder, "--budget", "4MiB", "--json")
	place, _ := document(t, "kv gc", out, "penstock.kv_gc/v1")["places"].([]any)[0].(map[string]any)
	if left, _ := place["left_bytes"].(float64); code != 0 || left > 4<<20 || left == 0 || place["removed"].(float64) < 20 {
		t.Errorf("gc of a folder: exit %d, %v: %s", code, place, talk)
	}
}

func TestKVBench(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	for _, where := range [][]string{{"--disk", tt.Dir}, {"--object", "file://" + filepath.Join(tt.Dir, "bucket")}} {
		if err := os.MkdirAll(filepath.Join(tt.Dir, "bucket"), 0o700); err != nil {
			t.Fatal(err)
		}
		code, out, talk := tt.run(append([]string{"kv", "bench", "--size", "64KiB", "--total", "1MiB", "--parallel", "3"}, where...)...)
		if code != 0 || strings.Count(out, "\n") != 3 || !strings.Contains(out, "write") || !strings.Contains(talk, "16 blocks of 64 KiB") {
			t.Errorf("exit %d:\n%s%s", code, out, talk)
		}
	}
	left, err := filepath.Glob(filepath.Join(tt.Dir, "*", "penstock-bench-*"))
	more, _ := filepath.Glob(filepath.Join(tt.Dir, "penstock-bench-*"))
	if err != nil || len(left)+len(more) > 0 {
		t.Errorf("left behind: %v %v, %v", left, more, err)
	}
}

func TestKVMistakes(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	if err := os.Mkdir(filepath.Join(tt.Dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	kvFolder(t, filepath.Join(tt.Dir, "held"))
	holder, err := disk.Open(t.Context(), disk.Options{Dir: filepath.Join(tt.Dir, "held", "chat-mixed-0"), Budget: 16 << 20, Buffered: true, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	for line, want := range map[string]struct {
		code int
		talk string
	}{
		"kv verify":                                 {ExitUsage, "--disk DIR or --object URL"},
		"kv verify --disk a --object file:///b":     {ExitUsage, "not on both"},
		"kv verify --disk a --endpoint x":           {ExitUsage, "belong to --object"},
		"kv verify --disk nothing":                  {ExitNotFound, "does not exist"},
		"kv verify --disk empty":                    {ExitNotFound, "no KV blocks lie in"},
		"kv verify --disk held":                     {ExitError, "penstock kv ls DEPLOYMENT"},
		"kv verify --object file:///nothing/at/all": {ExitNotFound, "does not exist"},
		"kv verify --object ftp://x":                {ExitError, "ftp://x"},
		"kv verify --disk empty --key-file none":    {ExitError, "none"},
		"kv stat chat --disk empty":                 {ExitUsage, "not both"},
		"kv stat chat --deployment other":           {ExitUsage, "two deployments"},
		"kv ls --replica mixed/0":                   {ExitUsage, "--replica needs a deployment"},
		"kv gc --disk empty":                        {ExitUsage, "--budget SIZE"},
		"kv gc --disk empty --budget 3":             {ExitUsage, "at least 1MiB"},
		"kv gc --disk empty --max-age 1h":           {ExitUsage, "--budget alone"},
		"kv gc --object file:///x --max-age -1h":    {ExitUsage, "no age"},
		"kv flush --within 0s":                      {ExitUsage, "some time"},
		"kv bench --disk empty --size 1KiB":         {ExitUsage, "--size"},
		"kv bench --disk empty --total 1KiB":        {ExitUsage, "--total"},
		"kv bench --disk empty --parallel 0":        {ExitUsage, "--parallel"},
		"kv bench --disk nothing":                   {ExitNotFound, "no such file"},
		"kv stat":                                   {ExitError, "no controller answers"},
	} {
		if code, out, talk := tt.run(strings.Fields(line)...); code != want.code || out != "" || !strings.Contains(talk, want.talk) {
			t.Errorf("%s: exit %d: %s%s", line, code, out, talk)
		}
	}
}
