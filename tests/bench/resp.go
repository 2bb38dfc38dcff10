package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front/resp"
	"github.com/penstock/penstock/kvstore/mem"
)

const (
	respConns   = 8
	respSpan    = 1500 * time.Millisecond // of one measurement
	respWorking = 256 << 20               // bytes of all values together
	respStore   = 1 << 30
)

// benchRESP compares the RESP door with redis-server and with two processes that only copy: one client process, eight
// connections over loopback, SET and GET of one size of value.
func benchRESP(ctx context.Context, o *options, r *report) error {
	servers := map[string]string{}
	for _, kind := range []string{"door", "bare"} {
		h, err := startHelper(o, roleServer, kind)
		if err != nil {
			return err
		}
		defer h.end()
		defer h.endWith(ctx)()
		var address string
		if err := h.hear(&address); err != nil {
			return err
		}
		servers[kind] = address
	}
	address, stop, err := startRedis(ctx)
	if err != nil {
		r.note("resp: no redis-server to compare with (Debian package redis-server): %v", err)
	} else {
		defer stop()
		servers["redis"] = address
	}
	client, err := startHelper(o, roleValues)
	if err != nil {
		return err
	}
	defer client.end()
	defer client.endWith(ctx)()
	for _, size := range []int{256 << 10, 1 << 20, 4 << 20, 16 << 20} {
		for _, op := range []string{"set", "get"} {
			if err := respFigures(client, servers, r, op, size); err != nil {
				return err
			}
		}
	}
	return nil
}

func respFigures(client *helper, servers map[string]string, r *report, op string, size int) error {
	rates, tails := map[string][]float64{}, map[string][]float64{}
	for round := range rounds + 1 { // the first warms up
		for _, kind := range []string{"door", "redis", "bare"} {
			if servers[kind] == "" {
				continue
			}
			var got valuesAnswer
			if err := client.ask(valuesQuestion{Address: servers[kind], Bare: kind == "bare", Op: op, Size: size}, &got); err != nil {
				return err
			}
			if got.Error != "" {
				return fmt.Errorf("%s of %s at the %s: %s", op, sizeName(size), kind, got.Error)
			}
			if round > 0 {
				rates[kind], tails[kind] = append(rates[kind], got.Rate), append(tails[kind], got.P99)
			}
		}
	}
	name := "kv_resp_" + op + "_" + sizeName(size)
	if servers["redis"] != "" {
		r.figure(name, median(rates["door"]), "GB/s", "redis", median(rates["redis"]), more)
		r.figure(name+"_p99", median(tails["door"]), "ms", "redis", median(tails["redis"]), less)
	}
	r.figure(name, median(rates["door"]), "GB/s", "bare_copies", median(rates["bare"]), more)
	return nil
}

// startRedis starts a redis-server that keeps nothing on disk, if there is one.
func startRedis(ctx context.Context) (address string, stop func(), err error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	address = l.Addr().String()
	_ = l.Close()
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return "", nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.CommandContext(ctx, bin, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return address, stop, nil
		}
		if time.Now().After(until) {
			stop()
			return "", nil, err
		}
	}
}

// playServer is a process that serves values: the door over a memory store, or what only copies.
func playServer(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serve := serveBare
	if args[0] == "door" {
		s := mem.New(mem.Options{Bytes: respStore})
		serve = resp.New(resp.Options{Store: s, Alloc: s, Anonymous: &kvstore.Space{1}, Log: zerolog.Nop()}).Serve
	}
	serving.Go(func() { _ = serve(ctx, l) })
	if err := json.NewEncoder(os.Stdout).Encode(l.Addr().String()); err != nil {
		cancel()
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	serving.Wait()
	return nil
}

// serveBare copies: a message is a byte of direction and eight of size; then so many bytes come, and a byte goes back, or so
// many go back. The bytes lie in as much memory as the values of the door's connections, and are as cold.
func serveBare(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer c.Close()
			all := make([]byte, max(respWorking/respConns, 32<<20))
			for i := range all { // pages that were never written are all one page
				all[i] = byte(i)
			}
			var head [9]byte
			for at := 0; ; {
				if _, err := io.ReadFull(c, head[:]); err != nil {
					return
				}
				n := int(head[1])<<24 | int(head[2])<<16 | int(head[3])<<8 | int(head[4])
				if at+n > len(all) {
					at = 0
				}
				buf := all[at : at+n]
				at += n
				if head[0] == 's' {
					if _, err := io.ReadFull(c, buf); err != nil {
						return
					}
					buf = buf[:1]
				}
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		}()
	}
}

type valuesQuestion struct {
	Address string
	Bare    bool
	Op      string
	Size    int
}

type valuesAnswer struct {
	Rate  float64 // GB/s
	P99   float64 // ms, of one value
	Error string
}

// playValues is the client: it answers each question with what it measured.
func playValues([]string) error {
	in := json.NewDecoder(os.Stdin)
	for {
		var q valuesQuestion
		if err := in.Decode(&q); err != nil {
			return nil
		}
		a, err := measureValues(q)
		if err != nil {
			a.Error = err.Error()
		}
		if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
			return err
		}
	}
}

func measureValues(q valuesQuestion) (a valuesAnswer, err error) {
	conns := make([]*valueConn, respConns)
	for i := range conns {
		if conns[i], err = dialValues(q, i); err != nil {
			return a, err
		}
		defer conns[i].c.Close()
	}
	if q.Op == "get" && !q.Bare {
		for _, k := range conns {
			for range k.keys {
				if err := k.set(); err != nil {
					return a, err
				}
			}
		}
	}
	var wait sync.WaitGroup
	begin := time.Now()
	for _, k := range conns {
		wait.Go(func() { k.run(q.Op, begin.Add(respSpan)) })
	}
	wait.Wait()
	took := time.Since(begin)
	var times []float64
	for _, k := range conns {
		if k.err != nil {
			return a, k.err
		}
		times = append(times, k.times...)
	}
	slices.Sort(times)
	a.Rate = float64(len(times)) * float64(q.Size) / float64(took)
	a.P99 = times[len(times)*99/100]
	return a, nil
}

// valueConn is one connection of the client.
type valueConn struct {
	c     net.Conn
	in    *bufio.Reader
	bare  bool
	name  string
	keys  int
	next  int
	value []byte
	times []float64 // ms
	err   error
}

func dialValues(q valuesQuestion, number int) (*valueConn, error) {
	c, err := net.Dial("tcp", q.Address)
	if err != nil {
		return nil, err
	}
	k := &valueConn{
		c: c, in: bufio.NewReaderSize(c, 4<<10), bare: q.Bare, name: fmt.Sprintf("m@1@0@%02d", number),
		keys: max(2, respWorking/respConns/q.Size), value: make([]byte, q.Size),
	}
	for i := range k.value {
		k.value[i] = byte(i * 7)
	}
	return k, nil
}

// run sets or gets values until a moment.
func (k *valueConn) run(op string, until time.Time) {
	do := k.set
	if op == "get" {
		do = k.get
	}
	for begin := time.Now(); begin.Before(until); {
		if k.err = do(); k.err != nil {
			return
		}
		now := time.Now()
		k.times = append(k.times, now.Sub(begin).Seconds()*1e3)
		begin = now
	}
}

func (k *valueConn) key() string {
	k.next = (k.next + 1) % k.keys
	return k.name + strconv.Itoa(k.next) + "@half"
}

func (k *valueConn) head(op byte) []byte {
	n := len(k.value)
	return []byte{op, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 0, 0, 0, 0}
}

func (k *valueConn) set() error {
	if k.bare {
		bufs := net.Buffers{k.head('s'), k.value}
		if _, err := bufs.WriteTo(k.c); err != nil {
			return err
		}
		_, err := k.in.ReadByte()
		return err
	}
	key := k.key()
	bufs := net.Buffers{fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", len(key), key, len(k.value)), k.value, []byte("\r\n")}
	if _, err := bufs.WriteTo(k.c); err != nil {
		return err
	}
	line, err := k.in.ReadString('\n')
	if err == nil && line != "+OK\r\n" {
		err = fmt.Errorf("SET was answered with %q", line)
	}
	return err
}

func (k *valueConn) get() error {
	if k.bare {
		if _, err := k.c.Write(k.head('g')); err != nil {
			return err
		}
		_, err := io.ReadFull(k.in, k.value)
		return err
	}
	key := k.key()
	if _, err := fmt.Fprintf(k.c, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key); err != nil {
		return err
	}
	line, err := k.in.ReadString('\n')
	if err == nil && line != fmt.Sprintf("$%d\r\n", len(k.value)) {
		err = fmt.Errorf("GET was answered with %q", line)
	}
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(k.in, k.value); err != nil {
		return err
	}
	_, err = k.in.Discard(2)
	return err
}
