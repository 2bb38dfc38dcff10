// Package engine runs a deployment on a real engine: llama-server from Debian, on a model that the project makes itself.
// The model is an induction head: it continues text by copying what followed the same bytes earlier, so an answer is right
// only if the KV cache behind it is.
package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

func TestMain(m *testing.M) {
	code := m.Run()
	installation.RemoveBuild()
	os.Exit(code)
}

const deployment = `apiVersion: penstock/v1
name: llama
model: {path: %s, servedName: induction}
engine: {kind: llamacpp, command: [%s]}
roles:
  mixed: {replicas: 2, cpus: 1}
serving: {maxContext: 4096}
`

// cache holds what is fetched and made once: llama-server with its libraries, and the model.
func cache(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".cache"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// llama fetches llama-server as Debian packages into a folder of the project. Nothing is installed.
func llama(ctx context.Context, t *testing.T) string {
	t.Helper()
	server := filepath.Join(cache(t), "llama", "llama-server")
	if exec.CommandContext(ctx, server, "--version").Run() == nil {
		return server
	}
	out, err := exec.CommandContext(ctx, "bash", "setup-llama.sh", filepath.Dir(server)).CombinedOutput()
	if err != nil {
		t.Skipf("llama-server cannot be had from Debian now: %v: %s", err, lastLine(out))
	}
	return server
}

func model(ctx context.Context, t *testing.T) string {
	t.Helper()
	path := filepath.Join(cache(t), "induction-4.gguf")
	out, err := exec.CommandContext(ctx, "go", "run", "./mkgguf", "-layers", "4", "-o", path).CombinedOutput()
	if err != nil {
		t.Fatalf("make the model: %v\n%s", err, out)
	}
	return path
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

func TestRealEngine(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	server, weights := llama(ctx, t), model(ctx, t)
	in := installation.ForTest(t)
	path, err := in.Write("llama.yaml", fmt.Sprintf(deployment, weights, server))
	if err != nil {
		t.Fatal(err)
	}
	in.MustRun(ctx, t, "serve", "--detach")
	in.MustRun(ctx, t, "run", "--timeout", "120s", path)
	client, err := in.Connect(ctx, "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("text from context", func(t *testing.T) { textFromContext(ctx, t, client) })
	t.Run("second request from cache", func(t *testing.T) { fromCache(ctx, t, client) })
	t.Run("load in status", func(t *testing.T) { loadInStatus(ctx, t, in) })
	t.Run("stream whose engine is killed", func(t *testing.T) { killedMidStream(ctx, t, in, client) })
	in.MustRun(ctx, t, "stop", "--all", "--wait", "--timeout", "60s")
	if left := in.Find("", "engine"); len(left) > 0 {
		t.Errorf("engines are left: %v", left)
	}
}

// fact is text in which a secret stands once; asked for again, the model must copy it from its KV cache.
func fact(n int) (prompt, secret string) {
	secret = fmt.Sprintf("Zebra-%d-Quux", 4000+n*37)
	filler := strings.Repeat(fmt.Sprintf("water flows down the pipe number %d. ", n), 12)
	return fmt.Sprintf("@K%d=%s. %s @K%d=", n, secret, filler, n), secret
}

// completion is what tests look at in an answer of /v1/completions.
type completion struct {
	Choices []struct{ Text string }
	Usage   struct {
		PromptTokens        int `json:"prompt_tokens"`
		CompletionTokens    int `json:"completion_tokens"`
		PromptTokensDetails struct {
			CachedTokens int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
}

func complete(ctx context.Context, t *testing.T, c *installation.Client, prompt string, maxTokens int) (out completion) {
	t.Helper()
	resp, err := c.Post(ctx, "/completions", map[string]any{"model": "induction", "prompt": prompt, "temperature": 0, "max_tokens": maxTokens})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusOK || len(out.Choices) != 1 {
		t.Fatalf("HTTP %d, %v, %+v", resp.StatusCode, err, out)
	}
	return out
}

func textFromContext(ctx context.Context, t *testing.T, c *installation.Client) {
	for n := range 4 {
		prompt, secret := fact(n)
		a := complete(ctx, t, c, prompt, len(secret))
		if a.Choices[0].Text != secret {
			t.Errorf("fact %d: %q instead of %q", n, a.Choices[0].Text, secret)
		}
		if a.Usage.PromptTokens < len(prompt) || a.Usage.CompletionTokens != len(secret) {
			t.Errorf("fact %d: usage of %d and %d tokens", n, a.Usage.PromptTokens, a.Usage.CompletionTokens)
		}
	}
}

// fromCache asks the same again until a replica is asked that has it.
func fromCache(ctx context.Context, t *testing.T, c *installation.Client) {
	prompt, secret := fact(9)
	for range 6 {
		a := complete(ctx, t, c, prompt, len(secret))
		if a.Choices[0].Text != secret {
			t.Fatalf("%q instead of %q", a.Choices[0].Text, secret)
		}
		if a.Usage.PromptTokensDetails.CachedTokens > len(prompt)/2 {
			return
		}
	}
	t.Error("no answer came from the cache")
}

func loadInStatus(ctx context.Context, t *testing.T, in *installation.Installation) {
	_, err := in.Until(ctx, "both replicas tell their load", func(st installation.Status) bool {
		reps := st.Deployments[0].Replicas
		return len(reps) == 2 && reps[0].Load != nil && reps[0].Load.Running != nil && reps[1].Load != nil && reps[1].Load.Running != nil
	})
	if err != nil {
		t.Error(err)
	}
}

// killedMidStream kills the engine of one replica while both stream: each stream must be whole and right, or end in a clear
// error; the replica comes back.
func killedMidStream(ctx context.Context, t *testing.T, in *installation.Installation, c *installation.Client) {
	ask := func(n int, show *afterPieces) (installation.Answer, error) {
		text := strings.Repeat(fmt.Sprintf("abcdefgh%dijklmnop", n), 20)
		fields := map[string]any{"max_tokens": 400, "ignore_eos": true}
		return c.Chat(ctx, "induction", []installation.Message{{Role: "user", Content: text}}, fields, show)
	}
	const streams = 4
	var want, got [streams]installation.Answer
	for n := range streams {
		var err error
		if want[n], err = ask(n, nil); err != nil {
			t.Fatal(err)
		}
	}
	started := make(chan struct{}, streams)
	type result struct {
		n   int
		err error
	}
	done := make(chan result, streams)
	for n := range streams {
		go func() {
			a, err := ask(n, &afterPieces{to: started, pieces: 20})
			got[n] = a
			done <- result{n, err}
		}()
	}
	<-started
	killOneEngine(ctx, t, in)
	for range streams {
		r := <-done
		if r.err != nil {
			t.Errorf("stream %d: %v", r.n, r.err)
		} else if got[r.n].Text != want[r.n].Text {
			t.Errorf("stream %d changed:\n%q\n%q", r.n, got[r.n].Text, want[r.n].Text)
		}
	}
	in.MustRun(ctx, t, "wait", "--timeout", "60s", "llama")
}

func killOneEngine(ctx context.Context, t *testing.T, in *installation.Installation) {
	t.Helper()
	st, err := in.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range in.Processes() {
		command := strings.Join(p.Command, " ")
		if p.Env["PENSTOCK_LAUNCH"] == st.Deployments[0].Replicas[0].Launch && strings.Contains(command, "llama-server") && strings.Contains(command, "--slot-save-path") {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no engine process found")
}

// afterPieces signals once, after some pieces of a stream.
type afterPieces struct {
	to     chan<- struct{}
	pieces int
	n      int
}

func (f *afterPieces) Write(p []byte) (int, error) {
	if f == nil {
		return len(p), nil
	}
	if f.n++; f.n == f.pieces {
		f.to <- struct{}{}
	}
	return len(p), nil
}
