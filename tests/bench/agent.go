package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	nvmlStub     = "agent/gpu/testdata/nvmlstub/nvml.c"
	agentFor     = 24 * time.Second
	agentWarmup  = 3 * time.Second
	agentCPUGoal = 1.0  // % of a core
	agentMemGoal = 40.0 // MiB
)

const watchedDeployment = `apiVersion: penstock/v1
name: bench
model: {id: bench, servedName: bench}
engine: {kind: sim}
cluster: local
roles:
  mixed: {replicas: 1, gpus: 8}
serving: {allowForeignGPUProcesses: true}   # the stub lists some
`

// benchAgent measures an agent that samples 8 GPUs and an engine without requests each second.
func benchAgent(ctx context.Context, o *options, r *report) (err error) {
	libraries, err := os.MkdirTemp("", "ps-nvml-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(libraries)
	cc, err := exec.LookPath("gcc")
	if err != nil {
		r.note("agent: left out, the stub of NVML needs gcc")
		return nil
	}
	build := exec.CommandContext(ctx, cc, "-shared", "-fPIC", "-O1", "-DCARDS=8", "-DPLAIN", "-o", filepath.Join(libraries, "libnvidia-ml.so.1"), nvmlStub)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", nvmlStub, err, out)
	}
	w, err := newWorld(ctx, o, "LD_LIBRARY_PATH="+libraries)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := w.deploy(ctx, watchedDeployment, 1); err != nil {
		return err
	}
	agents := w.Find("", "agent")
	if len(agents) != 1 {
		return fmt.Errorf("%d agents run", len(agents))
	}
	pid := agents[0].PID
	time.Sleep(agentWarmup)
	begin := time.Now()
	before, err := cpuOf(pid)
	if err != nil {
		return err
	}
	time.Sleep(agentFor)
	after, err := cpuOf(pid)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	memory, err := memoryOf(pid)
	if err != nil {
		return err
	}
	if err := w.seesCards(ctx, 8); err != nil {
		return err
	}
	r.figure("agent_cpu_8_gpus", 100*(after-before).Seconds()/took.Seconds(), "%core", "goal", agentCPUGoal, less)
	r.figure("agent_memory_8_gpus", memory, "MiB", "goal", agentMemGoal, less)
	return nil
}

// seesCards checks that what was measured did its work: the controller knows the state of all cards by NVML.
func (w *world) seesCards(ctx context.Context, n int) error {
	text, err := w.Run(ctx, "nodes", "--json")
	if err != nil {
		return err
	}
	if got := strings.Count(text, "Stub, 80GB"); got < n || !strings.Contains(text, "temperature") {
		return fmt.Errorf("the controller knows %d cards of %d: %s", got, n, text)
	}
	return nil
}
