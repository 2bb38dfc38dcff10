package object

import (
	"sync"
	"sync/atomic"
)

// outgoing is memory for an object that is sent. It is used again, since fresh memory of this size costs as much as the copy
// into it.
type outgoing struct {
	bytes []byte
	users atomic.Int32 // requests that read it
}

// outgoings are those that nobody uses. The zero value is ready.
type outgoings struct{ pool sync.Pool }

// get returns one of at least n bytes.
func (p *outgoings) get(n int) *outgoing {
	if o, ok := p.pool.Get().(*outgoing); ok && cap(o.bytes) >= n {
		return o
	}
	return &outgoing{bytes: make([]byte, 0, n)}
}

// put gives it back, unless a request that nobody waits for still reads it: then it goes with that one. No request begins to
// read it any more: one that is late finds its context ended, after it has counted itself.
func (p *outgoings) put(o *outgoing) {
	if o.users.Load() == 0 {
		p.pool.Put(o)
	}
}
