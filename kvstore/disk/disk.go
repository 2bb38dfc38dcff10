// Package disk keeps blocks on an NVMe or a scratch folder of this node: append-only segments with a checksum for each
// record and a footer index in each full segment, so that a restart reads footers only. FORMAT.md draws the bytes.
//
// What it returns is what was put: each read checks that the record is the asked key's, at its own place, and that its bytes
// have their checksum; anything else is a miss, counted and forgotten. Room is made by whole segments, the oldest with the
// least worth keeping first; records that were read since they were written, or that their session still expects, are
// copied on. All parts of a group go together. What was written before a Sync returned survives the machine's crash, and
// what was deleted or replaced before it stays away; without Sync the last moments may be lost, or be found as they were.
//
// A disk that is full, read-only, broken, hanging or taken away costs misses and drops, never more than the caller's
// deadline, and is tried again after a while.
//
// The package knows no other tier, no engine, and not why blocks are put. It is for disks of one node: one process holds a
// folder, by flock(2).
package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
	"github.com/penstock/penstock/scheduler/statefile"
)

// Options say where and how a store keeps its blocks. Dir and Budget must be set.
type Options struct {
	// Dir is made, or must belong to this user and be closed to all others.
	Dir string
	// Budget is how many bytes of the disk the store may take, counted as the disk does. The smallest is 1 MiB.
	Budget int64
	// SegmentBytes is the size of a segment, 256 MiB by default, and no more than an eighth of the budget.
	SegmentBytes int64
	// Buffered goes through the page cache even where the file system can do without.
	Buffered bool
	// Workers is how many reads are under way at one time, and how many writes; 16 by default.
	Workers int
	// CopyShare is how much of a segment may be copied on when it is evicted, 0 to 0.9; 0.5 by default, negative for none.
	// It bounds write amplification to 1/(1 - CopyShare).
	CopyShare float64
	// Timeout is how long a call waits for the disk where its context allows longer; 10 s by default.
	Timeout time.Duration
	// Retry is how long a disk that failed is left alone; 5 s by default.
	Retry time.Duration
	// SyncEvery is how often Run makes durable what was written; 5 s by default.
	SyncEvery time.Duration
	// Keys encrypt; nil = blocks lie in the clear.
	Keys *keyring.Ring
	// Alloc gives the memory that blocks are read into; nil = Go's heap.
	Alloc kvstore.Allocator
	// Moves takes the news, also of what is found by Open; nil = nobody listens.
	Moves kvstore.Moves
	Log   zerolog.Logger
}

const (
	smallestBudget  = 1 << 20
	smallestSegment = 64 << 10
	largestSegment  = 1 << 34 // what an entry's offset can say, with a margin
	// openFiles is how many segments stay open between reads: less than the usual limit of a process allows.
	openFiles = 512
)

// withDefaults checks the options and fills in what is not set.
func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Dir == "":
		return o, errors.New("disk store: no folder is set")
	case o.Budget < smallestBudget:
		return o, fmt.Errorf("disk store %s: budget must be at least 1 MiB (is %d bytes)", o.Dir, o.Budget)
	case o.SegmentBytes < 0 || o.SegmentBytes > largestSegment:
		return o, fmt.Errorf("disk store %s: segment size must be between 64 KiB and 16 GiB (is %d bytes)", o.Dir, o.SegmentBytes)
	case o.CopyShare > 0.9:
		return o, fmt.Errorf("disk store %s: copy share must be at most 0.9 (is %g)", o.Dir, o.CopyShare)
	}
	o.SegmentBytes = cmp.Or(o.SegmentBytes, 256<<20)
	o.SegmentBytes = max(smallestSegment, min(o.SegmentBytes, o.Budget/8)) / page * page
	o.Workers = cmp.Or(o.Workers, 16)
	o.CopyShare = cmp.Or(o.CopyShare, 0.5)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.Retry = cmp.Or(o.Retry, 5*time.Second)
	o.SyncEvery = cmp.Or(o.SyncEvery, 5*time.Second)
	if o.Alloc == nil {
		o.Alloc = kvstore.Heap{}
	}
	if o.Moves == nil {
		o.Moves = func(kvstore.Move) {}
	}
	return o, nil
}

// Store keeps blocks on a disk. It is safe for concurrent use.
type Store struct {
	opts    Options
	mount   func() (fileSystem, error)
	buffers buffers
	limit   fileLimit
	reads   lane
	writes  lane
	life    life
	marking sync.Mutex // one writer of marks at a time
	closing sync.Once
	count   counters

	mu       sync.Mutex // guards all below, and is never held during I/O
	fs       fileSystem
	unlock   func() error
	index    *index
	segments map[uint32]*segment
	order    []*segment // by age
	active   *segment
	number   uint32            // of the newest segment
	seq      uint64            // of the newest record
	marked   map[*segment]bool // has marks to be written
	marksOut bool              // marks are being written
	unsynced map[*segment]bool
	copying  map[kvstore.Key]chan struct{} // closed when it is decided which copy lives
	rotating bool
	failed   error         // of the last rotation
	changed  chan struct{} // closed and made anew when a rotation has got on
}

var _ kvstore.Store = (*Store)(nil)

// counters count since Open.
type counters struct {
	hits, misses, puts, drops, evicted, deleted, corrupt, errors, read, written, put, copied atomic.Int64
}

// fileLimit counts open files.
type fileLimit struct {
	open atomic.Int64
	max  int64
}

func (l *fileLimit) exceeded() bool { return l.open.Load() > l.max }

// Open opens the store in a folder, which it makes where it is missing, and reads what earlier processes left there. It
// fails where the folder is another user's or another process's, and not for anything that lies in it. ctx bounds the
// reading: what is not read by then is left out.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return openOn(ctx, o, func() (fileSystem, error) {
		if err := statefile.SecureDir(o.Dir); err != nil {
			return nil, err
		}
		return openFolder(o.Dir, !o.Buffered)
	})
}

// openOn opens a store over a file system. o has its defaults.
func openOn(ctx context.Context, o Options, mount func() (fileSystem, error)) (*Store, error) {
	s := &Store{opts: o, mount: mount, limit: fileLimit{max: openFiles}, reads: newLane(o.Workers), writes: newLane(o.Workers)}
	s.changed, s.copying = make(chan struct{}), map[kvstore.Key]chan struct{}{}
	s.forgetAll()
	if err := s.take(); err != nil {
		return nil, fmt.Errorf("disk store %s: %w", o.Dir, err)
	}
	if err := s.load(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("disk store %s: %w", o.Dir, err), s.leave())
	}
	return s, nil
}

// take opens and locks the folder.
func (s *Store) take() error {
	fs, err := s.mount()
	if err != nil {
		return err
	}
	unlock, err := fs.Lock()
	if err != nil {
		return errors.Join(err, fs.Close())
	}
	s.mu.Lock()
	s.fs, s.unlock = fs, unlock
	s.mu.Unlock()
	return nil
}

// leave gives the folder back.
func (s *Store) leave() error {
	s.mu.Lock()
	fs, unlock := s.fs, s.unlock
	s.mu.Unlock()
	return errors.Join(unlock(), fs.Close())
}

// Run makes durable from time to time what was written, until ctx ends. It returns nil.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(s.opts.SyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Sync(ctx); err != nil && ctx.Err() == nil {
				s.opts.Log.Warn().Err(err).Str("folder", filepath.Base(s.opts.Dir)).Msg("blocks on disk are not durable yet")
			}
		}
	}
}

// Close ends the store in good order: what is under way ends, the last segment gets its footer, all is made durable. A disk
// that hangs is waited for no longer than the store's timeout.
func (s *Store) Close() (err error) {
	s.closing.Do(func() { err = s.close() })
	return err
}

func (s *Store) close() error {
	deadline := time.NewTimer(s.opts.Timeout)
	defer deadline.Stop()
	select {
	case <-s.life.end():
	case <-deadline.C:
		return fmt.Errorf("close disk store %s: the disk has not answered for %s", s.opts.Dir, s.opts.Timeout)
	}
	s.mu.Lock()
	last := s.active
	s.active = nil
	if last != nil {
		last.phase = closing
	}
	s.mu.Unlock()
	var err error
	if last != nil {
		err = s.seal(last)
	}
	err = errors.Join(err, s.syncAll())
	for _, g := range s.order {
		g.handle.end(&s.limit)
	}
	return errors.Join(err, s.leave())
}

// Detail is what only this store has beside kvstore.Stats.
type Detail struct {
	Segments   int
	Blocks     int64
	Live       int64 // bytes of the blocks that are there
	Allocated  int64 // bytes of the disk that are taken
	Put        int64 // bytes of blocks that were put
	Copied     int64 // bytes of blocks that were copied on when their segment was evicted
	IndexBytes int64 // memory for index and marks
	Direct     bool  // past the page cache
	Encrypted  bool
}

// WriteAmplification is how many bytes were written for each byte that was put; 0 = nothing was put.
func (d Detail) WriteAmplification() float64 {
	if d.Put == 0 {
		return 0
	}
	return float64(d.Put+d.Copied) / float64(d.Put)
}

// Detail returns a moment's picture.
func (s *Store) Detail() Detail {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Detail{
		Segments: len(s.order), Blocks: int64(s.index.count), Allocated: s.allocated(), Put: s.count.put.Load(),
		Copied: s.count.copied.Load(), IndexBytes: s.index.memory(), Direct: s.fs.Direct(), Encrypted: s.opts.Keys != nil,
	}
	for _, g := range s.order {
		d.Live += g.live
		d.IndexBytes += int64(len(g.marks.bits)*8 + len(g.lines))
	}
	return d
}

// Stats implements kvstore.Store. Bytes are those of the disk.
func (s *Store) Stats() kvstore.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.count
	return kvstore.Stats{
		Tier: kvstore.Disk, Blocks: int64(s.index.count), Bytes: s.allocated(), Budget: s.opts.Budget,
		Hits: c.hits.Load(), Misses: c.misses.Load(), Puts: c.puts.Load(), Drops: c.drops.Load(), Evicted: c.evicted.Load(),
		Deleted: c.deleted.Load(), Corrupt: c.corrupt.Load(), Errors: c.errors.Load(), ReadBytes: c.read.Load(), WrittenBytes: c.written.Load(),
	}
}

// allocated is how many bytes of the disk are taken; the lock is held.
func (s *Store) allocated() (n int64) {
	for _, g := range s.order {
		n += g.allocated
	}
	return n
}
