package sim

// pool is a GPU's cache of paged KV, with prefix caching and the order of eviction that vLLM has: what is used last goes last,
// and of one sequence the later blocks before the earlier ones. It counts pages; what they hold is known in units, runs of as many
// pages as a block of the trace has tokens.
type pool struct {
	total, unused int // pages; what is cached and not in use is unused
	blank         int // of the unused: pages that hold nothing
	published     int // units that were named so far
	unit          int // pages of a named unit
	units         map[uint64]*unit
	free          unit // ring of what is cached and not in use; free.next goes first
	spare         *unit
	gone          func(id uint64) // a named unit is no longer whole
}

// unit is a run of pages: a named one, or what a sequence leaves behind that nobody will ask for.
type unit struct {
	id         uint64
	named      bool
	pages      int
	refs       int
	prev, next *unit
}

func newPool(pages, perUnit int, gone func(uint64)) *pool {
	p := &pool{total: pages, unused: pages, blank: pages, unit: perUnit, units: map[uint64]*unit{}, gone: gone}
	p.free.prev, p.free.next = &p.free, &p.free
	return p
}

// use is the share of pages in use, 0 to 1.
func (p *pool) use() float64 { return 1 - float64(p.unused)/float64(p.total) }

// take gives out pages, and forgets what they held; false, and nothing happens, where there are too few.
func (p *pool) take(n int) bool {
	if n > p.unused {
		return false
	}
	p.unused -= n
	k := min(n, p.blank)
	p.blank -= k
	for n -= k; n > 0; {
		u := p.free.next
		k := min(n, u.pages)
		if u.named && u.pages == p.unit {
			p.gone(u.id)
		}
		u.pages -= k
		n -= k
		if u.pages == 0 {
			p.unlink(u)
			if u.named {
				delete(p.units, u.id)
			}
			p.recycle(u)
		}
	}
	return true
}

// find gives the unit of that name, whole or what is left of its beginning; nil where there is none.
func (p *pool) find(id uint64) *unit { return p.units[id] }

// acquire adds a user to a whole unit.
func (p *pool) acquire(u *unit) {
	if u.refs == 0 {
		p.unlink(u)
		p.unused -= u.pages
	}
	u.refs++
}

// adopt gives what is left of a unit to one user, as pages without a name.
func (p *pool) adopt(u *unit) (pages int) {
	p.unlink(u)
	delete(p.units, u.id)
	pages = u.pages
	p.unused -= pages
	p.recycle(u)
	return pages
}

// publish names a run of pages in use, if no other one has the name already.
func (p *pool) publish(id uint64) *unit {
	if p.units[id] != nil {
		return nil
	}
	p.published++
	u := p.make()
	u.id, u.named, u.pages, u.refs = id, true, p.unit, 1
	p.units[id] = u
	return u
}

// release takes a user from a unit.
func (p *pool) release(u *unit) {
	if u.refs--; u.refs == 0 {
		p.unused += u.pages
		p.append(u)
	}
}

// leave gives pages back that nobody will ask for; they hold something all the same, and wait for their turn.
func (p *pool) leave(pages int) {
	if pages == 0 {
		return
	}
	p.unused += pages
	u := p.make()
	u.pages = pages
	p.append(u)
}

func (p *pool) append(u *unit) {
	last := p.free.prev
	u.prev, u.next = last, &p.free
	last.next, p.free.prev = u, u
}

func (p *pool) unlink(u *unit) {
	u.prev.next, u.next.prev = u.next, u.prev
	u.prev, u.next = nil, nil
}

func (p *pool) make() *unit {
	u := p.spare
	if u == nil {
		return &unit{}
	}
	p.spare = u.next
	*u = unit{}
	return u
}

func (p *pool) recycle(u *unit) {
	*u = unit{next: p.spare}
	p.spare = u
}
