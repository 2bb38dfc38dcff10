package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxProbeAnswer bounds what a probe reads; an embedding of 16,384 numbers fits.
const maxProbeAnswer = 1 << 20

// StatusError is an answer that is no success.
type StatusError struct {
	Status int
	Reason string // the agent's Penstock-Reason: draining, loading, failed; empty when the engine itself answered
	Body   string // shortened
}

func (e *StatusError) Error() string {
	s := "it answered " + strconv.Itoa(e.Status) + " " + http.StatusText(e.Status)
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	if e.Body != "" {
		s += ": " + e.Body
	}
	return s
}

// Probe asks the run for one real token of the model, or one vector where embeddings is set, within ctx's deadline or 60 s.
// Its error is a sentence for people that names the run; a *StatusError is in it when the answer was no success.
func (c *Client) Probe(ctx context.Context, t Target, model string, embeddings bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	name, err := json.Marshal(model)
	if err != nil {
		return failed(t, err)
	}
	call := Call{Path: "/v1/completions", Body: []byte(`{"model":` + string(name) + `,"prompt":"ok","max_tokens":1,"temperature":0}`)}
	check := oneToken
	if embeddings {
		call = Call{Path: "/v1/embeddings", Body: []byte(`{"model":` + string(name) + `,"input":"ok"}`)}
		check = oneVector
	}
	call.Request = "probe-" + t.Launch
	body, err := c.ask(ctx, t, call)
	if err != nil {
		return err
	}
	if err := check(body); err != nil {
		return failed(t, err)
	}
	return nil
}

// failed says of which run a probe speaks.
func failed(t Target, err error) error {
	return fmt.Errorf("probe launch %s at %s: %w", t.Launch, t.Address, err)
}

// ask returns the whole body of a successful answer.
func (c *Client) ask(ctx context.Context, t Target, call Call) ([]byte, error) {
	resp, err := c.Do(ctx, t, call)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, failed(t, errors.New("no answer in time"))
	}
	if err != nil {
		return nil, err
	}
	defer resp.Close()
	body, err := io.ReadAll(io.LimitReader(resp, maxProbeAnswer+1))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, failed(t, errors.New("no answer in time"))
	case err != nil:
		return nil, failed(t, fmt.Errorf("read the answer: %w", err))
	case resp.Status != http.StatusOK:
		return nil, failed(t, &StatusError{Status: resp.Status, Reason: resp.Header.Get("Penstock-Reason"), Body: firstLine(body)})
	case len(body) > maxProbeAnswer:
		return nil, failed(t, fmt.Errorf("the answer is longer than %d bytes", maxProbeAnswer))
	}
	return body, nil
}

func firstLine(body []byte) string {
	const most = 200
	s, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// oneToken accepts an answer with text, or with a counted token whose text is empty or not yet a whole character.
func oneToken(body []byte) error {
	var answer struct {
		Choices []struct {
			Text *string `json:"text"`
		} `json:"choices"`
		Usage struct {
			CompletionTokens int `json:"completion_tokens"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("the answer is no completion: %w", err)
	}
	if len(answer.Choices) == 0 || answer.Choices[0].Text == nil {
		return errors.New("the answer holds no text")
	}
	if *answer.Choices[0].Text == "" && answer.Usage.CompletionTokens < 1 {
		return errors.New("the answer holds no token")
	}
	return nil
}

func oneVector(body []byte) error {
	var answer struct {
		Data []struct {
			Embedding json.RawMessage `json:"embedding"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("the answer is no embedding: %w", err)
	}
	if len(answer.Data) == 0 || len(answer.Data[0].Embedding) < len("[0]") {
		return errors.New("the answer holds no vector")
	}
	return nil
}
