package disk

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// memFS is a folder in memory. It loses at a crash what was never synced, sector by sector, and does what a test tells it
// before each step.
type memFS struct {
	mu     sync.Mutex
	names  map[string]*memFile
	kept   map[string]*memFile // durable names
	direct bool
	locked bool
	gone   bool
	room   int64 // bytes that files may take; 0 = no limit
	before func(op, name string) error
}

// memFile is a file: what is seen, and what is durable of the sectors that have changed since they were synced.
type memFile struct {
	data    []byte
	durable map[int64][sector]byte // by their begin
	size    int64                  // durable
}

const sector = 512

func newMemFS(direct bool) *memFS {
	return &memFS{names: map[string]*memFile{}, kept: map[string]*memFile{}, direct: direct}
}

// step is asked before each change and each read.
func (m *memFS) step(op, name string) error {
	m.mu.Lock()
	before, gone := m.before, m.gone
	m.mu.Unlock()
	if gone {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	if before == nil {
		return nil
	}
	if err := before(op, name); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

func (m *memFS) setBefore(before func(op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = before
}

// crashed is what is found after the machine has crashed. keep is asked for each sector and name that was not synced.
func (m *memFS) crashed(keep func() bool) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMemFS(m.direct)
	all := maps.Clone(m.names)
	maps.Copy(all, m.kept)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := m.kept[name]
		if f != m.names[name] && keep() {
			f = m.names[name]
		}
		if f != nil {
			survived := f.crashed(keep)
			c.names[name], c.kept[name] = survived, survived
		}
	}
	return c
}

// killed is what is found after the process was killed: all that was visible.
func (m *memFS) killed() *memFS { return m.crashed(func() bool { return true }) }

func (f *memFile) crashed(keep func() bool) *memFile {
	size := f.size
	if int64(len(f.data)) != size && keep() {
		size = int64(len(f.data))
	}
	data := make([]byte, size)
	copy(data, f.data)
	for _, at := range slices.Sorted(maps.Keys(f.durable)) { // so that a seed gives the same crash again
		if was := f.durable[at]; at < size && !keep() {
			copy(data[at:], was[:])
		}
	}
	return &memFile{data: data, size: size, durable: map[int64][sector]byte{}}
}

// allocated is what all files take. The lock is held.
func (m *memFS) allocated() (n int64) {
	for _, f := range m.names {
		n += int64(len(f.data))
	}
	return n
}

func (m *memFS) Lock() (func() error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked {
		return nil, ErrInUse
	}
	m.locked = true
	return func() error { m.mu.Lock(); m.locked = false; m.mu.Unlock(); return nil }, nil
}

func (m *memFS) Create(name string) (file, error) {
	if err := m.step("create", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] != nil {
		return nil, fs.ErrExist
	}
	m.names[name] = &memFile{durable: map[int64][sector]byte{}}
	return &memHandle{m, name, m.names[name]}, nil
}

func (m *memFS) Open(name string) (file, error) {
	if err := m.step("open", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memHandle{m, name, m.names[name]}, nil
}

func (m *memFS) List() ([]string, error) {
	if err := m.step("list", ""); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.names)), nil
}

func (m *memFS) Remove(name string) error {
	if err := m.step("remove", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.names, name)
	return nil
}

func (m *memFS) Sync() error {
	if err := m.step("syncdir", ""); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = maps.Clone(m.names)
	return nil
}

func (m *memFS) Direct() bool { return m.direct }
func (m *memFS) Close() error { return nil }

// remember keeps what is durable of a range that is about to change.
func (f *memFile) remember(at, end int64) {
	for at = at / sector * sector; at < end; at += sector {
		if _, ok := f.durable[at]; !ok {
			var was [sector]byte
			copy(was[:], f.data[min(at, int64(len(f.data))):])
			f.durable[at] = was
		}
	}
}

type memHandle struct {
	m    *memFS
	name string
	f    *memFile
}

var errAlign = errors.New("not aligned")

func (h *memHandle) aligned(at int64, bufs ...[]byte) error {
	for _, b := range bufs {
		if h.m.direct && (at%page != 0 || len(b)%page != 0 || len(b) > 0 && !isAligned(b)) {
			return errAlign
		}
	}
	return nil
}

// grow makes the file longer where there is room. The lock is held.
func (h *memHandle) grow(size int64) error {
	more := size - int64(len(h.f.data))
	if more <= 0 {
		return nil
	}
	if h.m.room > 0 && h.m.allocated()+more > h.m.room {
		return &fs.PathError{Op: "write", Path: h.name, Err: unix.ENOSPC}
	}
	h.f.data = append(h.f.data, make([]byte, more)...)
	return nil
}

func (h *memHandle) WriteAt(p []byte, at int64) error {
	failed := h.m.step("write", h.name)
	if err := h.aligned(at, p); err != nil {
		return err
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if failed != nil {
		p = p[:len(p)/2/page*page] // torn as a kill tears it: between pages
	}
	if err := h.grow(at + int64(len(p))); err != nil {
		return err
	}
	h.f.remember(at, at+int64(len(p)))
	copy(h.f.data[at:], p)
	return failed
}

func (h *memHandle) ReadAt(at int64, into ...[]byte) error {
	if err := h.m.step("read", h.name); err != nil {
		return err
	}
	if err := h.aligned(at, into...); err != nil {
		return err
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	for _, b := range into {
		if at+int64(len(b)) > int64(len(h.f.data)) {
			return io.ErrUnexpectedEOF
		}
		at += int64(copy(b, h.f.data[at:]))
	}
	return nil
}

func (h *memHandle) Size() (int64, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *memHandle) Allocated() (int64, error) { return h.Size() }

func (h *memHandle) Reserve(size int64) error {
	if err := h.m.step("reserve", h.name); err != nil {
		return err
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	return h.grow(size)
}

func (h *memHandle) Truncate(size int64) error {
	if err := h.m.step("truncate", h.name); err != nil {
		return err
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if now := int64(len(h.f.data)); size < now {
		h.f.remember(size, now)
		h.f.data = h.f.data[:size:size]
	}
	return h.grow(size)
}

func (h *memHandle) Sync() error {
	if err := h.m.step("sync", h.name); err != nil {
		return err
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	clear(h.f.durable)
	h.f.size = int64(len(h.f.data))
	return nil
}

func (h *memHandle) Close() error { return nil }
