package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
)

// responsesRequest is the part of OpenAI's responses API that is served: text in, text out, nothing stored.
type responsesRequest struct {
	generateFields
	Input           responsesInput `json:"input"`
	Instructions    string         `json:"instructions"`
	MaxOutputTokens *int           `json:"max_output_tokens"`
	Previous        *string        `json:"previous_response_id"`
	Background      bool           `json:"background"`
}

// responsesInput is a text, or messages.
type responsesInput []chatMessage

// UnmarshalJSON reads a string or a list of messages.
func (in *responsesInput) UnmarshalJSON(b []byte) error {
	var text string
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	if json.Unmarshal(b, &text) == nil {
		*in = responsesInput{{Role: "user", Content: messageContent{{text: text}}}}
		return nil
	}
	var items []struct {
		Type string `json:"type"`
		chatMessage
	}
	if err := json.Unmarshal(b, &items); err != nil {
		return err
	}
	for _, item := range items {
		if item.Type != "" && item.Type != "message" || item.Role == "" {
			return errors.New("input: only messages are supported")
		}
		*in = append(*in, item.chatMessage)
	}
	return nil
}

// responses is POST /v1/responses.
func (s *Server) responses(w http.ResponseWriter, r *http.Request) {
	var req responsesRequest
	if err := decodeBody(r, &req); err != nil {
		fail(w, err)
		return
	}
	g, err := s.prepareResponse(r, &req)
	if err != nil {
		fail(w, err)
		return
	}
	out := &response{g: g, req: &req, message: "msg_" + randomID(16)}
	if req.Stream {
		s.streamResponse(w, r, out)
		return
	}
	if s.collect(w, r, g, func(*choice, delta) {}) {
		answerValue(w, out.object(out.status()))
	}
}

func (s *Server) prepareResponse(r *http.Request, req *responsesRequest) (*generation, *apiError) {
	switch {
	case len(req.Input) == 0:
		return nil, badRequest("input", "input: must be provided and non-empty")
	case req.Previous != nil:
		return nil, badRequest("previous_response_id", "responses are not stored: previous_response_id is not supported")
	case req.Background:
		return nil, badRequest("background", "responses are not stored: background is not supported")
	}
	messages := []chatMessage(req.Input)
	if req.Instructions != "" {
		messages = append([]chatMessage{{Role: "system", Content: messageContent{{text: req.Instructions}}}}, messages...)
	}
	req.N, req.MaxTokens, req.StreamOptions = nil, req.MaxOutputTokens, nil
	return s.newGeneration(r, "resp_", &req.generateFields, [][]int32{s.engine.v.chatPrompt(messages, nil, true, false)}, nil)
}

// response is the state of one response.
type response struct {
	g       *generation
	req     *responsesRequest
	message string // its id
	seq     int    // of the next event
}

// status is the final one.
func (o *response) status() string {
	if o.g.choices[0].finish == finishedLength {
		return "incomplete"
	}
	return "completed"
}

type jsonMap = map[string]any

// object is the response as JSON.
func (o *response) object(status string) jsonMap {
	out := jsonMap{
		"id": o.g.id, "object": "response", "created_at": o.g.created, "model": o.g.model, "status": status,
		"output": []any{}, "usage": nil, "incomplete_details": nil, "error": nil, "instructions": nil,
		"parallel_tool_calls": true, "tool_choice": "auto", "tools": []any{}, "metadata": nil,
		"temperature": orElse(o.req.Temperature, 1), "top_p": orElse(o.req.TopP, 1), "max_output_tokens": o.req.MaxOutputTokens,
	}
	if o.req.Instructions != "" {
		out["instructions"] = o.req.Instructions
	}
	if status == "in_progress" {
		return out
	}
	if status == "incomplete" {
		out["incomplete_details"] = jsonMap{"reason": "max_output_tokens"}
	}
	out["output"] = []any{o.item(status)}
	u := o.g.usage()
	out["usage"] = jsonMap{
		"input_tokens": u.PromptTokens, "output_tokens": u.CompletionTokens, "total_tokens": u.TotalTokens,
		"input_tokens_details":  jsonMap{"cached_tokens": u.Details.CachedTokens},
		"output_tokens_details": jsonMap{"reasoning_tokens": 0},
	}
	return out
}

// item is the message with all text so far.
func (o *response) item(status string) jsonMap {
	content := []any{}
	if status != "in_progress" {
		content = append(content, o.part(string(o.g.choices[0].text)))
	}
	return jsonMap{"id": o.message, "type": "message", "role": "assistant", "status": status, "content": content}
}

func (o *response) part(text string) jsonMap {
	return jsonMap{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": nil}
}

// event appends one event with its name and number.
func (o *response) event(b []byte, kind string, fields jsonMap) []byte {
	fields["type"], fields["sequence_number"] = kind, o.seq
	o.seq++
	b = append(append(append(b, "event: "...), kind...), "\ndata: "...)
	return append(appendJSON(b, fields), "\n\n"...)
}

// at are the fields that place an event in the response.
func (o *response) at(more jsonMap) jsonMap {
	more["item_id"], more["output_index"], more["content_index"] = o.message, 0, 0
	return more
}

func (s *Server) streamResponse(w http.ResponseWriter, r *http.Request, o *response) {
	sse := newSSE(w, s.opts.WriteTimeout)
	s.start(o.g)
	sse.buf = o.event(sse.buf, "response.created", jsonMap{"response": o.object("in_progress")})
	sse.buf = o.event(sse.buf, "response.in_progress", jsonMap{"response": o.object("in_progress")})
	sse.buf = o.event(sse.buf, "response.output_item.added", jsonMap{"output_index": 0, "item": o.item("in_progress")})
	sse.buf = o.event(sse.buf, "response.content_part.added", o.at(jsonMap{"part": o.part("")}))
	err := s.follow(r.Context(), o.g, func(_ *choice, d delta) error {
		if len(d.text) > 0 {
			sse.buf = o.event(sse.buf, "response.output_text.delta", o.at(jsonMap{"delta": string(d.text), "logprobs": []any{}}))
		}
		return nil
	}, sse.flush)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	text, status := string(o.g.choices[0].text), o.status()
	sse.buf = o.event(sse.buf, "response.output_text.done", o.at(jsonMap{"text": text, "logprobs": []any{}}))
	sse.buf = o.event(sse.buf, "response.content_part.done", o.at(jsonMap{"part": o.part(text)}))
	sse.buf = o.event(sse.buf, "response.output_item.done", jsonMap{"output_index": 0, "item": o.item(status)})
	sse.buf = o.event(sse.buf, "response."+status, jsonMap{"response": o.object(status)})
	_ = sse.flush() // the client may be gone: nobody is left to tell
}
