package index

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/zeebo/xxh3"
)

// A snapshot is, in numbers of variable length unless said otherwise:
//
//	magic (8 bytes) · last worker · workers, each by its distance to the one before
//	sets: how many, and each: holders, and each: its place among the workers · tiers (1 byte)
//	blocks: how many, and each: name (8 bytes) · its set's place
//	checksum of all this (8 bytes)
const snapshotMagic = "psindex1"

// ErrSnapshot means that bytes are no snapshot of an index, or a damaged one.
var ErrSnapshot = errors.New("not a whole snapshot of an index")

// AppendSnapshot appends all that the index holds to b. Writers wait meanwhile, about 30 ms for a million blocks; readers
// don't. Where each worker's feed stood at that moment is the caller's to keep, together with who the workers are.
func (x *Index) AppendSnapshot(b []byte) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sweepAll()
	begin := len(b)
	b = append(b, snapshotMagic...)
	b = binary.AppendUvarint(b, uint64(x.last))
	workers, places := x.byName()
	b = binary.AppendUvarint(b, uint64(len(workers)))
	before := Worker(0)
	for _, w := range workers {
		b = binary.AppendUvarint(b, uint64(w-before))
		before = w
	}
	sets, number := []value(nil), map[value]uint64{}
	x.eachRecord(func(_ uint64, v value) {
		if _, known := number[v]; !known {
			number[v] = uint64(len(sets))
			sets = append(sets, v)
		}
	})
	b = binary.AppendUvarint(b, uint64(len(sets)))
	for _, v := range sets {
		b = x.appendSet(b, v, places)
	}
	b = binary.AppendUvarint(b, uint64(x.records.live))
	x.eachRecord(func(id uint64, v value) {
		b = binary.LittleEndian.AppendUint64(b, id)
		b = binary.AppendUvarint(b, number[v])
	})
	return binary.LittleEndian.AppendUint64(b, xxh3.Hash(b[begin:]))
}

// byName lists the workers in order, and gives each number's place among them.
func (x *Index) byName() (workers []Worker, places map[uint32]int) {
	for w := range x.workers {
		workers = append(workers, w)
	}
	slices.Sort(workers)
	places = make(map[uint32]int, len(workers))
	for i, w := range workers {
		places[x.workers[w]] = i
	}
	return workers, places
}

// eachRecord walks the blocks in the order in which they lie.
func (x *Index) eachRecord(f func(id uint64, v value)) {
	for _, c := range *x.records.dir.Load() {
		for i := 0; i < len(c); i += 2 {
			if c[i+1] != 0 {
				f(c[i], value(c[i+1]))
			}
		}
	}
}

func (x *Index) appendSet(b []byte, v value, places map[uint32]int) []byte {
	holders := x.holders(v)
	b = binary.AppendUvarint(b, uint64(len(holders)))
	for _, e := range holders {
		b = binary.AppendUvarint(b, uint64(places[e.number()]))
		b = append(b, byte(e&element(AllTiers)))
	}
	return b
}

func (x *Index) holders(v value) (out []element) {
	if !v.shared() {
		return v.inline(new([2]element))
	}
	for _, w := range x.sets.elements(v) {
		out = append(out, element(w))
	}
	return out
}

// Restore makes the index of a snapshot. Its workers have the names they had, in order. A bound that is smaller than the
// snapshot keeps the first blocks.
func Restore(l Limit, snapshot []byte) (*Index, []Worker, error) {
	n := len(snapshot) - 8
	if n < len(snapshotMagic) || string(snapshot[:len(snapshotMagic)]) != snapshotMagic ||
		xxh3.Hash(snapshot[:n]) != binary.LittleEndian.Uint64(snapshot[n:]) {
		return nil, nil, ErrSnapshot
	}
	r := &unpacker{b: snapshot[len(snapshotMagic):n]}
	x := New(l)
	workers := r.workers(x)
	sets := r.sets(workers)
	for range r.count(9) {
		id, set := r.fixed(), r.number()
		if r.bad || set >= uint64(len(sets)) {
			break
		}
		x.restoreOne(id, sets[set])
	}
	if r.bad || len(r.b) > 0 {
		return nil, nil, ErrSnapshot
	}
	return x, workers, nil
}

func (x *Index) restoreOne(id uint64, holders []held) {
	for _, h := range holders {
		e := newElement(x.workers[h.worker], h.tiers)
		if p := x.storeOne(name(id), e, x.locate(name(id), 0)); p == 0 {
			x.refused++
		}
	}
	x.memo = memo{}
	x.reclaim()
}

// held is a worker and where it holds a block.
type held struct {
	worker Worker
	tiers  TierSet
}

// unpacker reads a snapshot's numbers; after the first that is wrong it is bad and gives zeros.
type unpacker struct {
	b   []byte
	bad bool
}

func (r *unpacker) fail() uint64 {
	r.bad, r.b = true, nil
	return 0
}

func (r *unpacker) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		return r.fail()
	}
	r.b = r.b[n:]
	return v
}

func (r *unpacker) fixed() uint64 {
	if len(r.b) < 8 {
		return r.fail()
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

// count is a number of things of which each takes at least so many bytes.
func (r *unpacker) count(each int) int {
	n := r.number()
	if n > uint64(len(r.b)/each) {
		return int(r.fail())
	}
	return int(n)
}

func (r *unpacker) workers(x *Index) (out []Worker) {
	last := r.number()
	w := uint64(0)
	for range r.count(1) {
		step := r.number()
		w += step
		n, ok := x.numbers.take()
		if !ok || step == 0 || w > last || last > 1<<32-1 {
			r.fail()
			return nil
		}
		x.workers[Worker(w)] = n
		x.handles[n].Store(uint32(w))
		out = append(out, Worker(w))
	}
	x.last = Worker(last)
	return out
}

func (r *unpacker) sets(workers []Worker) [][]held {
	sets := make([][]held, r.count(1))
	for i := range sets {
		sets[i] = make([]held, r.count(2))
		for j := range sets[i] {
			place := r.number()
			if r.bad || place >= uint64(len(workers)) || len(r.b) == 0 || r.b[0]&byte(AllTiers) == 0 {
				r.fail()
				return nil
			}
			sets[i][j] = held{workers[place], TierSet(r.b[0]) & AllTiers}
			r.b = r.b[1:]
		}
	}
	return sets
}
