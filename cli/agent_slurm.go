package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent"
)

// An agent in a Slurm job is told its place by Slurm's environment, and by whom it is signalled: USR1 is Penstock's own
// word, USR2 Slurm's warning before the time limit, TERM Slurm's last word before KILL (jobspecs/render says why).

// slurmOptions are what only agents in Slurm jobs have.
type slurmOptions struct {
	firstRank int           // of the step that this agent belongs to
	killWait  time.Duration // from TERM to KILL, as the site has set it
	warning   time.Duration // how long before the time limit Slurm warns
}

// defaultKillWait is Slurm's own.
const defaultKillWait = 30 * time.Second

// fromSlurm fills in what Slurm's environment says of this agent's place. What flags say stays.
func (o agentOptions) fromSlurm(getenv func(string) string) (agentOptions, error) {
	task := getenv("SLURM_PROCID")
	rank, err := strconv.Atoi(orDefault(task, "0"))
	if err != nil || rank < 0 {
		return o, fail(ExitError, "", "SLURM_PROCID is %q, which is no number of a task", task)
	}
	if o.slurm.firstRank > 0 {
		o.rank = o.slurm.firstRank + rank
	}
	o.job = orDefault(o.job, getenv("SLURM_JOB_ID"))
	o.node = orDefault(o.node, getenv("SLURMD_NODENAME"))
	if o.job == "" {
		return o, fail(ExitError, "sbatch starts it", "this is no Slurm job: SLURM_JOB_ID is not set")
	}
	if o.slurm.killWait <= 0 {
		o.slurm.killWait = defaultKillWait
	}
	return o, nil
}

// longestBase is the longest runtime folder below which an agent's sockets still have room.
const longestBase = 60

// slurmRuntimeDir is where sockets go on a node where nobody has said so: the environment of a job is the user's login
// environment, whose folders may be missing on the node, or be too long for sockets.
func slurmRuntimeDir(set resolved, getenv func(string) string) string {
	for _, v := range set.values {
		if v.Key == "runtimeDir" && v.Origin != "default" {
			return v.Value
		}
	}
	own := "penstock-" + strconv.Itoa(os.Getuid())
	if d := getenv("XDG_RUNTIME_DIR"); d != "" && len(d) < longestBase {
		if info, err := os.Stat(d); err == nil && info.IsDir() {
			return filepath.Join(d, "penstock")
		}
	}
	if d := filepath.Join(os.TempDir(), own); len(d) <= longestBase {
		return d
	}
	return filepath.Join("/tmp", own)
}

// replace sets a setting anew.
func (r resolved) replace(key, v string) {
	for i := range r.values {
		if r.values[i].Key == key {
			r.values[i].Value = v
		}
	}
}

// slack is how far from the time that it was asked for Slurm's warning may come, with something on top.
const slack = 2 * time.Minute

// ownTime tells whether a warning that comes now is that of the time limit: the agent keeps that by its own clock, which is
// more exact. One that comes far from it is for a preemption, or for a limit that was lowered.
func (o slurmOptions) ownTime(now, endsAt time.Time) bool {
	return !endsAt.IsZero() && endsAt.Sub(now) <= o.warning+slack
}

// grace is what a drain may take of the time between TERM and KILL.
func (o slurmOptions) grace() time.Duration { return o.killWait - min(5*time.Second, o.killWait/5) }

// onSlurmSignals drains at Slurm's signals and ends at once at an interrupt. The returned function ends it.
func onSlurmSignals(o slurmOptions, endsAt time.Time, a *agent.Agent, now context.CancelFunc, log zerolog.Logger) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				o.obey(s, endsAt, a.Drain, now, log)
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

func (o slurmOptions) obey(s os.Signal, endsAt time.Time, drain func(string, time.Duration), now func(), log zerolog.Logger) {
	switch s {
	case syscall.SIGUSR1:
		drain("told to stop", 0)
	case syscall.SIGUSR2:
		if o.ownTime(time.Now(), endsAt) {
			log.Info().Time("ends_at", endsAt).Msg("Slurm warns of the time limit")
			return
		}
		drain("Slurm warns that the job will end", 0)
	case syscall.SIGTERM:
		drain(fmt.Sprintf("Slurm ends the job and kills it in %s", o.killWait), o.grace())
	default:
		now()
	}
}
