// Package installation is one installation of the real program in a folder of its own: its controller, deployments and
// processes, and clients that check what they are answered. The demo, the whole-system tests and the benchmarks stand on
// it. It knows the program from outside only: command line, files, HTTP.
package installation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Installation is a folder with everything in it, and the program that works on it.
type Installation struct {
	Dir    string // short: unix sockets lie under it
	Binary string
	Extra  []string // further environment of every command
	// StateDir is where the state is; empty = a folder in Dir.
	StateDir string
	// As is the user that runs every command; nil = who runs the test. Only root can choose another one.
	As *syscall.Credential
	// On makes a command that runs somewhere else, such as on a machine of a test bed: with an environment of its own, in
	// which env is on top. nil = here. As holds here only.
	On func(ctx context.Context, env []string, argv ...string) *exec.Cmd
}

// Env is what every command runs in. Nothing of it leads out of Dir.
func (s *Installation) Env() []string {
	env := []string{}
	for _, kv := range os.Environ() {
		if s.On == nil && !strings.HasPrefix(kv, "PENSTOCK_") && !strings.HasPrefix(kv, "XDG_") {
			env = append(env, kv)
		}
	}
	return append(append(env, "PENSTOCK_STATE_DIR="+s.State(), "PENSTOCK_RUNTIME_DIR="+filepath.Join(s.Dir, "run"),
		"XDG_CONFIG_HOME="+filepath.Join(s.Dir, "config"), "XDG_CACHE_HOME="+filepath.Join(s.Dir, "cache"),
		"TMPDIR="+s.Dir, "NO_COLOR=1", "PENSTOCK_SITE_FILE="+filepath.Join(s.Dir, "site.yaml")), s.Extra...)
}

// State is the state folder.
func (s *Installation) State() string {
	if s.StateDir != "" {
		return s.StateDir
	}
	return filepath.Join(s.Dir, "state")
}

// Command makes a command of the program, in Dir.
func (s *Installation) Command(ctx context.Context, args ...string) *exec.Cmd {
	if s.On != nil {
		return s.On(ctx, s.Env(), append([]string{s.Binary}, args...)...)
	}
	cmd := exec.CommandContext(ctx, s.Binary, args...)
	cmd.Env, cmd.Dir = s.Env(), s.Dir
	if s.As != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.As}
	}
	return cmd
}

// ExitError is a command that ended with another code than 0.
type ExitError struct {
	Args     []string
	Code     int
	Out, Err string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("penstock %s: exit %d\n%s%s", strings.Join(e.Args, " "), e.Code, e.Out, e.Err)
}

// Run runs a command and returns what it prints on stdout. A code other than 0 is an *ExitError.
func (s *Installation) Run(ctx context.Context, args ...string) (string, error) {
	cmd := s.Command(ctx, args...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.String(), &ExitError{args, exit.ExitCode(), out.String(), talk.String()}
	}
	if err != nil {
		return "", fmt.Errorf("penstock %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out.String()), nil
}

// Write puts a file into Dir and returns its path.
func (s *Installation) Write(name, content string) (string, error) {
	path := filepath.Join(s.Dir, name)
	return path, os.WriteFile(path, []byte(content), 0o600)
}

// Weights makes a sparse file of so many bytes, for the simulated engine to load.
func (s *Installation) Weights(name string, size int64) (string, error) {
	path := filepath.Join(s.Dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	err = f.Truncate(size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return path, err
}

// Connect makes a key and returns a client of the gateway.
func (s *Installation) Connect(ctx context.Context, name string) (*Client, error) {
	key, err := s.Run(ctx, "key", "create", name)
	if err != nil {
		return nil, err
	}
	url, err := s.Run(ctx, "endpoint", "--url")
	if err != nil {
		return nil, err
	}
	return &Client{URL: url, Key: key}, nil
}

// Status is what `penstock status --json` says, as far as tests need it.
type Status struct {
	Deployments []Deployment
	Warnings    []string
}

// Deployment is one deployment of a Status.
type Deployment struct {
	Name, State, Reason string
	Revision            int
	RolledBackFrom      int `json:"rolled_back_from"`
	Replicas            []Replica
}

// Replica is one replica of a Status.
type Replica struct {
	Launch, Name, State, Reason, Address, Job string
	Epoch                                     int
	Revision                                  int
	Failures                                  int
	Nodes                                     []string
	LastLines                                 []string `json:"last_lines"`
	Load                                      *Load
	Handover                                  *Handover // nil = its job has no end
}

// Handover is what is expected of the end of a replica's job.
type Handover struct {
	Gap             *float64 // seconds without the replica; nil = none
	Successor       string
	SuccessorReason string `json:"successor_reason"`
}

// Load is a replica's load; nil = unknown.
type Load struct {
	Running, Waiting *int
	OpenRequests     int `json:"open_requests"`
}

// Status asks the controller.
func (s *Installation) Status(ctx context.Context) (st Status, err error) {
	text, err := s.Run(ctx, "status", "--json")
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		return st, fmt.Errorf("read status: %w", err)
	}
	return st, nil
}

// Until asks for the status until a condition holds.
func (s *Installation) Until(ctx context.Context, what string, ok func(Status) bool) (Status, error) {
	var last Status
	for {
		st, err := s.Status(ctx)
		if err == nil {
			if last = st; ok(st) {
				return st, nil
			}
		}
		select {
		case <-ctx.Done():
			text, _ := json.MarshalIndent(last, "", " ")
			return last, fmt.Errorf("waited in vain for: %s (%w); the last status was %s", what, errors.Join(err, ctx.Err()), text)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Process is one process of the installation.
type Process struct {
	PID     int
	Command []string
	Env     map[string]string
}

// Is says whether the process runs the given subcommand, e.g. "engine", "sim".
func (p Process) Is(words ...string) bool {
	if len(p.Command) < 1+len(words) {
		return false
	}
	for i, w := range words {
		if p.Command[1+i] != w {
			return false
		}
	}
	return true
}

// Processes lists every process that was started inside the installation: its folder stands in its environment.
func (s *Installation) Processes() (out []Process) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if !bytes.Contains(env, []byte(s.Dir)) && !bytes.Contains(cmdline, []byte(s.Dir)) {
			continue
		}
		p := Process{PID: pid, Command: strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00"), Env: map[string]string{}}
		for kv := range strings.SplitSeq(string(env), "\x00") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				p.Env[k] = v
			}
		}
		out = append(out, p)
	}
	return out
}

// Find lists the processes of a launch ("" = any) that run a subcommand.
func (s *Installation) Find(launch string, words ...string) (out []Process) {
	for _, p := range s.Processes() {
		if p.Is(words...) && (launch == "" || p.Env["PENSTOCK_LAUNCH"] == launch) {
			out = append(out, p)
		}
	}
	return out
}

// Clear kills whatever is left and removes the folder. It returns what was left, zombies not counted.
func (s *Installation) Clear() (left []Process, err error) {
	left = s.Processes()
	for range 100 {
		now := s.Processes()
		if len(now) == 0 {
			break
		}
		for _, p := range now {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return left, os.RemoveAll(s.Dir)
}
