// Package folder looks after a folder into which engines write their KV blocks themselves, one file for each: vLLM's fs tier,
// SGLang's file storage, NIXL's POSIX storage. These write, read, and leave cleaning to others. The package finds what is there,
// evicts within a budget, copies new blocks to a store below and back to a folder that has lost them, and reads files again from
// time to time to find those that have changed.
//
// Engines read these files without asking: a damaged block is noticed when it is read here again, and not when it is used. So
// nothing in a folder counts as verified, and the folder is never what a deployment gets unasked.
//
// The folder is 0700 and ours, and no link is followed in it: what is not a regular file of our own user, with one name, is left
// alone. The package knows no engine's layout but how names of ranks' parts differ (group.go). The agent calls it.
package folder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// Options say what is looked after. Zero bounds are replaced by the defaults.
type Options struct {
	Dir string // all of it counts for the budget
	// Sub is the folder below Dir in which the engine works now: that of its weights. Only blocks in it are copied down and back.
	Sub    string
	Budget int64             // bytes
	Store  kvstore.Store     // below; nil = nothing is copied
	Alloc  kvstore.Allocator // for what is copied
	Space  kvstore.Space
	Counts front.Door
	Log    zerolog.Logger

	Every   time.Duration // between two looks; default 10 s
	Settle  time.Duration // a file that was written to more recently is not looked at; default 5 s
	Scrub   int64         // bytes read again at each look; default 256 MiB
	MaxFile int64         // bytes; larger ones are not copied; default 512 MiB
}

const (
	defaultEvery   = 10 * time.Second
	defaultSettle  = 5 * time.Second
	defaultScrub   = 256 << 20
	defaultMaxFile = 512 << 20
	maxFiles       = 4_000_000
	maxDepth       = 8
)

// Folder is one that is looked after. Run is its loop; Stats may be called at any time.
type Folder struct {
	o    Options
	root *os.Root

	mu    sync.Mutex
	files map[string]*file // by path below Dir, with slashes
	bytes int64
	stats Stats

	listed int64 // blocks that had been copied when the list was written; Run's own
}

// file is what is known of one block.
type file struct {
	size    int64
	written time.Time
	used    time.Time
	sum     uint32
	known   bool // sum is that of the bytes when it was first read
	copied  bool // the store has had it
	read    time.Time
}

// Stats is a moment's picture. Blocks in a folder are never verified when they are used: Unread are those that were not even
// read here yet.
type Stats struct {
	Files, Bytes, Budget     int64
	Unread                   int64
	Evicted, Corrupt, Copied int64
	Restored, Errors         int64
	OldestRead               time.Time // of what was read; zero = nothing was
}

// Open takes a folder over, and makes it where it is not there. It starts nothing.
func Open(o Options) (*Folder, error) {
	o.Every = cmp.Or(o.Every, defaultEvery)
	o.Settle = cmp.Or(o.Settle, defaultSettle)
	o.Scrub = cmp.Or(o.Scrub, defaultScrub)
	o.MaxFile = cmp.Or(o.MaxFile, defaultMaxFile)
	if !filepath.IsLocal(o.Sub) {
		return nil, fmt.Errorf("folder %q leads out of %s", o.Sub, o.Dir)
	}
	if err := os.MkdirAll(filepath.Dir(o.Dir), 0o700); err != nil {
		return nil, fmt.Errorf("open the folder of KV files: %w", err)
	}
	if err := own(o.Dir); err != nil {
		return nil, fmt.Errorf("open the folder of KV files: %w", err)
	}
	root, err := os.OpenRoot(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder of KV files: %w", err)
	}
	if err := root.MkdirAll(o.Sub, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("open the folder of KV files: %w", err), root.Close())
	}
	return &Folder{o: o, root: root, files: map[string]*file{}}, nil
}

// own makes a folder that only we can enter, or makes sure that it is one.
func own(dir string) error {
	if err := os.Mkdir(dir, 0o700); err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is no folder", dir)
	case int(st.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to user %d", dir, st.Uid)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%s is open to others (%o): chmod 700 it", dir, st.Mode&0o777)
	}
	return nil
}

// Close lets go of the folder, after Run has returned. The files stay.
func (f *Folder) Close() error { return f.root.Close() }

// Stats says what is in the folder.
func (f *Folder) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Files, s.Bytes, s.Budget = int64(len(f.files)), f.bytes, f.o.Budget
	for _, e := range f.files {
		switch {
		case !e.known:
			s.Unread++
		case s.OldestRead.IsZero() || e.read.Before(s.OldestRead):
			s.OldestRead = e.read
		}
	}
	return s
}

// Run looks after the folder until the context ends: first it brings back what the store has and the folder has not.
func (f *Folder) Run(ctx context.Context) {
	f.scan(time.Now())
	f.restore(ctx)
	t := time.NewTicker(f.o.Every)
	defer t.Stop()
	for {
		f.Look(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Look does once what Run does again and again.
func (f *Folder) Look(ctx context.Context, now time.Time) {
	f.scan(now)
	f.evict()
	f.adopt(ctx, now)
	f.scrub(ctx, now)
	f.writeList(ctx)
}

// scan finds what is there now.
func (f *Folder) scan(now time.Time) {
	seen := map[string]bool{}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := fs.WalkDir(f.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // it has gone meanwhile, or can't be read: not ours to judge
		case d.IsDir() && strings.Count(name, "/") >= maxDepth:
			return fs.SkipDir
		case d.IsDir() || !isBlock(name) || len(seen) >= maxFiles:
			return nil
		}
		st, ok := f.lstat(name)
		if !ok {
			return nil
		}
		seen[name] = true
		written, used := time.Unix(st.Mtim.Unix()), time.Unix(st.Atim.Unix())
		e := f.files[name]
		if e == nil || e.size != st.Size || !e.written.Equal(written) {
			if e != nil {
				f.bytes -= e.size
			}
			e = &file{size: st.Size, written: written}
			f.files[name] = e
			f.bytes += e.size
		}
		if e.used = used; written.After(used) {
			e.used = written
		}
		return nil
	})
	if err != nil {
		f.stats.Errors++
	}
	for name, e := range f.files {
		if !seen[name] {
			f.bytes -= e.size
			delete(f.files, name)
		}
	}
}

// isBlock tells blocks from engines' own notes and from files that are being written.
func isBlock(name string) bool {
	base := path.Base(name)
	return !strings.HasPrefix(base, ".") && !strings.HasSuffix(base, ".json") && !strings.Contains(base, ".tmp") && !strings.HasSuffix(base, ".lock")
}

// lstat looks at a file without following a link to it; ok is false for what is not a regular file of ours with one name.
func (f *Folder) lstat(name string) (st *syscall.Stat_t, ok bool) {
	info, err := f.root.Lstat(filepath.FromSlash(name))
	if err != nil {
		return nil, false
	}
	return ours(info)
}

func ours(info fs.FileInfo) (st *syscall.Stat_t, ok bool) {
	st, ok = info.Sys().(*syscall.Stat_t)
	return st, ok && info.Mode().IsRegular() && st.Nlink == 1 && int(st.Uid) == os.Getuid()
}

// open opens a block for reading, if it is still the one that is known: no link, and nobody else's.
func (f *Folder) open(name string, e *file) (*os.File, error) {
	r, err := f.root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := r.Stat()
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if _, ok := ours(info); !ok || info.Size() != e.size || !info.ModTime().Equal(e.written) {
		return nil, errors.Join(errChanged, r.Close())
	}
	return r, nil
}

// errChanged: the file is not the one that was found. The next look finds what it is now.
var errChanged = errors.New("the file has changed")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf reads a file as it is now.
func (f *Folder) sumOf(name string, e *file) (uint32, error) {
	r, err := f.open(name, e)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	h := crc32.New(castagnoli)
	if n, err := io.CopyN(h, r, e.size); err != nil {
		return 0, fmt.Errorf("read %s: %d bytes: %w", name, n, err)
	}
	return h.Sum32(), nil
}
