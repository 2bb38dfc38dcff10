package script

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

const demo = `apiVersion: penstock/v1
name: demo
model: {id: tiny}
engine: {kind: sim, args: [--speedup, "20"]}
roles: {mixed: {replicas: 1, gpus: 1}}
local: {nodes: [{name: node-a, gpus: 1}]}
`

// patience bounds every wait; nothing depends on how much of it is used.
const patience = time.Minute

// output is what a process has printed so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}
func (o *output) String() string { o.mu.Lock(); defer o.mu.Unlock(); return o.buf.String() }

// TestSignals sends real signals to commands that wait, and looks at whether the deployment minds.
func TestSignals(t *testing.T) {
	in := installation.ForTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	for name, text := range map[string]string{
		"demo.yaml": demo,
		"wide.yaml": strings.ReplaceAll(demo, "name: demo", "name: wide"), // has no room beside demo
	} {
		if _, err := in.Write(name, text); err != nil {
			t.Fatal(err)
		}
	}
	in.MustRun(ctx, t, "serve", "--detach")
	in.MustRun(ctx, t, "run", "demo.yaml", "--timeout", "60s")
	engine := func() int {
		found := in.Find("", "engine", "sim")
		if len(found) != 1 {
			t.Fatalf("%d engines run", len(found))
		}
		return found[0].PID
	}
	before := engine()
	for _, c := range []struct {
		args   string
		awaits string // what it prints once it waits
		signal syscall.Signal
		says   string
	}{
		{"logs -f demo", "model loaded", syscall.SIGINT, ""},
		{"events -f", "ready", syscall.SIGINT, ""},
		{"events -f", "ready", syscall.SIGTERM, ""},
		{"run wide.yaml", "no room", syscall.SIGINT, "the deployment goes on"},
		{"wait wide", "no room", syscall.SIGTERM, "the deployment goes on"},
	} {
		code, text := interrupt(ctx, t, in, c.signal, c.awaits, strings.Fields(c.args)...)
		if code != 130 || !strings.Contains(text, c.says) {
			t.Errorf("%s after %s: exit %d: %s", c.args, c.signal, code, text)
		}
		if now := engine(); now != before {
			t.Errorf("after %s another engine runs: %d, before %d", c.args, now, before)
		}
	}
	in.MustRun(ctx, t, "wait", "demo", "--timeout", "60s")
	in.MustRun(ctx, t, "stop", "--all", "--wait", "--timeout", "60s")
	if code, text := interrupt(ctx, t, in, syscall.SIGINT, "controller serves", "serve", "--state-dir", in.Dir+"/other"); code != 0 {
		t.Errorf("serve ends on ctrl-c with %d: %s", code, text)
	}
	in.MustRun(ctx, t, "serve", "--stop")
	if left := in.Processes(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// interrupt runs a command, sends it a signal once it has printed awaits, and returns its exit code and all that it printed.
func interrupt(ctx context.Context, t *testing.T, in *installation.Installation, s syscall.Signal, awaits string, args ...string) (int, string) {
	t.Helper()
	cmd := in.Command(ctx, args...)
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for end := time.Now().Add(patience); !strings.Contains(out.String(), awaits); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("%v ended before it was told to: %v: %s", args, err, &out)
		default:
		}
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			t.Fatalf("%v has not said %q but: %s", args, awaits, &out)
		}
	}
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	<-ended
	return cmd.ProcessState.ExitCode(), out.String()
}
