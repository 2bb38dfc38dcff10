package clustertest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Behaviour is what the main process of a test's job does. The zero value runs on one node until it is asked to stop, and
// then obeys at once with exit code 0.
type Behaviour struct {
	Nodes    int           // 0 = 1
	Exit     *cluster.Exit // ends by itself like this, soon after its start
	Stubborn bool          // does not obey when it is asked to stop
}

// Ability is something that a test needs and that not every implementation can do or show.
type Ability string

// The abilities. Each is a field of Harness.
const (
	Refusing   Ability = "Refused"   // there is a submission that is always refused
	Waiting    Ability = "Waiting"   // there is a submission that stays pending
	Restarting Ability = "Restart"   // the controller can be started anew over the same jobs
	Silencing  Ability = "Silence"   // the cluster can be kept from answering
	Hanging    Ability = "Hang"      // the cluster can be kept from answering for as long as the caller waits
	Doubling   Ability = "Twice"     // a token can be made to run in two jobs
	LosingNode Ability = "KillNode"  // a node can be lost and come back
	Counting   Ability = "Processes" // the processes of a launch can be counted
)

// Harness is one fresh cluster and what the suite may do to it. Fields that are nil are abilities that are missing: each
// must have its reason in Cannot.
type Harness struct {
	// Cluster is a cluster.Submitter, a cluster.Counter, or both; the suite tests the forms that it finds.
	Cluster cluster.Cluster
	// Submission builds a submission that the cluster accepts and whose job behaves so, under a fresh launch token. Its
	// deployment, revision and role serve SetCount too. It must be possible to run eight of the zero Behaviour at a time.
	Submission func(t *testing.T, b Behaviour) cluster.Submission
	// Advance moves the cluster's clock; nil = real time.
	Advance func(d time.Duration)
	// Patience is how long, on the cluster's clock, anything that must happen may take; default 60s.
	Patience time.Duration

	Refused    func(t *testing.T) cluster.Submission
	Waiting    func(t *testing.T) cluster.Submission
	Restart    func(t *testing.T) cluster.Cluster
	Silence    func(t *testing.T, on bool)
	Hang       func(t *testing.T, on bool)
	Twice      func(t *testing.T, job string)
	KillNode   func(t *testing.T, node string)
	ReturnNode func(t *testing.T, node string)
	Processes  func(t *testing.T, launch cluster.LaunchID) int

	Cannot map[Ability]string
}

// Factory makes a fresh cluster with its harness and cleans up after itself through t.Cleanup.
type Factory func(t *testing.T) Harness

// check is one statement of the contract.
type check struct {
	name  string
	needs []Ability
	run   func(*testing.T, *Harness)
}

// Run tests one implementation against the contract. Each check gets a fresh cluster and runs in parallel with the others.
// What the implementation cannot show is logged by name with its reason; an ability that is missing without one fails.
func Run(t *testing.T, f Factory) {
	t.Helper()
	probe := f(t)
	missing := probe.missing()
	for _, a := range slices.Sorted(maps.Keys(missing)) {
		if missing[a] == "" {
			t.Errorf("the harness has no %s and Cannot does not say why", a)
		}
	}
	checks := slices.Clone(bothForms)
	if _, ok := probe.Cluster.(cluster.Submitter); ok {
		checks = append(checks, submitterChecks...)
	}
	if _, ok := probe.Cluster.(cluster.Counter); ok {
		checks = append(checks, counterChecks...)
	}
	if len(checks) == len(bothForms) {
		t.Fatalf("%T is neither a Submitter nor a Counter", probe.Cluster)
	}
	for _, c := range checks {
		if a, why, lacks := firstMissing(c.needs, missing); lacks {
			t.Logf("NOT SHOWN on %s: %s (no %s: %s)", probe.Cluster.Kind(), c.name, a, why)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := f(t)
			h.Patience = cmp.Or(h.Patience, time.Minute)
			c.run(t, &h)
		})
	}
}

// missing lists the abilities that a harness lacks, with its reasons.
func (h *Harness) missing() map[Ability]string {
	has := map[Ability]bool{
		Refusing: h.Refused != nil, Waiting: h.Waiting != nil, Restarting: h.Restart != nil, Silencing: h.Silence != nil,
		Hanging: h.Hang != nil, Doubling: h.Twice != nil, Counting: h.Processes != nil,
		LosingNode: h.KillNode != nil && h.ReturnNode != nil,
	}
	lacks := map[Ability]string{}
	for a, ok := range has {
		if !ok {
			lacks[a] = h.Cannot[a]
		}
	}
	return lacks
}

func firstMissing(needs []Ability, missing map[Ability]string) (a Ability, why string, lacks bool) {
	for _, a := range needs {
		if why, lacks := missing[a]; lacks {
			return a, why, true
		}
	}
	return "", "", false
}

// call makes one call with a deadline and fails the test when it does not come back soon after it.
func call[T any](t *testing.T, what string, limit time.Duration, do func(context.Context) (T, error)) (T, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	type answer struct {
		v   T
		err error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := do(ctx)
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		return a.v, a.err
	case <-time.After(limit + lateness):
		t.Fatalf("%s has not come back %s after its deadline", what, lateness)
		panic("unreachable")
	}
}

const (
	callLimit = 20 * time.Second // for calls that should succeed
	lateness  = 20 * time.Second // how far behind its deadline a call may come back on a busy machine
)

func (h *Harness) submit(t *testing.T, s cluster.Submission) (string, error) {
	t.Helper()
	return call(t, "Submit", callLimit, func(ctx context.Context) (string, error) {
		return h.Cluster.(cluster.Submitter).Submit(ctx, s)
	})
}

// mustSubmit submits a job of that behaviour.
func (h *Harness) mustSubmit(t *testing.T, b Behaviour) (cluster.Submission, string) {
	t.Helper()
	s := h.Submission(t, b)
	id, err := h.submit(t, s)
	if err != nil {
		t.Fatalf("Submit: %v", err)
	}
	return s, id
}

func (h *Harness) jobs(t *testing.T) []cluster.Job {
	t.Helper()
	list, err := call(t, "Jobs", callLimit, h.Cluster.Jobs)
	if err != nil {
		t.Fatalf("Jobs: %v", err)
	}
	return list
}

// job finds a job by its native ID in Jobs; it must be there exactly once.
func (h *Harness) job(t *testing.T, id string) (job cluster.Job) {
	t.Helper()
	n := 0
	for _, j := range h.jobs(t) {
		if j.ID == id {
			job = j
			n++
		}
	}
	if n != 1 {
		t.Fatalf("Jobs lists job %s %d times, want once", id, n)
	}
	return job
}

// launched lists the jobs of one launch token.
func (h *Harness) launched(t *testing.T, id cluster.LaunchID) (list []cluster.Job) {
	t.Helper()
	for _, j := range h.jobs(t) {
		if j.Launch == id {
			list = append(list, j)
		}
	}
	return list
}

func (h *Harness) stop(t *testing.T, job string, grace time.Duration) {
	t.Helper()
	_, err := call(t, "Stop", callLimit, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, h.Cluster.Stop(ctx, job, grace)
	})
	if err != nil {
		t.Fatalf("Stop(%s): %v", job, err)
	}
}

// until waits on the cluster's clock for something to become true.
func (h *Harness) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	const step = 20 * time.Millisecond
	began := time.Now()
	for waited := time.Duration(0); !ok(); {
		if waited > h.Patience {
			t.Fatalf("%s: not after %s; jobs: %+v", what, h.Patience, h.jobs(t))
		}
		if h.Advance != nil {
			h.Advance(time.Second)
			waited += time.Second
			continue
		}
		time.Sleep(step)
		waited = time.Since(began)
	}
}

// reach waits for a job to be in a state and returns it.
func (h *Harness) reach(t *testing.T, id string, want cluster.JobState) (job cluster.Job) {
	t.Helper()
	h.until(t, "job "+id+" "+string(want), func() bool {
		job = h.job(t, id)
		if job.State == cluster.JobEnded && want != cluster.JobEnded {
			t.Fatalf("job %s has ended (%s) and should be %s", id, job.Reason, want)
		}
		return job.State == want
	})
	return job
}
