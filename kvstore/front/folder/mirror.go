package folder

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// pending lists the blocks for which want is true, the oldest first.
func (f *Folder) pending(want func(name string, e *file) bool, by func(*file) time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name, e := range f.files {
		if want(name, e) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return by(f.files[a]).Compare(by(f.files[b])) })
	return names
}

// look is what is known of a file now; nil: it has gone.
func (f *Folder) look(name string) *file {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.files[name]; e != nil {
		known := *e
		return &known
	}
	return nil
}

// note changes what is known of a file, unless it is another one by now.
func (f *Folder) note(name string, was *file, change func(*file)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.files[name]; e != nil && e.size == was.size && e.written.Equal(was.written) {
		change(e)
	}
}

func (f *Folder) count(change func(*Stats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.stats)
}

func (f *Folder) below(name string) bool {
	return f.o.Sub == "." || strings.HasPrefix(name, filepath.ToSlash(f.o.Sub)+"/")
}

// keyOf is a block's name in the store below: its path within Sub, which is the engine's own name of it.
func (f *Folder) keyOf(name string) kvstore.Key {
	return kvstore.Key{Space: f.o.Space, Name: kvstore.OpaqueName("file\x00" + strings.TrimPrefix(name, filepath.ToSlash(f.o.Sub)+"/"))}
}

// adopt reads each new block once: for its checksum, and to copy it to the store below.
func (f *Folder) adopt(ctx context.Context, now time.Time) {
	settled := func(e *file) bool { return now.Sub(e.written) >= f.o.Settle }
	names := f.pending(func(name string, e *file) bool {
		return settled(e) && (!e.known || f.o.Store != nil && !e.copied && f.below(name) && e.size <= f.o.MaxFile)
	}, func(e *file) time.Time { return e.written })
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		e := f.look(name)
		if e == nil {
			continue
		}
		err := f.adoptOne(ctx, name, e, now)
		switch {
		case errors.Is(err, errChanged):
		case errors.Is(err, kvstore.ErrFull), errors.Is(err, kvstore.ErrUnavailable): // the store has counted it; later
			f.o.Counts.Command("copy", front.Dropped)
			return
		case err != nil:
			f.o.Counts.Command("copy", front.Error)
			f.count(func(s *Stats) { s.Errors++ })
		}
	}
}

func (f *Folder) adoptOne(ctx context.Context, name string, e *file, now time.Time) error {
	if f.o.Store == nil || !f.below(name) || e.size > f.o.MaxFile {
		sum, err := f.sumOf(name, e)
		if err != nil {
			return err
		}
		f.note(name, e, func(e *file) { e.sum, e.known, e.read = sum, true, now })
		return nil
	}
	r, err := f.open(name, e)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := f.o.Alloc.Alloc(int(e.size))
	if err != nil {
		return err
	}
	defer b.Release()
	if _, err := io.ReadFull(r, b.Bytes()); err != nil {
		return err
	}
	if b.Seal(); e.known && b.Sum() != e.sum { // it was right once: what it is now goes nowhere
		return f.damaged(name, e)
	}
	f.note(name, e, func(e *file) { e.sum, e.known, e.read = b.Sum(), true, now })
	if err := f.o.Store.Put(ctx, f.keyOf(name), b, kvstore.Hint{}); err != nil {
		return err
	}
	f.note(name, e, func(e *file) { e.copied = true })
	f.count(func(s *Stats) { s.Copied++ })
	f.o.Counts.Command("copy", front.OK)
	f.o.Counts.In.Add(float64(e.size))
	return nil
}

// damaged deletes a block that has changed since it was first read, though nobody has written to it.
func (f *Folder) damaged(name string, e *file) error {
	f.o.Log.Warn().Str("file", name).Int64("bytes", e.size).Msg("a KV file has changed by itself: it is deleted")
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.files[name]; now != nil && now.written.Equal(e.written) {
		f.remove(name, "damaged")
		f.stats.Corrupt++
	}
	return nil
}

// scrub reads what was not read for longest.
func (f *Folder) scrub(ctx context.Context, now time.Time) {
	names := f.pending(func(_ string, e *file) bool { return e.known && e.read.Before(now) }, func(e *file) time.Time { return e.read })
	left := f.o.Scrub
	for _, name := range names {
		e := f.look(name)
		if e == nil {
			continue
		}
		if left -= e.size; left < 0 || ctx.Err() != nil {
			return
		}
		switch sum, err := f.sumOf(name, e); {
		case errors.Is(err, errChanged), errors.Is(err, os.ErrNotExist):
		case err != nil:
			f.o.Counts.Command("scrub", front.Error)
			f.count(func(s *Stats) { s.Errors++ })
		case sum != e.sum:
			_ = f.damaged(name, e)
		default:
			f.o.Counts.Command("scrub", front.OK)
			f.note(name, e, func(e *file) { e.read = now })
		}
	}
}

// The list of what was copied is a block of the store too, since stores don't list.
type listed struct {
	Name string `json:"name"` // within Sub
	Size int64  `json:"size"`
	Sum  uint32 `json:"sum"`
	Used int64  `json:"used"` // seconds since 1970
}

const (
	maxListed    = 200_000
	maxListBytes = 64 << 20
)

func (f *Folder) listKey() kvstore.Key {
	return kvstore.Key{Space: f.o.Space, Name: kvstore.OpaqueName("penstock folder list 1")}
}

// readList is what the store's list says. Other nodes write it too.
func (f *Folder) readList(ctx context.Context) map[string]listed {
	all := map[string]listed{}
	b, err := f.o.Store.Get(ctx, f.listKey())
	if err != nil {
		return all
	}
	defer b.Release()
	var list []listed
	if b.Len() > maxListBytes || json.Unmarshal(b.Bytes(), &list) != nil {
		return all
	}
	for _, l := range list {
		if filepath.IsLocal(l.Name) && path.Clean(l.Name) == l.Name && isBlock(l.Name) && l.Size >= 0 && l.Size <= f.o.MaxFile {
			all[l.Name] = l
		}
	}
	return all
}

// writeList adds what was copied to the list, if it is not there yet.
func (f *Folder) writeList(ctx context.Context) {
	if f.o.Store == nil {
		return
	}
	mine := map[string]listed{}
	f.mu.Lock()
	copied := f.stats.Copied
	if copied == f.listed {
		f.mu.Unlock()
		return
	}
	for name, e := range f.files {
		if e.copied {
			short := strings.TrimPrefix(name, filepath.ToSlash(f.o.Sub)+"/")
			mine[short] = listed{short, e.size, e.sum, e.used.Unix()}
		}
	}
	f.mu.Unlock()
	all := f.readList(ctx)
	maps.Copy(all, mine)
	list := slices.SortedFunc(maps.Values(all), func(a, b listed) int { return int(min(max(b.Used-a.Used, -1), 1)) })
	text, err := json.Marshal(list[:min(len(list), maxListed)])
	if err != nil {
		return
	}
	b, err := f.o.Alloc.Alloc(len(text))
	if err != nil {
		return
	}
	defer b.Release()
	copy(b.Bytes(), text)
	if err := f.o.Store.Put(ctx, f.listKey(), b.Seal(), kvstore.Hint{}); err != nil {
		f.o.Counts.Command("list", front.Dropped)
		return
	}
	f.listed = copied
}

// restore writes what the store has and the folder has not, the most recently used first, until most of the budget is full.
func (f *Folder) restore(ctx context.Context) {
	if f.o.Store == nil {
		return
	}
	all := f.readList(ctx)
	list := slices.SortedFunc(maps.Values(all), func(a, b listed) int { return int(min(max(b.Used-a.Used, -1), 1)) })
	for _, l := range list {
		name := path.Join(filepath.ToSlash(f.o.Sub), l.Name)
		f.mu.Lock()
		full, there := f.o.Budget > 0 && f.bytes+l.Size > f.o.Budget/(keepPart+1)*keepPart, f.files[name] != nil
		f.mu.Unlock()
		if full || ctx.Err() != nil {
			return
		}
		if there {
			continue
		}
		b, err := f.o.Store.Get(ctx, f.keyOf(name))
		if err != nil {
			continue
		}
		if err = errChanged; int64(b.Len()) == l.Size && b.Sum() == l.Sum {
			err = f.write(name, b)
		}
		b.Release()
		if err != nil {
			f.o.Counts.Command("restore", front.Error)
			f.count(func(s *Stats) { s.Errors++ })
			continue
		}
		f.o.Counts.Command("restore", front.OK)
		f.o.Counts.Out.Add(float64(l.Size))
		f.count(func(s *Stats) { s.Restored++ })
	}
}

// write makes a file as engines make theirs: under another name first, so that nobody reads half of it.
func (f *Folder) write(name string, b *kvstore.Block) error {
	local := filepath.FromSlash(name)
	if err := f.root.MkdirAll(filepath.Dir(local), 0o700); err != nil {
		return err
	}
	temp := local + ".penstock.tmp"
	_ = f.root.Remove(temp)
	w, err := f.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	if err = errors.Join(err, w.Close()); err == nil {
		err = f.root.Rename(temp, local)
	}
	if err != nil {
		return errors.Join(err, f.root.Remove(temp))
	}
	st, ok := f.lstat(name)
	if !ok {
		return errChanged
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	written := time.Unix(st.Mtim.Unix())
	f.files[name] = &file{size: st.Size, written: written, used: written, sum: b.Sum(), known: true, copied: true, read: written}
	f.bytes += st.Size
	return nil
}
