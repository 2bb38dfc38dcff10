package agent

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// kept is how many sent messages can be sent again. At one a second it bridges some minutes; what is older is covered by
// the full state.
const kept = 256

// outbox numbers messages, finds out what changed since the last one, and keeps the recent ones. It does no I/O and is
// used by one goroutine.
type outbox struct {
	seq  uint64                     // of the last message
	sent *apiv1.RunState            // as the receiver knows it, once it has all messages
	ring [kept]*apiv1.ReportRequest // at seq % kept
}

// full makes the message that later deltas count on from.
func (o *outbox) full(now time.Time, s *apiv1.RunState) *apiv1.ReportRequest {
	o.sent = s
	return o.next(now, &apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: s}})
}

// delta makes a message with the sections that changed since the last one. Without any it is a bare sign of life.
func (o *outbox) delta(now time.Time, s *apiv1.RunState) *apiv1.ReportRequest {
	d := &apiv1.RunState{
		Identity: changed(o.sent.GetIdentity(), s.GetIdentity()),
		Health:   changed(o.sent.GetHealth(), s.GetHealth()),
		Load:     changed(o.sent.GetLoad(), s.GetLoad()),
		Gpus:     changed(o.sent.GetGpus(), s.GetGpus()),
		Kv:       changed(o.sent.GetKv(), s.GetKv()),
		Ports:    changed(o.sent.GetPorts(), s.GetPorts()),
	}
	o.sent = s
	return o.next(now, &apiv1.ReportRequest{Body: &apiv1.ReportRequest_Delta{Delta: d}})
}

// changed returns the new section where it says something else, nil where it does not or where nothing is known.
func changed[T any, M interface {
	*T
	proto.Message
}](was, is M) M {
	if is == nil || was == is || (was != nil && proto.Equal(was, is)) {
		return nil
	}
	return is
}

func (o *outbox) next(now time.Time, m *apiv1.ReportRequest) *apiv1.ReportRequest {
	o.seq++
	m.Seq, m.SentAt = o.seq, timestamppb.New(now)
	o.ring[o.seq%kept] = m
	return m
}

// again returns the messages from..to as they were sent. It fails where a full state was asked for (from 0), or where the
// range is not kept any more or makes no sense: the caller sends a full state then.
func (o *outbox) again(from, to uint64) ([]*apiv1.ReportRequest, bool) {
	if from == 0 || to < from || to > o.seq || o.seq-from >= kept {
		return nil, false
	}
	messages := make([]*apiv1.ReportRequest, 0, to-from+1)
	for seq := from; seq <= to; seq++ {
		messages = append(messages, o.ring[seq%kept])
	}
	return messages, true
}
