package slurm

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Lone is a job that belongs to no launch: the controller's own, or a probe.
type Lone struct {
	ID    string
	slurm transport
}

// SubmitLone submits a script that is no launch's, with Slurm's commands, or through slurmrestd where rest is not nil. Errors
// are as Submit's.
func SubmitLone(ctx context.Context, environ []string, rest *REST, script string) (*Lone, error) {
	t := newTransport(rest, environ, "", newMetrics(nil))
	id, err := t.submit(ctx, script)
	if err != nil {
		return nil, fmt.Errorf("submit a job to Slurm: %w", submitError(err, cluster.Submission{}))
	}
	return &Lone{id, t}, nil
}

// State asks how the job is, and why it is so in words.
func (l *Lone) State(ctx context.Context) (cluster.JobState, string, error) {
	list, err := l.slurm.jobsOf(ctx, []string{l.ID})
	if err != nil || len(list) == 0 {
		return cluster.JobUnknown, "Slurm does not tell", unknown(err)
	}
	e := list[0]
	switch state := stateOf(e.state); state {
	case cluster.JobPending:
		return state, waitWords(e.state, e.reason, e.start, time.Now()), nil
	case cluster.JobEnded:
		return state, howEnded(e.state, e.reason, exitOf(e.state, e.exit), false), nil
	default:
		return state, "", nil
	}
}

// Cancel ends the job; name is the job's.
func (l *Lone) Cancel(ctx context.Context, name string) error {
	if err := l.slurm.tell(ctx, jobKey{l.ID, cluster.LaunchID(name)}, endWord); err != nil {
		return fmt.Errorf("cancel job %s: %w", l.ID, err)
	}
	return nil
}
