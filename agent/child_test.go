package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/gpu"
	"github.com/penstock/penstock/scheduler/identity"
)

// envAgent makes the test binary an agent. Its value is the path of a join file; beside it lies gpus.jsonl.
const envAgent = "AGENT_TEST_JOIN"

func playAgent(join string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := runChild(ctx, join); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runChild(ctx context.Context, join string) error {
	j, err := identity.ReadJoinFile(join)
	if err != nil {
		return err
	}
	recording, err := os.Open(filepath.Join(filepath.Dir(join), "gpus.jsonl"))
	if err != nil {
		return err
	}
	defer recording.Close()
	sampler, err := gpu.NewReplay(recording, gpu.ReplayOptions{Loop: true})
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a, err := New(Options{
		Join: j, Run: "r1", Node: "n1", Hostname: "h1", RuntimeDir: filepath.Join(filepath.Dir(join), "r"), ListenHost: "127.0.0.1",
		Environ: os.Environ(), Sampler: sampler, Registry: prometheus.NewRegistry(), Log: zerolog.New(os.Stderr), Self: self,
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// writeJoin writes what an agent of its own needs, and returns the path of its join file.
func writeJoin(t testing.TB, c *fakeController, launch string) string {
	t.Helper()
	dir := shortDir(t)
	record8(t, filepath.Join(dir, "gpus.jsonl"))
	join := filepath.Join(dir, "join.json")
	if err := identity.WriteJoinFile(join, identity.JoinFile{
		Launch: launch, Token: "t0ken", Controllers: []string{c.url}, CAPEM: string(c.ca.PEM()), Installation: c.ca.Installation(),
	}); err != nil {
		t.Fatal(err)
	}
	return join
}

// startChild starts an agent in a process of its own, until the test ends.
func startChild(t testing.TB, join string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envAgent+"="+join)
	log := &lockedBuffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of the agent:\n%s", log)
		}
	})
	return cmd
}

// record8 writes a recording of a busy node with 8 cards.
func record8(t testing.TB, path string) {
	t.Helper()
	var out bytes.Buffer
	for second := range 60 {
		s := gpu.Sample{At: noon.Add(time.Duration(second) * time.Second), Source: "nvml"}
		for i := range 8 {
			s.GPUs = append(s.GPUs, gpu.GPU{
				UUID: fmt.Sprintf("GPU-%08d-0000-0000-0000-000000000000", i), Name: "NVIDIA H100 80GB HBM3", Index: i,
				MemoryTotal: new(uint64(85520809984)), MemoryUsed: new(uint64(70e9 + float64(second)*1e6)),
				Utilization: new(float64(second%10) / 10), TemperatureC: new(40 + float64(second%7)), PowerW: new(300 + float64(second)),
				PowerLimitW: new(700.0), SMClockMHz: new(uint32(1980)), MemClockMHz: new(uint32(2619)),
				ECCCorrected: new(uint64(0)), ECCUncorrected: new(uint64(0)), XIDs: []uint32{}, Processes: []gpu.Process{},
			})
		}
		if err := gpu.Record(&out, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// An agent that is killed takes its engine along, and the next one of the same run serves again.
func TestKilledAgent(t *testing.T) {
	t.Parallel()
	c, launch := startController(t, testCA(t), simYAML), newLaunch()
	join := writeJoin(t, c, launch)
	first := startChild(t, join)
	eventually(t, "the first agent serves", func() bool { return c.phase(0) == started })
	engine := pidOfRank(launch, 0)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	eventually(t, "its engine is gone", func() bool { return engine != 0 && errors.Is(syscall.Kill(engine, 0), syscall.ESRCH) })
	c.set(func() { clear(c.known); clear(c.seq) })
	startChild(t, join)
	eventually(t, "the second agent serves", func() bool { return c.phase(0) == started && pidOfRank(launch, 0) != engine })
}

// SIGTERM is the caller's to catch; what it does with it ends in order.
func TestTerminatedAgentEndsInOrder(t *testing.T) {
	t.Parallel()
	c := startController(t, testCA(t), simYAML)
	cmd := startChild(t, writeJoin(t, c, newLaunch()))
	eventually(t, "the agent serves", func() bool { return c.phase(0) == started })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || c.path(0) != "joining loading started draining stopped" {
		t.Errorf("%v; phases: %s", err, c.path(0))
	}
}
