package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
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
	if err := runAgent(ctx, join); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runAgent(ctx context.Context, join string) error {
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

// BenchmarkFootprint measures what an agent of its own costs that samples 8 GPUs and an idle simulated engine once a
// second: share of one core in per cent, and resident memory. It takes half a minute.
func BenchmarkFootprint(b *testing.B) {
	ca := testCA(b)
	c := startController(b, ca, simYAML)
	dir := shortDir(b)
	record8(b, filepath.Join(dir, "gpus.jsonl"))
	join := filepath.Join(dir, "join.json")
	if err := identity.WriteJoinFile(join, identity.JoinFile{
		Launch: newLaunch(), Token: "t0ken", Controllers: []string{c.url}, CAPEM: string(ca.PEM()), Installation: ca.Installation(),
	}); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envAgent+"="+join)
	var log lockedBuffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	eventually(b, "the agent serves", func() bool { return c.phase(0) == started })
	for b.Loop() {
		before, at := cpuOf(b, cmd.Process.Pid), time.Now()
		time.Sleep(20 * time.Second)
		used := cpuOf(b, cmd.Process.Pid) - before
		b.ReportMetric(100*used.Seconds()/time.Since(at).Seconds(), "%core")
		b.ReportMetric(float64(rssOf(b, cmd.Process.Pid))/(1<<20), "MiB")
	}
	if n := len(c.state(0).GetGpus().GetGpus()); n != 8 {
		b.Fatalf("%d GPUs are reported; log:\n%s", n, log.String())
	}
}

// record8 writes a recording of a busy node with 8 cards.
func record8(b *testing.B, path string) {
	b.Helper()
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
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
}

// cpuOf is the user and system time of a process, its children left out.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func rssOf(b *testing.B, pid int) int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(text))[1])
	return pages * os.Getpagesize()
}
