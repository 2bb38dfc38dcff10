package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// zmq4 never ends this goroutine of a PUB socket.
		goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run"),
	)
}

var nothing = zerolog.Nop()

// patience is how long a test waits for something that has to come.
const patience = 30 * time.Second

// rig is a running engine and a client of it.
type rig struct {
	*Server
	t      *testing.T
	socket string
	client *http.Client
	cancel context.CancelFunc
	ended  chan error
	output *lockedBuffer
}

// fast are options for tests that do not look at the clock.
func fast(change ...func(*Options)) Options {
	o := DefaultOptions()
	o.Model, o.Speedup, o.NumGPUBlocks, o.MaxModelLen = "test/model", 1e6, 2048, 8192
	for _, c := range change {
		c(&o)
	}
	return o
}

// start runs an engine on a socket until the test ends.
func start(t *testing.T, o Options) *rig {
	t.Helper()
	r := launch(t, o)
	r.awaitReady()
	return r
}

// launch is start that does not wait for the model.
func launch(t *testing.T, o Options) *rig {
	t.Helper()
	if o.UDS == "" {
		o.UDS = filepath.Join(shortDir(t), "e.sock")
	}
	r := &rig{t: t, socket: o.UDS, ended: make(chan error, 1), output: &lockedBuffer{}}
	o.Output = r.output
	s, err := New(o, zerolog.New(r.output))
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.ended <- s.Run(ctx) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
	}}
	r.client = &http.Client{Transport: transport, Timeout: patience}
	t.Cleanup(func() {
		cancel()
		r.faults.set(nil, []FailureKind{IgnoreTERM, StallLoading}, 0)
		transport.CloseIdleConnections()
		if err, open := <-r.ended; open && err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// exit waits for Run to end and returns its error.
func (r *rig) exit() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		close(r.ended)
		return err
	case <-time.After(patience):
		r.t.Fatal("Run does not end")
		return nil
	}
}

func (r *rig) awaitReady() {
	r.t.Helper()
	r.eventually("ready", func() bool { return r.loaded.Load() })
	<-r.Listening()
}

func (r *rig) eventually(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not %s within %s", what, patience)
		}
	}
}

// post sends JSON and returns the answer.
func (r *rig) post(path string, body any, headers ...string) (int, string) {
	r.t.Helper()
	res := r.open("POST", path, body, headers...)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func (r *rig) get(path string) (int, string) {
	r.t.Helper()
	res := r.open("GET", path, nil)
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

func (r *rig) open(method, path string, body any, headers ...string) *http.Response {
	r.t.Helper()
	res, err := r.try(context.Background(), method, path, body, headers...)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

func (r *rig) try(ctx context.Context, method, path string, body any, headers ...string) (*http.Response, error) {
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		j, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sim"+path, in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return r.client.Do(req)
}

// answer is what tests look at of an answer or a chunk, of completions and chats.
type answer struct {
	ID             string
	Model          string
	PromptTokenIDs []int `json:"prompt_token_ids"`
	Choices        []struct {
		Index   int
		Text    string
		Message struct {
			Role, Content string
			ToolCalls     []toolCall `json:"tool_calls"`
		}
		Delta struct {
			Role, Content string
			ToolCalls     []toolCall `json:"tool_calls"`
		}
		Logprobs       json.RawMessage
		FinishReason   *string `json:"finish_reason"`
		StopReason     any     `json:"stop_reason"`
		TokenIDs       []int   `json:"token_ids"`
		PromptTokenIDs []int   `json:"prompt_token_ids"`
	}
	Usage      *usage
	KVTransfer json.RawMessage `json:"kv_transfer_params"`
	Error      *struct {
		Message, Type string
		Code          int
	}
}

// generate posts a request that is not streamed and has to succeed.
func (r *rig) generate(path string, body any, headers ...string) answer {
	r.t.Helper()
	status, text := r.post(path, body, headers...)
	if status != http.StatusOK {
		r.t.Fatalf("%s: %d %s", path, status, text)
	}
	return parse[answer](r.t, text)
}

// stream posts a streamed request and returns its chunks without [DONE]. The stream has to end as it should.
func (r *rig) streamed(path string, body any) []answer {
	r.t.Helper()
	res := r.open("POST", path, body)
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		r.t.Fatalf("%s: %d %s", path, res.StatusCode, b)
	}
	chunks, done, err := readChunks(res.Body)
	if err != nil || !done {
		r.t.Fatalf("%s: stream ended with done=%v err=%v", path, done, err)
	}
	return chunks
}

// readChunks reads events until [DONE] or the end.
func readChunks(in io.Reader) (chunks []answer, done bool, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok:
		case data == "[DONE]":
			return chunks, true, nil
		default:
			var a answer
			if err := json.Unmarshal([]byte(data), &a); err != nil {
				return chunks, false, fmt.Errorf("%q: %w", data, err)
			}
			chunks = append(chunks, a)
		}
	}
	return chunks, false, lines.Err()
}

func parse[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// textOf joins the text of a stream of one choice.
func textOf(chunks []answer) string {
	var b strings.Builder
	for _, c := range chunks {
		for _, ch := range c.Choices {
			b.WriteString(ch.Text + ch.Delta.Content)
		}
	}
	return b.String()
}

// idsIn joins the token ids of a stream of one choice.
func idsIn(chunks []answer) (ids []int) {
	for _, c := range chunks {
		for _, ch := range c.Choices {
			ids = append(ids, ch.TokenIDs...)
		}
	}
	return ids
}

// metric reads one sample of /metrics by the beginning of its line.
func (r *rig) metric(name string) (value float64) {
	r.t.Helper()
	_, text := r.get("/metrics")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name) {
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' '):], &value); err != nil {
				r.t.Fatal(err)
			}
			return value
		}
	}
	r.t.Fatalf("no metric %s", name)
	return 0
}

func exitCode(err error) int {
	var exit *ExitError
	if errors.As(err, &exit) {
		return exit.Code
	}
	return -1
}

// shortDir is a temporary folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// roundTrip is a server without a network.
type roundTrip func(*http.Request) (status int, body any)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := f(r)
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(bytes.NewReader(b)), Request: r}, nil
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
