package slurm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// separator ends each field of what is asked for. It is no character that names and comments hold; line breaks may be in
// them, so fields are counted and lines are not.
const separator = "\x1f"

// queueFields are what is asked of squeue, in the order of entry's reading.
var queueFields = strings.Fields("JobID State exit_code Reason RestartCnt StartTime EndTime TimeLimit Partition NodeList Name WorkDir Comment")

// entry is one job as squeue shows it.
type entry struct {
	id        string
	state     string // in words: PENDING, OUT_OF_MEMORY
	exit      status
	reason    string
	restarts  int
	start     time.Time // of a pending job: when Slurm expects to start it, where it does
	end       time.Time // of a running job: its time limit
	unlimited bool
	partition string
	nodes     []string
	name      string
	workDir   string
	comment   string
}

// status is how a batch script ended. known is false where Slurm's word for it can't be read.
type status struct {
	code, signal int
	known        bool
}

// format is squeue's and sinfo's -O with the separator after each field and no padding.
func format(fields []string) string {
	return "--Format=" + strings.Join(fields, ":"+separator+",") + ":" + separator
}

// parseQueue reads squeue's answer whole or not at all: a job that is left out would be taken for gone.
func parseQueue(out string) ([]entry, error) {
	records, err := parseRecords(out, len(queueFields))
	if err != nil {
		return nil, fmt.Errorf("squeue's answer: %w", err)
	}
	list := make([]entry, 0, len(records))
	for _, r := range records {
		e, err := parseEntry(r)
		if err != nil {
			return nil, fmt.Errorf("squeue's answer: job %q: %w", cut(r[0]), err)
		}
		list = append(list, e)
	}
	return list, nil
}

// parseRecords takes an answer apart into records of n fields.
func parseRecords(out string, n int) ([][]string, error) {
	fields := strings.Split(out, separator)
	rest := fields[len(fields)-1]
	fields = fields[:len(fields)-1]
	if strings.Trim(rest, " \n") != "" || len(fields)%n != 0 {
		return nil, fmt.Errorf("%d fields, which is no multiple of %d, and %q after them", len(fields), n, cut(rest))
	}
	records := make([][]string, 0, len(fields)/n)
	for ; len(fields) > 0; fields = fields[n:] {
		r := fields[:n:n]
		r[0] = strings.TrimPrefix(r[0], "\n")
		records = append(records, r)
	}
	return records, nil
}

func parseEntry(r []string) (e entry, err error) {
	e = entry{
		id: strings.TrimSpace(r[0]), state: strings.TrimSpace(r[1]), exit: parseExit(r[2]), reason: strings.TrimSpace(r[3]),
		unlimited: strings.TrimSpace(r[7]) == "UNLIMITED", partition: strings.TrimSpace(r[8]), name: r[10], workDir: r[11], comment: r[12],
	}
	if !isJobID(e.id) {
		return e, fmt.Errorf("%q is no job ID", cut(e.id))
	}
	if e.state == "" {
		return e, errors.New("it has no state")
	}
	e.restarts, _ = strconv.Atoi(strings.TrimSpace(r[4])) // shown to people only
	if e.start, err = parseTime(r[5]); err != nil {
		return e, err
	}
	if e.end, err = parseTime(r[6]); err != nil {
		return e, err
	}
	e.nodes, err = expandHosts(strings.TrimSpace(r[9]))
	return e, err
}

// isJobID accepts a number; arrays and het jobs (1_2, 1+0) are listed by it too.
func isJobID(s string) bool {
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && n > 0
}

// parseTime reads seconds since 1970, as SLURM_TIME_FORMAT asks for them; zero = Slurm knows none.
func parseTime(s string) (time.Time, error) {
	switch s = strings.TrimSpace(s); s {
	case "", "0", "N/A", "Unknown", "NONE", "None":
		return time.Time{}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 || n > 1<<40 {
			return time.Time{}, fmt.Errorf("time %q is beyond all limits", cut(s))
		}
		return time.Unix(n, 0), nil
	}
	t, err := time.ParseInLocation("2006-01-02T15:04:05", s, time.Local) // of a command that does not know the format
	if err != nil {
		return t, fmt.Errorf("%q is no time", cut(s))
	}
	return t, nil
}

// parseExit reads code:signal, or the status of wait(2) as older releases print it.
func parseExit(s string) status {
	s = strings.TrimSpace(s)
	if code, signal, pair := strings.Cut(s, ":"); pair {
		a, err1 := strconv.ParseUint(code, 10, 16)
		b, err2 := strconv.ParseUint(signal, 10, 16)
		return status{int(a), int(b), err1 == nil && err2 == nil}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return status{}
	}
	return status{code: int(n >> 8 & 0xff), signal: int(n & 0x7f), known: true}
}

// cut shortens what is quoted in an error.
func cut(s string) string { return s[:min(len(s), 60)] }
