package fleet

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const started = apiv1.Phase_PHASE_STARTED

// full is a whole state of rank 0 of run "r", epoch 1, of launch "l".
func full(seq uint64, phase apiv1.Phase, starts uint32) *apiv1.ReportRequest {
	return &apiv1.ReportRequest{Seq: seq, Body: &apiv1.ReportRequest_Full{Full: &apiv1.RunState{
		Identity: &apiv1.Identity{Launch: "l", Run: "r", Epoch: 1, Address: "host:1"},
		Health:   &apiv1.Health{Phase: phase, EngineStarts: starts},
		Load:     &apiv1.EngineLoad{OpenRequests: 1},
	}}}
}

func delta1(seq uint64, s *apiv1.RunState) *apiv1.ReportRequest {
	return &apiv1.ReportRequest{Seq: seq, Body: &apiv1.ReportRequest_Delta{Delta: s}}
}

func health(phase apiv1.Phase, starts uint32) *apiv1.RunState {
	return &apiv1.RunState{Health: &apiv1.Health{Phase: phase, EngineStarts: starts}}
}

func mustApply(t testing.TB, f *Fleet, rank int, m *apiv1.ReportRequest, now time.Time) {
	t.Helper()
	if a, err := f.Apply("l", "r", 1, rank, m, now); err != nil || a.Kind != Ack {
		t.Fatalf("Apply: %+v, %v", a, err)
	}
}

func TestApplyAnswers(t *testing.T) {
	load := &apiv1.RunState{Load: &apiv1.EngineLoad{OpenRequests: 9}}
	other := full(9, started, 1)
	other.GetFull().Identity.Run = "elsewhere"
	tests := []struct {
		name string
		send []*apiv1.ReportRequest
		want Answer // to the last
		err  bool
	}{
		{"full", []*apiv1.ReportRequest{full(7, started, 1)}, Answer{Kind: Ack, Seq: 7, New: true}, false},
		{"delta first: the full state is wanted", []*apiv1.ReportRequest{delta1(7, load)}, Answer{Kind: Resend}, false},
		{"delta in turn", []*apiv1.ReportRequest{full(7, started, 1), delta1(8, load)}, Answer{Kind: Ack, Seq: 8, New: true}, false},
		{"sign of life", []*apiv1.ReportRequest{full(7, started, 1), {Seq: 8}}, Answer{Kind: Ack, Seq: 8, New: true}, false},
		{"gap", []*apiv1.ReportRequest{full(7, started, 1), delta1(10, load)}, Answer{Kind: Resend, From: 8, To: 10}, false},
		{"huge gap", []*apiv1.ReportRequest{full(7, started, 1), delta1(7000, load)}, Answer{Kind: Resend}, false},
		{"twice", []*apiv1.ReportRequest{full(7, started, 1), full(7, started, 1)}, Answer{Kind: Ack, Seq: 7}, false},
		{"late", []*apiv1.ReportRequest{full(7, started, 1), full(3, started, 1)}, Answer{Kind: Ack, Seq: 7}, false},
		{"full closes a gap", []*apiv1.ReportRequest{full(7, started, 1), full(19, started, 1)}, Answer{Kind: Ack, Seq: 19, New: true}, false},
		{"of another run", []*apiv1.ReportRequest{full(7, started, 1), other}, Answer{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := New(Options{})
			f.Admit("l", "r", 1, 1)
			var got Answer
			var err error
			for _, m := range tt.send {
				got, err = f.Apply("l", "r", 1, 0, m, t0)
			}
			if got != tt.want || (err != nil) != tt.err {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestWhoMaySpeak(t *testing.T) {
	f := New(Options{})
	f.Admit("l", "old", 3, 1)
	f.Admit("l", "new", 4, 2)
	f.Admit("l", "older", 2, 1)
	tests := []struct {
		launch cluster.LaunchID
		run    string
		epoch  uint64
		rank   int
		kind   AnswerKind
		err    bool
	}{
		{"l", "new", 4, 0, Ack, false},
		{"l", "new", 4, 1, Ack, false},
		{"l", "new", 4, 2, Ack, true}, // it has two ranks
		{"l", "new", 4, -1, Ack, true},
		{"l", "new", 3, 0, Stale, false},
		{"l", "old", 3, 0, Stale, false},
		{"l", "older", 2, 0, Stale, false},
		{"other", "new", 4, 0, Stale, false},
	}
	for _, tt := range tests {
		m := full(1, started, 1)
		m.GetFull().Identity = nil
		if a, err := f.Apply(tt.launch, tt.run, tt.epoch, tt.rank, m, t0); a.Kind != tt.kind || (err != nil) != tt.err {
			t.Errorf("%+v: got %+v, %v", tt, a, err)
		}
	}
	f.Remove("l")
	if a, _ := f.Apply("l", "new", 4, 0, full(9, started, 1), t0); a.Kind != Stale {
		t.Errorf("after Remove: %+v", a)
	}
}

func TestPhaseOfRanks(t *testing.T) {
	const (
		joining  = apiv1.Phase_PHASE_JOINING
		loading  = apiv1.Phase_PHASE_LOADING
		draining = apiv1.Phase_PHASE_DRAINING
		failed   = apiv1.Phase_PHASE_FAILED
		stopped  = apiv1.Phase_PHASE_STOPPED
	)
	tests := []struct {
		ranks []apiv1.Phase
		want  apiv1.Phase
	}{
		{[]apiv1.Phase{started, started}, started},
		{[]apiv1.Phase{started, loading}, loading},
		{[]apiv1.Phase{joining, loading}, joining},
		{[]apiv1.Phase{started}, joining}, // of two
		{[]apiv1.Phase{failed}, failed},
		{[]apiv1.Phase{started, failed}, failed},
		{[]apiv1.Phase{started, draining}, draining},
		{[]apiv1.Phase{started, stopped}, draining},
		{[]apiv1.Phase{stopped, stopped}, stopped},
		{[]apiv1.Phase{started, 0}, joining},
		{[]apiv1.Phase{started, 99}, joining}, // of a newer release
	}
	for _, tt := range tests {
		r := Replica{Nodes: 2, Ranks: map[int]Rank{}}
		for i, p := range tt.ranks {
			r.Ranks[i] = Rank{State: health(p, 1)}
		}
		if got := summed(r, t0).Phase; got != tt.want {
			t.Errorf("%v: %v, want %v", tt.ranks, got, tt.want)
		}
	}
}

func TestReadiness(t *testing.T) {
	f := New(Options{})
	f.Admit("l", "r", 1, 1)
	is := func() Replica { return f.Snapshot(t0).Replicas["l"] }
	f.SetReady("l", "r", 0, t0, nil)
	if is().Ready {
		t.Error("ready before anything was reported")
	}
	mustApply(t, f, 0, full(1, started, 1), t0)
	f.SetReady("l", "r", 1, t0, errors.New("HTTP 500"))
	if r := is(); r.Ready || r.NotReady != "HTTP 500" || r.Serving() {
		t.Errorf("failed probe: %+v", r)
	}
	f.SetReady("l", "r", 1, t0, nil)
	f.SetReady("l", "r", 1, t0.Add(time.Hour), nil)
	if r := is(); !r.Serving() || r.NotReady != "" || !r.ReadyAt.Equal(t0) {
		t.Errorf("good probe: %+v", r)
	}
	f.SetReady("l", "other", 1, t0, errors.New("of another run"))
	f.SetReady("l", "r", 0, t0, errors.New("of another start"))
	if !is().Serving() {
		t.Error("a probe of something else counted")
	}
	mustApply(t, f, 0, delta1(2, health(apiv1.Phase_PHASE_DRAINING, 1)), t0)
	if r := is(); !r.Ready || r.Serving() {
		t.Errorf("draining: %+v", r)
	}
	mustApply(t, f, 0, delta1(3, health(started, 2)), t0)
	if is().Ready {
		t.Error("ready although the engine has been started again")
	}
}

func TestStaleLoadIsUnknown(t *testing.T) {
	f := New(Options{Interval: time.Second})
	f.Admit("l", "r", 1, 1)
	s := f.Snapshot(t0)
	if s.Fresh(s.Replicas["l"]) || s.Load(s.Replicas["l"]) != nil {
		t.Error("something is known of a run that has not reported")
	}
	mustApply(t, f, 0, full(1, started, 1), t0)
	for age, known := range map[time.Duration]bool{0: true, 3 * time.Second: true, 3*time.Second + 1: false} {
		s := f.Snapshot(t0.Add(age))
		r := s.Replicas["l"]
		if s.Fresh(r) != known || (s.Load(r) != nil) != known {
			t.Errorf("age %s: fresh %v, load %v", age, s.Fresh(r), s.Load(r))
		}
	}
}

func TestConnectionsAreCounted(t *testing.T) {
	f := New(Options{})
	f.Admit("l", "r", 1, 1)
	f.Connected("l", "r", 0)
	mustApply(t, f, 0, full(1, started, 1), t0)
	steps := []struct {
		do   func()
		want bool
	}{
		{func() {}, true},
		{func() { f.Connected("l", "r", 0) }, true},
		{func() { f.Disconnected("l", "r", 0) }, true}, // the new stream is still open
		{func() { f.Disconnected("l", "old", 0) }, true},
		{func() { f.Disconnected("l", "r", 0) }, false},
		{func() { f.Connected("l", "r", 0) }, true},
	}
	for i, s := range steps {
		s.do()
		if got := f.Snapshot(t0).Replicas["l"].Connected(); got != s.want {
			t.Errorf("step %d: connected %v", i, got)
		}
	}
}

func TestSnapshotsNeverChange(t *testing.T) {
	f := New(Options{})
	for i := range 10 {
		f.Admit(cluster.LaunchID(fmt.Sprint("l", i)), "r", 1, 1)
	}
	f.Admit("l", "r", 1, 2)
	mustApply(t, f, 0, full(1, started, 1), t0)
	before := f.Snapshot(t0)
	kept := f.Snapshot(t0).Replicas["l"]
	mustApply(t, f, 0, delta1(2, health(apiv1.Phase_PHASE_FAILED, 1)), t0)
	f.Remove("l3")
	f.Admit("l4", "again", 2, 1)
	if len(before.Replicas) != 11 || before.Replicas["l4"].Run != "r" {
		t.Error("the table of an old snapshot has changed")
	}
	if d := cmp.Diff(kept.Ranks[0].State.GetHealth().GetPhase(), before.Replicas["l"].Ranks[0].State.GetHealth().GetPhase()); d != "" {
		t.Error(d)
	}
}

func TestChanged(t *testing.T) {
	f := New(Options{})
	f.Admit("l", "r", 1, 1)
	mustApply(t, f, 0, full(1, started, 1), t0)
	seq := uint64(1)
	next := func() uint64 { seq++; return seq }
	load := &apiv1.RunState{Load: &apiv1.EngineLoad{OpenRequests: 3}}
	tests := []struct {
		name string
		do   func()
		want bool
	}{
		{"load", func() { mustApply(t, f, 0, delta1(next(), load), t0) }, false},
		{"same phase", func() { mustApply(t, f, 0, delta1(next(), health(started, 1)), t0) }, false},
		{"phase", func() { mustApply(t, f, 0, delta1(next(), health(apiv1.Phase_PHASE_LOADING, 1)), t0) }, true},
		{"engine start", func() { mustApply(t, f, 0, delta1(next(), health(started, 2)), t0) }, true},
		{"ready", func() { f.SetReady("l", "r", 2, t0, nil) }, true},
		{"still ready", func() { f.SetReady("l", "r", 2, t0, nil) }, false},
		{"connected", func() { f.Connected("l", "r", 0) }, true},
		{"second stream", func() { f.Connected("l", "r", 0) }, false},
		{"admitted again", func() { f.Admit("l", "r", 1, 1) }, false},
		{"newer epoch", func() { f.Admit("l", "r2", 2, 1) }, true},
		{"removed", func() { f.Remove("l") }, true},
		{"removed again", func() { f.Remove("l") }, false},
	}
	for _, tt := range tests {
		ch := f.Changed()
		tt.do()
		got := false
		select {
		case <-ch:
			got = true
		default:
		}
		if got != tt.want {
			t.Errorf("%s: notified %v", tt.name, got)
		}
	}
}
