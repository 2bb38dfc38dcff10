package slurm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// errNotForREST means that a job cannot be said in slurmrestd's words; nothing was sent.
var errNotForREST = errors.New("slurmrestd takes no such option: leave it out, or use Slurm's commands")

// submit says the script's #SBATCH lines, which slurmrestd does not read, in fields of the request.
func (r *rest) submit(ctx context.Context, script string) (string, error) {
	if _, err := r.version(ctx); err != nil {
		return "", err
	}
	options, err := directives(script)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNotForREST, err)
	}
	job, err := r.job(options)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]any{"script": script, "job": job})
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNotForREST, err)
	}
	body, err := r.ask(ctx, http.MethodPost, "/job/submit", text)
	if err != nil {
		return "", err
	}
	var answer struct {
		errorsOf
		ID number `json:"job_id"`
	}
	if err := readAnswer(body, &answer); err != nil {
		return "", err
	}
	if id := strconv.FormatInt(answer.ID.n, 10); isJobID(id) {
		return id, nil
	}
	return "", errors.New("slurmrestd's answer holds no job ID")
}

// fields are a job's in the request.
type fields map[string]any

// job translates options into fields.
func (r *rest) job(options []option) (fields, error) {
	f := fields{"environment": r.environment()}
	for _, o := range options {
		translate, ok := restOptions[o.name]
		if !ok {
			return nil, fmt.Errorf("--%s: %w", o.name, errNotForREST)
		}
		if err := translate(f, o, r.old()); err != nil {
			return nil, fmt.Errorf("--%s=%s: %w", o.name, cut(o.value), err)
		}
	}
	return f, nil
}

// environment is the job's in the parser's own form.
func (r *rest) environment() any {
	if !r.old() {
		return r.env
	}
	env := map[string]string{}
	for _, entry := range r.env {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	return env
}

// translation writes one option. old is 22.05.
type translation func(f fields, o option, old bool) error

// restOptions are the options that both parsers have words for.
var restOptions = map[string]translation{
	"job-name": text("name"), "comment": text("comment"), "partition": text("partition"), "account": text("account"), "qos": text("qos"),
	"constraint": text("constraints"), "reservation": text("reservation"), "dependency": text("dependency"), "chdir": text("current_working_directory"),
	"output": text("standard_output"), "error": text("standard_error"), "licenses": text("licenses"), "L": text("licenses"), "wckey": text("wckey"),
	"prefer": text("prefer"), "mcs-label": text("mcs_label"), "mail-user": text("mail_user"), "distribution": text("distribution"), "m": text("distribution"),
	"ntasks": whole("tasks"), "ntasks-per-node": whole("tasks_per_node"), "cpus-per-task": whole("cpus_per_task"), "nice": whole("nice"),
	"threads-per-core": whole("threads_per_core"), "mincpus": whole("minimum_cpus_per_node"),
	"time": duration("time_limit"), "time-min": duration("time_minimum"), "mem": mebibytes("memory_per_node"), "mem-per-cpu": mebibytes("memory_per_cpu"),
	"nodes": nodeCount, "gres": gres, "gpus-per-node": gpusPerNode, "exclude": excluded, "x": excluded, "nodelist": required, "w": required,
	"signal": warning, "no-requeue": noRequeue, "open-mode": openMode, "begin": begin, "b": begin, "exclusive": exclusive, "hold": hold, "H": hold,
	"export": func(fields, option, bool) error { return nil }, // the environment is given as it is
}

func text(field string) translation {
	return func(f fields, o option, _ bool) error {
		f[field] = o.value
		return nil
	}
}

func whole(field string) translation {
	return func(f fields, o option, _ bool) error {
		n, err := strconv.ParseInt(o.value, 10, 32)
		f[field] = n
		return err
	}
}

// set is a number of the newer parser.
func set(n int64, old bool) any {
	if old {
		return n
	}
	return map[string]any{"set": true, "number": n}
}

func duration(field string) translation {
	return func(f fields, o option, old bool) error {
		d, err := parseSpan(o.value)
		if err != nil || d <= 0 {
			return errors.Join(errNotForREST, err)
		}
		f[field] = set(int64((d+time.Minute-1)/time.Minute), old)
		return nil
	}
}

func mebibytes(field string) translation {
	units := map[string]int64{"": 1, "M": 1, "G": 1 << 10, "T": 1 << 20}
	return func(f fields, o option, old bool) error {
		digits := strings.TrimRight(o.value, "KMGT")
		n, err := strconv.ParseInt(digits, 10, 32)
		unit, ok := units[strings.TrimPrefix(o.value, digits)]
		if err != nil || !ok {
			return errNotForREST
		}
		f[field] = set(n*unit, old)
		return nil
	}
}

func nodeCount(f fields, o option, old bool) error {
	n, err := strconv.Atoi(o.value)
	if err != nil {
		return errNotForREST
	}
	if f["nodes"] = o.value; old {
		f["nodes"] = n
	}
	return nil
}

func gres(f fields, o option, old bool) error {
	if old {
		f["gres"] = o.value
		return nil
	}
	var all []string
	for _, word := range splitGres(o.value) {
		all = append(all, "gres/"+word)
	}
	f["tres_per_node"] = strings.Join(all, ",")
	return nil
}

func gpusPerNode(f fields, o option, old bool) error {
	if old {
		f["gpus_per_node"] = o.value
		return nil
	}
	return gres(f, option{"gres", "gpu:" + o.value}, old)
}

// excluded: 22.05's slurmrestd has no word for it. A launch that avoids a node is better than none.
func excluded(f fields, o option, old bool) error {
	if old {
		return nil
	}
	names, err := expandHosts(o.value)
	have, _ := f["excluded_nodes"].([]string)
	f["excluded_nodes"] = append(have, names...)
	return err
}

func required(f fields, o option, old bool) error {
	if old {
		f["nodelist"] = o.value
		return nil
	}
	names, err := expandHosts(o.value)
	f["required_nodes"] = names
	return err
}

// warning: 22.05's slurmrestd knows no signal for the batch shell alone. The agent has a clock of its own.
func warning(f fields, o option, old bool) error {
	if old {
		return nil
	}
	name, seconds, _ := strings.Cut(strings.TrimPrefix(o.value, "B:"), "@")
	n, err := strconv.ParseUint(seconds, 10, 16)
	if err != nil || !strings.HasPrefix(o.value, "B:") {
		return errNotForREST
	}
	maps.Copy(f, fields{"kill_warning_signal": name, "kill_warning_delay": set(int64(n), old), "kill_warning_flags": []string{"BATCH_JOB"}})
	return nil
}

func noRequeue(f fields, _ option, old bool) error {
	if old {
		f["no_requeue"] = true // requeue: false leaves it at the site's default there
		return nil
	}
	f["requeue"] = false
	return nil
}

func openMode(f fields, o option, old bool) error {
	if f["open_mode"] = o.value; !old {
		f["open_mode"] = []string{strings.ToUpper(o.value)}
	}
	return nil
}

// begin: the newer parser wants a time, and is given what sbatch would make of now+N.
func begin(f fields, o option, old bool) error {
	if old {
		f["begin_time"] = o.value
		return nil
	}
	rest, ok := strings.CutPrefix(o.value, "now+")
	if !ok {
		return errNotForREST
	}
	digits := strings.TrimRight(rest, "abcdefghijklmnopqrstuvwxyz")
	n, err := strconv.ParseUint(digits, 10, 31)
	unit, known := map[string]int64{"": 1, "second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}[strings.TrimSuffix(rest[len(digits):], "s")]
	if err != nil || !known {
		return errNotForREST
	}
	f["begin_time"] = set(time.Now().Unix()+int64(n)*unit, old)
	return nil
}

func exclusive(f fields, o option, old bool) error {
	if old || o.value != "" && o.value != "exclusive" {
		return errNotForREST
	}
	f["shared"] = []string{"none"}
	return nil
}

func hold(f fields, _ option, _ bool) error {
	f["hold"] = true
	return nil
}
