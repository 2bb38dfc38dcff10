package slurm

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/slurm"
)

// insideEnv names the bed's folder to the copy of this test that runs on the login node.
const insideEnv = "PENSTOCK_TEST_BED"

// restEnv is the socket of slurmrestd, where the suite is to go through it.
const restEnv = "PENSTOCK_TEST_SLURMRESTD"

// TestInside is the suite itself; TestConforms starts it on a bed.
func TestInside(t *testing.T) {
	bed := os.Getenv(insideEnv)
	if bed == "" {
		return // it is no test of its own
	}
	clustertest.Run(t, func(t *testing.T) clustertest.Harness { return newGuest(t, bed).harness() })
}

// stub stands in for the program on the nodes: its "join file" is a script that says how the job behaves.
const stub = `#!/bin/bash
while [ $# -gt 0 ]; do
  if [ "$1" = --join ]; then join=$2; fi
  shift
done
. "$join"
`

// guest is one installation on the login node. Each has an identity of its own, so that a cluster is fresh to it.
type guest struct {
	t    *testing.T
	bed  string
	dir  string
	id   string
	next atomic.Int64
}

var guests atomic.Int64

func newGuest(t *testing.T, bed string) *guest {
	t.Helper()
	n := guests.Add(1)
	g := &guest{t: t, bed: bed, id: fmt.Sprintf("%012x%020x", n, n), dir: filepath.Join(os.Getenv("HOME"), fmt.Sprintf("guest-%d", n))}
	if err := os.MkdirAll(filepath.Join(g.dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.program(), []byte(stub), 0o700); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *guest) program() string { return filepath.Join(g.dir, "stub") }

// open makes the adapter, as each controller does.
func (g *guest) open() cluster.Submitter {
	g.t.Helper()
	var rest *slurm.REST
	if socket := os.Getenv(restEnv); socket != "" {
		rest = &slurm.REST{Socket: socket}
	}
	c, err := slurm.New(slurm.Options{
		Installation: g.id, LogRoot: filepath.Join(g.dir, "logs"), Penstock: g.program(), Environ: os.Environ(), REST: rest,
		Log: zerolog.New(zerolog.NewTestWriter(g.t)),
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

const guestFile = `apiVersion: penstock/v1
name: chat
cluster: slurm
model: {id: tiny}
engine: {kind: sim}
roles: {mixed: {replicas: 1, gpus: 1, nodes: %d}}
slurm: {partition: %s, time: 10m, sbatch: ["--nice=0"%s]}
`

// submission builds one whose job runs a script on so many nodes.
func (g *guest) submission(script string, nodes int, partition, option string) cluster.Submission {
	g.t.Helper()
	d, err := jobspecs.Parse("chat.yaml", fmt.Appendf(nil, guestFile, max(1, nodes), partition, option))
	if err != nil {
		g.t.Fatal(err)
	}
	id := fmt.Sprintf("chat-%s-%d", strings.TrimLeft(g.id[:12], "0"), g.next.Add(1))
	sub := cluster.Submission{
		Deployment: d, JoinFile: filepath.Join(g.dir, id), LogDir: filepath.Join(g.dir, "logs", "chat", id),
		Launch: cluster.Launch{ID: cluster.LaunchID(id), Deployment: "chat", Role: jobspecs.Mixed, Nodes: max(1, nodes), CreatedAt: time.Now()},
	}
	if err := os.WriteFile(sub.JoinFile, []byte(script), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if err := os.MkdirAll(sub.LogDir, 0o700); err != nil {
		g.t.Fatal(err)
	}
	return sub
}

const forever = "while :; do sleep 0.1 & wait $!; done\n"

// scriptOf is what the stub does for a behaviour.
func scriptOf(b clustertest.Behaviour) string {
	switch {
	case b.Exit != nil && b.Exit.Signal != 0:
		return fmt.Sprintf("sleep 0.2\nkill -%d $$\n", b.Exit.Signal)
	case b.Exit != nil:
		return fmt.Sprintf("sleep 0.2\nexit %d\n", b.Exit.Code)
	case b.Stubborn:
		return "trap '' TERM USR1 USR2\n" + forever
	}
	return "trap 'exit 0' TERM USR1\ntrap '' USR2\n" + forever
}

func (g *guest) harness() clustertest.Harness {
	return clustertest.Harness{
		Cluster:  g.open(),
		Patience: 2 * time.Minute,
		Submission: func(_ *testing.T, b clustertest.Behaviour) cluster.Submission {
			return g.submission(scriptOf(b), b.Nodes, "gpu", "")
		},
		Refused: func(*testing.T) cluster.Submission { return g.submission(forever, 1, "nowhere", "") },
		Waiting: func(*testing.T) cluster.Submission {
			return g.submission(forever, 1, "gpu", ", --begin=now+1hour")
		},
		Restart: func(*testing.T) cluster.Cluster { return g.open() },
		Silence: func(t *testing.T, on bool) {
			if on {
				ask(t, g.bed, "slurmctld", "stop")
				return
			}
			ask(t, g.bed, "slurmctld", "start")
		},
		Hang: func(t *testing.T, on bool) {
			if on {
				ask(t, g.bed, "slurmctld", "freeze")
				return
			}
			ask(t, g.bed, "slurmctld", "thaw")
		},
		Twice:      func(t *testing.T, job string) { g.twice(t, job) },
		KillNode:   func(t *testing.T, node string) { ask(t, g.bed, "off", node) },
		ReturnNode: func(t *testing.T, node string) { ask(t, g.bed, "on", node) },
		Processes: func(t *testing.T, launch cluster.LaunchID) int {
			n, err := strconv.Atoi(ask(t, g.bed, "processes", string(launch)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
	}
}

// twice submits a job's launch again, as a controller does that was told nothing of the first.
func (g *guest) twice(t *testing.T, job string) {
	t.Helper()
	c := g.open()
	jobs, err := c.Jobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		if j.ID != job {
			continue
		}
		sub := g.submission(scriptOf(clustertest.Behaviour{}), 1, "gpu", "")
		sub.Launch.ID = j.Launch
		if _, err := c.Submit(t.Context(), sub); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("job %s is not among %+v", job, jobs)
}
