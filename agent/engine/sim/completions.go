package sim

import (
	"encoding/json"
	"net/http"
)

// maxLogprobs is vLLM's default --max-logprobs.
const maxLogprobs = 20

// completions is POST /v1/completions.
func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	var req completionRequest
	n := defaultMaxTokens
	req.MaxTokens = &n // a null in the body takes it away: up to the end of the context then, as in vLLM
	if err := decodeBody(r, &req); err != nil {
		fail(w, err)
		return
	}
	g, prompts, err := s.prepareCompletion(r, &req)
	switch {
	case err != nil:
		fail(w, err)
	case req.Stream:
		s.stream(w, r, g, newCompletionStream(s, g, &req, prompts))
	default:
		s.answerCompletion(w, r, g, &req, prompts)
	}
}

// defaultMaxTokens is OpenAI's for completions.
const defaultMaxTokens = 16

func (s *Server) prepareCompletion(r *http.Request, req *completionRequest) (*generation, [][]int32, *apiError) {
	switch {
	case req.Suffix != nil:
		return nil, nil, badRequest("suffix", "suffix is not currently supported")
	case req.Prompt.empty():
		return nil, nil, badRequest("prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
	case req.Logprobs != nil && *req.Logprobs < 0:
		return nil, nil, badRequest("logprobs", "`logprobs` must be a positive value.")
	case req.Logprobs != nil && *req.Logprobs > maxLogprobs:
		return nil, nil, badRequest("logprobs", "Requested sample logprobs of %d, which is greater than max allowed: %d", *req.Logprobs, maxLogprobs)
	}
	prompts, err := req.Prompt.encode(s.engine.v)
	if err != nil {
		return nil, nil, err
	}
	g, err := s.newGeneration(r, "cmpl-", &req.generateFields, prompts, req.script(s.engine.v))
	return g, prompts, err
}

// encode is the prompts as tokens.
func (p promptField) encode(v *vocabulary) (prompts [][]int32, _ *apiError) {
	for _, text := range p.texts {
		prompts = append(prompts, v.encodeSpecial(nil, text))
	}
	for _, ids := range p.tokens {
		tokens, err := v.tokens(ids)
		if err != nil {
			return nil, badRequest("prompt", "%v", err)
		}
		prompts = append(prompts, tokens)
	}
	return prompts, nil
}

// script makes the constrained answers that response_format asks for; nil if it asks for none.
func (f *generateFields) script(v *vocabulary) func(uint64) ([]int32, *apiError) {
	format := f.ResponseFormat
	if format == nil || format.Type == "text" {
		return nil
	}
	return func(seed uint64) ([]int32, *apiError) {
		raw := json.RawMessage(anyObject)
		switch {
		case format.Type == "json_schema" && format.JSONSchema != nil:
			raw = format.JSONSchema.Schema
		case format.Type != "json_object":
			return nil, badRequest("response_format", "response_format %q is not supported or lacks its schema", format.Type)
		}
		return scripted(v, raw, seed, "response_format")
	}
}

func scripted(v *vocabulary, raw json.RawMessage, seed uint64, param string) ([]int32, *apiError) {
	text, err := instance(raw, seed)
	if err != nil {
		return nil, badRequest(param, "%v", err)
	}
	return v.encode([]int32{}, text), nil
}

type completionAnswer struct {
	ID         string             `json:"id"`
	Object     string             `json:"object"`
	Created    int64              `json:"created"`
	Model      string             `json:"model"`
	Choices    []completionChoice `json:"choices"`
	Tier       *string            `json:"service_tier"`
	System     *string            `json:"system_fingerprint"`
	Usage      usage              `json:"usage"`
	KVTransfer json.RawMessage    `json:"kv_transfer_params"`
}

type completionChoice struct {
	Index          int                 `json:"index"`
	Text           string              `json:"text"`
	Logprobs       *completionLogprobs `json:"logprobs"`
	FinishReason   finish              `json:"finish_reason"`
	StopReason     any                 `json:"stop_reason"`
	TokenIDs       []int               `json:"token_ids"`
	PromptLogprobs *struct{}           `json:"prompt_logprobs"`
	PromptTokenIDs []int               `json:"prompt_token_ids"`
}

func (s *Server) answerCompletion(w http.ResponseWriter, r *http.Request, g *generation, req *completionRequest, prompts [][]int32) {
	tokens := make([][]emitted, len(g.choices))
	if !s.collect(w, r, g, func(c *choice, d delta) { tokens[c.index] = append(tokens[c.index], d.tokens...) }) {
		return
	}
	out := completionAnswer{ID: g.id, Object: "text_completion", Created: g.created, Model: g.model, Usage: g.usage(), Choices: []completionChoice{}}
	for i, c := range g.choices {
		prompt := prompts[i/orElse(req.N, 1)]
		one := completionChoice{Index: i, Text: string(c.text), FinishReason: c.finish, StopReason: c.stopReason}
		shown := tokens[i]
		if req.Echo {
			shown = append(s.known(c.seq.model, prompt), shown...)
			if !req.ReturnTokenIDs {
				one.Text = Text(ints(prompt)) + one.Text
			}
		}
		if req.Logprobs != nil {
			one.Logprobs = newCompletionLogprobs(s.engine.v, shown, *req.Logprobs, 0, req.TokensAsIDs, req.Echo)
		}
		if req.ReturnTokenIDs {
			one.TokenIDs, one.PromptTokenIDs = idsOf(tokens[i]), ints(prompt)
		}
		out.Choices = append(out.Choices, one)
	}
	if o := g.choices[0].outcome; o != nil {
		out.KVTransfer = o.kvTransfer
	}
	answerValue(w, out)
}

// known is a prompt as if it had been generated, for its logprobs.
func (s *Server) known(model Fingerprint, prompt []int32) []emitted {
	c := newPrefix(model)
	out := make([]emitted, len(prompt))
	for i, t := range prompt {
		out[i] = emitted{t, c.hash}
		c = s.engine.v.fold(c, t)
	}
	return out
}

func idsOf(tokens []emitted) []int {
	out := make([]int, len(tokens))
	for i, t := range tokens {
		out[i] = int(t.token)
	}
	return out
}

// completionStream writes the chunks of a streamed completion. What all chunks have in common is made once.
type completionStream struct {
	s       *Server
	g       *generation
	req     *completionRequest
	prompts [][]int32
	head    []byte // up to the choice's index
	offsets []int  // characters given out, by choice
}

func newCompletionStream(s *Server, g *generation, req *completionRequest, prompts [][]int32) *completionStream {
	return &completionStream{s, g, req, prompts, g.chunkHead("text_completion"), make([]int, len(g.choices))}
}

// chunkHead is the beginning of every chunk, up to its first choice.
func (g *generation) chunkHead(object string) []byte {
	b := appendJSONString([]byte(`data: {"id":`), g.id)
	b = append(append(append(b, `,"object":"`...), object...), `","created":`...)
	b = appendInt(b, int(g.created))
	b = appendJSONString(append(b, `,"model":`...), g.model)
	return append(b, `,"choices":[`...)
}

func (o *completionStream) delta(b []byte, c *choice, d delta) []byte {
	first := c.count == len(d.tokens)
	prompt := o.prompts[c.index/orElse(o.req.N, 1)]
	b = appendInt(append(append(b, o.head...), `{"index":`...), c.index)
	b = append(b, `,"text":`...)
	text := d.text
	if first && o.req.Echo && !o.req.ReturnTokenIDs {
		text = append([]byte(Text(ints(prompt))), text...)
	}
	b = appendJSONString(b, text)
	b = o.logprobs(append(b, `,"logprobs":`...), c, d, first, prompt)
	b = appendStopReason(appendFinish(b, c.finish), c.stopReason)
	b = append(b, `,"prompt_token_ids":`...)
	if first && (o.req.ReturnTokenIDs || o.req.Echo) {
		b = appendIDs(b, prompt)
	} else {
		b = append(b, "null"...)
	}
	b = append(appendTokenIDs(append(b, `,"token_ids":`...), o.req.ReturnTokenIDs, d.tokens), `}]`...)
	if so := o.req.StreamOptions; so != nil && so.ContinuousUsage && so.IncludeUsage {
		b = appendUsage(append(b, ','), len(prompt), c.count, -1)
	}
	return append(b, "}\n\n"...)
}

func (o *completionStream) logprobs(b []byte, c *choice, d delta, first bool, prompt []int32) []byte {
	if o.req.Logprobs == nil {
		return append(b, "null"...)
	}
	tokens, echoed := d.tokens, first && o.req.Echo
	if echoed {
		tokens = append(o.s.known(c.seq.model, prompt), tokens...)
	}
	l := newCompletionLogprobs(o.s.engine.v, tokens, *o.req.Logprobs, o.offsets[c.index], o.req.TokensAsIDs, echoed)
	for _, t := range l.Tokens {
		o.offsets[c.index] += len([]rune(t))
	}
	return appendJSON(b, l)
}

func (o *completionStream) usage(b []byte) []byte { return o.g.usageChunk(b, o.head) }

// usageChunk is the chunk without choices that ends a stream.
func (g *generation) usageChunk(b, head []byte) []byte {
	b = append(append(b, head...), `],`...)
	return append(appendUsage(b, g.promptTokens(), g.answered(), g.cached()), "}\n\n"...)
}

func appendJSON(b []byte, v any) []byte {
	j, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain values
	}
	return append(b, j...)
}
