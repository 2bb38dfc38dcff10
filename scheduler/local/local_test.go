package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

func TestPlacementsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	on := func(node string, gpus ...string) cluster.Placement { return cluster.Placement{Node: node, GPUs: gpus} }
	holder := m.submission(script{})
	holder.Launch.Placement[0] = on("n0", "n0-gpu0")
	id := m.mustSubmit(holder)
	tests := []struct {
		name   string
		nodes  int
		placed []cluster.Placement
		want   string
	}{
		{"none", 1, nil, "names 0 nodes"},
		{"too few", 2, []cluster.Placement{on("n1")}, "the launch has 2"},
		{"no such node", 1, []cluster.Placement{on("n9")}, `no node "n9"`},
		{"no such GPU", 1, []cluster.Placement{on("n1", "n0-gpu1")}, "has no GPU n0-gpu1"},
		{"one GPU twice", 2, []cluster.Placement{on("n1", "n1-gpu0"), on("n1", "n1-gpu0")}, "twice"},
		{"held GPU", 1, []cluster.Placement{on("n0", "n0-gpu0")}, "held by job " + string(id)},
	}
	for _, tt := range tests {
		sub := m.submission(script{})
		sub.Launch.Nodes, sub.Launch.Placement = tt.nodes, tt.placed
		if _, err := m.Submit(t.Context(), sub); !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := m.Submit(t.Context(), holder); !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "has a job already") {
		t.Errorf("the same launch again: %v", err)
	}
	m.stopNow(id, 0)
	m.ended(id)
	next := m.submission(script{})
	next.Launch.Placement[0] = on("n0", "n0-gpu0")
	m.mustSubmit(next) // the card is free again
}

// TestRaceForAGPU lets controllers of the same folders want one GPU at the same time.
func TestRaceForAGPU(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	var all sync.WaitGroup
	var won atomic.Int64
	for range 4 {
		c := m.restart()
		sub := m.submission(script{})
		sub.Launch.Placement[0] = cluster.Placement{Node: "n3", GPUs: []string{"n3-gpu1"}}
		all.Go(func() {
			switch _, err := c.Submit(context.Background(), sub); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, cluster.ErrRefused):
				t.Errorf("Submit: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d submits got the card", won.Load())
	}
}

func TestSubmitWaitsForAnotherOnlySoLong(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	unlock, err := m.lockSubmits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.Submit(ctx, m.submission(script{})); !errors.Is(err, cluster.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Submit: %v", err)
	}
}

// TestEnvironmentOfJobs looks at what agents and shims really got.
func TestEnvironmentOfJobs(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.o.Environ = []string{"PATH=/bin", "LC_ALL=C", "CUDA_HOME=/cuda", "SECRET=s", "PENSTOCK_API_KEY=s", "LD_PRELOAD=s", "PATHS=s", "LC"}
	sub := m.submission(script{}, script{})
	id := m.mustSubmit(sub)
	m.serving(id)
	_, run, _ := id.split()
	for rank := range 2 {
		ready, _ := filepath.Glob(filepath.Join(m.root, "ready-*-"+rankName(rank)))
		got, err := os.ReadFile(ready[0])
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"PATH=/bin", "LC_ALL=C", "CUDA_HOME=/cuda", "PENSTOCK_LAUNCH=" + string(sub.Launch.ID), "PENSTOCK_RUN=" + run,
			"PENSTOCK_RANK=" + rankName(rank), "PENSTOCK_LOCK=" + m.lockPath(id, rank),
		}
		if d := cmp.Diff(want, strings.Split(string(got), "\n")); d != "" {
			t.Errorf("rank %d: %s", rank, d)
		}
	}
	for _, p := range m.shims(id) {
		if p.mark.Launch != "" {
			t.Errorf("shim %d carries the launch and would be swept with it", p.pid)
		}
	}
}

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Exit: &cluster.Exit{}}))
	m.ended(id)
	seen := 0
	for _, dir := range []string{m.o.Dir, m.o.RuntimeDir, filepath.Join(m.root, "logs")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			seen++
			if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[d.IsDir()]; info.Mode().Perm() != want {
				t.Errorf("%s has the mode %04o, want %04o", path, info.Mode().Perm(), want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 10 {
		t.Errorf("only %d files seen", seen)
	}
}

// A job with a time limit knows its end, tells its agent, and is ended there: asked first, killed when it does not obey.
func TestTimeLimit(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, stubborn := range []bool{false, true} {
		sub := m.submission(script{Stubborn: stubborn})
		sub.Deployment.Local.Walltime = jobspecs.Duration(1500 * time.Millisecond)
		id := m.mustSubmit(sub)
		j := m.job(id)
		if got := j.EndsAt.Sub(j.Started); got != 1500*time.Millisecond {
			t.Errorf("it ends %s after its start", got)
		}
		if want := fmt.Sprintf("%s=%d", EnvEndsAt, j.EndsAt.Unix()); !slices.Contains(m.agentEnvironment(id), want) {
			t.Errorf("its agent is not told %s", want)
		}
		j = m.ended(id)
		if j.Cause != cluster.EndedWalltime || j.Ended.Before(j.EndsAt) || !strings.Contains(j.Reason, "time limit") {
			t.Errorf("ended %+v, with a limit at %v", j, j.EndsAt)
		}
		if killed := j.Exit != nil && j.Exit.Signal == int(unix.SIGKILL); killed != stubborn {
			t.Errorf("stubborn %v: exit %+v", stubborn, j.Exit)
		}
	}
}

// agentEnvironment is what rank 0's agent is started with.
func (m *machine) agentEnvironment(id jobID) []string {
	m.t.Helper()
	var r rankRecord
	if err := readRecord(m.fs, filepath.Join(rankDir(m.dir(id), 0), rankFile), &r); err != nil {
		m.t.Fatal(err)
	}
	return r.Env
}

func TestEndedJobsAreForgotten(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Exit: &cluster.Exit{}}))
	m.ended(id)
	m.o.Remember = time.Nanosecond
	if jobs := m.jobs(); len(jobs) != 0 {
		t.Errorf("jobs %+v", jobs)
	}
	m.onDisk(0, 0)
}

func TestUnfinishedFoldersAreTidied(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	old := m.begin(m.submission(script{}))
	fresh := m.begin(m.submission(script{}))
	for _, s := range []*starting{old, fresh} {
		s.close()
		if err := os.Rename(m.dir(s.job.ID), s.tmp); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * tidyAfter)
	if err := os.Chtimes(old.tmp, long, long); err != nil {
		t.Fatal(err)
	}
	if jobs := m.jobs(); len(jobs) != 0 {
		t.Errorf("jobs %+v", jobs)
	}
	m.onDisk(1, 1)
	if _, err := os.Stat(fresh.tmp); err != nil {
		t.Errorf("the fresh one: %v", err)
	}
}

func TestNewWantsItsCommands(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil {
		t.Error("New took options without commands")
	}
}
