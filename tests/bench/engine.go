package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// pacedEngine answers like vLLM, at the pace that each request asks for.
type pacedEngine struct {
	born time.Time
	open atomic.Int64 // requests that are being answered

	mu   sync.Mutex
	now  int64                 // beats since born
	due  map[int64][]*sequence // by the beat of their next token
	next int64                 // the first of these beats
	wake *time.Timer           // at next
}

// pace is the field "bench" of a request, which gateways pass on untouched.
type pace struct {
	First int  `json:"first"` // microseconds until the first token
	Every int  `json:"every"` // microseconds between tokens; 0 = all at once
	Step  bool `json:"step"`  // all streams send at the same instants
	Mute  bool `json:"mute"`  // do not tell the times: real engines' events are alike but for text and ids
}

// asked is what the engine looks at in a request.
type asked struct {
	Stream        bool `json:"stream"`
	MaxTokens     int  `json:"max_tokens"`
	ReturnIDs     bool `json:"return_token_ids"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	Bench pace `json:"bench"`
}

// playEngine is the role that agents start: it takes the options of `penstock engine sim` and heeds one of them.
func playEngine(args []string) error {
	runtime.GOMAXPROCS(1) // cheaper: nobody is woken for nothing
	i := slices.Index(args, "--uds")
	if i < 0 || i+1 == len(args) {
		return errors.New("no --uds")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	l, err := net.Listen("unix", args[i+1])
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	e := &pacedEngine{born: time.Now(), due: map[int64][]*sequence{}, next: never, wake: time.NewTimer(time.Hour)}
	go e.conduct()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil // connections end with the process
		} else if err != nil {
			return err
		}
		go e.serve(c)
	}
}

// serve answers the requests of one connection until it ends.
func (e *pacedEngine) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 8<<10)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		read := time.Now()
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil || e.answer(c, r.URL.Path, body, read) != nil {
			return
		}
	}
}

const (
	modelsAnswer  = `{"object":"list","data":[{"id":"bench","object":"model","owned_by":"bench"}]}`
	metricsAnswer = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"bench\"} %d\n" +
		"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name=\"bench\"} 0\n" +
		"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{model_name=\"bench\"} 0.25\n" +
		"# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{model_name=\"bench\"} 1\n"
	wholeChat = `{"id":"chatcmpl-8f14e45fceea167a5a36dedd4bea2543","object":"chat.completion","created":1760000000,"model":"bench",` +
		`"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":90,"total_tokens":%d,"completion_tokens":%d}}`
	wholeText = `{"id":"cmpl-8f14e45fceea167a5a36dedd4bea2543","object":"text_completion","created":1760000000,"model":"bench",` +
		`"choices":[{"index":0,"text":" water","finish_reason":"length"}],"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}}`
)

// word is the text of every token.
const word = " water"

func (e *pacedEngine) answer(c net.Conn, path string, body []byte, read time.Time) error {
	switch path {
	case "/health":
		return whole(c, "text/plain", "")
	case "/v1/models":
		return whole(c, "application/json", modelsAnswer)
	case "/metrics":
		return whole(c, "text/plain; version=0.0.4", fmt.Sprintf(metricsAnswer, e.open.Load()))
	case "/v1/completions":
		return whole(c, "application/json", wholeText)
	}
	var q asked
	if err := json.Unmarshal(body, &q); err != nil {
		return err
	}
	if !q.Stream {
		return whole(c, "application/json", fmt.Sprintf(wholeChat, strings.Repeat(word, q.MaxTokens), 90+q.MaxTokens, q.MaxTokens))
	}
	return e.stream(c, q, read)
}

func whole(c net.Conn, kind, body string) error {
	_, err := c.Write(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", kind, len(body), body))
	return err
}

// stream sends one event for each token, each in a write of its own, as an engine does.
func (e *pacedEngine) stream(c net.Conn, q asked, read time.Time) error {
	e.open.Add(1)
	defer e.open.Add(-1)
	out := make([]byte, 0, 2048)
	out = append(out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"...)
	if _, err := c.Write(out); err != nil {
		return err
	}
	ids, first := "", ""
	if q.ReturnIDs {
		ids, first = `,"token_ids":[15339]`, `,"prompt_token_ids":[1,2,3,4,5,6,7,8,9]`
	}
	out = event(out[:0], `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}`, first, 0, 0)
	text := `{"index":0,"delta":{"content":"` + word + `"},"logprobs":null,"finish_reason":null` + ids + `}`
	if q.Bench.Every > 0 {
		return e.paced(c, q, read, out, text)
	}
	for range q.MaxTokens {
		out = event(out, text, "", 0, 0)
		if _, err := c.Write(out); err != nil {
			return err
		}
		out = out[:0]
	}
	_, err := c.Write(end(out, q))
	return err
}

// paced has the conductor send the tokens.
func (e *pacedEngine) paced(c net.Conn, q asked, read time.Time, head []byte, text string) error {
	s := &sequence{
		conn: c, left: q.MaxTokens, out: head, text: text, read: read.UnixNano(), last: end(nil, q), mute: q.Bench.Mute,
		every: int64(max(1, time.Duration(q.Bench.Every)*time.Microsecond/beat)), done: make(chan error, 1),
	}
	due := read.Add(time.Duration(q.Bench.First) * time.Microsecond)
	if every := time.Duration(q.Bench.Every) * time.Microsecond; q.Bench.Step {
		due = due.Add(every - due.Sub(e.born)%every)
	}
	e.enter(s, due)
	return <-s.done
}

// beat is how finely time is cut: what is due in the same beat goes out one after the other.
const beat = 2 * time.Millisecond

// sequence is one paced answer.
type sequence struct {
	conn  net.Conn
	left  int    // tokens
	out   []byte // goes out before the next token
	text  string // of an event, but for its times
	read  int64  // told with the first token
	last  []byte // the end of the answer
	every int64  // in beats
	mute  bool
	done  chan error
}

// enter has a sequence begin.
func (e *pacedEngine) enter(s *sequence, due time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.put(s, max(e.now+1, int64(due.Sub(e.born)/beat)))
}

func (e *pacedEngine) put(s *sequence, at int64) {
	e.due[at] = append(e.due[at], s)
	if at < e.next {
		e.next = at
		e.wake.Reset(time.Until(e.born.Add(time.Duration(at) * beat)))
	}
}

// conduct sends what is due, beat by beat, one write after the other, as an engine's API server does. It sleeps while
// nothing is.
func (e *pacedEngine) conduct() {
	for range e.wake.C {
		e.sendDue(int64(time.Since(e.born) / beat))
	}
}

// sendDue sends what is due by now, and sets the timer for what is due next.
func (e *pacedEngine) sendDue(now int64) {
	e.mu.Lock()
	e.now = now
	var list []*sequence
	e.next = never
	for at, l := range e.due {
		if at <= now {
			list = append(list, l...)
			delete(e.due, at)
			continue
		}
		e.next = min(e.next, at)
	}
	if e.next != never {
		e.wake.Reset(time.Until(e.born.Add(time.Duration(e.next) * beat)))
	}
	e.mu.Unlock()
	for _, s := range list {
		if err := s.token(); err != nil || s.left == 0 {
			s.done <- err
			continue
		}
		e.mu.Lock()
		e.put(s, now+s.every)
		e.mu.Unlock()
	}
}

const never = math.MaxInt64

// token sends the next one.
func (s *sequence) token() error {
	if s.mute {
		s.out = event(s.out, s.text, "", 0, 0)
	} else {
		s.out = event(s.out, s.text, "", s.read, time.Now().UnixNano())
	}
	if s.left--; s.left == 0 {
		s.out = append(s.out, s.last...)
	}
	_, err := s.conn.Write(s.out)
	s.read, s.out = 0, s.out[:0]
	return err
}

// end appends the end of an answer.
func end(out []byte, q asked) []byte {
	out = event(out, `{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}`, "", 0, 0)
	if q.StreamOptions.IncludeUsage {
		out = event(out, "", fmt.Sprintf(`,"usage":{"prompt_tokens":90,"total_tokens":%d,"completion_tokens":%d}`, 90+q.MaxTokens, q.MaxTokens), 0, 0)
	}
	return append(chunk(out, []byte("data: [DONE]\n\n")), "0\r\n\r\n"...)
}

// event appends one event as an HTTP chunk. read and sent are times for the client to know, zero = none.
func event(b []byte, choice, more string, read, sent int64) []byte {
	var room [512]byte
	data := append(room[:0], `data: {"id":"chatcmpl-8f14e45fceea167a5a36dedd4bea2543","object":"chat.completion.chunk","created":1760000000,"model":"bench","choices":[`...)
	data = append(append(append(data, choice...), ']'), more...)
	if read != 0 {
		data = strconv.AppendInt(append(data, keyRead...), read, 10)
	}
	if sent != 0 {
		data = strconv.AppendInt(append(data, keySent...), sent, 10)
	}
	return chunk(b, append(data, "}\n\n"...))
}

// The fields in which the engine tells its times, in Unix nanoseconds.
const (
	keyRead = `,"engine_read_at":`
	keySent = `,"engine_sent_at":`
)

func chunk(b, data []byte) []byte {
	b = strconv.AppendInt(b, int64(len(data)), 16)
	return append(append(append(b, "\r\n"...), data...), "\r\n"...)
}
