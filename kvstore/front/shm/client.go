package shm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
)

// Client leases blocks of one other process. Its methods may be called from several goroutines; requests go one at a time.
type Client struct {
	c *net.UnixConn

	asking sync.Mutex // one request and its answer
	mu     sync.Mutex
	maps   map[uint32][]byte // regions, by the other process's numbers
	out    int               // blocks that somebody holds
	closed bool
}

// Dial connects to a door. Who listens there must be of our own user, by the kernel's word.
func Dial(ctx context.Context, path string, peerUID func(net.Conn) (int, error)) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, Network, path)
	if err != nil {
		return nil, fmt.Errorf("connect to the shared memory of a neighbour: %w", err)
	}
	if uid, err := peerUID(conn); err != nil || uid != os.Getuid() {
		return nil, errors.Join(fmt.Errorf("shared memory at %s is user %d's, not ours", path, uid), err, conn.Close())
	}
	return &Client{c: conn.(*net.UnixConn), maps: map[uint32][]byte{}}, nil
}

// Fetch calls each for every block that the other process has, with the index of its key. The block is lent: who keeps it
// beyond the call retains it, and its bytes are the other process's, for as long as somebody holds it. What does not come is a
// miss. Nobody has checked the bytes yet: who uses or copies them checks what it got (Check, or SealAs of the copy).
func (c *Client) Fetch(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	for from := 0; from < len(keys); from += maxKeys {
		want := make([]int, min(maxKeys, len(keys)-from))
		for i := range want {
			want[i] = from + i
		}
		for len(want) > 0 {
			left, err := c.some(ctx, keys, want, each)
			if err != nil {
				return err
			}
			if len(left) == len(want) { // nothing came, though we hold nothing: the rest is not there
				break
			}
			want = left
		}
	}
	return nil
}

// some asks for the keys of these indices and returns those that did not come. That may be for what we held meanwhile.
func (c *Client) some(ctx context.Context, keys []kvstore.Key, want []int, each func(i int, b *kvstore.Block) error) (left []int, err error) {
	part := make([]kvstore.Key, len(want))
	for n, i := range want {
		part[n] = keys[i]
	}
	blocks, err := c.ask(ctx, part)
	came := make([]bool, len(want))
	for _, b := range blocks {
		came[b.index] = true
		if err == nil {
			err = each(want[b.index], b.block)
		}
		b.block.Release()
	}
	for n, i := range want {
		if !came[n] {
			left = append(left, i)
		}
	}
	return left, err
}

// leased is a block of an answer.
type leased struct {
	index int
	block *kvstore.Block
}

// ask makes one request. The blocks are the caller's to release.
func (c *Client) ask(ctx context.Context, keys []kvstore.Key) (blocks []leased, err error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.c.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			_ = c.c.Close() // an answer may still come: nobody could tell whose
		}
	}()
	if _, err := c.c.Write(request{op: opAsk, keys: keys}.bytes()); err != nil {
		return nil, fmt.Errorf("ask a neighbour for shared blocks: %w", err)
	}
	buf, rights := make([]byte, maxAnswer+1), make([]byte, unix.CmsgSpace(4*maxKeys))
	n, rn, _, _, err := c.c.ReadMsgUnix(buf, rights)
	if err != nil {
		return nil, fmt.Errorf("ask a neighbour for shared blocks: %w", err)
	}
	files, err := descriptors(rights[:rn])
	defer func() {
		for _, fd := range files {
			_ = unix.Close(fd) // the mappings stay
		}
	}()
	if err != nil {
		return nil, err
	}
	places, err := readPlaces(buf[:n], len(keys))
	if err != nil {
		return nil, err
	}
	return c.take(places, files)
}

// descriptors are the files that came with a packet, which the caller closes.
func descriptors(rights []byte) (fds []int, err error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, fmt.Errorf("%w: %w", errProtocol, err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// take maps what is new and makes blocks of the places.
func (c *Client) take(places []place, files []int) (blocks []leased, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range places {
		region := c.maps[p.region]
		if region == nil {
			if len(files) == 0 {
				return blocks, fmt.Errorf("%w: no descriptor came for region %d", errProtocol, p.region)
			}
			if region, err = mapRegion(files[0], p.bytes); err != nil {
				return blocks, err
			}
			_ = unix.Close(files[0])
			copy(files, files[1:]) // the caller closes those that are left, and closed ones are none of them
			files[len(files)-1] = -1
			files = files[:len(files)-1]
			c.maps[p.region] = region
		}
		if p.offset+p.size > uint64(len(region)) {
			return blocks, fmt.Errorf("%w: a block beyond its region", errProtocol)
		}
		b := kvstore.NewBlock(region[p.offset:p.offset+p.size:p.offset+p.size], c)
		b.Slot = uint64(p.lease)
		c.out++
		blocks = append(blocks, leased{int(p.index), b.SealUnchecked(p.sum)})
	}
	return blocks, nil
}

// mapRegion maps a file that can't become shorter than it is: else whoever read it would be killed by its end.
func mapRegion(fd int, bytes uint64) ([]byte, error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, errors.Join(fmt.Errorf("%w: the memory is not sealed", errProtocol), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || uint64(st.Size) < bytes {
		return nil, errors.Join(fmt.Errorf("%w: the memory is smaller than it says", errProtocol), err)
	}
	data, err := unix.Mmap(fd, 0, int(bytes), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d MiB of a neighbour's memory: %w", bytes>>20, err)
	}
	_ = unix.Madvise(data, unix.MADV_DONTDUMP)
	return data, nil
}

// Free implements kvstore.Owner: the lease is given back.
func (c *Client) Free(b *kvstore.Block, _ []byte) {
	_, _ = c.c.Write(request{op: opRelease, leases: []uint32{uint32(b.Slot)}}.bytes())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out--
	c.unmap()
}

// Close ends the connection. Memory of which somebody still holds blocks stays mapped until these are released; the door
// may change it from now on.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.unmap()
	return c.c.Close()
}

// unmap gives all mappings back once nobody can need them. The caller holds the lock.
func (c *Client) unmap() {
	if !c.closed || c.out > 0 {
		return
	}
	for id, data := range c.maps {
		_ = unix.Munmap(data)
		delete(c.maps, id)
	}
}
