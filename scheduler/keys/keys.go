// Package keys holds the API keys of people and programs that use the models: made, listed, revoked, verified.
//
// Secrets are shown once and stored as hashes, a 0600 file per key. It knows nothing of HTTP, of quotas' use, or of
// certificates (those are in package identity). The controller's server changes keys; gateways verify with the pure
// Verify on a copy.
package keys

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/statefile"
)

// What can be wrong with a request for a key.
var (
	ErrNotFound  = errors.New("no such key")
	ErrAmbiguous = errors.New("more than one key fits")
	ErrTaken     = errors.New("a key of that name exists")
	ErrInvalid   = errors.New("not a valid key")
)

// CreateOptions is what a new key may do. Zero limits mean none.
type CreateOptions struct {
	Name              string   // for people; unique; 1 to 64 characters
	Tenant            string   // whose KV cache it shares; default: the key's own ID
	Models            []string // globs as Allows takes them; empty = all
	RequestsPerMinute uint32
	TokensPerMinute   uint64
	Concurrency       uint32
	TTL               time.Duration // 0 = it never expires
}

// Store is the folder of keys. Safe for concurrent use by one process: the controller.
type Store struct {
	dir   string
	now   func() time.Time
	fence func() error // whether this process may write here

	writing sync.Mutex // held over writes to disk
	mu      sync.RWMutex
	keys    Set
	used    map[string]time.Time // not yet on disk
	changed chan struct{}        // closed at the next change
	broken  []string
}

// Open reads all keys in a folder, which is made or checked for owner and mode. Files that cannot be read are left as
// they are and named by Broken: their keys do not work until they are repaired.
func Open(dir string) (*Store, error) {
	return OpenFenced(dir, func() error { return nil })
}

// OpenFenced is Open for a folder that several processes may come to believe is theirs, as controllers do that were
// paused: fence says before and after each write whether this one may still write. What it forbids fails with its error.
func OpenFenced(dir string, fence func() error) (*Store, error) {
	return open(dir, time.Now, fence)
}

func open(dir string, now func() time.Time, fence func() error) (*Store, error) {
	if err := statefile.SecureDir(dir); err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	s := &Store{dir: dir, now: now, fence: fence, keys: Set{}, used: map[string]time.Time{}, changed: make(chan struct{})}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	return s, nil
}

// Broken lists files that hold no readable key, with the reason.
func (s *Store) Broken() []string { return slices.Clone(s.broken) }

// Create makes a key. The secret is in no file and no later answer. The key comes without its hash.
func (s *Store) Create(o CreateOptions) (key *apiv1.Key, secret string, err error) {
	if err := o.validate(); err != nil {
		return nil, "", err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.nameTaken(o.Name) {
		return nil, "", fmt.Errorf("create key %q: %w; revoke it first, or choose another name", o.Name, ErrTaken)
	}
	key, secret = newKey(o, s.now())
	if err := s.write(key); err != nil {
		return nil, "", fmt.Errorf("create key %q: %w", o.Name, err)
	}
	s.change(func() { s.keys[key.Id] = key })
	return public(key), secret, nil
}

func (o CreateOptions) validate() error {
	if o.Name == "" || len(o.Name) > 64 || strings.ContainsFunc(o.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: name %q: 1 to 64 characters without control characters", ErrInvalid, o.Name)
	}
	if len(o.Tenant) > 64 || strings.ContainsFunc(o.Tenant, notTenant) {
		return fmt.Errorf("%w: tenant %q: at most 64 of [A-Za-z0-9._-]", ErrInvalid, o.Tenant)
	}
	if o.TTL < 0 {
		return fmt.Errorf("%w: lifetime %s is negative", ErrInvalid, o.TTL)
	}
	for _, m := range o.Models {
		if m == "" || len(m) > 256 {
			return fmt.Errorf("%w: model %q: 1 to 256 characters", ErrInvalid, m)
		}
	}
	return nil
}

// notTenant: tenants go into headers and block names.
func notTenant(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
}

func newKey(o CreateOptions, now time.Time) (*apiv1.Key, string) {
	random := make([]byte, secretBytes)
	_, _ = rand.Read(random) // never fails
	id := strings.ToLower(rand.Text()[:idBytes])
	secret := prefix + id + "-" + base64.RawURLEncoding.EncodeToString(random)
	hash := hashOf(secret)
	key := &apiv1.Key{
		Id: id, Name: o.Name, Hash: hash[:], Tenant: o.Tenant, Models: slices.Clone(o.Models),
		RequestsPerMinute: o.RequestsPerMinute, TokensPerMinute: o.TokensPerMinute, Concurrency: o.Concurrency,
		CreatedAt: timestamppb.New(now),
	}
	if key.Tenant == "" {
		key.Tenant = id
	}
	if o.TTL > 0 {
		key.ExpiresAt = timestamppb.New(now.Add(o.TTL))
	}
	return key, secret
}

// List returns all keys without hashes, by name.
func (s *Store) List() []*apiv1.Key {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*apiv1.Key, 0, len(s.keys))
	for id, k := range s.keys {
		k = public(k)
		if at, ok := s.used[id]; ok {
			k.LastUsedAt = timestamppb.New(at)
		}
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b *apiv1.Key) int { return strings.Compare(a.Name+"\x00"+a.Id, b.Name+"\x00"+b.Id) })
	return list
}

// public is a copy of a key without its hash.
func public(k *apiv1.Key) *apiv1.Key {
	k = proto.CloneOf(k)
	k.Hash = nil
	return k
}

// Snapshot returns all keys with their hashes, for Verify and for gateways, and a channel that is closed at the next
// change. The keys are shared and must not be changed.
func (s *Store) Snapshot() (Set, <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return maps.Clone(s.keys), s.changed
}

// Revoke removes the key with that ID, that name, or the one whose ID starts so, and returns its ID. It is gone for
// gateways once they have seen the change.
func (s *Store) Revoke(idOrName string) (id string, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	id, err = s.find(idOrName)
	if err != nil {
		return "", fmt.Errorf("revoke key %q: %w", idOrName, err)
	}
	if err := s.remove(id); err != nil {
		return "", fmt.Errorf("revoke key %q: %w", idOrName, err)
	}
	s.change(func() {
		delete(s.keys, id)
		delete(s.used, id)
	})
	return id, nil
}

func (s *Store) find(idOrName string) (string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, ok := s.keys[idOrName]; ok {
		return idOrName, nil
	}
	var found []string
	for id, k := range s.keys {
		if k.Name == idOrName {
			return id, nil
		}
		if idOrName != "" && strings.HasPrefix(id, idOrName) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return "", ErrNotFound
	case 1:
		return found[0], nil
	}
	slices.Sort(found)
	return "", fmt.Errorf("%w: %s", ErrAmbiguous, strings.Join(found, ", "))
}

func (s *Store) nameTaken(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range s.keys {
		if k.Name == name {
			return true
		}
	}
	return false
}

func (s *Store) change(apply func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	apply()
	close(s.changed)
	s.changed = make(chan struct{})
}
