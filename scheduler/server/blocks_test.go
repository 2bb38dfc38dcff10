package server

import (
	"testing"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

func blocksStored(ids ...uint64) []*apiv1.BlockEvent {
	return []*apiv1.BlockEvent{{Kind: apiv1.BlockEvent_KIND_STORED, Tier: "gpu", Blocks: ids}}
}

// TestBlocks: what agents report of their engines' caches is on the board, a message that is missing is asked for as a range, and
// a launch that is over is forgotten.
func TestBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 2))
	a := w.join(t, w.launch(t, "l-1", "demo", 0, 1), "run-a", 0, 1).open()
	held := func() (n int) {
		for _, h := range w.blocks.Match([]uint64{1, 2, 3}, nil) {
			if h.Launch == "l-1" && h.Run == "run-a" {
				n = int(h.Lead[0])
			}
		}
		return n
	}
	state := health(apiv1.Phase_PHASE_STARTED)
	state.Identity = a.identity()
	messages := []*apiv1.ReportRequest{
		{Seq: 1, Body: &apiv1.ReportRequest_Full{Full: state}, Blocks: blocksStored(1)},
		{Seq: 2, Body: &apiv1.ReportRequest_Delta{Delta: &apiv1.RunState{}}, Blocks: blocksStored(2)},
		{Seq: 3, Body: &apiv1.ReportRequest_Delta{Delta: &apiv1.RunState{}}, Blocks: blocksStored(3)},
	}
	send := func(i int) *apiv1.ReportResponse {
		if err := a.stream.Send(messages[i]); err != nil {
			t.Fatal(err)
		}
		return a.next()
	}
	if send(0).GetAck().GetSeq() != 1 || held() != 1 {
		t.Fatalf("%d blocks after the full state", held())
	}
	if r := send(2).GetResend(); r.GetFrom() != 2 || r.GetTo() != 3 || held() != 1 {
		t.Fatalf("a gap is answered by %v, %d blocks", r, held())
	}
	if send(1).GetAck().GetSeq() != 2 || send(2).GetAck().GetSeq() != 3 || held() != 3 {
		t.Fatalf("%d blocks after the range", held())
	}
	if send(1).GetAck().GetSeq() != 3 || held() != 3 {
		t.Fatalf("%d blocks after a message that came twice", held())
	}
	w.update(t, "l-1", func(l *cluster.Launch) { l.Phase, l.EndReason = cluster.Ended, "test" })
	w.join(t, w.launch(t, "l-2", "demo", 1, 1), "run-b", 0, 1).open()
	until(t, "the ended launch's blocks are forgotten", func() bool { return held() == 0 })
}

// TestBlockSeed: all agents of an installation get the same, and it is not what anybody can make of the public certificate.
func TestBlockSeed(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	a, err := w.BlockSeed()
	b, errB := w.BlockSeed()
	c, errC := other.BlockSeed()
	if err != nil || errB != nil || errC != nil || a == 0 || a != b || a == c {
		t.Errorf("%x, %x, %x: %v %v %v", a, b, c, err, errB, errC)
	}
}
