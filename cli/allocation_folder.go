package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/slurm"
)

// Below the root of a rendered script lie state folders, state-1, state-2 and so on, as many as jobs of it have ever run at one
// time, and jobs/ID-RESTARTS, one for each run of a job. Which state folder a job takes is decided by who holds its term, so
// two jobs that start together never share one.

// jobRecord names the run of a job that a state folder was taken by last.
type jobRecord struct {
	Job      string `json:"job"`
	Restarts int    `json:"restarts"`
}

func (r jobRecord) String() string {
	if r.Restarts == 0 {
		return "Slurm job " + r.Job
	}
	return fmt.Sprintf("Slurm job %s (started again %d times)", r.Job, r.Restarts)
}

// jobPointer is what a job's folder says of its state.
type jobPointer struct {
	State string `json:"state"`
	CAPEM string `json:"ca_pem"`
}

const (
	stateJob    = "job.json"
	statePrefix = "state-"
	maxPointer  = 64 << 10
)

// stateFolder is a candidate.
type stateFolder struct {
	path string
	last jobRecord // zero = nobody has had it
}

// stateFolders lists the folders of a root, and a new one last, in the order in which a job tries them: its own of an earlier
// run, that of a job it depends on, any other.
func stateFolders(root, job, dependency string) ([]stateFolder, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list state folders: %w", err)
	}
	highest := 0
	numbers := map[string]int{}
	var list []stateFolder
	for _, e := range entries {
		n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), statePrefix))
		if err != nil || n < 1 || !strings.HasPrefix(e.Name(), statePrefix) {
			continue
		}
		f := stateFolder{path: filepath.Join(root, e.Name())}
		f.last, _ = readJSON[jobRecord](filepath.Join(f.path, stateJob)) // what cannot be read is nobody's
		numbers[f.path] = n
		highest = max(highest, n)
		list = append(list, f)
	}
	on := dependencies(dependency)
	rank := func(f stateFolder) int {
		switch {
		case f.last.Job == job:
			return 0
		case slices.Contains(on, f.last.Job):
			return 1
		}
		return 2
	}
	slices.SortFunc(list, func(a, b stateFolder) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return numbers[a.path] - numbers[b.path]
	})
	return append(list, stateFolder{path: filepath.Join(root, statePrefix+strconv.Itoa(highest+1))}), nil
}

// dependencies are the job IDs in a value of sbatch's --dependency: afterany:12+5:13,singleton names 12 and 13.
func dependencies(text string) (ids []string) {
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '?' || r == ':' }) {
		id, _, _ := strings.Cut(part, "+")
		id, _, _ = strings.Cut(id, "_")
		if _, err := strconv.ParseUint(id, 10, 64); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// takeFolder takes the first state folder that nobody holds.
func (c *controller) takeFolder(ctx context.Context, holder ledger.Holder) (term uint64, err error) {
	a := c.allocation
	var held error
	for range 100 { // new ones may be taken by others meanwhile
		folders, err := stateFolders(a.root, a.job, a.dependency)
		if err != nil {
			return 0, err
		}
		for _, f := range folders {
			if c.waitsForAnother(ctx, f) {
				continue
			}
			term, err := c.tryFolder(ctx, f, holder)
			if other := (*ledger.HeldError)(nil); errors.As(err, &other) {
				held = err
				continue
			}
			return term, err
		}
	}
	return 0, held
}

// waitsForAnother: the folder's last job waits to go on with it, or runs where nobody sees its heart beat. Where Slurm does not
// tell, the term decides alone.
func (c *controller) waitsForAnother(ctx context.Context, f stateFolder) bool {
	a := c.allocation
	if f.last.Job == "" || f.last.Job == a.job || slices.Contains(dependencies(a.dependency), f.last.Job) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	state, _, err := slurm.LoneJob(c.inv.Environ, f.last.Job).State(ctx)
	return err == nil && (state == cluster.JobPending || state == cluster.JobRunning)
}

func (c *controller) tryFolder(ctx context.Context, f stateFolder, holder ledger.Holder) (uint64, error) {
	if err := identity.SecureDir(f.path); err != nil {
		return 0, err
	}
	l, err := ledger.Open(f.path, ledger.Options{Log: c.log})
	if err != nil {
		return 0, err
	}
	term, err := l.Acquire(ctx, holder)
	if err != nil {
		return 0, err
	}
	c.ledger, c.state = l, f.path
	c.allocation.previous = f.last
	c.inv.set.replace("stateDir", f.path)
	if err := writeJSON(filepath.Join(f.path, stateJob), c.allocation.run()); err != nil {
		return 0, errors.Join(err, l.Release())
	}
	return term, nil
}

// followJob finds the state folder of the job that --slurm-job names: below the state folder, where `penstock render` puts it.
func (inv *invocation) followJob() error {
	job := inv.set.get("slurmJob")
	if job == "" {
		return nil
	}
	if _, err := strconv.ParseUint(job, 10, 64); err != nil {
		return usageError("--slurm-job %q is no job ID", job)
	}
	root := filepath.Join(inv.set.get("stateDir"), allocationsFolder)
	found, err := filepath.Glob(filepath.Join(root, "*", "jobs", job+"-*", jobState))
	if err != nil || len(found) == 0 {
		return fail(ExitNotFound, "its output names the state folder; use that with --state-dir", "no job %s has begun to serve below %s", job, root)
	}
	slices.SortFunc(found, func(a, b string) int { return restartsOf(a) - restartsOf(b) })
	p, err := readJSON[jobPointer](found[len(found)-1])
	if err != nil {
		return err
	}
	inv.set.replace("stateDir", p.State)
	return nil
}

// allocationsFolder is where rendered scripts have their roots, below the state folder.
const allocationsFolder = "slurm"

func restartsOf(pointer string) int {
	_, text, _ := strings.Cut(filepath.Base(filepath.Dir(pointer)), "-")
	n, _ := strconv.Atoi(text) // no number: the first
	return n
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		err = statefile.Write(statefile.OS{}, path, data)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func readJSON[T any](path string) (v T, err error) {
	data, err := statefile.ReadPrivate(path, maxPointer)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, fmt.Errorf("read %s: %w", path, err)
	}
	return v, nil
}
