package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
)

// machine is a cluster on fresh folders with what a test does to it.
type machine struct {
	*Cluster
	t     *testing.T
	root  string
	next  atomic.Int64
	subs  sync.Map // job ID -> submission
	nvml  atomic.Pointer[error]
	cards []cluster.GPU
}

// newMachine makes a cluster of 8 nodes with 2 GPUs each, n0-gpu0 and so on, and ends all its jobs with the test.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir()}
	m.Cluster = m.restart()
	t.Cleanup(m.end)
	return m
}

// restart makes another Cluster on the same folders, as the next controller does.
func (m *machine) restart() *Cluster {
	m.t.Helper()
	c, err := New(m.options())
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func (m *machine) options() Options {
	var nodes []jobspecs.LocalNode
	for i := range 8 {
		nodes = append(nodes, jobspecs.LocalNode{Name: fmt.Sprint("n", i), GPUs: 2})
	}
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	return Options{
		Dir: filepath.Join(m.root, "local"), RuntimeDir: filepath.Join(m.root, "run"),
		Environ: os.Environ(),
		Nodes:   func() []Declaration { return []Declaration{{Nodes: nodes}} },
		GPUs: func(context.Context) ([]cluster.GPU, error) {
			if err := m.nvml.Load(); err != nil {
				return nil, *err
			}
			return m.cards, nil
		},
		Shim: func(dir string) []string { return []string{self, shimArg, dir} },
		AgentCommand: func(sub cluster.Submission, rank int) []string {
			return []string{self, agentArg, sub.Deployment.Engine.Args[rank]}
		},
		Log: zerolog.New(zerolog.NewTestWriter(m.t)),
	}
}

// end kills what is left and makes sure that nothing is.
func (m *machine) end() {
	for _, id := range m.ids() {
		m.wipe(id)
		m.reap()
	}
}

// wipe kills a job's processes, shims too, until none is left.
func (m *machine) wipe(id jobID) {
	m.t.Helper()
	m.eventually("job "+string(id)+" is gone", func() bool {
		procs, err := m.processes(id)
		if err != nil {
			m.t.Fatal(err)
		}
		m.kill(procs)
		return len(procs) == 0
	})
}

func (m *machine) ids() (ids []jobID) {
	entries, err := os.ReadDir(m.o.Dir)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range entries {
		if jobIDs.MatchString(e.Name()) {
			ids = append(ids, jobID(e.Name()))
		}
	}
	return ids
}

func (m *machine) eventually(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s: not within a minute; jobs: %+v", what, m.jobs())
		}
	}
}

// submission builds one for a job with a rank for each script, each on a node of its own.
func (m *machine) submission(ranks ...script) cluster.Submission {
	n := int(m.next.Add(1))
	sub := cluster.Submission{
		Launch: cluster.Launch{
			ID: cluster.LaunchID(fmt.Sprint("chat-", n)), Deployment: "chat", Role: jobspecs.Mixed, Nodes: len(ranks),
		},
		LogDir: filepath.Join(m.root, "logs", fmt.Sprint("chat-", n)),
	}
	for rank, s := range ranks {
		s.Ready = filepath.Join(m.root, fmt.Sprintf("ready-%d-%d", n, rank))
		arg, err := json.Marshal(s)
		if err != nil {
			m.t.Fatal(err)
		}
		sub.Deployment.Engine.Args = append(sub.Deployment.Engine.Args, string(arg))
		sub.Launch.Placement = append(sub.Launch.Placement, cluster.Placement{Node: fmt.Sprint("n", (n+rank)%8)})
	}
	return sub
}

func (m *machine) mustSubmit(sub cluster.Submission) jobID {
	m.t.Helper()
	id, err := m.Submit(context.Background(), sub)
	if err != nil {
		m.t.Fatal(err)
	}
	m.subs.Store(jobID(id), sub)
	return jobID(id)
}

func (m *machine) jobs() []cluster.Job {
	m.t.Helper()
	jobs, err := m.Jobs(context.Background())
	if err != nil {
		m.t.Fatal(err)
	}
	return jobs
}

func (m *machine) job(id jobID) cluster.Job {
	m.t.Helper()
	jobs := m.jobs()
	i := slices.IndexFunc(jobs, func(j cluster.Job) bool { return j.ID == string(id) })
	if i < 0 {
		m.t.Fatalf("job %s is not among %+v", id, jobs)
	}
	return jobs[i]
}

// ended waits for a job's end.
func (m *machine) ended(id jobID) (j cluster.Job) {
	m.t.Helper()
	m.eventually("job "+string(id)+" ends", func() bool {
		j = m.job(id)
		return j.State == cluster.JobEnded
	})
	return j
}

// serving waits until the agents of all ranks of a job are set up and lists its processes, shims left out.
func (m *machine) serving(id jobID) []found {
	m.t.Helper()
	sub, _ := m.subs.Load(id)
	for _, arg := range sub.(cluster.Submission).Deployment.Engine.Args {
		var s script
		if err := json.Unmarshal([]byte(arg), &s); err != nil {
			m.t.Fatal(err)
		}
		m.eventually("agent is set up", func() bool {
			_, err := os.Stat(s.Ready)
			return err == nil
		})
	}
	procs, err := find(id.mark())
	if err != nil {
		m.t.Fatal(err)
	}
	return procs
}

func (m *machine) kill(procs []found) {
	m.t.Helper()
	if err := send(procs, unix.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) shims(id jobID) []found {
	m.t.Helper()
	procs, err := find(mark{shim: string(id)})
	if err != nil {
		m.t.Fatal(err)
	}
	return procs
}

// nodesDown is the cluster with some of its nodes switched off, which on a real machine cannot be.
type nodesDown struct {
	*Cluster
	mu   sync.Mutex
	down map[string]bool
}

func (n *nodesDown) Capacity(ctx context.Context) (cluster.Capacity, error) {
	c, err := n.Cluster.Capacity(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range c.Nodes {
		c.Nodes[i].Up = !n.down[c.Nodes[i].Name]
	}
	return c, err
}

func (n *nodesDown) set(node string, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[node] = down
}

func (m *machine) harness() clustertest.Harness {
	switched := &nodesDown{Cluster: m.Cluster, down: map[string]bool{}}
	away := filepath.Join(m.root, "away")
	return clustertest.Harness{
		Cluster: switched,
		Submission: func(_ *testing.T, b clustertest.Behaviour) cluster.Submission {
			ranks := make([]script, max(1, b.Nodes))
			for i := range ranks {
				ranks[i] = script{Exit: b.Exit, Stubborn: b.Stubborn}
			}
			return m.submission(ranks...)
		},
		Refused: func(*testing.T) cluster.Submission {
			sub := m.submission(script{})
			sub.Launch.Placement[0].Node = "elsewhere"
			return sub
		},
		Restart: func(*testing.T) cluster.Cluster { return m.restart() },
		Silence: func(t *testing.T, on bool) {
			// The folder of the jobs cannot be read, nor the cards.
			err := errors.New("the driver does not answer")
			m.nvml.Store(&err)
			from, to := m.o.Dir, away
			if !on {
				m.nvml.Store(nil)
				if err := os.Remove(m.o.Dir); err != nil {
					t.Fatal(err)
				}
				from, to = to, from
			}
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
			if on {
				if err := os.WriteFile(m.o.Dir, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		Twice: func(t *testing.T, job string) {
			for _, id := range m.ids() {
				if string(id) != job {
					continue
				}
				launch, _, _ := id.split()
				sub := m.submission(script{})
				sub.Launch.ID = launch
				if _, err := m.start(sub); err != nil { // past the check that refuses it
					t.Fatal(err)
				}
			}
		},
		KillNode: func(_ *testing.T, node string) {
			switched.set(node, true)
			for _, id := range m.ids() {
				if slices.Contains(m.job(id).Nodes, node) {
					m.wipe(id)
				}
			}
		},
		ReturnNode: func(_ *testing.T, node string) { switched.set(node, false) },
		Processes: func(_ *testing.T, launch cluster.LaunchID) (n int) {
			for _, id := range m.ids() {
				if l, _, _ := id.split(); l == launch {
					procs, err := m.processes(id)
					if err != nil {
						m.t.Fatal(err)
					}
					n += len(procs)
				}
			}
			return n
		},
		Cannot: map[clustertest.Ability]string{
			clustertest.Waiting: "a job starts at once or is refused",
			clustertest.Hanging: "its answers come from files of this machine, whose reads nothing can interrupt",
		},
	}
}

func TestConforms(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) clustertest.Harness { return newMachine(t).harness() })
}
