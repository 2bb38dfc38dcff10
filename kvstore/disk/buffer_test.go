package disk

import (
	"testing"

	"pgregory.net/rapid"
)

// TestBuffers are aligned, long enough, not much longer, and of one size in each pool.
func TestBuffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 4<<20).Draw(t, "bytes")
		var p buffers
		b := p.get(n)
		if len(b) != n || cap(b)%page != 0 || !isAligned(b[:cap(b)]) || cap(b) > max(n+n/7, n+page, page) {
			t.Fatalf("%d bytes: length %d, capacity %d", n, len(b), cap(b))
		}
		pool, _ := p.class(n)
		if again, size := p.class(cap(b)); again != pool || size != cap(b) {
			t.Fatalf("%d bytes: a buffer of %d does not go back to its pool", n, cap(b))
		}
	})
}
