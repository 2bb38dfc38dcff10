package clustertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/scheduler/cluster"
)

var counterChecks = []check{
	{"a count brings so many jobs, numbered from 0", nil, countUp},
	{"the same count again changes nothing", nil, countAgain},
	{"a lower count stops the highest indices", nil, countDown},
	{"a count of zero and back", nil, countZero},
	{"a job that was lost is replaced under its index", nil, countReplaces},
	{"a new revision replaces all jobs", nil, countRollout},
	{"roles are counted apart", nil, countRoles},
	{"a count below zero is refused", nil, countNegative},
	{"what was set is told, and changes show by their version", nil, countsTold},
	{"a role that was never set is not told", nil, func(t *testing.T, h *Harness) {
		if list := newCounted(t, h).told(t); len(list) > 0 {
			t.Errorf("counts %+v", list)
		}
	}},
}

func roleOf(s cluster.Submission) cluster.RoleRef {
	return cluster.RoleRef{Deployment: s.Launch.Deployment, Role: s.Launch.Role}
}

// counted is a role under test.
type counted struct {
	*Harness
	role cluster.RoleRef
	sub  cluster.Submission
}

func newCounted(t *testing.T, h *Harness) counted {
	sub := h.Submission(t, Behaviour{})
	return counted{Harness: h, role: roleOf(sub), sub: sub}
}

func (c counted) setErr(t *testing.T, revision, n int) error {
	t.Helper()
	_, err := call(t, "SetCount", callLimit, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.Cluster.(cluster.Counter).SetCount(ctx, c.role, c.sub.Deployment, revision, n)
	})
	return err
}

func (c counted) set(t *testing.T, revision, n int) {
	t.Helper()
	if err := c.setErr(t, revision, n); err != nil {
		t.Fatalf("SetCount(revision %d, %d): %v", revision, n, err)
	}
}

// settle waits until exactly n jobs of the revision run and no other of the role is alive; it returns index -> job ID.
func (c counted) settle(t *testing.T, revision, n int) map[int]string {
	t.Helper()
	got := map[int]string{}
	c.until(t, fmt.Sprintf("%d jobs of revision %d", n, revision), func() bool {
		clear(got)
		for _, j := range c.jobs(t) {
			if j.Role != c.role || j.State == cluster.JobEnded {
				continue
			}
			if j.State != cluster.JobRunning || j.Revision != revision || got[j.Index] != "" {
				return false
			}
			got[j.Index] = j.ID
		}
		return len(got) == n
	})
	for i := range n {
		if got[i] == "" {
			t.Errorf("no job has the index %d: %v", i, got)
		}
	}
	return got
}

func countUp(t *testing.T, h *Harness) {
	c := newCounted(t, h)
	c.set(t, 1, 1)
	first := c.settle(t, 1, 1)
	c.set(t, 1, 3)
	if got := c.settle(t, 1, 3); got[0] != first[0] {
		t.Errorf("job of index 0 changed from %s to %s", first[0], got[0])
	}
}

func countAgain(t *testing.T, h *Harness) {
	c := newCounted(t, h)
	c.set(t, 1, 2)
	before := c.settle(t, 1, 2)
	c.set(t, 1, 2)
	if d := cmp.Diff(before, c.settle(t, 1, 2)); d != "" {
		t.Error(d)
	}
}

func countDown(t *testing.T, h *Harness) {
	c := newCounted(t, h)
	c.set(t, 1, 4)
	want := c.settle(t, 1, 4)
	c.set(t, 1, 2)
	maps.DeleteFunc(want, func(i int, _ string) bool { return i >= 2 })
	if d := cmp.Diff(want, c.settle(t, 1, 2)); d != "" {
		t.Error(d)
	}
}

func countZero(t *testing.T, h *Harness) {
	c := newCounted(t, h)
	c.set(t, 1, 2)
	before := c.settle(t, 1, 2)
	c.set(t, 1, 0)
	c.settle(t, 1, 0)
	c.set(t, 1, 2)
	for i, id := range c.settle(t, 1, 2) {
		if id == before[i] {
			t.Errorf("index %d has the ended job %s again", i, id)
		}
	}
}

func countReplaces(t *testing.T, h *Harness) {
	c := newCounted(t, h)
	c.set(t, 1, 2)
	before := c.settle(t, 1, 2)
	c.stop(t, before[1], time.Second)
	c.reach(t, before[1], cluster.JobEnded)
	after := c.settle(t, 1, 2)
	if after[0] != before[0] || after[1] == before[1] {
		t.Errorf("jobs before %v and after %v", before, after)
	}
}

func countRollout(t *testing.T, h *Harness) {
	c := newCounted(t, h)
	c.set(t, 1, 2)
	before := c.settle(t, 1, 2)
	c.set(t, 2, 2)
	for i, id := range c.settle(t, 2, 2) {
		if id == before[i] {
			t.Errorf("index %d still has the job %s of revision 1", i, id)
		}
	}
}

func countRoles(t *testing.T, h *Harness) {
	a, b := newCounted(t, h), newCounted(t, h)
	b.role.Deployment += "-other"
	b.sub.Deployment.Name = b.role.Deployment
	a.set(t, 1, 1)
	b.set(t, 1, 2)
	a.settle(t, 1, 1)
	b.settle(t, 1, 2)
	b.set(t, 1, 0)
	b.settle(t, 1, 0)
	a.settle(t, 1, 1)
}

func countNegative(t *testing.T, h *Harness) {
	if err := newCounted(t, h).setErr(t, 1, -1); !errors.Is(err, cluster.ErrRefused) {
		t.Errorf("SetCount(-1): %v, want ErrRefused", err)
	}
}

// told lists the counts of the deployment under test.
func (c counted) told(t *testing.T) (list []cluster.RoleCount) {
	t.Helper()
	all, err := call(t, "Counts", callLimit, c.Cluster.(cluster.Counter).Counts)
	if err != nil {
		t.Fatalf("Counts: %v", err)
	}
	for _, n := range all {
		if n.Role.Deployment == c.role.Deployment {
			list = append(list, n)
		}
	}
	return list
}

// is checks what is told of the role and returns its version.
func (c counted) is(t *testing.T, revision, n int) uint64 {
	t.Helper()
	list := c.told(t)
	if len(list) != 1 || list[0].Role != c.role || list[0].N != n || list[0].Revision != revision {
		t.Fatalf("counts %+v, want %d of revision %d of %v", list, n, revision, c.role)
	}
	return list[0].Version
}

func countsTold(t *testing.T, h *Harness) {
	c := newCounted(t, h)
	c.set(t, 1, 1)
	c.settle(t, 1, 1)
	first := c.is(t, 1, 1)
	c.set(t, 1, 1)
	if again := c.is(t, 1, 1); again != first {
		t.Errorf("the same count again made version %d of %d", again, first)
	}
	c.set(t, 1, 2)
	second := c.is(t, 1, 2)
	c.settle(t, 1, 2)
	c.set(t, 2, 2)
	third := c.is(t, 2, 2)
	c.settle(t, 2, 2)
	if first == second || second == third {
		t.Errorf("versions %d, %d and %d of three different counts", first, second, third)
	}
}
