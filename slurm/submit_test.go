package slurm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

func TestSubmit(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.works("sinfo", "node1\x1f8\x1f1000\x1fgpu:nvidia_h100_80gb:8(S:0-1)\x1fidle\x1f\n")
	if _, err := f.c.Capacity(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.works("sbatch", "a site's plugin says hello\n4182731;bigcluster\n")
	sub := f.submission("web-mixed-0-aaaaaaaa")
	sub.Launch.After, sub.Launch.Exclude = "41", []string{"node9"}
	id, err := f.c.Submit(t.Context(), sub)
	if err != nil || id != "4182731" {
		t.Fatalf("job %q, %v", id, err)
	}
	script := f.read("sbatch.in")
	for _, want := range []string{
		"\n#SBATCH --comment=penstock:0123456789ab:web-mixed-0-aaaaaaaa\n", "\n#SBATCH --gres=gpu:nvidia_h100_80gb:1\n", "\n#SBATCH --export=NONE\n",
		"\n#SBATCH --dependency=afterany:41\n", "\n#SBATCH --exclude=node9\n", "--kill-wait 30s", "--join /state/join/web-mixed-0-aaaaaaaa.json",
	} {
		if !strings.Contains(script, want) {
			t.Errorf("the script has no %q:\n%s", want, script)
		}
	}
	if got := f.asked("sbatch"); len(got) != 1 || got[0] != "--parsable" {
		t.Errorf("sbatch %q: what is asked for stands in the script", got)
	}
	env := f.read("sbatch.env")
	for _, want := range []string{"SLURM_CONF=/etc/slurm.conf\n", "LC_ALL=C\n", "SLURM_TIME_FORMAT=%s\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("no %q in sbatch's environment", want)
		}
	}
	for _, no := range []string{"SBATCH_QOS", "SQUEUE_STATES", "s3cr3t", "relative"} {
		if strings.Contains(env, no) {
			t.Errorf("%s is in sbatch's environment", no)
		}
	}
	if info, err := os.Stat(sub.LogDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the job's folder: %v, %v", info, err)
	}
	f.queue()
	if j := f.one(); j.ID != id || j.State != cluster.JobUnknown || !strings.Contains(j.Reason, "acknowledged") {
		t.Errorf("a job that was acknowledged and is not listed: %+v", j)
	}
}

func TestSubmitRefused(t *testing.T) {
	t.Parallel()
	for words, fix := range map[string]string{
		"Batch job submission failed: Invalid partition name specified":                                                      "correct slurm.partition",
		"Batch job submission failed: Requested node configuration is not available":                                         "roles.mixed.gpus",
		"Batch job submission failed: Invalid account or account/partition combination specified":                            "slurm.account",
		"Batch job submission failed: Invalid qos specification":                                                             "slurm.qos",
		"Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)":                       "slurm.time",
		"Batch job submission failed: Invalid generic resource (gres) specification":                                         "slurm.gpuOption",
		"Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)": "limit of your account",
		"unrecognized option '--frobnicate'":                                                                                 "slurm.sbatch",
		"Something that no release has said":                                                                                 "Something that no release has said",
	} {
		f := newFake(t)
		f.fails("sbatch", words)
		_, err := f.c.Submit(t.Context(), f.submission("web-mixed-0-aaaaaaaa"))
		if !errors.Is(err, cluster.ErrRefused) || errors.Is(err, cluster.ErrUnknown) || !strings.Contains(err.Error(), fix) {
			t.Errorf("%s: %v, want ErrRefused with %q", words, err, fix)
		}
		f.queue()
		if jobs := f.jobs(); len(jobs) > 0 {
			t.Errorf("a refused launch has jobs: %+v", jobs)
		}
	}
}

func TestSubmitUnknown(t *testing.T) {
	t.Parallel()
	for _, words := range []string{
		"Batch job submission failed: Unable to contact slurm controller (connect failure)",
		"Batch job submission failed: Socket timed out on send/recv operation",
		"Batch job submission failed: Zero Bytes were transmitted or received",
		"Slurm temporarily unable to accept job, sleeping and retrying", "",
	} {
		f := newFake(t)
		f.fails("sbatch", words)
		if words == "" {
			f.write("sbatch.err", "")
		}
		if _, err := f.c.Submit(t.Context(), f.submission("web-mixed-0-aaaaaaaa")); !errors.Is(err, cluster.ErrUnknown) || errors.Is(err, cluster.ErrRefused) {
			t.Errorf("%q: %v, want ErrUnknown", words, err)
		}
	}
	f := newFake(t)
	f.works("sbatch", "Submitted, I think\n")
	if _, err := f.c.Submit(t.Context(), f.submission("web-mixed-0-aaaaaaaa")); !errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("an answer without a job: %v", err)
	}
}

func TestSubmitWithoutSlurm(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.c.slurm = commands{runner{path: "/nowhere:relative", metrics: f.c.metrics}}
	if _, err := f.c.Submit(t.Context(), f.submission("web-mixed-0-aaaaaaaa")); !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "login node") {
		t.Errorf("got %v", err)
	}
	if _, err := f.c.Jobs(t.Context()); !errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

// TestHangingCommand: a command that hangs, and a child of it that holds its output, are gone when the caller has waited
// enough.
func TestHangingCommand(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.write("sbatch.hang", "")
	ctx, cancel := context.WithCancel(t.Context())
	child := 0
	go func() {
		for child == 0 {
			text, _ := os.ReadFile(filepath.Join(f.dir, "sbatch.child"))
			child, _ = strconv.Atoi(strings.TrimSpace(string(text)))
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	_, err := f.c.Submit(ctx, f.submission("web-mixed-0-aaaaaaaa"))
	if !errors.Is(err, cluster.ErrUnknown) || !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("got %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if stat, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat"); err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(child, syscall.SIGKILL)
			t.Fatal("the command's child lives on")
		}
	}
}

func TestBoundedOutput(t *testing.T) {
	t.Parallel()
	l := limited{most: 10}
	for range 3 {
		if n, err := l.Write([]byte("123456")); n != 6 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if l.String() != "1234561234" || !l.over {
		t.Errorf("%q, over %v", l.String(), l.over)
	}
}
