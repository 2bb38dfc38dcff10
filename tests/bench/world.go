package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

// world is an installation of the real program with one deployment.
type world struct {
	*installation.Installation
	replicas []installation.Replica
	gateway  *exec.Cmd
	address  string // of the gateway
	key      string
}

// newWorld starts a controller without a gateway. Its folder is short-lived; stop ends everything in it.
func newWorld(ctx context.Context, o *options, extra ...string) (*world, error) {
	dir, err := os.MkdirTemp("", "ps-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{Installation: &installation.Installation{Dir: dir, Binary: o.penstock, Extra: extra}}
	if _, err := w.Run(ctx, "serve", "--detach", "--no-gateway"); err != nil {
		return nil, errors.Join(err, w.stop())
	}
	return w, nil
}

// stop ends everything in order, so that profiles are written, and then by force.
func (w *world) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if w.gateway != nil {
		_ = w.gateway.Process.Signal(syscall.SIGTERM)
		_ = w.gateway.Wait()
	}
	_, err := w.Run(ctx, "stop", "--all", "--now", "--wait", "--timeout", "20s")
	if err == nil {
		_, err = w.Run(ctx, "serve", "--stop")
	}
	_, cerr := w.Clear()
	return errors.Join(err, cerr)
}

// deploy applies a file and waits until all of it is ready.
func (w *world) deploy(ctx context.Context, file string, replicas int) error {
	path, err := w.Write("bench.yaml", file)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := w.Run(ctx, "run", path); err != nil {
		return err
	}
	st, err := w.Status(ctx)
	if err != nil {
		return err
	}
	if len(st.Deployments) != 1 || len(st.Deployments[0].Replicas) != replicas {
		return fmt.Errorf("not all %d replicas are there: %+v", replicas, st)
	}
	w.replicas = st.Deployments[0].Replicas
	return nil
}

// serveClients starts a gateway in a process of its own, and makes a key with limits that are checked and never reached.
func (w *world) serveClients(ctx context.Context) (err error) {
	w.key, err = w.Run(ctx, "key", "create", "bench", "--rpm", "1000000000", "--tpm", "1000000000000", "--concurrency", "100000")
	if err != nil {
		return err
	}
	w.gateway = w.Command(context.WithoutCancel(ctx), "gateway", "--log-format", "json", "--name", "bench")
	log, err := w.gateway.StderrPipe()
	if err != nil {
		return err
	}
	if err := w.gateway.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(log)
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("wait for the gateway: %w", err)
		}
		var line struct{ Message, URL string }
		if json.Unmarshal(text, &line) == nil && line.Message == "gateway serves" {
			u, err := url.Parse(line.URL)
			if err != nil {
				return err
			}
			w.address = u.Host
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // ends with the gateway
	return nil
}

// sockets are the engines' own, in the order of their processes.
func (w *world) sockets() (paths []string) {
	for _, p := range w.Find("", roleEngine) {
		if i := slices.Index(p.Command, "--uds"); i >= 0 {
			paths = append(paths, p.Command[i+1])
		}
	}
	return paths
}

// pids are the processes by what they are.
func (w *world) pids() map[string][]int {
	of := map[string][]int{}
	for name, words := range map[string][]string{"agents": {"agent"}, "engines": {roleEngine}} {
		for _, p := range w.Find("", words...) {
			of[name] = append(of[name], p.PID)
		}
	}
	if w.gateway != nil {
		of["gateway"] = []int{w.gateway.Process.Pid}
	}
	return of
}

// pacedDeployment runs this program as the engine.
func pacedDeployment(self string, replicas int) string {
	return fmt.Sprintf(`apiVersion: penstock/v1
name: bench
model: {id: bench, servedName: bench}
engine: {kind: sim, command: [%q, %s]}
cluster: local
roles:
  mixed: {replicas: %d}
`, self, roleEngine, replicas)
}
