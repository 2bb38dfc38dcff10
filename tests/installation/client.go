package installation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Client is a client of the gateway.
type Client struct {
	URL, Key string
	HTTP     *http.Client // nil = http.DefaultClient
}

// Message is one message of a chat.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Answer is one finished stream.
type Answer struct {
	ID             string // X-Request-Id
	Text           string
	TTFT           time.Duration
	Prompt, Cached int
	Completion     int
	Chunks         int
	Finish         string
}

// StreamError is an error event inside a stream, or a stream that broke off.
type StreamError struct {
	Answer  Answer // what had come before
	Message string
	Code    string // empty: the stream broke off without a word
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("stream of request %s after %d characters: %s (%s)", e.Answer.ID, len(e.Answer.Text), e.Message, e.Code)
}

// RefusedError is an answer other than 200.
type RefusedError struct {
	Status int
	Body   string
	Header http.Header
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the gateway answered %d: %s", e.Status, e.Body)
}

// Post sends a body to a path under the URL.
func (c *Client) Post(ctx context.Context, path string, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Key)
	req.Header.Set("Content-Type", "application/json")
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	return client.Do(req)
}

// Chat streams an answer of a model; fields replace or add to the greedy default, and each piece of text goes to show,
// which may be nil.
func (c *Client) Chat(ctx context.Context, model string, messages []Message, fields map[string]any, show io.Writer) (Answer, error) {
	body := map[string]any{
		"model": model, "messages": messages, "stream": true, "temperature": 0, "max_tokens": 64,
		"stream_options": map[string]any{"include_usage": true},
	}
	for k, v := range fields {
		body[k] = v
	}
	begin := time.Now()
	resp, err := c.Post(ctx, "/chat/completions", body)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return Answer{}, &RefusedError{resp.StatusCode, string(text), resp.Header}
	}
	a := Answer{ID: resp.Header.Get("X-Request-Id")}
	if show == nil {
		show = io.Discard
	}
	return a.read(resp.Body, begin, show)
}

// chunk is what tests look at in one event.
type chunk struct {
	Error   *struct{ Message, Code string }
	Choices []struct {
		Delta        struct{ Content string }
		FinishReason *string `json:"finish_reason"`
	}
	Usage *struct {
		PromptTokens        int `json:"prompt_tokens"`
		CompletionTokens    int `json:"completion_tokens"`
		PromptTokensDetails struct {
			CachedTokens int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
}

// read takes the events of a stream, which must end with [DONE].
func (a Answer) read(r io.Reader, begin time.Time, show io.Writer) (Answer, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return a, nil
		}
		var e chunk
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return a, &StreamError{a, "bad event: " + err.Error() + ": " + data, ""}
		}
		if e.Error != nil {
			return a, &StreamError{a, e.Error.Message, e.Error.Code}
		}
		a.take(e, begin, show)
	}
	text := "it ended without [DONE]"
	if in.Err() != nil {
		text += ": " + in.Err().Error()
	}
	return a, &StreamError{a, text, ""}
}

func (a *Answer) take(e chunk, begin time.Time, show io.Writer) {
	a.Chunks++
	if e.Usage != nil {
		a.Prompt, a.Completion = e.Usage.PromptTokens, e.Usage.CompletionTokens
		a.Cached = e.Usage.PromptTokensDetails.CachedTokens
	}
	for _, c := range e.Choices {
		if c.FinishReason != nil {
			a.Finish = *c.FinishReason
		}
		if c.Delta.Content == "" {
			continue
		}
		if a.TTFT == 0 {
			a.TTFT = time.Since(begin)
		}
		a.Text += c.Delta.Content
		fmt.Fprint(show, c.Delta.Content)
	}
}
