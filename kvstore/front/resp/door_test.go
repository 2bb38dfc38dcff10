package resp

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open serves a door on a unix socket until the test ends, and then sees that no block is out but the stored ones.
func open(t *testing.T, s *storetest.Shelf, change func(*Options)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Store: s, Alloc: s, Log: zerolog.Nop(), Login: login, Stall: 10 * time.Second}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- New(o).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if stored := s.Stats().Blocks; s.Live() != stored {
			t.Errorf("%d blocks are out, %d are stored", s.Live(), stored)
		}
	})
	return path
}

func login(user string, password []byte) (kvstore.Space, bool) {
	if string(password) != "pw" || user != "user" && user != "other" && user != "default" {
		return kvstore.Space{}, false
	}
	return kvstore.NewSpace(kvstore.Layout{}, user), true
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// say sends bytes and wants these bytes back, no more and no less.
func say(t *testing.T, c net.Conn, send, want string) {
	t.Helper()
	if _, err := io.WriteString(c, send); err != nil && send != "" {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if string(got) != want {
		t.Fatalf("%.80q was answered with %q (%v), not %q", send, got[:n], err, want)
	}
}

func unhex(t *testing.T, s string) string {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func command(args ...string) string {
	s := fmt.Sprintf("*%d\r\n", len(args))
	for _, a := range args {
		s += fmt.Sprintf("$%d\r\n%s\r\n", len(a), a)
	}
	return s
}

// TestLMCacheNative has the bytes of LMCache's native resp adapter, which compares answers byte for byte.
func TestLMCacheNative(t *testing.T) {
	c := dial(t, open(t, storetest.NewShelf(0), nil))
	key := "meta-llama/Llama-3.1-70B@00000008@0@202da172482d928bbc42ab25b0151e2b895f13f41002e27b2ceabcfae6d332ea"
	value := unhex(t, "000102030405060708090a0b0c0d0e0f")
	say(t, c, unhex(t, "2a330d0a24340d0a415554480d0a24340d0a757365720d0a24320d0a70770d0a"), "+OK\r\n")
	say(t, c, command("GET", key), "$-1\r\n")
	say(t, c, command("EXISTS", key), ":0\r\n")
	say(t, c, command("SET", key, value), "+OK\r\n")
	say(t, c, command("EXISTS", key), ":1\r\n")
	say(t, c, command("GET", key), "$16\r\n"+value+"\r\n")
	say(t, c, command("GET", key+"@tenant-a"), "$-1\r\n")
	say(t, c, command("DEL", key), ":1\r\n")
	say(t, c, command("DEL", key), ":0\r\n")
	say(t, c, command("PING"), "+PONG\r\n")
}

// TestLMCachePair: the two keys of LMCache's redis:// are seen together or not at all.
func TestLMCachePair(t *testing.T) {
	c := dial(t, open(t, storetest.NewShelf(0), nil))
	chunk := "meta-llama/Llama-3.1-70B@8@0@1a2b3c4d5e6f7081@bfloat16"
	say(t, c, command("AUTH", "pw"), "+OK\r\n")
	say(t, c, command("SET", chunk+"metadata", "M"), "+OK\r\n") // sentinel mode has this order
	say(t, c, command("EXISTS", chunk+"metadata"), ":0\r\n")
	say(t, c, command("GET", chunk+"metadata"), "$-1\r\n")
	say(t, c, command("SET", chunk+"kv_bytes", "BYTES"), "+OK\r\n")
	say(t, c, command("EXISTS", chunk+"metadata"), ":1\r\n")
	say(t, c, command("GET", chunk+"metadata"), "$1\r\nM\r\n")
	say(t, c, command("GET", chunk+"kv_bytes"), "$5\r\nBYTES\r\n")
	say(t, c, command("DEL", chunk+"metadata"), ":1\r\n")
	say(t, c, command("GET", chunk+"kv_bytes"), "$-1\r\n")
}

func TestNames(t *testing.T) {
	space := kvstore.Space{1}
	group := func(key string) kvstore.Group { k, _ := name(space, []byte(key)); return k.Group() }
	for _, same := range [][2]string{
		{"m/x@8@0@1a@bfloat16", "m/x@8@7@1a@bfloat16"},
		{"m/x@8@0@1a@bfloat16kv_bytes", "m/x@8@3@1a@bfloat16metadata"},
		{"vllm@m/x@8@0@1a@half", "vllm@m/x@8@1@1a@half"},
		{"m/x@00000000@0@aa", "m/x@00000008@0@aa"},
		{"m/x@00000000@0@aa@salt", "m/x@00000001@0@aa@salt"},
	} {
		a, _ := name(space, []byte(same[0]))
		b, _ := name(space, []byte(same[1]))
		if a.Group() != b.Group() || a == b {
			t.Errorf("%s and %s are not two parts of one group", same[0], same[1])
		}
	}
	for _, apart := range [][2]string{
		{"m/x@8@0@1a@bfloat16", "m/x@8@0@1b@bfloat16"},
		{"m/x@8@0@1a@bfloat16", "m/x@16@0@1a@bfloat16"},
		{"m/x@8@9@1a@bfloat16", "m/x@8@10@1a@bfloat16"},
		{"m/x@00000001@0@aa@salt", "m/x@00000001@0@aa@other"},
		{"m/x@00000001@0@aa", "m/x@00000001@1@aa"},
		{"kv_bytes", "metadata"},
		{"a", "b"},
	} {
		if group(apart[0]) == group(apart[1]) {
			t.Errorf("%s and %s are one group", apart[0], apart[1])
		}
	}
}

// TestStrangers: without a login nothing can be asked, guessed or learnt.
func TestStrangers(t *testing.T) {
	path := open(t, storetest.NewShelf(0), nil)
	c := dial(t, path)
	for _, cmd := range []string{"GET k", "EXISTS k", "PING", "DBSIZE", "NONSENSE", "INFO"} {
		say(t, c, command(strings.Fields(cmd)...), "-NOAUTH log in first: AUTH user password\r\n")
	}
	say(t, c, command("SET", "k", "v"), "-NOAUTH log in first: AUTH user password\r\n")
	say(t, c, command("AUTH", "user", "wrong"), "-WRONGPASS no such user, or not with this password\r\n")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after a wrong password: %v", err)
	}
	big := dial(t, path)
	say(t, big, "*2\r\n$4\r\nAUTH\r\n$100000\r\n", "-ERR Protocol error: invalid length \"100000\"\r\n")
}

func TestUsersNeverMeet(t *testing.T) {
	path := open(t, storetest.NewShelf(0), nil)
	a, b := dial(t, path), dial(t, path)
	say(t, a, command("AUTH", "user", "pw"), "+OK\r\n")
	say(t, b, command("AUTH", "other", "pw"), "+OK\r\n")
	say(t, a, command("SET", "k", "mine"), "+OK\r\n")
	say(t, b, command("GET", "k"), "$-1\r\n")
	say(t, b, command("DEL", "k"), ":0\r\n")
	say(t, b, command("SET", "k", "yours"), "+OK\r\n")
	say(t, a, command("GET", "k"), "$4\r\nmine\r\n")
}

// TestFull: a value that there is no room for is read, dropped, and answered as the native adapter wants it.
func TestFull(t *testing.T) {
	s := storetest.NewShelf(1)
	c := dial(t, open(t, s, nil))
	say(t, c, command("AUTH", "pw"), "+OK\r\n")
	say(t, c, command("SET", "k", strings.Repeat("x", 300_000)), "+OK\r\n")
	say(t, c, command("GET", "k"), "$-1\r\n")
}

func TestPipelineAndResp3(t *testing.T) {
	c := dial(t, open(t, storetest.NewShelf(0), nil))
	hello := "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n" +
		"$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
	say(t, c, command("HELLO", "3", "AUTH", "user", "pw", "SETNAME", "x"), hello)
	big := strings.Repeat("0123456789abcdef", 1<<14)
	say(t, c, command("SET", "a", big)+command("SET", "b", "2", "EX", "86400")+command("MGET", "a", "none", "b")+"PING\r\n",
		"+OK\r\n+OK\r\n*3\r\n$262144\r\n"+big+"\r\n_\r\n$1\r\n2\r\n+PONG\r\n")
	say(t, c, command("SET", "a", "1", "NX"), "-ERR syntax error: this is a cache, SET takes expiry times only\r\n")
	say(t, c, command("SET", "c", ""), "+OK\r\n")
	say(t, c, command("GET", "c"), "$0\r\n\r\n")
	say(t, c, command("QUIT"), "+OK\r\n")
}

func TestBrokenProtocol(t *testing.T) {
	path := open(t, storetest.NewShelf(0), func(o *Options) { o.Anonymous = new(kvstore.Space) })
	for send, want := range map[string]string{
		"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nabc\r\n": "a bulk string is longer than it says",
		"*x\r\n":                     "invalid length \"x\"",
		"*1\r\n+PING\r\n":            "expected '$', got \"+PING\"",
		"*2\r\n$3\r\nGET\r\n$-1\r\n": "invalid length \"-1\"",
		"*99999\r\n":                 "invalid length \"99999\"",
		"SET k v\r\n":                "SET wants the array form",
		strings.Repeat("x", 70_000):  "a line has more than 65536 bytes",
		"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9999999999\r\n": "invalid length \"9999999999\"",
	} {
		c := dial(t, path)
		go func() { _, _ = io.WriteString(c, send) }()
		got, err := io.ReadAll(c)
		if string(got) != "-ERR Protocol error: "+want+"\r\n" {
			t.Errorf("%.30q: %q (%v), not %q", send, got, err, want)
		}
	}
}

// TestCutInValue: a client that goes in the middle of a value leaves nothing behind.
func TestCutInValue(t *testing.T) {
	s := storetest.NewShelf(0)
	path := open(t, s, func(o *Options) { o.Anonymous = new(kvstore.Space) })
	for cut := range 60 {
		c := dial(t, path)
		_, _ = io.WriteString(c, command("SET", "k", strings.Repeat("x", 20_000))[:20+cut*300])
		_ = c.Close()
	}
	c := dial(t, path)
	say(t, c, command("GET", "k"), "$-1\r\n")
}

// TestNotReading: a client that asks and does not read can't hold a block for longer than the door allows.
func TestNotReading(t *testing.T) {
	s := storetest.NewShelf(0)
	path := open(t, s, func(o *Options) { o.Anonymous, o.Stall = new(kvstore.Space), 50*time.Millisecond })
	c := dial(t, path)
	say(t, c, command("SET", "k", strings.Repeat("x", 1<<20)), "+OK\r\n")
	for range 20 {
		if _, err := io.WriteString(c, command("GET", "k")); err != nil {
			break
		}
	}
	for {
		if !s.Held(key(t, "k")) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func key(t *testing.T, k string) kvstore.Key {
	t.Helper()
	n, _ := name(kvstore.Space{}, []byte(k))
	return n
}

func TestTooManyConnections(t *testing.T) {
	path := open(t, storetest.NewShelf(0), func(o *Options) { o.MaxConnections, o.Anonymous = 2, new(kvstore.Space) })
	a, b := dial(t, path), dial(t, path)
	say(t, a, "PING\r\n", "+PONG\r\n")
	say(t, b, "PING\r\n", "+PONG\r\n")
	say(t, dial(t, path), "", "-ERR the door has as many connections as it may have\r\n")
	_ = a.Close()
	for {
		c := dial(t, path)
		_, _ = io.WriteString(c, "PING\r\n")
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err == nil && bytes.Equal(got, []byte("+PONG")) {
			return
		}
	}
}

// TestGoRedis: a real client, over RESP3, with a pipeline.
func TestGoRedis(t *testing.T) {
	path := open(t, storetest.NewShelf(0), nil)
	ctx := t.Context()
	for _, proto := range []int{2, 3} {
		c := redis.NewClient(&redis.Options{Network: "unix", Addr: path, Username: "user", Password: "pw", Protocol: proto})
		value := strings.Repeat("v", 3<<20)
		if err := c.Set(ctx, "k", value, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(ctx, "k").Result(); err != nil || got != value {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if _, err := c.Get(ctx, "none").Result(); !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
		if n, err := c.Exists(ctx, "k", "none").Result(); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := c.StrLen(ctx, "k").Result(); n != int64(len(value)) || err != nil {
			t.Fatal(n, err)
		}
		if n, err := c.Del(ctx, "k", "none").Result(); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSlowStranger: who has not logged in gets no more time by sending a command byte by byte.
func TestSlowStranger(t *testing.T) {
	path := open(t, storetest.NewShelf(0), func(o *Options) { o.LoginWithin = 100 * time.Millisecond })
	c := dial(t, path)
	begun := time.Now()
	for time.Since(begun) < 2*time.Second {
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("it still listens")
}

// ending ends the door while it answers.
type ending struct {
	*storetest.Shelf
	end context.CancelFunc
}

func (s ending) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	s.end()
	time.Sleep(50 * time.Millisecond)
	return s.Shelf.Get(context.WithoutCancel(ctx), k)
}

// TestEndsInACommand: a door that is ended while it is busy with a command does not wait for the next one.
func TestEndsInACommand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := storetest.NewShelf(0)
	b, _ := s.Alloc(3)
	key, _ := name(kvstore.Space{}, []byte("k"))
	_ = s.Put(t.Context(), key, b.Seal(), kvstore.Hint{})
	b.Release()
	d := New(Options{Store: ending{s, cancel}, Alloc: s, Log: zerolog.Nop(), Anonymous: &kvstore.Space{}})
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ctx, l) }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, part := range []string{"*2\r\n$3\r\nGET\r\n$1", "\r\nk\r\n"} {
		_, _ = c.Write([]byte(part))
		time.Sleep(20 * time.Millisecond)
	}
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		t.Error("it waits for its silent client")
		_ = c.Close()
		<-ended
	}
}

// TestManySmallAnswers: the answer to a large MGET is sent as it comes and not gathered.
func TestManySmallAnswers(t *testing.T) {
	s := storetest.NewShelf(0)
	here, there := net.Pipe()
	defer here.Close()
	k := newConn(New(Options{Store: s, Alloc: s, Log: zerolog.Nop(), Anonymous: &kvstore.Space{}}), there)
	b, _ := s.Alloc(copyBelow - 1)
	key, _ := name(kvstore.Space{}, []byte("k"))
	_ = s.Put(t.Context(), key, b.Seal(), kvstore.Hint{})
	b.Release()
	go func() { _, _ = io.Copy(io.Discard, here) }()
	defer there.Close()
	args := [][]byte{[]byte("MGET")}
	for range 1000 {
		args = append(args, []byte("k"))
	}
	if err := k.do(t.Context(), args, nil); err != nil {
		t.Fatal(err)
	}
	if n := cap(k.out); n > 8*bufferSize {
		t.Errorf("%d bytes were gathered", n)
	}
}

// TestManyLongKeys: what one command may have of the heap is bounded.
func TestManyLongKeys(t *testing.T) {
	c := dial(t, open(t, storetest.NewShelf(0), func(o *Options) { o.Anonymous = &kvstore.Space{} }))
	go func() {
		_, _ = io.WriteString(c, fmt.Sprintf("*%d\r\n$4\r\nMGET\r\n", maxArgs))
		for range maxArgs - 1 {
			if _, err := io.WriteString(c, fmt.Sprintf("$%d\r\n%s\r\n", maxKey, strings.Repeat("k", maxKey))); err != nil {
				return
			}
		}
	}()
	got, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(got), "-ERR Protocol error") && len(got) > 0 {
		t.Errorf("answered with %.40q", got)
	}
}

// TestTrickle: a command that comes byte by byte has the time of a command, and not that of each byte. Where the bytes stand
// makes no difference: in a key, in a value's last kilobytes, or in a line.
func TestTrickle(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"value": "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3000\r\n", "key": "*2\r\n$3\r\nGET\r\n$3000\r\n", "line": "*", "inline": "GET ",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := open(t, storetest.NewShelf(0), func(o *Options) { o.Anonymous, o.Stall = new(kvstore.Space), 50*time.Millisecond })
			c := dial(t, path)
			if _, err := io.WriteString(c, head); err != nil {
				t.Fatal(err)
			}
			for range 2900 { // of 3,000: a quarter of a minute at least
				if _, err := c.Write([]byte("1")); err != nil {
					return // cut off
				}
				time.Sleep(5 * time.Millisecond)
			}
			t.Error("it was let go on")
		})
	}
}
