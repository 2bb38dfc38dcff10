package slurm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/penstock/penstock/jobspecs/render"
)

// restJob is what is read of a job.
type restJob struct {
	ID          number    `json:"job_id"`
	State       list      `json:"job_state"`
	Exit        exitValue `json:"exit_code"`
	Reason      string    `json:"state_reason"`
	Description string    `json:"state_description"`
	Restarts    number    `json:"restart_cnt"`
	Start       number    `json:"start_time"`
	End         number    `json:"end_time"`
	Limit       number    `json:"time_limit"`
	Partition   string    `json:"partition"`
	Nodes       string    `json:"nodes"`
	Name        string    `json:"name"`
	WorkDir     string    `json:"current_working_directory"`
	Comment     string    `json:"comment"`
	User        number    `json:"user_id"`
}

// bases are the states of jobs; what else stands beside one of them in a list says more about it.
var bases = []string{
	"PENDING", "RUNNING", "SUSPENDED", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL",
	"DEADLINE", "OUT_OF_MEMORY",
}

// telling are states beside a base that squeue would show in its place.
var telling = []string{"COMPLETING", "CONFIGURING", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING", "LAUNCH_FAILED", "RECONFIG_FAIL", "REVOKED"}

// stateWord is a list of states in squeue's one word.
func stateWord(states []string) string {
	if len(states) == 0 {
		return ""
	}
	i := slices.IndexFunc(states, func(s string) bool { return slices.Contains(bases, s) })
	if i < 0 {
		return states[0]
	}
	if states[i] == "PENDING" { // a requeued job whose last run is being cleaned up is also COMPLETING
		return "PENDING"
	}
	for _, s := range states {
		if slices.Contains(telling, s) {
			return s
		}
	}
	return states[i]
}

// entry is the job in the adapter's words.
func (j restJob) entry() (e entry, err error) {
	e = entry{
		id: strconv.FormatInt(j.ID.n, 10), state: stateWord(j.State), exit: j.Exit.status, reason: j.Description, restarts: int(j.Restarts.n),
		unlimited: j.Limit.unlimited(), partition: j.Partition, name: j.Name, workDir: j.WorkDir, comment: j.Comment,
	}
	if e.reason == "" {
		e.reason = j.Reason
	}
	if !isJobID(e.id) {
		return e, fmt.Errorf("%q is no job ID", cut(e.id))
	}
	if e.state == "" {
		return e, fmt.Errorf("job %s has no state", e.id)
	}
	for _, t := range []struct {
		from number
		to   *time.Time
	}{{j.Start, &e.start}, {j.End, &e.end}} {
		if t.from.n < 0 || t.from.n > 1<<40 {
			return e, fmt.Errorf("job %s: time %d is beyond all limits", e.id, t.from.n)
		}
		if t.from.n > 0 && t.from.n != infinite32 && t.from.n != noValue32 {
			*t.to = time.Unix(t.from.n, 0)
		}
	}
	if e.nodes, err = expandHosts(j.Nodes); err != nil {
		return e, fmt.Errorf("job %s: %w", e.id, err)
	}
	return e, nil
}

// readJobs reads a list of jobs whole or not at all: a job that is left out would be taken for gone.
func readJobs(body io.Reader, keep func(restJob) bool) (entries []entry, err error) {
	err = eachOf(body, "jobs", func(j restJob) error {
		if !keep(j) {
			return nil
		}
		e, err := j.entry()
		entries = append(entries, e)
		return err
	})
	if f := (*failure)(nil); err != nil && !errors.As(err, &f) {
		err = fmt.Errorf("slurmrestd's list of jobs: %w", err)
	}
	return entries, err
}

func (r *rest) list(ctx context.Context, path string, keep func(restJob) bool) ([]entry, error) {
	body, err := r.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readJobs(body, keep)
}

// slash ends the paths of lists in the newer parser.
func (r *rest) slash() string {
	if r.old() {
		return ""
	}
	return "/"
}

// jobs asks for all users' jobs, since there is no other list that holds comments, and keeps this user's.
func (r *rest) jobs(ctx context.Context) ([]entry, error) {
	if _, err := r.version(ctx); err != nil {
		return nil, err
	}
	return r.list(ctx, "/jobs"+r.slash(), func(j restJob) bool { return j.User.set && j.User.n == int64(os.Geteuid()) })
}

func (r *rest) jobsOf(ctx context.Context, ids []string) ([]entry, error) {
	if _, err := r.version(ctx); err != nil {
		return nil, err
	}
	if len(ids) != 1 {
		return r.list(ctx, "/jobs"+r.slash(), func(j restJob) bool { return slices.Contains(ids, strconv.FormatInt(j.ID.n, 10)) })
	}
	list, err := r.list(ctx, "/job/"+ids[0], func(restJob) bool { return true })
	f := (*failure)(nil)
	switch {
	case !errors.As(err, &f) || !f.says(goneWords...):
		return list, err
	case f.says("rejected"): // by slurmrestd itself, as a number beyond all IDs, whether slurmctld is there or not
		return nil, r.awake(ctx)
	}
	return nil, nil
}

// awake tells whether slurmctld answers slurmrestd of the newer parser.
func (r *rest) awake(ctx context.Context) error {
	body, err := r.lists(ctx, "/ping")
	if err != nil {
		return err
	}
	var answer struct {
		errorsOf
		Pings []struct {
			Pinged     string
			Responding bool
		}
	}
	if err := readAnswer(body, &answer); err != nil {
		return err
	}
	for _, p := range answer.Pings {
		if p.Responding || p.Pinged == "UP" {
			return nil
		}
	}
	return errors.New("slurmctld does not answer slurmrestd")
}

// tell looks whether the job still carries the launch, since a question about an ID cannot be bound to a name.
func (r *rest) tell(ctx context.Context, key jobKey, w word) error {
	list, err := r.jobsOf(ctx, []string{key.id})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(list, func(e entry) bool { return e.id == key.id && e.name == string(key.launch) }) {
		return nil
	}
	query := ""
	switch {
	case w == drainWord && !r.drains():
		return errors.New("slurmrestd of 22.05 cannot signal the agent alone")
	case w == drainWord:
		query = "?signal=" + render.DrainSignal + "&flags=BATCH_JOB"
	case w == killWord:
		query = "?signal=KILL"
	}
	body, err := r.ask(ctx, http.MethodDelete, "/job/"+key.id+query, nil)
	if err == nil {
		var answer deleted
		err = readAnswer(body, &answer)
	}
	if f := (*failure)(nil); errors.As(err, &f) && f.says(goneWords...) {
		return nil
	}
	return err
}

// deleted is the answer to DELETE, in which the newer parser puts a refusal into a place of its own.
type deleted struct {
	errorsOf
	Status []struct{ Error fault }
}

func (d deleted) problems() faults {
	all := d.Errors
	for _, s := range d.Status {
		if s.Error.Other.n != 0 || s.Error.Number.n != 0 {
			all = append(all, s.Error)
		}
	}
	return all
}
