package index

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"
)

// Root begins a chain. It holds all that parts one cache from another, so that names of different models, tenants or LoRAs
// never meet in one index.
type Root uint64

// Identity is what a root is made of. Two sides that should name a block alike must agree in all of it.
type Identity struct {
	Seed        uint64 // secret of the installation: who does not know it cannot make up names that collide
	Namespace   string // model and KV layout
	BlockTokens int
	Salt        string // the tenant's, as engines see it in cache_salt; empty = none
	LoRA        string // adapter's name; empty = none
}

// ChainRoot makes the root of an identity. Each field is preceded by its length: no two identities look alike.
func ChainRoot(i Identity) Root {
	b := binary.LittleEndian.AppendUint64(nil, uint64(i.BlockTokens))
	for _, s := range []string{i.Namespace, i.Salt, i.LoRA} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return Root(xxh3.HashSeed(b, i.Seed))
}

// ChainBlock names the block that comes after prev and holds tokens. What else than tokens decides a block's content (an
// image that placeholder tokens stand for) is extra.
func ChainBlock(root Root, prev uint64, tokens []uint32, extra string) uint64 {
	var buf [8 + 4*64]byte
	b := binary.LittleEndian.AppendUint64(buf[:0], prev)
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint32(b, t)
	}
	b = append(b, extra...)
	return xxh3.HashSeed(b, uint64(root))
}

// AppendChain appends to dst the names of all full blocks of a prompt: what is left of the last one has no name.
func AppendChain(dst []uint64, root Root, tokens []uint32, blockSize int) []uint64 {
	prev := uint64(root)
	for ; blockSize > 0 && len(tokens) >= blockSize; tokens = tokens[blockSize:] {
		prev = ChainBlock(root, prev, tokens[:blockSize], "")
		dst = append(dst, prev)
	}
	return dst
}
