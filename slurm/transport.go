package slurm

import (
	"context"
	"errors"

	"github.com/penstock/penstock/scheduler/cluster"
)

// transport is the way to one Slurm cluster: its commands, or slurmrestd. Both answer in the same words, and what follows from
// the answers is the Cluster's. A *failure is Slurm's own no; any other error means that nobody knows.
type transport interface {
	// jobs lists this user's jobs, ended ones too for as long as Slurm knows them, in one question.
	jobs(ctx context.Context) ([]entry, error)
	// jobsOf lists jobs by their IDs, whoever's they are, in one question. One that Slurm does not know is left out.
	jobsOf(ctx context.Context, ids []string) ([]entry, error)
	// submit hands over a batch script with #SBATCH lines.
	submit(ctx context.Context, script string) (id string, err error)
	// tell sends a word to a job that still carries the launch: another job may have got its ID since. A job that is gone is
	// no error.
	tell(ctx context.Context, key jobKey, w word) error
	nodes(ctx context.Context) ([]cluster.Node, error)
	partitions(ctx context.Context) ([]Partition, error)
	config(ctx context.Context) (Config, error)
	// accounts asks the accounting for jobs of this user. errNoAccounting: there is none, or it is closed to us.
	accounts(ctx context.Context, q accountQuery) ([]account, error)
	// drains tells whether the drain word can reach the agent alone.
	drains() bool
}

// word is what a job is told.
type word string

const (
	drainWord word = "drain" // Penstock's own signal, to the agent alone
	endWord   word = "end"   // TERM, and KILL after the site's KillWait
	killWord  word = "kill"  // KILL
)

var errNoAccounting = errors.New("there is no accounting")
