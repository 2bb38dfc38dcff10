package sim

import (
	"encoding/json"
	"net/http"
)

// chat is POST /v1/chat/completions.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	var req chatRequest
	if err := decodeBody(r, &req); err != nil {
		fail(w, err)
		return
	}
	g, err := s.prepareChat(r, &req)
	switch {
	case err != nil:
		fail(w, err)
	case req.Stream:
		s.stream(w, r, g, newChatStream(s, g, &req))
	default:
		s.answerChat(w, r, g, &req)
	}
}

func (s *Server) prepareChat(r *http.Request, req *chatRequest) (*generation, *apiError) {
	if err := req.resolve(s.engine.v); err != nil {
		return nil, err
	}
	return s.newGeneration(r, "chatcmpl-", &req.generateFields, [][]int32{req.template}, req.chatScript(s.engine.v))
}

// resolve checks what only chats have, and makes the prompt.
func (req *chatRequest) resolve(v *vocabulary) *apiError {
	generate := orElse(req.AddGenerationPrompt, true) && !req.ContinueFinal
	switch top := orElse(req.TopLogprobs, 0); {
	case len(req.Messages) == 0:
		return badRequest("messages", "messages: must hold at least one message")
	case req.AddGenerationPrompt != nil && *req.AddGenerationPrompt && req.ContinueFinal:
		return badRequest("continue_final_message", "Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
	case top < 0 || top > maxLogprobs:
		return badRequest("top_logprobs", "Requested sample logprobs of %d, which is greater than max allowed: %d", top, maxLogprobs)
	case top > 0 && !req.Logprobs:
		return badRequest("top_logprobs", "when using `top_logprobs`, `logprobs` must be set to true.")
	}
	for _, m := range req.Messages {
		if m.Role == "" {
			return badRequest("messages", "messages: every message needs a role")
		}
	}
	if req.MaxCompletionTokens != nil {
		req.MaxTokens = req.MaxCompletionTokens
	}
	tools := req.Tools
	if req.ToolChoice.mode == "none" {
		tools = nil
	}
	req.template = v.chatPrompt(req.Messages, tools, generate, req.ContinueFinal)
	return req.chooseCall()
}

// chooseCall decides which function must be called: the named one, or with "required" one drawn from the prompt. With
// "auto" the model never calls.
func (req *chatRequest) chooseCall() *apiError {
	switch req.ToolChoice.mode {
	case "", "none", "auto":
		return nil
	case "required":
		if len(req.Tools) == 0 {
			return badRequest("tool_choice", "When using `tool_choice`, `tools` must be set.")
		}
		h := uint64(len(req.template))
		for _, t := range req.template {
			h = mix(h, uint64(t))
		}
		req.call = &req.Tools[h%uint64(len(req.Tools))].Function
		return nil
	case "function":
		for i := range req.Tools {
			if req.Tools[i].Function.Name == req.ToolChoice.name {
				req.call = &req.Tools[i].Function
				return nil
			}
		}
		return badRequest("tool_choice", "The tool specified in `tool_choice` does not match any of the specified `tools`")
	}
	return badRequest("tool_choice", "Invalid value for `tool_choice`: %s", req.ToolChoice.mode)
}

// chatScript is the constrained answer, if there is one: a function's arguments, or what response_format asks for.
func (req *chatRequest) chatScript(v *vocabulary) func(uint64) ([]int32, *apiError) {
	if req.call == nil {
		return req.script(v)
	}
	return func(seed uint64) ([]int32, *apiError) {
		parameters := req.call.Parameters
		if len(parameters) == 0 || string(parameters) == "null" {
			parameters = json.RawMessage(`{"type":"object"}`)
		}
		return scripted(v, parameters, seed, "tools")
	}
}

// finished is the finish reason as the API tells it: a required call ends with tool_calls, a named one with stop.
func (req *chatRequest) finished(f finish) finish {
	if f == finishedStop && req.call != nil && req.ToolChoice.mode == "required" {
		return "tool_calls"
	}
	return f
}

type chatAnswer struct {
	ID             string          `json:"id"`
	Object         string          `json:"object"`
	Created        int64           `json:"created"`
	Model          string          `json:"model"`
	Choices        []chatChoice    `json:"choices"`
	Tier           *string         `json:"service_tier"`
	System         *string         `json:"system_fingerprint"`
	Usage          usage           `json:"usage"`
	PromptLogprobs *struct{}       `json:"prompt_logprobs"`
	PromptTokenIDs []int           `json:"prompt_token_ids"`
	KVTransfer     json.RawMessage `json:"kv_transfer_params"`
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      answerMessage `json:"message"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason finish        `json:"finish_reason"`
	StopReason   any           `json:"stop_reason"`
	TokenIDs     []int         `json:"token_ids"`
}

type answerMessage struct {
	Role         string     `json:"role"`
	Content      string     `json:"content"`
	Refusal      *string    `json:"refusal"`
	Annotations  *string    `json:"annotations"`
	Audio        *string    `json:"audio"`
	FunctionCall *string    `json:"function_call"`
	ToolCalls    []toolCall `json:"tool_calls,omitempty"`
	Reasoning    *string    `json:"reasoning"`
}

type toolCall struct {
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function calledByName `json:"function"`
}

type calledByName struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

func (s *Server) answerChat(w http.ResponseWriter, r *http.Request, g *generation, req *chatRequest) {
	tokens := make([][]emitted, len(g.choices))
	if !s.collect(w, r, g, func(c *choice, d delta) { tokens[c.index] = append(tokens[c.index], d.tokens...) }) {
		return
	}
	out := chatAnswer{ID: g.id, Object: "chat.completion", Created: g.created, Model: g.model, Usage: g.usage(), Choices: []chatChoice{}}
	for i, c := range g.choices {
		one := chatChoice{Index: i, Message: answerMessage{Role: "assistant"}, FinishReason: req.finished(c.finish), StopReason: c.stopReason}
		if req.call != nil {
			one.Message.ToolCalls = []toolCall{{newToolCallID(), "function", calledByName{req.call.Name, string(c.text)}}}
		} else {
			one.Message.Content = string(c.text)
		}
		if req.Logprobs {
			one.Logprobs = newChatLogprobs(s.engine.v, tokens[i], orElse(req.TopLogprobs, 0), req.TokensAsIDs)
		}
		if req.ReturnTokenIDs {
			one.TokenIDs = idsOf(tokens[i])
		}
		out.Choices = append(out.Choices, one)
	}
	if req.ReturnTokenIDs {
		out.PromptTokenIDs = ints(req.template)
	}
	if o := g.choices[0].outcome; o != nil {
		out.KVTransfer = o.kvTransfer
	}
	answerValue(w, out)
}

func newToolCallID() string { return "chatcmpl-tool-" + randomID(8) }

// chatStream writes the chunks of a streamed chat. What all chunks have in common is made once.
type chatStream struct {
	s     *Server
	g     *generation
	req   *chatRequest
	head  []byte
	begun bool // the chunks with the role were written
}

func newChatStream(s *Server, g *generation, req *chatRequest) *chatStream {
	return &chatStream{s: s, g: g, req: req, head: g.chunkHead("chat.completion.chunk")}
}

func (o *chatStream) delta(b []byte, c *choice, d delta) []byte {
	if !o.begun {
		o.begun = true
		for i := range o.g.choices {
			b = o.role(b, i)
		}
	}
	b = appendInt(append(append(b, o.head...), `{"index":`...), c.index)
	b = append(b, `,"delta":{`...)
	if o.req.call != nil {
		b = o.callDelta(b, c, d)
	} else {
		b = appendJSONString(append(b, `"content":`...), d.text)
	}
	b = append(b, `},"logprobs":`...)
	if o.req.Logprobs {
		b = appendJSON(b, newChatLogprobs(o.s.engine.v, d.tokens, orElse(o.req.TopLogprobs, 0), o.req.TokensAsIDs))
	} else {
		b = append(b, "null"...)
	}
	b = appendFinish(b, o.req.finished(c.finish))
	if c.ended {
		b = appendStopReason(b, c.stopReason)
	}
	b = append(appendTokenIDs(append(b, `,"token_ids":`...), o.req.ReturnTokenIDs, d.tokens), `}]`...)
	return append(o.continuous(b, c.count), "}\n\n"...)
}

// role writes a choice's first chunk; the very first one carries the prompt's token ids.
func (o *chatStream) role(b []byte, index int) []byte {
	b = appendInt(append(append(b, o.head...), `{"index":`...), index)
	b = append(b, `,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":`...)
	if o.req.ReturnTokenIDs {
		b = appendIDs(b, o.req.template)
	} else {
		b = append(b, "null"...)
	}
	return append(o.continuous(b, 0), "}\n\n"...)
}

// callDelta writes a piece of a function call: its name with the first piece, its arguments as they come.
func (o *chatStream) callDelta(b []byte, c *choice, d delta) []byte {
	b = append(b, `"tool_calls":[{`...)
	if c.count == len(d.tokens) {
		b = appendJSONString(append(b, `"id":`...), newToolCallID())
		b = append(b, `,"type":"function","index":0,"function":{"name":`...)
		b = append(appendJSONString(b, o.req.call.Name), ',')
	} else {
		b = append(b, `"index":0,"function":{`...)
	}
	return append(appendJSONString(append(b, `"arguments":`...), d.text), `}}]`...)
}

func (o *chatStream) continuous(b []byte, count int) []byte {
	if so := o.req.StreamOptions; so != nil && so.ContinuousUsage && so.IncludeUsage {
		b = appendUsage(append(b, ','), o.g.promptTokens(), count, -1)
	}
	return b
}

func (o *chatStream) usage(b []byte) []byte { return o.g.usageChunk(b, o.head) }
