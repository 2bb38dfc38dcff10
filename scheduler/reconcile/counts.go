package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// adopt puts a job that a cluster has started by itself into the ledger, so that its agent can join.
func (l *Loop) adopt(a plan.Action) error {
	err := l.o.Ledger.PutLaunch(*a.New)
	if err == nil {
		l.event("start", a, a.Reason+", as job "+a.Job)
	}
	return err
}

// follow makes what somebody has told a cluster the wanted count.
func (l *Loop) follow(a plan.Action) error {
	err := l.o.Ledger.Follow(a.Deployment, a.Role, cluster.Told{Revision: a.Revision, N: a.Count, Version: a.Version})
	if err == nil {
		l.event("scaled-outside", a, a.Reason)
	}
	return err
}

// setCount begins to tell a count.
func (l *Loop) setCount(ctx context.Context, a plan.Action) (begun bool) {
	ref := cluster.RoleRef{Deployment: a.Deployment, Role: a.Role}
	key := countOf{a.Cluster, ref}
	counter, ok := l.o.Clusters[a.Cluster].(cluster.Counter)
	if !ok || !l.slot(a) {
		return false
	}
	if !l.tasks.mayCount(key) {
		l.freeSlot(a)
		return false
	}
	l.call(a, func() error {
		err := l.tell(ctx, counter, a, ref)
		l.tasks.counted(key, err)
		return err
	})
	return true
}

// tell tells a count to a cluster. That it is told is on disk before, so that a controller that dies meanwhile, or hears no
// answer, does not take its own change for somebody else's.
func (l *Loop) tell(ctx context.Context, counter cluster.Counter, a plan.Action, ref cluster.RoleRef) error {
	spec, told, err := l.toldOf(a)
	if err != nil {
		return err
	}
	told.Asked, told.AskedRevision, told.AskedN = true, a.Revision, a.Count
	if err := l.noteTold(a, told); err != nil {
		return err
	}
	if err := l.o.Ledger.CheckTerm(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.SubmitTimeout)
	defer cancel()
	began := time.Now()
	err = counter.SetCount(ctx, ref, spec, a.Revision, a.Count)
	l.metrics.called(a.Cluster, "SetCount", began, err)
	if err != nil {
		return fmt.Errorf("set %s of %s to %d: %w", a.Role, a.Deployment, a.Count, err)
	}
	l.event("count", a, a.Reason)
	return l.noteTold(a, cluster.Told{Revision: a.Revision, N: a.Count, Version: a.Version})
}

// toldOf reads the file that a count is told with, and what was told before. A deployment that is gone has neither, and needs
// none to be at zero.
func (l *Loop) toldOf(a plan.Action) (spec jobspecs.Deployment, told cluster.Told, err error) {
	for _, d := range l.o.Ledger.Deployments() {
		if d.Name == a.Deployment {
			told = d.Told[a.Role]
		}
	}
	revision := a.From
	if revision == 0 {
		revision = a.Revision
	}
	spec, err = l.o.Ledger.Revision(a.Deployment, revision)
	if err != nil && a.Count == 0 {
		return jobspecs.Deployment{Name: a.Deployment, Cluster: a.Cluster}, told, nil
	}
	return spec, told, err
}

func (l *Loop) noteTold(a plan.Action, t cluster.Told) error {
	err := l.o.Ledger.NoteTold(a.Deployment, a.Role, t)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil // removed: nothing of it is remembered
	}
	return err
}

// noteCounts remembers what clusters hold where it is what they were told: what they hold later under another version, and
// is something else, somebody else has told them.
func (l *Loop) noteCounts(wanted plan.Wanted, seen plan.Seen) error {
	var errs []error
	for _, d := range wanted.Deployments {
		c, ok := seen.Clusters[d.Spec.Cluster]
		if !ok || !c.Counts || !c.CountsKnown {
			continue
		}
		for kind := range d.Spec.Roles {
			ref := cluster.RoleRef{Deployment: d.Name, Role: kind}
			held, there := c.Set[ref]
			told, known := d.Told[kind]
			if !there || c.Telling[ref] || known && !told.Explains(held) || !known && held.N != d.Wanted(kind) {
				continue
			}
			now := cluster.Told{Revision: held.Revision, N: held.N, Version: held.Version}
			if now == told {
				continue
			}
			if err := l.o.Ledger.NoteTold(d.Name, kind, now); err != nil && !errors.Is(err, ledger.ErrNotFound) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
