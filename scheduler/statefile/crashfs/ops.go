package crashfs

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/penstock/penstock/scheduler/statefile"
)

// file is an open file.
type file struct {
	fs     *FS
	node   *node
	path   string
	offset int // -1: at the end
}

// change runs a change of the tree as one step.
func (f *FS) change(op, path string, do func(dir *node, name string) error) error {
	if err := f.step(op, path); err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, name, err := f.parent(path)
	if err != nil {
		return err
	}
	if err := do(dir, name); err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

// Create implements statefile.FS.
func (f *FS) Create(name string) (statefile.File, error) {
	n := &node{}
	err := f.change("create", name, func(dir *node, base string) error {
		if dir.names[base] != nil {
			return fs.ErrExist
		}
		dir.names[base] = n
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &file{fs: f, node: n, path: name}, nil
}

// Append implements statefile.FS.
func (f *FS) Append(name string) (statefile.File, error) {
	var n *node
	err := f.change("append", name, func(dir *node, base string) error {
		if dir.names[base] == nil {
			dir.names[base] = &node{}
		}
		n = dir.names[base]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &file{fs: f, node: n, path: name, offset: -1}, nil
}

// Overwrite implements statefile.FS.
func (f *FS) Overwrite(name string) (statefile.File, error) {
	var n *node
	err := f.change("overwrite", name, func(dir *node, base string) error {
		if n = dir.names[base]; n == nil {
			return fs.ErrNotExist
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &file{fs: f, node: n, path: name}, nil
}

// Write implements statefile.File.
func (o *file) Write(p []byte) (int, error) {
	err := o.fs.step("write", o.path)
	all := len(p)
	if err != nil {
		p = p[:all/2]
	}
	o.fs.mu.Lock()
	defer o.fs.mu.Unlock()
	data := slices.Clone(o.node.data)
	at := o.offset
	if at < 0 {
		at = len(data)
	} else {
		o.offset += len(p)
	}
	data = append(data, make([]byte, max(0, at+len(p)-len(data)))...)
	copy(data[at:], p)
	o.node.data = data
	if err != nil {
		return len(p), &fs.PathError{Op: "write", Path: o.path, Err: err}
	}
	return all, nil
}

// Sync implements statefile.File.
func (o *file) Sync() error {
	if err := o.fs.step("sync", o.path); err != nil {
		return &fs.PathError{Op: "sync", Path: o.path, Err: err}
	}
	o.fs.mu.Lock()
	defer o.fs.mu.Unlock()
	o.node.durable = o.node.data
	return nil
}

// Close implements statefile.File.
func (o *file) Close() error { return nil }

// Read implements statefile.FS.
func (f *FS) Read(name string, limit int64) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if n.dir || int64(len(n.data)) > limit {
		return nil, fmt.Errorf("read %s: a folder, or longer than %d bytes", name, limit)
	}
	return slices.Clone(n.data), nil
}

// List implements statefile.FS.
func (f *FS) List(dir string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(n.names))
	for name := range n.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// Mkdir implements statefile.FS.
func (f *FS) Mkdir(dir string) error {
	return f.change("mkdir", dir, func(parent *node, name string) error {
		if parent.names[name] != nil {
			return fs.ErrExist
		}
		parent.names[name] = newDir()
		return nil
	})
}

// Rename implements statefile.FS. Only renames in one folder are needed.
func (f *FS) Rename(from, to string) error {
	return f.change("rename", to, func(dir *node, name string) error {
		source, base, err := f.parent(from)
		if err != nil {
			return err
		}
		n := source.names[base]
		if n == nil {
			return fs.ErrNotExist
		}
		if old := dir.names[name]; old != nil && (old.dir || n.dir) {
			return fs.ErrExist
		}
		delete(source.names, base)
		dir.names[name] = n
		return nil
	})
}

// Link implements statefile.FS.
func (f *FS) Link(from, to string) error {
	return f.change("link", to, func(dir *node, name string) error {
		n, err := f.find(from)
		if err != nil {
			return err
		}
		if dir.names[name] != nil {
			return fs.ErrExist
		}
		dir.names[name] = n
		return nil
	})
}

// Remove implements statefile.FS.
func (f *FS) Remove(name string) error {
	return f.change("remove", name, func(dir *node, base string) error {
		n := dir.names[base]
		if n == nil {
			return fs.ErrNotExist
		}
		if len(n.names) > 0 {
			return fs.ErrExist // not empty
		}
		delete(dir.names, base)
		return nil
	})
}

// RemoveAll implements statefile.FS.
func (f *FS) RemoveAll(dir string) error {
	return f.change("removeall", dir, func(parent *node, name string) error {
		delete(parent.names, name)
		return nil
	})
}

// SyncDir implements statefile.FS.
func (f *FS) SyncDir(dir string) error {
	if err := f.step("syncdir", dir); err != nil {
		return &fs.PathError{Op: "sync", Path: dir, Err: err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(dir)
	if err != nil {
		return err
	}
	n.kept = make(map[string]*node, len(n.names))
	for name, child := range n.names {
		n.kept[name] = child
	}
	return nil
}
