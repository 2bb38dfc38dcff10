package sim

import "iter"

// batchRing keeps the last encoded batches for replay.
type batchRing struct {
	seqs     []uint64
	payloads [][]byte
	start    int // index of the oldest
	capacity int
}

func newBatchRing(capacity int) batchRing { return batchRing{capacity: capacity} }

// add keeps a batch and forgets the oldest if there are too many. Sequences must grow; gaps are allowed.
func (r *batchRing) add(seq uint64, payload []byte) {
	if len(r.seqs) < r.capacity {
		r.seqs, r.payloads = append(r.seqs, seq), append(r.payloads, payload)
		return
	}
	r.seqs[r.start], r.payloads[r.start] = seq, payload
	r.start = (r.start + 1) % r.capacity
}

// from yields the kept batches whose sequence is at least first, oldest first.
func (r *batchRing) from(first uint64) iter.Seq2[uint64, []byte] {
	return func(yield func(uint64, []byte) bool) {
		for i := range r.seqs {
			at := (r.start + i) % len(r.seqs)
			if r.seqs[at] >= first && !yield(r.seqs[at], r.payloads[at]) {
				return
			}
		}
	}
}
