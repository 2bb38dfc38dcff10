package nomad

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/nomad"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
)

// adapterScenarios are about the adapter: its agents are this test binary, which obeys at once.
var adapterScenarios = []scenario{
	{"adapter: a new revision rolls out by canaries that promote themselves", revisionRolls, nil},
	{"adapter: an outside scale is told, with its message and time", outsideTold, nil},
	{"adapter: a scale waits for Nomad's deployment, or says so", scaleWaits, nil},
	{"adapter: a register that collides with somebody else's is made again", registersCollide, nil},
	{"adapter: a gang of which one member has no place is refused", gangRefused, nil},
	{"adapter: a gang that loses a member is released", gangLosesMember, nil},
	{"adapter: a gang that loses a client is released", gangLosesClient, []ability{holdingAgents}},
	{"adapter: what has no room is told in words", roomTold, nil},
	{"adapter: a drained client's replicas end and are replaced", drainTold, nil},
	{"adapter: a job that somebody has purged is no role any more", purgeTold, nil},
	{"adapter: changes are heard of after the server's restart", heardAfterRestart, []ability{holdingAgents}},
	{"adapter: 100 replicas", hundredReplicas, nil},
}

// adapter opens one on the world's Nomad.
func (w *world) adapter(change ...func(*nomad.Options)) *nomad.Cluster {
	w.Helper()
	self, err := os.Executable()
	w.no(err)
	o := nomad.Options{
		API: w.api, Installation: w.installation, Penstock: self, MinHealthy: time.Second,
		Join:     func(string) ([]byte, error) { return []byte("{}"), nil },
		Endpoint: func() ([]byte, error) { return []byte("{}"), nil }, Log: zerolog.New(zerolog.NewTestWriter(w.T)),
	}
	for _, f := range change {
		f(&o)
	}
	c, err := nomad.Open(o)
	w.no(err)
	return c
}

// role is a deployment of one role with a name of this test's.
func (w *world) role(name, fields string) (cluster.RoleRef, jobspecs.Deployment) {
	w.Helper()
	if !strings.Contains(fields, "memory:") {
		fields += ", memory: 32MiB"
	}
	d, err := jobspecs.Parse("test", fmt.Appendf(nil, `apiVersion: penstock/v1
name: %s
model: {id: a/b}
engine: {kind: sim}
cluster: nomad
nomad: {driver: raw_exec}
serving: {drainTimeout: 10s}
roles: {mixed: {%s}}
`, w.prefix+name, fields))
	w.no(err)
	return cluster.RoleRef{Deployment: d.Name, Role: jobspecs.Mixed}, d
}

func (w *world) jobs(c *nomad.Cluster) []cluster.Job {
	w.Helper()
	list, err := c.Jobs(w.ctx)
	w.no(err)
	return list
}

// in lists the adapter's jobs in a state.
func (w *world) in(c *nomad.Cluster, state cluster.JobState) (out []cluster.Job) {
	w.Helper()
	for _, j := range w.jobs(c) {
		if j.State == state {
			out = append(out, j)
		}
	}
	return out
}

func (w *world) reach(c *nomad.Cluster, n int) []cluster.Job {
	w.Helper()
	w.until(fmt.Sprintf("%d running", n), func() bool { return len(w.in(c, cluster.JobRunning)) == n })
	return w.in(c, cluster.JobRunning)
}

// count is what the adapter tells of the one role; nil = nothing.
func (w *world) count(c *nomad.Cluster) *cluster.RoleCount {
	w.Helper()
	list, err := c.Counts(w.ctx)
	w.no(err)
	if len(list) != 1 {
		return nil
	}
	return &list[0]
}

// settled waits until no deployment of Nomad's is under way.
func (w *world) settled(c *nomad.Cluster) *cluster.RoleCount {
	w.Helper()
	w.until("no rollout", func() bool { n := w.count(c); return n != nil && n.Rollout == "" })
	return w.count(c)
}

func revisionRolls(w *world) string {
	c := w.adapter()
	ref, d := w.role("web", "replicas: 2")
	w.no(c.SetCount(w.ctx, ref, d, 1, 2))
	w.reach(c, 2)
	w.settled(c)
	w.no(c.SetCount(w.ctx, ref, d, 2, 2))
	least := 2
	took := w.took("all are of revision 2", func() bool {
		now := w.in(c, cluster.JobRunning)
		least = min(least, len(now))
		for _, j := range now {
			if j.Revision != 2 {
				return false
			}
		}
		return len(now) == 2
	})
	if n := w.settled(c); n.Revision != 2 || n.N != 2 {
		w.Errorf("count %+v", n)
	}
	return fmt.Sprintf("%s, at least %d running meanwhile", took, least)
}

func outsideTold(w *world) string {
	c := w.adapter()
	ref, d := w.role("web", "replicas: 1")
	w.no(c.SetCount(w.ctx, ref, d, 1, 1))
	w.reach(c, 1)
	before := w.settled(c)
	_, _, err := w.c.Jobs().Scale(render.NomadJobID(d.Name), "mixed", ptr(3), "more for the fair", false, nil, nil)
	w.no(err)
	n := w.count(c)
	if n.N != 3 || n.Own || n.Version == before.Version || !strings.Contains(n.ChangedBy, "more for the fair") || time.Since(n.ChangedAt) > time.Minute {
		w.Errorf("count %+v", n)
	}
	w.reach(c, 3)
	w.settled(c)
	w.no(c.SetCount(w.ctx, ref, d, 1, 2))
	if n := w.count(c); n.N != 2 || !n.Own {
		w.Errorf("own count %+v", n)
	}
	left := w.reach(c, 2)
	if left[0].Index+left[1].Index != 1 {
		w.Errorf("indices %d and %d are left", left[0].Index, left[1].Index)
	}
	return fmt.Sprintf("%q", n.ChangedBy)
}

// scaleWaits: a replica that has no room keeps Nomad's deployment open.
func scaleWaits(w *world) string {
	c := w.adapter()
	ref, d := w.role("web", "replicas: 1")
	_, big := w.role("web", "replicas: 1, memory: 900GiB")
	w.no(c.SetCount(w.ctx, ref, big, 1, 1))
	w.until("a deployment", func() bool { n := w.count(c); return n != nil && n.Rollout != "" }) // a scale before it is taken
	short, cancel := context.WithTimeout(w.ctx, 400*time.Millisecond)
	defer cancel()
	err := c.SetCount(short, ref, big, 1, 2)
	if !errors.Is(err, cluster.ErrRefused) && !errors.Is(err, cluster.ErrUnknown) {
		w.Errorf("a scale during a deployment: %v", err)
	}
	if n := w.count(c); n.Rollout == "" || n.N != 1 {
		w.Errorf("count %+v", n)
	}
	w.no(c.SetCount(w.ctx, ref, d, 2, 1))
	begin := time.Now()
	w.no(c.SetCount(w.ctx, ref, d, 2, 3))
	waited := time.Since(begin)
	w.reach(c, 3)
	return fmt.Sprintf("%q; taken %.1f s after the register", err, waited.Seconds())
}

// registersCollide changes the job from outside again and again while the adapter puts revisions there.
func registersCollide(w *world) string {
	c := w.adapter()
	ref, d := w.role("web", "replicas: 1")
	w.no(c.SetCount(w.ctx, ref, d, 1, 1))
	w.settled(c)
	stop := make(chan struct{})
	var others sync.WaitGroup
	var outside atomic.Int64
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(30 * time.Millisecond):
			}
			j, _, err := w.c.Jobs().Info(render.NomadJobID(d.Name), nil)
			if err != nil {
				continue
			}
			j.Priority = ptr(50 + i%2)
			if _, _, err := w.c.Jobs().EnforceRegister(j, *j.JobModifyIndex, nil); err == nil {
				outside.Add(1)
			}
		}
	})
	refused := 0
	for revision := 2; revision <= 4; revision++ {
		for err := c.SetCount(w.ctx, ref, d, revision, 1); err != nil; err = c.SetCount(w.ctx, ref, d, revision, 1) {
			if !errors.Is(err, cluster.ErrRefused) || w.ctx.Err() != nil {
				w.Fatal(err)
			}
			refused++ // it lost eight times in a row, and says so
		}
	}
	close(stop)
	others.Wait()
	if n := w.count(c); n == nil || n.Revision != 4 {
		w.Errorf("count %+v", n)
	}
	return fmt.Sprintf("3 revisions against %d registers of somebody else, given up %d times", outside.Load(), refused)
}

// launch is a submission of a gang.
func (w *world) launch(nodes int) cluster.Submission {
	w.Helper()
	return submission(w.T, fmt.Sprintf("nodes: %d, memory: 32MiB", nodes), clustertest.Behaviour{})
}

func gangRefused(w *world) string {
	c := w.adapter()
	_, err := c.Submit(w.ctx, w.launch(4))
	if !errors.Is(err, cluster.ErrRefused) {
		w.Errorf("a gang of four on three clients: %v", err)
	}
	if jobs := w.jobs(c); len(jobs) > 0 {
		w.Errorf("it left %+v", jobs)
	}
	_, words, _ := strings.Cut(err.Error(), cluster.ErrRefused.Error()+": ")
	return fmt.Sprintf("%q", words)
}

func gangLosesMember(w *world) string {
	c := w.adapter()
	id, err := c.Submit(w.ctx, w.launch(3))
	w.no(err)
	w.reach(c, 1)
	name, _, _ := strings.Cut(id, "@")
	w.kill(w.running(name)[0], syscall.SIGKILL)
	took := w.took("released", func() bool { return len(w.in(c, cluster.JobEnded)) == 1 })
	j := w.jobs(c)[0]
	if j.Exit == nil || j.Exit.Signal != 9 {
		w.Errorf("it ended as %+v: %s", j.Exit, j.Reason)
	}
	w.until("no member is left", func() bool { return len(w.running(name)) == 0 })
	return fmt.Sprintf("%s: %q", took, j.Reason)
}

func gangLosesClient(w *world) string {
	c := w.adapter()
	id, err := c.Submit(w.ctx, w.launch(3))
	w.no(err)
	node := w.reach(c, 1)[0].Nodes[0]
	w.no(w.hands.LoseClient(node))
	w.Cleanup(w.untilReady)
	took := w.took("released", func() bool { return len(w.in(c, cluster.JobRunning)) == 0 && len(w.in(c, cluster.JobPending)) == 0 })
	w.no(w.hands.ReturnClient(node))
	w.untilReady()
	name, _, _ := strings.Cut(id, "@")
	w.until("it has ended", func() bool { return len(w.in(c, cluster.JobEnded)) == 1 && len(w.running(name)) == 0 })
	w.until("no process is left", func() bool { return len(withVariable("NOMAD_JOB_ID", name)) == 0 })
	return fmt.Sprintf("%s: %q", took, w.jobs(c)[0].Reason)
}

func roomTold(w *world) string {
	c := w.adapter()
	ref, d := w.role("web", "replicas: 1")
	_, big := w.role("web", "replicas: 1, memory: 900GiB")
	w.no(c.SetCount(w.ctx, ref, big, 1, 1))
	w.until("it is told", func() bool { n := w.count(c); return n != nil && n.Unplaced == 1 })
	n := w.count(c)
	if !strings.Contains(n.Why, "memory") {
		w.Errorf("why: %s", n.Why)
	}
	w.no(c.SetCount(w.ctx, ref, d, 2, 1))
	w.reach(c, 1)
	return fmt.Sprintf("%q", n.Why)
}

func drainTold(w *world) string {
	c := w.adapter()
	ref, d := w.role("web", "replicas: 2")
	w.no(c.SetCount(w.ctx, ref, d, 1, 2))
	victim := w.reach(c, 2)[0]
	w.settled(c)
	node := w.allocation(victim.ID).NodeID
	_, err := w.c.Nodes().UpdateDrain(node, &api.DrainSpec{Deadline: 30 * time.Second}, false, nil)
	w.no(err)
	w.Cleanup(func() {
		_, err := w.c.Nodes().UpdateDrain(node, nil, true, nil)
		w.no(err)
	})
	var reason string
	took := w.took("replaced", func() bool {
		for _, j := range w.jobs(c) {
			if j.ID == victim.ID && j.State == cluster.JobEnded {
				reason = j.Reason
			}
		}
		return reason != "" && len(w.in(c, cluster.JobRunning)) == 2
	})
	for _, j := range w.in(c, cluster.JobRunning) {
		if w.allocation(j.ID).NodeID == node {
			w.Errorf("%s runs on the drained client", j.ID)
		}
	}
	return fmt.Sprintf("%s: %q", took, reason)
}

func purgeTold(w *world) string {
	c := w.adapter()
	ref, d := w.role("web", "replicas: 1")
	w.no(c.SetCount(w.ctx, ref, d, 1, 1))
	w.reach(c, 1)
	_, _, err := w.c.Jobs().Deregister(render.NomadJobID(d.Name), true, nil)
	w.no(err)
	w.until("nothing of it runs", func() bool { return len(w.in(c, cluster.JobRunning)) == 0 && len(w.in(c, cluster.JobEnding)) == 0 })
	if n := w.count(c); n != nil {
		w.Errorf("count %+v", n)
	}
	w.no(c.SetCount(w.ctx, ref, d, 1, 1))
	w.reach(c, 1)
	return "not listed; set again, it runs again"
}

func heardAfterRestart(w *world) string {
	c := w.adapter()
	ctx, cancel := context.WithCancel(w.ctx)
	heard, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Watch(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	}()
	defer func() { cancel(); <-ended }()
	wait := func(what string) {
		w.Helper()
		select {
		case <-heard:
		case <-w.ctx.Done():
			w.Fatalf("nothing was heard of %s", what)
		}
	}
	ref, d := w.role("web", "replicas: 1")
	w.no(c.SetCount(w.ctx, ref, d, 1, 1))
	wait("a register")
	w.settled(c)
	w.no(w.hands.RestartServer(w.ctx))
	wait("the restart")
	begin := time.Now()
	w.until("the server takes it", func() bool { return c.SetCount(w.ctx, ref, d, 1, 2) == nil })
	wait("a scale after it")
	w.untilReady()
	w.reach(c, 2)
	return fmt.Sprintf("a change is heard of %.1f s after the server was back", time.Since(begin).Seconds())
}

func hundredReplicas(w *world) string {
	c := w.adapter()
	ref, d := w.role("many", "replicas: 100, max: 200")
	begin := time.Now()
	w.no(c.SetCount(w.ctx, ref, d, 1, 100))
	w.reach(c, 100)
	up := time.Since(begin)
	begin = time.Now()
	w.jobs(c)
	asked := time.Since(begin)
	w.settled(c)
	w.no(c.SetCount(w.ctx, ref, d, 1, 0))
	w.until("all have ended", func() bool { return len(w.in(c, cluster.JobRunning)) == 0 && len(w.in(c, cluster.JobEnding)) == 0 })
	return fmt.Sprintf("ran after %.0f s; a list of them takes %.0f ms", up.Seconds(), float64(asked.Milliseconds()))
}
