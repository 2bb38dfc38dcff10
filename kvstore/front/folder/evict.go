package folder

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock/penstock/kvstore/front"
)

// keepPart: where there is too much, an eleventh is made free, so that not every look has to evict.
const keepPart = 10

// evict deletes what was not used for longest, all ranks' parts of a block together, until the budget holds.
func (f *Folder) evict() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.o.Budget <= 0 || f.bytes <= f.o.Budget {
		return
	}
	type group struct {
		names []string
		used  time.Time
	}
	groups := map[string]*group{}
	for name, e := range f.files {
		key := groupOf(name)
		g := groups[key]
		if g == nil {
			g = &group{}
			groups[key] = g
		}
		if g.names = append(g.names, name); e.used.After(g.used) {
			g.used = e.used
		}
	}
	order := make([]*group, 0, len(groups))
	for _, g := range groups {
		order = append(order, g)
	}
	slices.SortFunc(order, func(a, b *group) int { return a.used.Compare(b.used) })
	for _, g := range order {
		if f.bytes <= f.o.Budget/(keepPart+1)*keepPart {
			return
		}
		for _, name := range g.names {
			f.remove(name, "evict")
			f.stats.Evicted++
		}
	}
}

// remove deletes a file. The caller holds the lock.
func (f *Folder) remove(name, why string) {
	if err := f.root.Remove(filepath.FromSlash(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.stats.Errors++
		f.o.Counts.Command(why, front.Error)
		return
	}
	f.o.Counts.Command(why, front.OK)
	f.bytes -= f.files[name].size
	delete(f.files, name)
}
