package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/slurm"
	"github.com/penstock/penstock/slurm/allocation"
)

// allocated is the Slurm job of a rendered script, as `penstock serve --allocation` finds it in its environment.
type allocated struct {
	dir, root  string // the job's folder, and that of all jobs of the script
	job        string
	restarts   int
	dependency string // SLURM_JOB_DEPENDENCY: what it has waited for
	nodes      []string
	began      time.Time // when its script wrote the deployment file
	endsAt     time.Time // zero = unknown
	killWait   time.Duration
	launcher   int // process ID of the srun; 0 = none

	text       string // of the deployment file
	deployment jobspecs.Deployment
	cluster    *allocation.Cluster
	previous   jobRecord // whose folder it was before
}

// The files of a job's folder.
const (
	jobDeployment = "deployment.yaml"
	jobState      = "state.json" // where its state is, for keepers and the command line
	jobApplied    = "applied"    // the deployment file has been handed to the controller
)

// serveAllocation is `penstock serve` in a job of a rendered script. Slurm's TERM ends it in its own way.
func serveAllocation(ctx context.Context, inv *invocation, o serveOptions) error {
	a, err := findAllocation(ctx, inv, o)
	if err != nil {
		return err
	}
	inv.set.replace("runtimeDir", slurmRuntimeDir(inv.set, inv.Getenv))
	if inv.set.origin("gateway.listen") == "default" {
		inv.set.replace("gateway.listen", ":0")
	}
	if o.logFile == "" {
		o.logFile = filepath.Join(a.dir, "serve.log")
	}
	ctx = context.WithoutCancel(ctx) // attendAllocation sees to signals
	c, err := newController(ctx, inv, o, a)
	if err != nil {
		return err
	}
	if err := c.sayAllocation(); err != nil {
		return errors.Join(err, c.close())
	}
	return c.run(ctx)
}

// findAllocation reads what Slurm and the script say of this job.
func findAllocation(ctx context.Context, inv *invocation, o serveOptions) (*allocated, error) {
	a := &allocated{
		dir: inv.path(o.allocation), job: inv.Getenv("SLURM_JOB_ID"), dependency: inv.Getenv("SLURM_JOB_DEPENDENCY"), launcher: o.launcher,
	}
	a.root = filepath.Dir(filepath.Dir(a.dir))
	if a.job == "" {
		return nil, fail(ExitError, "a script of `penstock render` calls this, and sbatch runs it", "this is no Slurm job: SLURM_JOB_ID is not set")
	}
	var err error
	if text := inv.Getenv("SLURM_RESTART_COUNT"); text != "" {
		if a.restarts, err = strconv.Atoi(text); err != nil {
			return nil, fail(ExitError, "", "SLURM_RESTART_COUNT is %q, which is no number", text)
		}
	}
	if a.nodes, err = slurm.Hosts(inv.Getenv("SLURM_JOB_NODELIST")); err != nil || len(a.nodes) == 0 {
		return nil, fail(ExitError, "", "SLURM_JOB_NODELIST is %q, which lists no nodes", inv.Getenv("SLURM_JOB_NODELIST"))
	}
	if a.endsAt, err = jobEnd(inv, ""); err != nil {
		return nil, err
	}
	if a.text, a.deployment, err = inv.readDeployment(filepath.Join(a.dir, jobDeployment)); err != nil {
		return nil, err
	}
	info, err := os.Stat(filepath.Join(a.dir, jobDeployment))
	if err != nil {
		return nil, fmt.Errorf("find when the job began: %w", err)
	}
	a.began = info.ModTime()
	if a.deployment.Cluster != jobspecs.SlurmCluster {
		return nil, fail(ExitError, "write cluster: slurm into the script's deployment", "deployment %s runs on cluster %s, and this is a Slurm job", a.deployment.Name, a.deployment.Cluster)
	}
	a.killWait = killWaitOf(ctx, inv)
	return a, nil
}

// killWaitOf asks Slurm for the time between TERM and KILL.
func killWaitOf(ctx context.Context, inv *invocation) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if wait, err := slurm.KillWait(ctx, inv.Environ); err == nil && wait > 0 {
		return wait
	}
	return defaultKillWait
}

// warningOf is how long before the time limit Slurm warns the job, as its script asks for.
func warningOf(a *allocated) time.Duration {
	return render.WarningBefore(a.deployment.Serving.DrainTimeout.Std())
}

// run names this run of the job; a requeue starts another one.
func (a *allocated) run() jobRecord { return jobRecord{Job: a.job, Restarts: a.restarts} }

// openAllocation makes the cluster of the job's nodes.
func (c *controller) openAllocation() (err error) {
	a := c.allocation
	leave, _ := a.deployment.Serving.Leave(a.began, a.endsAt)
	a.cluster, err = allocation.New(allocation.Options{
		Dir: a.dir, Nodes: a.nodes, EndsAt: a.endsAt, Closing: a.endsAt.Sub(leave),
		Certificate:  func() *tls.Certificate { return c.holder.Certificate() },
		AgentCommand: c.allocationAgent, Before: c.launchesBefore(), Log: c.log,
	})
	if err != nil {
		return err
	}
	c.clusters = map[jobspecs.ClusterKind]cluster.Cluster{jobspecs.SlurmCluster: a.cluster}
	return nil
}

// allocationAgent is the command line of one rank's agent on a node of the allocation.
func (c *controller) allocationAgent(s cluster.Submission, job string, rank int) []string {
	a := c.allocation
	argv := append(render.Agent(c.inv.Self, s.JoinFile, rank, s.Launch.Nodes), "--cluster", string(jobspecs.SlurmCluster),
		"--job", job, "--node", s.Launch.Placement[rank].Node, "--kill-wait", a.killWait.String(),
		"--warning", render.WarningBefore(s.Deployment.Serving.DrainTimeout.Std()).String(),
		"--log-file", filepath.Join(s.LogDir, fmt.Sprintf("agent-%d.log", rank)))
	if !a.endsAt.IsZero() {
		argv = append(argv, "--ends-at", strconv.FormatInt(a.endsAt.Unix(), 10))
	}
	return argv
}

// launchesBefore are the jobs of launches that ran in an earlier allocation, which is over: this one holds its state.
func (c *controller) launchesBefore() (jobs []cluster.Job) {
	a := c.allocation
	if a.previous == a.run() || a.previous == (jobRecord{}) {
		return nil
	}
	now := time.Now().UTC()
	for _, l := range c.ledger.Launches() {
		if l.Phase == cluster.Ended {
			continue
		}
		cause := cluster.EndedPreempted
		if !l.EndsAt.IsZero() && now.After(l.EndsAt.Add(-time.Minute)) {
			cause = cluster.EndedWalltime
		}
		jobs = append(jobs, cluster.Job{
			ID: orDefault(l.Job, string(l.ID)), Launch: l.ID, State: cluster.JobEnded, Nodes: l.Ran, Started: l.StartedAt, Ended: now, Cause: cause,
			Reason: fmt.Sprintf("its allocation, %s, is over", a.previous),
		})
	}
	return jobs
}

// sayAllocation tells keepers, commands and people where everything is.
func (c *controller) sayAllocation() error {
	a := c.allocation
	if err := writeJSON(filepath.Join(a.dir, jobState), jobPointer{State: c.state, CAPEM: string(c.ca.PEM())}); err != nil {
		return err
	}
	file, err := c.writeConnect()
	if err != nil {
		return err
	}
	c.inv.say("%s serves %s on %s; state folder %s, term %d", a.run(), a.deployment.Name, countText(len(a.nodes), "node"), c.state, c.endpoint.Term)
	fmt.Fprintf(c.inv.Out, "# To use it, where this state folder can be read:\n. %s   # OPENAI_BASE_URL, OPENAI_API_KEY, SSL_CERT_FILE\n", file)
	for _, verb := range []string{"status", "endpoint", "stop " + a.deployment.Name} {
		fmt.Fprintf(c.inv.Out, "%s %s --state-dir %s\n", c.inv.Self, verb, c.state)
	}
	return nil
}

func countText(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// applied tells whether this run of the job has handed its deployment file to a controller already.
func (a *allocated) applied() bool {
	_, err := os.Lstat(filepath.Join(a.dir, jobApplied))
	return !errors.Is(err, fs.ErrNotExist)
}
