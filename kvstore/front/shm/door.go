package shm

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// Options of a door. Zero bounds are replaced by the defaults.
type Options struct {
	Store kvstore.Store
	// First is asked before it: the tier in memory, which lends blocks unchecked. May be nil.
	First kvstore.Lender
	// Locate says where a block of the store lies; ok is false where it can't be shared.
	Locate func(*kvstore.Block) (region uint32, file *os.File, bytes, offset int64, ok bool)
	// PeerUID says who is at the other end of a connection, by the kernel's word.
	PeerUID func(net.Conn) (int, error)
	Counts  front.Door
	Log     zerolog.Logger

	MaxConnections int           // default 64
	MaxLeased      int64         // bytes of blocks that one connection may hold; default 256 MiB
	Stall          time.Duration // how long an answer may take to be accepted; default 10 s
}

const (
	defaultConnections = 64
	defaultLeased      = 256 << 20
	defaultStall       = 10 * time.Second
	maxLeases          = 1 << 14 // of one connection
)

// Door serves connections.
type Door struct {
	o    Options
	room chan struct{}
}

// New makes a door. It starts nothing.
func New(o Options) *Door {
	o.MaxConnections = cmp.Or(o.MaxConnections, defaultConnections)
	o.MaxLeased = cmp.Or(o.MaxLeased, defaultLeased)
	o.Stall = cmp.Or(o.Stall, defaultStall)
	return &Door{o: o, room: make(chan struct{}, o.MaxConnections)}
}

// Network is what a door listens on: packets on a unix socket, since descriptors travel with the packet they belong to.
const Network = "unixpacket"

// Serve takes connections until the context ends, and returns when all of them have ended and all leases are given back. It
// closes the listener.
func (d *Door) Serve(ctx context.Context, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if c != nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of descriptors, most likely: it passes
			d.o.Log.Warn().Err(err).Msg("shared memory door takes no connection")
			pause(ctx, 10*time.Millisecond)
			continue
		}
		select {
		case d.room <- struct{}{}:
		default:
			d.o.Counts.Refused("too-many")
			_ = c.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-d.room }()
			d.serve(ctx, c)
		})
	}
}

func pause(ctx context.Context, t time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(t):
	}
}

// conn is one client's connection.
type conn struct {
	d      *Door
	c      *net.UnixConn
	leases map[uint32]*kvstore.Block
	last   uint32
	leased int64
	known  map[uint32]bool // regions whose descriptor the client has
}

func (d *Door) serve(ctx context.Context, c *net.UnixConn) {
	defer func() { _ = c.Close() }()
	if uid, err := d.o.PeerUID(c); err != nil || uid != os.Getuid() {
		d.o.Counts.Refused("login")
		return
	}
	d.o.Counts.Open.Inc()
	defer d.o.Counts.Open.Dec()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	k := &conn{d: d, c: c, leases: map[uint32]*kvstore.Block{}, known: map[uint32]bool{}}
	defer k.release()
	buf := make([]byte, maxPacket+1)
	for {
		n, err := c.Read(buf)
		if err != nil || n == 0 {
			return
		}
		q, err := readRequest(buf[:n])
		if err != nil {
			d.o.Counts.Refused("protocol")
			d.o.Log.Debug().Err(err).Msg("shared memory door ends a connection")
			return
		}
		if q.op == opRelease {
			k.giveBack(q.leases)
			continue
		}
		if err := k.answer(ctx, q.keys); err != nil {
			d.o.Log.Debug().Err(err).Msg("shared memory door ends a connection")
			return
		}
	}
}

// answer leases what is there and sends where it lies.
func (k *conn) answer(ctx context.Context, keys []kvstore.Key) error {
	var places []byte
	var fds []int
	n := uint32(0)
	err := k.find(ctx, keys, func(i int, b *kvstore.Block) error {
		p, file, ok := k.lease(b)
		if !ok {
			return nil
		}
		p.index = uint32(i)
		if !k.known[p.region] {
			k.known[p.region] = true
			fds = append(fds, int(file.Fd()))
		}
		places = p.append(places)
		n++
		k.d.o.Counts.Out.Add(float64(p.size))
		return nil
	})
	outcome := front.OK
	if err != nil { // what was found is good
		outcome = front.Error
	}
	k.d.o.Counts.Command("get", outcome)
	_ = k.c.SetWriteDeadline(time.Now().Add(k.d.o.Stall))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = k.c.WriteMsgUnix(append(binary.LittleEndian.AppendUint32(nil, n), places...), rights, nil)
	return err
}

// find looks for the blocks in memory, one by one, and for the rest in the whole store, many at a time.
func (k *conn) find(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	if k.d.o.First == nil {
		return k.d.o.Store.GetMany(ctx, keys, each)
	}
	var left []int
	var rest []kvstore.Key
	for i, key := range keys {
		b, err := k.d.o.First.Lend(ctx, key)
		if err != nil {
			left, rest = append(left, i), append(rest, key)
			continue
		}
		err = each(i, b)
		if b.Release(); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return k.d.o.Store.GetMany(ctx, rest, func(n int, b *kvstore.Block) error { return each(left[n], b) })
}

// lease holds a block for the client, if it can be shared and the client does not hold too much.
func (k *conn) lease(b *kvstore.Block) (p place, file *os.File, ok bool) {
	region, file, bytes, offset, ok := k.d.o.Locate(b)
	size := int64(b.Len())
	if !ok || len(k.leases) >= maxLeases || k.leased+size > k.d.o.MaxLeased {
		return place{}, nil, false
	}
	for k.last++; k.leases[k.last] != nil; k.last++ {
	}
	k.leases[k.last] = b.Retain()
	k.leased += size
	return place{0, k.last, b.Sum(), region, uint64(size), uint64(offset), uint64(bytes)}, file, true
}

func (k *conn) giveBack(leases []uint32) {
	for _, l := range leases {
		if b := k.leases[l]; b != nil {
			k.leased -= int64(b.Len())
			delete(k.leases, l)
			b.Release()
		}
	}
}

func (k *conn) release() {
	for _, b := range k.leases {
		b.Release()
	}
}
