package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/penstock/penstock/cli"
)

// What this program also is, by its first argument.
const (
	roleEngine     = "paced-engine"
	roleClients    = "clients"
	roleProxy      = "reverse-proxy"
	roleRelay      = "bare-relay"
	roleController = "big-controller"
	roleAgents     = "big-agents"
	roleServer     = "value-server"
	roleValues     = "value-client"
	rolePeer       = "block-peer"
)

var roles = map[string]func(args []string) error{
	roleEngine: playEngine, roleClients: playClients, roleProxy: playProxy, roleRelay: playRelay, roleController: playController, roleAgents: playAgents,
	roleServer: playServer, roleValues: playValues, rolePeer: playPeer,
}

// profiled is the name of the copy of this program that profiles itself, into the folder in which it lies. It is also the
// real program, by its first argument, so that the real program can be profiled.
const profiled = "penstock-profiled"

// playRole runs this process in another role, if it was started for one.
func playRole(args []string) (code int, ok bool) {
	if len(args) < 2 || strings.HasPrefix(args[1], "-") {
		return 0, false
	}
	stop, err := startProfile(args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1, true
	}
	defer stop()
	play, ours := roles[args[1]]
	if !ours {
		return cli.Main(args, cli.System()), true
	}
	if err := play(args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", args[1], err)
		return 1, true
	}
	return 0, true
}

// startProfile profiles this process until stop is called, if it is the copy that does so.
func startProfile(role string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if filepath.Base(self) != profiled {
		return func() {}, nil
	}
	f, err := os.Create(filepath.Join(filepath.Dir(self), fmt.Sprintf("%s-%d.pprof", role, os.Getpid())))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// copySelf puts the copy that profiles itself into a folder.
func copySelf(self, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, profiled)
	return path, os.WriteFile(path, program, 0o700)
}

// helper is a process of this program in another role. It is told things and answers, a line of JSON each; it ends when its
// input does.
type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startHelper(o *options, role string, args ...string) (*helper, error) {
	h := &helper{cmd: exec.Command(o.self, append([]string{role}, args...)...)}
	h.cmd.Stderr = os.Stderr
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReaderSize(out, 1<<20)
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	return h, nil
}

func (h *helper) pid() int { return h.cmd.Process.Pid }

// tell sends a value.
func (h *helper) tell(v any) error { return json.NewEncoder(h.in).Encode(v) }

// hear waits for a value.
func (h *helper) hear(v any) error {
	line, err := h.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("wait for %s: %w", h.cmd.Args[1], err)
	}
	return json.Unmarshal(line, v)
}

// ask sends a question and waits for its answer.
func (h *helper) ask(question, answer any) error {
	if err := h.tell(question); err != nil {
		return err
	}
	return h.hear(answer)
}

// end lets the process end, and ends it if it does not.
func (h *helper) end() {
	_ = h.in.Close()
	kill := time.AfterFunc(10*time.Second, func() { _ = h.cmd.Process.Kill() })
	defer kill.Stop()
	_, _ = io.Copy(io.Discard, h.out)
	_ = h.cmd.Wait()
}

// endWith ends the process when ctx does, so that nothing waits for it.
func (h *helper) endWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = h.cmd.Process.Kill() })
}
