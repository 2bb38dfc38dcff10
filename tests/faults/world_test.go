package faults

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// world is one installation with one deployment, and what a test has seen of it.
type world struct {
	*installation.Installation
	t        *testing.T
	ctx      context.Context
	client   *installation.Client // of the controller's own gateway
	prompts  *traffic.Catalog
	streams  []*traffic.Traffic
	gateways []*gateway
	sockets  map[string]string // listening TCP sockets seen so far: inode -> who
	engines  map[string]engine // of the deployment, by launch, as they were before the traffic
}

// patience bounds each test.
const patience = 4 * time.Minute

// setup makes an installation. Nothing runs in it. Tests wait most of the time, so they run side by side.
func setup(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	in := installation.ForTest(t) // builds the program first, which may take longer than a fault
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return &world{Installation: in, t: t, ctx: ctx, prompts: traffic.Prompts(t), sockets: map[string]string{}}
}

// start makes an installation whose deployment is ready.
func start(t *testing.T, file string) *world {
	t.Helper()
	w := setup(t)
	w.serve()
	w.deploy("web", file)
	w.connect()
	return w
}

// deployment is the file of most tests: two replicas of one engine that gives about 90 tokens a second.
func deployment(more ...string) string {
	return fmt.Sprintf(`apiVersion: penstock/v1
name: web
model: {id: %s}
engine: {kind: sim, args: [--speedup, "0.5"]}
roles: {mixed: {replicas: 2, gpus: 1}}
local: {nodes: [{name: a, gpus: 4}, {name: b, gpus: 4}]}
%s
`, traffic.Model, strings.Join(more, "\n"))
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	return w.MustRun(w.ctx, w.t, args...)
}

func (w *world) serve(args ...string) {
	w.t.Helper()
	w.must(append([]string{"serve", "--detach"}, args...)...)
}

func (w *world) deploy(name, file string) {
	w.t.Helper()
	w.must("run", "--timeout", "60s", w.file(name, file))
}

func (w *world) file(name, text string) string {
	w.t.Helper()
	path, err := w.Write(name+".yaml", text)
	if err != nil {
		w.t.Fatal(err)
	}
	return path
}

// connect makes a key and waits until the controller's own gateway routes to all replicas.
func (w *world) connect() {
	w.t.Helper()
	var err error
	if w.client, err = w.Connect(w.ctx, "tests"); err != nil {
		w.t.Fatal(err)
	}
	w.engines = w.survey("web")
	w.routable(w.client)
}

// traffic starts steady traffic through a gateway and waits until its streams are in the middle.
func (w *world) traffic(client *installation.Client) *traffic.Traffic {
	w.t.Helper()
	tr := traffic.Begin(w.ctx, w.t, client, w.prompts)
	w.streams = append(w.streams, tr)
	w.t.Cleanup(func() { // where the test gives up
		if !tr.Over() {
			tr.End()
		}
	})
	tr.Middle(w.ctx)
	return tr
}

// fault marks the streams that are in the middle, and breaks something.
func (w *world) fault(what func()) {
	w.t.Helper()
	w.sockets = listening(w.Installation, w.sockets)
	for _, tr := range w.streams {
		tr.Mark()
	}
	what()
}

// until waits for a status.
func (w *world) until(what string, ok func(installation.Status) bool) installation.Status {
	w.t.Helper()
	st, err := w.Until(w.ctx, what, ok)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// status asks the controller.
func (w *world) status() installation.Status {
	w.t.Helper()
	st, err := w.Status(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// ready is the condition that a deployment has so many ready replicas and no others.
func ready(name string, n int) func(installation.Status) bool {
	return func(st installation.Status) bool {
		for _, d := range st.Deployments {
			if d.Name != name || len(d.Replicas) != n {
				continue
			}
			for _, r := range d.Replicas {
				if r.State != "ready" {
					return false
				}
			}
			return true
		}
		return false
	}
}

// replicas lists a deployment's replicas.
func (w *world) replicas(name string) []installation.Replica {
	w.t.Helper()
	for _, d := range w.status().Deployments {
		if d.Name == name {
			return d.Replicas
		}
	}
	w.t.Fatalf("there is no deployment %s", name)
	return nil
}

// process finds the one process of a launch that runs a subcommand.
func (w *world) process(launch string, words ...string) installation.Process {
	w.t.Helper()
	found := w.Find(launch, words...)
	if len(found) != 1 {
		w.t.Fatalf("launch %q has %d processes %v", launch, len(found), words)
	}
	return found[0]
}

func (w *world) signal(sig syscall.Signal, p installation.Process) {
	w.t.Helper()
	if err := syscall.Kill(p.PID, sig); err != nil {
		w.t.Fatalf("signal %v to process %d %v: %v", sig, p.PID, p.Command, err)
	}
}

// gone waits until no process of a launch is left.
func (w *world) gone(launch string) {
	w.t.Helper()
	for {
		var left []installation.Process
		for _, p := range w.Processes() {
			if p.Env["PENSTOCK_LAUNCH"] == launch {
				left = append(left, p)
			}
		}
		if len(left) == 0 {
			return
		}
		select {
		case <-w.ctx.Done():
			w.t.Fatalf("launch %s still has processes: %v", launch, left)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ofLaunch finds the one process of a launch that runs a subcommand. Shims carry no launch in their environment: they are
// known by their folder.
func (w *world) ofLaunch(launch string, words ...string) installation.Process {
	w.t.Helper()
	if words[0] != "local-job" {
		return w.process(launch, words...)
	}
	for _, p := range w.Find("", words...) {
		if strings.Contains(strings.Join(p.Command, " "), "/"+launch+".") {
			return p
		}
	}
	w.t.Fatalf("launch %s has no shim", launch)
	return installation.Process{}
}
