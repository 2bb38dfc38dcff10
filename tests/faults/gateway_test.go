package faults

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// gateway is one more gateway, a process of its own.
type gateway struct {
	*installation.Client
	cmd   *exec.Cmd
	ended chan struct{}
}

// gateway starts one and waits until it serves.
func (w *world) gateway(name string) *gateway {
	w.t.Helper()
	log := filepath.Join(w.State(), name+".log")
	out, err := os.Create(log)
	if err != nil {
		w.t.Fatal(err)
	}
	defer out.Close()
	g := &gateway{cmd: w.Command(context.WithoutCancel(w.ctx), "gateway", "--name", name, "--log-format", "json"), ended: make(chan struct{})}
	g.cmd.Stderr = out
	if err := g.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = g.cmd.Wait()
		close(g.ended)
	}()
	w.gateways = append(w.gateways, g)
	url := w.urlOf(g, log)
	g.Client = &installation.Client{URL: url, Key: w.client.Key}
	w.routable(g.Client)
	return g
}

// urlOf reads where a gateway serves.
func (w *world) urlOf(g *gateway, log string) string {
	w.t.Helper()
	for {
		text, _ := os.ReadFile(log)
		for line := range strings.Lines(string(text)) {
			if _, rest, ok := strings.Cut(line, `"url":"`); ok && strings.Contains(line, "gateway serves") {
				url, _, _ := strings.Cut(rest, `"`)
				return url
			}
		}
		select {
		case <-g.ended:
			w.t.Fatalf("the gateway ended:\n%s", text)
		case <-w.ctx.Done():
			w.t.Fatalf("the gateway does not serve:\n%s", text)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// routable waits until a gateway routes to all replicas: until requests through it have come to each engine. Its probes of
// them are too short to be taken for one.
func (w *world) routable(client *installation.Client) {
	w.t.Helper()
	const prompts, least = "vllm:prompt_tokens_total", 100
	before := map[string]int{}
	for launch, e := range w.engines {
		before[launch] = w.metric(e, prompts)
	}
	for {
		errs := make([]error, 3*len(w.engines))
		var asking sync.WaitGroup
		for i := range errs { // at a time, so that no replica gets all of them
			asking.Go(func() {
				_, errs[i] = client.Chat(w.ctx, traffic.Model, w.prompts.Short[0].Messages, map[string]any{"max_tokens": 1}, nil)
			})
		}
		asking.Wait()
		reached := 0
		for launch, e := range w.engines {
			if w.metric(e, prompts)-before[launch] >= least {
				reached++
			}
		}
		if reached == len(w.engines) {
			return
		}
		select {
		case <-w.ctx.Done():
			w.t.Fatalf("the gateway at %s routes to %d of %d replicas (%v)", client.URL, reached, len(w.engines), errors.Join(errs...))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
