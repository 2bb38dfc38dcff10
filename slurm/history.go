package slurm

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// ErrNoAccounting means that this Slurm keeps no accounting, or does not show it to this user.
var ErrNoAccounting = errNoAccounting

// Past is one run of a job that is over, as the accounting tells.
type Past struct {
	Job    string
	Launch cluster.LaunchID
	State  string // Slurm's word
	Cause  cluster.EndCause
	Reason string        // in words
	Exit   *cluster.Exit // nil = it says nothing
	Nodes  string        // as Slurm writes lists of nodes
	// Submitted, Started and Ended are zero where the accounting knows none.
	Submitted, Started, Ended time.Time
}

// History asks the accounting for the jobs of this user that are over and have ended or run since then, and keeps those whose
// working folder is a launch's below logRoot. A job that was requeued is listed once for each run.
func History(ctx context.Context, environ []string, logRoot string, since time.Time) (list []Past, err error) {
	c := commands{newRunner(environ, "", newMetrics(nil))}
	all, err := c.accounts(ctx, accountQuery{since: since})
	if err != nil {
		return nil, fmt.Errorf("ask Slurm's accounting: %w", err)
	}
	for _, a := range all {
		rel, err := filepath.Rel(logRoot, a.workDir)
		ended := stateOf(a.state) == cluster.JobEnded || strings.HasPrefix(a.state, "REQUEUED")
		if err != nil || strings.HasPrefix(rel, "..") || filepath.Base(rel) != a.name || !launchIDs.MatchString(a.name) || !ended {
			continue
		}
		list = append(list, a.past())
	}
	return list, nil
}

func (a account) past() Past {
	word, _, _ := strings.Cut(a.state, " ")
	exit := exitOf(a.state, a.exit)
	p := Past{
		Job: a.id, Launch: cluster.LaunchID(a.name), State: word, Cause: causeOf(a.state, "", a.exit), Reason: howEnded(a.state, "", exit, false),
		Exit: exit, Nodes: a.nodes, Submitted: a.submit, Started: a.start, Ended: a.end,
	}
	if word == "REQUEUED" {
		p.Cause, p.Reason = cluster.EndedPreempted, "requeued: the job ran again later"
	}
	if p.Nodes == "None assigned" {
		p.Nodes = ""
	}
	return p
}
