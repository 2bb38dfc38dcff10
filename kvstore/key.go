package kvstore

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"
)

// Layout is all that must be equal for one engine's KV bytes to mean the same in another: the weights, and how their KV
// cache is laid out. Every field counts; a field that an engine cannot state is given the value "unknown", which then
// matches only itself.
type Layout struct {
	Weights     string // fingerprint of the weights' metadata and the model's configuration
	Engine      string // engine and the version of its KV format, such as "vllm/1" or "llamacpp/seq-2"
	DType       string // of the KV cache, such as "bf16"
	Attention   string // such as "gqa", "mla", or the backend's layout where it matters
	BlockTokens int
	Ranks       int // tensor-parallel size: the number of parts of a block
}

// Space parts what must never meet: a layout and a tenant. It is the first part of every key.
type Space [16]byte

// NewSpace derives the space of a layout and a tenant. An empty tenant is the tenant of those who have none: a space of its
// own, shared with no named tenant.
func NewSpace(l Layout, tenant string) Space {
	h := blake3.New()
	for _, s := range []string{"penstock kv space 1", l.Weights, l.Engine, l.DType, l.Attention, tenant} {
		writeString(h, s)
	}
	var n [16]byte
	binary.LittleEndian.PutUint64(n[:8], uint64(l.BlockTokens))
	binary.LittleEndian.PutUint64(n[8:], uint64(l.Ranks))
	_, _ = h.Write(n[:])
	return Space(h.Sum(nil)[:len(Space{})])
}

// Name is what a block is called within its space: a digest of the tokens of its whole prefix, or of a connector's opaque
// key.
type Name [32]byte

// OpaqueName is the name of a block that a connector calls by a string of its own.
func OpaqueName(key string) Name {
	h := blake3.New()
	writeString(h, "penstock kv opaque 1")
	writeString(h, key)
	return Name(h.Sum(nil))
}

// ChainName is the name of the block of tokens that follows the block called parent; the first block follows Name{}.
func ChainName(parent Name, tokens []uint32) Name {
	h := blake3.New()
	writeString(h, "penstock kv chain 1")
	_, _ = h.Write(parent[:])
	var b [4]byte
	for _, t := range tokens {
		binary.LittleEndian.PutUint32(b[:], t)
		_, _ = h.Write(b[:])
	}
	return Name(h.Sum(nil))
}

// Key is the full name of a stored block. Blocks of the same space and name that differ in Part alone (the ranks of a
// tensor-parallel engine, a connector's metadata beside its bytes) are one group: they are worth something only together,
// and stores evict them together.
type Key struct {
	Space Space
	Name  Name
	Part  uint16
}

// Group is the key without its part.
type Group struct {
	Space Space
	Name  Name
}

// Group is what the key's block is held and evicted together with.
func (k Key) Group() Group { return Group{k.Space, k.Name} }

// KeySize is the length of a key's binary form.
const KeySize = len(Space{}) + len(Name{}) + 2

// AppendBinary appends the key's fixed-length form: space, name, part in little-endian order.
func (k Key) AppendBinary(b []byte) ([]byte, error) {
	b = append(append(b, k.Space[:]...), k.Name[:]...)
	return binary.LittleEndian.AppendUint16(b, k.Part), nil
}

// UnmarshalBinary is the inverse of AppendBinary.
func (k *Key) UnmarshalBinary(b []byte) error {
	if len(b) != KeySize {
		return fmt.Errorf("a block's key has %d bytes, not %d", KeySize, len(b))
	}
	copy(k.Space[:], b)
	copy(k.Name[:], b[len(k.Space):])
	k.Part = binary.LittleEndian.Uint16(b[KeySize-2:])
	return nil
}

// String is the key for logs and people: space/name/part, shortened to what tells keys apart by eye.
func (k Key) String() string {
	return hex.EncodeToString(k.Space[:4]) + "/" + hex.EncodeToString(k.Name[:8]) + fmt.Sprintf("/%d", k.Part)
}

func writeString(h *blake3.Hasher, s string) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
	_, _ = h.Write(n[:])
	_, _ = h.WriteString(s)
}
