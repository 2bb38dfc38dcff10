package keys

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/statefile"
)

const (
	suffix   = ".json"
	usedFile = "last-used" + suffix
	maxFile  = 256 << 10
	maxUsed  = 16 << 20
	format   = 1
)

// record is the file of one key: ID.json.
type record struct {
	Format int             `json:"format"`
	Key    json.RawMessage `json:"key"`
}

func (s *Store) load() error {
	names, err := (statefile.OS{}).List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := strings.CutSuffix(name, suffix)
		if !ok || name == usedFile || statefile.IsTemp(name) {
			continue
		}
		key, err := s.read(id)
		if errors.Is(err, errNewer) {
			return err
		}
		if err != nil {
			s.broken = append(s.broken, err.Error())
			continue
		}
		s.keys[id] = key
	}
	s.loadUsed()
	return nil
}

var errNewer = errors.New("written by a newer release of Penstock; use that release")

func (s *Store) read(id string) (*apiv1.Key, error) {
	name := filepath.Join(s.dir, id+suffix)
	data, err := statefile.ReadPrivate(name, maxFile)
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("key file %s: %w", name, err)
	}
	if r.Format != format {
		return nil, fmt.Errorf("key file %s: format %d: %w", name, r.Format, errNewer)
	}
	key := &apiv1.Key{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.Key, key); err != nil {
		return nil, fmt.Errorf("key file %s: %w", name, err)
	}
	if key.Id != id || len(id) != idBytes || len(key.Hash) != len(hashOf("")) {
		return nil, fmt.Errorf("key file %s: it holds no key of that ID", name)
	}
	return key, nil
}

// write makes a key durable: the caller may show the secret afterwards.
func (s *Store) write(key *apiv1.Key) error {
	body, err := protojson.Marshal(key)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(record{Format: format, Key: body}, "", "  ")
	if err != nil {
		return err
	}
	if err := s.fence(); err != nil {
		return err
	}
	if err := statefile.WriteNew(statefile.OS{}, filepath.Join(s.dir, key.Id+suffix), append(data, '\n')); err != nil {
		return err
	}
	if err := s.fence(); err != nil { // whoever took over has read the folder before, or will
		return errors.Join(err, s.erase(key.Id))
	}
	return nil
}

// remove takes a key off the disk. Its second look at the fence is for the user: a process that took over in between knows
// the key still.
func (s *Store) remove(id string) error {
	if err := s.fence(); err != nil {
		return err
	}
	if err := s.erase(id); err != nil {
		return err
	}
	return s.fence()
}

func (s *Store) erase(id string) error {
	err := (statefile.OS{}).Remove(filepath.Join(s.dir, id+suffix))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return (statefile.OS{}).SyncDir(s.dir)
}

// Used notes that a key was used, in memory. Unknown IDs and older times are ignored.
func (s *Store) Used(id string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.keys[id]; ok && at.After(k.LastUsedAt.AsTime()) && at.After(s.used[id]) {
		s.used[id] = at
	}
}

// FlushUsed writes the times of last use to disk, all in one file. Its caller does so now and then: a crash loses what
// was noted since.
func (s *Store) FlushUsed() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.RLock()
	used := maps.Clone(s.used)
	s.mu.RUnlock()
	if len(used) == 0 {
		return nil
	}
	data, err := json.Marshal(used)
	if err != nil {
		return err
	}
	if err = s.fence(); err == nil {
		err = statefile.Write(statefile.OS{}, filepath.Join(s.dir, usedFile), data)
	}
	if err != nil {
		return fmt.Errorf("write the keys' last use: %w", err)
	}
	return nil
}

// loadUsed is best effort: when a key was last used is for people only.
func (s *Store) loadUsed() {
	data, err := statefile.ReadPrivate(filepath.Join(s.dir, usedFile), maxUsed)
	if err != nil {
		return
	}
	used := map[string]time.Time{}
	if json.Unmarshal(data, &used) != nil {
		return
	}
	for id, at := range used {
		if _, ok := s.keys[id]; ok {
			s.used[id] = at
		}
	}
}
