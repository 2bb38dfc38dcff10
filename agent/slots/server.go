package slots

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// The calls of llama-server, as measured on 0.7.0.

const maxAnswer = 64 << 20 // token ids of a long prompt

func (s *Slots) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if s.o.Authorize != nil {
		s.o.Authorize(req.Header)
	}
	resp, err := s.o.Engine.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask the engine for %s: %w", path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask the engine for %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the engine for %s: it answered %d: %.200s", path, resp.StatusCode, text)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("ask the engine for %s: %w", path, err)
	}
	return nil
}

// total is the number of the server's slots. It does not check slot ids, so we have to know.
func (s *Slots) total(ctx context.Context) (int, error) {
	var props struct {
		TotalSlots int `json:"total_slots"`
	}
	if err := s.call(ctx, http.MethodGet, "/props", nil, &props); err != nil {
		return 0, err
	}
	if props.TotalSlots < 1 || props.TotalSlots > 1<<16 {
		return 0, fmt.Errorf("the engine says that it has %d slots", props.TotalSlots)
	}
	return props.TotalSlots, nil
}

type fileName struct {
	Filename string `json:"filename"`
}

func (s *Slots) action(ctx context.Context, id int, action string, in, out any) error {
	return s.call(ctx, http.MethodPost, "/slots/"+strconv.Itoa(id)+"?action="+action, in, out)
}

// saveFile writes a slot to a file. What the server says that it saved is not asked: the file tells, and is looked through.
func (s *Slots) saveFile(ctx context.Context, id int, name string) error {
	return s.action(ctx, id, "save", fileName{name}, &struct{}{})
}

func (s *Slots) restoreFile(ctx context.Context, id int, name string) (restored int, err error) {
	var out struct {
		Restored int `json:"n_restored"`
	}
	err = s.action(ctx, id, "restore", fileName{name}, &out)
	return out.Restored, err
}

// erase empties a slot, unless it is known to be empty.
func (s *Slots) erase(ctx context.Context, c *slot) error {
	if !c.dirty && len(c.tokens) == 0 {
		return nil
	}
	if err := s.action(ctx, c.id, "erase", struct{}{}, &struct{}{}); err != nil {
		c.tokens, c.dirty, c.stored = nil, true, 0
		return err
	}
	c.tokens, c.dirty, c.stored = nil, false, 0
	return nil
}

// errOwnKV: the request's KV is not that of its tokens and the weights alone.
var errOwnKV = errors.New("the request changes what its KV means")

// errNotText: the prompt is more than its token ids.
var errNotText = errors.New("the prompt is not one text")

// request is what of a request's body decides about its prompt.
type request struct {
	Prompt   json.RawMessage `json:"prompt"`
	Messages []struct {
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	N           int             `json:"n"`
	Completions int             `json:"n_cmpl"`
	LoRA        json.RawMessage `json:"lora"`
	// Reuse has the server move KV to other positions, which is not what a block's name says.
	Reuse json.RawMessage `json:"n_cache_reuse"`
}

// promptIDs are the token ids that the server will read for a request.
func (s *Slots) promptIDs(ctx context.Context, path string, body []byte) ([]uint32, error) {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	if r.N > 1 || r.Completions > 1 {
		return nil, errNotText
	}
	if len(r.LoRA) > 0 || len(r.Reuse) > 0 {
		return nil, errOwnKV
	}
	switch path {
	case "/v1/chat/completions":
		return s.chatIDs(ctx, r, body)
	case "/v1/completions", "/completion":
		return s.completionIDs(ctx, r)
	}
	return nil, fmt.Errorf("%s has no prompt", path)
}

func (s *Slots) completionIDs(ctx context.Context, r request) ([]uint32, error) {
	var ids []uint32
	if json.Unmarshal(r.Prompt, &ids) == nil && len(ids) > 0 {
		return ids, nil
	}
	var text string
	if err := json.Unmarshal(r.Prompt, &text); err != nil {
		return nil, errNotText
	}
	return s.tokenize(ctx, text)
}

// chatIDs has the server apply its template to the very body that it will get.
func (s *Slots) chatIDs(ctx context.Context, r request, body []byte) ([]uint32, error) {
	for _, m := range r.Messages {
		if !isText(m.Content) {
			return nil, errNotText
		}
	}
	var out struct {
		Prompt string `json:"prompt"`
	}
	if err := s.call(ctx, http.MethodPost, "/apply-template", json.RawMessage(body), &out); err != nil {
		return nil, err
	}
	return s.tokenize(ctx, out.Prompt)
}

func (s *Slots) tokenize(ctx context.Context, text string) ([]uint32, error) {
	var out struct {
		Tokens []uint32 `json:"tokens"`
	}
	in := struct {
		Content      string `json:"content"`
		AddSpecial   bool   `json:"add_special"`
		ParseSpecial bool   `json:"parse_special"`
	}{text, true, true}
	if err := s.call(ctx, http.MethodPost, "/tokenize", in, &out); err != nil {
		return nil, err
	}
	if len(out.Tokens) == 0 {
		return nil, errNotText
	}
	return out.Tokens, nil
}

// isText says whether a message's content is text alone: a string, nothing, or parts of type text.
func isText(content json.RawMessage) bool {
	var parts []struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(content, &parts) != nil {
		return true // a string
	}
	for _, p := range parts {
		if p.Type != "text" {
			return false
		}
	}
	return true
}

// withSlot names the slot in a body, which the gateway has made sure names none.
func withSlot(body []byte, id int) []byte {
	i := bytes.IndexByte(body, '{') + 1
	head := `"id_slot":` + strconv.Itoa(id) + `,"cache_prompt":true`
	if rest := bytes.TrimLeft(body[i:], " \t\r\n"); len(rest) > 0 && rest[0] != '}' {
		head += ","
	}
	out := make([]byte, 0, len(body)+len(head))
	return append(append(append(out, body[:i]...), head...), body[i:]...)
}

// uncached has the server read all of a prompt, whatever its slot holds. It stands at the end: of two fields of one name the
// server takes the last, and a client may have sent one. What is no object stays as it is, for the server to refuse.
func uncached(body []byte) []byte {
	end := bytes.LastIndexByte(body, '}')
	if end < 0 {
		return body
	}
	field := `,"cache_prompt":false`
	if before := bytes.TrimRight(body[:end], " \t\r\n"); bytes.HasSuffix(before, []byte("{")) {
		field = field[1:]
	}
	out := make([]byte, 0, len(body)+len(field))
	return append(append(append(out, body[:end]...), field...), body[end:]...)
}
