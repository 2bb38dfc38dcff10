package mem

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
)

// putValue stores n bytes of one value and returns the block.
func putValue(t *testing.T, s *Store, k kvstore.Key, value byte, n int) *kvstore.Block {
	t.Helper()
	b, err := s.Alloc(n)
	if err != nil {
		t.Fatal(err)
	}
	copy(b.Bytes(), bytes.Repeat([]byte{value}, n))
	if err := s.Put(t.Context(), k, b.Seal(), kvstore.Hint{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSharedIsReadOnly: who is given the descriptor sees the block where it lies, and can't change it.
func TestSharedIsReadOnly(t *testing.T) {
	t.Parallel()
	s := New(Options{Bytes: 64 << 20, Shared: true})
	defer s.Close()
	k := kvstore.Key{Name: kvstore.Name{1}}
	first := putValue(t, s, kvstore.Key{}, 3, 10_000)
	b := putValue(t, s, k, 7, 10_000)
	p, ok := s.Locate(b)
	if !ok || p.Offset == 0 || p.Offset+int64(b.Len()) > p.Bytes {
		t.Fatalf("it lies at %+v", p)
	}
	fd := int(p.File.Fd())
	view, err := unix.Mmap(fd, 0, int(p.Bytes), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(view) }()
	if !bytes.Equal(view[p.Offset:p.Offset+10_000], b.Bytes()) {
		t.Error("the block is not where it is said to be")
	}
	if _, err := unix.Mmap(fd, 0, int(p.Bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EACCES) {
		t.Errorf("mapped for writing: %v", err)
	}
	if err := unix.Mprotect(view, unix.PROT_READ|unix.PROT_WRITE); !errors.Is(err, unix.EACCES) {
		t.Errorf("made writable: %v", err)
	}
	if _, err := unix.Pwrite(fd, []byte{1}, p.Offset); !errors.Is(err, unix.EBADF) {
		t.Errorf("written: %v", err)
	}
	if err := unix.Ftruncate(fd, 1); err == nil {
		t.Error("cut short: whoever reads it would be killed")
	}
	first.Release()
	b.Release()
	if _, ok := New(Options{Bytes: 1 << 20}).Locate(b); ok {
		t.Error("a block of another store was located")
	}
}

// TestSharedMemoryGoesBack: what one size of blocks no longer needs is the kernel's again, and another size's.
func TestSharedMemoryGoesBack(t *testing.T) {
	t.Parallel()
	s := New(Options{Bytes: 16 << 20, Shared: true})
	defer s.Close()
	for i := range 16 {
		putValue(t, s, kvstore.Key{Name: kvstore.Name{byte(i)}}, 1, 1<<20).Release()
	}
	for i := range 64 {
		putValue(t, s, kvstore.Key{Name: kvstore.Name{byte(i), 1}}, byte(i), 200_000).Release()
	}
	if m := s.Memory(); m > 16<<20 {
		t.Errorf("%d bytes are committed", m)
	}
	b, err := s.Get(t.Context(), kvstore.Key{Name: kvstore.Name{63, 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	p, _ := s.Locate(b)
	var st unix.Stat_t
	if err := unix.Fstat(int(p.File.Fd()), &st); err != nil || st.Blocks*512 > 17<<20 {
		t.Errorf("the file holds %d bytes (%v)", st.Blocks*512, err)
	}
}
