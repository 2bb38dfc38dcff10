package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// cycle sees, plans and acts once.
func (l *Loop) cycle(ctx context.Context, now time.Time) (more bool, err error) {
	began := time.Now()
	wanted, seen := l.gather(now)
	l.syncFleet(seen.Launches, seen.Fleet)
	failed := map[string]string{}
	if err := l.observe(seen.Launches, seen.Fleet, now); errors.Is(err, ledger.ErrTermLost) {
		return false, err
	} else if err != nil {
		failed["note which replicas became ready"] = err.Error()
	}
	if err := l.noteJobs(seen); errors.Is(err, ledger.ErrTermLost) {
		return false, err
	} else if err != nil {
		failed["note what the clusters say of jobs"] = err.Error()
	}
	if err := l.noteCounts(wanted, seen); errors.Is(err, ledger.ErrTermLost) {
		return false, err
	} else if err != nil {
		failed["note what the clusters were told"] = err.Error()
	}
	l.settle(seen.Launches, seen.Fleet, now)
	result := plan.Look(wanted, seen, now)
	actions := result.Actions
	l.tellWaits(actions, now)
	l.mu.Lock()
	l.last = result
	l.mu.Unlock()
	l.metrics.planned(began, seen.Launches, actions)
	l.probe(ctx, wanted, seen, now)
	return l.act(ctx, actions, failed, now)
}

// syncFleet has the fleet listen to the runs that the ledger has admitted, and to no others. Runs are admitted when they
// join; after a restart of the controller it is the ledger that knows them.
func (l *Loop) syncFleet(launches []cluster.Launch, s fleet.Snapshot) {
	live := 0
	for i := range launches {
		x := &launches[i]
		r, known := s.Replicas[x.ID]
		switch {
		case known && x.Phase == cluster.Ended:
			l.o.Fleet.Remove(x.ID)
		case known && r.Epoch >= x.Epoch:
			live++
		case x.Run != "" && x.Phase != cluster.Ended:
			l.o.Fleet.Admit(x.ID, x.Run, x.Epoch, x.Nodes)
			live++
		}
	}
	if live >= len(s.Replicas) {
		return
	}
	listed := make(map[cluster.LaunchID]bool, len(launches))
	for i := range launches {
		listed[launches[i].ID] = true
	}
	for id := range s.Replicas {
		if !listed[id] {
			l.o.Fleet.Remove(id)
		}
	}
}
