package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/tests/installation"
)

var conversations = flag.Int("conversations", 0, "how many conversations TestConversations has over four replicas; 0 = it is left out")

const fourReplicas = `apiVersion: penstock/v1
name: talk
model: {path: %s, servedName: induction}
engine: {kind: llamacpp, command: [%s], args: [-t, 1]}
roles:
  mixed: {replicas: 4}
serving: {maxContext: 4096}
kv: {host: 256MiB}
`

// talk is one conversation in which a secret stands at the beginning and is asked for at each turn. A wrong or lost block of KV
// shows as a wrong answer.
type talk struct {
	secret string
	text   string
}

func newTalk(n int) *talk {
	// In letters: the model goes on after what it has seen most alike, and what is said below is full of numbers.
	letters := strings.Map(func(r rune) rune { return r - '0' + 'P' }, fmt.Sprint(3000+n*41))
	secret := fmt.Sprintf("Otter-%s-Vex. ", letters)
	return &talk{secret: secret, text: fmt.Sprintf("@T%d=%s", n, secret)}
}

// say adds what comes before a turn's question.
func (c *talk) say(n, turn int) {
	var b strings.Builder
	for i := 0; b.Len() < 450; i++ {
		fmt.Fprintf(&b, "gate %d of %d in turn %d is at %d; ", i, n, turn, (i+turn)*(n+7)*7919%10007)
	}
	c.text += b.String() + fmt.Sprintf(" Now tell: @T%d=", n)
}

// ask has one turn answered and says how many tokens of the prompt were read. The answers are streams: the gateway learns from them
// how fast the replicas are.
func (c *talk) ask(ctx context.Context, client *installation.Client) (read, all int, err error) {
	resp, err := client.Post(ctx, "/completions", map[string]any{
		"model": "induction", "prompt": c.text, "temperature": 0, "max_tokens": 16, "stream": true, "stream_options": map[string]bool{"include_usage": true},
	})
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	var text string
	var last completion
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var next completion
		if err := json.Unmarshal([]byte(data), &next); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", data, err)
		}
		for _, choice := range next.Choices {
			text += choice.Text
		}
		if next.Usage.PromptTokens > 0 {
			last = next
		}
	}
	if resp.StatusCode != http.StatusOK || len(text) < len(c.secret)/2 || !strings.HasPrefix(c.secret, text) && !strings.HasPrefix(text, c.secret) {
		return 0, 0, fmt.Errorf("HTTP %d: the answer is %q, want %q", resp.StatusCode, text, c.secret)
	}
	c.text += text
	return last.Usage.PromptTokens - last.Usage.PromptTokensDetails.CachedTokens, last.Usage.PromptTokens, nil
}

// TestConversations: conversations over four replicas whose engines are killed now and then. Every answer is right, and by what caches
// hold fewer tokens of prompts are read than in turns over the replicas.
func TestConversations(t *testing.T) {
	if *conversations == 0 {
		t.Skip("takes minutes: run with -conversations=30, or make test-slow")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	server, weights := llama(ctx, t), model(ctx, t)
	in := installation.ForTest(t)
	path, err := in.Write("talk.yaml", fmt.Sprintf(fourReplicas, weights, server))
	if err != nil {
		t.Fatal(err)
	}
	in.MustRun(ctx, t, "serve", "--detach")
	in.MustRun(ctx, t, "run", "--timeout", "180s", path)
	client, err := in.Connect(ctx, "talk")
	if err != nil {
		t.Fatal(err)
	}
	byCost := talks(ctx, t, in, client, 0)
	in.MustRun(ctx, t, "serve", "--stop")
	in.MustRun(ctx, t, "serve", "--detach", "--route", "round-robin")
	in.MustRun(ctx, t, "wait", "--timeout", "120s", "talk")
	inTurns := talks(ctx, t, in, client, *conversations)
	t.Logf("prompt tokens read of %d: by what caches hold %d, in turns over the replicas %d", byCost.all, byCost.read, inTurns.read)
	if byCost.read >= inTurns.read {
		t.Errorf("%d prompt tokens were read, in turns over the replicas %d", byCost.read, inTurns.read)
	}
	in.MustRun(ctx, t, "stop", "--all", "--wait", "--timeout", "60s")
}

type tokensRead struct{ read, all int }

// talks has all conversations, numbered from first on, turn by turn; after the second turn and the fourth an engine is killed.
func talks(ctx context.Context, t *testing.T, in *installation.Installation, client *installation.Client, first int) (sum tokensRead) {
	t.Helper()
	const turns = 6
	all := make([]*talk, *conversations)
	for i := range all {
		all[i] = newTalk(first + i)
	}
	draw := rand.New(rand.NewPCG(7, uint64(first)))
	var mu sync.Mutex
	for turn := range turns {
		var group errgroup.Group
		group.SetLimit(4)
		for i, c := range all {
			group.Go(func() error {
				c.say(first+i, turn)
				read, of, err := c.ask(ctx, client)
				if err != nil {
					return fmt.Errorf("conversation %d, turn %d: %w", first+i, turn, err)
				}
				mu.Lock()
				defer mu.Unlock()
				sum.read, sum.all = sum.read+read, sum.all+of
				return nil
			})
			if (turn == 2 || turn == 4) && i == len(all)/2 {
				killEngine(ctx, t, in, draw.IntN(4))
			}
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	return sum
}

func killEngine(ctx context.Context, t *testing.T, in *installation.Installation, replica int) {
	t.Helper()
	st, err := in.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	launch := st.Deployments[0].Replicas[replica%len(st.Deployments[0].Replicas)].Launch
	for _, p := range in.Processes() {
		command := strings.Join(p.Command, " ")
		if p.Env["PENSTOCK_LAUNCH"] == launch && strings.Contains(command, "llama-server") && strings.Contains(command, "--slot-save-path") {
			_ = syscall.Kill(p.PID, syscall.SIGKILL) // it may be about to start again
		}
	}
}
