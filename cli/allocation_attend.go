package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// attending is the life of an allocation as its controller sees it.
type attending struct {
	c       *controller
	since   time.Time
	detach  bool      // the srun has still to be ended
	closing string    // why the allocation ends; empty = it does not yet
	by      time.Time // when it has to have ended; zero = whenever everything has
	applied bool
}

const (
	attendEvery = 500 * time.Millisecond
	// keepersPatience is how long keepers may take to begin, and to answer again, before the allocation is given up: a node that
	// loads the program from a busy filesystem is slow.
	keepersPatience = 5 * time.Minute
	// lastMoment is left between the end of serving and the end of the job.
	lastMoment = 3 * time.Second
)

// attendAllocation hands the deployment in, ends the srun once all keepers are there, and ends the job when there is nothing
// left to serve or no time left to do it.
func (c *controller) attendAllocation(ctx context.Context) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2)
	defer signal.Stop(signals)
	a := &attending{c: c, since: time.Now(), detach: c.allocation.launcher > 0, applied: c.allocation.applied()}
	tick := time.NewTicker(attendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-signals:
			a.obey(s, time.Now())
		case now := <-tick.C:
			if over, err := a.look(ctx, now); over || err != nil {
				return errors.Join(err, a.dismiss(ctx))
			}
		}
	}
}

// obey begins the end that a signal stands for.
func (a *attending) obey(s os.Signal, now time.Time) {
	job := a.c.allocation
	o := slurmOptions{killWait: job.killWait, warning: warningOf(job)}
	switch {
	case s == syscall.SIGUSR2 && o.ownTime(now, job.endsAt):
		a.c.log.Info().Time("ends_at", job.endsAt).Msg("Slurm warns of the time limit") // which is kept by the clock
	case s == syscall.SIGUSR2:
		a.end("Slurm warns that the job will end", job.deployment.Serving.DrainTimeout.Std(), now)
	case s == syscall.SIGTERM:
		a.end(fmt.Sprintf("Slurm ends the job and kills it in %s", job.killWait), o.grace(), now)
	default:
		a.end("interrupted", 0, now)
	}
}

// end has all replicas drain, within the grace, and nothing be started any more.
func (a *attending) end(why string, grace time.Duration, now time.Time) {
	by := now.Add(grace)
	if a.closing != "" && !a.by.IsZero() && a.by.Before(by) {
		return
	}
	a.closing, a.by = why, by
	a.c.log.Warn().Str("reason", why).Dur("grace", grace).Msg("allocation ends")
	a.c.allocation.cluster.CloseFor(why)
	for _, l := range a.c.ledger.Launches() {
		if l.Phase == cluster.Ended {
			continue
		}
		cmd := &apiv1.Command{Id: "end-" + string(l.ID) + "-" + strconv.FormatInt(by.UnixNano(), 36), Term: a.c.endpoint.Term, Verb: &apiv1.Command_Drain{
			Drain: &apiv1.Drain{Deadline: durationpb.New(grace), Reason: why},
		}}
		if err := a.c.server.Send(string(l.ID), cmd); err != nil { // Slurm's signal reaches agents too
			a.c.log.Warn().Err(err).Str("launch", string(l.ID)).Msg("replica not told to drain")
		}
	}
}

// look does what is due. over: the allocation is of no use any more.
func (a *attending) look(ctx context.Context, now time.Time) (over bool, err error) {
	job := a.c.allocation
	a.detachLauncher()
	if err := a.apply(ctx); err != nil {
		return true, err
	}
	if err := a.keepers(now); err != nil {
		return true, err
	}
	if a.closing == "" && !job.endsAt.IsZero() && !now.Before(job.endsAt.Add(-lastMoment)) {
		a.end("the job's time is over", 0, now)
	}
	left := a.live()
	switch {
	case a.closing == "" && a.applied && left == 0 && a.stopped():
		a.c.log.Info().Msg("everything is stopped: the allocation ends")
		return true, nil
	case a.closing == "" && left == 0 && !job.endsAt.IsZero() && a.pastLeaving(now):
		a.c.log.Info().Msg("all replicas have left before the job's end")
		return true, nil
	case a.closing != "" && (left == 0 || !now.Before(a.by)):
		a.c.log.Info().Int("left", left).Msg("allocation has ended")
		return true, nil
	}
	return false, nil
}

// pastLeaving: replicas that have gone are not replaced, since the job's end is too near.
func (a *attending) pastLeaving(now time.Time) bool {
	from, _ := a.c.allocation.deployment.Serving.Leave(a.c.allocation.began, a.c.allocation.endsAt)
	return !now.Before(from)
}

// apply hands the script's deployment file to this very controller, once for each run of the job.
func (a *attending) apply(ctx context.Context) error {
	if a.applied {
		return nil
	}
	client, done, err := a.c.inv.control()
	if err != nil {
		return nil // its port is about to be served
	}
	defer done()
	path := filepath.Join(a.c.allocation.dir, jobDeployment)
	resp, err := client.Apply(ctx, &apiv1.ApplyRequest{Yaml: a.c.allocation.text, Source: path})
	if err != nil {
		return fmt.Errorf("take the script's deployment: %w", err)
	}
	a.applied = true
	a.c.log.Info().Str("deployment", resp.Deployment).Uint32("revision", resp.Revision).Msg("deployment of the script is wanted")
	return writeJSON(filepath.Join(a.c.allocation.dir, jobApplied), struct{}{})
}

// keepers makes sure that there are any.
func (a *attending) keepers(now time.Time) error {
	heard := a.c.allocation.cluster.Heard()
	if heard.IsZero() {
		heard = a.since
	}
	if silent := now.Sub(heard); silent > keepersPatience {
		return fmt.Errorf("no node's keeper has answered for %s; their logs are %s", keepersPatience, filepath.Join(a.c.allocation.dir, "keeper-NODE.log"))
	}
	return nil
}

// live counts launches that have not ended.
func (a *attending) live() (n int) {
	for _, l := range a.c.ledger.Launches() {
		if l.Phase != cluster.Ended {
			n++
		}
	}
	return n
}

// stopped: nothing is wanted.
func (a *attending) stopped() bool {
	all := a.c.ledger.Deployments()
	for _, d := range all {
		if !d.Stopped {
			return false
		}
	}
	return len(all) > 0
}

// dismiss ends the keepers. What still runs then is killed: it has had its time.
func (a *attending) dismiss(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := a.c.allocation.cluster.Dismiss(ctx, 0); err != nil {
		a.c.log.Warn().Err(err).Msg("keepers not dismissed; Slurm ends them with the job")
	}
	return nil
}

// detachLauncher ends the srun by force once all keepers run: at Slurm's TERM it would kill them before they could end anything
// in order. Its child goes first, since that kills the step when its parent dies. The step itself lives on.
func (a *attending) detachLauncher() {
	job := a.c.allocation
	if !a.detach || len(job.cluster.Present()) < len(job.nodes) {
		return
	}
	a.detach = false
	for _, pid := range append(childrenOf(job.launcher), job.launcher) {
		if !isLauncher(pid) {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			a.c.log.Warn().Err(err).Int("pid", pid).Msg("srun not ended: Slurm's TERM will be KILL to the nodes")
		}
	}
	a.c.log.Info().Int("nodes", len(job.nodes)).Msg("all keepers run")
}

func childrenOf(pid int) (list []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				list = append(list, child)
			}
		}
	}
	return list
}

// isLauncher checks that a number still names an srun: the shell may have reaped it.
func isLauncher(pid int) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(name)) == "srun"
}
