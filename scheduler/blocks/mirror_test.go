package blocks

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// follow has m follow b until stop is called, over messages as they are on the wire.
func follow(b *Board, m *Mirror, sent *[]*apiv1.WatchBlocksResponse) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	var err error
	following.Go(func() {
		err = b.Watch(ctx, m.From(), 42, func(r *apiv1.WatchBlocksResponse) error {
			wire, err := proto.Marshal(r)
			if err != nil {
				return err
			}
			came := &apiv1.WatchBlocksResponse{}
			if err := proto.Unmarshal(wire, came); err != nil {
				return err
			}
			if sent != nil {
				*sent = append(*sent, came)
			}
			return m.Apply(came)
		})
	})
	return func() error {
		cancel()
		following.Wait()
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
}

// TestMirror: whatever happens at the board, while it is followed or not, the mirror has the same as soon as it follows again.
func TestMirror(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) {
			b, m := NewBoard(index.Limit{}), NewMirror(index.Limit{})
			seqs := map[string]uint64{}
			for range rapid.IntRange(1, 5).Draw(rt, "sessions") {
				stop := follow(b, m, nil)
				for range rapid.IntRange(0, 20).Draw(rt, "changes") {
					disturb(rt, b, seqs)
					if rapid.Bool().Draw(rt, "wait") {
						synctest.Wait()
					}
				}
				pause(context.Background(), 10*watchGap)
				synctest.Wait()
				if got, want := seen(m), seen(b); !maps.Equal(got, want) || m.Stats().Workers != b.Stats().Workers || m.Seed() != 42 {
					rt.Fatalf("the mirror has %v, the board %v", got, want)
				}
				if err := stop(); err != nil {
					rt.Fatal(err)
				}
				for range rapid.IntRange(0, 20).Draw(rt, "changes meanwhile") {
					disturb(rt, b, seqs)
				}
				if rapid.Bool().Draw(rt, "long away") {
					b.log.kept, b.log.blocks = nil, 0
				}
				if rapid.IntRange(0, 3).Draw(rt, "restart") == 0 {
					b, seqs = NewBoard(index.Limit{}), map[string]uint64{}
				}
			}
		})
	})
}

// disturb makes one change at the board.
func disturb(t *rapid.T, b *Board, seqs map[string]uint64) {
	launch := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "launch")
	ids := rapid.SliceOfN(rapid.Uint64Range(1, 8), 1, 4).Draw(t, "ids")
	rank := rapid.Uint32Range(0, 1).Draw(t, "rank")
	e := rapid.SampledFrom([]*apiv1.BlockEvent{
		stored(rank, "gpu", ids...), stored(rank, "host", ids...), removed(rank, "gpu", ids...), cleared(rank, "gpu"), cleared(rank, ""),
	}).Draw(t, "event")
	seqs[launch]++
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		b.Apply(Source{launch, 0}, rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "run"), full(seqs[launch], e))
	case 1:
		b.Keep(func(l string) bool { return l != launch })
	case 2:
		seqs[launch]++
		fallthrough
	default:
		b.Apply(Source{launch, 0}, "r1", delta(seqs[launch], e))
	}
}

// TestFollowingIsBounded: who is far behind gets a snapshot in pieces, who is near gets the range, and the board keeps no more
// than it says.
func TestFollowingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, m := NewBoard(index.Limit{}), NewMirror(index.Limit{})
		from := Source{"a", 0}
		b.Apply(from, "r", full(1, cleared(0, "")))
		ids := make([]uint64, 8192)
		const messages = 300
		for i := range messages {
			for j := range ids {
				ids[j] = uint64(1 + i*len(ids) + j)
			}
			b.Apply(from, "r", delta(uint64(2+i), stored(0, "gpu", ids...)))
		}
		if b.log.blocks > 2*keptBlocks+len(ids) {
			t.Errorf("%d blocks of changes are kept", b.log.blocks)
		}
		var sent []*apiv1.WatchBlocksResponse
		stop := follow(b, m, &sent)
		pause(t.Context(), 10*watchGap)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := m.Stats().Blocks; n != messages*len(ids) || len(sent) < 10 || len(sent[0].Snapshot) != snapshotPiece {
			t.Errorf("%d blocks came in %d messages", n, len(sent))
		}
		b.Apply(from, "r", delta(messages+2, stored(0, "gpu", 1<<40)))
		sent = nil
		stop = follow(b, m, &sent)
		pause(t.Context(), 10*watchGap)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(sent) != 1 || sent[0].Snapshot != nil || len(sent[0].Changes) != 1 {
			t.Errorf("one change came as %d messages", len(sent))
		}
	})
}

func TestMirrorRefuses(t *testing.T) {
	t.Parallel()
	change := []*apiv1.BlockChange{dropped(7)}
	for name, m := range map[string]*apiv1.WatchBlocksResponse{
		"another board":   {Board: 9, Seq: 4, Changes: change},
		"a gap":           {Board: 5, Seq: 5, Changes: change},
		"a wrong holder":  {Board: 5, Seq: 4, Changes: []*apiv1.BlockChange{added(99, Holder{})}},
		"a torn snapshot": {Board: 5, Seq: 9, Snapshot: []byte("psindex1 but no more")},
	} {
		mirror := NewMirror(index.Limit{})
		mirror.board, mirror.seq = 5, 3
		if mirror.Apply(m) == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
