package sim

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// The files were made independently of this package; see where they came from in testdata/kv-events/README.md.
func TestEventBytes(t *testing.T) {
	t.Parallel()
	at := time.UnixMicro(1789095808500000)
	tokens := make([]int32, 32)
	for i := range tokens {
		tokens[i] = int32(i + 1)
	}
	var h blockHasher
	block0 := h.hash(rootHash("0"), tokens[:16], nil)
	block1 := h.hash(block0, tokens[16:], nil)
	stored := kvEvent{stored: &storedBlocks{hashes: []blockHash{block0, block1}, tokens: tokens, blockSize: 16, extra: [][]string{nil, nil}}}
	for _, c := range []struct {
		file  string
		form  EventsForm
		event kvEvent
	}{
		{"vllmge0.24_map_u64_stored", EventsAsMaps, stored},
		{"vllm_map_removed", EventsAsMaps, kvEvent{removed: []blockHash{block1}}},
		{"vllm_map_cleared", EventsAsMaps, kvEvent{cleared: true}},
		{"vllm_array_u64_stored", EventsAsArrays, stored},
		{"vllm_array_removed", EventsAsArrays, kvEvent{removed: []blockHash{block1}}},
		{"vllm_array_cleared", EventsAsArrays, kvEvent{cleared: true}},
	} {
		want, err := os.ReadFile("testdata/kv-events/" + c.file + ".msgpack")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := encodeEvents(c.form, at, []kvEvent{c.event}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n%x, want\n%x", c.file, err, got, want)
		}
	}
}

func TestBatchRing(t *testing.T) {
	t.Parallel()
	r := newBatchRing(3)
	for _, seq := range []uint64{0, 1, 3, 4, 5} {
		r.add(seq, []byte{byte(seq)})
	}
	var got []byte
	for seq, payload := range r.from(4) {
		if byte(seq) != payload[0] {
			t.Errorf("sequence %d has payload %v", seq, payload)
		}
		got = append(got, payload[0])
	}
	if !bytes.Equal(got, []byte{4, 5}) {
		t.Errorf("from 4: %v", got)
	}
	for seq := range r.from(0) {
		if seq != 3 {
			t.Errorf("the oldest kept is %d, want 3", seq)
		}
		break
	}
}
