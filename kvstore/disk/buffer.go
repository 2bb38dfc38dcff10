package disk

import (
	"math/bits"
	"sync"
	"unsafe"
)

// page is what offsets, lengths and memory are aligned to where the page cache is passed by: no disk that is sold has larger
// sectors.
const page = 4096

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// aligned returns n bytes that begin on a page.
func aligned(n int) []byte {
	b := make([]byte, n+page)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % page)
	return b[skip : skip+n : skip+n]
}

func isAligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%page == 0
}

// buffers are aligned buffers for the way between blocks and the disk. There are as many as reads and writes at one time,
// since each gives its own back; those that nobody needs go with the garbage. Eight sizes lie between two powers of two, so that
// a block of 16 MiB and its header do not take 32.
type buffers struct {
	classes [64][8]sync.Pool
}

// class is the pool for n bytes, and how many they become.
func (p *buffers) class(n int) (*sync.Pool, int) {
	power := bits.Len(uint(max(n, page) - 1))
	step := max(power-4, bits.Len(uint(page-1)))
	size := int(roundUp(int64(max(n, page)), 1<<step))
	return &p.classes[power][(size-1)>>step&7], size
}

// get returns a buffer of n bytes with undefined content.
func (p *buffers) get(n int) []byte {
	pool, size := p.class(n)
	if b, ok := pool.Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return aligned(size)[:n]
}

// put gives a buffer of get back.
func (p *buffers) put(b []byte) {
	b = b[:cap(b)]
	pool, _ := p.class(len(b))
	pool.Put(&b)
}
