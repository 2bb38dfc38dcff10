package slurm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Lone is a job that belongs to no launch: the controller's own.
type Lone struct {
	ID    string
	slurm runner
}

// SubmitLone submits a script that is no launch's. Errors are as Submit's.
func SubmitLone(ctx context.Context, environ []string, script string) (*Lone, error) {
	r := newRunner(environ, "", newMetrics(nil))
	out, err := r.run(ctx, script, "sbatch", "--parsable")
	if err != nil {
		return nil, fmt.Errorf("submit a job to Slurm: %w", submitError(err, cluster.Submission{}))
	}
	id := submittedID(out)
	if id == "" {
		return nil, fmt.Errorf("submit a job to Slurm: %w", unknown(errors.New("sbatch's answer holds no job ID")))
	}
	return &Lone{id, r}, nil
}

// State asks how the job is, and why it is so in words.
func (l *Lone) State(ctx context.Context) (cluster.JobState, string, error) {
	out, err := l.slurm.run(ctx, "", "squeue", "--noheader", "--states=all", "--jobs="+l.ID, format(queueFields))
	var list []entry
	if err == nil {
		list, err = parseQueue(out)
	}
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
