package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

const kvDeployment = `apiVersion: penstock/v1
name: %s
model: {path: %s, servedName: induction}
engine: {kind: llamacpp, command: [%s], args: [%s]}
roles:
  mixed: {replicas: 1, cpus: 1}
serving: {maxContext: 4096}
kv:
  host: 256MiB
%s`

const kvBlock = 64 // tokens

// scored is an answer with the logarithms of its tokens' probabilities.
type scored struct {
	text     string
	logprobs []float64
	cached   int // tokens of the prompt that were not read again
	prompt   int
}

func score(ctx context.Context, t *testing.T, c *installation.Client, prompt string) (s scored) {
	t.Helper()
	body := map[string]any{"model": "induction", "prompt": prompt, "temperature": 0, "max_tokens": 24, "logprobs": 1}
	resp, err := c.Post(ctx, "/completions", body)
	for err == nil && resp.StatusCode >= http.StatusInternalServerError { // no engine, or the gateway's own probe is still to come
		resp.Body.Close()
		time.Sleep(50 * time.Millisecond)
		resp, err = c.Post(ctx, "/completions", body)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		completion
		Choices []struct {
			Text     string
			Logprobs struct {
				Content []struct{ Logprob float64 }
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusOK || len(out.Choices) != 1 {
		t.Fatalf("HTTP %d, %v, %+v", resp.StatusCode, err, out)
	}
	s.text, s.cached, s.prompt = out.Choices[0].Text, out.Usage.PromptTokensDetails.CachedTokens, out.Usage.PromptTokens
	for _, p := range out.Choices[0].Logprobs.Content {
		s.logprobs = append(s.logprobs, p.Logprob)
	}
	if len(s.logprobs) != 24 {
		t.Fatalf("%d logprobs", len(s.logprobs))
	}
	return s
}

// like says whether the answer is the one that an engine gives that has read all of the prompt. The place of the sequence in the
// engine's pool changes the order of sums, so that logarithms may differ a little.
func (s scored) like(o scored) bool {
	return s.text == o.text && slices.EqualFunc(s.logprobs, o.logprobs, func(a, b float64) bool { return math.Abs(a-b) < 1e-3 })
}

// long is a prompt of about 2,000 tokens with a fact at its beginning, and that fact.
func long(n int) (prompt, secret string) {
	secret = fmt.Sprintf("Zebra-%d-Quux. ", 4000+n*37)
	var b strings.Builder
	fmt.Fprintf(&b, "@K%d=%s", n, secret)
	for i := 0; b.Len() < 1980; i++ {
		fmt.Fprintf(&b, "gauge %d of %d reads %d; ", i, n, i*i*7919%10007)
	}
	fmt.Fprintf(&b, " Now tell: @K%d=", n)
	return b.String(), secret
}

// kvBench is an installation whose deployments share a folder for KV blocks.
type kvBench struct {
	*installation.Installation
	server       string
	disk, bucket string               // folders; empty = no such tier
	object       string               // fields of an object tier instead of the folder
	client       *installation.Client // of one tenant, for all deployments
}

// up runs a deployment and returns the client to it.
func (b *kvBench) up(ctx context.Context, t *testing.T, name, weights, args string) *installation.Client {
	t.Helper()
	path, err := b.Write(name+".yaml", fmt.Sprintf(kvDeployment, name, weights, b.server, args, b.tiers()))
	if err != nil {
		t.Fatal(err)
	}
	b.MustRun(ctx, t, "run", "--timeout", "120s", path)
	if b.client == nil {
		if b.client, err = b.Connect(ctx, "kv"); err != nil {
			t.Fatal(err)
		}
	}
	return b.client
}

// tiers are those below host memory.
func (b *kvBench) tiers() (text string) {
	if b.disk != "" {
		text += fmt.Sprintf("  disk: {path: %s, size: 1GiB}\n", b.disk)
	}
	switch {
	case b.object != "":
		text += "  object: {" + b.object + "}\n"
	case b.bucket != "":
		text += fmt.Sprintf("  object: {url: 'file://%s'}\n", b.bucket)
	}
	return text
}

func (b *kvBench) down(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	b.MustRun(ctx, t, "stop", name, "--wait", "--timeout", "60s")
}

// TestWarmAcrossJobs: the same conversation in one job after the other, from disk and from an object store. What the first has read, the next ones do not read again,
// and the answers are the same; and whatever makes KV bytes mean something else is a miss.
func TestWarmAcrossJobs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	weights := model(ctx, t)
	b := &kvBench{Installation: installation.ForTest(t), server: llama(ctx, t), disk: filepath.Join(t.TempDir(), "kv"), bucket: filepath.Join(t.TempDir(), "bucket")}
	b.MustRun(ctx, t, "serve", "--detach")
	prompt, secret := long(1)

	client := b.up(ctx, t, "chat", weights, "-t, 1")
	first := score(ctx, t, client, prompt)
	if first.cached != 0 || !strings.HasPrefix(first.text, secret) {
		t.Fatalf("the first answer: %q, %d tokens from a cache", first.text, first.cached)
	}
	b.down(ctx, t, "chat")

	t.Run("after a drain", func(t *testing.T) {
		client := b.up(ctx, t, "chat", weights, "--threads, 1") // says nothing about KV
		b.warm(ctx, t, client, prompt, first)
		b.prefix(ctx, t, client, prompt)
	})
	t.Run("after SIGKILL of everything", func(t *testing.T) {
		b.killAll()
		b.down(ctx, t, "chat")
		b.warm(ctx, t, b.up(ctx, t, "chat", weights, "-t, 1"), prompt, first)
		b.down(ctx, t, "chat")
	})
	disk, bucket := b.disk, b.bucket
	t.Run("from disk alone", func(t *testing.T) {
		b.bucket = filepath.Join(t.TempDir(), "bucket")
		b.warm(ctx, t, b.up(ctx, t, "chat", weights, "-t, 1"), prompt, first)
		b.down(ctx, t, "chat")
	})
	t.Run("from the object store alone", func(t *testing.T) {
		b.disk, b.bucket = filepath.Join(t.TempDir(), "kv"), bucket // as on another node
		b.warm(ctx, t, b.up(ctx, t, "chat", weights, "-t, 1"), prompt, first)
		b.down(ctx, t, "chat")
	})
	b.disk = disk
	t.Run("other weights of the same shape", func(t *testing.T) {
		other := filepath.Join(cache(t), "induction-4-seed-2.gguf")
		if out, err := exec.CommandContext(ctx, "go", "run", "./mkgguf", "-layers", "4", "-seed", "2", "-o", other).CombinedOutput(); err != nil {
			t.Fatalf("make a model: %v\n%s", err, out)
		}
		b.cold(ctx, t, other, "-t, 1", prompt)
	})
	t.Run("another KV type", func(t *testing.T) { b.cold(ctx, t, weights, "-ctk, q8_0, -ctv, q8_0", prompt) })
	b.MustRun(ctx, t, "stop", "--all", "--wait", "--timeout", "60s")
}

// killAll kills agents and engines, without a word.
func (b *kvBench) killAll() {
	for _, p := range append(b.Find("", "agent"), b.engines()...) {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

// engines are the processes of engines that run.
func (b *kvBench) engines() (out []installation.Process) {
	for _, p := range b.Processes() {
		if slices.Contains(p.Command, "--slot-save-path") && !p.Is("agent") {
			out = append(out, p)
		}
	}
	return out
}

// warm asks the same again: at most one block may be read again.
func (b *kvBench) warm(ctx context.Context, t *testing.T, c *installation.Client, prompt string, want scored) {
	t.Helper()
	got := score(ctx, t, c, prompt)
	if !got.like(want) {
		t.Errorf("the answer is another one: %q %v instead of %q %v", got.text, got.logprobs, want.text, want.logprobs)
	}
	if read := got.prompt - got.cached; read > kvBlock {
		t.Errorf("%d of %d tokens were read again", read, got.prompt)
	}
}

// prefix asks for something that shares the first half.
func (b *kvBench) prefix(ctx context.Context, t *testing.T, c *installation.Client, prompt string) {
	t.Helper()
	_, secret := long(1)
	half := len(prompt) / 2
	got := score(ctx, t, c, prompt[:half]+" something else entirely, tell: @K1=")
	if got.cached < half/kvBlock*kvBlock || !strings.HasPrefix(got.text, secret) {
		t.Errorf("half a prompt: %q, %d tokens from the cache", got.text, got.cached)
	}
}

// cold runs a deployment whose KV is another one, of the same name and in the same folder.
func (b *kvBench) cold(ctx context.Context, t *testing.T, weights, args, prompt string) {
	t.Helper()
	_, secret := long(1)
	got := score(ctx, t, b.up(ctx, t, "chat", weights, args), prompt)
	if got.cached != 0 || !strings.HasPrefix(got.text, secret) {
		t.Errorf("%q, %d tokens from the cache", got.text, got.cached)
	}
	b.down(ctx, t, "chat")
}

const pairDeployment = `apiVersion: penstock/v1
name: pair
model: {path: %s, servedName: induction}
engine: {kind: llamacpp, command: [%s]}
roles:
  prefill: {replicas: 1, cpus: 1}
  decode: {replicas: 1, cpus: 1}
serving: {maxContext: 4096}
kv: {host: 128MiB}
`

// TestPrefillElsewhere: one llama-server reads the prompt, another one answers, and neither knows of the other. The answer is
// that of a server which has read the prompt itself.
func TestPrefillElsewhere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	weights := model(ctx, t)
	b := &kvBench{Installation: installation.ForTest(t), server: llama(ctx, t), disk: filepath.Join(t.TempDir(), "kv"), bucket: filepath.Join(t.TempDir(), "bucket")}
	// By cost, a decode replica that has nothing else to do reads its prompts itself once it is known how quick that is.
	b.MustRun(ctx, t, "serve", "--detach", "--route", "least-loaded")
	alone := map[int]scored{}
	client := b.up(ctx, t, "alone", weights, "-t, 1")
	for n := range 3 {
		prompt, _ := long(n)
		alone[n] = score(ctx, t, client, prompt)
	}
	b.down(ctx, t, "alone")
	path, err := b.Write("pair.yaml", fmt.Sprintf(pairDeployment, weights, b.server))
	if err != nil {
		t.Fatal(err)
	}
	b.MustRun(ctx, t, "run", "--timeout", "120s", path)
	for n := range 3 {
		prompt, secret := long(n)
		got := score(ctx, t, client, prompt)
		if !strings.HasPrefix(got.text, secret) || !got.like(alone[n]) {
			t.Errorf("prompt %d: %q %v, and %q %v from one server alone", n, got.text, got.logprobs, alone[n].text, alone[n].logprobs)
		}
		if read := got.prompt - got.cached; read > kvBlock {
			t.Errorf("prompt %d: decode has read %d of %d tokens itself", n, read, got.prompt)
		}
	}
	b.MustRun(ctx, t, "stop", "--all", "--wait", "--timeout", "60s")
}
