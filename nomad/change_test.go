package nomad

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/nomad/nomadtest"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
)

const patience = time.Minute

// eventually waits until something is so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("not after %s: %s", patience, what)
		}
	}
}

func ref(d jobspecs.Deployment) cluster.RoleRef {
	return cluster.RoleRef{Deployment: d.Name, Role: jobspecs.Mixed}
}

// held is what the cluster holds of a deployment's only role.
func held(t *testing.T, c *Cluster, d jobspecs.Deployment) cluster.RoleCount {
	t.Helper()
	list, err := c.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if n.Role.Deployment == d.Name {
			return n
		}
	}
	return cluster.RoleCount{}
}

// A conflict is read anew; a job of the same name that is somebody else's is left alone; what nobody answered is unknown.
func TestSetCountMeets(t *testing.T) {
	t.Parallel()
	s := nomadtest.Start(t, nomadtest.Options{Marks: true})
	c := open(t, s)
	d := deployment(t, "replicas: 1")
	s.Refuse(2, http.MethodPut, "/v1/jobs", http.StatusInternalServerError, "Enforcing job modify index 1: job exists with conflicting job modify index: 11")
	if err := c.SetCount(t.Context(), ref(d), d, 1, 1); err != nil {
		t.Fatalf("after two conflicts: %v", err)
	}
	other := open(t, s, func(o *Options) { o.Installation = strings.Repeat("f", 32) })
	if err := other.SetCount(t.Context(), ref(d), d, 1, 3); !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "not this installation's") {
		t.Errorf("another installation: %v", err)
	}
	if n := held(t, c, d); n.N != 1 {
		t.Errorf("it is at %d now", n.N)
	}
	s.Refuse(1, http.MethodPut, "/v1/job", http.StatusInternalServerError, "No cluster leader")
	if err := c.SetCount(t.Context(), ref(d), d, 1, 2); !errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("without a leader: %v", err)
	}
}

// What somebody else scales is told with the message and the time; our own changes are known as ours.
func TestCountsTellWhoScaled(t *testing.T) {
	t.Parallel()
	s := nomadtest.Start(t, nomadtest.Options{})
	c := open(t, s)
	d := deployment(t, "replicas: 1, max: 4")
	set := func(n int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := c.SetCount(ctx, ref(d), d, 1, n); err != nil {
			t.Fatal(err)
		}
	}
	set(1)
	set(2)
	if n := held(t, c, d); n.N != 2 || !n.Own {
		t.Errorf("our own scale: %+v", n)
	}
	eventually(t, "no rollout", func() bool { return held(t, c, d).Rollout == "" })
	if _, _, err := s.Client(t).Jobs().Scale("penstock-"+d.Name, "mixed", new(3), "ada wants more", false, nil, nil); err != nil {
		t.Fatal(err)
	}
	if n := held(t, c, d); n.N != 3 || n.Own || !strings.Contains(n.ChangedBy, "ada wants more") || n.ChangedAt.IsZero() {
		t.Errorf("somebody else's: %+v", n)
	}
	set(0)
	v, err := c.variable(t.Context(), jobKey{"default", "penstock-" + d.Name})
	if n := held(t, c, d); n.N != 0 || v != nil || err != nil {
		t.Errorf("at zero: %+v, variable %v, %v", n, v, err)
	}
}

// A gang that loses a member is released as a whole.
func TestGangLosesAMember(t *testing.T) {
	t.Parallel()
	s := nomadtest.Start(t, nomadtest.Options{Marks: true})
	c := open(t, s)
	sub := submission(t, deployment(t, "nodes: 2"), clustertest.Behaviour{})
	id, err := c.Submit(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	job := func() cluster.Job {
		t.Helper()
		jobs, err := c.Jobs(t.Context())
		if err != nil || len(jobs) != 1 || jobs[0].ID != id {
			t.Fatalf("jobs %+v: %v", jobs, err)
		}
		return jobs[0]
	}
	eventually(t, "it runs", func() bool { return job().State == cluster.JobRunning })
	s.LoseClient(job().Nodes[1])
	eventually(t, "it is over", func() bool { return job().State == cluster.JobEnded })
	if j := job(); j.Cause != cluster.EndedNodeFailed || !strings.Contains(j.Reason, "member 1") {
		t.Errorf("%s: %s", j.Cause, j.Reason)
	}
	key, _ := parseNative(id)
	if j, err := c.readJob(t.Context(), key); err != nil || j.Stop == nil || !*j.Stop {
		t.Errorf("the other members keep their place: %v", err)
	}
}

// Where no stream is to be had blocking queries wake the loop; a stream that is cut is resumed.
func TestWatch(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]bool{"stream": false, "blocking": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := nomadtest.Start(t, nomadtest.Options{Marks: true})
			c := open(t, s)
			if refuse {
				s.Refuse(1000, http.MethodGet, "/v1/event/stream", http.StatusForbidden, "Permission denied")
			}
			var changes atomic.Int64
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- c.Watch(ctx, func() { changes.Add(1) }) }()
			wake := func(what string) {
				t.Helper()
				before := changes.Load()
				d := deployment(t, "replicas: 1")
				if err := c.SetCount(t.Context(), ref(d), d, 1, 1); err != nil {
					t.Fatal(err)
				}
				eventually(t, what, func() bool { return changes.Load() > before })
			}
			wake("a change is told")
			s.CutStreams()
			wake("a change after the cut is told")
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// The variable follows a controller that has moved, in jobs that run; what they join with stays.
func TestMoved(t *testing.T) {
	t.Parallel()
	s := nomadtest.Start(t, nomadtest.Options{Marks: true})
	at := atomic.Pointer[string]{}
	at.Store(new("first"))
	c := open(t, s, func(o *Options) { o.Endpoint = func() ([]byte, error) { return []byte(*at.Load()), nil } })
	d := deployment(t, "replicas: 1")
	if err := c.SetCount(t.Context(), ref(d), d, 1, 1); err != nil {
		t.Fatal(err)
	}
	at.Store(new("second"))
	if err := c.Moved(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, err := c.variable(t.Context(), jobKey{"default", "penstock-" + d.Name})
	if err != nil || v.Items[endpointItem] != "second" || v.Items[joinItem] != "{}" {
		t.Errorf("%v, %v", v, err)
	}
}
