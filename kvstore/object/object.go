// Package object keeps blocks where they outlive all jobs: in a bucket of an S3 server (s3://) or a folder of a parallel file
// system (file://), with one layout for both, which FORMAT.md draws. Jobs of several clusters may share it.
//
// Large blocks are objects of their own, named by their key. Small ones are packed into objects of some MiB, since a request
// costs more than their bytes; where they lie is in the pack's footer, which every store reads once. Objects are immutable: a
// block that is there already is not written again. Every read is checked, against the key, the block's checksum and, where
// there is a key file, the cipher's tag; what fails twice is a miss, counted, and removed.
//
// A bucket that is dead or slow costs misses and drops, never a stall: each request has a deadline of its own, few are sent
// again, late reads are sent twice, and after several failures the bucket is left alone for a while.
//
// The package knows no other tier and no engine. It forgets what is old by itself (Collect), since not every server can.
package object

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

// Options say where and how a store keeps its objects. URL must be set.
type Options struct {
	URL      string // s3://BUCKET/PREFIX or file:///FOLDER
	Endpoint string // of the S3 server: https://HOST:PORT; empty = AWS
	Region   string
	// PathStyle names the bucket in the path where the server knows no names of buckets in its host name.
	PathStyle bool
	// CredentialsFile is a file of AWS's form, closed to others; empty = environment, the user's file, the machine's role.
	CredentialsFile string
	Profile         string // in it
	CAFile          string // PEM, for servers with a certificate of their own
	// Keys encrypt before anything is sent; nil = in the clear.
	Keys *keyring.Ring
	// PackBelow is the size under which blocks are packed, 1 MiB by default; negative: none is. PackBytes is how large a pack
	// becomes, 8 MiB by default, and PackAge how long a block waits for others, 2 s by default.
	PackBelow, PackBytes int
	PackAge              time.Duration
	// Budget and MaxAge bound what Collect leaves: bytes of all objects, and time since a block was last written or read;
	// 0 = no bound.
	Budget int64
	MaxAge time.Duration
	// Refresh is how often Run looks for what others have put or removed, 30 s by default, and CollectEvery how often it
	// collects, 10 min by default.
	Refresh, CollectEvery time.Duration
	// Workers is how many reads, and how many writes, are under way at one time; 16 by default.
	Workers int
	// Timeout is how long a request may take until it answers, 3 s by default; what it carries may then come at 4 MiB/s.
	Timeout time.Duration
	// Cooldown is how long a bucket that failed several times is left alone at first; 1 s by default.
	Cooldown time.Duration
	Alloc    kvstore.Allocator // nil = Go's heap
	Moves    kvstore.Moves     // nil = nobody listens
	Log      zerolog.Logger
}

// withDefaults checks the options and fills in what is not set.
func (o Options) withDefaults() (Options, error) {
	if o.Budget < 0 || o.MaxAge < 0 || o.Workers < 0 || o.Timeout < 0 {
		return o, errors.New("object store: budget, age, workers and timeout must not be negative")
	}
	o.PackBelow = cmp.Or(o.PackBelow, 1<<20)
	o.PackBytes = cmp.Or(o.PackBytes, 8<<20)
	o.PackAge = cmp.Or(o.PackAge, 2*time.Second)
	o.Refresh = cmp.Or(o.Refresh, 30*time.Second)
	o.CollectEvery = cmp.Or(o.CollectEvery, 10*time.Minute)
	o.Workers = cmp.Or(o.Workers, 16)
	o.Timeout = cmp.Or(o.Timeout, 3*time.Second)
	o.Cooldown = cmp.Or(o.Cooldown, time.Second)
	if o.PackBytes < 64<<10 || o.PackBytes > 256<<20 {
		return o, fmt.Errorf("object store: packs must be between 64 KiB and 256 MiB (are %d bytes)", o.PackBytes)
	}
	if o.Alloc == nil {
		o.Alloc = kvstore.Heap{}
	}
	if o.Moves == nil {
		o.Moves = func(kvstore.Move) {}
	}
	return o, nil
}

// Store keeps blocks as objects. It is safe for concurrent use.
type Store struct {
	opts          Options
	bucket        bucket
	outgoing      outgoings
	patience      *patience
	count         counters
	closed        atomic.Bool
	life          context.Context // of what goes on in the background
	end           context.CancelFunc
	senders       chan struct{}
	largest       atomic.Int64 // object of one block so far
	looked        atomic.Bool  // a Refresh has succeeded
	unconditional atomic.Bool
	refresh       sync.Mutex // one at a time

	mu        sync.Mutex // guards all below, and is never held during a request
	filling   *pack
	sending   []*pack
	index     map[kvstore.Key]spot
	older     map[kvstore.Key][]spot // of keys in index: records in other packs that were put before
	packs     map[uint32]*packed
	byName    map[string]uint32
	number    uint32 // of the newest pack
	touched   map[string]time.Time
	latest    int64                      // time of a record
	marked    map[string]map[uint32]bool // records that are deleted, by pack and offset
	marksRead map[string]bool
	listed    *inventory // at the last collection
}

var _ kvstore.Store = (*Store)(nil)

// counters count since Open.
type counters struct {
	hits, misses, puts, drops, evicted, deleted, corrupt, errors, read, written, same atomic.Int64
}

// Open makes a store. It fails for options that cannot be right and for a folder that is not this user's; a bucket that
// cannot be reached is no error, since it may be later. It looks for packs for no longer than twice the timeout; where that is
// not enough, Run begins with it.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	t, err := parseTarget(o.URL, o.Endpoint)
	if err != nil {
		return nil, err
	}
	var b bucket
	if t.dir != "" {
		b, err = openFolder(t.dir)
	} else {
		b, err = openS3(t, o)
	}
	if err != nil {
		return nil, err
	}
	s := openOn(context.WithoutCancel(ctx), b, o)
	looking, cancel := context.WithTimeout(ctx, 2*o.Timeout)
	defer cancel()
	if err := s.Refresh(looking); err != nil {
		o.Log.Warn().Err(err).Str("bucket", b.String()).Msg("the object tier cannot be reached now")
	}
	return s, nil
}

// openOn makes a store over a bucket. o has its defaults.
func openOn(ctx context.Context, b bucket, o Options) *Store {
	s := &Store{
		opts: o, bucket: b, patience: newPatience(o.Workers, o.Timeout, o.Cooldown), index: map[kvstore.Key]spot{}, older: map[kvstore.Key][]spot{},
		packs: map[uint32]*packed{}, byName: map[string]uint32{}, touched: map[string]time.Time{},
		marked: map[string]map[uint32]bool{}, marksRead: map[string]bool{}, senders: make(chan struct{}, senders),
	}
	s.largest.Store(16 << 20)
	s.life, s.end = context.WithCancel(ctx)
	return s
}

// Run sends packs that have waited long enough, looks for what others have done, and collects, until ctx ends. It returns nil.
func (s *Store) Run(ctx context.Context) error {
	pack, refresh, collect := time.NewTicker(s.opts.PackAge), time.NewTicker(s.opts.Refresh), time.NewTicker(s.opts.CollectEvery)
	defer pack.Stop()
	defer refresh.Stop()
	defer collect.Stop()
	if !s.looked.Load() {
		_ = s.Refresh(ctx) // and again with the ticker
	}
	var last string
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-pack.C:
			err = s.flush(ctx)
		case <-refresh.C:
			err = s.Refresh(ctx)
		case <-collect.C:
			if s.opts.Budget > 0 || s.opts.MaxAge > 0 {
				_, err = s.Collect(ctx, Collection{})
			}
		}
		if err != nil && ctx.Err() == nil && err.Error() != last {
			s.opts.Log.Warn().Err(err).Str("bucket", s.bucket.String()).Msg("the object tier has a problem")
		}
		if last = ""; err != nil {
			last = err.Error()
		}
	}
}

// Sync returns when all that was put before is in the bucket.
func (s *Store) Sync(ctx context.Context) error { return s.flush(ctx) }

// Close sends what was not sent and ends the store. What goes on in the background, such as marks of blocks that were found
// corrupt, has half of the store's timeout to end by itself; requests that hang are waited for no longer than all of it.
func (s *Store) Close(ctx context.Context) error {
	err := s.flush(ctx)
	s.closed.Store(true)
	done := make(chan struct{})
	go func() { s.patience.running.Wait(); close(done) }()
	if !within(s.opts.Timeout/2, done) {
		s.end()
		if !within(s.opts.Timeout/2, done) {
			err = errors.Join(err, fmt.Errorf("close %s: %w", s.bucket, errSlow))
		}
	}
	s.end()
	if b, ok := s.bucket.(*s3); ok {
		b.idle()
	}
	return err
}

// within says whether something is done before a time is over.
func within(d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// Stats implements kvstore.Store. What a shared bucket holds is unknown before the first collection.
func (s *Store) Stats() kvstore.Stats {
	c := &s.count
	st := kvstore.Stats{
		Tier: kvstore.Object, Blocks: kvstore.Unknown, Bytes: kvstore.Unknown, Budget: s.opts.Budget,
		Hits: c.hits.Load(), Misses: c.misses.Load(), Puts: c.puts.Load(), Drops: c.drops.Load(), Evicted: c.evicted.Load(),
		Deleted: c.deleted.Load(), Corrupt: c.corrupt.Load(), Errors: c.errors.Load(), ReadBytes: c.read.Load(), WrittenBytes: c.written.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listed != nil {
		st.Blocks, st.Bytes = s.listed.blocks, s.listed.bytes
	}
	return st
}

// Detail is what only this store has beside kvstore.Stats.
type Detail struct {
	Packs, Packed int   // packs that are known, and blocks in them
	Waiting       int   // bytes that wait for their pack to be sent
	Same          int64 // puts of what was there already
	Retried       int64 // requests that were sent again after a failure
	Hedged        int64 // reads that were sent twice, since the first answer was late
	Opened        int64 // how often the bucket was left alone
	Open          bool  // it is now
}

// Detail returns a moment's picture.
func (s *Store) Detail() Detail {
	s.mu.Lock()
	d := Detail{Packs: len(s.packs), Packed: len(s.index), Same: s.count.same.Load()}
	if s.filling != nil {
		d.Waiting = len(s.filling.bytes)
	}
	for _, p := range s.sending {
		d.Waiting += len(p.bytes)
	}
	s.mu.Unlock()
	p := s.patience
	p.mu.Lock()
	defer p.mu.Unlock()
	d.Retried, d.Hedged, d.Opened, d.Open = p.retried, p.hedged, p.opened, !p.until.IsZero()
	return d
}
