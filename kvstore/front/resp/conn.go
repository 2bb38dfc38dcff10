package resp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// conn is one client's connection, served by one goroutine.
type conn struct {
	d  *Door
	c  net.Conn
	in *reader
	id int64

	space kvstore.Space
	known bool      // has a space: by login, or as everybody
	login time.Time // when it must have logged in; zero once it has
	proto int       // 2 or 3

	out   []byte    // answers that are not written yet
	until time.Time // the write deadline that is set now
	quit  bool      // end after this answer
}

func newConn(d *Door, c net.Conn) *conn {
	k := &conn{d: d, c: c, in: newReader(c, d.o.Stall), id: d.ids.Add(1), proto: 2, out: make([]byte, 0, 512)}
	if d.o.Anonymous != nil {
		k.space, k.known = *d.o.Anonymous, true
	} else {
		k.login = time.Now().Add(d.o.LoginWithin)
		k.in.last = k.login // also within a command
	}
	return k
}

// serve answers commands until the client goes, breaks the protocol, or the context ends.
func (k *conn) serve(ctx context.Context) {
	k.d.counts.Open.Inc()
	defer k.d.counts.Open.Dec()
	stop := context.AfterFunc(ctx, func() { _ = k.c.Close() }) // a deadline would be moved by the command under way
	defer stop()
	defer func() { _ = k.c.Close() }()
	for !k.quit {
		if err := k.in.await(k.login); err != nil || ctx.Err() != nil {
			return
		}
		err := k.command(ctx)
		if errors.Is(err, errProtocol) {
			k.d.counts.Refused("protocol")
			k.error("ERR Protocol error: " + err.Error()[len(errProtocol.Error())+2:])
			k.quit = true
		} else if err != nil {
			k.d.o.Log.Debug().Err(err).Msg("kv door connection ended in a command")
			return
		}
		if !k.in.buffered() || len(k.out) > bufferSize || k.quit {
			if err := k.flush(); err != nil {
				return
			}
		}
	}
}

// command reads one command and answers it. An error ends the connection.
func (k *conn) command(ctx context.Context) error {
	k.in.begin()
	args, value, err := k.read(ctx)
	if value != nil {
		defer value.Release()
	}
	if err != nil || len(args) == 0 {
		return err
	}
	return k.do(ctx, args, value)
}

// read takes a command off the wire. Its third argument is read into a block if the command is SET: value is then that
// block, sealed, or nil where there was no room for it.
func (k *conn) read(ctx context.Context) (args [][]byte, value *kvstore.Block, err error) {
	if k.in.buf[k.in.r] != '*' {
		args, err = k.inline()
		return args, nil, err
	}
	n, err := k.in.count('*', maxArgs)
	if err != nil {
		return nil, nil, err
	}
	limit := maxKey
	if !k.known {
		limit, n = maxStranger, min(n, maxStranger)
	}
	args = make([][]byte, 0, min(n, 16))
	all := 0
	for i := range n {
		if i == 2 && k.known && is(args[0], "SET") {
			if value, err = k.value(ctx); err != nil {
				return nil, nil, err
			}
			args = append(args, nil)
			continue
		}
		a, err := k.in.bulk(nil, limit)
		if err != nil {
			release(value)
			return nil, nil, err
		}
		if all += len(a); all > maxKeys {
			release(value)
			return nil, nil, protocolError("the arguments have more than %d bytes", maxKeys)
		}
		args = append(args, a)
	}
	return args, value, nil
}

// value reads SET's value into a block. A value that there is no room for is read and dropped: value is nil.
func (k *conn) value(ctx context.Context) (*kvstore.Block, error) {
	n, err := k.in.count('$', k.d.o.MaxValue)
	if err != nil {
		return nil, err
	}
	b, err := k.d.o.Alloc.Alloc(n)
	if err != nil {
		if err := k.in.discard(n); err != nil {
			return nil, err
		}
		return nil, k.in.end()
	}
	if err := k.in.read(b.Bytes()); err != nil {
		b.Release()
		return nil, err
	}
	if err := k.in.end(); err != nil {
		b.Release()
		return nil, err
	}
	k.d.counts.In.Add(float64(n))
	return b.Seal(), nil
}

func release(b *kvstore.Block) {
	if b != nil {
		b.Release()
	}
}

// inline reads a command as people type it: words on a line.
func (k *conn) inline() ([][]byte, error) {
	l, err := k.in.line(maxInline)
	if err != nil {
		return nil, err
	}
	var args [][]byte
	for len(l) > 0 {
		i := 0
		for i < len(l) && l[i] != ' ' {
			i++
		}
		if i > 0 {
			args = append(args, append([]byte(nil), l[:i]...))
		}
		l = l[min(i+1, len(l)):]
	}
	if len(args) > 2 && is(args[0], "SET") {
		return nil, protocolError("SET wants the array form")
	}
	return args, nil
}

// The answers. They gather in out until the input is used up.

func (k *conn) ok()              { k.out = append(k.out, "+OK\r\n"...) }
func (k *conn) error(why string) { k.out = append(append(append(k.out, '-'), why...), "\r\n"...) }

func (k *conn) number(n int64) {
	k.out = append(strconv.AppendInt(append(k.out, ':'), n, 10), "\r\n"...)
}

func (k *conn) string(s string) {
	k.out = append(strconv.AppendInt(append(k.out, '$'), int64(len(s)), 10), "\r\n"...)
	k.out = append(append(k.out, s...), "\r\n"...)
}

func (k *conn) array(n int) {
	k.out = append(strconv.AppendInt(append(k.out, '*'), int64(n), 10), "\r\n"...)
}

// dict begins n pairs: a map in RESP3, a flat array in RESP2.
func (k *conn) dict(n int) {
	if k.proto < 3 {
		k.array(2 * n)
		return
	}
	k.out = append(strconv.AppendInt(append(k.out, '%'), int64(n), 10), "\r\n"...)
}

func (k *conn) null() {
	if k.proto < 3 {
		k.out = append(k.out, "$-1\r\n"...)
		return
	}
	k.out = append(k.out, "_\r\n"...)
}

// copyBelow is the size up to which a value is cheaper to copy behind other answers than to hand to the kernel by itself.
const copyBelow = 16 << 10

// block answers with a block's bytes. They go from the block to the socket, with what was to be written before them. Of a
// value of more than one chunk each is checked right before it is sent, and the last one is held back until all of it is known
// to be right: wrong bytes never arrive as a value, the connection ends in the middle of them.
func (k *conn) block(b *kvstore.Block) error {
	data := b.Bytes()
	k.out = append(strconv.AppendInt(append(k.out, '$'), int64(len(data)), 10), "\r\n"...)
	if len(data) < copyBelow {
		k.d.counts.Out.Add(float64(len(data)))
		k.out = append(append(k.out, data...), "\r\n"...)
		if len(k.out) > bufferSize {
			return k.flush()
		}
		return nil
	}
	if err := k.allow(int64(len(k.out) + len(data))); err != nil {
		return err
	}
	sum := uint32(0)
	for rest := data; len(rest) > chunkSize; rest = rest[chunkSize:] {
		part := rest[:chunkSize]
		sum = kvstore.ExtendChecksum(sum, part)
		if err := k.send(net.Buffers{k.out, part}); err != nil {
			return err
		}
		data = rest[chunkSize:]
	}
	if len(data) < b.Len() && kvstore.ExtendChecksum(sum, data) != b.Sum() {
		return kvstore.Corrupt(errors.New("a value failed its check while it was sent"))
	}
	k.d.counts.Out.Add(float64(b.Len()))
	return k.send(net.Buffers{k.out, data, []byte("\r\n")})
}

func (k *conn) flush() error {
	if len(k.out) == 0 {
		return nil
	}
	if err := k.allow(int64(len(k.out))); err != nil {
		return err
	}
	return k.send(net.Buffers{k.out})
}

// allow gives the client the time that n bytes may take, so that one that stops reading can't hold a block.
func (k *conn) allow(n int64) error {
	now, allowed := time.Now(), front.Allowance(k.d.o.Stall, n)
	if left := k.until.Sub(now); left >= allowed/2 && left <= allowed {
		return nil
	}
	k.until = now.Add(allowed)
	return k.c.SetWriteDeadline(k.until)
}

// send writes within the time that was allowed.
func (k *conn) send(bufs net.Buffers) error {
	if len(bufs[0]) == 0 {
		bufs = bufs[1:]
	}
	if _, err := bufs.WriteTo(k.c); err != nil {
		return fmt.Errorf("answer the client of the kv door: %w", err)
	}
	k.out = k.out[:0]
	return nil
}
