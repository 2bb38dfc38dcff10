package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/engine"
	"github.com/penstock/penstock/agent/gpu"
	"github.com/penstock/penstock/agent/process"
	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// slowEngine plays an engine that reads its weights, as the kernel counts it, and does not listen yet. The agent around it is
// the real one from supervise down, and its clock the test's.
func slowEngine(t *testing.T, weights uint64, read func(age time.Duration) uint64) *run {
	t.Helper()
	dir := t.TempDir()
	model := filepath.Join(dir, "model.safetensors")
	if err := errors.Join(os.WriteFile(model, nil, 0o600), os.Truncate(model, int64(weights))); err != nil {
		t.Fatal(err)
	}
	d, err := jobspecs.Parse("d.yaml", fmt.Appendf(nil, "apiVersion: penstock/v1\nname: d\nmodel: {path: %s, servedName: m}\n"+
		"engine: {kind: vllm}\nroles: {mixed: {}}\nserving: {restarts: 0}\n", dir))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Nodes: 1, Registry: prometheus.NewRegistry()}.withDefaults()
	kind := spec.For(jobspecs.VLLM)
	r := &run{
		agent: &Agent{opts: o, metrics: newMetrics(o.Registry)}, opts: o, adm: &admission{deployment: d, role: jobspecs.Mixed},
		end: newEnding(), log: zerolog.Nop(), kind: kind, traits: kind.Traits(), startAt: time.Now(), state: newState(),
		cards: &cards{err: gpu.ErrNoGPU},
	}
	r.port = newPort(portOptions{traits: r.traits, metrics: r.agent.metrics, log: r.log})
	begun := time.Now()
	r.begin = func(int, meeting) (*engineRun, error) {
		return &engineRun{
			tail:   process.NewTail(tailLines, tailWidth),
			reader: engine.New(engine.Options{Kind: kind.Kind(), Role: jobspecs.Mixed, Traits: r.traits, Socket: filepath.Join(dir, "none.sock")}),
			usage:  func() process.Usage { return process.Usage{ReadBytes: read(time.Since(begun))} },
		}, nil
	}
	return r
}

func (r *run) told() *apiv1.Health { now, _ := r.state.read(); return now.GetHealth() }

const loadFor = 45 * time.Minute

// TestLoadingFor45Minutes: a load that goes on is never taken for a failure, however long it takes, and says all the time how
// fast it is and how long it will take.
func TestLoadingFor45Minutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const weights = 140 << 30
		perSecond := weights / loadFor.Seconds()
		r := slowEngine(t, weights, func(age time.Duration) uint64 { return uint64(age.Seconds() * perSecond) })
		done := make(chan error, 1)
		go func() { done <- r.supervise(t.Context()) }()
		for at := time.Minute; at < loadFor; at += time.Minute {
			time.Sleep(time.Minute)
			synctest.Wait()
			h := r.told()
			if h.GetPhase() != apiv1.Phase_PHASE_LOADING || h.GetFailures() > 0 || h.GetMessage() != "the engine does not listen yet" {
				t.Fatalf("after %s: %v", at, h)
			}
			p := h.GetLoading()
			if got := p.GetBytesPerSecond() / perSecond; got < 0.98 || got > 1.02 {
				t.Errorf("after %s: %.1f MB/s, want %.1f", at, p.GetBytesPerSecond()/1e6, perSecond/1e6)
			}
			if left := p.GetRemaining().AsDuration(); left < loadFor-at-time.Minute || left > loadFor-at+time.Minute {
				t.Errorf("after %s: %s are left, it says %s", at, loadFor-at, left)
			}
		}
		r.end.stop("the test is over", nil)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestLoadingFailsWithoutProgress: neither at once nor for its age, but when nothing has moved for the time that the
// deployment allows.
func TestLoadingFailsWithoutProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const stuckAt = 20 * time.Minute
		r := slowEngine(t, 140<<30, func(age time.Duration) uint64 { return uint64(min(age, stuckAt).Seconds() * 50e6) })
		begun := time.Now()
		err := r.supervise(t.Context())
		if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "loading made no progress for 15m") || !strings.Contains(err.Error(), "none.sock") {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(begun); took < stuckAt+15*time.Minute || took > stuckAt+15*time.Minute+5*time.Second {
			t.Errorf("it failed after %s, %s after the last progress", took, took-stuckAt)
		}
		if h := r.told(); h.GetPhase() != apiv1.Phase_PHASE_FAILED || h.GetFailures() != 1 || !strings.Contains(h.GetMessage(), "loading made no progress for 15m") {
			t.Errorf("it tells %v", h)
		}
	})
}
