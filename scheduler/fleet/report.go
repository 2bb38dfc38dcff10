package fleet

import (
	"fmt"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// maxResend is the longest range that an agent is asked to send again; a larger gap is closed by a full state.
const maxResend = 1024

// Answer is what an agent is told about one message.
type Answer struct {
	Kind AnswerKind
	Seq  uint64 // Ack: everything up to here is applied
	New  bool   // Ack: the message itself was not known before
	From uint64 // Resend: messages From..To are wanted again, 0 = the full state
	To   uint64
}

// AnswerKind tells the answers apart.
type AnswerKind int

// The answers to a message. Stale means that the run may not speak for the launch: it was never admitted, or a newer one
// has been, or the launch is gone.
const (
	Ack AnswerKind = iota
	Resend
	Stale
)

// Apply takes one message of one rank of a run. Messages may come late, twice, in any order, or not at all: a full state
// replaces everything, a delta's sections each replace a whole section, and what is older than the state that is known is
// dropped. A gap is answered by a range that includes the message itself, which is not kept.
//
// Apply keeps the message's sections and does not change them; the caller must not either. An error means that the
// message contradicts itself or the run that it came from, and that nothing was applied.
func (f *Fleet) Apply(launch cluster.LaunchID, run string, epoch uint64, rank int, m *apiv1.ReportRequest, now time.Time) (Answer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.replicas[launch]
	if !ok || r.Run != run || r.Epoch != epoch {
		return Answer{Kind: Stale}, nil
	}
	if rank < 0 || rank >= r.Nodes {
		return Answer{}, fmt.Errorf("report of %s: rank %d of a run of %d nodes", launch, rank, r.Nodes)
	}
	old, known := r.Ranks[rank]
	next, answer := advance(old, known, m)
	if answer.Kind != Ack {
		return answer, nil
	}
	if id := next.State.GetIdentity(); id != nil {
		if err := checkIdentity(id, r, rank); err != nil {
			return Answer{}, err
		}
	}
	next.SeenAt, next.Connected = now, f.conns[rankOf{launch, run, rank}] > 0
	was := r
	r = summed(r.with(rank, next), now)
	f.put(r)
	if matters(was, r, old, next) {
		f.notify()
	}
	return answer, nil
}

// advance applies a message to what is known of a rank. The State of the old Rank stays as it is.
func advance(old Rank, known bool, m *apiv1.ReportRequest) (Rank, Answer) {
	seq := m.GetSeq()
	switch {
	case known && seq <= old.Seq:
		return old, Answer{Kind: Ack, Seq: old.Seq}
	case m.GetFull() != nil:
		return Rank{State: m.GetFull(), Seq: seq}, Answer{Kind: Ack, Seq: seq, New: true}
	case !known, seq-old.Seq > maxResend:
		return old, Answer{Kind: Resend}
	case seq != old.Seq+1:
		return old, Answer{Kind: Resend, From: old.Seq + 1, To: seq}
	}
	return Rank{State: merged(old.State, m.GetDelta()), Seq: seq}, Answer{Kind: Ack, Seq: seq, New: true}
}

// merged returns a new state: the sections that the delta sets, and the others as they were.
func merged(old, delta *apiv1.RunState) *apiv1.RunState {
	if delta == nil {
		return old // a sign of life
	}
	return &apiv1.RunState{
		Identity: section(delta.Identity, old.GetIdentity()),
		Health:   section(delta.Health, old.GetHealth()),
		Load:     section(delta.Load, old.GetLoad()),
		Gpus:     section(delta.Gpus, old.GetGpus()),
		Kv:       section(delta.Kv, old.GetKv()),
		Ports:    section(delta.Ports, old.GetPorts()),
	}
}

func section[T any](changed, old *T) *T {
	if changed != nil {
		return changed
	}
	return old
}

func checkIdentity(id *apiv1.Identity, r Replica, rank int) error {
	if id.GetLaunch() != string(r.Launch) || id.GetRun() != r.Run || id.GetEpoch() != r.Epoch || int(id.GetNodeRank()) != rank {
		return fmt.Errorf("report of %s, run %s, epoch %d, rank %d: it names itself %s, run %s, epoch %d, rank %d",
			r.Launch, r.Run, r.Epoch, rank, id.GetLaunch(), id.GetRun(), id.GetEpoch(), id.GetNodeRank())
	}
	return nil
}

// matters reports whether a change of a replica and of one of its ranks can change a decision.
func matters(was, is Replica, oldRank, newRank Rank) bool {
	return was.Phase != is.Phase || was.Ready != is.Ready || was.EngineStarts != is.EngineStarts ||
		len(was.Ranks) != len(is.Ranks) || oldRank.Connected != newRank.Connected ||
		oldRank.State.GetIdentity().GetAddress() != newRank.State.GetIdentity().GetAddress()
}
