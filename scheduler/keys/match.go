package keys

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// Why a presented key is refused. A client is told no more than ErrMissing, ErrUnknown or ErrExpired.
var (
	ErrMissing = errors.New("no API key")
	ErrUnknown = errors.New("unknown API key")
	ErrExpired = errors.New("expired API key")
)

const (
	prefix      = "psk-"
	idBytes     = 8 // of a key ID's characters
	secretBytes = 32
)

// secretChars is the length of the random part in base64url.
var secretChars = base64.RawURLEncoding.EncodedLen(secretBytes)

// Set is a snapshot of keys with their hashes, by key ID. Whoever holds one must not change the keys in it.
type Set map[string]*apiv1.Key

// Verify finds the key that a client presents: psk-ID-SECRET. It reads no clock and no file, so gateways use it on the
// Set that the controller sent them. The ID is public and found by lookup; the hash of the whole is compared in
// constant time.
func Verify(keys Set, presented string, now time.Time) (*apiv1.Key, error) {
	if presented == "" {
		return nil, ErrMissing
	}
	id, ok := keyID(presented)
	if !ok {
		return nil, ErrUnknown
	}
	key := keys[id]
	hash := hashOf(presented)
	if subtle.ConstantTimeCompare(hash[:], key.GetHash()) != 1 {
		return nil, ErrUnknown
	}
	if key.ExpiresAt != nil && !now.Before(key.ExpiresAt.AsTime()) {
		return nil, ErrExpired
	}
	return key, nil
}

// keyID takes a presented key apart.
func keyID(presented string) (id string, ok bool) {
	if len(presented) != len(prefix)+idBytes+1+secretChars {
		return "", false
	}
	rest, ok := strings.CutPrefix(presented, prefix)
	if !ok || rest[idBytes] != '-' {
		return "", false
	}
	return rest[:idBytes], true
}

// hashOf is what is stored of a secret. It holds 256 random bits: nobody can try them all, so a slow hash with salt,
// made for passwords that people choose, would only slow down every request.
func hashOf(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// Allows tells whether a key may use a model. A key without globs may use all. In a glob * stands for any characters,
// also /, and ? for one.
func Allows(key *apiv1.Key, model string) bool {
	if len(key.GetModels()) == 0 {
		return true
	}
	for _, glob := range key.GetModels() {
		if matches(glob, model) {
			return true
		}
	}
	return false
}

// matches compares bytes in time linear in the product of both lengths: a * that fails is tried one character further.
func matches(glob, s string) bool {
	star, retry := -1, 0
	g, i := 0, 0
	for i < len(s) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, retry = g, i
			g++
		case g < len(glob) && (glob[g] == '?' || glob[g] == s[i]):
			g, i = g+1, i+1
		case star >= 0:
			retry++
			g, i = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}

// Redact makes a presented key fit for a message: its public part.
func Redact(presented string) string {
	if id, ok := keyID(presented); ok {
		return fmt.Sprintf("%s%s-…", prefix, id)
	}
	return "(not a key)"
}
