package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

// stage is the demo's own world, and what later steps need of earlier ones.
type stage struct {
	*installation.Installation
	client      *installation.Client
	history     []installation.Message
	first       installation.Answer
	interrupted string // request id of a stream that was continued
}

const deployment = `apiVersion: penstock/v1
name: demo
model: {path: $DEMO/weights.bin, servedName: tiny}
engine:
  kind: sim                  # built in, needs no GPU; the same file serves vllm, sglang, trtllm, llamacpp
  args: [--load-rate, 64MiB, --speedup, "0.6"]
cluster: local
roles:
  mixed: {replicas: 1, gpus: 1}
local:
  nodes: [{name: node-a, gpus: 2}, {name: node-b, gpus: 2}]
`

const weights = 128 << 20 // bytes

// show prints a command as a person would type it, runs it, and shows all that it prints. Exit codes in ok are fine.
func (s *stage) show(ctx context.Context, ok []int, args ...string) error {
	fmt.Println("$ penstock", strings.Join(args, " "))
	cmd := s.Command(ctx, args...)
	out := &shortened{out: os.Stdout, dir: s.Dir}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		for _, code := range ok {
			if exit.ExitCode() == code {
				return nil
			}
		}
	}
	if err != nil {
		return fmt.Errorf("penstock %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// shortened prints the temporary folder as $DEMO, so that lines stay readable.
type shortened struct {
	out io.Writer
	dir string
}

func (w *shortened) Write(p []byte) (int, error) {
	_, err := io.WriteString(w.out, strings.ReplaceAll(string(p), w.dir, "$DEMO"))
	return len(p), err
}

func startController(ctx context.Context, s *stage) error {
	if _, err := s.Write("demo.yaml", strings.ReplaceAll(deployment, "$DEMO", s.Dir)); err != nil {
		return err
	}
	if _, err := s.Weights("weights.bin", weights); err != nil {
		return err
	}
	return s.show(ctx, nil, "serve", "--detach")
}

func showPlan(ctx context.Context, s *stage) error {
	fmt.Print("$ cat demo.yaml\n", deployment)
	return s.show(ctx, []int{1}, "plan", "demo.yaml") // 1 = there are changes
}

func runDeployment(ctx context.Context, s *stage) error {
	if err := s.show(ctx, nil, "run", "demo.yaml"); err != nil {
		return err
	}
	if err := s.show(ctx, nil, "endpoint"); err != nil {
		return err
	}
	fmt.Println("$ penstock key create demo")
	var err error
	s.client, err = s.Connect(ctx, "demo")
	return err
}

func scaleUp(ctx context.Context, s *stage) error {
	if err := s.show(ctx, nil, "scale", "demo", "mixed=3"); err != nil {
		return err
	}
	return s.show(ctx, nil, "wait", "--timeout", "60s", "demo")
}

func showStatus(ctx context.Context, s *stage) error {
	if err := s.show(ctx, nil, "status"); err != nil {
		return err
	}
	if err := s.show(ctx, nil, "nodes"); err != nil {
		return err
	}
	return s.show(ctx, nil, "events", "--tail", "8")
}

func showWhy(ctx context.Context, s *stage) error { return s.show(ctx, nil, "why", s.interrupted) }

func stopAll(ctx context.Context, s *stage) error {
	if err := s.show(ctx, nil, "stop", "--all", "--wait"); err != nil {
		return err
	}
	if err := s.show(ctx, nil, "serve", "--stop"); err != nil {
		return err
	}
	for _, p := range s.Processes() {
		return fmt.Errorf("a process is left: %d %v", p.PID, p.Command)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(s.client.URL, "http://"), "/v1")
	if conn, err := net.DialTimeout("tcp", host, time.Second); err == nil {
		conn.Close()
		return fmt.Errorf("the gateway's port %s still answers", host)
	}
	fmt.Println("no process is left, no port answers")
	return nil
}
