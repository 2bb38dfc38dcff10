package slurm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

func (f *fake) stop(id string, grace time.Duration) {
	f.t.Helper()
	if err := f.c.Stop(f.t.Context(), id, grace); err != nil {
		f.t.Fatal(err)
	}
}

// TestStopUsesTheWholeGrace: first our own signal, again while it may have been lost; Slurm's TERM when the site's KillWait
// is all that is left; and KILL at the end.
func TestStopUsesTheWholeGrace(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.queue(row())
	f.jobs()
	f.stop("7", 2*time.Minute)
	begun := f.time
	if j := f.one(); j.State != cluster.JobEnding {
		t.Errorf("got %+v", j)
	}
	for _, step := range []struct {
		at   time.Duration
		want string
	}{
		{0, "--batch --signal=USR1 "},
		{9 * time.Second, ""},
		{11 * time.Second, "--batch --signal=USR1 "},
		{90 * time.Second, " "},
		{100 * time.Second, ""},
		{121 * time.Second, "--signal=KILL "},
		{125 * time.Second, ""},
		{132 * time.Second, "--signal=KILL "},
	} {
		f.time = begun.Add(step.at)
		f.jobs()
		got := f.asked("scancel")
		if step.want == "" {
			if len(got) > 0 {
				t.Errorf("after %s: %q", step.at, got)
			}
			continue
		}
		if want := strings.TrimLeft(step.want, " ") + "--user=" + myUID() + " --name=web-mixed-0-aaaaaaaa 7"; len(got) != 1 || got[0] != want {
			t.Errorf("after %s: %q, want %q", step.at, got, want)
		}
	}
	f.queue(row("State=CANCELLED", "exit_code=0:15"))
	if j := f.one(); j.Cause != cluster.EndedAsked || !strings.HasPrefix(j.Reason, "stopped: ") {
		t.Errorf("got %+v", j)
	}
}

func TestStopByState(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		row   string
		grace time.Duration
		want  string // first words of scancel; empty = it is not run
	}{
		"waiting":      {row("State=PENDING", "NodeList="), time.Hour, "--user"},
		"short grace":  {row(), 20 * time.Second, "--user"},
		"no grace":     {row(), 0, "--signal=KILL --user"},
		"ended before": {row("State=COMPLETED"), time.Minute, ""},
	} {
		for _, seen := range []bool{true, false} {
			f := newFake(t)
			f.queue(test.row)
			if seen {
				f.jobs()
			}
			f.stop("7", test.grace)
			if got := strings.Join(f.asked("scancel"), "; "); (got == "") != (test.want == "") || !strings.HasPrefix(got, test.want) {
				t.Errorf("%s, seen before %v: %q, want %q", name, seen, got, test.want)
			}
		}
	}
}

func TestStopOfOthers(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.queue(row("Comment=(null)", "Name=thesis"))
	if err := f.c.Stop(t.Context(), "7", 0); !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "thesis") {
		t.Errorf("somebody else's job: %v", err)
	}
	if err := f.c.Stop(t.Context(), "7; rm -rf /", 0); !errors.Is(err, cluster.ErrRefused) {
		t.Errorf("no job: %v", err)
	}
	f.fails("squeue", "Invalid job id specified")
	f.stop("999", 0)
	f.fails("squeue", "Unable to contact slurm controller (connect failure)")
	if err := f.c.Stop(t.Context(), "999", 0); !errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("silence: %v", err)
	}
	if got := f.asked("scancel"); len(got) > 0 {
		t.Errorf("scancel %q", got)
	}
}

func TestStopErrors(t *testing.T) {
	t.Parallel()
	for words, fine := range map[string]bool{
		"Kill job error on job id 7: Invalid job id specified":                 true,
		"Kill job error on job id 7: Job/step already completing or completed": true,
		"Kill job error on job id 7: Unable to contact slurm controller":       false,
	} {
		f := newFake(t)
		f.queue(row())
		f.jobs()
		f.fails("scancel", words)
		if err := f.c.Stop(t.Context(), "7", time.Hour); fine != (err == nil) || !fine && !errors.Is(err, cluster.ErrUnknown) {
			t.Errorf("%s: %v", words, err)
		}
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err1 := f.c.Jobs(ctx)
	_, err2 := f.c.Capacity(ctx)
	_, err3 := f.c.Submit(ctx, f.submission("web-mixed-0-aaaaaaaa"))
	for _, err := range []error{err1, err2, err3, f.c.Stop(ctx, "7", 0)} {
		if !errors.Is(err, cluster.ErrUnknown) {
			t.Errorf("got %v", err)
		}
	}
}
