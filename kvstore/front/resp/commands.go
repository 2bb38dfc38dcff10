package resp

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// version is what clients are told that they talk to. Some choose their dialect by it.
const version = "7.2.0"

// is compares a command's word, in any case.
func is(b []byte, word string) bool { return strings.EqualFold(string(b), word) }

// verb is one command: how many arguments it has at least with its own name, at most (0 = any number), and what it does.
type verb struct {
	atLeast, atMost int
	stranger        bool // may come before the login
	do              func(k *conn, ctx context.Context, args [][]byte, value *kvstore.Block) error
}

var verbs map[string]verb

func init() {
	quick := func(f func(*conn, [][]byte)) func(*conn, context.Context, [][]byte, *kvstore.Block) error {
		return func(k *conn, _ context.Context, args [][]byte, _ *kvstore.Block) error {
			f(k, args)
			return nil
		}
	}
	verbs = map[string]verb{
		"SET":     {3, 0, false, (*conn).set},
		"GET":     {2, 2, false, (*conn).get},
		"MGET":    {2, 0, false, (*conn).mget},
		"EXISTS":  {2, 0, false, (*conn).exists},
		"STRLEN":  {2, 2, false, (*conn).strlen},
		"DEL":     {2, 0, false, (*conn).del},
		"UNLINK":  {2, 0, false, (*conn).del},
		"DBSIZE":  {1, 1, false, quick(func(k *conn, _ [][]byte) { k.number(k.d.o.Store.Stats().Blocks) })},
		"ECHO":    {2, 2, false, quick(func(k *conn, args [][]byte) { k.string(string(args[1])) })},
		"PING":    {1, 2, false, quick((*conn).ping)},
		"SELECT":  {2, 2, false, quick((*conn).selectDB)},
		"CLIENT":  {2, 0, false, quick((*conn).client)},
		"COMMAND": {1, 0, false, quick(func(k *conn, _ [][]byte) { k.array(0) })},
		"CONFIG":  {2, 0, false, quick((*conn).config)},
		"INFO": {1, 0, false, quick(func(k *conn, _ [][]byte) {
			k.string("# Server\r\nredis_version:" + version + "\r\nredis_mode:standalone\r\n")
		})},
		"AUTH":  {2, 3, true, quick((*conn).auth)},
		"HELLO": {1, 0, true, quick((*conn).hello)},
		"QUIT":  {1, 0, true, quick(func(k *conn, _ [][]byte) { k.ok(); k.quit = true })},
	}
}

func (k *conn) do(ctx context.Context, args [][]byte, value *kvstore.Block) error {
	word := strings.ToUpper(string(args[0]))
	v, ok := verbs[word]
	switch {
	case !ok && !k.known, ok && !v.stranger && !k.known:
		k.error("NOAUTH log in first: AUTH user password")
		return nil
	case !ok:
		k.d.counts.Command("other", front.Error)
		k.error("ERR unknown command '" + printable(args[0]) + "'")
		return nil
	case len(args) < v.atLeast || v.atMost > 0 && len(args) > v.atMost:
		k.error("ERR " + word + " does not take " + strconv.Itoa(len(args)-1) + " arguments")
		return nil
	}
	return v.do(k, ctx, args, value)
}

// printable is a client's word as it may stand in an answer.
func printable(b []byte) string {
	if len(b) > 64 {
		b = b[:64]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '\'' {
			return '?'
		}
		return r
	}, string(b))
}

// set stores a value. The options that ask for an expiry are taken and not kept; those that ask for a condition are refused:
// a cache that may forget at any time can't promise them.
func (k *conn) set(ctx context.Context, args [][]byte, value *kvstore.Block) error {
	for i := 3; i < len(args); i++ {
		switch o := args[i]; {
		case (is(o, "EX") || is(o, "PX") || is(o, "EXAT") || is(o, "PXAT")) && i+1 < len(args):
			i++
		case is(o, "KEEPTTL"):
		default:
			k.error("ERR syntax error: this is a cache, SET takes expiry times only")
			return nil
		}
	}
	if value == nil {
		k.d.counts.Command("set", front.Dropped)
		k.ok()
		return nil
	}
	key, _ := name(k.space, args[1])
	switch err := k.d.o.Store.Put(ctx, key, value, kvstore.Hint{}); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil: // full, or no store within reach: what a cache may do
		k.d.counts.Command("set", front.Dropped)
	default:
		k.d.counts.Command("set", front.OK)
	}
	k.ok()
	return nil
}

// find returns the block under a client's key, nil for a miss. Metadata without its bytes is a miss: the client would take
// the chunk for stored.
func (k *conn) find(ctx context.Context, arg []byte) (*kvstore.Block, error) {
	key, what := name(k.space, arg)
	if what == metadata {
		if _, err := k.d.o.Store.Has(ctx, partner(key, what)); err != nil {
			return nil, miss(ctx, err)
		}
	}
	b, err := k.d.get(ctx, key)
	if err != nil {
		return nil, miss(ctx, err)
	}
	if b.Len() <= chunkSize && b.Check() != nil {
		return nil, k.d.wrong(ctx, key, b)
	}
	return b, nil
}

// chunkSize is how much of a value is checked and sent at one time: little enough to be in the processor's cache still when
// the kernel copies it.
const chunkSize = 256 << 10

// wrong gives back a block whose bytes are not what they were, and has the store find that out.
func (d *Door) wrong(ctx context.Context, key kvstore.Key, b *kvstore.Block) error {
	b.Release()
	if again, err := d.o.Store.Get(ctx, key); err == nil {
		again.Release() // from a tier below: for the next one who asks
	}
	return miss(ctx, kvstore.ErrCorrupt)
}

// size is what is known of a client's key, as find would answer.
func (k *conn) size(ctx context.Context, arg []byte) (n int64, found bool, err error) {
	key, what := name(k.space, arg)
	if what == metadata {
		if _, err := k.d.o.Store.Has(ctx, partner(key, what)); err != nil {
			return 0, false, miss(ctx, err)
		}
	}
	info, err := k.d.o.Store.Has(ctx, key)
	if err != nil {
		return 0, false, miss(ctx, err)
	}
	return info.Size, true, nil
}

// miss turns a store's error into nothing: whatever its reason, for the client it is a miss. The end of the door is none.
func miss(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return nil
}

func (k *conn) get(ctx context.Context, args [][]byte, _ *kvstore.Block) error {
	return k.answer(ctx, "get", args[1])
}

func (k *conn) mget(ctx context.Context, args [][]byte, _ *kvstore.Block) error {
	k.array(len(args) - 1)
	for _, a := range args[1:] {
		if err := k.answer(ctx, "mget", a); err != nil {
			return err
		}
	}
	return nil
}

func (k *conn) answer(ctx context.Context, command string, arg []byte) error {
	b, err := k.find(ctx, arg)
	if err != nil {
		return err
	}
	if b == nil {
		k.d.counts.Command(command, front.Miss)
		k.null()
		return nil
	}
	if err := k.block(b); err != nil {
		if errors.Is(err, kvstore.ErrCorrupt) {
			k.d.counts.Command(command, front.Error)
			key, _ := name(k.space, arg)
			return errors.Join(err, k.d.wrong(ctx, key, b))
		}
		b.Release()
		return err
	}
	k.d.counts.Command(command, front.OK)
	b.Release()
	return nil
}

func (k *conn) exists(ctx context.Context, args [][]byte, _ *kvstore.Block) error {
	n := int64(0)
	for _, a := range args[1:] {
		_, found, err := k.size(ctx, a)
		if err != nil {
			return err
		}
		if found {
			n++
			k.d.counts.Command("exists", front.OK)
		} else {
			k.d.counts.Command("exists", front.Miss)
		}
	}
	k.number(n)
	return nil
}

func (k *conn) strlen(ctx context.Context, args [][]byte, _ *kvstore.Block) error {
	n, _, err := k.size(ctx, args[1])
	k.number(n)
	return err
}

// del forgets the keys, and with one of a pair the other one too.
func (k *conn) del(ctx context.Context, args [][]byte, _ *kvstore.Block) error {
	n := int64(0)
	for _, a := range args[1:] {
		_, found, err := k.size(ctx, a)
		if err != nil {
			return err
		}
		key, what := name(k.space, a)
		for _, gone := range []kvstore.Key{key, partner(key, what)} {
			if err := k.d.o.Store.Delete(ctx, gone); err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if found {
			n++
		}
	}
	k.d.counts.Command("del", front.OK)
	k.number(n)
	return nil
}

func (k *conn) ping(args [][]byte) {
	if len(args) == 2 {
		k.string(string(args[1]))
		return
	}
	k.out = append(k.out, "+PONG\r\n"...)
}

func (k *conn) selectDB(args [][]byte) {
	if string(args[1]) != "0" {
		k.error("ERR DB index is out of range")
		return
	}
	k.ok()
}

// client answers what libraries say of themselves.
func (k *conn) client(args [][]byte) {
	switch {
	case is(args[1], "ID"):
		k.number(k.id)
	case is(args[1], "GETNAME"):
		k.null()
	case is(args[1], "SETNAME"), is(args[1], "SETINFO"), is(args[1], "NO-EVICT"), is(args[1], "NO-TOUCH"):
		k.ok()
	default:
		k.error("ERR unknown subcommand '" + printable(args[1]) + "'")
	}
}

// config answers redis-benchmark, which asks for two settings before it begins.
func (k *conn) config(args [][]byte) {
	if !is(args[1], "GET") {
		k.error("ERR the settings are Penstock's: see kv in the deployment file")
		return
	}
	k.dict(0)
}

// auth logs in. There is one answer to a wrong name and a wrong password.
func (k *conn) auth(args [][]byte) {
	user, password := "default", args[1]
	if len(args) == 3 {
		user, password = string(args[1]), args[2]
	}
	if k.logIn(user, password) {
		k.ok()
	}
}

func (k *conn) logIn(user string, password []byte) bool {
	space, ok := kvstore.Space{}, false
	if k.d.o.Login != nil {
		space, ok = k.d.o.Login(user, password)
	}
	if !ok {
		k.d.counts.Refused("login")
		k.error("WRONGPASS no such user, or not with this password")
		k.quit = true // no second guess on this connection
		return false
	}
	k.space, k.known, k.login, k.in.last = space, true, time.Time{}, time.Time{}
	return true
}

// hello chooses the protocol's version, and may log in.
func (k *conn) hello(args [][]byte) {
	proto := k.proto
	if len(args) > 1 {
		n, err := strconv.Atoi(string(args[1]))
		if err != nil || n < 2 || n > 3 {
			k.error("NOPROTO unsupported protocol version")
			return
		}
		proto = n
	}
	for i := 2; i < len(args); i++ {
		switch {
		case is(args[i], "AUTH") && i+2 < len(args):
			if !k.logIn(string(args[i+1]), args[i+2]) {
				return
			}
			i += 2
		case is(args[i], "SETNAME") && i+1 < len(args):
			i++
		default:
			k.error("ERR syntax error in HELLO option '" + printable(args[i]) + "'")
			return
		}
	}
	if !k.known {
		k.error("NOAUTH log in first: AUTH user password, or HELLO 3 AUTH user password")
		return
	}
	k.proto = proto
	k.dict(7)
	for _, p := range [][2]string{{"server", "redis"}, {"version", version}} {
		k.string(p[0])
		k.string(p[1])
	}
	k.string("proto")
	k.number(int64(proto))
	k.string("id")
	k.number(k.id)
	for _, p := range [][2]string{{"mode", "standalone"}, {"role", "master"}} {
		k.string(p[0])
		k.string(p[1])
	}
	k.string("modules")
	k.array(0)
}
