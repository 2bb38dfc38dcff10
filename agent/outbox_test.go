package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func TestOutboxSendsWhatChanged(t *testing.T) {
	t.Parallel()
	s := newState()
	s.setIdentity(&apiv1.Identity{Launch: "l"})
	s.health(func(h *apiv1.Health) { h.Phase = apiv1.Phase_PHASE_JOINING })
	var o outbox
	first, _ := s.read()
	if m := o.full(noon, first); m.GetSeq() != 1 || m.GetFull().GetIdentity().GetLaunch() != "l" || m.GetSentAt() == nil {
		t.Errorf("first message %v", m)
	}

	s.health(func(h *apiv1.Health) { h.Phase = apiv1.Phase_PHASE_LOADING })
	s.setIdentity(&apiv1.Identity{Launch: "l"}) // the same again
	now, _ := s.read()
	want := &apiv1.RunState{Health: &apiv1.Health{Phase: apiv1.Phase_PHASE_LOADING}}
	m := o.delta(noon, now)
	if diff := cmp.Diff(want, m.GetDelta(), protocmp.Transform()); diff != "" || m.GetSeq() != 2 {
		t.Errorf("seq %d, delta (-want +got):\n%s", m.GetSeq(), diff)
	}
	if first.GetHealth().GetPhase() != apiv1.Phase_PHASE_JOINING {
		t.Error("a section that was handed out has changed")
	}
	if m := o.delta(noon, now); m.GetSeq() != 3 || proto.Size(m.GetDelta()) != 0 {
		t.Errorf("sign of life %v", m)
	}
}

func TestOutboxAgain(t *testing.T) {
	t.Parallel()
	var o outbox
	o.full(noon, &apiv1.RunState{})
	for range kept + 9 {
		o.delta(noon, &apiv1.RunState{})
	}
	last := o.seq // kept + 10
	tests := map[string]struct {
		from, to uint64
		want     int // messages; 0 = a full state is needed
	}{
		"the last one":           {last, last, 1},
		"all that are kept":      {last - kept + 1, last, kept},
		"one more than are kept": {last - kept, last, 0},
		"full state asked for":   {0, 0, 0},
		"not sent yet":           {last, last + 1, 0},
		"backwards":              {last, last - 1, 0},
	}
	for name, test := range tests {
		got, ok := o.again(test.from, test.to)
		if ok != (test.want > 0) || len(got) != test.want {
			t.Errorf("%s: %d messages, ok=%v", name, len(got), ok)
		}
		for i, m := range got {
			if m.GetSeq() != test.from+uint64(i) {
				t.Errorf("%s: message %d has seq %d", name, i, m.GetSeq())
			}
		}
	}
}

// Property: a receiver that applies every message, or asks again for what was lost, knows the sender's state.
func TestOutboxKeepsAReceiverInStep(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newState()
		var o outbox
		known, seq := &apiv1.RunState{}, uint64(0)
		apply := func(m *apiv1.ReportRequest) {
			if m.GetFull() != nil {
				known = proto.Clone(m.GetFull()).(*apiv1.RunState)
			} else {
				replace(known, m.GetDelta())
			}
			seq = m.GetSeq()
		}
		now, _ := s.read()
		apply(o.full(noon, now))
		for range rapid.IntRange(1, 40).Draw(t, "messages") {
			mutate(t, s)
			now, _ := s.read()
			m := o.delta(noon, now)
			switch {
			case rapid.Bool().Draw(t, "lost"):
				continue
			case m.GetSeq() == seq+1:
				apply(m)
				continue
			}
			missing, ok := o.again(seq+1, m.GetSeq())
			if !ok {
				t.Fatalf("range %d..%d is gone after so few messages", seq+1, m.GetSeq())
			}
			for _, old := range missing {
				apply(old)
			}
		}
		if missing, ok := o.again(seq+1, o.seq); ok {
			for _, old := range missing {
				apply(old)
			}
		}
		want, _ := s.read()
		if diff := cmp.Diff(want, known, protocmp.Transform()); diff != "" {
			t.Fatalf("receiver is out of step (-want +got):\n%s", diff)
		}
	})
}

func mutate(t *rapid.T, s *state) {
	n := rapid.Uint32Range(0, 3).Draw(t, "value")
	switch rapid.IntRange(0, 4).Draw(t, "section") {
	case 0:
		s.setLoad(&apiv1.EngineLoad{Running: &n})
	case 1:
		s.setKV(&apiv1.KVState{BlockTokens: &n})
	case 2:
		s.health(func(h *apiv1.Health) { h.EngineStarts = n })
	case 3:
		s.setPorts(&apiv1.Ports{Ports: make([]*apiv1.Port, n)})
	}
}

// replace does what the wire contract says of deltas: a section that is set replaces the old one whole.
func replace(known, delta *apiv1.RunState) {
	if delta.GetIdentity() != nil {
		known.Identity = delta.GetIdentity()
	}
	if delta.GetHealth() != nil {
		known.Health = delta.GetHealth()
	}
	if delta.GetLoad() != nil {
		known.Load = delta.GetLoad()
	}
	if delta.GetGpus() != nil {
		known.Gpus = delta.GetGpus()
	}
	if delta.GetKv() != nil {
		known.Kv = delta.GetKv()
	}
	if delta.GetPorts() != nil {
		known.Ports = delta.GetPorts()
	}
}
