// Package traffic is steady traffic whose answers are known: clients of a gateway that ask one question after the other, and
// compare each answer with what the simulated engine's model says to it. Fault tests break something meanwhile. It knows the
// gateway and the engine's model, and nothing of clusters.
package traffic

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

// Traffic is steady traffic through one gateway: each of its clients asks one question after the other, the first with a
// long answer.
type Traffic struct {
	t      testing.TB
	client *installation.Client
	Dead   atomic.Bool // its gateway is killed, on purpose
	ending chan struct{}
	all    sync.WaitGroup
	ready  *readiness

	mu      sync.Mutex
	flights []*Flight
}

// Flight is one request.
type Flight struct {
	Prompt  *Prompt
	Whole   bool         // not streamed
	pieces  atomic.Int64 // of text that came
	Open    bool         // it was in the middle at the fault
	Over    bool
	ID      string
	Verdict Verdict
	Why     string
	Answer  installation.Answer
}

// Write counts the pieces of a stream.
func (f *Flight) Write(p []byte) (int, error) {
	f.pieces.Add(1)
	return len(p), nil
}

// Begin starts the traffic: streams that are long, and two clients that wait for whole answers.
func Begin(ctx context.Context, t testing.TB, client *installation.Client, questions *Catalog) *Traffic {
	tr := &Traffic{t: t, client: client, ending: make(chan struct{}), ready: watchReadiness(ctx, client)}
	for i, p := range questions.Long {
		first := tr.flight(p, i%6 == 5)
		tr.all.Go(func() { tr.ask(ctx, first, questions.Short[i:]) })
	}
	return tr
}

func (tr *Traffic) flight(p *Prompt, whole bool) *Flight {
	f := &Flight{Prompt: p, Whole: whole}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.flights = append(tr.flights, f)
	return f
}

// ask asks one question after the other until the traffic ends.
func (tr *Traffic) ask(ctx context.Context, f *Flight, next []*Prompt) {
	for n := 0; ; n++ {
		tr.fly(ctx, f)
		if tr.Dead.Load() {
			return
		}
		pause := time.Duration(0)
		if f.Verdict != Complete {
			pause = 100 * time.Millisecond
		}
		select {
		case <-tr.ending:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		f = tr.flight(next[n%len(next)], f.Whole)
	}
}

// fly makes one request and judges what becomes of it.
func (tr *Traffic) fly(ctx context.Context, f *Flight) {
	ask := tr.client.Chat
	if f.Whole {
		ask = tr.askWhole
	}
	a, err := ask(ctx, Model, f.Prompt.Messages, f.Prompt.Fields, f)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	f.Over, f.ID, f.Answer = true, a.ID, a
	if ctx.Err() != nil {
		return // the test has given up
	}
	if f.Verdict, f.Why = judge(f.Prompt, a, err, tr.Dead.Load()); f.Verdict >= Lost {
		tr.t.Errorf("request %s: %s", a.ID, f.Why)
	}
}

// askWhole is Client.Chat for an answer in one piece.
func (tr *Traffic) askWhole(ctx context.Context, model string, messages []installation.Message, fields map[string]any, _ io.Writer) (a installation.Answer, err error) {
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

// Middle waits until all streams are in the middle of their long answers.
func (tr *Traffic) Middle(ctx context.Context) {
	tr.t.Helper()
	for {
		waiting := 0
		for _, f := range tr.Flights() {
			if !f.Whole && f.pieces.Load() < begunAfter {
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

// Mark notes which requests are in the middle now. It is called at the fault.
func (tr *Traffic) Mark() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, f := range tr.flights {
		f.Open = f.Open || !f.Over && (f.Whole || f.pieces.Load() > 0)
	}
}

// End lets the requests that are open finish and sends no more.
func (tr *Traffic) End() {
	close(tr.ending)
	tr.all.Wait()
	tr.ready.stop()
}

// Downtime is the longest time in which no replica was ready, as far as the gateway said.
func (tr *Traffic) Downtime() time.Duration {
	tr.ready.mu.Lock()
	defer tr.ready.mu.Unlock()
	return tr.ready.longest
}

// Over says whether End was called.
func (tr *Traffic) Over() bool {
	select {
	case <-tr.ending:
		return true
	default:
		return false
	}
}

// Pieces is how many pieces of text have come.
func (f *Flight) Pieces() int64 { return f.pieces.Load() }

// Flights lists all requests, the first first.
func (tr *Traffic) Flights() []*Flight {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]*Flight(nil), tr.flights...)
}

// Finished waits until so many more requests are over than now.
func (tr *Traffic) Finished(ctx context.Context, more int) {
	tr.t.Helper()
	count := func() (n int) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, f := range tr.flights {
			if f.Over {
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

// Settled waits until all streams that were in the middle at the fault are over.
func (tr *Traffic) Settled(ctx context.Context) {
	tr.t.Helper()
	open := func() (n int) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, f := range tr.flights {
			if f.Open && !f.Over && !f.Whole {
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
