package slurm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/scheduler/cluster"
)

func TestJobsOfEveryKind(t *testing.T) {
	t.Parallel()
	at := func(n int64) time.Time { return time.Unix(n, 0) }
	start, end := at(1795522700), at(1795526300)
	tests := map[string]struct {
		row  string
		want cluster.Job
	}{
		"running": {row(), cluster.Job{State: cluster.JobRunning, Nodes: []string{"node1"}, Started: start, EndsAt: end}},
		"without a limit": {
			row("TimeLimit=UNLIMITED", "EndTime=NONE", "NodeList=node[1-2]"),
			cluster.Job{State: cluster.JobRunning, Nodes: []string{"node1", "node2"}, Started: start},
		},
		"suspended": {row("State=SUSPENDED"), cluster.Job{
			State: cluster.JobRunning, Nodes: []string{"node1"}, Started: start, EndsAt: end,
			Reason: "suspended by Slurm or an administrator: it holds its place and does nothing",
		}},
		"waiting": {row("State=PENDING", "Reason=Resources", "NodeList=", "StartTime=1795526400"), cluster.Job{
			State: cluster.JobPending, Reason: "it waits for nodes or GPUs to come free (Resources); Slurm expects a start in about 60 minutes",
		}},
		"at a limit": {row("State=PENDING", "Reason=(QOSMaxGRESPerUser)", "NodeList=", "StartTime=N/A"), cluster.Job{
			State: cluster.JobPending, Limit: "QOSMaxGRESPerUser",
			Reason: "a limit of the QOS is reached: it starts when other jobs under the limit have ended (QOSMaxGRESPerUser)",
		}},
		"booting": {row("State=CONFIGURING"), cluster.Job{State: cluster.JobPending, Reason: "its nodes are being started"}},
		"completing": {row("State=COMPLETING", "EndTime=1795522750"), cluster.Job{
			State: cluster.JobEnding, Nodes: []string{"node1"}, Started: start, Reason: "its nodes are being cleaned up",
		}},
		"completed": {row("State=COMPLETED", "EndTime=1795522750"), cluster.Job{
			State: cluster.JobEnded, Nodes: []string{"node1"}, Started: start, Ended: at(1795522750), Exit: &cluster.Exit{}, Reason: "exited with code 0",
		}},
		"failed": {row("State=FAILED", "exit_code=768", "Reason=NonZeroExitCode", "EndTime=1795522750"), cluster.Job{
			State: cluster.JobEnded, Nodes: []string{"node1"}, Started: start, Ended: at(1795522750), Exit: &cluster.Exit{Code: 3}, Reason: "exited with code 3",
		}},
		"killed, as 22.05 tells it": {row("State=FAILED", "exit_code=9", "Reason=JobLaunchFailure", "EndTime=1795522750"), cluster.Job{
			State: cluster.JobEnded, Nodes: []string{"node1"}, Started: start, Ended: at(1795522750), Exit: &cluster.Exit{Signal: 9}, Reason: "killed by signal 9 (SIGKILL)",
		}},
		"never started": {row("State=FAILED", "Reason=JobLaunchFailure", "EndTime=1795522750"), cluster.Job{
			State: cluster.JobEnded, Nodes: []string{"node1"}, Started: start, Ended: at(1795522750), Exit: &cluster.Exit{}, Cause: cluster.EndedNodeFailed,
			Reason: "exited with code 0 (JobLaunchFailure)",
		}},
		"timed out": {row("State=TIMEOUT", "Reason=TimeLimit"), cluster.Job{
			State: cluster.JobEnded, Nodes: []string{"node1"}, Started: start, Ended: end, Cause: cluster.EndedWalltime, Reason: "its time limit was reached",
		}},
		"preempted": {row("State=PREEMPTED", "exit_code=0:15"), cluster.Job{
			State: cluster.JobEnded, Nodes: []string{"node1"}, Started: start, Ended: end, Exit: &cluster.Exit{Signal: 15}, Cause: cluster.EndedPreempted,
			Reason: "preempted by another job",
		}},
		"cancelled while it waited": {row("State=CANCELLED", "Reason=Priority", "NodeList=", "StartTime=1795522750", "EndTime=1795522750"), cluster.Job{
			State: cluster.JobEnded, Ended: at(1795522750), Cause: cluster.EndedCancelled, Reason: "cancelled",
		}},
		"lost with its node": {row("State=NODE_FAIL", "Reason=NodeDown", "exit_code=0:1"), cluster.Job{
			State: cluster.JobEnded, Nodes: []string{"node1"}, Started: start, Ended: end, Exit: &cluster.Exit{Signal: 1}, Cause: cluster.EndedNodeFailed,
			Reason: "one of its nodes was lost",
		}},
		"in a state of the future": {row("State=TELEPORTING"), cluster.Job{
			State: cluster.JobUnknown, Nodes: []string{"node1"}, Started: start, Reason: "Slurm says TELEPORTING, which this release does not know",
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.queue(row("JobID=3", "Comment=(null)"), row("JobID=4", "Comment=penstock:ffffffffffff:web-mixed-0-aaaaaaaa"), test.row)
			test.want.ID, test.want.Launch = "7", "web-mixed-0-aaaaaaaa"
			if diff := cmp.Diff([]cluster.Job{test.want}, f.jobs()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRecordedAnswers: what three releases answered to the very questions.
func TestRecordedAnswers(t *testing.T) {
	t.Parallel()
	for _, release := range []string{"22.05", "24.11", "26.05"} {
		read := func(name string) string {
			text, err := os.ReadFile(filepath.Join("testdata", release, name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		entries, err := parseQueue(read("squeue"))
		if err != nil {
			t.Fatalf("%s: %v", release, err)
		}
		byName := map[string]entry{}
		for _, e := range entries {
			byName[e.name] = e
		}
		if e := byName["run-mixed-0-aaaaaaaa"]; e.state != "RUNNING" || len(e.nodes) != 2 || e.end.Sub(e.start) != 10*time.Minute || !strings.HasSuffix(e.comment, " keep=1") {
			t.Errorf("%s: running job %+v", release, e)
		}
		if e := byName["free"]; !e.unlimited || e.comment != "a\nb" || !e.end.IsZero() || firstWord(e.reason) != nodesRequired {
			t.Errorf("%s: job without a limit %+v", release, e)
		}
		if e := byName["bad"]; e.exit != (status{3, 0, true}) {
			t.Errorf("%s: exit %+v", release, e.exit)
		}
		if e := byName["kill"]; e.exit != (status{0, 9, true}) || causeOf(e.state, e.reason, e.exit) != "" {
			t.Errorf("%s: killed job %+v", release, e)
		}
		nodes, err := parseNodes(read("sinfo"))
		if err != nil || len(nodes) != 4 || len(nodes[0].GPUs) != 8 || nodes[0].GPUs[7] != (cluster.GPU{ID: "node1-gpu7", Type: "h100"}) || !nodes[3].Up {
			t.Errorf("%s: nodes %+v, %v", release, nodes, err)
		}
		conf, err := parseConfig(read("config"))
		if err != nil || conf.KillWait != 5*time.Second || conf.MinJobAge != 300*time.Second || !strings.HasPrefix(conf.Version, release) || conf.Accounting {
			t.Errorf("%s: configuration %+v, %v", release, conf, err)
		}
	}
}

func TestJobsAreAskedForOnce(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.queue(row(), row("JobID=8"), row("JobID=9", "Comment=penstock:0123456789ab:web-mixed-1-bbbbbbbb"))
	if jobs := f.jobs(); len(jobs) != 3 || jobs[0].Launch != jobs[1].Launch {
		t.Errorf("two jobs of one token and another: %+v", jobs)
	}
	asked := f.asked("squeue")
	if len(asked) != 1 {
		t.Fatalf("squeue was run %d times", len(asked))
	}
	contains(t, asked[0], "--noheader", "--states=all", "--user="+myUID())
	if others := append(f.asked("scontrol"), f.asked("sacct")...); len(others) > 0 {
		t.Errorf("also asked: %q", others)
	}
}

func TestSilenceIsUnknown(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(f *fake){
		"away":      func(f *fake) { f.fails("squeue", "Unable to contact slurm controller (connect failure)") },
		"cut short": func(f *fake) { f.works("squeue", row()+strings.TrimSuffix(row("JobID=8"), separator+"\n")) },
		"no job":    func(f *fake) { f.works("squeue", row("JobID=none")) },
		"no time":   func(f *fake) { f.works("squeue", row("StartTime=yesterday")) },
		"no node":   func(f *fake) { f.works("squeue", row("NodeList=node[1-")) },
	} {
		f := newFake(t)
		set(f)
		if jobs, err := f.c.Jobs(t.Context()); !errors.Is(err, cluster.ErrUnknown) || jobs != nil {
			t.Errorf("%s: %+v, %v, want ErrUnknown", name, jobs, err)
		}
	}
}

// TestCommentOverwritten: a site that writes its own comments does not hide our jobs.
func TestCommentOverwritten(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	dir := filepath.Join(f.dir, "logs", "web", "web-mixed-0-aaaaaaaa")
	f.queue(row("Comment=site: billed to proj42", "WorkDir="+dir), row("JobID=8", "Comment=(null)", "WorkDir="+f.dir+"/logs-of-others/web/web-mixed-0-cccccccc"),
		row("JobID=9", "Comment=", "WorkDir="+filepath.Dir(f.dir)))
	if j := f.one(); j.ID != "7" || j.Launch != "web-mixed-0-aaaaaaaa" {
		t.Errorf("got %+v", j)
	}
}

// TestVanished: of a job that Slurm forgets, the accounting tells; where there is none it is unknown for a while, and then
// no job any more. Ended ones are remembered.
func TestVanished(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.queue(row(), row("JobID=8", "State=COMPLETED", "Comment=penstock:0123456789ab:web-mixed-1-bbbbbbbb"))
	f.jobs()
	f.queue()
	jobs := f.jobs()
	if len(jobs) != 2 || jobs[0].State != cluster.JobUnknown || jobs[0].Nodes[0] != "node1" || jobs[1].State != cluster.JobEnded {
		t.Fatalf("got %+v", jobs)
	}
	f.jobs()
	if asked := f.asked("sacct"); len(asked) != 1 {
		t.Errorf("an accounting that is closed was asked %d times", len(asked))
	}
	f.time = f.time.Add(vanishedFor + time.Second)
	if j := f.one(); j.ID != "8" {
		t.Errorf("got %+v", j)
	}
	f.time = f.time.Add(f.c.o.Remember)
	if jobs := f.jobs(); len(jobs) > 0 {
		t.Errorf("remembered for ever: %+v", jobs)
	}
}

func TestVanishedIntoTheAccounting(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.queue(row(), row("JobID=8", "Name=web-mixed-1-bbbbbbbb", "Comment=penstock:0123456789ab:web-mixed-1-bbbbbbbb"))
	f.jobs()
	line := func(fields ...string) string {
		return strings.Join(append(fields, "1795522600", "gpu", "node1", "/tmp", ""), separator) + "\n"
	}
	f.works("sacct", line("7", "another-job-of-that-id", "COMPLETED", "0:0", "1", "2")+
		line("7", "web-mixed-0-aaaaaaaa", "CANCELLED by 1000", "0:15", "1795522700", "1795522790")+line("8", "web-mixed-1-bbbbbbbb", "RUNNING", "0:0", "1795522700", "Unknown")+"rubbish\n")
	f.queue()
	jobs := f.jobs()
	if len(jobs) != 2 || jobs[0].State != cluster.JobEnded || *jobs[0].Exit != (cluster.Exit{Signal: 15}) || jobs[0].Cause != cluster.EndedCancelled || jobs[0].Ended != time.Unix(1795522790, 0) {
		t.Errorf("got %+v", jobs)
	}
	if jobs[1].State != cluster.JobUnknown {
		t.Errorf("a job that the accounting takes for running: %+v", jobs[1])
	}
	asked := f.asked("sacct")
	if len(asked) != 1 {
		t.Fatalf("sacct was run %d times", len(asked))
	}
	contains(t, asked[0], "--jobs=7,8", "--duplicates", "--allocations")
}

// TestReusedID: after a crash slurmctld gives an ID to another job. The token tells them apart.
func TestReusedID(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.queue(row())
	f.jobs()
	f.queue(row("Comment=penstock:0123456789ab:web-mixed-1-bbbbbbbb", "Name=web-mixed-1-bbbbbbbb"))
	jobs := f.jobs()
	if len(jobs) != 2 || jobs[0].State != cluster.JobEnded || !strings.Contains(jobs[0].Reason, "given to another job") || jobs[1].State != cluster.JobRunning {
		t.Errorf("got %+v", jobs)
	}
}

// TestReusedByAnother: the same, and the other job is somebody else's, which the list of ours does not show.
func TestReusedByAnother(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.queue(row(), row("JobID=8", "Comment=penstock:0123456789ab:web-mixed-1-bbbbbbbb"))
	f.jobs()
	f.queue()
	if jobs := f.jobs(); len(jobs) != 2 || jobs[0].State != cluster.JobUnknown {
		t.Errorf("got %+v", jobs)
	}
	f.write("squeue.jobs", row("Name=train", "Comment=", "WorkDir=/home/bob"))
	jobs := f.jobs()
	if len(jobs) != 2 || jobs[0].State != cluster.JobEnded || !strings.Contains(jobs[0].Reason, "given to another job") || jobs[1].State != cluster.JobUnknown {
		t.Errorf("got %+v", jobs)
	}
}

// TestBack: a job that was missed and is listed again is as it is listed.
func TestBack(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.queue(row())
	f.jobs()
	f.queue()
	f.jobs()
	f.queue(row("State=PENDING", "NodeList=", "Reason=BeginTime"))
	if j := f.one(); j.State != cluster.JobPending || j.Nodes != nil {
		t.Errorf("got %+v", j)
	}
}
