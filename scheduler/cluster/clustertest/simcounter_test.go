package clustertest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// members shows the jobs that live as index:revision:state, in the order of their submits.
func members(t *testing.T, c *SimCounter) (list []string) {
	t.Helper()
	jobs, err := c.Jobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		if j.State != cluster.JobEnded {
			list = append(list, fmt.Sprintf("%d:r%d:%s", j.Index, j.Revision, j.State))
		}
	}
	return list
}

func TestSimCounter(t *testing.T) {
	role := cluster.RoleRef{Deployment: "d", Role: jobspecs.Mixed}
	spec := submission("", 1).Deployment
	sim := NewSim(SimOptions{Nodes: Nodes(3, 1), StopTakes: 2 * time.Second})
	c := NewSimCounter(sim, SimCounterOptions{RestartDelay: 5 * time.Second})
	set := func(revision, n int) {
		t.Helper()
		if err := c.SetCount(t.Context(), role, spec, revision, n); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		name string
		do   func()
		want []string
	}{
		{"up", func() { set(1, 3); sim.Advance(0) }, []string{"0:r1:running", "1:r1:running", "2:r1:running"}},
		{"again changes nothing", func() { set(1, 3); sim.Advance(time.Minute) }, []string{"0:r1:running", "1:r1:running", "2:r1:running"}},
		{
			"a lost one is replaced", func() { sim.Exit("1002", cluster.Exit{Code: 1}); sim.Advance(5 * time.Second) },
			[]string{"0:r1:running", "2:r1:running", "1:r1:running"},
		},
		{"down: the highest index goes first", func() { set(1, 2) }, []string{"0:r1:running", "2:r1:ending", "1:r1:running"}},
		{"new revision: one at a time", func() { set(2, 2); sim.Advance(2 * time.Second) }, []string{"1:r1:running"}},
		{"then the next", func() { sim.Advance(5 * time.Second) }, []string{"1:r1:ending", "0:r2:running"}},
		{"until all are new", func() { sim.Advance(time.Minute) }, []string{"0:r2:running", "1:r2:running"}},
		{"to zero", func() { set(2, 0); sim.Advance(time.Minute) }, nil},
	}
	for _, s := range steps {
		s.do()
		if d := cmp.Diff(s.want, members(t, c)); d != "" {
			t.Fatalf("%s: %s", s.name, d)
		}
	}
}
