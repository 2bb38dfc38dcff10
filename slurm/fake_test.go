package slurm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// fake is a set of Slurm's commands whose answers a test writes, and which note what they were asked.
type fake struct {
	t    *testing.T
	dir  string
	c    *Cluster
	time time.Time
}

const installation = "0123456789abcdef0123456789abcdef"

// command is each of the commands. NAME.jobs, where it is there, is the answer about jobs by their IDs; else NAME.out, NAME.err and NAME.rc are its answer; NAME.hang keeps it from giving one, with a
// child that holds on to its output.
const command = `#!/bin/bash
d=${0%/*}; n=${0##*/}
{ printf '%s\n' "$@"; echo; } >>"$d/$n.asked"
env >"$d/$n.env"
[ "$n" = sbatch ] && cat >"$d/$n.in"
[ -e "$d/$n.hang" ] && { sleep 300 & echo $! >"$d/$n.child"; wait; }
out=$d/$n.out
case "$*" in *--jobs=*) [ -e "$d/$n.jobs" ] && out=$d/$n.jobs ;; esac
cat "$out" 2>/dev/null
cat "$d/$n.err" >&2 2>/dev/null
exit $(cat "$d/$n.rc" 2>/dev/null || echo 0)
`

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, dir: t.TempDir(), time: time.Unix(1795522800, 0)}
	for _, name := range []string{"sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct"} {
		f.write(name, command)
		if err := os.Chmod(filepath.Join(f.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	f.fails("sacct", "Slurm accounting storage is disabled")
	f.write("scontrol.out", "KillWait                = 30 sec\nMinJobAge               = 300 sec\nSLURM_VERSION = 24.11.5\n")
	f.c = f.open()
	return f
}

// open makes one more adapter over the same Slurm, as a later controller does.
func (f *fake) open() *Cluster {
	f.t.Helper()
	c, err := New(Options{
		Installation: installation, LogRoot: filepath.Join(f.dir, "logs"), Penstock: "/opt/penstock", Commands: f.dir, Log: zerolog.Nop(),
		Environ: []string{
			"PATH=" + os.Getenv("PATH"), "HOME=/home/alice", "SLURM_CONF=/etc/slurm.conf", "SQUEUE_STATES=PD", "SBATCH_QOS=x",
			"SLURM_TIME_FORMAT=relative", "AWS_SECRET_ACCESS_KEY=s3cr3t",
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	c.now = func() time.Time { return f.time }
	return c
}

func (f *fake) write(name, text string) {
	f.t.Helper()
	syscall.ForkLock.RLock() // a child forked meanwhile would hold a program open for writing: "text file busy"
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) read(name string) string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// fails has a command say something and fail.
func (f *fake) fails(name, words string) {
	f.t.Helper()
	f.write(name+".err", name+": error: "+words+"\n")
	f.write(name+".rc", "1")
}

func (f *fake) works(name, out string) {
	f.t.Helper()
	f.write(name+".out", out)
	_ = os.Remove(filepath.Join(f.dir, name+".err"))
	_ = os.Remove(filepath.Join(f.dir, name+".rc"))
}

// asked lists the command lines since the last call.
func (f *fake) asked(name string) (lines []string) {
	f.t.Helper()
	text, _ := os.ReadFile(filepath.Join(f.dir, name+".asked"))
	_ = os.Remove(filepath.Join(f.dir, name+".asked"))
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		if part != "" {
			lines = append(lines, strings.ReplaceAll(part, "\n", " "))
		}
	}
	return lines
}

// row is one job of squeue's answer; its fields are overwritten by name.
func row(fields ...string) string {
	values := map[string]string{
		"JobID": "7", "State": "RUNNING", "exit_code": "0:0", "Reason": "None", "RestartCnt": "0", "StartTime": "1795522700",
		"EndTime": "1795526300", "TimeLimit": "1:00:00", "Partition": "gpu", "NodeList": "node1", "Name": "web-mixed-0-aaaaaaaa",
		"WorkDir": "/tmp", "Comment": "penstock:0123456789ab:web-mixed-0-aaaaaaaa",
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		values[name] = value
	}
	var b strings.Builder
	for _, name := range queueFields {
		b.WriteString(values[name] + separator)
	}
	return b.String() + "\n"
}

func (f *fake) queue(rows ...string) { f.works("squeue", strings.Join(rows, "")) }

func (f *fake) jobs() []cluster.Job {
	f.t.Helper()
	jobs, err := f.c.Jobs(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return jobs
}

// one is the only job.
func (f *fake) one() cluster.Job {
	f.t.Helper()
	jobs := f.jobs()
	if len(jobs) != 1 {
		f.t.Fatalf("%d jobs, want one: %+v", len(jobs), jobs)
	}
	return jobs[0]
}

const file = `apiVersion: penstock/v1
name: web
cluster: slurm
model: {id: a/b}
engine: {kind: sim}
roles: {mixed: {gpus: {count: 1, type: H100}}}
slurm: {partition: gpu}
`

func (f *fake) submission(launch string) cluster.Submission {
	f.t.Helper()
	d, err := jobspecs.Parse("web.yaml", []byte(file))
	if err != nil {
		f.t.Fatal(err)
	}
	return cluster.Submission{
		Deployment: d, JoinFile: "/state/join/" + launch + ".json", LogDir: filepath.Join(f.dir, "logs", "web", launch),
		Launch: cluster.Launch{ID: cluster.LaunchID(launch), Deployment: "web", Role: jobspecs.Mixed, Nodes: 1},
	}
}

func contains(t *testing.T, line string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !slices.Contains(strings.Fields(line), w) {
			t.Errorf("%q is not in %q", w, line)
		}
	}
}
