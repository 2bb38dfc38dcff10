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
// since each gives its own back; those that nobody needs go with the garbage.
type buffers struct {
	classes [64]sync.Pool // by the logarithm of their length
}

// get returns a buffer of n bytes with undefined content.
func (p *buffers) get(n int) []byte {
	class := bits.Len(uint(max(n, page) - 1))
	if b, ok := p.classes[class].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return aligned(1 << class)[:n]
}

// put gives a buffer of get back.
func (p *buffers) put(b []byte) {
	b = b[:cap(b)]
	p.classes[bits.Len(uint(len(b)-1))].Put(&b)
}
