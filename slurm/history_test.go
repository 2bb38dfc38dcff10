package slurm

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/scheduler/cluster"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	logs := filepath.Join(f.dir, "logs")
	line := func(id, name, state, exit, dir string) string {
		return strings.Join([]string{id, name, state, exit, "1795522700", "1795522790", "1795522600", "gpu", "node1", dir, ""}, separator) + "\n"
	}
	f.works("sacct", line("7", "web-mixed-0-aaaaaaaa", "FAILED", "3:0", logs+"/web/web-mixed-0-aaaaaaaa")+
		line("8", "web-mixed-1-bbbbbbbb", "CANCELLED by 1000", "0:15", logs+"/web/web-mixed-1-bbbbbbbb")+
		line("8", "web-mixed-1-bbbbbbbb", "REQUEUED", "0:0", logs+"/web/web-mixed-1-bbbbbbbb")+
		line("9", "web-mixed-2-cccccccc", "RUNNING", "0:0", logs+"/web/web-mixed-2-cccccccc")+
		line("10", "train", "FAILED", "1:0", "/home/alice")+"rubbish\n")
	environ := []string{"PATH=" + f.dir + ":/usr/bin:/bin"}
	list, err := History(t.Context(), environ, logs, time.Unix(1795522000, 0))
	if err != nil {
		t.Fatal(err)
	}
	times := Past{Nodes: "node1", Submitted: time.Unix(1795522600, 0), Started: time.Unix(1795522700, 0), Ended: time.Unix(1795522790, 0)}
	want := []Past{times, times, times}
	want[0].Job, want[0].Launch, want[0].State, want[0].Reason, want[0].Exit = "7", "web-mixed-0-aaaaaaaa", "FAILED", "exited with code 3", &cluster.Exit{Code: 3}
	want[1].Job, want[1].Launch, want[1].State, want[1].Reason, want[1].Exit = "8", "web-mixed-1-bbbbbbbb", "CANCELLED", "cancelled", &cluster.Exit{Signal: 15}
	want[1].Cause = cluster.EndedCancelled
	want[2].Job, want[2].Launch, want[2].State, want[2].Reason, want[2].Cause = "8", "web-mixed-1-bbbbbbbb", "REQUEUED", "requeued: the job ran again later", cluster.EndedPreempted
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.fails("sacct", "Slurm accounting storage is disabled")
	if _, err := History(t.Context(), environ, logs, time.Time{}); !errors.Is(err, ErrNoAccounting) {
		t.Errorf("got %v", err)
	}
}
