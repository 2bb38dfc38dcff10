// Package keyring holds the keys with which KV blocks are encrypted at rest. KV cache is user data: from it prompts can be
// guessed. A ring is read from a key file, the first key of which writes and all of which read, so that a key is rotated by
// putting a new line on top, and retired by taking its line away: what was written under it is then a miss.
//
// It derives an AES-256-GCM cipher for each segment or object from a key and a random salt, so that no nonce is ever used
// twice with one cipher as long as it is used once within the segment or object. It knows neither. The stores on disk and
// in object storage call it.
package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/penstock/penstock/scheduler/statefile"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// maxFile is far more than the lines of all keys that one would keep.
const maxFile = 64 << 10

// ID tells keys apart without telling anything about them. The zero ID stands for no encryption.
type ID [8]byte

// String is the ID for people, logs and manifests.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Key is one key. Its bytes are never shown.
type Key struct {
	id    ID
	bytes [KeySize]byte
}

// ID names the key.
func (k *Key) ID() ID { return k.id }

// String keeps the bytes out of logs.
func (k *Key) String() string { return "key " + k.id.String() }

// GoString keeps the bytes out of %#v.
func (k *Key) GoString() string { return k.String() }

// AEAD is the cipher for one purpose and salt. Nonces of 12 bytes must not be used twice with the same purpose and salt.
func (k *Key) AEAD(purpose string, salt []byte) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, k.bytes[:], salt, purpose, KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive a cipher from %s: %w", k, err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Ring is a set of keys. A nil ring encrypts nothing and reads nothing that is encrypted. It is immutable.
type Ring struct{ keys []*Key }

// Open reads a key file: one key on each line, 32 bytes in base64, as `openssl rand -base64 32` prints them; empty lines
// and lines that begin with # are skipped. The file must belong to this user and be closed to all others.
func Open(path string) (*Ring, error) {
	data, err := statefile.ReadPrivate(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	r, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return r, nil
}

// Parse reads the content of a key file. Errors name the line and never show what is on it.
func Parse(data []byte) (*Ring, error) {
	r := &Ring{}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := parseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w; make one with: openssl rand -base64 32", number, err)
		}
		if r.Lookup(k.id) != nil {
			return nil, fmt.Errorf("line %d: the same key is there twice", number)
		}
		r.keys = append(r.keys, k)
	}
	if len(r.keys) == 0 {
		return nil, fmt.Errorf("no key; add one with: openssl rand -base64 32")
	}
	return r, nil
}

func parseKey(line []byte) (*Key, error) {
	var decoded [KeySize * 2]byte
	if len(line) > base64.StdEncoding.EncodedLen(len(decoded))/2+2 {
		return nil, fmt.Errorf("longer than a key of %d bytes in base64", KeySize)
	}
	n, err := base64.StdEncoding.Decode(decoded[:], line)
	if err != nil || n != KeySize {
		return nil, fmt.Errorf("not a key of %d bytes in base64", KeySize)
	}
	return newKey([KeySize]byte(decoded[:KeySize])), nil
}

func newKey(b [KeySize]byte) *Key {
	sum := sha256.Sum256(append([]byte("penstock kv key id 1\x00"), b[:]...))
	return &Key{id: ID(sum[:len(ID{})]), bytes: b}
}

// New is a ring of one fresh random key, and the line for a key file.
func New() (*Ring, string) {
	var b [KeySize]byte
	_, _ = rand.Read(b[:]) // never fails; see crypto/rand
	return &Ring{keys: []*Key{newKey(b)}}, base64.StdEncoding.EncodeToString(b[:])
}

// Current is the key that new data is written with; nil of a nil ring.
func (r *Ring) Current() *Key {
	if r == nil {
		return nil
	}
	return r.keys[0]
}

// Lookup returns the key of an ID, and nil where the ring has none.
func (r *Ring) Lookup(id ID) *Key {
	if r == nil {
		return nil
	}
	for _, k := range r.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}
