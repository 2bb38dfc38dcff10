package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/engine/sim"
	"github.com/penstock/penstock/tests/installation"
)

const model = "tiny"

// prompt is a question whose answer is known.
type prompt struct {
	messages []installation.Message
	fields   map[string]any
	want     installation.Answer
}

// usage tells whether the answer says how many tokens it has.
func (p *prompt) usage() bool { return p.fields["stream_options"] != noUsage }

const (
	streams     = 12  // at a time
	longAnswer  = 420 // tokens, of the streams that the fault is to hit
	shortAnswer = 60  // tokens, of those before and after
)

// noUsage stands for stream_options that ask for nothing.
var noUsage any

// catalog is all prompts: long ones and short ones, in several forms.
type catalog struct{ long, short []*prompt }

func newCatalog() *catalog {
	c := &catalog{}
	for i := range streams {
		c.long = append(c.long, newPrompt(i, longAnswer))
		c.short = append(c.short, newPrompt(streams+i, shortAnswer))
	}
	return c
}

func newPrompt(i, tokens int) *prompt {
	p := &prompt{
		messages: []installation.Message{
			{Role: "system", Content: "You work at a hydroelectric power station and answer visitors."},
			{Role: "user", Content: fmt.Sprintf("Visitor number %d asks: how does the water of the reservoir become light in my kitchen? 🙂", i)},
		},
		fields: map[string]any{"max_tokens": tokens, "ignore_eos": true},
	}
	switch i % 6 {
	case 2:
		p.fields["stop"] = []string{"the words that never come"} // such an answer is made again from its beginning
	case 3:
		p.fields["stream_options"] = noUsage
	case 4:
		p.messages = append(p.messages, installation.Message{Role: "assistant", Content: "Slowly."}, installation.Message{Role: "user", Content: "Go on."})
	}
	return p
}

// known asks an engine of its own in this process for all answers, once.
var known = sync.OnceValues(func() (*catalog, error) {
	c := newCatalog()
	return c, c.ask()
})

// prompts returns all prompts with their answers.
func prompts(t *testing.T) *catalog {
	t.Helper()
	c, err := known()
	if err != nil {
		t.Fatalf("ask the reference engine: %v", err)
	}
	return c
}

func (c *catalog) ask() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	opts := sim.DefaultOptions()
	opts.Model, opts.Speedup, opts.Host, opts.Port = model, 100, "127.0.0.1", 0
	engine, err := sim.New(opts, zerolog.Nop())
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	select {
	case <-engine.Listening():
	case err := <-ended:
		return fmt.Errorf("it ended: %w", err)
	}
	transport := &http.Transport{}
	client := &installation.Client{URL: "http://" + engine.Addr().String() + "/v1", HTTP: &http.Client{Transport: transport}}
	err = c.askAll(ctx, client)
	transport.CloseIdleConnections()
	cancel()
	<-ended
	return err
}

func (c *catalog) askAll(ctx context.Context, client *installation.Client) (err error) {
	for _, p := range append(append([]*prompt(nil), c.long...), c.short...) {
		for { // a loading engine refuses
			p.want, err = client.Chat(ctx, model, p.messages, p.fields, nil)
			if err == nil || ctx.Err() != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			return err
		}
		if p.want.Text == "" || p.usage() && p.want.Completion != p.fields["max_tokens"] {
			return fmt.Errorf("the answer is of no use: %d tokens, %q", p.want.Completion, p.want.Text)
		}
	}
	return nil
}

// unixClient is an HTTP client that knows one socket only.
func unixClient(socket string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Clean(socket))
		},
	}}
}
