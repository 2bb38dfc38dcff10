package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stage is the demo's own world: a temporary folder for everything, and what later steps need of earlier ones.
type stage struct {
	dir, binary string
	url, key    string
	history     []message
	first       answer
	interrupted string // request id of a stream that was continued
}

const deployment = `apiVersion: penstock/v1
name: demo
model: {path: weights.bin, servedName: tiny}
engine:
  kind: sim                  # built in, needs no GPU; the same file serves vllm, sglang, trtllm, llamacpp
  args: [--load-rate, 96MiB, --speedup, "0.6"]
cluster: local
roles:
  mixed: {replicas: 1, gpus: 1}
local:
  nodes: [{name: node-a, gpus: 2}, {name: node-b, gpus: 2}]
`

const weights = 96 << 20 // bytes; a sparse file that the engine really reads

// env is what every command of the demo runs in.
func (s *stage) env() []string {
	return append(os.Environ(), "PENSTOCK_STATE_DIR="+filepath.Join(s.dir, "state"), "PENSTOCK_RUNTIME_DIR="+filepath.Join(s.dir, "run"),
		"XDG_CONFIG_HOME="+filepath.Join(s.dir, "config"), "XDG_CACHE_HOME="+filepath.Join(s.dir, "cache"), "TMPDIR="+s.dir, "NO_COLOR=1")
}

// show prints a command as a person would type it, runs it, and shows all that it prints. Exit codes in ok are fine.
func (s *stage) show(ctx context.Context, ok []int, args ...string) error {
	fmt.Println("$ penstock", strings.Join(args, " "))
	cmd := s.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	return exitIn(cmd.Run(), ok, args)
}

// quiet runs a command and returns what it prints on stdout.
func (s *stage) quiet(ctx context.Context, args ...string) (string, error) {
	cmd := s.command(ctx, args...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := exitIn(cmd.Run(), nil, args); err != nil {
		return "", fmt.Errorf("%w\n%s", err, talk.String())
	}
	return strings.TrimSpace(out.String()), nil
}

func (s *stage) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Env, cmd.Dir = s.env(), s.dir
	return cmd
}

func exitIn(err error, ok []int, args []string) error {
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

func startController(ctx context.Context, s *stage) error {
	if err := os.WriteFile(filepath.Join(s.dir, "demo.yaml"), []byte(deployment), 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "weights.bin"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(weights)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
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
	if err := s.show(ctx, nil, "key", "create", "--out", "key", "demo"); err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "key"))
	if err != nil {
		return err
	}
	s.key = strings.TrimSpace(string(key))
	if s.url, err = s.quiet(ctx, "endpoint", "--url"); err != nil {
		return err
	}
	return s.show(ctx, nil, "endpoint")
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

func showWhy(ctx context.Context, s *stage) error {
	deadline := time.Now().Add(10 * time.Second)
	for { // gateways hand records over in batches
		if _, err := s.quiet(ctx, "why", s.interrupted); err == nil {
			return s.show(ctx, nil, "why", s.interrupted)
		} else if time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func stopAll(ctx context.Context, s *stage) error {
	if err := s.show(ctx, nil, "stop", "--all", "--wait"); err != nil {
		return err
	}
	if err := s.show(ctx, nil, "serve", "--stop"); err != nil {
		return err
	}
	if left := s.processes(); len(left) > 0 {
		return fmt.Errorf("processes are left: %v", left)
	}
	ports, err := s.listening()
	if err != nil {
		return err
	}
	if ports != "" {
		return fmt.Errorf("ports are still open: %s", ports)
	}
	fmt.Println("no process, no listening port")
	return nil
}

// clear ends what a failed step has left and removes the folder.
func (s *stage) clear() error {
	for range 50 {
		left := s.processes()
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return os.RemoveAll(s.dir)
}

// processes lists every process that was started inside the demo: its folder stands in its environment.
func (s *stage) processes() (out []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && bytes.Contains(env, []byte(s.dir)) {
			out = append(out, pid)
		}
	}
	return out
}

// listening says whether the gateway's port still answers.
func (s *stage) listening() (string, error) {
	host := strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/v1")
	conn, err := net.DialTimeout("tcp", host, time.Second)
	if err != nil {
		return "", nil
	}
	return host, conn.Close()
}

// replicas maps each replica's name to the state that `status --json` gives.
func (s *stage) replicas(ctx context.Context) (map[string]string, error) {
	text, err := s.quiet(ctx, "status", "--json", "demo")
	if err != nil {
		return nil, err
	}
	var st struct {
		Deployments []struct {
			Replicas []struct{ Name, State, Launch string }
		}
	}
	if err := json.NewDecoder(io.LimitReader(strings.NewReader(text), 1<<20)).Decode(&st); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	out := map[string]string{}
	for _, d := range st.Deployments {
		for _, r := range d.Replicas {
			out[r.Name] = r.Launch
		}
	}
	return out, nil
}
