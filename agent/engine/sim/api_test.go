package sim

import (
	"slices"
	"strings"
	"testing"
)

func TestCompletionStreamIsTheReference(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	prompt := Tokenizer{}.Encode("Tell me about the river.")
	want := Generate(r.Fingerprint(), prompt, 300)
	chunks := r.streamed("/v1/completions", map[string]any{
		"model": "test/model", "prompt": "Tell me about the river.", "temperature": 0, "max_tokens": 300, "stream": true, "return_token_ids": true,
	})
	if got := textOf(chunks); got != Text(want) {
		t.Errorf("text\n%q, want\n%q", got, Text(want))
	}
	if got := idsIn(chunks); !slices.Equal(got, want) {
		t.Errorf("ids %v, want %v", got, want)
	}
	if !slices.Equal(chunks[0].Choices[0].PromptTokenIDs, prompt) {
		t.Errorf("prompt ids %v in the first chunk, want %v", chunks[0].Choices[0].PromptTokenIDs, prompt)
	}
	if strings.Contains(textOf(chunks), "\ufffd") {
		t.Error("a broken character in the stream")
	}
}
