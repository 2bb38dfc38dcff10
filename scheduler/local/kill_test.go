package local

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
)

func (m *machine) stopNow(id jobID, grace time.Duration) {
	m.t.Helper()
	if err := m.Stop(context.Background(), string(id), grace); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) wantState(id jobID, state cluster.JobState, reason string) {
	m.t.Helper()
	if j := m.job(id); j.State != state || !strings.Contains(j.Reason, reason) {
		m.t.Errorf("job is %s (%s), want %s (%s)", j.State, j.Reason, state, reason)
	}
}

// wantEnd waits for a job's end and checks that no process of it is left.
func (m *machine) wantEnd(id jobID, exit *cluster.Exit, reason string) {
	m.t.Helper()
	j := m.ended(id)
	switch {
	case (j.Exit == nil) != (exit == nil), exit != nil && *j.Exit != *exit:
		m.t.Errorf("exit %+v, want %+v (%s)", j.Exit, exit, j.Reason)
	case !strings.Contains(j.Reason, reason):
		m.t.Errorf("reason %q, want %q", j.Reason, reason)
	}
	m.eventually("the shims are gone", func() bool { m.reap(); return len(m.shims(id)) == 0 })
	if left, err := find(id.mark()); err != nil || len(left) > 0 {
		m.t.Errorf("processes left: %+v (%v)", left, err)
	}
}

func TestAgentKilled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Escape: true}))
	m.kill(roots(m.serving(id)))
	m.wantEnd(id, &cluster.Exit{Signal: 9}, "killed by signal 9 (SIGKILL)")
}

func TestShimKilledAgentLives(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{}))
	m.serving(id)
	m.kill(m.shims(id))
	m.eventually("the shim is gone", func() bool { return len(m.shims(id)) == 0 })
	m.wantState(id, cluster.JobRunning, "")
	m.Cluster = m.restart()
	m.wantState(id, cluster.JobRunning, "")
	m.stopNow(id, time.Hour) // the agent itself is asked
	m.wantEnd(id, nil, "without an exit status")
}

func TestShimKilledAgentStubborn(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Stubborn: true, Escape: true}))
	m.serving(id)
	m.kill(m.shims(id))
	m.stopNow(id, time.Hour)
	m.wantState(id, cluster.JobEnding, "")
	m.stopping[id] = stopping{since: time.Now().Add(-2 * time.Hour), grace: time.Hour}
	m.wantEnd(id, nil, "without an exit status")
}

func TestShimAndAgentKilled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Escape: true}))
	agents := roots(m.serving(id))
	m.kill(m.shims(id))
	m.kill(agents)
	m.wantEnd(id, nil, "without an exit status")
}

// TestNotEndedBeforeItsMemoryIsGone: what a dead rank has left behind is killed, and holds its memory, and an engine's GPU,
// for a while after that. The rank has not ended before.
func TestNotEndedBeforeItsMemoryIsGone(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	file := filepath.Join(m.root, "hog")
	id := m.mustSubmit(m.submission(script{Escape: true, Hog: file}))
	agents := roots(m.serving(id))
	pid := 0
	m.eventually("the child has its memory", func() bool {
		text, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(string(text))
		return pid != 0
	})
	m.kill(m.shims(id))
	m.kill(agents)
	m.eventually("the job ends", func() bool {
		state := m.job(id).State
		if ended := state == cluster.JobEnded; ended && !readStat(pid).dead {
			t.Fatal("the job has ended, and its child is not gone")
		}
		return state == cluster.JobEnded
	})
}

// TestLocksOfTheEnded: nothing of a job that has ended stays among the locks, however it has ended.
func TestLocksOfTheEnded(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	well := m.mustSubmit(m.submission(script{Exit: &cluster.Exit{}}, script{Exit: &cluster.Exit{Code: 3}}))
	lives := m.mustSubmit(m.submission(script{}))
	killed := m.mustSubmit(m.submission(script{}))
	m.serving(lives)
	m.serving(killed)
	m.wipe(killed)
	m.ended(well)
	m.ended(killed)
	names, err := filepath.Glob(filepath.Join(m.o.RuntimeDir, "*.*.lock"))
	if err != nil || len(names) != 1 || names[0] != m.lockPath(lives, 0) {
		t.Errorf("locks %v, %v; want that of %s", names, err, lives)
	}
	m.wantState(lives, cluster.JobRunning, "")
	m.wantState(well, cluster.JobEnded, "exited with code 3")
}

func TestShimStuck(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Stubborn: true}))
	m.serving(id)
	if err := send(m.shims(id), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.stopNow(id, time.Minute)
	m.stopping[id] = stopping{since: time.Now().Add(-time.Minute - shimSlack), grace: time.Minute}
	m.eventually("Jobs kills the agent", func() bool {
		m.jobs()
		left, err := find(id.mark())
		return err == nil && len(left) == 0
	})
	m.wantState(id, cluster.JobEnding, "")
	m.stopping[id] = stopping{since: time.Now().Add(-time.Minute - shimDeath), grace: time.Minute}
	m.wantEnd(id, nil, "without an exit status")
}

func TestChildThatEscapedIsSwept(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Escape: true, Exit: &cluster.Exit{Code: 7}}))
	m.wantEnd(id, &cluster.Exit{Code: 7}, "exited with code 7")
}

func TestOneRankOfTwoEnds(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{}, script{Exit: &cluster.Exit{Code: 4}}))
	m.eventually("rank 1 ends", func() bool { return m.job(id).Reason != "" })
	m.wantState(id, cluster.JobRunning, "rank 1 exited with code 4")
	m.serving(id)
	m.stopNow(id, time.Hour)
	m.wantEnd(id, &cluster.Exit{Code: 4}, "rank 0 stopped: exited with code 0; rank 1 exited with code 4")
}

func TestStopMayBecomeShorter(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Stubborn: true}))
	m.serving(id)
	m.stopNow(id, time.Hour)
	m.wantState(id, cluster.JobEnding, "")
	m.stopNow(id, 2*time.Hour) // changes nothing
	m.stopNow(id, 0)
	m.wantEnd(id, &cluster.Exit{Signal: 9}, "stopped: killed by signal 9")
}

func TestTermOfAShimIsAStop(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{}))
	m.serving(id)
	if err := send(m.shims(id), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.wantEnd(id, &cluster.Exit{}, "stopped: exited with code 0")
}

func TestLockFileRemoved(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{}))
	m.serving(id)
	if err := os.RemoveAll(m.o.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	m.wantState(id, cluster.JobRunning, "its lock file is gone")
	other := m.mustSubmit(m.submission(script{})) // the folder is made again
	m.serving(other)
	m.wipe(id)
	m.wantEnd(id, nil, "without an exit status")
	m.wantState(other, cluster.JobRunning, "")
}

// TestFolderDamaged is a job whose file was lost: it is unknown while it lives, holds up what needs GPUs, and can be stopped.
func TestFolderDamaged(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Stubborn: true}))
	m.serving(id)
	if err := os.WriteFile(filepath.Join(m.dir(id), jobName), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.wantState(id, cluster.JobUnknown, "folder cannot be read")
	sub := m.submission(script{})
	sub.Launch.Placement[0] = cluster.Placement{Node: "n0", GPUs: []string{"n0-gpu0"}}
	if _, err := m.Submit(t.Context(), sub); err == nil || !strings.Contains(err.Error(), "nobody knows which GPUs") {
		t.Errorf("Submit beside it: %v", err)
	}
	m.stopNow(id, time.Hour)
	m.wantState(id, cluster.JobUnknown, "folder cannot be read")
	m.kill(m.shims(id))
	m.stopping[id] = stopping{since: time.Now().Add(-2 * time.Hour), grace: time.Hour}
	m.wantEnd(id, nil, "nobody knows how")
}
