package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if library := os.Getenv(envStub); library != "" {
		os.Exit(playStub(library))
	}
	goleak.VerifyTestMain(m)
}

// checkSampler checks what every sampler promises, over several samples, and gives the last one.
func checkSampler(t *testing.T, sampler Sampler) Sample {
	t.Helper()
	var last Sample
	for range 3 {
		s, err := sampler.Sample(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.At.IsZero() || s.At.Before(last.At) {
			t.Errorf("sample is of %v, after one of %v", s.At, last.At)
		}
		if !slices.Contains([]string{"nvml", "nvidia-smi", "replay"}, s.Source) {
			t.Errorf("source %q", s.Source)
		}
		checkSample(t, s)
		before := marshal(t, s)
		spoil(last)
		if after := marshal(t, s); after != before {
			t.Errorf("two samples share memory: %s became %s", before, after)
		}
		last = s
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sampler.Sample(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	return last
}

// checkSample checks that a sample is sound in itself.
func checkSample(t *testing.T, s Sample) {
	t.Helper()
	uuids := map[string]bool{}
	for _, g := range s.GPUs {
		switch {
		case g.UUID != "" && uuids[g.UUID]:
			t.Errorf("%s is there twice", g.UUID)
		case g.MIGParent != "" && !uuids[g.MIGParent]:
			t.Errorf("%s comes before its card %s", g.UUID, g.MIGParent)
		case g.Utilization != nil && (*g.Utilization < 0 || *g.Utilization > 1):
			t.Errorf("%s: utilization %v", g.UUID, *g.Utilization)
		case g.MemoryTotal != nil && g.MemoryUsed != nil && *g.MemoryUsed > *g.MemoryTotal:
			t.Errorf("%s: %d of %d bytes used", g.UUID, *g.MemoryUsed, *g.MemoryTotal)
		}
		uuids[g.UUID] = true
		pids := map[int]bool{}
		for _, p := range g.Processes {
			if p.PID <= 0 || pids[p.PID] {
				t.Errorf("%s: process %d, twice: %v", g.UUID, p.PID, pids[p.PID])
			}
			pids[p.PID] = true
		}
		codes := slices.Clone(g.XIDs)
		slices.Sort(codes)
		if len(slices.Compact(codes)) != len(g.XIDs) {
			t.Errorf("%s: XIDs %v are not each there once", g.UUID, g.XIDs)
		}
	}
}

// spoil writes over all memory that a sample refers to.
func spoil(s Sample) {
	for i := range s.GPUs {
		g := &s.GPUs[i]
		for _, p := range []*uint64{g.MemoryTotal, g.MemoryUsed, g.ECCCorrected, g.ECCUncorrected} {
			if p != nil {
				*p = 1<<64 - 1
			}
		}
		for j := range g.Processes {
			if m := g.Processes[j].Memory; m != nil {
				*m = 1<<64 - 1
			}
			g.Processes[j] = Process{PID: -1}
		}
		for j := range g.XIDs {
			g.XIDs[j] = 1<<32 - 1
		}
		*g = GPU{UUID: "spoilt"}
	}
}

func marshal(t *testing.T, s Sample) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func of[T any](v T) *T { return &v }

const gib = uint64(1) << 30
