package slurm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
)

// commands is the transport that any user has: sbatch, squeue, scancel, scontrol, sinfo, and sacct.
type commands struct{ runner }

var _ transport = commands{}

func (c commands) jobs(ctx context.Context) ([]entry, error) {
	return c.queue(ctx, "--user="+myUID())
}

func (c commands) jobsOf(ctx context.Context, ids []string) ([]entry, error) {
	list, err := c.queue(ctx, "--jobs="+strings.Join(ids, ","))
	if f := (*failure)(nil); errors.As(err, &f) && f.says("Invalid job id") {
		return nil, nil
	}
	return list, err
}

func (c commands) queue(ctx context.Context, whose string) ([]entry, error) {
	out, err := c.run(ctx, "", "squeue", "--noheader", "--states=all", whose, format(queueFields))
	if err != nil {
		return nil, err
	}
	return parseQueue(out)
}

func (c commands) submit(ctx context.Context, script string) (string, error) {
	out, err := c.run(ctx, script, "sbatch", "--parsable")
	if err != nil {
		return "", err
	}
	id := submittedID(out)
	if id == "" {
		return "", fmt.Errorf("sbatch answers %q, which holds no job ID", cut(strings.TrimSpace(out)))
	}
	return id, nil
}

// words are scancel's options. Penstock's signal goes to the batch shell's place, which is the agent's.
var words = map[word][]string{
	drainWord: {"--batch", "--signal=" + render.DrainSignal}, endWord: nil, killWord: {"--signal=KILL"},
}

func (c commands) drains() bool { return true }

// tell runs scancel on a job by its ID and name: another job with the same ID has another name.
func (c commands) tell(ctx context.Context, key jobKey, w word) error {
	args := append(append([]string{}, words[w]...), "--user="+myUID(), "--name="+string(key.launch), key.id)
	_, err := c.run(ctx, "", "scancel", args...)
	if f := (*failure)(nil); errors.As(err, &f) && f.says(goneWords...) {
		return nil
	}
	return err
}

// goneWords are what Slurm says of a job that there is nothing to tell any more.
var goneWords = []string{"Invalid job id", "already completing or completed", "Job/step already"}

func (c commands) nodes(ctx context.Context) ([]cluster.Node, error) {
	out, err := c.run(ctx, "", "sinfo", "--noheader", "--Node", format(nodeFields))
	if err != nil {
		return nil, err
	}
	return parseNodes(out)
}

func (c commands) partitions(ctx context.Context) ([]Partition, error) {
	out, err := c.run(ctx, "", "sinfo", "--noheader", format(partitionFields))
	if err != nil {
		return nil, err
	}
	return parsePartitions(out)
}

func (c commands) config(ctx context.Context) (Config, error) {
	out, err := c.run(ctx, "", "scontrol", "show", "config")
	if err != nil {
		return Config{}, err
	}
	return parseConfig(out)
}
