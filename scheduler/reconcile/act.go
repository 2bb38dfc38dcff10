package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// order is the order in which actions are carried out: what makes room before what needs it.
var order = []plan.Verb{plan.Rollback, plan.Retire, plan.End, plan.Found, plan.Drain, plan.Cancel, plan.Stop, plan.Follow, plan.Adopt, plan.SetCount, plan.Start}

// act carries a plan out. What only touches the ledger is done at once; calls to clusters are begun, as many at a time as
// each cluster's slots allow. failed is what has gone wrong in this cycle before. more means that not everything was
// begun, and that a new plan should follow without delay.
func (l *Loop) act(ctx context.Context, actions []plan.Action, failed map[string]string, now time.Time) (more bool, err error) {
	todo := slices.DeleteFunc(slices.Clone(actions), func(a plan.Action) bool { return a.Verb == plan.Wait })
	slices.SortStableFunc(todo, func(a, b plan.Action) int {
		return cmp.Compare(slices.Index(order, a.Verb), slices.Index(order, b.Verb))
	})
	deadline := now.Add(l.o.Interval)
	for _, a := range todo {
		if more = time.Now().After(deadline); more {
			break // the ledger is slow: plan anew from what is true by now
		}
		begun, err := l.actOne(ctx, a, now)
		if begun {
			l.metrics.actions.WithLabelValues(string(a.Verb)).Inc()
		}
		if err != nil {
			failed[string(a.Verb)+" "+cmp.Or(string(a.Launch), a.Deployment)] = err.Error()
		}
		if errors.Is(err, ledger.ErrTermLost) {
			return false, err
		}
	}
	l.failures(func(what string) bool { return !strings.Contains(what, onCluster) }, failed)
	return more, nil
}

func (l *Loop) actOne(ctx context.Context, a plan.Action, now time.Time) (begun bool, err error) {
	switch a.Verb {
	case plan.Rollback:
		return true, l.rollBack(a)
	case plan.Retire:
		return true, l.retire(a)
	case plan.End:
		return true, l.end(a, now)
	case plan.Found:
		return true, l.found(a)
	case plan.Drain:
		return l.drain(a, now)
	case plan.Cancel, plan.Stop:
		return l.stop(ctx, a, now), nil
	case plan.Adopt:
		return true, l.adopt(a)
	case plan.Follow:
		return true, l.follow(a)
	case plan.SetCount:
		return l.setCount(ctx, a), nil
	case plan.Start:
		return l.start(ctx, a, now)
	}
	return false, fmt.Errorf("nobody knows how to %s", a.Verb)
}

// onCluster marks the names of failures of calls to clusters, which last until the same call succeeds.
const onCluster = " on cluster "

// failures keeps what goes wrong, for Warnings, and logs what is news. The new ones replace those of which old says so.
func (l *Loop) failures(old func(what string) bool, failed map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for what, why := range failed {
		if l.trouble[what] != why {
			l.log.Error().Str("action", what).Str("error", why).Msg("action failed")
		}
	}
	maps.DeleteFunc(l.trouble, func(what, _ string) bool { return old(what) })
	maps.Copy(l.trouble, failed)
}

func (l *Loop) rollBack(a plan.Action) error {
	err := l.o.Ledger.Rollback(a.Deployment, a.From, a.Revision, a.Reason)
	if errors.Is(err, ledger.ErrNotCurrent) {
		return nil // somebody has applied another revision: the next plan is about that one
	}
	if err == nil {
		l.event("rollback", a, fmt.Sprintf("revision %d is current again in place of %d: %s", a.Revision, a.From, a.Reason))
	}
	return err
}

func (l *Loop) retire(a plan.Action) error {
	err := l.o.Ledger.Retire(a.Deployment, a.Reason)
	if err == nil {
		l.event("retired", a, a.Reason)
	}
	return err
}

// maxLines bounds the engine's last lines that a launch keeps.
const maxLines = 20

func (l *Loop) end(a plan.Action, now time.Time) error {
	var over cluster.Launch
	err := l.o.Ledger.UpdateLaunch(a.Launch, func(x *cluster.Launch) error {
		if x.Phase == cluster.Ended {
			return nil
		}
		x.Phase, x.EndedAt, x.EndReason, x.Failed = cluster.Ended, now, a.Reason, a.Failed
		x.Cause, x.Exit, x.Blamed = a.Ended, a.Exit, a.Blamed
		x.LastLines = a.LastLines[max(0, len(a.LastLines)-maxLines):]
		over = *x
		return nil
	})
	if err != nil || over.ID == "" {
		return err
	}
	kind := "ended"
	if a.Failed {
		kind = "failed"
	}
	l.event(kind, a, a.Reason+complaint(a.LastLines))
	return l.bury(over)
}

// bury drops what is kept for a launch that is over.
func (l *Loop) bury(x cluster.Launch) error {
	l.o.Fleet.Remove(x.ID)
	l.probes.forget(x.ID)
	if err := l.o.RemoveJoinFile(x); err != nil {
		return fmt.Errorf("remove the join file of %s: %w", x.ID, err)
	}
	return nil
}

func (l *Loop) found(a plan.Action) error {
	err := l.o.Ledger.UpdateLaunch(a.Launch, func(x *cluster.Launch) error {
		x.Job = a.Job
		if x.Phase == cluster.Intended {
			x.Phase = cluster.Submitted
		}
		return nil
	})
	if err == nil {
		l.event("found", a, a.Reason)
	}
	return err
}

// repeatAfter is how long an agent has to report that it drains before it is told again.
const repeatAfter = 2 * time.Second

// drain notes the order in the ledger the first time, and gives it to the agents now and then until they obey.
func (l *Loop) drain(a plan.Action, now time.Time) (begun bool, err error) {
	if at, before := l.watch.ordered[a.Launch]; before && now.Sub(at) < repeatAfter {
		return false, nil
	}
	first := false
	err = l.o.Ledger.UpdateLaunch(a.Launch, func(x *cluster.Launch) error {
		if x.Phase != cluster.Intended && x.Phase != cluster.Submitted {
			return nil
		}
		first = true
		x.Phase, x.DrainBy, x.DrainReason, x.DrainAt, x.Left = cluster.Draining, a.By, a.Reason, now, a.Left
		return nil
	})
	if err != nil {
		return false, err
	}
	if first {
		l.event(l.drainKind(a), a, a.Reason)
	}
	l.watch.ordered[a.Launch] = now
	_ = l.o.Commander.Send(string(a.Launch), &apiv1.Command{ // one that is not connected is told by a later plan, or stopped
		Id: fmt.Sprintf("drain-%d", a.By.Unix()), Term: l.o.Ledger.Term(),
		Verb: &apiv1.Command_Drain{Drain: &apiv1.Drain{Deadline: durationpb.New(max(0, a.By.Sub(now))), Reason: a.Reason}},
	})
	return true, nil
}

// drainKind is the kind of event that a drain is, and counts handovers.
func (l *Loop) drainKind(a plan.Action) string {
	switch a.Cause {
	case plan.HandedOver, plan.Late:
		l.metrics.handovers.WithLabelValues(string(a.Cause)).Inc()
		return "handover"
	}
	return "drain"
}

// slot takes one of the cluster's slots, if one is free.
func (l *Loop) slot(a plan.Action) bool {
	select {
	case l.slots[a.Cluster] <- struct{}{}:
		return true
	default:
		return false // the call that frees one wakes the loop
	}
}

func (l *Loop) freeSlot(a plan.Action) { <-l.slots[a.Cluster] }

// call runs a call to a cluster in a slot that was taken for it. One that fails is not tried again before the next tick.
func (l *Loop) call(a plan.Action, do func() error) {
	l.work.Go(func() error {
		err := do()
		l.freeSlot(a)
		l.polls[a.Cluster].soon()
		what, failed := string(a.Verb)+onCluster+string(a.Cluster), map[string]string{}
		if err != nil {
			failed[what] = err.Error()
		}
		l.failures(func(old string) bool { return old == what }, failed)
		if errors.Is(err, ledger.ErrTermLost) {
			return err
		}
		if err == nil {
			l.Wake()
		}
		return nil
	})
}

// obeyIn is how long past its grace a job may take to be gone before it is told again.
const obeyIn = 10 * time.Second

func (l *Loop) stop(ctx context.Context, a plan.Action, now time.Time) (begun bool) {
	job := jobOf{a.Cluster, a.Job}
	if !l.slot(a) {
		return false
	}
	first, may := l.tasks.mayTell(job, now, now.Add(a.Grace+obeyIn))
	if !may {
		l.freeSlot(a)
		return false
	}
	if first {
		l.event(string(a.Verb), a, a.Reason)
	}
	l.call(a, func() error {
		ctx, cancel := context.WithTimeout(ctx, l.o.CallTimeout)
		defer cancel()
		began := time.Now()
		err := l.o.Clusters[a.Cluster].Stop(ctx, a.Job, a.Grace)
		l.metrics.called(a.Cluster, "Stop", began, err)
		if err != nil {
			l.tasks.notTold(job)
			return fmt.Errorf("stop job %s: %w", a.Job, err)
		}
		return nil
	})
	return true
}
