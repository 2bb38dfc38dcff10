package clustertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/scheduler/cluster"
)

// noSuchJob is a job ID that no cluster gives out; a number, because some take nothing else.
const noSuchJob = "999999999"

var bothForms = []check{
	{"capacity names nodes and GPUs once each", nil, capacity},
	{"stop of an unknown job is no error", nil, func(t *testing.T, h *Harness) { h.stop(t, noSuchJob, time.Second) }},
	{"a fresh cluster has no jobs", nil, func(t *testing.T, h *Harness) {
		if jobs := h.jobs(t); len(jobs) > 0 {
			t.Errorf("jobs: %+v", jobs)
		}
	}},
	{"a context that is over ends every call with ErrUnknown", nil, expiredContext},
	{"silence is ErrUnknown, never a shorter list", []Ability{Silencing}, silence},
	{"no call outlives its deadline", []Ability{Hanging}, hang},
}

func capacity(t *testing.T, h *Harness) {
	c, err := call(t, "Capacity", callLimit, h.Cluster.Capacity)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Nodes) == 0 || c.At.IsZero() {
		t.Errorf("%d nodes at %v", len(c.Nodes), c.At)
	}
	names, gpus := map[string]bool{}, map[string]bool{}
	for _, n := range c.Nodes {
		if n.Name == "" || names[n.Name] || !n.Up {
			t.Errorf("node %q: named before %v, up %v", n.Name, names[n.Name], n.Up)
		}
		names[n.Name] = true
		for _, g := range n.GPUs {
			if g.ID == "" || gpus[g.ID] {
				t.Errorf("GPU %q of node %s: named before %v", g.ID, n.Name, gpus[g.ID])
			}
			gpus[g.ID] = true
		}
	}
}

// everyCall makes each call of the contract once, with that deadline, and hands its error on.
func everyCall(t *testing.T, h *Harness, limit time.Duration, see func(call string, err error)) {
	t.Helper()
	one := func(name string, do func(context.Context) error) {
		t.Helper()
		_, err := call(t, name, limit, func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) })
		see(name, err)
	}
	sub := h.Submission(t, Behaviour{})
	one("Jobs", func(ctx context.Context) error { _, err := h.Cluster.Jobs(ctx); return err })
	one("Capacity", func(ctx context.Context) error { _, err := h.Cluster.Capacity(ctx); return err })
	one("Stop", func(ctx context.Context) error { return h.Cluster.Stop(ctx, noSuchJob, time.Second) })
	if c, ok := h.Cluster.(cluster.Submitter); ok {
		one("Submit", func(ctx context.Context) error { _, err := c.Submit(ctx, sub); return err })
	}
	if c, ok := h.Cluster.(cluster.Counter); ok {
		one("SetCount", func(ctx context.Context) error { return c.SetCount(ctx, roleOf(sub), sub.Deployment, 1, 1) })
		one("Counts", func(ctx context.Context) error { _, err := c.Counts(ctx); return err })
	}
}

func wantUnknown(t *testing.T) func(call string, err error) {
	return func(call string, err error) {
		if !errors.Is(err, cluster.ErrUnknown) || errors.Is(err, cluster.ErrRefused) {
			t.Errorf("%s: %v, want ErrUnknown", call, err)
		}
	}
}

func expiredContext(t *testing.T, h *Harness) {
	everyCall(t, h, 0, wantUnknown(t))
}

func silence(t *testing.T, h *Harness) {
	if _, ok := h.Cluster.(cluster.Submitter); ok {
		_, id := h.mustSubmit(t, Behaviour{})
		h.reach(t, id, cluster.JobRunning) // and it stays so
	}
	before := h.jobs(t)
	h.Silence(t, true)
	everyCall(t, h, callLimit, wantUnknown(t))
	h.Silence(t, false)
	if d := cmp.Diff(before, h.jobs(t)); d != "" {
		t.Error("the silence changed the jobs: " + d)
	}
}

func hang(t *testing.T, h *Harness) {
	h.Hang(t, true)
	everyCall(t, h, 50*time.Millisecond, wantUnknown(t))
	h.Hang(t, false)
	h.jobs(t)
}
