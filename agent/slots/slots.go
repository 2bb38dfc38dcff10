// Package slots gives llama-server a block store: it saves, stores, fetches, rebuilds and restores the slots of an unpatched
// server around requests, so that a prompt that any replica has read before is not read again.
//
// For each request it learns the prompt's token ids from the server itself, looks how many leading blocks the store has,
// picks an idle slot, restores the blocks there where that gains something over what the slot holds, and names the slot in
// the request. After the answer it saves the slot and stores the blocks that are new. A slot holds the tokens of one tenant:
// it is erased before another one's request, whose time to the first token would otherwise tell what was asked before.
//
// Everything here is for speed. Whenever something is in doubt (a prompt with images, an answer of the server that is not
// understood, a slow store), the request goes on, and the server reads the prompt itself: all of it, where it is not sure that
// the slot holds nothing of another tenant's. What is restored is checked:
// by the store (bytes), by the blocks (shape), by their names (tokens), and by the server's count of restored tokens.
//
// A request whose KV means something else than its tokens (LoRA adapters of its own) has a slot to itself, which is neither
// restored nor saved. Without a store, slots are dealt out and erased all the same, so that tenants stay apart.
//
// It does not know gateways, tiers, or how the server is started; it wants -kvu, --no-cache-idle-slots and flash attention.
package slots

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
)

// Options are what a Slots works with.
type Options struct {
	// Engine reaches the server, whatever the URL's host; Authorize adds its key to a request.
	Engine    http.RoundTripper
	Authorize func(http.Header)
	Dir       string        // the server's --slot-save-path; ours to read and write
	Store     kvstore.Store // nil: nothing is restored or stored
	Alloc     kvstore.Allocator
	// Space is where a tenant's blocks are. It must tell apart all that changes what KV bytes mean: weights, arguments.
	Space       func(tenant string) kvstore.Space
	BlockTokens int
	Metrics     *Metrics
	Log         zerolog.Logger

	// Patience is how long a request may wait for token ids and blocks before it goes on without; default 2 s for each.
	Patience time.Duration
}

const (
	defaultPatience = 2 * time.Second
	saveWithin      = time.Minute
	// savePart: a slot is saved again when at least a sixteenth of its tokens is new, since the server can save only all of it.
	savePart = 16
)

// Slots is the state of one start of the server. Its methods are safe for concurrent use.
type Slots struct {
	o     Options
	start string // tells its files from those of an earlier start, which may still be read
	files atomic.Int64
	saves sync.WaitGroup
	// saving ends with stop: what Close does not wait for any longer.
	saving context.Context //nolint:containedctx // of goroutines that outlive the call that starts them
	stop   context.CancelFunc

	mu       sync.Mutex
	passing  int                    // requests without a slot that the server has now
	underWay map[chan struct{}]bool // one for each of saves, closed at its end
	slots    []*slot
	changed  chan struct{} // closed when a slot becomes idle
	ended    bool
	clock    int64
}

// slot is what is known of one of the server's slots. Its fields belong to whoever has made it busy.
type slot struct {
	id     int
	busy   bool
	used   int64    // when it was last given back, by Slots.clock
	tokens []uint32 // what it holds; nil = not known or nothing
	tenant string   // whose tokens these are
	dirty  bool     // may hold something that we have not put there
	passed bool     // as dirty, by a request without a slot; guarded by Slots.mu at all times
	stored int      // leading tokens that the store has had
}

// Open asks the server how many slots it has. It is to be called once the server answers.
func Open(ctx context.Context, o Options) (*Slots, error) {
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	s := &Slots{o: o, start: rand.Text(), changed: make(chan struct{}), underWay: map[chan struct{}]bool{}}
	n, err := s.total(ctx)
	if err != nil {
		return nil, err
	}
	s.saving, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	for i := range n {
		s.slots = append(s.slots, &slot{id: i, dirty: true})
	}
	return s, nil
}

// Lease is a slot that one request has for itself. Its owner calls End exactly once, when the answer is over.
type Lease struct {
	s      *Slots
	slot   *slot // nil: the server chooses one
	prompt []uint32
	names  []kvstore.Name
	tenant string
	from   Source
	alone  bool   // what the slot holds afterwards is nobody's to use
	saved  func() // called when the slot is saved; nil = nobody waits
}

// Source is another agent that may have blocks which the store lacks. A block is lent to each.
type Source interface {
	Fetch(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error
}

// Request is what is asked of the server.
type Request struct {
	Tenant, Path string
	Body         []byte
	From         Source // who has read the prompt just now; nil = nobody
}

// Take prepares a slot for a request and returns the body that names it, or one that has the server read all of a prompt that
// is more than one text. It waits while all slots are busy; the only error is the context's.
func (s *Slots) Take(ctx context.Context, q Request) (*Lease, []byte, error) {
	ids, cancel := context.WithTimeout(ctx, s.o.Patience)
	prompt, err := s.promptIDs(ids, q.Path, q.Body)
	cancel()
	alone := errors.Is(err, errOwnKV)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		s.o.Metrics.passed.Inc()
		s.o.Log.Debug().Err(err).Msg("request goes on without the KV store")
		if !alone {
			s.pass(1)
			return &Lease{s: s}, uncached(q.Body), nil
		}
	}
	slot, err := s.acquire(ctx, q.Tenant, prompt)
	if err != nil {
		return nil, nil, err
	}
	l := &Lease{s: s, slot: slot, prompt: prompt, tenant: q.Tenant, from: q.From, alone: alone}
	if alone {
		slot.dirty = true
		return l, uncached(withSlot(q.Body, slot.id)), nil
	}
	l.names = chain(prompt, s.o.BlockTokens)
	if err := l.prepare(ctx); err != nil {
		s.release(slot)
		return nil, nil, err
	}
	body := withSlot(q.Body, slot.id)
	if slot.dirty {
		body = uncached(body)
	}
	return l, body, nil
}

// pass notes that a request without a slot begins (1) or ends (-1): it may leave its tokens in any of them.
func (s *Slots) pass(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passing += by
	for _, c := range s.slots {
		c.passed = true
	}
}

// touched says whether a request without a slot may have been in this one since it was taken.
func (s *Slots) touched(c *slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passing > 0 || c.passed
}

// acquire waits for an idle slot and takes the one that suits best: with the longest common prefix of the same tenant, else the one that
// was used longest ago.
func (s *Slots) acquire(ctx context.Context, tenant string, prompt []uint32) (*slot, error) {
	for {
		s.mu.Lock()
		best, most := (*slot)(nil), -1
		for _, c := range s.slots {
			if c.busy {
				continue
			}
			n := 0
			if c.tenant == tenant {
				n = common(c.tokens, prompt)
			}
			if n > most || n == most && c.used < best.used {
				best, most = c, n
			}
		}
		if best != nil {
			best.busy, best.dirty, best.passed = true, best.dirty || best.passed, false
			s.mu.Unlock()
			return best, nil
		}
		wait := s.changed
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Slots) release(c *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	c.busy, c.used = false, s.clock
	close(s.changed)
	s.changed = make(chan struct{})
}

// prepare brings the slot's content as near to the prompt as it gets.
func (l *Lease) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.s.o.Patience, errSlow)
	defer cancel()
	has := 0
	if l.slot.tenant == l.tenant && !l.slot.dirty {
		has = common(l.slot.tokens, l.prompt)
	} else if err := l.s.erase(ctx, l.slot); err != nil {
		l.slot.tenant = l.tenant // whose tokens will be in it: what it still holds is not read
		return patient(ctx, err)
	}
	l.slot.tenant = l.tenant
	if l.s.o.Store == nil {
		l.s.o.Metrics.reused.Add(float64(has))
		return patient(ctx, nil)
	}
	found := l.s.present(ctx, l.s.o.Space(l.tenant), l.names)
	if l.from != nil && found < len(l.names) && found*l.s.o.BlockTokens >= has-l.s.o.BlockTokens {
		found = l.fetch(ctx, found)
	}
	l.slot.stored = max(min(l.slot.stored, has), found*l.s.o.BlockTokens) // of this prompt
	if gain := found*l.s.o.BlockTokens - has; gain < l.s.o.BlockTokens {
		l.s.o.Metrics.reused.Add(float64(has))
		return patient(ctx, nil)
	}
	n, err := l.s.restore(ctx, l, found)
	if err != nil {
		l.s.o.Metrics.failed.WithLabelValues("restore").Inc()
		l.s.o.Log.Warn().Err(err).Int("slot", l.slot.id).Msg("slot not restored; the engine reads the prompt")
	}
	l.s.o.Metrics.restored.Add(float64(n))
	return patient(ctx, nil)
}

// errSlow ends the preparation, not the request.
var errSlow = errors.New("the KV store took too long")

// patient leaves of a preparation's error only what ends the request itself.
func patient(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errSlow) {
		return cause
	}
	_ = err // a slot that can't be prepared is a slow one
	return nil
}

// EndSaved is End, and returns when what is new in the slot is stored: for a prefill, whose answer is that it is there.
func (l *Lease) EndSaved(ctx context.Context) {
	saved := make(chan struct{})
	l.saved = func() { close(saved) }
	l.End(true)
	select {
	case <-saved:
	case <-ctx.Done():
	}
}

// End gives the slot back; answered says that the server has given all of its answer. What is new in the slot is stored
// first, by a goroutine that Close waits for: the client need not.
func (l *Lease) End(answered bool) {
	s := l.s
	if l.slot == nil {
		s.pass(-1)
		if l.saved != nil {
			l.saved()
		}
		return
	}
	s.mu.Lock()
	ended := s.ended
	over := make(chan struct{})
	if !ended {
		s.saves.Add(1)
		s.underWay[over] = true
	}
	s.mu.Unlock()
	// Until it is saved and read, nobody knows what the slot holds: the prompt for sure, if the request got that far.
	l.slot.dirty = true
	saved := l.saved
	if saved == nil {
		saved = func() {}
	}
	if ended || l.alone || s.o.Store == nil {
		l.settle(answered)
		s.release(l.slot)
		saved()
		if !ended {
			s.over(over)
			s.saves.Done()
		}
		return
	}
	go func() {
		defer s.saves.Done()
		defer s.over(over)
		defer s.release(l.slot)
		defer saved()
		ctx, cancel := context.WithTimeout(s.saving, saveWithin)
		defer cancel()
		if err := s.save(ctx, l, answered); err != nil {
			s.o.Metrics.failed.WithLabelValues("save").Inc()
			s.o.Log.Warn().Err(err).Int("slot", l.slot.id).Msg("slot not saved")
		}
	}()
}

// settle notes what a slot holds that is not saved.
func (l *Lease) settle(answered bool) {
	l.slot.tokens, l.slot.dirty = nil, true
	if answered && !l.alone && l.s.o.Store == nil { // the prompt at least, and what follows it is the same tenant's
		l.slot.tokens, l.slot.dirty = l.prompt, false
	}
}

// over ends a save.
func (s *Slots) over(save chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.underWay, save)
	close(save)
}

// Settle waits until the saves are over that are under way now.
func (s *Slots) Settle(ctx context.Context) error {
	s.mu.Lock()
	saving := slices.Collect(maps.Keys(s.underWay))
	s.mu.Unlock()
	for _, save := range saving {
		select {
		case <-save:
		case <-ctx.Done():
			return fmt.Errorf("save slots: %w", ctx.Err())
		}
	}
	return nil
}

// Close takes no more saves and waits for those under way, until the context ends; then it ends them too.
func (s *Slots) Close(ctx context.Context) error {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	defer s.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.saves.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.stop()
		<-done // the store and the server's folder are the caller's again
		return fmt.Errorf("save slots: %w", ctx.Err())
	}
}

// chain names the whole blocks of a prompt. The last token is not counted: the server always reads it again.
func chain(tokens []uint32, step int) []kvstore.Name {
	names := make([]kvstore.Name, 0, len(tokens)/step)
	var parent kvstore.Name
	for part := range slices.Chunk(tokens, step) {
		if len(part) < step {
			break
		}
		parent = kvstore.ChainName(parent, part)
		names = append(names, parent)
	}
	return names
}

func common(a, b []uint32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// file is a name in the server's folder that nothing else has.
func (s *Slots) file() (name, path string) {
	name = "penstock-" + s.start + "-" + strconv.FormatInt(s.files.Add(1), 10) + ".bin"
	return name, filepath.Join(s.o.Dir, name)
}

func remove(path string) { _ = os.Remove(path) } // the folder goes with the run
