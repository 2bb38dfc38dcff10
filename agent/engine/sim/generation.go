package sim

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// generation is one request for text on its way: its sequences, and what every part of its answer repeats.
type generation struct {
	id      string
	created int64
	model   string // as named in the answer
	fields  *generateFields
	wake    chan struct{}
	choices []*choice // prompt by prompt, n each
	prompts int       // tokens of all prompts
}

// promptTokens is what usage counts as input.
func (g *generation) promptTokens() int { return g.prompts }

// cached is the number of cached prompt tokens of the first sequence, which is what vLLM reports.
func (g *generation) cached() int { return g.choices[0].cached }

// answered is the number of generated tokens so far.
func (g *generation) answered() (n int) {
	for _, c := range g.choices {
		n += c.count
	}
	return n
}

// modelNamed finds the model or adapter of a name; the empty name is the model.
func (s *Server) modelNamed(name string) (adapter string, adapterID int, shown string, err *apiError) {
	names := s.opts.servedNames()
	if name == "" {
		return "", 0, names[0], nil
	}
	for _, n := range names {
		if n == name {
			return "", 0, names[0], nil
		}
	}
	for i, l := range s.opts.LoRAModules {
		if l.Name == name {
			return l.Name, i + 1, l.Name, nil
		}
	}
	return "", 0, "", unknownModel(name)
}

// newGeneration prepares a request whose prompts are known. script makes the constrained answer to a prompt, or is nil.
func (s *Server) newGeneration(r *http.Request, prefix string, f *generateFields, prompts [][]int32, script func(seed uint64) ([]int32, *apiError)) (*generation, *apiError) {
	adapter, adapterID, shown, apiErr := s.modelNamed(f.Model)
	if apiErr != nil {
		return nil, apiErr
	}
	if apiErr := f.check(); apiErr != nil {
		return nil, apiErr
	}
	base := sampling{
		minTokens: f.MinTokens, temperature: orElse(f.Temperature, 1), ignoreEOS: f.IgnoreEOS,
		penalty: f.penalty(), stopTokens: tokensOf(f.StopTokenIDs),
	}
	g := &generation{
		id: prefix + requestID(r, f.RequestID), created: time.Now().Unix(), model: shown, fields: f,
		wake: make(chan struct{}, 1),
	}
	n, seed := orElse(f.N, 1), seedOf(f.Seed)
	for i, prompt := range prompts {
		base.maxTokens, apiErr = s.room(f, len(prompt))
		if apiErr != nil {
			return nil, apiErr
		}
		g.prompts += len(prompt)
		for j := range n {
			seq := newSequence(g.id+"-"+randomID(4), append([]int32(nil), prompt...), s.opts.BlockSize, s.engine.root, adapter, adapterID, orElse(f.CacheSalt, ""), s.model())
			seq.sampling = base
			seq.seed = mix(seed, uint64(i*n+j))
			if script != nil {
				if seq.script, apiErr = script(uint64(FingerprintOf(Text(ints(prompt))))); apiErr != nil {
					return nil, apiErr
				}
			}
			g.add(s, seq)
		}
	}
	return g, nil
}

func (g *generation) add(s *Server, seq *sequence) {
	f := g.fields
	if f.KVTransfer != nil {
		seq.tenant = f.KVTransfer.TenantTag
	}
	if s.opts.KVTransfer.on() && f.KVTransfer != nil {
		seq.handOver = f.KVTransfer.DoRemoteDecode
		if from := remoteKVOf(f.KVTransfer); from != nil {
			seq.pull = newPull(*from)
		}
	}
	seq.out = newOutput(g.wake, !f.Stream && len(f.Stop) == 0, maxWaitingTokens)
	g.choices = append(g.choices, newChoice(len(g.choices), seq, f))
}

// maxWaitingTokens is how far a client may lag behind before its request is aborted.
const maxWaitingTokens = 8192

// room is how many tokens an answer may have.
func (s *Server) room(f *generateFields, prompt int) (int, *apiError) {
	asked := orElse(f.MaxTokens, 0)
	if max(asked, 1) > s.opts.MaxModelLen-prompt {
		return 0, badRequest("input_tokens", "This model's maximum context length is %d tokens. However, you requested %d output tokens and your prompt contains at least %d input tokens, for a total of at least %d tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
			s.opts.MaxModelLen, asked, prompt, prompt+asked)
	}
	if asked > 0 {
		return asked, nil
	}
	return s.opts.MaxModelLen - prompt, nil
}

// check refuses what vLLM refuses.
func (f *generateFields) check() *apiError {
	n, temperature := orElse(f.N, 1), orElse(f.Temperature, 1)
	limits := []struct {
		bad            bool
		param, message string
	}{
		{n < 1, "n", "n must be at least 1"},
		{n > maxChoices, "n", "n is too large"},
		{!(temperature >= 0) || math.IsInf(temperature, 0), "temperature", "temperature must be non-negative"},
		{n > 1 && temperature < greedyBelow, "n", "n must be 1 when using greedy sampling"},
		{!(orElse(f.TopP, 1) > 0 && orElse(f.TopP, 1) <= 1), "top_p", "top_p must be in (0, 1]"},
		{orElse(f.MaxTokens, 1) < 1, "max_tokens", "max_tokens must be at least 1"},
		{f.MinTokens < 0, "min_tokens", "min_tokens must be greater than or equal to 0"},
		{f.MaxTokens != nil && f.MinTokens > *f.MaxTokens, "min_tokens", "min_tokens must be less than or equal to max_tokens"},
		{!within2(f.PresencePenalty), "presence_penalty", "presence_penalty must be in [-2, 2]"},
		{!within2(f.FrequencyPenalty), "frequency_penalty", "frequency_penalty must be in [-2, 2]"},
		{!(orElse(f.RepetitionPenalty, 1) > 0), "repetition_penalty", "repetition_penalty must be greater than zero"},
		{f.Priority != 0, "priority", "priority is set, but priority scheduling is not enabled"},
		{f.StreamOptions != nil && !f.Stream, "stream_options", "Stream options can only be defined when `stream=True`."},
		{f.CacheSalt != nil && *f.CacheSalt == "", "cache_salt", "Parameter 'cache_salt' must be a non-empty string if provided."},
		{!saltOK(orElse(f.CacheSalt, "")), "cache_salt", `Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\', or NUL.`},
		{emptyStop(f.Stop), "stop", "stop cannot contain an empty string"},
	}
	for _, l := range limits {
		if l.bad {
			return badRequest(l.param, "%s", l.message)
		}
	}
	return nil
}

// maxChoices bounds n, which vLLM bounds by its number of sequences.
const maxChoices = 1024

func within2(p *float64) bool { v := orElse(p, 0); return v >= -2 && v <= 2 }

// saltOK is the rule of vLLM's newer versions, which hand salts to key-value stores.
func saltOK(s string) bool { return len([]rune(s)) <= 128 && !strings.ContainsAny(s, "@/\\\x00") }

func emptyStop(list []string) bool {
	for _, s := range list {
		if s == "" {
			return true
		}
	}
	return false
}

// penalty is a number that stands for the penalties, 0 for none. With one, the answer depends on how long it is already
// and so cannot be continued from its tokens alone.
func (f *generateFields) penalty() uint64 {
	p, q, r := orElse(f.PresencePenalty, 0), orElse(f.FrequencyPenalty, 0), orElse(f.RepetitionPenalty, 1)
	if p == 0 && q == 0 && r == 1 {
		return 0
	}
	return mix(mix(math.Float64bits(p), math.Float64bits(q)), math.Float64bits(r)) | 1
}

func seedOf(seed *int64) uint64 {
	if seed != nil {
		return mix(uint64(*seed), 's')
	}
	return rand.Uint64()
}

func orElse[T any](p *T, fallback T) T {
	if p == nil {
		return fallback
	}
	return *p
}

func tokensOf(ids []int) []int32 {
	out := make([]int32, len(ids))
	for i, id := range ids {
		out[i] = int32(id)
	}
	return out
}

// requestID is the client's id for a request, or a new one.
func requestID(r *http.Request, inBody string) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 256 {
		return id
	}
	if inBody != "" && len(inBody) <= 256 {
		return inBody
	}
	return randomID(16)
}

// randomID is n random bytes in hexadecimal.
func randomID(n int) string {
	var b []byte
	for len(b) < n {
		b = binary.BigEndian.AppendUint64(b, rand.Uint64())
	}
	return hex.EncodeToString(b[:n])
}
