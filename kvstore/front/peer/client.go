package peer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/penstock/penstock/kvstore"
)

// Client asks one agent for blocks.
type Client struct {
	// Do sends a request to the agent; the URL's host is a stand-in that it replaces. Requests run side by side on
	// connections of their own.
	Do      func(*http.Request) (*http.Response, error)
	Alloc   kvstore.Allocator
	Streams int // requests at one time; 0 = 4
}

const (
	defaultStreams = 4
	attempts       = 3       // in a row that bring nothing
	readBuffer     = 4 << 10 // for heads of records: blocks are read past it
)

// Fetch calls each for every block that the agent has, one at a time, with the index of its key, as they come. The block is
// lent: who keeps it beyond the call retains it. What does not come is a miss and no error; an error says that the agent could not be
// asked for everything, or is each's own. Blocks have been checked.
func (c *Client) Fetch(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &fetch{Client: c, keys: keys, each: each, stop: cancel}
	parts := c.Streams
	if parts == 0 {
		parts = defaultStreams
	}
	var streams sync.WaitGroup
	for _, part := range split(len(keys), parts) {
		streams.Go(func() {
			if err := f.part(ctx, part); err != nil {
				f.fail(err)
			}
		})
	}
	streams.Wait()
	return f.err
}

// split deals the indices of n keys into so many parts, neighbours into different ones: so the first blocks of a prefix come
// first, whatever the number of parts.
func split(n, parts int) [][]int {
	out := make([][]int, min(parts, n))
	for i := range n {
		out[i%len(out)] = append(out[i%len(out)], i)
	}
	return out
}

type fetch struct {
	*Client
	keys []kvstore.Key
	each func(int, *kvstore.Block) error
	stop context.CancelCauseFunc

	mu  sync.Mutex // one call of each at a time
	err error
}

func (f *fetch) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		f.stop(err)
	}
}

// part fetches the keys of these indices, and after a broken connection what is left of them.
func (f *fetch) part(ctx context.Context, want []int) error {
	for try := 1; len(want) > 0; try++ {
		now := want[:min(len(want), MaxKeys)]
		got, whole, err := f.ask(ctx, now)
		if len(got) > 0 {
			try = 1 // it gets on
		}
		switch {
		case whole:
			want, try = want[len(now):], 0
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case try == attempts || !errors.Is(err, errBroken):
			return err
		}
		left := make([]int, 0, len(want))
		for _, i := range want {
			if !got[i] {
				left = append(left, i)
			}
		}
		want = left
	}
	return nil
}

// errBroken: the connection ended too early, or a block was hurt on its way. Asking again may help.
var errBroken = errors.New("the agent's answer broke off")

// ask makes one request. whole says that the answer came to its end; got which blocks did.
func (f *fetch) ask(ctx context.Context, want []int) (got map[int]bool, whole bool, err error) {
	keys := make([]kvstore.Key, len(want))
	for i, k := range want {
		keys[i] = f.keys[k]
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+Path, bytes.NewReader(packKeys(keys)))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Content-Type", ContentType)
	resp, err := f.Do(req)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errBroken, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != ContentType {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return nil, false, fmt.Errorf("ask an agent for blocks: it answered %d: %s", resp.StatusCode, bytes.TrimSpace(text))
	}
	in := bufio.NewReaderSize(resp.Body, readBuffer)
	got = map[int]bool{}
	for n := uint32(0); ; n++ {
		r, err := readRecord(in)
		if err != nil {
			return got, false, fmt.Errorf("%w: %w", errBroken, err)
		}
		if r.index == theEnd {
			if r.sum != n || r.size != 0 {
				return got, false, fmt.Errorf("%w: %d blocks came and it says %d", ErrProtocol, n, r.sum)
			}
			if _, err := in.ReadByte(); err == nil {
				return got, false, fmt.Errorf("%w: more comes after the end", ErrProtocol)
			} // at its end, the connection is good for the next request
			return got, true, nil
		}
		if int(r.index) >= len(want) || r.size > MaxBlock || got[want[r.index]] {
			return got, false, fmt.Errorf("%w: block %d of %d with %d bytes", ErrProtocol, r.index, len(want), r.size)
		}
		if err := f.block(in, want[r.index], r); err != nil {
			return got, false, err
		}
		got[want[r.index]] = true
	}
}

// block reads one block and passes it on. Without room for it, it is read and dropped: a miss.
func (f *fetch) block(in io.Reader, i int, r record) error {
	b, err := f.Alloc.Alloc(int(r.size))
	if err != nil {
		if _, err := io.CopyN(io.Discard, in, int64(r.size)); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		return nil
	}
	defer b.Release()
	if _, err := io.ReadFull(in, b.Bytes()); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := b.SealAs(r.sum); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	return f.each(i, b)
}
