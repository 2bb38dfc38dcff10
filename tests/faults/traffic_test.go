package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

// traffic is steady traffic through one gateway: each of its clients asks one question after the other, the first with a
// long answer.
type traffic struct {
	t      *testing.T
	client *installation.Client
	dead   atomic.Bool // its gateway is killed, on purpose
	ending chan struct{}
	all    sync.WaitGroup
	ready  *readiness

	mu      sync.Mutex
	flights []*flight
}

// flight is one request.
type flight struct {
	prompt  *prompt
	whole   bool         // not streamed
	pieces  atomic.Int64 // of text that came
	open    bool         // it was in the middle at the fault
	over    bool
	id      string
	verdict verdict
	why     string
	answer  installation.Answer
}

// Write counts the pieces of a stream.
func (f *flight) Write(p []byte) (int, error) {
	f.pieces.Add(1)
	return len(p), nil
}

// begin starts the traffic: streams that are long, and two clients that wait for whole answers.
func begin(ctx context.Context, t *testing.T, client *installation.Client, questions *catalog) *traffic {
	tr := &traffic{t: t, client: client, ending: make(chan struct{}), ready: watchReadiness(ctx, client)}
	for i, p := range questions.long {
		first := tr.flight(p, i%6 == 5)
		tr.all.Go(func() { tr.ask(ctx, first, questions.short[i:]) })
	}
	return tr
}

func (tr *traffic) flight(p *prompt, whole bool) *flight {
	f := &flight{prompt: p, whole: whole}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.flights = append(tr.flights, f)
	return f
}

// ask asks one question after the other until the traffic ends.
func (tr *traffic) ask(ctx context.Context, f *flight, next []*prompt) {
	for n := 0; ; n++ {
		tr.fly(ctx, f)
		if tr.dead.Load() {
			return
		}
		pause := time.Duration(0)
		if f.verdict != complete {
			pause = 100 * time.Millisecond
		}
		select {
		case <-tr.ending:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		f = tr.flight(next[n%len(next)], f.whole)
	}
}

// fly makes one request and judges what becomes of it.
func (tr *traffic) fly(ctx context.Context, f *flight) {
	ask := tr.client.Chat
	if f.whole {
		ask = tr.askWhole
	}
	a, err := ask(ctx, model, f.prompt.messages, f.prompt.fields, f)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	f.over, f.id, f.answer = true, a.ID, a
	if ctx.Err() != nil {
		return // the test has given up
	}
	if f.verdict, f.why = judge(f.prompt, a, err, tr.dead.Load()); f.verdict >= lost {
		tr.t.Errorf("request %s: %s", a.ID, f.why)
	}
}

// askWhole is Client.Chat for an answer in one piece.
func (tr *traffic) askWhole(ctx context.Context, model string, messages []installation.Message, fields map[string]any, _ io.Writer) (a installation.Answer, err error) {
	body := map[string]any{"model": model, "messages": messages, "temperature": 0}
	for k, v := range fields {
		if k != "stream_options" {
			body[k] = v
		}
	}
	resp, err := tr.client.Post(ctx, "/chat/completions", body)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.ID = resp.Header.Get("X-Request-Id")
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return a, err
	}
	if resp.StatusCode != http.StatusOK {
		return a, &installation.RefusedError{Status: resp.StatusCode, Body: string(text), Header: resp.Header}
	}
	var got struct {
		Choices []struct {
			Message      struct{ Content string }
			FinishReason string `json:"finish_reason"`
		}
		Usage struct {
			Prompt     int `json:"prompt_tokens"`
			Completion int `json:"completion_tokens"`
		}
	}
	if err := json.Unmarshal(text, &got); err != nil || len(got.Choices) != 1 {
		return a, fmt.Errorf("bad answer (%w): %.200s", err, text)
	}
	a.Text, a.Finish, a.Prompt, a.Completion = got.Choices[0].Message.Content, got.Choices[0].FinishReason, got.Usage.Prompt, got.Usage.Completion
	return a, nil
}

// begunAfter is how many pieces of text make a stream one that is in its middle. The long answers have hundreds.
const begunAfter = 12

// middle waits until all streams are in the middle of their long answers.
func (tr *traffic) middle(ctx context.Context) {
	tr.t.Helper()
	for {
		waiting := 0
		for _, f := range tr.list() {
			if !f.whole && f.pieces.Load() < begunAfter {
				waiting++
			}
		}
		if waiting == 0 {
			return
		}
		select {
		case <-ctx.Done():
			tr.t.Fatalf("%d streams have not begun: %v", waiting, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// mark notes which requests are in the middle now. It is called at the fault.
func (tr *traffic) mark() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, f := range tr.flights {
		f.open = f.open || !f.over && (f.whole || f.pieces.Load() > 0)
	}
}

// end lets the requests that are open finish and sends no more.
func (tr *traffic) end() {
	close(tr.ending)
	tr.all.Wait()
	tr.ready.stop()
}

func (tr *traffic) list() []*flight {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]*flight(nil), tr.flights...)
}

// finished waits until so many more requests are over than now.
func (tr *traffic) finished(ctx context.Context, more int) {
	tr.t.Helper()
	count := func() (n int) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, f := range tr.flights {
			if f.over {
				n++
			}
		}
		return n
	}
	for goal := count() + more; count() < goal; {
		select {
		case <-ctx.Done():
			tr.t.Fatalf("%d requests of %d are over: %v", count(), goal, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// settled waits until all streams that were in the middle at the fault are over.
func (tr *traffic) settled(ctx context.Context) {
	tr.t.Helper()
	open := func() (n int) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, f := range tr.flights {
			if f.open && !f.over && !f.whole {
				n++
			}
		}
		return n
	}
	for open() > 0 {
		select {
		case <-ctx.Done():
			tr.t.Fatalf("%d streams are not over: %v", open(), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
