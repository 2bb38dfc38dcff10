package sim

import (
	"crypto/sha256"
	"encoding/binary"
)

// blockHash names a full block by everything that its KV depends on: the chain of tokens before it, its own tokens, the
// adapter and the salt. It is vLLM's sha256_cbor, so that engines started with one seed agree on it.
type blockHash [sha256.Size]byte

// short is the 64-bit form that KV events carry: the low 64 bits, big-endian.
func (h blockHash) short() uint64 { return binary.BigEndian.Uint64(h[len(h)-8:]) }

// defaultHashSeed is the seed of vLLM versions that no longer draw one at random when PYTHONHASHSEED is unset.
const defaultHashSeed = "vllm-none-hash"

// rootHash is the parent of first blocks, vLLM's NONE_HASH.
func rootHash(seed string) blockHash {
	return sha256.Sum256(append(cborHead(nil, 3, uint64(len(seed))), seed...))
}

// blockHasher hashes blocks and reuses its buffer. It is not for concurrent use.
type blockHasher struct{ buf []byte }

// hash is the hash of one full block. extra is what else parts the cache: the adapter's name in every block, the salt
// after it in the first block only.
func (b *blockHasher) hash(parent blockHash, tokens []int32, extra []string) blockHash {
	buf := append(b.buf[:0], 0x83)
	buf = append(cborHead(buf, 2, uint64(len(parent))), parent[:]...)
	buf = cborHead(buf, 4, uint64(len(tokens)))
	for _, t := range tokens {
		buf = cborHead(buf, 0, uint64(t))
	}
	if len(extra) == 0 {
		buf = append(buf, 0xf6)
	} else {
		buf = cborHead(buf, 4, uint64(len(extra)))
		for _, s := range extra {
			buf = append(cborHead(buf, 3, uint64(len(s))), s...)
		}
	}
	b.buf = buf
	return sha256.Sum256(buf)
}

// cborHead appends the canonical (shortest) head of a CBOR item.
func cborHead(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, major|27), n)
	}
}
