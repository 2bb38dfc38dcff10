package sim

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ParseLMCacheConfig finds remote_url in LMCache's configuration file; of the rest nothing is used here.
func ParseLMCacheConfig(text string) (remoteURL string, err error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "remote_url:"); ok {
			remoteURL = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return remoteURL, validRemote(remoteURL)
}

func validRemote(remoteURL string) error {
	if u, err := url.Parse(remoteURL); err != nil || u.Scheme != "unix" && u.Scheme != "redis" {
		return fmt.Errorf("LMCache config: remote_url: must be unix://PATH or redis://[USER:PASSWORD@]HOST:PORT (got %q)", remoteURL)
	}
	return nil
}

// lmcacheConn speaks to a store as LMCache's redis:// connector does: two keys for each chunk, the bytes and 28 bytes of
// metadata, the bytes first. It is for one goroutine.
type lmcacheConn struct {
	c  net.Conn
	in *bufio.Reader
}

// dialLMCache opens a connection, and logs in if the URL names a user.
func dialLMCache(ctx context.Context, remoteURL string) (*lmcacheConn, error) {
	u, err := url.Parse(remoteURL)
	if err != nil {
		return nil, err
	}
	network, address := "tcp", u.Host
	if u.Scheme == "unix" {
		network, address = "unix", u.Path
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := &lmcacheConn{c: c, in: bufio.NewReaderSize(c, 64<<10)}
	if password, ok := u.User.Password(); ok {
		if _, err := l.ask("AUTH", []byte(u.User.Username()), []byte(password)); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return l, nil
}

// metadata is what LMCache keeps beside a chunk's bytes: length, format, dtype and shape.
func metadata(n int) []byte {
	const kvT2D, bfloat16 = 2, 3
	var b []byte
	for _, v := range []int32{int32(n), kvT2D, bfloat16, int32(n), 1, 1, 1} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// put stores a chunk.
func (l *lmcacheConn) put(key string, value []byte) error {
	if _, err := l.ask("SET", []byte(key+"kv_bytes"), value); err != nil {
		return err
	}
	_, err := l.ask("SET", []byte(key+"metadata"), metadata(len(value)))
	return err
}

// get fetches a chunk; nil is a miss.
func (l *lmcacheConn) get(key string) ([]byte, error) {
	meta, err := l.ask("GET", []byte(key+"metadata"))
	if err != nil || len(meta) != len(metadata(0)) {
		return nil, err
	}
	value, err := l.ask("GET", []byte(key+"kv_bytes"))
	if err == nil && value == nil {
		_, err = l.ask("DEL", []byte(key+"metadata"))
	}
	if len(value) != int(binary.LittleEndian.Uint32(meta)) {
		return nil, err
	}
	return value, err
}

const maxChunk = 64 << 20

// ask sends one command and reads its answer: a bulk string's bytes, nil for a null and for anything that is no bulk string.
func (l *lmcacheConn) ask(command string, args ...[]byte) ([]byte, error) {
	out := fmt.Appendf(nil, "*%d\r\n$%d\r\n%s\r\n", len(args)+1, len(command), command)
	for _, a := range args {
		out = append(fmt.Appendf(out, "$%d\r\n", len(a)), a...)
		out = append(out, "\r\n"...)
	}
	if _, err := l.c.Write(out); err != nil {
		return nil, err
	}
	line, err := l.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	switch {
	case strings.HasPrefix(line, "-"):
		return nil, fmt.Errorf("%s: %s", command, line[1:])
	case !strings.HasPrefix(line, "$") || line == "$-1":
		return nil, nil
	}
	n, err := strconv.Atoi(line[1:])
	if err != nil || n < 0 || n > maxChunk {
		return nil, fmt.Errorf("%s: the answer has the length %q", command, line[1:])
	}
	value := make([]byte, n+2)
	_, err = io.ReadFull(l.in, value)
	return value[:n], err
}

// within bounds all that is said until the next call.
func (l *lmcacheConn) within(d time.Duration) error { return l.c.SetDeadline(time.Now().Add(d)) }
