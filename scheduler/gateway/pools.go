package gateway

import (
	"sync"
	"time"

	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/route"
)

// pools keep what every request needs and gives back.
type pools struct {
	candidates candidatePool
	buffers    bufferPool
}

// candidateList is the replicas that one request may go to, in the order of their launches.
type candidateList struct {
	members    []*member
	candidates []route.Candidate
	held       []blocks.Held // scratch
}

func (l *candidateList) add(m *member, now time.Time) {
	l.members = append(l.members, m)
	l.candidates = append(l.candidates, m.candidate(now))
}

type candidatePool struct{ pool sync.Pool }

func (p *candidatePool) get() *candidateList {
	if l, ok := p.pool.Get().(*candidateList); ok {
		return l
	}
	return &candidateList{}
}

func (p *candidatePool) put(l *candidateList) {
	clear(l.members)
	clear(l.candidates)
	l.members, l.candidates = l.members[:0], l.candidates[:0]
	p.pool.Put(l)
}

// bufferSize holds a burst of tokens; a first chunk with a long prompt's token ids makes the buffer grow.
const bufferSize = 8 << 10

// keptBuffer is the largest buffer that goes back into the pool.
const keptBuffer = 64 << 10

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, bufferSize)
}

func (p *bufferPool) put(b []byte) {
	if cap(b) >= bufferSize && cap(b) <= keptBuffer {
		b = b[:cap(b)]
		p.pool.Put(&b)
	}
}
