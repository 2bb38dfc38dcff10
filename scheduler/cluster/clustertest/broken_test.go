package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// brokenEnv names the fault that TestBroken's child process runs the suite on.
const brokenEnv = "PENSTOCK_TEST_BROKEN"

// broken is a Sim with one lie.
type broken struct {
	*Sim
	lie string
}

func (b broken) Jobs(ctx context.Context) ([]cluster.Job, error) {
	list, err := b.Sim.Jobs(ctx)
	switch b.lie {
	case "shorter list when it cannot tell":
		return list, nil
	case "forgets ended jobs":
		list = slices.DeleteFunc(list, func(j cluster.Job) bool { return j.State == cluster.JobEnded })
	case "one job per token":
		list = slices.CompactFunc(list, func(a, b cluster.Job) bool { return a.Launch == b.Launch })
	case "signal as code":
		for i := range list {
			if e := list[i].Exit; e != nil && e.Signal != 0 {
				list[i].Exit = &cluster.Exit{Code: 128 + e.Signal}
			}
		}
	case "no reason":
		for i := range list {
			list[i].Reason = ""
		}
	}
	return list, err
}

func (b broken) Submit(ctx context.Context, s cluster.Submission) (string, error) {
	id, err := b.Sim.Submit(ctx, s)
	if b.lie == "unknown where it refused" && errors.Is(err, cluster.ErrRefused) {
		err = cluster.ErrUnknown
	}
	return id, err
}

func (b broken) Stop(ctx context.Context, job string, grace time.Duration) error {
	switch _, known := b.Job(job); {
	case b.lie == "stop does nothing":
		return nil
	case b.lie == "unknown job is an error" && !known:
		return errors.New("no such job")
	}
	return b.Sim.Stop(ctx, job, grace)
}

// brokenCounter is a SimCounter with one lie.
type brokenCounter struct {
	*SimCounter
	lie string
}

func (b brokenCounter) SetCount(ctx context.Context, r cluster.RoleRef, d jobspecs.Deployment, revision, n int) error {
	switch old, count, _ := b.Count(r); {
	case b.lie == "starts over at each count" && n != count:
		_ = b.SimCounter.SetCount(ctx, r, d, old, 0)
	case b.lie == "keeps the old revision" && old > 0:
		revision = old
	}
	return b.SimCounter.SetCount(ctx, r, d, revision, n)
}

// TestBroken runs the suite on clusters that break the contract, each in a process of its own: the suite must fail there,
// in the check that is about it.
func TestBroken(t *testing.T) {
	if lie := os.Getenv(brokenEnv); lie != "" {
		Run(t, func(*testing.T) Harness {
			s := newSimHarness(SimOptions{})
			h := s.harness(false)
			h.Patience = time.Minute
			h.Cluster = broken{s.sim, lie}
			if slices.Contains([]string{"starts over at each count", "keeps the old revision"}, lie) {
				h.Cluster = brokenCounter{NewSimCounter(s.sim, SimCounterOptions{}), lie}
			}
			return h
		})
		return
	}
	for lie, check := range map[string]string{
		"shorter list when it cannot tell": "silence_is_ErrUnknown",
		"forgets ended jobs":               "ended_jobs_are_remembered",
		"one job per token":                "two_jobs_of_one_token",
		"signal as code":                   "ended_jobs_are_remembered",
		"no reason":                        "a_pending_job_says_why",
		"unknown where it refused":         "a_refused_submit",
		"stop does nothing":                "stop_ends_a_job",
		"unknown job is an error":          "stop_of_an_unknown_job",
		"starts over at each count":        "a_lower_count",
		"keeps the old revision":           "a_new_revision",
	} {
		t.Run(lie, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBroken$")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", brokenEnv, lie))
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestBroken/"+check) {
				t.Errorf("the suite did not fail in %s (%v): %s", check, err, out)
			}
		})
	}
}
