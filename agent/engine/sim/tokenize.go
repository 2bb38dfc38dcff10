package sim

import (
	"net/http"
)

type tokenizeRequest struct {
	Model     string  `json:"model"`
	Prompt    *string `json:"prompt"`
	TokenStrs bool    `json:"return_token_strs"`
	chatPart
}

type chatPart struct {
	Messages            []chatMessage `json:"messages"`
	Tools               []chatTool    `json:"tools"`
	AddGenerationPrompt *bool         `json:"add_generation_prompt"`
	ContinueFinal       bool          `json:"continue_final_message"`
}

type tokenizeAnswer struct {
	Count       int      `json:"count"`
	MaxModelLen int      `json:"max_model_len"`
	Tokens      []int    `json:"tokens"`
	TokenStrs   []string `json:"token_strs"`
}

// tokenize is POST /tokenize, of a prompt or of a chat's messages.
func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) {
	var req tokenizeRequest
	if err := decodeBody(r, &req); err != nil {
		fail(w, err)
		return
	}
	if _, _, _, err := s.modelNamed(req.Model); err != nil {
		fail(w, err)
		return
	}
	v := s.engine.v
	var ids []int32
	switch {
	case req.Prompt != nil:
		ids = v.encodeSpecial(nil, *req.Prompt)
	case len(req.Messages) > 0:
		ids = v.chatPrompt(req.Messages, req.Tools, orElse(req.AddGenerationPrompt, true) && !req.ContinueFinal, req.ContinueFinal)
	default:
		fail(w, badRequest("prompt", "prompt or messages: one of them must be given"))
		return
	}
	out := tokenizeAnswer{Count: len(ids), MaxModelLen: s.opts.MaxModelLen, Tokens: ints(ids)}
	if req.TokenStrs {
		for _, id := range ids {
			out.TokenStrs = append(out.TokenStrs, tokenText(v, id, false))
		}
	}
	answerValue(w, out)
}

// detokenize is POST /detokenize.
func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model  string `json:"model"`
		Tokens []int  `json:"tokens"`
	}
	if err := decodeBody(r, &req); err != nil {
		fail(w, err)
		return
	}
	if _, _, _, err := s.modelNamed(req.Model); err != nil {
		fail(w, err)
		return
	}
	text, err := Tokenizer{}.Decode(req.Tokens)
	if err != nil {
		fail(w, badRequest("tokens", "%v", err))
		return
	}
	answerValue(w, map[string]string{"prompt": text})
}
