package kvstore

import "time"

// Hint is what is known of a block beside its bytes, for eviction and flushing. It steers what is forgotten first and never
// what is returned; the zero Hint is always right.
type Hint struct {
	// Parent is the block that this one follows in its chain, and Depth the number of blocks before it. A chain is worth
	// only its leading run, so that leaves go first. Zero with Known false: no chain is known (an opaque key).
	Parent Name
	Depth  uint32
	Known  bool
	// Session is a number for the conversation that the block belongs to; zero = none known. Stay is until when it is
	// expected to go on; zero, with a Session: it is not.
	Session uint64
	Stay    time.Time
	// Recompute is what it would cost the engine to make the block again; zero = unknown.
	Recompute time.Duration
}
