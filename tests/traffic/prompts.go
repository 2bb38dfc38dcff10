package traffic

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/engine/sim"
	"github.com/penstock/penstock/tests/installation"
)

// Model is the model that deployments under test must serve, with the simulated engine.
const Model = "tiny"

// Prompt is a question whose answer is known.
type Prompt struct {
	Messages []installation.Message
	Fields   map[string]any
	Want     installation.Answer
}

// usage tells whether the answer says how many tokens it has.
func (p *Prompt) usage() bool { return p.Fields["stream_options"] != noUsage }

const (
	// Streams is how many requests are open at a time.
	Streams     = 12
	longAnswer  = 420 // tokens, of the streams that the fault is to hit
	shortAnswer = 60  // tokens, of those before and after
)

// noUsage stands for stream_options that ask for nothing.
var noUsage any

// Catalog is all prompts: long ones and short ones, in several forms.
type Catalog struct{ Long, Short []*Prompt }

func newCatalog() *Catalog {
	c := &Catalog{}
	for i := range Streams {
		c.Long = append(c.Long, newPrompt(i, longAnswer))
		c.Short = append(c.Short, newPrompt(Streams+i, shortAnswer))
	}
	return c
}

func newPrompt(i, tokens int) *Prompt {
	p := &Prompt{
		Messages: []installation.Message{
			{Role: "system", Content: "You work at a hydroelectric power station and answer visitors."},
			{Role: "user", Content: fmt.Sprintf("Visitor number %d asks: how does the water of the reservoir become light in my kitchen? 🙂", i)},
		},
		Fields: map[string]any{"max_tokens": tokens, "ignore_eos": true},
	}
	switch i % 6 {
	case 2:
		p.Fields["stop"] = []string{"the words that never come"} // such an answer is made again from its beginning
	case 3:
		p.Fields["stream_options"] = noUsage
	case 4:
		p.Messages = append(p.Messages, installation.Message{Role: "assistant", Content: "Slowly."}, installation.Message{Role: "user", Content: "Go on."})
	}
	return p
}

// known asks an engine of its own in this process for all answers, once.
var known = sync.OnceValues(func() (*Catalog, error) {
	c := newCatalog()
	return c, c.ask()
})

// Prompts returns all prompts with their answers.
func Prompts(t testing.TB) *Catalog {
	t.Helper()
	c, err := known()
	if err != nil {
		t.Fatalf("ask the reference engine: %v", err)
	}
	return c
}

func (c *Catalog) ask() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	opts := sim.DefaultOptions()
	opts.Model, opts.Speedup, opts.Host, opts.Port = Model, 100, "127.0.0.1", 0
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

func (c *Catalog) askAll(ctx context.Context, client *installation.Client) (err error) {
	for _, p := range append(append([]*Prompt(nil), c.Long...), c.Short...) {
		for { // a loading engine refuses
			p.Want, err = client.Chat(ctx, Model, p.Messages, p.Fields, nil)
			if err == nil || ctx.Err() != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			return err
		}
		if p.Want.Text == "" || p.usage() && p.Want.Completion != p.Fields["max_tokens"] {
			return fmt.Errorf("the answer is of no use: %d tokens, %q", p.Want.Completion, p.Want.Text)
		}
	}
	return nil
}
