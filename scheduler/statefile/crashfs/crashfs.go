// Package crashfs is a file system in memory for tests of what is written with package statefile. It forgets at a crash
// what was never synced, as a machine may that loses its power, and lets a test fail or stop any single step.
//
// It is no file system for real use: it has no modes, owners, symbolic links or open files that can be read.
package crashfs

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/penstock/penstock/scheduler/statefile"
)

// Step is one call that changes the file system.
type Step struct {
	N    int    // counts from 1
	Op   string // create, write, sync, rename, link, remove, removeall, mkdir, syncdir, append, overwrite
	Path string
}

// FS is the file system. Safe for concurrent use.
type FS struct {
	mu     sync.Mutex
	root   *node
	steps  int
	syncs  int
	before func(Step) error
}

var _ statefile.FS = (*FS)(nil)

// node is a file or a folder. What is durable lags behind what is visible until somebody syncs it.
type node struct {
	dir     bool
	data    []byte
	durable []byte
	names   map[string]*node
	kept    map[string]*node // durable names of a folder
}

func newDir() *node {
	return &node{dir: true, names: map[string]*node{}, kept: map[string]*node{}}
}

// New returns an empty file system.
func New() *FS { return &FS{root: newDir()} }

// Before sets what is called before each step, without a lock, so it may use the file system itself. Its error is the
// step's: nothing is done then, but for a write, of which the first half is done. nil takes it away.
func (f *FS) Before(before func(Step) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

// Steps is how many steps there were.
func (f *FS) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steps
}

// Syncs is how many of the steps made something durable: what costs time on a real disk.
func (f *FS) Syncs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.syncs
}

// Killed returns what a new process finds after the writing one was killed: everything that was visible.
func (f *FS) Killed() *FS { return f.after(func(bool) bool { return true }) }

// Crashed returns what a new process finds after the machine has crashed. keep is asked for each change that was not
// synced whether it survives by luck.
func (f *FS) Crashed(keep func() bool) *FS {
	return f.after(func(synced bool) bool { return synced || keep() })
}

func (f *FS) after(keep func(synced bool) bool) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[*node]*node{}
	return &FS{root: f.root.after(keep, seen)}
}

// after copies a node; files with several names stay one file.
func (n *node) after(keep func(bool) bool, seen map[*node]*node) *node {
	if c, ok := seen[n]; ok {
		return c
	}
	if !n.dir {
		data := n.durable
		if keep(slices.Equal(n.data, n.durable)) {
			data = n.data
		}
		c := &node{data: slices.Clone(data), durable: slices.Clone(data)}
		seen[n] = c
		return c
	}
	c := newDir()
	seen[n] = c
	all := map[string]bool{}
	for name := range n.names {
		all[name] = true
	}
	for name := range n.kept {
		all[name] = true
	}
	sorted := make([]string, 0, len(all))
	for name := range all {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted) // so that a seed gives the same crash again
	for _, name := range sorted {
		child := n.kept[name]
		if keep(n.names[name] == child) {
			child = n.names[name]
		}
		if child != nil {
			c.names[name] = child.after(keep, seen)
			c.kept[name] = c.names[name]
		}
	}
	return c
}

// step asks the test before a change.
func (f *FS) step(op, path string) error {
	f.mu.Lock()
	f.steps++
	if strings.Contains(op, "sync") {
		f.syncs++
	}
	s, before := Step{N: f.steps, Op: op, Path: path}, f.before
	f.mu.Unlock()
	if before != nil {
		return before(s)
	}
	return nil
}

// find returns a node; the lock is held.
func (f *FS) find(path string) (*node, error) {
	n := f.root
	for part := range strings.SplitSeq(filepath.Clean(path), "/") {
		if part == "" || part == "." {
			continue
		}
		if !n.dir || n.names[part] == nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		n = n.names[part]
	}
	return n, nil
}

// parent returns the folder that a path is in.
func (f *FS) parent(path string) (dir *node, name string, err error) {
	dir, err = f.find(filepath.Dir(filepath.Clean(path)))
	if err == nil && !dir.dir {
		err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrInvalid}
	}
	return dir, filepath.Base(path), err
}
