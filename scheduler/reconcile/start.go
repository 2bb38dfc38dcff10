package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/plan"
)

// start begins a launch: from here on it is counted, whatever becomes of it.
func (l *Loop) start(ctx context.Context, a plan.Action, now time.Time) (begun bool, err error) {
	submitter, ok := l.o.Clusters[a.Cluster].(cluster.Submitter)
	if !ok {
		return false, fmt.Errorf("cluster %s takes no launches", a.Cluster)
	}
	id, err := NewLaunchID(l.o.Rand, a.Deployment, a.Role, a.Index)
	if err != nil || !l.slot(a) {
		return false, err
	}
	x := *a.New
	x.ID, a.Launch = id, id
	l.tasks.begin(x, now)
	l.call(a, func() error {
		defer l.tasks.submitted(id)
		return l.launch(ctx, submitter, a, x)
	})
	return true, nil
}

// launch puts a launch into the ledger and then submits it, once. What becomes of it is in the ledger when it returns; where
// that fails too, the next plans look the launch up by its token.
func (l *Loop) launch(ctx context.Context, submitter cluster.Submitter, a plan.Action, x cluster.Launch) error {
	if err := l.o.Ledger.PutLaunch(x); err != nil {
		return err
	}
	l.event("start", a, a.Reason+placedOn(x))
	s, err := l.prepare(x)
	if err != nil {
		return errors.Join(err, l.refuse(a, x, err.Error()))
	}
	if err := l.o.Ledger.CheckTerm(); err != nil {
		return err // not submitted, and never will be: whoever holds the term ends it
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, l.o.SubmitTimeout)
	defer cancel()
	job, err := submitter.Submit(ctx, s)
	l.metrics.called(a.Cluster, "Submit", began, err)
	switch {
	case err == nil:
		return l.accepted(a, x, job)
	case errors.Is(err, cluster.ErrRefused):
		return l.refuse(a, x, err.Error())
	}
	l.event("unanswered", a, fmt.Sprintf("cluster %s may or may not have taken the job, which is looked up by its token: %v", x.Cluster, err))
	return nil
}

// prepare gathers what the submit needs.
func (l *Loop) prepare(x cluster.Launch) (cluster.Submission, error) {
	spec, err := l.o.Ledger.Revision(x.Deployment, x.Revision)
	if err != nil {
		return cluster.Submission{}, err
	}
	join, err := l.o.JoinFile(x)
	if err != nil {
		return cluster.Submission{}, fmt.Errorf("write the join file: %w", err)
	}
	return cluster.Submission{Launch: x, Deployment: spec, JoinFile: join, LogDir: l.o.LogDir(x)}, nil
}

// accepted notes the job.
func (l *Loop) accepted(a plan.Action, x cluster.Launch, job string) error {
	err := l.o.Ledger.UpdateLaunch(x.ID, func(x *cluster.Launch) error {
		x.Job = job
		if x.Phase == cluster.Intended {
			x.Phase = cluster.Submitted
		}
		return nil
	})
	if err == nil {
		l.event("submitted", a, "job "+job)
	}
	return err
}

// refuse ends a launch that has no job.
func (l *Loop) refuse(a plan.Action, x cluster.Launch, why string) error {
	a.Verb, a.Failed, a.Reason = plan.End, true, "not submitted: "+why
	return l.end(a, time.Now())
}

func placedOn(x cluster.Launch) string {
	if len(x.Placement) == 0 {
		return ""
	}
	var on []string
	for _, p := range x.Placement {
		on = append(on, p.Node)
	}
	return "; on " + strings.Join(on, ", ")
}
