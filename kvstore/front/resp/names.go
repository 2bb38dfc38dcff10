package resp

import (
	"bytes"
	"strconv"

	"github.com/penstock/penstock/kvstore"
)

// LMCache's redis:// keeps a chunk under two keys that must live and die together: the bytes, and 28 bytes of metadata.
var (
	bytesSuffix    = []byte("kv_bytes")
	metadataSuffix = []byte("metadata")
)

// kind is what a key names of its chunk.
type kind uint16

const (
	whole    kind = iota // all of it: no pair
	content              // …kv_bytes
	metadata             // …metadata
	kinds    = 3
)

// name turns a client's key into the store's. Keys that differ only in the rank become parts of one group, and so do the two
// of a pair, so that the store forgets them together. A key of another form is a group of its own.
//
//	plain         model@world@worker@hash@dtype[@layer][@tag%value]...   (older versions: fmt@ before it)
//	multi-process model@%08x(rank)@%x(group)@hash[@salt]
//
// The rank leaves the name only where the key says without doubt which field it is; what the client writes there can at
// worst mix up its own blocks, since the space is the user's.
func name(space kvstore.Space, key []byte) (kvstore.Key, kind) {
	what, stem := whole, key
	if s, ok := bytes.CutSuffix(key, bytesSuffix); ok && bytes.IndexByte(s, '@') >= 0 {
		what, stem = content, s
	} else if s, ok := bytes.CutSuffix(key, metadataSuffix); ok && bytes.IndexByte(s, '@') >= 0 {
		what, stem = metadata, s
	}
	from, to, rank := rankField(stem)
	opaque := make([]byte, 0, 256)
	opaque = append(opaque, stem[:from]...)
	opaque = append(opaque, 0) // no key of LMCache's holds it: a name without its rank is no other key's name
	opaque = append(opaque, stem[to:]...)
	if from == to {
		opaque = stem
	}
	return kvstore.Key{Space: space, Name: kvstore.OpaqueName(string(opaque)), Part: uint16(rank*kinds + int(what))}, what
}

// partner is the key of the other one of a pair.
func partner(k kvstore.Key, what kind) kvstore.Key {
	switch what {
	case content:
		k.Part += uint16(metadata - content)
	case metadata:
		k.Part -= uint16(metadata - content)
	}
	return k
}

const maxRank = (1<<16)/kinds - 1

// rankField finds the rank in a key; from == to: there is none.
func rankField(key []byte) (from, to, rank int) {
	fields := bytes.Split(key, []byte("@"))
	start := func(i int) (n int) {
		for _, f := range fields[:i] {
			n += len(f) + 1
		}
		return n
	}
	for i := 1; i <= 2 && i+3 < len(fields); i++ { // 2: after fmt@
		world, ok1 := plainNumber(fields[i])
		worker, ok2 := plainNumber(fields[i+1])
		if ok1 && ok2 && worker < world && worker <= maxRank {
			at := start(i + 1)
			return at, at + len(fields[i+1]), worker
		}
	}
	if (len(fields) == 4 || len(fields) == 5) && len(fields[1]) == 8 {
		if n, err := strconv.ParseUint(string(fields[1]), 16, 32); err == nil && n <= maxRank {
			at := start(1)
			return at, at + len(fields[1]), int(n)
		}
	}
	return 0, 0, 0
}

// plainNumber reads a decimal number without padding: the padded ones are the other mode's.
func plainNumber(b []byte) (int, bool) {
	n, ok := decimal(b)
	return n, ok && (b[0] != '0' || len(b) == 1)
}
