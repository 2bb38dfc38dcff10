package sim

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"time"
)

// embeddingSize is the length of vectors.
const embeddingSize = 256

type embeddingRequest struct {
	generateFields
	Input      promptField   `json:"input"`
	Messages   []chatMessage `json:"messages"`
	Encoding   string        `json:"encoding_format"` // float or base64
	Dimensions *int          `json:"dimensions"`
}

type embeddingAnswer struct {
	ID      string         `json:"id"`
	Object  string         `json:"object"`
	Created int64          `json:"created"`
	Model   string         `json:"model"`
	Data    []embedding    `json:"data"`
	Usage   embeddingUsage `json:"usage"`
}

type embedding struct {
	Index     int    `json:"index"`
	Object    string `json:"object"`
	Embedding any    `json:"embedding"`
}

type embeddingUsage struct {
	PromptTokens     int  `json:"prompt_tokens"`
	TotalTokens      int  `json:"total_tokens"`
	CompletionTokens int  `json:"completion_tokens"`
	Details          *int `json:"prompt_tokens_details"`
}

// embeddings is POST /v1/embeddings: one vector for each input, computed by the engine like a prompt.
func (s *Server) embeddings(w http.ResponseWriter, r *http.Request) {
	var req embeddingRequest
	if err := decodeBody(r, &req); err != nil {
		fail(w, err)
		return
	}
	g, err := s.prepareEmbedding(r, &req)
	if err != nil {
		fail(w, err)
		return
	}
	if !s.collect(w, r, g, func(*choice, delta) {}) {
		return
	}
	n := g.promptTokens()
	out := embeddingAnswer{
		ID: g.id, Object: "list", Created: time.Now().Unix(), Model: g.model, Data: []embedding{},
		Usage: embeddingUsage{PromptTokens: n, TotalTokens: n},
	}
	for i, c := range g.choices {
		var value any = vector(c.outcome.final, orElse(req.Dimensions, embeddingSize))
		if req.Encoding == "base64" {
			value = base64Vector(value.([]float32))
		}
		out.Data = append(out.Data, embedding{i, "embedding", value})
	}
	answerValue(w, out)
}

func (s *Server) prepareEmbedding(r *http.Request, req *embeddingRequest) (*generation, *apiError) {
	v := s.engine.v
	switch d := orElse(req.Dimensions, embeddingSize); {
	case req.Encoding != "" && req.Encoding != "float" && req.Encoding != "base64":
		return nil, badRequest("encoding_format", "encoding_format: must be float or base64 (got %q)", req.Encoding)
	case d < 1 || d > embeddingSize:
		return nil, badRequest("dimensions", "dimensions: must be from 1 to %d (got %d)", embeddingSize, d)
	case len(req.Messages) == 0 && req.Input.empty():
		return nil, badRequest("input", "input: must be provided and non-empty")
	}
	prompts, err := req.Input.encode(v)
	if err != nil {
		return nil, err
	}
	if len(req.Messages) > 0 {
		prompts = [][]int32{v.chatPrompt(req.Messages, nil, false, false)}
	}
	req.Stream, req.N, req.MaxTokens = false, nil, nil
	g, err := s.newGeneration(r, "embd-", &req.generateFields, prompts, nil)
	if err != nil {
		return nil, err
	}
	for _, c := range g.choices {
		c.seq.embed = true
	}
	return g, nil
}

// vector is a unit vector that depends on the whole prompt and the model.
func vector(p prefix, size int) []float32 {
	out := make([]float32, size)
	var sum float64
	for i := range out {
		x := float64(mix(p.hash, uint64(i))>>11)/(1<<52) - 1
		out[i] = float32(x)
		sum += x * x
	}
	for i := range out {
		out[i] /= float32(math.Sqrt(sum))
	}
	return out
}

// base64Vector is the vector as little-endian 32-bit floats.
func base64Vector(v []float32) string {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(b)
}
