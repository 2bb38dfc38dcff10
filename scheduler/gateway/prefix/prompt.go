// Package prefix finds out what a request's prompt begins with, in words that caches are indexed by: the tokens of the whole prompt
// as the engine will see them, the tokens of an earlier turn of the same conversation, or, where nobody tells tokens, chunks of text.
//
// It makes the questions to engines and reads the answers, and remembers conversations, so that a further turn asks for the last
// messages only. It sends nothing, and knows neither replicas nor caches. Its caller is the gateway.
package prefix

import (
	"bytes"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/penstock/penstock/kvstore/index"
	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// Prompt is what of a request's body decides its tokens. It points into the body, which must not change meanwhile.
type Prompt struct {
	messages [][]byte // of a chat, each as it stands
	raw      []byte   // of anything else: the JSON value
	ids      []uint32 // of a prompt that is given as tokens
	fields   []byte   // further fields that templates see, as members: ,"tools":[…]
	unsure   string   // why nobody can be asked for the tokens; empty = somebody can
}

// asked are the fields of chat completions that vLLM's /tokenize and llama-server's /apply-template take too.
var asked = []string{
	"tools", "chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "add_special_tokens",
}

// hidden are fields that change what a template makes, which questions for tokens cannot carry.
var hidden = []string{"documents", "reasoning_effort", "thinking", "functions", "mm_processor_kwargs", "media_io_kwargs"}

// Chat reads a body of /v1/chat/completions.
func Chat(body rawjson.Object) Prompt {
	var p Prompt
	messages := body.Get("messages")
	it := rawjson.Elements(messages, 0)
	for it.Next() {
		start := it.Value
		end := it.Skip()
		if end < start {
			break
		}
		p.messages = append(p.messages, messages[start:end])
	}
	if it.End() < 0 || len(p.messages) == 0 {
		return Prompt{raw: messages, unsure: "the messages are no list"}
	}
	for _, name := range asked {
		p.add(name, body.Get(name))
	}
	for _, name := range hidden {
		if v := body.Get(name); given(v) {
			p.unsure = "of the field " + name
			p.add(name, v)
		}
	}
	if v := body.Get("tool_choice"); string(v) == `"none"` && given(body.Get("tools")) {
		p.unsure = "tools are given and ruled out"
		p.add("tool_choice", v)
	}
	for _, m := range p.messages {
		if media(m) {
			p.unsure = "a message holds more than text"
		}
	}
	return p
}

// Completion reads a body of /v1/completions.
func Completion(body rawjson.Object) Prompt {
	p := Prompt{raw: body.Get("prompt")}
	p.add("add_special_tokens", body.Get("add_special_tokens"))
	if len(p.raw) > 0 && p.raw[0] == '[' {
		var ok bool
		if p.ids, ok = AppendIDs(nil, p.raw); !ok {
			p.unsure = "there are several prompts"
		}
	} else if len(p.raw) == 0 || p.raw[0] != '"' {
		p.unsure = "the prompt is no text"
	}
	return p
}

// Other is a prompt that no engine can be asked about: value is where it stands.
func Other(value []byte) Prompt { return Prompt{raw: value, unsure: "of its path"} }

func (p *Prompt) add(name string, value []byte) {
	if given(value) {
		p.fields = append(append(append(p.fields, `,"`...), name...), `":`...)
		p.fields = append(p.fields, value...)
	}
}

func given(v []byte) bool { return len(v) > 0 && string(v) != "null" }

// media tells whether a message's content has parts that are no text.
func media(message []byte) bool {
	if len(message) == 0 || message[0] != '{' {
		return true
	}
	for it := rawjson.Members(message, 0); it.Next(); {
		if string(it.Key()) != "content" || message[it.Value] != '[' {
			continue
		}
		for parts := rawjson.Elements(message, it.Value); parts.Next(); {
			if kind := member(message, parts.Value, "type"); string(kind) != `"text"` {
				return true
			}
		}
		return false
	}
	return false
}

// member is a field of the object at b[at], nil when there is none.
func member(b []byte, at int, name string) []byte {
	for it := rawjson.Members(b, at); it.Next(); {
		if string(it.Key()) == name {
			start := it.Value
			if end := it.Skip(); end > start {
				return b[start:end]
			}
			return nil
		}
	}
	return nil
}

// IDs are the tokens of a prompt that is given as such; nil = it is not.
func (p *Prompt) IDs() []uint32 { return p.ids }

// Unsure says why nobody can be asked for the tokens; empty = somebody can.
func (p *Prompt) Unsure() string { return p.unsure }

// Bytes is how long the prompt is as text.
func (p *Prompt) Bytes() (n int) {
	for _, m := range p.messages {
		n += len(m)
	}
	return n + len(p.raw)
}

// chunk is how much text stands for a block where tokens are not known; chunkTokens is what that is taken to be in tokens.
const (
	chunk       = 256
	ChunkTokens = 64
)

// AppendText appends to dst the names of the prompt's full chunks of text. Whatever is in a message, pictures too, is in its text.
func (p *Prompt) AppendText(dst []uint64, root index.Root) []uint64 {
	prev := xxh3.HashSeed(p.fields, uint64(root))
	parts := p.messages
	if parts == nil {
		parts = [][]byte{bytes.TrimPrefix(p.raw, []byte("["))}
	}
	var rest []byte // the beginning of a chunk
	name := func(b []byte) {
		prev = xxh3.HashSeed(b, prev)
		dst = append(dst, prev)
	}
	for _, part := range parts {
		if len(rest) > 0 {
			n := min(chunk-len(rest), len(part))
			if rest = append(rest, part[:n]...); len(rest) < chunk {
				continue
			}
			name(rest)
			rest, part = rest[:0], part[n:]
		}
		for ; len(part) >= chunk; part = part[chunk:] {
			name(part[:chunk])
		}
		rest = append(rest, part...)
	}
	return dst
}

// question makes a body with messages in place of the prompt's own.
func (p *Prompt) question(model string, messages [][]byte) []byte {
	b := make([]byte, 0, p.Bytes()+len(p.fields)+len(model)+64)
	b = append(b, '{')
	if model != "" {
		b = append(rawjson.AppendString(append(b, `"model":`...), []byte(model)), ',')
	}
	if messages == nil {
		b = append(append(b, `"prompt":`...), p.raw...)
	} else {
		b = append(append(append(b, `"messages":[`...), bytes.Join(messages, []byte(","))...), ']')
	}
	return append(append(b, p.fields...), '}')
}

// Tokenize is the body of vLLM's /tokenize for messages of the prompt (Known.Ask), or for all of it where it is no chat.
func (p *Prompt) Tokenize(model string, messages [][]byte) []byte { return p.question(model, messages) }

// ApplyTemplate is the body of llama-server's /apply-template for messages; nil = the prompt is no chat and needs no template.
func (p *Prompt) ApplyTemplate(messages [][]byte) []byte {
	if messages == nil {
		return nil
	}
	return p.question("", messages)
}

// TokenizeContent is the body of llama-server's /tokenize for what ApplyTemplate's answer made of a chat, or, without one, for the
// prompt itself. Not ok: the answer is none.
func (p *Prompt) TokenizeContent(answer []byte) (body []byte, ok bool) {
	content := p.raw
	if answer != nil {
		answer = bytes.TrimSpace(answer)
		content = member(answer, 0, "prompt")
	}
	if len(content) == 0 || content[0] != '"' {
		return nil, false
	}
	return slices.Concat([]byte(`{"content":`), content, []byte(`,"add_special":true,"parse_special":true}`)), true
}

// Tokens reads an engine's answer to a question for tokens.
func Tokens(answer []byte) ([]uint32, bool) {
	answer = bytes.TrimSpace(answer)
	if rawjson.Check(answer, 100) != nil {
		return nil, false
	}
	return AppendIDs(nil, member(answer, 0, "tokens"))
}

// AppendIDs reads a list of token ids. Not ok: it is none, or an empty one.
func AppendIDs(dst []uint32, list []byte) ([]uint32, bool) {
	if len(list) < 3 || list[0] != '[' || list[len(list)-1] != ']' {
		return nil, false
	}
	n, some := uint64(0), false
	for _, c := range list[1:] {
		switch {
		case c >= '0' && c <= '9':
			n, some = n*10+uint64(c-'0'), true
			if n >= 1<<32 {
				return nil, false
			}
		case c == ',' || c == ']':
			if !some {
				return nil, false
			}
			dst, n, some = append(dst, uint32(n)), 0, false
		case c != ' ' && c != '\n' && c != '\r' && c != '\t':
			return nil, false
		}
	}
	return dst, true
}
