package fleet

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// wireAgent is an agent as the protocol sees it: a state, the messages that it can still repeat, and a network between
// it and the fleet that loses, doubles and reorders.
type wireAgent struct {
	seq   uint64
	state *apiv1.RunState
	log   map[uint64]*apiv1.ReportRequest
	net   []*apiv1.ReportRequest
}

func (a *wireAgent) full() {
	a.seq++
	a.send(&apiv1.ReportRequest{Seq: a.seq, Body: &apiv1.ReportRequest_Full{Full: a.state}})
}

func (a *wireAgent) send(m *apiv1.ReportRequest) {
	a.log[m.Seq] = m
	a.net = append(a.net, m)
}

func (a *wireAgent) change(d *apiv1.RunState) {
	a.state = merged(a.state, d)
	a.seq++
	a.send(delta1(a.seq, d))
}

// obey does what the fleet's answer asks for.
func (a *wireAgent) obey(answer Answer) {
	if answer.Kind != Resend {
		return
	}
	for seq := answer.From; seq <= answer.To; seq++ {
		m := a.log[seq]
		if answer.From == 0 || m == nil {
			a.full()
			return
		}
		a.net = append(a.net, m)
	}
}

func section1(t *rapid.T) *apiv1.RunState {
	d := &apiv1.RunState{}
	n := rapid.Uint32Range(0, 5).Draw(t, "n")
	if rapid.Bool().Draw(t, "health") {
		d.Health = &apiv1.Health{Phase: apiv1.Phase(n), EngineStarts: n}
	}
	if rapid.Bool().Draw(t, "load") {
		d.Load = &apiv1.EngineLoad{OpenRequests: n}
	}
	if rapid.Bool().Draw(t, "kv") {
		d.Kv = &apiv1.KVState{CapacityTokens: proto.Uint64(uint64(n))}
	}
	return d
}

// Whatever the network does, the fleet never holds a state that the agent has not had, never goes back, and holds the
// agent's own state once messages come through.
func TestReportsConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := New(Options{})
		f.Admit("l", "r", 1, 1)
		a := &wireAgent{state: &apiv1.RunState{}, log: map[uint64]*apiv1.ReportRequest{}}
		had := map[uint64]*apiv1.RunState{}
		last := uint64(0)
		deliver := func(i int) {
			m := a.net[i]
			answer, err := f.Apply("l", "r", 1, 0, m, t0)
			if err != nil {
				t.Fatal(err)
			}
			a.obey(answer)
			had[a.seq] = a.state
			rank := f.Snapshot(t0).Replicas["l"].Ranks[0]
			if rank.Seq < last {
				t.Fatalf("went back from %d to %d", last, rank.Seq)
			}
			if last = rank.Seq; last > 0 && !proto.Equal(rank.State, had[last]) {
				t.Fatalf("at %d the agent had %v, the fleet has %v", last, had[last], rank.State)
			}
		}
		a.full()
		had[a.seq] = a.state
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) { a.change(section1(t)); had[a.seq] = a.state },
			"full":   func(*rapid.T) { a.full(); had[a.seq] = a.state },
			"forget": func(*rapid.T) { clear(a.log) },
			"deliver": func(t *rapid.T) {
				if len(a.net) == 0 {
					t.Skip("nothing under way")
				}
				i := rapid.IntRange(0, len(a.net)-1).Draw(t, "which")
				deliver(i)
				if rapid.Bool().Draw(t, "once") {
					a.net = append(a.net[:i], a.net[i+1:]...)
				}
			},
			"lose": func(t *rapid.T) {
				if len(a.net) == 0 {
					t.Skip("nothing under way")
				}
				i := rapid.IntRange(0, len(a.net)-1).Draw(t, "which")
				a.net = append(a.net[:i], a.net[i+1:]...)
			},
		})
		a.net = nil
		a.change(&apiv1.RunState{})
		had[a.seq] = a.state
		for len(a.net) > 0 {
			deliver(0)
			a.net = a.net[1:]
		}
		if got := f.Snapshot(t0).Replicas["l"].Ranks[0]; got.Seq != a.seq || !proto.Equal(got.State, a.state) {
			t.Fatalf("the agent has %d %v, the fleet %d %v", a.seq, a.state, got.Seq, got.State)
		}
	})
}

func FuzzApply(f *testing.F) {
	for _, m := range []*apiv1.ReportRequest{full(3, started, 1), delta1(4, health(started, 2)), {Seq: 1 << 63}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, 0, 2)
	}
	f.Fuzz(func(t *testing.T, b []byte, rank, nodes int) {
		m := &apiv1.ReportRequest{}
		if proto.Unmarshal(b, m) != nil {
			t.Skip()
		}
		fl := New(Options{})
		fl.Admit("l", "r", 1, nodes)
		fl.Connected("l", "r", rank)
		for range 2 {
			a, err := fl.Apply("l", "r", 1, rank, m, t0)
			r := fl.Snapshot(t0.Add(time.Second)).Replicas["l"]
			if applied := len(r.Ranks) == 1; applied != (err == nil && a.Kind == Ack) {
				t.Fatalf("answer %+v, %v, but ranks %v", a, err, r.Ranks)
			}
			if err == nil && a.Kind == Resend && a.From > a.To {
				t.Fatalf("asks for %d..%d", a.From, a.To)
			}
		}
	})
}
