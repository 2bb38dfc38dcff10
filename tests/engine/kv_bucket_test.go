package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/s3/server"
)

// TestWarmFromBucket: the same conversation, from a real S3 server and nothing else: what one job has read before it was killed
// without a word, the next one does not read again, with memory that is empty and no disk. Another tenant finds nothing, and
// bits that were flipped in the bucket are misses that are counted.
func TestWarmFromBucket(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	weights := model(ctx, t)
	for _, kind := range server.Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			s3 := server.Start(t, kind)
			b := &kvBench{Installation: installation.ForTest(t), server: llama(ctx, t), object: fmt.Sprintf(
				"url: 's3://%s/chat', endpoint: '%s', credentialsFile: %s, caFile: %s", server.Bucket, s3.Endpoint(), s3.Login, s3.Cert)}
			b.MustRun(ctx, t, "serve", "--detach")
			prompt, secret := long(1)
			client := b.up(ctx, t, "chat", weights, "-t, 1")
			first := score(ctx, t, client, prompt)
			if first.cached != 0 || !strings.HasPrefix(first.text, secret) {
				t.Fatalf("the first answer: %q, %d tokens from a cache", first.text, first.cached)
			}
			b.flush(ctx, t)
			b.killAll()
			b.down(ctx, t, "chat")

			b.up(ctx, t, "chat", weights, "-t, 1")
			half := prompt[:len(prompt)/2]
			b.fromBelow(ctx, t, len(half)/kvBlock*kvBlock, func() scored {
				got := score(ctx, t, client, half+" something else entirely, tell: @K1=")
				if !strings.HasPrefix(got.text, secret) {
					t.Errorf("half a prompt: %q", got.text)
				}
				return got
			})
			b.restartEngine(ctx, t)
			b.fromBelow(ctx, t, first.prompt-kvBlock, func() scored {
				got := score(ctx, t, client, prompt)
				if !got.like(first) {
					t.Errorf("the answer is another one: %q instead of %q", got.text, first.text)
				}
				return got
			})
			b.stranger(ctx, t, prompt)
			b.down(ctx, t, "chat")

			if n := flipObjects(ctx, t, s3.Client()); n == 0 {
				t.Fatal("there are no objects to flip bits in")
			}
			b.coldly(ctx, t, b.up(ctx, t, "chat", weights, "-t, 1"), prompt, first)
			if n := b.tier(ctx, t, "object").Corrupt; n == 0 {
				t.Error("no block of the bucket was counted as corrupt")
			}
			b.MustRun(ctx, t, "stop", "--all", "--wait", "--timeout", "60s")
		})
	}
}

// TestFlippedBits: on disk, and in the memory of the agent that has the blocks, a flipped bit is a miss that is counted, and the
// answer is the same.
func TestFlippedBits(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	weights := model(ctx, t)
	b := &kvBench{Installation: installation.ForTest(t), server: llama(ctx, t), disk: filepath.Join(t.TempDir(), "kv")}
	b.MustRun(ctx, t, "serve", "--detach")
	prompt, _ := long(1)
	client := b.up(ctx, t, "chat", weights, "-t, 1")
	first := score(ctx, t, client, prompt)
	b.flush(ctx, t)
	b.down(ctx, t, "chat")
	block := b.someBlock(ctx, t)

	t.Run("in memory", func(t *testing.T) {
		b.up(ctx, t, "chat", weights, "-t, 1")
		b.warm(ctx, t, client, prompt, first) // and now the blocks are in host memory
		for _, agent := range b.Find("", "agent") {
			flipInMemory(t, agent.PID, block)
		}
		b.restartEngine(ctx, t) // what is in its slots goes with it
		if got := score(ctx, t, client, prompt); !got.like(first) {
			t.Errorf("the answer is another one: %q instead of %q", got.text, first.text)
		}
		if n := b.tier(ctx, t, "host").Corrupt; n == 0 {
			t.Error("no block of host memory was counted as corrupt")
		}
		b.down(ctx, t, "chat")
	})
	t.Run("on disk", func(t *testing.T) {
		flipRecords(t, b.disk)
		b.coldly(ctx, t, b.up(ctx, t, "chat", weights, "-t, 1"), prompt, first)
		if n := b.tier(ctx, t, "disk").Corrupt; n == 0 {
			t.Error("no block on disk was counted as corrupt")
		}
	})
	b.MustRun(ctx, t, "stop", "--all", "--wait", "--timeout", "60s")
}

// fromBelow asks until so many tokens of the prompt came out of the tiers, with an engine that has none of them: on a machine
// that is busy enough, a request goes on before they have come, and only the next one finds them.
func (b *kvBench) fromBelow(ctx context.Context, t *testing.T, tokens int, ask func() scored) {
	t.Helper()
	const times = 4
	for i := range times {
		got := ask()
		if got.cached >= tokens {
			return
		}
		t.Logf("%d of %d tokens were read again", got.prompt-got.cached, got.prompt)
		if i < times-1 {
			b.restartEngine(ctx, t)
		}
	}
	t.Errorf("%d tokens never came out of the tiers", tokens)
}

// flush has everything written down.
func (b *kvBench) flush(ctx context.Context, t *testing.T) {
	t.Helper()
	var doc struct {
		Replicas []struct {
			Left, Done bool
			Failed     int
		}
	}
	out := b.MustRun(ctx, t, "kv", "flush", "chat", "--within", "60s", "--json")
	if err := json.Unmarshal([]byte(out), &doc); err != nil || len(doc.Replicas) != 1 || doc.Replicas[0].Left || doc.Replicas[0].Failed > 0 {
		t.Fatalf("flush: %v: %s", err, out)
	}
}

type kvTier struct {
	Tier                  string
	Blocks, Hits, Corrupt int
}

// tier is what the only replica says of a tier.
func (b *kvBench) tier(ctx context.Context, t *testing.T, name string) kvTier {
	t.Helper()
	var doc struct{ Tiers []kvTier }
	out := b.MustRun(ctx, t, "kv", "stat", "chat", "--json")
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, tier := range doc.Tiers {
		if tier.Tier == name {
			return tier
		}
	}
	t.Fatalf("there is no tier %s: %s", name, out)
	return kvTier{}
}

// coldly asks when all blocks are damaged: all of the prompt is read, and the answer is the same.
func (b *kvBench) coldly(ctx context.Context, t *testing.T, c *installation.Client, prompt string, want scored) {
	t.Helper()
	got := score(ctx, t, c, prompt)
	if got.cached != 0 || !got.like(want) {
		t.Errorf("%d tokens from damaged blocks, %q instead of %q", got.cached, got.text, want.text)
	}
}

// stranger asks the same as another tenant, who has read nothing yet.
func (b *kvBench) stranger(ctx context.Context, t *testing.T, prompt string) {
	t.Helper()
	key := strings.TrimSpace(b.MustRun(ctx, t, "key", "create", "stranger", "--tenant", "others"))
	other := &installation.Client{URL: b.client.URL, Key: key}
	if got := score(ctx, t, other, prompt); got.cached != 0 {
		t.Errorf("another tenant got %d tokens from a cache", got.cached)
	}
}

// restartEngine kills the only engine and waits for the next one, of the same agent.
func (b *kvBench) restartEngine(ctx context.Context, t *testing.T) {
	t.Helper()
	killed := map[int]bool{}
	for _, p := range b.engines() {
		killed[p.PID] = true
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if len(killed) == 0 {
		t.Fatal("no engine runs")
	}
	_, err := b.Until(ctx, "the engine is started again", func(s installation.Status) bool {
		running := b.engines()
		return len(running) > 0 && !killed[running[0].PID] && len(s.Deployments) == 1 && s.Deployments[0].State == "ready"
	})
	if err != nil {
		t.Fatal(err)
	}
}

// flipObjects flips a bit in the middle of every object of the bucket.
func flipObjects(ctx context.Context, t *testing.T, c *minio.Client) (n int) {
	t.Helper()
	for o := range c.ListObjects(ctx, server.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if !strings.Contains(o.Key, "/b/") && !strings.Contains(o.Key, "/p/") {
			continue
		}
		body, err := c.GetObject(ctx, server.Bucket, o.Key, minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil {
			t.Fatal(err)
		}
		flipEvery(data, 4096, len(data)/50)
		if _, err = c.PutObject(ctx, server.Bucket, o.Key, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// flipEvery flips a bit in every so many bytes, but for the end, where the index of several blocks may be.
func flipEvery(data []byte, step, end int) {
	for at := step / 2; at < len(data)-end; at += step {
		data[at] ^= 0x10
	}
}

// flipRecords flips a bit in each page of all records of a disk tier, and none in the pages before and behind them.
func flipRecords(t *testing.T, dir string) {
	t.Helper()
	const page, before, behind = 4096, 10, 6
	files, err := filepath.Glob(filepath.Join(dir, "*", "seg-*.kv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > (before+behind)*page {
			flipEvery(data[before*page:], page, behind*page)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// someBlock is the bytes of a block that the stopped deployment has left on disk.
func (b *kvBench) someBlock(ctx context.Context, t *testing.T) []byte {
	t.Helper()
	var row struct{ Key string }
	out := b.MustRun(ctx, t, "kv", "ls", "--disk", b.disk, "--limit", "1", "--json")
	if err := json.Unmarshal([]byte(out), &row); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "block")
	b.MustRun(ctx, t, "kv", "get", row.Key, "--disk", b.disk, "--out", file)
	data, err := os.ReadFile(file)
	if err != nil || len(data) < 4096 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	return data
}

// flipInMemory flips a bit of a block wherever a process has it in memory.
func flipInMemory(t *testing.T, pid int, block []byte) {
	t.Helper()
	needle := block[len(block)/2:][:256]
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("this user may not write another process's memory here")
	} else if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	flipped := 0
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || mode != "rw-p" {
			continue
		}
		flipped += flipIn(mem, from, to, needle)
	}
	if flipped == 0 {
		t.Errorf("process %d does not have the block in memory", pid)
	}
}

// flipIn looks through one mapping in pieces that overlap; what cannot be read is nothing.
func flipIn(mem *os.File, from, to int64, needle []byte) (n int) {
	piece := make([]byte, 4<<20)
	for ; from < to; from += int64(len(piece) - len(needle)) {
		got, _ := mem.ReadAt(piece[:min(int64(len(piece)), to-from)], from)
		for at := 0; ; at++ {
			next := bytes.Index(piece[at:got], needle)
			if next < 0 {
				break
			}
			at += next
			if _, err := mem.WriteAt([]byte{piece[at] ^ 1}, from+int64(at)); err == nil {
				n++
			}
		}
		if to-from <= int64(len(piece)) {
			break
		}
	}
	return n
}
