package object

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

// inventory is what a listing found.
type inventory struct{ blocks, bytes int64 }

// Collected is what a collection did.
type Collected struct {
	Kept, KeptBytes       int64 // objects
	Removed, RemovedBytes int64
}

// heapOf is what is kept or removed together: a pack, or all parts of a block.
type heapOf struct {
	names    []string
	bytes    int64
	modified time.Time
}

const (
	nowName  = "now" // an object that is put to learn the time of the bucket
	orphaned = time.Hour
)

// Collection says how a collection is done. The zero value is the usual one.
type Collection struct {
	DryRun   bool            // removes nothing, and says what would be
	Progress func(Collected) // nil, or called after each removal, by one goroutine at a time
}

// Collect removes what is older than MaxAge, and the oldest of what is beyond Budget, by the clock of the bucket. Any number
// of stores may do so at one time: what is removed twice is gone, what somebody reads or writes meanwhile is a miss.
func (s *Store) Collect(ctx context.Context, how Collection) (Collected, error) {
	now, err := s.bucketTime(ctx)
	if err != nil {
		return Collected{}, err
	}
	all, c, err := s.heaps(ctx)
	if err != nil {
		return Collected{}, err
	}
	c, failed := s.removeHeaps(ctx, s.surplus(all, c.KeptBytes, now), c, how)
	if how.DryRun {
		return c, failed
	}
	s.mu.Lock()
	s.listed = &inventory{blocks: c.Kept, bytes: c.KeptBytes}
	s.mu.Unlock()
	return c, errors.Join(failed, s.removeOrphans(ctx, now))
}

// heaps lists what is there, the oldest first.
func (s *Store) heaps(ctx context.Context) (all []*heapOf, c Collected, err error) {
	groups := map[string]*heapOf{}
	for _, prefix := range []string{"b/", "p/"} {
		err := s.list(ctx, prefix, func(name string, st stat) error {
			at := name
			if prefix == "b/" {
				at = name[:max(0, strings.LastIndexByte(name, '-'))] // without its part
			}
			g := groups[at]
			if g == nil {
				g = &heapOf{}
				groups[at] = g
				all = append(all, g)
			}
			g.names, g.bytes = append(g.names, name), g.bytes+st.size
			if st.modified.After(g.modified) {
				g.modified = st.modified
			}
			c.Kept++
			c.KeptBytes += st.size
			return nil
		})
		if err != nil {
			return nil, c, err
		}
	}
	slices.SortFunc(all, func(a, b *heapOf) int { return a.modified.Compare(b.modified) })
	return all, c, nil
}

// surplus is the beginning of what is there that is too old or too much.
func (s *Store) surplus(all []*heapOf, bytes int64, now time.Time) []*heapOf {
	for i, g := range all {
		old := s.opts.MaxAge > 0 && now.Sub(g.modified) > s.opts.MaxAge
		if !old && (s.opts.Budget == 0 || bytes <= s.opts.Budget) {
			return all[:i]
		}
		bytes -= g.bytes
	}
	return all
}

// removeHeaps removes some of them at one time, the oldest first, since a bucket may hold many small ones.
func (s *Store) removeHeaps(ctx context.Context, surplus []*heapOf, c Collected, how Collection) (Collected, error) {
	var mu sync.Mutex
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(max(1, s.opts.Workers/2))
	for _, h := range surplus {
		if within.Err() != nil {
			break
		}
		g.Go(func() error {
			if !how.DryRun {
				if err := s.removeAll(within, h.names); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			n := int64(len(h.names))
			c.Kept, c.KeptBytes, c.Removed, c.RemovedBytes = c.Kept-n, c.KeptBytes-h.bytes, c.Removed+n, c.RemovedBytes+h.bytes
			if how.Progress != nil {
				how.Progress(c)
			}
			return nil
		})
	}
	err := errors.Join(g.Wait(), ctx.Err())
	return c, err
}

// bucketTime is the time by the bucket's clock, which is the one that dates objects: clocks of nodes differ.
func (s *Store) bucketTime(ctx context.Context) (time.Time, error) {
	if err := s.putObject(ctx, nowName, []byte("penstock"), false); err != nil {
		return time.Time{}, fmt.Errorf("learn the time of %s: %w", s.bucket, err)
	}
	st, err := ask(ctx, s.patience, s.patience.reads, 0, false, func(ctx context.Context) (stat, error) { return s.bucket.Stat(ctx, nowName) }, func(stat) {})
	if err != nil {
		return time.Time{}, fmt.Errorf("learn the time of %s: %w", s.bucket, err)
	}
	return st.modified, nil
}

// removeAll removes objects. Who follows the news hears it before.
func (s *Store) removeAll(ctx context.Context, names []string) error {
	for _, name := range names {
		if k, ok := parseBlockName(name); ok {
			s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Object})
			s.count.evicted.Add(1)
		}
		s.mu.Lock()
		n, ok := s.byName[name]
		s.mu.Unlock()
		if ok {
			s.count.evicted.Add(int64(s.countOf(n)))
			s.dropPacks(map[uint32]bool{n: true})
		}
		if err := s.deleteObject(ctx, name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return nil
}

func (s *Store) countOf(pack uint32) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.index {
		if at.pack == pack {
			n++
		}
	}
	return n
}

// removeOrphans removes marks of packs that are gone, and what a killed writer left in a folder.
func (s *Store) removeOrphans(ctx context.Context, now time.Time) error {
	packs := map[string]bool{}
	err := s.list(ctx, "p/", func(name string, _ stat) error {
		if id, _, _, ok := parsePackName(name); ok {
			packs[id] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	var orphans []string
	for _, prefix := range []string{"d/", temporary + "/"} {
		err := s.list(ctx, prefix, func(name string, st stat) error {
			fields := strings.Split(name, "/")
			if now.Sub(st.modified) > orphaned && (len(fields) != 3 || !packs[fields[1]]) {
				orphans = append(orphans, name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, name := range orphans {
		if err := s.deleteObject(ctx, name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return nil
}

// touch keeps an object that is read from being collected for its age: at most once in a quarter of the time, and not while it
// is young.
func (s *Store) touch(name string, stored int64) {
	const forever = 30 * 24 * time.Hour
	age := cmp.Or(s.opts.MaxAge, forever)
	now := time.Now()
	if s.opts.MaxAge == 0 && s.opts.Budget == 0 || now.Sub(time.Unix(0, stored)) < age/2 {
		return
	}
	s.mu.Lock()
	if len(s.touched) > 100_000 {
		clear(s.touched)
	}
	recent := now.Sub(s.touched[name]) < age/4
	if !recent {
		s.touched[name] = now
	}
	s.mu.Unlock()
	if recent {
		return
	}
	s.behind(func(ctx context.Context) error {
		_, err := ask(ctx, s.patience, s.patience.writes, 0, false, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.bucket.Touch(ctx, name)
		}, func(struct{}) {})
		return err
	})
}

// Described is what the manifest says of a space: whose blocks they are, in words. Nothing depends on it.
type Described struct {
	Space  string         `json:"space"`
	Layout kvstore.Layout `json:"layout"`
	Tenant string         `json:"tenant"`
	Key    string         `json:"key,omitempty"` // the ID of the key that encrypted when it was written
	Since  time.Time      `json:"since"`
}

// Describe writes down what a space is, for people who look at the bucket. It does nothing where that is there already.
func (s *Store) Describe(ctx context.Context, l kvstore.Layout, tenant string) error {
	space := kvstore.NewSpace(l, tenant)
	d := Described{Space: fmt.Sprintf("%x", space), Layout: l, Tenant: tenant, Since: time.Now().UTC()}
	if k := s.opts.Keys.Current(); k != nil && k.ID() != (keyring.ID{}) {
		d.Key = k.ID().String()
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	err = s.putObject(ctx, "spaces/"+d.Space+".json", append(text, '\n'), true)
	if errors.Is(err, errExists) {
		return nil
	}
	return err
}

const maxManifest = 64 << 10

// Spaces returns what the manifest says.
func (s *Store) Spaces(ctx context.Context) (all []Described, err error) {
	var names []string
	err = s.list(ctx, "spaces/", func(name string, _ stat) error { names = append(names, name); return nil })
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		text, err := s.getBytes(ctx, name, 0, maxManifest)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		var d Described
		if err := json.Unmarshal(text, &d); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		all = append(all, d)
	}
	return all, nil
}
