package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakeEngine is an agent with its engine behind it: vLLM's API over the model above, and faults on demand.
type fakeEngine struct {
	*httptest.Server
	conns atomic.Int32

	mu       sync.Mutex
	manner   manner
	faults   []fault // for the next requests, in their order
	bodies   []map[string]any
	headers  []http.Header
	canceled chan string // request ids of requests whose client went away
}

// manner is how an engine sends its tokens.
type manner struct {
	eager  bool            // see detokenizer
	noIDs  bool            // it tells no token ids
	tokens func(i int) int // tokens in chunk i; nil = one
}

// fault is what goes wrong with one request.
type fault struct {
	status    int    // instead of an answer
	reason    string // Penstock-Reason with it
	body      string
	cutBytes  int    // the connection is cut after so many bytes of the body; 0 = not
	cutTokens int    // or after so many tokens
	hang      bool   // stall instead of cutting
	event     string // send this event instead of cutting
	finish    string // end with this finish reason instead of cutting
	otherText bool   // say something else
}

func newFakeEngine(t testing.TB) *fakeEngine {
	t.Helper()
	e := &fakeEngine{canceled: make(chan string, 100)}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(e.serve))
	e.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			e.conns.Add(1)
		}
	}
	e.Start()
	t.Cleanup(e.Close)
	return e
}

func (e *fakeEngine) fail(f ...fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = append(e.faults, f...)
}

// behave sets the manner, and the faults of the next requests.
func (e *fakeEngine) behave(m manner, f ...fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.manner, e.faults = m, f
}

func (e *fakeEngine) seen() []map[string]any {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]map[string]any(nil), e.bodies...)
}

func (e *fakeEngine) serve(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	var body map[string]any
	_ = json.Unmarshal(raw, &body)
	e.mu.Lock()
	e.bodies, e.headers = append(e.bodies, body), append(e.headers, r.Header.Clone())
	var f fault
	m := e.manner
	if len(e.faults) > 0 {
		f, e.faults = e.faults[0], e.faults[1:]
	}
	e.mu.Unlock()
	if f.status != 0 {
		w.Header().Set("Penstock-Reason", f.reason)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.status)
		io.WriteString(w, f.body)
		return
	}
	a := newAnswer(r, body, f, m)
	cw := &cutWriter{w: w, left: -1, r: r, e: e, f: f}
	if f.cutBytes > 0 {
		cw.left = f.cutBytes
	}
	if body["stream"] == true {
		w.Header().Set("Content-Type", "text/event-stream")
		a.stream(cw)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	a.whole(cw)
}

// cutWriter ends the connection, or hangs, after left bytes.
type cutWriter struct {
	w    http.ResponseWriter
	r    *http.Request
	e    *fakeEngine
	f    fault
	left int
}

func (c *cutWriter) send(s string) {
	if c.left >= 0 {
		if len(s) >= c.left {
			io.WriteString(c.w, s[:c.left])
			c.w.(http.Flusher).Flush()
			c.end()
		}
		c.left -= len(s)
	}
	io.WriteString(c.w, s)
	c.w.(http.Flusher).Flush()
	if c.r.Context().Err() != nil {
		c.e.canceled <- c.r.Header.Get("Penstock-Request")
		panic(http.ErrAbortHandler)
	}
}

func (c *cutWriter) end() {
	if c.f.hang {
		<-c.r.Context().Done()
		c.e.canceled <- c.r.Header.Get("Penstock-Request")
	}
	panic(http.ErrAbortHandler)
}

// fakeAnswer is one answer in the making.
type fakeAnswer struct {
	f        fault
	manner   manner
	chat     bool
	ids      bool
	usage    bool
	prompt   []int
	max, min int
	stop     []string
	id       string
	model    string
}

func newAnswer(r *http.Request, body map[string]any, f fault, m manner) *fakeAnswer {
	a := &fakeAnswer{
		f: f, manner: m, chat: strings.HasSuffix(r.URL.Path, "/chat/completions"), ids: body["return_token_ids"] == true && !m.noIDs,
		id: "cmpl-" + r.Header.Get("X-Request-Id"), max: 1 << 20, model: fmt.Sprint(body["model"]),
	}
	if a.chat {
		m, _ := json.Marshal(body["messages"])
		a.prompt = bytesAsTokens(string(m))
	} else if s, ok := body["prompt"].(string); ok {
		a.prompt = bytesAsTokens(s)
	} else if list, ok := body["prompt"].([]any); ok {
		for _, v := range list {
			a.prompt = append(a.prompt, int(v.(float64)))
		}
	}
	if n, ok := body["max_tokens"].(float64); ok {
		a.max = int(n)
	} else if _, given := body["max_tokens"]; !given && !a.chat {
		a.max = completionsDefault
	}
	if n, ok := body["min_tokens"].(float64); ok {
		a.min = int(n)
	}
	if o, ok := body["stream_options"].(map[string]any); ok {
		a.usage = o["include_usage"] == true
	}
	switch s := body["stop"].(type) {
	case string:
		a.stop = []string{s}
	case []any:
		for _, v := range s {
			a.stop = append(a.stop, v.(string))
		}
	}
	return a
}

func (a *fakeAnswer) usageJSON(completion int) string {
	return fmt.Sprintf(`{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}`,
		len(a.prompt), len(a.prompt)+completion, completion, len(a.prompt)/2)
}

func (a *fakeAnswer) whole(w *cutWriter) {
	tokens, text, finish := generate(a.prompt, a.max, a.min, a.stop)
	if a.f.finish != "" {
		finish = a.f.finish
	}
	message := fmt.Sprintf(`"text":%s`, quote(text))
	if a.chat {
		message = fmt.Sprintf(`"message":{"role":"assistant","content":%s}`, quote(text))
	}
	w.send(fmt.Sprintf(`{"id":%q,"object":"x","created":1,"model":%q,"choices":[{"index":0,%s,"logprobs":null,"finish_reason":%q}],"usage":%s}`,
		a.id, a.model, message, finish, a.usageJSON(len(tokens))))
}

func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s)
	return strings.TrimSpace(b.String())
}

func (a *fakeAnswer) stream(w *cutWriter) {
	if a.chat {
		w.send(a.chunk(`"delta":{"role":"assistant","content":""}`, "null", nil, a.ids))
	}
	d := detokenizer{eager: a.manner.eager, stop: a.stop}
	ids := append([]int(nil), a.prompt...)
	made, chunkNo, finish := 0, 0, ""
	for finish == "" {
		n := 1
		if a.manner.tokens != nil {
			n = a.manner.tokens(chunkNo)
		}
		var batch []int
		text := ""
		for range n {
			t := next(ids, made < a.min)
			ids, batch = append(ids, t), append(batch, t)
			made++
			switch {
			case t == eos:
				finish = "stop"
			case made == a.max:
				finish = "length"
			}
			more, stopped := d.push(t, finish != "")
			text += more
			if stopped {
				finish = "stop"
			}
			if finish != "" {
				break
			}
		}
		if a.f.otherText {
			text = strings.ToUpper(text) + "?"
		}
		first := chunkNo == 0 && !a.chat && a.ids
		if a.f.cutTokens > 0 && made >= a.f.cutTokens {
			a.breakOff(w)
			return
		}
		delta := fmt.Sprintf(`"text":%s`, quote(text))
		if a.chat {
			delta = fmt.Sprintf(`"delta":{"content":%s}`, quote(text))
		}
		reason := "null"
		if finish != "" {
			reason = quote(finish) + `,"stop_reason":null`
		}
		w.send(a.chunk(delta, reason, batch, first))
		chunkNo++
	}
	if a.usage {
		w.send(fmt.Sprintf("data: {\"id\":%q,\"object\":\"chunk\",\"created\":7,\"model\":%q,\"choices\":[],\"usage\":%s}\n\n", a.id, a.model, a.usageJSON(made)))
	}
	w.send("data: [DONE]\n\n")
}

func (a *fakeAnswer) breakOff(w *cutWriter) {
	switch {
	case a.f.event != "":
		w.send("data: " + a.f.event + "\n\n")
		w.send("data: [DONE]\n\n")
	case a.f.finish != "":
		delta := `"text":""`
		if a.chat {
			delta = `"delta":{}`
		}
		w.send(a.chunk(delta, quote(a.f.finish), nil, false))
		w.send("data: [DONE]\n\n")
	default:
		w.end()
	}
}

func (a *fakeAnswer) chunk(delta, finish string, ids []int, prompt bool) string {
	choice, top := "", ""
	if a.ids && ids != nil {
		choice = fmt.Sprintf(`,"token_ids":%s`, idList(ids))
	}
	if prompt && a.ids {
		if a.chat {
			top = fmt.Sprintf(`,"prompt_token_ids":%s`, idList(a.prompt))
		} else {
			choice += fmt.Sprintf(`,"prompt_token_ids":%s`, idList(a.prompt))
		}
	}
	return fmt.Sprintf("data: {\"id\":%q,\"object\":\"chunk\",\"created\":7,\"model\":%q,\"choices\":[{\"index\":0,%s,\"logprobs\":null,\"finish_reason\":%s%s}]%s}\n\n",
		a.id, a.model, delta, finish, choice, top)
}

func idList(ids []int) string {
	b, _ := json.Marshal(ids)
	return string(b)
}

// waitCanceled waits until a request's client has gone away, as the engine sees it.
func (e *fakeEngine) waitCanceled(t *testing.T) string {
	t.Helper()
	select {
	case id := <-e.canceled:
		return id
	case <-time.After(2 * time.Minute):
		t.Fatal("the engine never saw its client go")
		return ""
	}
}
