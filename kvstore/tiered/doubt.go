package tiered

import (
	"github.com/zeebo/xxh3"

	"github.com/penstock/penstock/kvstore"
)

// doubts remembers keys under which a tier may hold older bytes, when there are too many of them to keep each one: a Bloom
// filter. It may take a good key for a doubtful one, which costs a miss, and never the reverse. It is never cleared.
type doubts struct{ bits []uint64 }

const (
	doubtBits   = 1 << 24 // 2 MiB; 1 % of good keys are lost at 1.6 million doubtful ones
	doubtProbes = 5
)

func (d *doubts) add(k kvstore.Key) {
	if d.bits == nil {
		d.bits = make([]uint64, doubtBits/64)
	}
	for i := range uint64(doubtProbes) {
		bit := probe(k, i)
		d.bits[bit/64] |= 1 << (bit % 64)
	}
}

func (d *doubts) has(k kvstore.Key) bool {
	if d.bits == nil {
		return false
	}
	for i := range uint64(doubtProbes) {
		if bit := probe(k, i); d.bits[bit/64]&(1<<(bit%64)) == 0 {
			return false
		}
	}
	return true
}

func probe(k kvstore.Key, i uint64) uint64 {
	raw, _ := k.AppendBinary(make([]byte, 0, kvstore.KeySize))
	return xxh3.HashSeed(raw, i) % doubtBits
}
