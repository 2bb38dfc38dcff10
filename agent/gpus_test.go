package agent

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/agent/gpu"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// samplerFunc is a gpu.Sampler.
type samplerFunc func() (gpu.Sample, error)

func (f samplerFunc) Sample(context.Context) (gpu.Sample, error) { return f() }

func sampleOf(gpus ...gpu.GPU) gpu.Sample { return gpu.Sample{At: noon, Source: "replay", GPUs: gpus} }

// busy is a card on which this test's own process is, which is no engine's.
func busy(uuid string) gpu.GPU {
	return gpu.GPU{UUID: uuid, MemoryUsed: new(uint64(1 << 30)), Processes: []gpu.Process{{PID: os.Getpid(), Memory: new(uint64(1 << 30))}}}
}

func idle(uuid string, index int) gpu.GPU {
	return gpu.GPU{UUID: uuid, Index: index, Processes: []gpu.Process{}}
}

func TestCardsThatAreOurs(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		placed  []string
		visible string
		want    string // UUIDs in the report
		source  string
	}{
		"by placement":           {[]string{"GPU-b"}, "0", "GPU-b", "replay"},
		"by index in the job":    {nil, "1", "GPU-b", "replay"},
		"by UUID in the job":     {nil, "GPU-a", "GPU-a", "replay"},
		"all that the job sees":  {nil, "", "GPU-a GPU-b", "replay"},
		"declared, none is real": {[]string{"node0-gpu1"}, "", "node0-gpu1", "declared"},
		"placed on another node": {[]string{"GPU-z"}, "", "", "replay"},
	}
	for name, test := range tests {
		c := &cards{sampler: samplerFunc(func() (gpu.Sample, error) { return sampleOf(idle("GPU-a", 0), idle("GPU-b", 1)), nil }), placed: test.placed, visible: test.visible}
		c.look(t.Context(), noon)
		report := c.report(noon)
		var uuids []string
		for _, g := range report.GetGpus() {
			uuids = append(uuids, g.GetUuid())
			if g.MemoryUsed != nil {
				t.Errorf("%s: memory %d: what a card does not tell is unknown", name, g.GetMemoryUsed())
			}
		}
		if strings.Join(uuids, " ") != test.want || report.GetSource() != test.source {
			t.Errorf("%s: %q from %q", name, uuids, report.GetSource())
		}
	}
}

func TestForeignProcessesAreNamed(t *testing.T) {
	t.Parallel()
	c := &cards{sampler: samplerFunc(func() (gpu.Sample, error) { return sampleOf(busy("GPU-a"), idle("GPU-b", 1)), nil }), placed: []string{"GPU-a"}}
	c.look(t.Context(), noon)
	if err := c.free(); !errors.Is(err, errBusyGPUs) || !strings.Contains(err.Error(), "GPU-a") {
		t.Errorf("free: %v", err)
	}
	foreign := c.report(noon).GetGpus()[0].GetForeign()
	if len(foreign) != 1 || foreign[0].GetPid() != int64(os.Getpid()) || foreign[0].GetMemoryUsed() != 1<<30 || foreign[0].GetCommand() == "" {
		t.Errorf("foreign %v", foreign)
	}
	c.placed = []string{"GPU-b"}
	if err := c.free(); err != nil {
		t.Errorf("another card's process: %v", err)
	}
}

func TestNvidiaSmiIsAskedRarely(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]int{"nvidia-smi": 2, "nvml": 15} {
		asked := 0
		now := noon
		c := &cards{sampler: samplerFunc(func() (gpu.Sample, error) {
			asked++
			return gpu.Sample{At: now, Source: source}, nil
		})}
		for range 15 {
			c.look(t.Context(), now)
			now = now.Add(time.Second)
		}
		if asked != want {
			t.Errorf("%s: asked %d times in 15 seconds, want %d", source, asked, want)
		}
	}
}

func TestSamplerThatFails(t *testing.T) {
	t.Parallel()
	c := &cards{sampler: samplerFunc(func() (gpu.Sample, error) { return gpu.Sample{}, errors.New("driver gone") })}
	if c.seen() {
		t.Error("nothing was looked at yet")
	}
	c.look(t.Context(), noon)
	if r := c.report(noon); !c.seen() || r.GetError() != "driver gone" || len(r.GetGpus()) != 0 {
		t.Errorf("report %v", r)
	}
}

func TestStartWaitsForItsCards(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.gpus = []string{"GPU-a"}
	var freed atomic.Bool
	a := w.start(func(o *Options) {
		o.Sampler, o.SamplerErr = samplerFunc(func() (gpu.Sample, error) {
			if freed.Load() {
				return sampleOf(idle("GPU-a", 0)), nil
			}
			return sampleOf(busy("GPU-a")), nil
		}), nil
	})
	eventually(t, "the wait and its reason are reported", func() bool {
		h := w.controller.state(0).GetHealth()
		return h.GetPhase() == apiv1.Phase_PHASE_JOINING && strings.Contains(h.GetMessage(), "GPU-a")
	})
	if n := w.controller.state(0).GetHealth().GetEngineStarts(); n != 0 {
		t.Errorf("%d engine starts on a card that others hold", n)
	}
	freed.Store(true)
	a.reach(started)
}

func TestBusyCards(t *testing.T) {
	t.Parallel()
	sampler := samplerFunc(func() (gpu.Sample, error) { return sampleOf(busy("GPU-a")), nil })
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "restarts: 0")
		err := w.start(func(o *Options) { o.Sampler, o.SamplerErr, o.Limits.FreeGPUs = sampler, nil, 200*time.Millisecond }).wait()
		if !errors.Is(err, errBusyGPUs) || !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "allowForeignGPUProcesses") {
			t.Errorf("Run: %v", err)
		}
	})
	t.Run("allowed", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "allowForeignGPUProcesses: true")
		w.start(func(o *Options) { o.Sampler, o.SamplerErr = sampler, nil }).reach(started)
	})
}
