package reconcile

import (
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// TestRefreshForgetsTheCapacity: what was asked for before a file declared nodes says nothing about the cluster now.
func TestRefreshForgetsTheCapacity(t *testing.T) {
	p := newPoll(nil, time.Second, time.Second, metrics{}, func() {})
	asked := time.Now()
	p.jobs = answer[[]cluster.Job]{asked: asked, n: 1}
	p.capacity = answer[cluster.Capacity]{asked: asked, n: 1}
	if !p.answers(asked).capacityKnown {
		t.Fatal("the capacity is not known at first")
	}
	time.Sleep(time.Millisecond) // so that the refresh is later
	p.refresh()
	if a := p.answers(time.Now()); a.capacityKnown || !a.jobsKnown {
		t.Errorf("after a refresh: capacity known %t, jobs known %t", a.capacityKnown, a.jobsKnown)
	}
	p.capacity.asked = time.Now()
	if !p.answers(time.Now()).capacityKnown {
		t.Error("the next answer does not make it known again")
	}
}
