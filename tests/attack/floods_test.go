package attack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

type floodArgs struct {
	URL, Controller string
	Agents          []string
	Gateways        []string
}

const (
	floodedLog = 32 << 10 // bytes that a log may grow by, whatever strangers send
	cutOff     = 25 * time.Second
)

// attackWithFloods wants to fill the victim's disk and memory and to hold its connections, without knowing any secret.
func attackWithFloods(t *testing.T, s *siege) {
	e := s.endpoint(t)
	args := floodArgs{URL: e.URL, Controller: hostOf(t, e.URL), Gateways: []string{hostOf(t, s.client.URL), hostOf(t, s.second)}}
	logs := []string{filepath.Join(s.victim.State(), "serve.log")}
	for _, r := range s.replicas() {
		args.Agents = append(args.Agents, r.Address)
		logs = append(logs, filepath.Join(s.victim.State(), "logs", "attacked", r.Launch, "agent-0.log"))
	}
	before := sizes(t, logs)
	s.fails(t, "floods", args, "unauthenticated", "resource_exhausted", "too large", "cut off", "answered 401", "connection reset", "broken pipe")
	for name, size := range sizes(t, logs) {
		grown := size - before[name]
		t.Logf("%s has grown by %d bytes", filepath.Base(name), grown)
		if grown > floodedLog {
			t.Errorf("HOLE: strangers fill the disk: %s has grown by %d bytes", name, grown)
		}
	}
}

func sizes(t *testing.T, names []string) map[string]int64 {
	t.Helper()
	m := map[string]int64{}
	for _, name := range names {
		info, err := os.Stat(name)
		must(t, err)
		m[name] = info.Size()
	}
	return m
}

func init() { tricks["floods"] = flood }

func flood(in []byte, n *notes) error {
	var args floodArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	do := func(what, target string, f func() error) {
		all.Go(func() {
			err := f()
			mu.Lock()
			defer mu.Unlock()
			n.try(what, target, err)
		})
	}
	for _, at := range args.Gateways {
		head := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
		do("announce a body, without a key, and send none", at, func() error { return hold(at, head+"Content-Length: 100\r\n\r\n") })
		do("announce a huge body, without a key, and send none", at, func() error { return hold(at, head+"Content-Length: 30000000\r\n\r\n") })
		do("announce chunks, without a key, and send none", at, func() error { return hold(at, head+"Transfer-Encoding: chunked\r\n\r\n") })
		do("begin a header and never end it", at, func() error { return hold(at, head+"X-Long: ") })
		do("connect and say nothing", at, func() error { return hold(at, "") })
	}
	for _, at := range append([]string{args.Controller}, args.Agents...) {
		do("connect to a TLS port and say nothing", at, func() error { return hold(at, "") })
		do("begin a handshake and never end it", at, func() error { return hold(at, "\x16\x03\x01\x02\x00\x01\x00") })
		do("be refused two hundred times by a TLS port", at, func() error { return knock(at, 200) })
	}
	do("join with a body that never ends", args.Controller, func() error { return joinForEver(args.URL) })
	do("call with a long path and be refused", args.Controller, func() error { return longCalls(args.URL) })
	do("join with a launch of 4 MiB", args.Controller, func() error { return longJoins(args.URL) })
	all.Wait()
	return nil
}

// hold sends the beginning of something and waits to be cut off, or for an answer that lets nobody in.
func hold(address, begin string) error {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, begin); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(cutOff))
	answer := make([]byte, 64)
	k, err := conn.Read(answer)
	switch {
	case bytes.HasPrefix(answer[:k], []byte("HTTP/1.1 401 ")):
		return errors.New("answered 401")
	case k > 0, errors.Is(err, io.EOF):
		return errors.New("cut off")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil // it can be held for ever
	}
	return err
}

// knock lets itself be refused again and again.
func knock(address string, times int) error {
	for range times {
		if line, err := speak(address, disguise{}.config(), "x\r\n\r\n"); err == nil && !strings.HasPrefix(line, "HTTP/1.1 400") {
			return nil
		}
	}
	return errors.New("cut off")
}

// joinForEver sends a call that needs no certificate, a byte a second.
func joinForEver(at string) error {
	body, slow := io.Pipe()
	go func() {
		_, _ = io.WriteString(slow, `{"launch":"`)
		for end := time.Now().Add(cutOff); time.Now().Before(end); time.Sleep(time.Second) {
			if _, err := io.WriteString(slow, "a"); err != nil {
				return
			}
		}
		_ = slow.CloseWithError(errHeld)
	}()
	req, err := http.NewRequestWithContext(timeless, http.MethodPost, at+apiv1.AgentServiceJoinProcedure, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	c := client(disguise{})
	c.Timeout = cutOff + patience
	resp, err := c.Do(req)
	switch {
	case errors.Is(err, errHeld):
		return nil
	case err != nil:
		return errors.New("cut off")
	}
	return errors.Join(resp.Body.Close(), errors.New("cut off"))
}

var errHeld = errors.New("it was held for as long as it liked")

// longCalls makes refused calls whose names are long.
func longCalls(at string) error {
	c := client(disguise{})
	var err error
	for range 100 {
		if err = call(c, at+"/"+strings.Repeat("a", 30<<10), "application/json", nil); err == nil {
			return nil
		}
	}
	return err
}

// longJoins makes refused calls whose content is long.
func longJoins(at string) error {
	c := client(disguise{})
	body, err := json.Marshal(map[string]string{"token": "pst-x", "launch": strings.Repeat("a", 4<<20), "hostname": strings.Repeat("\n", 1<<20)})
	if err != nil {
		return err
	}
	for range 10 {
		if err := callLong(c, at, body); err != nil {
			return err
		}
	}
	return errors.New("unauthenticated")
}

// callLong returns an error that is not nil where such a body is refused for its size.
func callLong(c *http.Client, at string, body []byte) error {
	resp, err := c.Post(at+apiv1.AgentServiceJoinProcedure, "application/json", bytes.NewReader(body)) //nolint:noctx // the client has a timeout
	if err != nil {
		return errors.New("cut off")
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	switch {
	case bytes.Contains(text, []byte("resource_exhausted")):
		return errors.New("resource_exhausted")
	case bytes.Contains(text, []byte("unauthenticated")):
		return nil
	}
	return fmt.Errorf("answer %d %.100s", resp.StatusCode, text)
}
