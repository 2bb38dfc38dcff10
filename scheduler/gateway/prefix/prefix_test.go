package prefix

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore/index"
	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// template is how a model's template and tokenizer make tokens of messages: one for each word, and marks around each message.
func template(messages []message) (ids []uint32) {
	for _, m := range messages {
		ids = append(ids, 1)
		for _, w := range strings.Fields(m.Role + " " + m.Content) {
			ids = append(ids, 10+uint32(xxh3.HashString(w))>>8)
		}
		ids = append(ids, 2)
	}
	return append(ids, 1, 7) // opens the answer
}

// fataler is a test of either kind.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func chat(t fataler, messages []message, more string) Prompt {
	t.Helper()
	list, err := json.Marshal(messages)
	if err != nil {
		t.Fatal(err)
	}
	return Chat(object(t, fmt.Sprintf(`{"model":"m","messages":%s%s}`, list, more)))
}

func object(t fataler, s string) rawjson.Object {
	t.Helper()
	o, err := rawjson.Parse([]byte(s), 100)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return o
}

// engine answers a question for tokens.
func engine(t *rapid.T, p *Prompt, messages [][]byte) []uint32 {
	var q struct {
		Messages []message `json:"messages"`
	}
	if err := json.Unmarshal(p.Tokenize("m", messages), &q); err != nil {
		t.Fatal(err)
	}
	answer, err := json.Marshal(map[string]any{"count": 1, "tokens": template(q.Messages)})
	if err != nil {
		t.Fatal(err)
	}
	ids, ok := Tokens(answer)
	if !ok {
		t.Fatalf("not read: %s", answer)
	}
	return ids
}

// TestConversations: over all turns of a conversation, with branches, retries and forgetting, the tokens are what the engine would
// have said of the whole prompt, and what is called known is what they begin with.
func TestConversations(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := NewConversations(rapid.SampledFrom([]int{10_000, 1 << 20}).Draw(t, "memory"))
		words := rapid.SampledFrom([]string{"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"})
		text := func(name string, most int) string {
			return strings.Join(rapid.SliceOfN(words, 1, most).Draw(t, name), " ")
		}
		var all []message
		if rapid.Bool().Draw(t, "system") {
			all = append(all, message{"system", text("system", 30)})
		}
		for range rapid.IntRange(1, 12).Draw(t, "turns") {
			if len(all) > 3 && rapid.IntRange(0, 5).Draw(t, "branch") == 0 {
				all = slices.Clone(all[:len(all)-2])
			}
			all = append(all, message{"user", text("question", 120)})
			p := Chat(object(t, fmt.Sprintf(`{"messages":%s}`, mustJSON(all))))
			want := template(all)
			k := c.Find("d", &p)
			if known := k.Tokens(); len(known) > len(want) || !slices.Equal(known, want[:len(known)]) {
				t.Fatalf("what is known is not what the prompt begins with")
			}
			if !k.Whole() {
				ask, part := k.Ask(&p)
				got, ok := c.Learn(&k, engine(t, &p, ask), part)
				if ok && !slices.Equal(got, want) || !ok && !part {
					t.Fatalf("%d messages, asked for %d: got %d tokens, want %d", len(all), len(ask), len(got), len(want))
				}
			}
			all = append(all, message{"assistant", text("answer", 60)})
		}
	})
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// TestLongConversationAsksForItsEnd: from the third turn on, what is asked for does not grow with the conversation.
func TestLongConversationAsksForItsEnd(t *testing.T) {
	t.Parallel()
	c := NewConversations(1 << 20)
	all := []message{{"system", "be brief"}}
	for turn := range 20 {
		all = append(all, message{"user", fmt.Sprintf("question %d: %s", turn, strings.Repeat(fmt.Sprintf("w%d ", turn), 120))})
		p := chat(t, all, "")
		k := c.Find("d", &p)
		ask, part := k.Ask(&p)
		if turn >= 2 && (!part || len(ask) > 5) {
			t.Fatalf("turn %d asks for %d messages of %d", turn, len(ask), len(all))
		}
		var some []message
		for _, m := range ask {
			var one message
			_ = json.Unmarshal(m, &one)
			some = append(some, one)
		}
		tokens, ok := c.Learn(&k, template(some), part)
		if !ok || !slices.Equal(tokens, template(all)) {
			t.Fatalf("turn %d: wrong tokens", turn)
		}
		all = append(all, message{"assistant", fmt.Sprintf("answer %d", turn)})
	}
}

// TestWhoIsSure: what cannot be asked for is not asked for.
func TestWhoIsSure(t *testing.T) {
	t.Parallel()
	one := []message{{"user", "hi"}}
	for more, sure := range map[string]bool{
		``: true, `,"tools":[{"type":"function"}]`: true, `,"chat_template_kwargs":{"a":1}`: true, `,"tools":null`: true, `,"documents":null`: true,
		`,"documents":[1]`: false, `,"reasoning_effort":"high"`: false, `,"tools":[{}],"tool_choice":"none"`: false,
	} {
		p := chat(t, one, more)
		if (p.Unsure() == "") != sure {
			t.Errorf("%s: %q", more, p.Unsure())
		}
		if body := p.Tokenize("m", p.messages); rawjson.Check(body, 100) != nil || sure && strings.Contains(more, "tools\":[") && !strings.Contains(string(body), `"tools":[`) {
			t.Errorf("%s is asked for by %s", more, body)
		}
	}
	image := Chat(object(t, `{"messages":[{"role":"user","content":[{"type":"text","text":"what?"},{"type":"image_url","image_url":{"url":"data:x"}}]}]}`))
	if image.Unsure() == "" {
		t.Error("an image is taken for text")
	}
	for body, want := range map[string]string{`{"prompt":"a"}`: "", `{"prompt":[1, 2]}`: "", `{"prompt":["a"]}`: "several", `{"prompt":[[1]]}`: "several", `{}`: "no text"} {
		p := Completion(object(t, body))
		if got := p.Unsure(); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: %q", body, got)
		}
	}
	p := Completion(object(t, `{"prompt":[5,6]}`))
	if !slices.Equal(p.IDs(), []uint32{5, 6}) {
		t.Errorf("ids %v", p.IDs())
	}
}

// TestLlamaQuestions: a chat goes through the template first, text does not.
func TestLlamaQuestions(t *testing.T) {
	t.Parallel()
	p := chat(t, []message{{"user", "hi"}}, "")
	if got := string(p.ApplyTemplate(p.messages)); got != `{"messages":[{"role":"user","content":"hi"}]}` {
		t.Error(got)
	}
	body, ok := p.TokenizeContent([]byte(` {"prompt":"<u>hi\n"}`))
	if !ok || string(body) != `{"content":"<u>hi\n","add_special":true,"parse_special":true}` {
		t.Errorf("%s", body)
	}
	if _, ok := p.TokenizeContent([]byte(`{"error":1}`)); ok {
		t.Error("an error is a prompt")
	}
	text := Completion(object(t, `{"prompt":"hi"}`))
	if body, ok := text.TokenizeContent(nil); text.ApplyTemplate(nil) != nil || !ok || !strings.Contains(string(body), `"content":"hi"`) {
		t.Errorf("%s", body)
	}
}

// TestText: prompts with one beginning share its chunks, wherever messages end; another template, picture or tenant shares none.
func TestText(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789", 60)
	names := func(p Prompt, root index.Root) []uint64 { return p.AppendText(nil, root) }
	first := names(chat(t, []message{{"user", long}}, ""), 1)
	second := names(chat(t, []message{{"user", long}, {"assistant", long}, {"user", "more"}}, ""), 1)
	if len(first) != 2 || len(second) != 5 || !slices.Equal(first, second[:2]) {
		t.Errorf("%d and %d chunks", len(first), len(second))
	}
	for name, other := range map[string][]uint64{
		"another tenant": names(chat(t, []message{{"user", long}}, ""), 2),
		"other tools":    names(chat(t, []message{{"user", long}}, `,"tools":[1]`), 1),
		"another text":   names(chat(t, []message{{"user", "x" + long}}, ""), 1),
	} {
		if len(other) != 2 || other[0] == first[0] {
			t.Errorf("%s: %v", name, other)
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte(`{"tokens":[1,2,3]}`))
	f.Add([]byte(`{"count":2,"tokens":[ 4294967295 , 0]}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		ids, ok := Tokens(answer)
		if !ok {
			return
		}
		var want struct {
			Tokens []uint32 `json:"tokens"`
		}
		if json.Unmarshal(answer, &want) == nil && len(want.Tokens) > 0 && !slices.Equal(ids, want.Tokens) && !strings.Contains(string(answer), `\`) {
			var again map[string]json.RawMessage
			if json.Unmarshal(answer, &again) == nil && strings.Count(strings.ToLower(string(answer)), "tokens") == 1 {
				t.Fatalf("%s: %v, want %v", answer, ids, want.Tokens)
			}
		}
	})
}
