package server

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/plan"
)

func TestStatusShowsHandovers(t *testing.T) {
	t.Parallel()
	p := newPicture(1).launch("a", 0).ready()
	p.launch("b", 0, func(l *cluster.Launch) { l.Run, l.Epoch, l.Replaces = "", 0, "a" })
	p.statusInput.waits = []plan.Action{
		{Verb: plan.Wait, Deployment: "demo", Launch: "b", Cause: plan.Queued, Reason: "job 11 is pending"},
		{Verb: plan.Wait, Deployment: "demo", Launch: "b", Cause: plan.Gap, Reason: "a ends soon and about 2m pass without it"},
	}
	p.handovers = byLaunch([]plan.Handover{{
		Launch: "a", EndsAt: now.Add(10 * time.Minute), LeaveBy: now.Add(9 * time.Minute), StartAt: now.Add(-time.Minute),
		Queue: plan.Estimate{Value: 5 * time.Minute, Samples: 7}, StartUp: plan.Estimate{Value: time.Minute}, Drain: time.Minute,
		Successor: "b", ReadyAt: now.Add(11 * time.Minute), Gap: 2 * time.Minute, Why: "a limit",
	}})
	st := p.deployment(p.d)
	if st.State != "ready" || st.Reason != p.statusInput.waits[1].Reason {
		t.Errorf("%s: %s", st.State, st.Reason)
	}
	old, next := st.Replicas[0], st.Replicas[1]
	h := old.Handover
	if h == nil || !old.EndsAt.AsTime().Equal(now.Add(10*time.Minute)) || next.Handover != nil || next.Replaces != "a" {
		t.Fatalf("got %v and %v", old, next)
	}
	want := []any{"b", "pending", "job 11 is pending", uint32(7), uint32(0), 2 * time.Minute, "a limit"}
	got := []any{h.Successor, h.SuccessorState, h.SuccessorReason, h.QueueSamples, h.StartUpSamples, h.Gap.AsDuration(), h.GapReason}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%v, want %v", got[i], want[i])
		}
	}
}

func TestStatusSaysWhyItIsStopped(t *testing.T) {
	t.Parallel()
	p := newPicture(1)
	p.d.Stopped, p.d.StopReason = true, "no request has come for 30m"
	if st := p.deployment(p.d); st.State != "stopped" || st.Reason != p.d.StopReason {
		t.Errorf("%s: %s", st.State, st.Reason)
	}
}

// The last request is that which was over last, by the clock of gateways, under any of the deployment's names.
func TestAskedAt(t *testing.T) {
	t.Parallel()
	r := newRecords(t.TempDir())
	for i, rec := range []*apiv1.RequestRecord{
		{Id: "1", Model: "tiny", At: timestamppb.New(now), Total: durationpb.New(time.Minute)},
		{Id: "2", Model: "tiny", At: timestamppb.New(now.Add(10 * time.Second)), Total: durationpb.New(time.Second)},
		{Id: "3", Model: "other", At: timestamppb.New(now.Add(time.Hour))},
	} {
		if err := r.add([]*apiv1.RequestRecord{rec}); err != nil {
			t.Fatal(i, err)
		}
	}
	if got := r.askedAt("tiny"); !got.Equal(now.Add(time.Minute)) {
		t.Errorf("%v", got)
	}
	if got := r.askedAt("nobody"); !got.IsZero() {
		t.Errorf("a model that nobody has asked for: %v", got)
	}
}
